//! A lab of real nodes, an owner beside it, and processes that always end.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex, Weak, mpsc},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// Longest that any one command may take here: the slowest (a backup on two busy cores, unoptimised) takes a tenth.
pub const COMMAND_TIME_MAX: Duration = Duration::from_secs(180);
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

/// One lab at a time on this machine's few cores.
pub struct Permit;

static LAB_RUNS: (Mutex<bool>, Condvar) = (Mutex::new(false), Condvar::new());

impl Permit {
    pub fn take() -> Self {
        let mut runs = LAB_RUNS.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        while *runs {
            runs = LAB_RUNS.1.wait(runs).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        *runs = true;
        Self
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        *LAB_RUNS.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = false;
        LAB_RUNS.1.notify_all();
    }
}

/// One shard as `debug store` shows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoredShard {
    pub group: String,
    pub slot: u64,
    pub ordinal: u64,
    pub root: String,
}

/// A network of real node processes.
pub struct Lab {
    dir: TempDir,
    nodes: usize,
    /// Factor of the nodes' timers.
    scale: Option<&'static str>,
    _permit: Permit,
}

static SHARED: Mutex<Weak<Lab>> = Mutex::new(Weak::new());

impl Lab {
    /// A lab of twelve nodes for tests that harm none of them. It ends with the last test that uses it.
    pub fn shared() -> Arc<Self> {
        let mut shared = SHARED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(lab) = shared.upgrade() {
            return lab;
        }
        let lab = Arc::new(Self::up(12));
        *shared = Arc::downgrade(&lab);
        lab
    }

    /// A lab of its own.
    pub fn up(nodes: usize) -> Self {
        Self::up_with(nodes, None, |_| String::new())
    }

    /// The same with shorter timers.
    pub fn hurried(nodes: usize, scale: &'static str) -> Self {
        Self::up_with(nodes, Some(scale), |_| String::new())
    }

    /// The same with some timers of their own: lines of the section `[timers]`, in seconds before the factor.
    pub fn timed(nodes: usize, scale: &'static str, timers: &str) -> Self {
        Self::up_with(nodes, Some(scale), |_| format!("[timers]\n{timers}"))
    }

    /// The same with settings for each node.
    pub fn configured(nodes: usize, scale: &'static str, settings: impl Fn(usize) -> String) -> Self {
        Self::up_with(nodes, Some(scale), settings)
    }

    fn up_with(nodes: usize, scale: Option<&'static str>, settings: impl Fn(usize) -> String) -> Self {
        let permit = Permit::take();
        let dir = tempfile::Builder::new().prefix("cairn-e2e-").tempdir().expect("temp dir");
        let lab = Self { dir, nodes, scale, _permit: permit };
        for (node, settings) in lab.nodes().map(|node| (node, settings(node))).filter(|(_, text)| !text.is_empty()) {
            fs::create_dir_all(lab.node_dir(node)).expect("makes folders");
            fs::write(lab.node_dir(node).join("config.toml"), settings).expect("writes");
        }
        lab.command(["up", "--nodes", &nodes.to_string()]).ok();
        let states = lab.status();
        assert_eq!(states.len(), nodes, "lab up brought up {states:?}");
        lab
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn network_file(&self) -> PathBuf {
        self.lab_dir().join("network.toml")
    }

    fn lab_dir(&self) -> PathBuf {
        self.dir.path().join("lab")
    }

    pub fn node_dir(&self, index: usize) -> PathBuf {
        self.lab_dir().join(format!("node-{index:02}"))
    }

    pub fn nodes(&self) -> std::ops::Range<usize> {
        0..self.nodes
    }

    /// `cairn lab VERB --dir D ARGS`
    #[track_caller]
    pub fn command<S: AsRef<str>>(&self, args: impl IntoIterator<Item = S>) -> Output {
        let mut args = args.into_iter();
        let verb = args.next().expect("a verb");
        let mut command = cairn(self.dir.path());
        command.envs(self.scale.map(|scale| ("CAIRN_TIMERS_SCALE", scale)));
        command.args(["lab", verb.as_ref(), "--dir"]).arg(self.lab_dir()).args(args.map(|a| a.as_ref().to_owned()));
        Running::spawn(command, Stdio::null()).finish()
    }

    /// Index, pid, state, addresses and data folder of each node.
    pub fn status(&self) -> Vec<Value> {
        let output = self.command(["status", "--json"]).ok();
        let values = output.json();
        match values.as_slice() {
            [Value::Array(nodes)] => nodes.clone(),
            lines => lines.to_vec(),
        }
    }

    #[track_caller]
    fn on(&self, verb: &str, nodes: &[usize], state: &str) {
        let indices = nodes.iter().map(ToString::to_string);
        self.command([verb.to_owned()].into_iter().chain(indices)).ok();
        let states = self.status();
        for node in nodes {
            assert_eq!(states[*node]["state"], state, "node {node} after {verb}");
        }
    }

    #[track_caller]
    pub fn kill(&self, nodes: &[usize]) {
        self.on("kill", nodes, "down");
    }

    #[track_caller]
    pub fn stop(&self, nodes: &[usize]) {
        self.on("stop", nodes, "down");
    }

    #[track_caller]
    pub fn start(&self, nodes: &[usize]) {
        self.on("start", nodes, "up");
    }

    /// What a node holds, from its daemon or, when it is down, from its folder.
    #[track_caller]
    pub fn store_of(&self, node: usize) -> Vec<StoredShard> {
        let mut command = cairn(self.dir.path());
        command.args(["debug", "store", "--json", "--data-dir"]).arg(self.node_dir(node));
        let output = Running::spawn(command, Stdio::null()).finish().ok();
        let text = |v: &Value, key: &str| v[key].as_str().unwrap_or_else(|| panic!("no {key} in {v}")).to_owned();
        let number = |v: &Value, key: &str| v[key].as_u64().unwrap_or_else(|| panic!("no {key} in {v}"));
        let shard = |v: &Value| {
            assert_eq!(v["bytes"], 1_048_576, "a shard is exactly 1 MiB");
            StoredShard {
                group: text(v, "group"),
                slot: number(v, "slot"),
                ordinal: number(v, "ordinal"),
                root: text(v, "root"),
            }
        };
        output.rows("shard").iter().map(shard).collect()
    }

    /// A verb on a node's data folder.
    #[track_caller]
    pub fn on_node(&self, node: usize, args: &[&str]) -> Output {
        self.begin_on_node(node, args).finish()
    }

    /// The same, not waited for.
    #[track_caller]
    pub fn begin_on_node(&self, node: usize, args: &[&str]) -> Running {
        let mut command = cairn(self.dir.path());
        command.args(args).arg("--data-dir").arg(self.node_dir(node));
        Running::spawn(command, Stdio::null())
    }

    #[track_caller]
    pub fn stores(&self) -> Stores {
        Stores(self.nodes().map(|node| (node, self.store_of(node))).collect())
    }

    /// Bytes that a node is reached at: its first TCP address on loopback.
    #[track_caller]
    pub fn tcp_address(&self, node: usize) -> String {
        let status = self.status();
        let addresses = status[node]["addresses"].as_array().expect("addresses").clone();
        let tcp = addresses.iter().filter_map(Value::as_str).find(|a| a.contains("/tcp/") && a.contains("127.0.0.1"));
        tcp.unwrap_or_else(|| panic!("node {node} has no TCP address in {addresses:?}")).to_owned()
    }

    /// Bytes in all stores' log segments, without asking the nodes.
    pub fn bytes_on_disk(&self) -> u64 {
        let segments =
            self.nodes().flat_map(|n| fs::read_dir(self.node_dir(n).join("store/segments")).into_iter().flatten());
        segments.filter_map(|e| e.ok()?.metadata().ok()).map(|m| m.len()).sum()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Pids from before, so that whatever `lab down` leaves behind is ended one by one.
        let pids = |v: Vec<Value>| v.iter().filter_map(|n| n["pid"].as_i64()).collect::<Vec<_>>();
        let known = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| pids(self.status()))).unwrap_or_default();
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.command(["down"])));
        let ours = self.dir.path().to_string_lossy().into_owned();
        for pid in known {
            // A pid may have gone to somebody else meanwhile: only what names our folder is ours.
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let is_ours = [line, environ].iter().any(|text| String::from_utf8_lossy(text).contains(&ours));
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw).filter(|_| is_ours) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

/// What every node holds.
#[derive(Clone, Debug)]
pub struct Stores(pub BTreeMap<usize, Vec<StoredShard>>);

impl Stores {
    /// Group -> slot -> nodes that hold shards of it.
    pub fn groups(&self) -> BTreeMap<String, BTreeMap<u64, Vec<usize>>> {
        let mut groups: BTreeMap<String, BTreeMap<u64, Vec<usize>>> = BTreeMap::new();
        for (node, shards) in &self.0 {
            for shard in shards {
                let holders = groups.entry(shard.group.clone()).or_default().entry(shard.slot).or_default();
                if !holders.contains(node) {
                    holders.push(*node);
                }
            }
        }
        groups
    }

    /// Group and ordinal of each stripe -> slot -> nodes that hold its shard.
    pub fn stripes(&self) -> BTreeMap<(String, u64), BTreeMap<u64, Vec<usize>>> {
        let mut stripes: BTreeMap<(String, u64), BTreeMap<u64, Vec<usize>>> = BTreeMap::new();
        for (node, shards) in &self.0 {
            for shard in shards {
                let stripe = stripes.entry((shard.group.clone(), shard.ordinal)).or_default();
                stripe.entry(shard.slot).or_default().push(*node);
            }
        }
        stripes
    }

    /// SEP-1 over the whole network: no node holds two slots of one group.
    #[track_caller]
    pub fn assert_separated(&self) {
        for (node, shards) in &self.0 {
            let mut slots: BTreeMap<&str, u64> = BTreeMap::new();
            for shard in shards {
                let first = *slots.entry(&shard.group).or_insert(shard.slot);
                assert_eq!(first, shard.slot, "SEP-1: node {node} holds two slots of group {}", shard.group);
            }
        }
    }
}

/// An owner: a data folder, a passphrase file, 24 words.
pub struct Owner {
    home: TempDir,
    network: PathBuf,
}

impl Owner {
    /// A blank folder beside a network.
    pub fn blank(network: &Path) -> Self {
        let home = tempfile::Builder::new().prefix("cairn-owner-").tempdir().expect("temp dir");
        fs::write(home.path().join("passphrase"), "correct horse\n").expect("writes");
        Self { home, network: network.to_owned() }
    }

    /// With a vault.
    #[track_caller]
    pub fn init(lab: &Lab) -> Self {
        let owner = Self::blank(&lab.network_file());
        owner.run(["init", "--phrase-file", "phrase"]).ok();
        owner
    }

    pub fn home(&self) -> &Path {
        self.home.path()
    }

    pub fn data_dir(&self) -> PathBuf {
        self.home.path().join("data")
    }

    pub fn phrase(&self) -> String {
        fs::read_to_string(self.home.path().join("phrase")).expect("written by init").trim().to_owned()
    }

    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = cairn(self.home.path());
        command
            .env("CAIRN_DATA_DIR", self.data_dir())
            .env("CAIRN_NETWORK", &self.network)
            .env("CAIRN_PASSPHRASE_FILE", self.home.path().join("passphrase"))
            .args(args);
        command
    }

    #[track_caller]
    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Output {
        Running::spawn(self.command(args), Stdio::null()).finish()
    }

    #[track_caller]
    pub fn backup(&self, path: &Path) -> Output {
        self.run([OsStr::new("backup"), OsStr::new("--json"), path.as_os_str()])
    }

    /// Backs up a stream that comes on stdin.
    #[track_caller]
    pub fn backup_stream(&self, name: &str, bytes: &[u8]) -> Output {
        let command = self.command(["backup", "--json", "--stdin", "--stdin-filename", name]);
        let mut running = Running::spawn(command, Stdio::piped());
        let mut stdin = running.stdin();
        let bytes = bytes.to_vec();
        // A verb that ends early closes the pipe; its code tells why.
        let feeder = thread::spawn(move || drop(stdin.write_all(&bytes)));
        let output = running.finish();
        feeder.join().expect("feeder");
        output
    }

    #[track_caller]
    pub fn restore(&self, snapshot: &str, target: &Path) -> Output {
        let args = [OsStr::new("restore"), OsStr::new("--json"), OsStr::new(snapshot), OsStr::new("--target")];
        self.run(args.into_iter().chain([target.as_os_str()]))
    }

    #[track_caller]
    pub fn dump(&self, snapshot: &str, path: &str) -> Output {
        self.run(["dump", snapshot, path])
    }

    #[track_caller]
    pub fn snapshots(&self) -> Vec<Value> {
        self.run(["snapshots", "--json"]).ok().rows("snapshot")
    }

    /// The machine burns down: nothing is left of the data folder.
    pub fn burn(&self) {
        fs::remove_dir_all(self.data_dir()).expect("was there");
    }

    /// A folder inside the owner's home that does not exist yet.
    pub fn place(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }
}

/// Where a restore puts a path: restic's way, the absolute path below the target.
pub fn below(target: &Path, path: &Path) -> PathBuf {
    let relative: OsString = path.strip_prefix("/").expect("absolute").into();
    target.join(relative)
}
