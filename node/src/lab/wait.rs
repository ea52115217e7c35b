//! Waiting for nodes: until they answer on their control socket, until they know each other.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::Instant;

use super::{Lab, LabNode};
use crate::{
    api::{self, client::DaemonClient},
    failure::{ExitCode, Failure},
};

/// A node solves its puzzle and opens its store before it answers; with many nodes on few cores that takes turns.
const READY: Duration = Duration::from_secs(60);
/// Knowing each other takes a few rounds of gossip, and a second a node beside, as to start: each meets most of the others once,
/// and all these handshakes share a few cores.
const KNOWN: Duration = Duration::from_secs(120);
/// A node comes back to its old ports, and another process may have one of them meanwhile: most often for the end of a
/// connection out of it, a moment long.
const PORT_TAKEN: Duration = Duration::from_secs(30);
/// Between two tries of a node whose port was taken.
const TAKEN_APART: Duration = Duration::from_millis(300);
/// How often a control socket is asked.
const ASK: Duration = Duration::from_millis(100);

/// Waits for a condition.
pub(super) async fn until(patience: Duration, done: impl Fn() -> bool) -> Result<(), ()> {
    let deadline = Instant::now() + patience;
    while !done() {
        if Instant::now() >= deadline {
            return Err(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

impl Lab {
    /// Waits until nodes answer, and notes their addresses. One that found its port taken is started again, for a while.
    pub(super) async fn ready(&mut self, nodes: &[usize]) -> Result<(), Failure> {
        let deadline = Instant::now() + READY + Duration::from_secs(nodes.len() as u64);
        let taken_until = Instant::now() + PORT_TAKEN;
        for index in nodes {
            let status = loop {
                let node = &self.file.nodes[*index];
                if let Some(status) = status(node).await.filter(|s| !s.addresses.is_empty()) {
                    break status;
                }
                if !self.is_up(*index) {
                    if Instant::now() < taken_until && last_words(node).iter().any(|line| line.contains(IN_USE)) {
                        tokio::time::sleep(TAKEN_APART).await;
                        self.launch(&[*index])?;
                        continue;
                    }
                    return Err(died(node, "ended while it started"));
                }
                if Instant::now() >= deadline {
                    return Err(died(node, "does not answer"));
                }
                tokio::time::sleep(ASK).await;
            };
            self.file.nodes[*index].addresses = status.addresses;
            self.save()?;
        }
        Ok(())
    }

    /// Waits until every node that is up knows every other one that is up.
    pub(super) async fn all_know_all(&self) -> Result<(), Failure> {
        let up: Vec<&LabNode> =
            (0..self.file.nodes.len()).filter(|i| self.is_up(*i)).map(|i| &self.file.nodes[i]).collect();
        let deadline = Instant::now() + KNOWN + Duration::from_secs(up.len() as u64);
        let mut keys = Vec::new();
        for node in &up {
            let Some(status) = status(node).await else { return Err(died(node, "does not answer")) };
            keys.push(status.peer.to_string());
        }
        for (node, own) in up.iter().zip(&keys) {
            loop {
                let known = known(node).await;
                let missing = keys.iter().filter(|key| *key != own && !known.contains(*key)).count();
                if missing == 0 {
                    break;
                }
                if Instant::now() >= deadline {
                    return Err(died(node, &format!("has not found {} of {} others", missing, keys.len() - 1)));
                }
                tokio::time::sleep(ASK).await;
            }
        }
        Ok(())
    }
}

async fn client(node: &LabNode) -> Option<DaemonClient> {
    DaemonClient::find(&node.data_dir.join("control.sock")).await
}

async fn status(node: &LabNode) -> Option<api::NodeStatus> {
    client(node).await?.get_json("/v1/status").await.ok()
}

async fn known(node: &LabNode) -> BTreeSet<String> {
    let Some(client) = client(node).await else { return BTreeSet::new() };
    let rows: Vec<serde_json::Value> = client.get_json("/v1/peers").await.unwrap_or_default();
    rows.iter().filter_map(|row| row["peer"].as_str().map(str::to_owned)).collect()
}

/// What went wrong with a node, with the end of its log.
fn died(node: &LabNode, what: &str) -> Failure {
    let mut failure = Failure::new(ExitCode::Failed, "LAB_NODE", format!("{} {what}", node.domain))
        .with_hint(format!("its whole log is {}", node.data_dir.join("log").display()));
    failure.causes.extend(last_words(node));
    failure
}

/// What the system says of a port that somebody has.
const IN_USE: &str = "Address already in use";

/// The end of a node's log.
fn last_words(node: &LabNode) -> Vec<String> {
    const LINES: usize = 8;
    let log = std::fs::read_to_string(node.data_dir.join("log")).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].iter().map(|l| (*l).to_owned()).collect()
}
