//! A small internet of network namespaces: public hosts, and two homes behind routers with real NAT.
//!
//! ```text
//!  home a 10.0.0.2 ── router a 12.0.0.2 ──┐
//!                                       core 11.0.N.1 (N = 1..)
//!  home b 10.0.0.2 ── router b 13.0.0.2 ──┘
//! ```
//!
//! The addresses look public and lead nowhere. It takes root, `ip` and `nft`; `scripts/test` installs the two. Without
//! root the tests say that they were skipped; with root they fail where namespaces are forbidden.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{Output, Permit, Running, cairn};

const PATH: &str = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin";
const PLACES: [&str; 5] = ["core", "router-a", "home-a", "router-b", "home-b"];

/// What a home router does: whoever is inside may speak first.
const ROUTER: &str = "
table ip nat {
 chain arriving {
  type nat hook prerouting priority -100
  iifname \"out\" tcp dport 4001 dnat to 10.0.0.2:4001
 }
 chain leaving {
  type nat hook postrouting priority 100
  oifname \"out\" masquerade
 }
}
table ip filter {
 chain crossing {
  type filter hook forward priority 0; policy drop
  iifname \"in\" accept
  ct state established,related accept
  FORWARDED
 }
 chain reaching {
  type filter hook input priority 0; policy drop
  iifname \"in\" accept
  ct state established,related accept
 }
}
";

/// Whether a test may run here; says so when not.
pub fn allowed() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: network namespaces take root");
    }
    root
}

static WORLDS: AtomicUsize = AtomicUsize::new(0);

/// The namespaces and the processes in them; all end with it.
pub struct World {
    dir: TempDir,
    name: String,
    nodes: Vec<(String, Running)>,
    _permit: Permit,
}

impl World {
    /// The topology. `hole_punching`: whether packets pass between the two routers.
    pub fn new(hole_punching: bool) -> Self {
        let dir = tempfile::Builder::new().prefix("cairn-netns-").tempdir().expect("temp dir");
        let name = format!("cairn-{}-{}", std::process::id(), WORLDS.fetch_add(1, Ordering::Relaxed));
        let world = Self { dir, name, nodes: Vec::new(), _permit: Permit::take() };
        for place in PLACES {
            world.ip(&["netns", "add", &world.space(place)]);
            world.ip(&["-n", &world.space(place), "link", "set", "lo", "up"]);
        }
        for (side, net) in [("a", "12.0.0"), ("b", "13.0.0")] {
            let (router, home) = (format!("router-{side}"), format!("home-{side}"));
            world.wire(
                ("core", &format!("to-{side}"), &format!("{net}.1/24")),
                (&router, "out", &format!("{net}.2/24")),
            );
            world.wire((&router, "in", "10.0.0.1/24"), (&home, "eth0", "10.0.0.2/24"));
            world.ip(&["-n", &world.space(&router), "route", "add", "default", "via", &format!("{net}.1")]);
            world.ip(&["-n", &world.space(&home), "route", "add", "default", "via", "10.0.0.1"]);
            world.forward(&router);
            // Only b's router has its port 4001 forwarded.
            let forwarded = if side == "b" { "ct status dnat accept" } else { "" };
            world.nft(&router, &ROUTER.replace("FORWARDED", forwarded));
        }
        world.forward("core");
        let verdict = if hole_punching { "accept" } else { "drop" };
        world.nft(
            "core",
            &format!(
                "table ip watch {{\n chain crossing {{\n  type filter hook forward priority 0\n  ip saddr {{ 12.0.0.2, \
                 13.0.0.2 }} ip daddr {{ 12.0.0.2, 13.0.0.2 }} counter {verdict}\n }}\n}}\n"
            ),
        );
        world
    }

    fn space(&self, place: &str) -> String {
        format!("{}-{place}", self.name)
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    fn tool(command: &mut Command, input: &str) -> String {
        let child =
            command.env("PATH", PATH).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child =
            child.unwrap_or_else(|e| panic!("{command:?}: {e}; scripts/test installs iproute2 and nftables"));
        child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("reads");
        let done = child.wait_with_output().expect("ends");
        assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8_lossy(&done.stdout).into_owned()
    }

    fn ip(&self, args: &[&str]) {
        Self::tool(Command::new("ip").args(args), "");
    }

    fn wire(&self, (place, end, address): (&str, &str, &str), (far, far_end, far_address): (&str, &str, &str)) {
        let (here, there) = (self.space(place), self.space(far));
        self.ip(&["-n", &here, "link", "add", "name", end, "type", "veth", "peer", "name", far_end, "netns", &there]);
        for (space, end, address) in [(&here, end, address), (&there, far_end, far_address)] {
            self.ip(&["-n", space, "addr", "add", address, "dev", end]);
            self.ip(&["-n", space, "link", "set", end, "up"]);
        }
    }

    fn nft(&self, place: &str, rules: &str) {
        Self::tool(Command::new("ip").args(["netns", "exec", &self.space(place), "nft", "-f", "-"]), rules);
    }

    fn forward(&self, place: &str) {
        let write = "echo 1 > /proc/sys/net/ipv4/ip_forward";
        Self::tool(Command::new("ip").args(["netns", "exec", &self.space(place), "sh", "-c", write]), "");
    }

    /// Gives an interface of a place one address more, or takes it away (`add` or `del`).
    pub fn address(&self, place: &str, verb: &str, address: &str, device: &str) {
        self.ip(&["-n", &self.space(place), "addr", verb, address, "dev", device]);
    }

    /// Bytes that went from one router to the other without a relay, or were not let through.
    pub fn bytes_between_routers(&self) -> u64 {
        let space = self.space("core");
        let said = Self::tool(
            Command::new("ip").args(["netns", "exec", &space, "nft", "list", "chain", "ip", "watch", "crossing"]),
            "",
        );
        let after = said.split("bytes ").nth(1).expect("a counter");
        after.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("no figure in {said}"))
    }

    fn network_file(&self) -> PathBuf {
        self.path().join("network.toml")
    }

    /// A new network with these doors.
    pub fn network(&self, doors: &[String]) {
        let mut command = cairn(self.path());
        command.args(["network", "new", "--name", "netns", "--puzzle-bits", "4"]);
        let made = if self.network_file().exists() {
            // The id stays; only where newcomers knock changes.
            let text = fs::read_to_string(self.network_file()).expect("written");
            let list = format!("bootstrap = {doors:?}");
            text.lines()
                .map(|l| if l.starts_with("bootstrap") { list.as_str() } else { l })
                .collect::<Vec<_>>()
                .join("\n")
        } else {
            Running::spawn(command, Stdio::null()).finish().ok().text()
        };
        fs::write(self.network_file(), made).expect("writes");
    }

    /// A command of the binary in a place, on a data folder of this name.
    fn command(&self, place: &str, name: &str, args: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.env_clear().env("PATH", PATH).env("HOME", self.path()).current_dir(self.path());
        command.env("CAIRN_NETWORK", self.network_file()).env("CAIRN_DATA_DIR", self.path().join(name));
        // Printed when a verb does not end as expected.
        command.env("CAIRN_LOG", "info,cairn=debug,libp2p_relay=debug,libp2p_swarm=debug");
        command.env("CAIRN_PASSPHRASE_FILE", self.path().join("passphrase"));
        command.args(["netns", "exec", &self.space(place)]).arg(env!("CARGO_BIN_EXE_cairn")).args(args);
        command
    }

    /// Runs a verb to its end.
    #[track_caller]
    pub fn run(&self, place: &str, name: &str, args: &[&str]) -> Output {
        fs::write(self.path().join("passphrase"), "correct horse\n").expect("writes");
        Running::spawn(self.command(place, name, args), Stdio::null()).finish()
    }

    /// Starts a node and waits until it has said a text; the addresses said until then.
    #[track_caller]
    pub fn node(&mut self, place: &str, name: &str, args: &[&str], text: &str) -> Vec<String> {
        let region = ["EU", "NA", "AS"][self.nodes.len() % 3];
        self.node_anywhere(place, name, &[&["--region", region], args].concat(), text)
    }

    /// The same of a node that says of its region only what is given.
    #[track_caller]
    pub fn node_anywhere(&mut self, place: &str, name: &str, args: &[&str], text: &str) -> Vec<String> {
        let all = [&["node", "run", "--domain", name, "--give", "1GiB", "--keep-free", "1MiB"], args].concat();
        let running = Running::spawn(self.command(place, name, &all), Stdio::null());
        let said = running.wait_for(text);
        self.nodes.push((name.to_owned(), running));
        said.lines().filter_map(|l| Some(l.strip_prefix("listening ")?.to_owned())).collect()
    }

    /// Kills a node.
    pub fn kill(&mut self, name: &str) {
        self.nodes.retain(|(n, _)| n != name);
    }

    /// A node's addresses, from its status.
    #[track_caller]
    pub fn addresses(&self, place: &str, name: &str) -> Vec<String> {
        let status = self.run(place, name, &["status", "--json"]).ok();
        let node = status.rows("this_node").pop().unwrap_or_else(|| panic!("no node in {}", status.text()));
        let addresses = node["addresses"].as_array().unwrap_or_else(|| panic!("no addresses in {node}"));
        addresses.iter().filter_map(Value::as_str).map(str::to_owned).collect()
    }

    /// Shards that a node keeps.
    #[track_caller]
    pub fn shards(&self, place: &str, name: &str) -> usize {
        self.run(place, name, &["debug", "store", "--json"]).ok().rows("shard").len()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.nodes.clear();
        for place in PLACES {
            let _ = Command::new("ip").env("PATH", PATH).args(["netns", "del", &self.space(place)]).status();
        }
    }
}
