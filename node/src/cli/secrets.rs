//! Where passphrases and recovery phrases come from: a file that was named, else a prompt on the terminal, else nothing.
//! Never an argument, and never an environment variable's value: both can be read by others.

use std::{
    io::{IsTerminal, Read},
    path::Path,
};

use super::Context;
use crate::{
    failure::{ExitCode, Failure},
    ops::SecretText,
};

/// Most bytes of a passphrase or phrase file.
const SECRET_MAX: u64 = 64 * 1024;

/// The passphrase file's, if one is named.
pub(super) fn passphrase(context: &Context) -> Result<Option<SecretText>, Failure> {
    context.passphrase_file().map(|path| read(path, true)).transpose()
}

/// A passphrase for a new vault: from the file, or typed twice; `None` means without one.
pub(super) fn new_passphrase(context: &Context) -> Result<Option<SecretText>, Failure> {
    if let Some(given) = passphrase(context)? {
        return Ok(Some(given));
    }
    if !may_ask() {
        return Ok(None);
    }
    loop {
        let first = prompt("New passphrase for this folder (empty: none): ")?;
        if first.expose().is_empty() {
            return Ok(None);
        }
        if prompt("The same again: ")?.expose() == first.expose() {
            return Ok(Some(first));
        }
        super::render::note("those were not the same");
    }
}

/// A passphrase for a vault that needs one. Asked on the terminal itself, so that stdin and stdout may carry data
/// (`pg_dump | cairn backup --stdin`); whoever sends stderr away could not see the question and is not asked.
pub(super) fn ask_passphrase() -> Result<SecretText, Failure> {
    let terminal = || std::fs::OpenOptions::new().read(true).write(true).open("/dev/tty").is_ok();
    if std::io::stderr().is_terminal() && terminal() {
        return prompt("Passphrase of this vault: ");
    }
    Err(Failure::new(
        ExitCode::WrongSecret,
        "PASSPHRASE_NEEDED",
        "this vault has a passphrase, and nobody can be asked",
    )
    .with_hint(
        "write it into a file that only you can read and name that with CAIRN_PASSPHRASE_FILE or --passphrase-file",
    ))
}

/// The 24 words: from the file, else typed.
pub(super) fn phrase(file: Option<&Path>) -> Result<SecretText, Failure> {
    match file {
        Some(path) => read(path, false),
        None if may_ask() => prompt("The 24 words: "),
        None => Err(Failure::new(ExitCode::Usage, "NO_PHRASE", "the 24 words are needed, and nobody can be asked")
            .with_hint("name a file with CAIRN_RECOVERY_PHRASE_FILE or --phrase-file")),
    }
}

fn may_ask() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

fn prompt(text: &str) -> Result<SecretText, Failure> {
    rpassword::prompt_password(text).map(SecretText::new).map_err(|e| match e.kind() {
        std::io::ErrorKind::Interrupted => {
            Failure::new(ExitCode::Interrupted, "INTERRUPTED", "interrupted before anything was done")
        }
        _ => Failure::new(ExitCode::Failed, "PROMPT", "cannot ask on this terminal").caused_by(&e),
    })
}

/// The first line, or everything with white space folded to single blanks.
fn read(path: &Path, first_line: bool) -> Result<SecretText, Failure> {
    let failed = |e: std::io::Error| {
        Failure::new(ExitCode::Usage, "SECRET_FILE", format!("cannot read {}", path.display())).caused_by(&e)
    };
    let mut text = zeroize::Zeroizing::new(String::new());
    std::fs::File::open(path).and_then(|f| f.take(SECRET_MAX).read_to_string(&mut text)).map_err(failed)?;
    let line = if first_line {
        text.lines().next().unwrap_or("").trim_end_matches('\r').to_owned()
    } else {
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    Ok(SecretText::new(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_as_people_write_them() {
        let temp = tempfile::tempdir().expect("temp dir");
        let path = temp.path().join("secret");
        std::fs::write(&path, " with blanks \r\nsecond line\n").expect("writes");
        assert_eq!(read(&path, true).expect("reads").expose(), " with blanks ");
        std::fs::write(&path, "one two\n  three\n\n").expect("writes");
        assert_eq!(read(&path, false).expect("reads").expose(), "one two three");
        assert_eq!(read(&temp.path().join("none"), true).expect_err("missing").code, ExitCode::Usage);
    }
}
