//! Processes of the real binary that always end, and what they said.

use std::{
    io::Read,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Longest that any one command may take here: the slowest (a backup on two busy cores, unoptimised) takes a tenth.
const COMMAND_TIME_MAX: Duration = Duration::from_secs(180);
/// Longest wait for a state that follows from something that was done.
pub const EVENT_TIME_MAX: Duration = Duration::from_secs(60);
/// How often a state that cannot be subscribed to (files of another process) is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A command of the real binary in a cleared environment.
pub fn cairn(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cairn"));
    command.env_clear().env("HOME", home).env("PATH", "/usr/local/bin:/usr/bin:/bin").current_dir(home);
    command
}

/// How a process ended and what it said.
#[derive(Debug)]
pub struct Output {
    pub code: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
    pub said: String,
}

impl Output {
    /// Fails with everything that was said unless the code is this one.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}\n--- stdout\n{}\n--- stderr\n{}", self.said, self.text(), self.stderr);
        self
    }

    #[track_caller]
    pub fn ok(self) -> Self {
        self.expect(0)
    }

    /// A backup whose snapshot stands. A machine so busy that a holder does not answer in time leaves a slot open: for
    /// tests whose point is another.
    #[track_caller]
    pub fn stored(self) -> Self {
        let code = if self.code == Some(4) { 4 } else { 0 };
        self.expect(code)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Each line of stdout as JSON; fails when one is not.
    #[track_caller]
    pub fn json(&self) -> Vec<Value> {
        let text = self.text();
        let lines = text.lines().filter(|l| !l.is_empty());
        lines
            .map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{}: not JSON ({e}): {l}", self.said)))
            .collect()
    }

    /// Rows of a listing verb.
    #[track_caller]
    pub fn rows(&self, kind: &str) -> Vec<Value> {
        self.json().into_iter().filter(|v| v["message_type"] == kind).collect()
    }

    /// The verb's summary.
    #[track_caller]
    pub fn summary(&self) -> Value {
        let found = self.json().into_iter().rfind(|v| v["message_type"] == "summary");
        found.unwrap_or_else(|| panic!("{}: no summary in {}", self.said, self.text()))
    }

    /// A figure of the summary.
    #[track_caller]
    pub fn figure(&self, key: &str) -> u64 {
        let summary = self.summary();
        summary[key].as_u64().unwrap_or_else(|| panic!("{}: no figure {key} in {summary}", self.said))
    }

    /// The `exit_error` object that a failing verb prints on stderr with `--json`.
    #[track_caller]
    pub fn exit_error(&self) -> Value {
        let lines = self.stderr.lines().rev().filter_map(|l| serde_json::from_str::<Value>(l).ok());
        let mut errors = lines.filter(|v| v["message_type"] == "exit_error");
        errors.next().unwrap_or_else(|| panic!("{}: no exit_error in {}", self.said, self.stderr))
    }

    /// Entries that the verb says it could not do.
    pub fn failed_items(&self) -> Vec<String> {
        let errors = self.json().into_iter().filter(|v| v["message_type"] == "error");
        errors.filter_map(|v| v["item"].as_str().map(str::to_owned)).collect()
    }
}

/// A process that is killed when it is dropped.
pub struct Running {
    child: Child,
    said: String,
    stdout: mpsc::Receiver<Vec<u8>>,
    stdout_thread: Option<thread::JoinHandle<Vec<u8>>>,
    stderr_thread: Option<thread::JoinHandle<String>>,
}

impl Running {
    pub fn spawn(mut command: Command, stdin: Stdio) -> Self {
        let said = format!("{command:?}").replace(env!("CARGO_BIN_EXE_cairn"), "cairn");
        let mut child =
            command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
        let (send, stdout) = mpsc::sync_channel(1024);
        let mut out = child.stdout.take().expect("piped");
        let stdout_thread = thread::spawn(move || {
            let (mut all, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
            while let Ok(n @ 1..) = out.read(&mut buffer) {
                all.extend_from_slice(&buffer[..n]);
                // Nobody may be listening; everything is kept anyway.
                let _ = send.try_send(buffer[..n].to_vec());
            }
            all
        });
        let mut err = child.stderr.take().expect("piped");
        let stderr_thread = thread::spawn(move || {
            let mut all = Vec::new();
            let _ = err.read_to_end(&mut all);
            String::from_utf8_lossy(&all).into_owned()
        });
        Self { child, said, stdout, stdout_thread: Some(stdout_thread), stderr_thread: Some(stderr_thread) }
    }

    pub fn stdin(&mut self) -> std::process::ChildStdin {
        self.child.stdin.take().expect("piped")
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("the process is ours and not yet reaped");
    }

    /// Waits until stdout has said a text, and gives everything said so far.
    #[track_caller]
    pub fn wait_for(&self, text: &str) -> String {
        let deadline = Instant::now() + EVENT_TIME_MAX;
        let mut seen = Vec::new();
        loop {
            let so_far = String::from_utf8_lossy(&seen).into_owned();
            if so_far.contains(text) {
                return so_far;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.stdout.recv_timeout(left) {
                Ok(bytes) => seen.extend(bytes),
                Err(e) => panic!("{}: {text:?} was not said ({e}): {so_far}", self.said),
            }
        }
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("can be asked").is_none()
    }

    /// Waits for the end, with a deadline.
    #[track_caller]
    pub fn finish(mut self) -> Output {
        let status = self.ended(COMMAND_TIME_MAX);
        let stdout = self.stdout_thread.take().expect("once").join().expect("reader");
        let stderr = self.stderr_thread.take().expect("once").join().expect("reader");
        let code = status.and_then(|s| s.code());
        assert!(status.is_some(), "{} took over {COMMAND_TIME_MAX:?}\n--- stderr\n{stderr}", self.said);
        Output { code, stdout, stderr, said: self.said.clone() }
    }

    /// `None` when it had to be killed.
    fn ended(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().expect("can be asked") {
                return Some(status);
            }
            thread::park_timeout(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        None
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Looks until a condition holds, with a deadline; says what was waited for when it does not come.
#[track_caller]
pub fn until<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    until_within(EVENT_TIME_MAX, what, look)
}

/// The same for what takes several of the nodes' own spans of time, one after the other.
#[track_caller]
pub fn until_within<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {limit:?} for: {what}");
        thread::park_timeout(LOOK_EVERY);
    }
}
