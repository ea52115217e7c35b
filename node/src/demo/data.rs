//! Something to back up: small and large files, text and noise, links, holes, and an SQL dump. The same every time.

use std::{
    fs::{self, File},
    io::{BufWriter, Seek, SeekFrom, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
};

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use crate::failure::{ExitCode, Failure};

const WORDS: [&str; 16] = [
    "stone", "river", "cairn", "winter", "letter", "harbour", "lantern", "meadow", "signal", "copper", "orchard",
    "thunder", "village", "window", "compass", "granite",
];

/// Fills the folder; about 64 MiB.
pub(super) fn generate(root: &Path) -> Result<PathBuf, Failure> {
    write_all(root)
        .map_err(|e| Failure::new(ExitCode::Failed, "DEMO_DATA", "cannot make something to back up").caused_by(&e))?;
    Ok(root.to_owned())
}

fn write_all(root: &Path) -> std::io::Result<()> {
    let mut rng = ChaCha8Rng::seed_from_u64(0x5eed);
    for folder in
        ["notes/2025/winter", "notes/2026", "photos/holiday", "database", "code/src/deep/er/and/deeper", "empty"]
    {
        fs::create_dir_all(root.join(folder))?;
    }
    for i in 0..400 {
        let size = 200 + (rng.next_u32() % 24_000) as usize;
        text(
            &root.join(format!("notes/{}/note-{i:03}.txt", if i % 2 == 0 { "2025" } else { "2026" })),
            size,
            &mut rng,
        )?;
    }
    for i in 0..8 {
        noise(&root.join(format!("photos/holiday/IMG_{i:04}.jpg")), 2_500_000 + i * 300_000, &mut rng)?;
    }
    text(&root.join("code/src/deep/er/and/deeper/generated.rs"), 900_000, &mut rng)?;
    // One shard's payload, one byte less, one more; nothing; a hole of 32 MiB; a name that is not UTF-8.
    noise(&root.join("photos/exact.bin"), 1_048_560, &mut rng)?;
    noise(&root.join("photos/exact-less.bin"), 1_048_559, &mut rng)?;
    noise(&root.join("photos/exact-more.bin"), 1_048_561, &mut rng)?;
    File::create(root.join("notes/empty.txt"))?;
    fs::write(root.join("notes").join(std::ffi::OsStr::from_bytes(b"caf\xe9.txt")), "named long ago\n")?;
    let mut sparse = File::create(root.join("database/sparse.img"))?;
    sparse.write_all(b"head")?;
    sparse.seek(SeekFrom::Start(32 << 20))?;
    sparse.write_all(b"tail")?;
    symlink("../notes/2026", root.join("photos/notes-link"))?;
    fs::hard_link(root.join("photos/exact.bin"), root.join("photos/exact-again.bin"))?;
    fs::set_permissions(root.join("notes/2025/winter"), fs::Permissions::from_mode(0o700))?;
    dump(&root.join("database/shop.sql"), 150_000, &mut rng)
}

fn noise(path: &Path, size: usize, rng: &mut ChaCha8Rng) -> std::io::Result<()> {
    let mut bytes = vec![0; size];
    rng.fill_bytes(&mut bytes);
    fs::write(path, bytes)
}

fn text(path: &Path, size: usize, rng: &mut ChaCha8Rng) -> std::io::Result<()> {
    let mut out = String::with_capacity(size + 16);
    while out.len() < size {
        out.push_str(WORDS[rng.next_u32() as usize % WORDS.len()]);
        out.push(if rng.next_u32().is_multiple_of(11) { '\n' } else { ' ' });
    }
    fs::write(path, out)
}

fn dump(path: &Path, rows: u32, rng: &mut ChaCha8Rng) -> std::io::Result<()> {
    let mut out = BufWriter::new(File::create(path)?);
    writeln!(
        out,
        "--\n-- PostgreSQL database dump\n--\n\nCREATE TABLE orders (id bigint, placed timestamp, who text, note text);"
    )?;
    writeln!(out, "COPY orders (id, placed, who, note) FROM stdin;")?;
    for id in 0..rows {
        let word = |rng: &mut ChaCha8Rng| WORDS[rng.next_u32() as usize % WORDS.len()];
        let (day, second) = (1 + id / 6000, rng.next_u32() % 86_400);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        let (who, number) = (word(rng), rng.next_u32() % 100_000);
        let note = [word(rng), word(rng), word(rng), word(rng), word(rng)].join(" ");
        writeln!(
            out,
            "{id}\t2026-10-{day:02} {hour:02}:{minute:02}:{second:02}\t{who}{number}@example.org\t{note} {:016x}{:016x}",
            rng.next_u64(),
            rng.next_u64()
        )?;
    }
    writeln!(out, "\\.\n")?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_is_the_same_every_time() {
        let temp = tempfile::tempdir().expect("temp dir");
        let (a, b) = (temp.path().join("a"), temp.path().join("b"));
        let read = |root: &Path| fs::read(root.join("database/shop.sql")).expect("reads");
        generate(&a).expect("generates");
        generate(&b).expect("generates");
        assert_eq!(read(&a), read(&b));
        assert!(read(&a).len() > 10 << 20, "{}", read(&a).len());
    }
}
