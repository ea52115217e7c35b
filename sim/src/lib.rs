//! Discrete-event simulation of a Cairn fleet on `cairn-core`: hundreds of peers, weeks of virtual time, one seed.
//!
//! The seed draws everything: who exists, where, how large, who comes and goes, who attacks, and what is chosen. The
//! choices themselves are the daemon's own code ([`cairn_core::placement`], [`cairn_core::colour`]). Checkers look
//! at every byte that a peer accepts; a run ends at the first violation and says how to see it again. Each seed is
//! run twice by [`run_twice`], and equal trace hashes are part of passing.
//!
//! # Left out, so not shown by a green run
//!
//! - Shard bytes, erasure coding, sealing: a shard here is a name and a size.
//! - The network between peers: a transfer succeeds or fails at once; no delay, reordering, partition or relay. Grants
//!   are taken as valid: who may offer is the transport's matter, what may be accepted is this one's.
//! - The store's own code: [`peer::Peer`] is a model of the receiver's two guards and its accounting. The real
//!   receiver is attacked in `tests/e2e`.
//! - Stewards: repair is done by the owner, who is always awake here. Stewards have a world of their own, [`months`].
//! - An owner who puts one stripe's shards into two groups. No receiver can see that; it harms that owner alone.
//!
//! Checked: **SEP-1** (per peer and per domain, for ever), **SEP-2**, accounting, determinism. See [`checkers`].

pub mod checkers;
pub mod fleet;
pub mod months;
pub mod owner;
pub mod peer;
pub mod scenario;
pub mod trace;
pub mod world;

pub use fleet::{Report, run};
pub use scenario::{Sabotage, Scenario, Settings};

/// Why a run did not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A checker found an invariant broken.
    Violation(checkers::Violation),
    /// Two runs of one seed differ.
    NotDeterministic {
        /// Trace hash of the first run.
        first: String,
        /// Of the second.
        second: String,
    },
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Violation(v) => v.fmt(f),
            Self::NotDeterministic { first, second } => {
                write!(f, "META: two runs of one seed differ: {first} and {second}")
            }
        }
    }
}

impl std::error::Error for Failure {}

/// Runs a seed twice and compares the traces.
///
/// # Errors
/// The first [`Failure`].
pub fn run_twice(settings: &Settings) -> Result<Report, Failure> {
    let first = run(settings).map_err(Failure::Violation)?;
    let second = run(settings).map_err(Failure::Violation)?;
    if first.trace == second.trace {
        Ok(first)
    } else {
        Err(Failure::NotDeterministic { first: first.trace, second: second.trace })
    }
}
