//! Node processes: started so that they outlive us, signalled only when the pid still is theirs.

use std::{
    fs::{self, OpenOptions},
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
};

use libp2p::{Multiaddr, multiaddr::Protocol};
use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};

use super::LabNode;
use crate::failure::{ExitCode, Failure};

/// A process that cannot be mistaken for a later one with its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ProcessId {
    pub(super) pid: u32,
    /// Clock ticks after boot, from the kernel; 0 where it does not say.
    started: u64,
}

/// How a process is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Kill,
    Terminate,
}

impl ProcessId {
    fn of(pid: u32) -> Self {
        Self { pid, started: start_time(pid).unwrap_or(0) }
    }

    pub(super) fn is_alive(&self) -> bool {
        match start_time(self.pid) {
            Some(started) => started == self.started,
            // Without /proc: ask whether anybody has this pid at all.
            None => {
                !Path::new("/proc/self/stat").exists()
                    && self.pid().is_some_and(|p| rustix::process::test_kill_process(p).is_ok())
            }
        }
    }

    /// A process that is gone already needs no signal, so a failure says nothing new.
    pub(super) fn signal(&self, how: End) {
        let signal = if how == End::Kill { Signal::KILL } else { Signal::TERM };
        if let Some(pid) = self.pid().filter(|_| self.is_alive()) {
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    fn pid(&self) -> Option<Pid> {
        i32::try_from(self.pid).ok().and_then(Pid::from_raw)
    }
}

/// Field 22 of `/proc/PID/stat`; `None` when there is no such process or it is a zombie.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the name in brackets and may hold anything, brackets too.
    let after_name = stat.rsplit_once(')')?.1;
    let mut fields = after_name.split_whitespace();
    let state = fields.next()?;
    if state == "Z" || state == "X" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Starts a node of the lab from our own executable.
pub(super) fn spawn(node: &LabNode, network: &Path, bootstrap: bool) -> Result<ProcessId, Failure> {
    let failed = |e: std::io::Error| {
        Failure::new(ExitCode::Failed, "LAB_SPAWN", format!("cannot start {}", node.domain)).caused_by(&e)
    };
    let executable = std::env::current_exe().map_err(failed)?;
    let log = OpenOptions::new().create(true).append(true).open(node.data_dir.join("log")).map_err(failed)?;
    let mut command = Command::new(executable);
    command
        .args(["-v", "node", "run", "--no-mdns", "--data-dir"])
        .arg(&node.data_dir)
        .arg("--network")
        .arg(network)
        .args(["--domain", &node.domain, "--give", &node.give.as_u64().to_string()])
        // A lab must also work on a disk that is nearly full.
        .args(["--keep-free", "256MiB"])
        .args(["--roles", if bootstrap { "storage,relay,bootstrap" } else { "storage" }]);
    if !node.region.is_empty() {
        command.args(["--region", &node.region]);
    }
    for address in listen(&node.addresses) {
        command.args(["--listen", &address]);
    }
    // What a caller's shell sets for its own data folder is not the node's.
    for name in ["CAIRN_DATA_DIR", "CAIRN_NETWORK", "CAIRN_CONFIG", "CAIRN_REGION", "CAIRN_DOMAIN", "CAIRN_GIVE"] {
        command.env_remove(name);
    }
    let child = command
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(failed)?)
        .stderr(log)
        // Its own group: Ctrl-C at our terminal is for us.
        .process_group(0)
        .spawn()
        .map_err(failed)?;
    Ok(ProcessId::of(child.id()))
}

/// The ports of last time, or any.
fn listen(known: &[String]) -> Vec<String> {
    let known: Vec<String> = known
        .iter()
        .filter_map(|text| text.parse::<Multiaddr>().ok())
        .map(|address| {
            address.into_iter().filter(|p| !matches!(p, Protocol::P2p(_))).collect::<Multiaddr>().to_string()
        })
        .collect();
    if known.is_empty() {
        vec!["/ip4/127.0.0.1/tcp/0".to_owned(), "/ip4/127.0.0.1/udp/0/quic-v1".to_owned()]
    } else {
        known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_is_only_ours_with_its_start_time() {
        let me = ProcessId::of(std::process::id());
        assert!(me.is_alive());
        assert!(!ProcessId { started: me.started + 1, ..me }.is_alive());
    }

    #[test]
    fn ports_are_kept_and_peer_ids_are_not_listened_on() {
        assert_eq!(listen(&[]).len(), 2);
        let known = "/ip4/127.0.0.1/tcp/4001/p2p/12D3KooWSCufgHzV4fCwRijfH2k3abrpAJxTKxEvN1FDuRXA2U9x".to_owned();
        assert_eq!(listen(&[known]), ["/ip4/127.0.0.1/tcp/4001"]);
    }
}
