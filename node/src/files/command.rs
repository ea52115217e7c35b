//! `--stdin-from-command`: a command's output as a stream that ends well only when the command did.
//!
//! The end of the output is held back until the exit status is known; a failing command turns it into an error, so no
//! snapshot is made of half a dump. Dropping the stream kills the command with all that it started in its own process
//! group.

use std::{
    ffi::OsString,
    io,
    pin::Pin,
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    process::{ChildStderr, ChildStdout, Command},
    task::JoinHandle,
};

/// Last bytes of the command's error output that go into the report: the message that matters comes last.
pub const STDERR_TAIL: usize = 4 << 10;

/// Why the stream of a command ended badly.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// There is no command.
    #[error("no command was given")]
    Empty,
    /// It could not be started.
    #[error("the command {program:?} cannot be started: {why}")]
    Start {
        /// Its name.
        program: String,
        /// What the system says.
        why: String,
    },
    /// It ended with another status than 0.
    #[error("the command {program:?} failed ({status}){}", said(.stderr))]
    Failed {
        /// Its name.
        program: String,
        /// Exit status or signal.
        status: String,
        /// The end of what it said on its error output.
        stderr: String,
    },
}

fn said(stderr: &str) -> String {
    match stderr.trim() {
        "" => String::new(),
        text => format!(": {text}"),
    }
}

/// A running command's output. Reading gives its bytes, then the end, or an error that holds a [`CommandError`].
#[derive(Debug)]
pub struct CommandStream {
    program: String,
    stdout: ChildStdout,
    group: Group,
    exit: Exit,
    tail: Arc<Mutex<Vec<u8>>>,
    stderr: Option<JoinHandle<()>>,
}

#[derive(Debug)]
enum Exit {
    Running(JoinHandle<io::Result<ExitStatus>>),
    Known(Result<(), CommandError>),
}

/// The command's process group, killed when dropped unless the command has ended.
#[derive(Debug)]
struct Group(Option<rustix::process::Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0.take() {
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
    }
}

impl CommandStream {
    /// Starts a command: program and arguments, no shell. Its error output is passed on to ours, its input is empty.
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When there is none or it cannot be started.
    pub fn spawn(argv: &[OsString]) -> Result<Self, CommandError> {
        Self::spawn_with(argv, tokio::io::stderr())
    }

    fn spawn_with(argv: &[OsString], said: impl AsyncWrite + Unpin + Send + 'static) -> Result<Self, CommandError> {
        let (program, arguments) = argv.split_first().ok_or(CommandError::Empty)?;
        let name = program.to_string_lossy().into_owned();
        let start = |why: String| CommandError::Start { program: name.clone(), why };
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| start(e.to_string()))?;
        let pid = child.id().and_then(|id| rustix::process::Pid::from_raw(i32::try_from(id).ok()?));
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(start("its output cannot be read".to_owned()));
        };
        let tail = Arc::new(Mutex::new(Vec::new()));
        let stderr = tokio::spawn(pass_on(stderr, said, Arc::clone(&tail)));
        let exit = Exit::Running(tokio::spawn(async move { child.wait().await }));
        Ok(Self { program: name, stdout, group: Group(pid), exit, tail, stderr: Some(stderr) })
    }

    /// How the command ended, once it has.
    fn poll_exit(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CommandError>> {
        let running = match &mut self.exit {
            Exit::Known(result) => return Poll::Ready(result.clone()),
            Exit::Running(running) => running,
        };
        let status = ready!(Pin::new(running).poll(cx));
        // It has ended: its number may belong to somebody else from now on.
        self.group.0 = None;
        let status = match status {
            Ok(Ok(status)) if status.success() => {
                self.exit = Exit::Known(Ok(()));
                return Poll::Ready(Ok(()));
            }
            Ok(Ok(status)) => status.to_string(),
            Ok(Err(e)) => e.to_string(),
            Err(e) => e.to_string(),
        };
        let stderr = String::from_utf8_lossy(&self.tail.lock().unwrap_or_else(PoisonError::into_inner)).into_owned();
        let failed = Err(CommandError::Failed { program: self.program.clone(), status, stderr });
        self.exit = Exit::Known(failed.clone());
        Poll::Ready(failed)
    }
}

impl AsyncRead for CommandStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stdout).poll_read(cx, buf))?;
        if buf.filled().len() > before || buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        // The output is closed. Its error output comes first, for it says why.
        if let Some(stderr) = &mut self.stderr {
            let _ = ready!(Pin::new(stderr).poll(cx));
            self.stderr = None;
        }
        ready!(self.poll_exit(cx)).map_err(io::Error::other)?;
        Poll::Ready(Ok(()))
    }
}

/// Passes the command's error output on and keeps its end.
async fn pass_on(mut from: ChildStderr, mut to: impl AsyncWrite + Unpin, tail: Arc<Mutex<Vec<u8>>>) {
    let mut block = [0; STDERR_TAIL];
    while let Ok(n @ 1..) = from.read(&mut block).await {
        {
            let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
            tail.extend_from_slice(&block[..n]);
            let too_many = tail.len().saturating_sub(STDERR_TAIL);
            tail.drain(..too_many);
        }
        // Nobody listening there is no reason to stop the command.
        let _ = to.write_all(&block[..n]).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn run(script: &str) -> (Vec<u8>, io::Result<usize>) {
        let argv = ["sh", "-c", script].map(OsString::from);
        let mut stream = CommandStream::spawn_with(&argv, tokio::io::sink()).expect("sh starts");
        let mut out = Vec::new();
        let result = stream.read_to_end(&mut out).await;
        (out, result)
    }

    #[tokio::test]
    async fn output_of_a_good_command_ends_well() {
        let (out, result) = run("printf abc; printf def").await;
        assert_eq!(out, b"abcdef");
        assert_eq!(result.expect("ends well"), 6);
    }

    #[tokio::test]
    async fn a_failing_command_is_an_error_with_its_last_words() {
        let (out, result) = run("printf abc; echo the disk is on fire >&2; exit 3").await;
        assert_eq!(out, b"abc");
        let text = result.expect_err("fails").to_string();
        assert!(text.contains("exit status: 3") && text.contains("the disk is on fire"), "{text}");
    }

    #[tokio::test]
    async fn the_end_waits_for_the_status() {
        let (_, result) = run("exec >&-; sleep 0.2; exit 1").await;
        assert!(result.is_err(), "the output was closed long before the command failed");
    }

    #[tokio::test]
    async fn a_killed_command_is_an_error() {
        let (_, result) = run("printf abc; kill -9 $$").await;
        assert!(result.expect_err("fails").to_string().contains("signal"));
    }

    #[tokio::test]
    async fn long_error_output_is_cut_to_its_end() {
        let (_, result) = run("(echo begin; head -c 9000 /dev/zero | tr '\\0' x; echo end) >&2; exit 1").await;
        let text = result.expect_err("fails").to_string();
        assert!(text.ends_with("xxend") && !text.contains("begin") && text.len() < STDERR_TAIL + 200);
    }

    #[tokio::test]
    async fn a_missing_command_says_so() {
        let error = CommandStream::spawn(&["/nowhere/at-all".into()]).expect_err("no such program");
        assert!(matches!(error, CommandError::Start { .. }));
        assert_eq!(CommandStream::spawn(&[]).expect_err("empty"), CommandError::Empty);
    }

    #[tokio::test]
    async fn dropping_the_stream_kills_the_whole_group() {
        let argv = ["sh", "-c", "sleep 600 & echo $!; wait"].map(OsString::from);
        let mut stream = CommandStream::spawn(&argv).expect("sh starts");
        let mut line = [0; 32];
        let n = stream.read(&mut line).await.expect("the child's number");
        let pid: i32 = std::str::from_utf8(&line[..n]).expect("digits").trim().parse().expect("a number");
        drop(stream);
        let pid = rustix::process::Pid::from_raw(pid).expect("not zero");
        for _ in 0..200 {
            if rustix::process::test_kill_process(pid).is_err() || is_zombie(pid) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        unreachable!("the grandchild still runs");
    }

    fn is_zombie(pid: rustix::process::Pid) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
        stat.is_ok_and(|stat| stat.contains(") Z "))
    }
}
