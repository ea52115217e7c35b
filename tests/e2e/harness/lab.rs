//! A network of real node processes, one at a time, and what its nodes hold.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Condvar, Mutex, Weak},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::{Output, Running, cairn};

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
