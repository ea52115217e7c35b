//! A network of real node processes on loopback, for trials and tests: `cairn lab`.
//!
//! The lab remembers each node's process (pid and start time, so that a recycled pid is never signalled) and, after
//! the first start, its ports: a node that was killed comes back where its peers look for it. Node 0 comes first and is the bootstrap of the others.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use cairn_proto::{ByteSize, network_file::NetworkFile};
use serde::{Deserialize, Serialize};

use crate::{
    data_dir::write_private,
    failure::{ExitCode, Failure},
};

mod process;
mod wait;

#[cfg(test)]
mod tests;

/// Regions of a lab's nodes, in turn: four continents, so that caps by continent can be met.
pub const REGIONS: [&str; 6] = ["EU/DE/FSN", "NA/US/ASH", "AS/SG/SIN", "SA/BR/GRU", "EU/FI/HEL", "NA/CA/BHS"];

/// Nodes that stand in the network file: more than a trial kills at once, so that somebody who is new always finds one.
const DOORS: usize = 8;

/// What a lab shall be.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How many nodes.
    pub nodes: usize,
    /// Their regions, in turn.
    pub regions: Vec<String>,
    /// Space that each gives.
    pub give: ByteSize,
}

/// One node as the lab's file keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct LabNode {
    domain: String,
    region: String,
    give: ByteSize,
    data_dir: PathBuf,
    process: Option<process::ProcessId>,
    /// With `/p2p/`, as last seen.
    addresses: Vec<String>,
}

/// The lab's file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct LabFile {
    nodes: Vec<LabNode>,
}

/// Whether a node's process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// It lives.
    Up,
    /// It does not.
    Down,
}

/// One node for `lab status`.
#[derive(Clone, Debug, Serialize)]
pub struct NodeStatus {
    /// Its number, from 0.
    pub index: usize,
    /// Its process, when up.
    pub pid: Option<u32>,
    /// Up or down.
    pub state: NodeState,
    /// With `/p2p/`, as last seen.
    pub addresses: Vec<String>,
    /// Its data folder.
    pub data_dir: PathBuf,
    /// Its domain.
    pub domain: String,
    /// Its region.
    pub region: String,
}

/// A lab on disk.
#[derive(Debug)]
pub struct Lab {
    dir: PathBuf,
    file: LabFile,
}

impl Lab {
    /// Makes a lab, or takes one that is all down, and starts all its nodes.
    ///
    /// # Errors
    /// The folder holds a lab with nodes that are up, or a node does not start.
    pub async fn up(dir: &Path, network: NetworkFile, plan: &Plan) -> Result<Self, Failure> {
        let mut lab = if dir.join("lab.json").exists() {
            let lab = Self::open(dir)?;
            if lab.status().iter().any(|n| n.state == NodeState::Up) {
                return Err(Failure::new(ExitCode::Busy, "LAB_UP", format!("the lab in {} is up", lab.dir.display()))
                    .with_hint("`cairn lab down` stops it"));
            }
            lab
        } else {
            Self::make(dir, &network, plan)?
        };
        lab.launch(&[0])?;
        lab.ready(&[0]).await?;
        lab.write_bootstrap()?;
        let others: Vec<usize> = (1..lab.file.nodes.len()).collect();
        lab.launch(&others)?;
        lab.ready(&others).await?;
        lab.write_bootstrap()?;
        lab.all_know_all().await?;
        Ok(lab)
    }

    fn make(dir: &Path, network: &NetworkFile, plan: &Plan) -> Result<Self, Failure> {
        let failed = |e: std::io::Error| {
            Failure::new(ExitCode::Failed, "LAB_DIR", format!("cannot use the lab folder {}", dir.display()))
                .caused_by(&e)
        };
        fs::create_dir_all(dir).map_err(failed)?;
        let dir = fs::canonicalize(dir).map_err(failed)?;
        let node = |index: usize| LabNode {
            domain: format!("lab-{index:02}"),
            region: plan.regions.get(index % plan.regions.len().max(1)).cloned().unwrap_or_default(),
            give: plan.give,
            data_dir: dir.join(format!("node-{index:02}")),
            process: None,
            addresses: Vec::new(),
        };
        let file = LabFile { nodes: (0..plan.nodes).map(node).collect() };
        for node in &file.nodes {
            fs::create_dir_all(&node.data_dir).map_err(failed)?;
        }
        let lab = Self { dir, file };
        write_private(&lab.network_path(), network.to_toml().as_bytes())?;
        lab.save()?;
        Ok(lab)
    }

    /// Reads a lab's file.
    ///
    /// # Errors
    /// There is none, or it is damaged.
    pub fn open(dir: &Path) -> Result<Self, Failure> {
        let path = dir.join("lab.json");
        let none = || {
            Failure::new(ExitCode::NotFound, "NO_LAB", format!("there is no lab in {}", dir.display()))
                .with_hint("name its folder with --dir or CAIRN_LAB_DIR; `cairn lab up --nodes N --dir DIR` makes one")
        };
        let text = fs::read_to_string(&path).map_err(|e| none().caused_by(&e))?;
        let file = serde_json::from_str(&text).map_err(|e| none().caused_by(&e))?;
        let dir = fs::canonicalize(dir).map_err(|e| none().caused_by(&e))?;
        Ok(Self { dir, file })
    }

    /// The lab's folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The network file for owners.
    #[must_use]
    pub fn network_path(&self) -> PathBuf {
        self.dir.join("network.toml")
    }

    /// Every node.
    #[must_use]
    pub fn status(&self) -> Vec<NodeStatus> {
        let one = |(index, node): (usize, &LabNode)| {
            let alive = node.process.filter(process::ProcessId::is_alive);
            NodeStatus {
                index,
                pid: alive.map(|p| p.pid),
                state: if alive.is_some() { NodeState::Up } else { NodeState::Down },
                addresses: node.addresses.clone(),
                data_dir: node.data_dir.clone(),
                domain: node.domain.clone(),
                region: node.region.clone(),
            }
        };
        self.file.nodes.iter().enumerate().map(one).collect()
    }

    /// Kills nodes.
    ///
    /// # Errors
    /// No such node, or it does not die.
    pub async fn kill(&mut self, nodes: &[usize]) -> Result<(), Failure> {
        self.end(nodes, process::End::Kill).await
    }

    /// Stops nodes cleanly.
    ///
    /// # Errors
    /// No such node, or it does not end.
    pub async fn stop(&mut self, nodes: &[usize]) -> Result<(), Failure> {
        self.end(nodes, process::End::Terminate).await
    }

    /// Starts nodes that are down; returns when they and all others that are up know each other.
    ///
    /// # Errors
    /// No such node, or it does not start.
    pub async fn start(&mut self, nodes: &[usize]) -> Result<(), Failure> {
        self.check(nodes)?;
        let down: Vec<usize> = nodes.iter().copied().filter(|i| !self.is_up(*i)).collect();
        self.launch(&down)?;
        self.ready(&down).await?;
        self.write_bootstrap()?;
        self.all_know_all().await
    }

    /// Stops every node; one that does not end in time is killed.
    ///
    /// # Errors
    /// One outlives even that.
    pub async fn down(&mut self) -> Result<(), Failure> {
        let all: Vec<usize> = (0..self.file.nodes.len()).collect();
        if self.end(&all, process::End::Terminate).await.is_err() {
            self.end(&all, process::End::Kill).await?;
        }
        Ok(())
    }

    async fn end(&mut self, nodes: &[usize], how: process::End) -> Result<(), Failure> {
        self.check(nodes)?;
        let alive: Vec<process::ProcessId> =
            nodes.iter().filter_map(|i| self.file.nodes[*i].process).filter(process::ProcessId::is_alive).collect();
        for process in &alive {
            process.signal(how);
        }
        let patience = Duration::from_secs(if how == process::End::Kill { 10 } else { 40 });
        wait::until(patience, || alive.iter().all(|p| !p.is_alive())).await.map_err(|()| {
            Failure::new(ExitCode::Failed, "NODE_LIVES", "a node did not end in time")
                .with_hint("`cairn lab kill` ends it")
        })?;
        for index in nodes {
            self.file.nodes[*index].process = None;
        }
        self.save()
    }

    fn check(&self, nodes: &[usize]) -> Result<(), Failure> {
        match nodes.iter().find(|i| **i >= self.file.nodes.len()) {
            None => Ok(()),
            Some(wrong) => Err(Failure::new(
                ExitCode::NotFound,
                "NO_NODE",
                format!("there is no node {wrong}; the lab has 0 to {}", self.file.nodes.len().saturating_sub(1)),
            )),
        }
    }

    fn is_up(&self, index: usize) -> bool {
        self.file.nodes[index].process.is_some_and(|p| p.is_alive())
    }

    fn launch(&mut self, nodes: &[usize]) -> Result<(), Failure> {
        for index in nodes {
            let spawned = process::spawn(&self.file.nodes[*index], &self.network_path(), *index == 0)?;
            self.file.nodes[*index].process = Some(spawned);
            // Saved at once: whatever happens next, `lab down` must find every process.
            self.save()?;
        }
        Ok(())
    }

    fn write_bootstrap(&self) -> Result<(), Failure> {
        let path = self.network_path();
        let mut network = crate::data_dir::read_network(&path)?;
        network.bootstrap = self.file.nodes.iter().take(DOORS).flat_map(|n| n.addresses.clone()).collect();
        write_private(&path, network.to_toml().as_bytes())
    }

    fn save(&self) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(&self.file).unwrap_or_default();
        write_private(&self.dir.join("lab.json"), text.as_bytes())
    }
}
