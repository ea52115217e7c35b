//! May this peer be given anything of this owner's at all? Hard limits only; preference is [`super::rank`].
//!
//! - **SEP-1** (second sentence) The owner's own peers are never holders of the owner's groups.
//!   Enforced by [`eligible`]; attacked by `tests::the_owners_domain_is_never_chosen`.

use std::fmt;

use cairn_proto::{ByteSize, Domain, PeerKey, SHARD_SIZE, Timestamp, message::Roles};
use serde::Serialize;

use super::policy::{PlacementPolicy, Thresholds};
use crate::peer_view::{PeerView, PerMille};

/// Whose group it is: what the SEP-1 check against own peers needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The owner's peer.
    pub peer: PeerKey,
    /// The owner's domain.
    pub domain: Domain,
}

/// Why a peer is not a candidate: which rule, which figure, which limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "rule", rename_all = "snake_case")]
pub enum Rejection {
    /// It is ourselves.
    #[serde(rename = "self")]
    Self_,
    /// Same domain as the owner.
    OwnDomain {
        /// The domain.
        domain: Domain,
    },
    /// It keeps no shards.
    NotStorage,
    /// Another protocol version.
    WrongProtocol {
        /// What it speaks.
        found: u32,
        /// What we speak.
        needed: u32,
    },
    /// It failed earlier in this run.
    Avoided,
    /// The last dial failed.
    Unreachable,
    /// Nothing heard for too long, and no connection stands.
    Stale {
        /// Silence so far, in milliseconds.
        silent_ms: u64,
        /// The limit, in milliseconds.
        limit_ms: u64,
    },
    /// Not room enough.
    FreeBelowTwoShards {
        /// Free space.
        free: ByteSize,
        /// Needed.
        needed: ByteSize,
    },
    /// It would be too full afterwards.
    LoadOver70Percent {
        /// Load after, in thousandths of the pledge.
        load: PerMille,
        /// The limit.
        limit: PerMille,
    },
    /// Too many requests and pings fail.
    LossTooHigh {
        /// Loss of 24 h, in thousandths.
        loss: PerMille,
        /// Must be below.
        limit: PerMille,
    },
    /// Not trusted enough.
    ReputationTooLow {
        /// Its standing, in thousandths.
        reputation: PerMille,
        /// What it must exceed; for a newcomer, what it must reach.
        limit: PerMille,
        /// Whether it was judged by the newcomer's limit.
        newcomer: bool,
    },
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Self_ => f.write_str("is this node itself"),
            Self::OwnDomain { domain } => write!(f, "is of the owner's own domain {domain}"),
            Self::NotStorage => f.write_str("does not store"),
            Self::WrongProtocol { found, needed } => write!(f, "speaks protocol {found}, not {needed}"),
            Self::Avoided => f.write_str("failed earlier in this run"),
            Self::Unreachable => f.write_str("cannot be reached"),
            Self::Stale { silent_ms, limit_ms } => {
                write!(f, "silent for {} s (limit {} s)", silent_ms / 1000, limit_ms / 1000)
            }
            Self::FreeBelowTwoShards { free, needed } => write!(f, "has {free} free, needs {needed}"),
            Self::LoadOver70Percent { load, limit } => {
                write!(f, "would be {} full (limit {})", percent(*load), percent(*limit))
            }
            Self::LossTooHigh { loss, limit } => {
                write!(f, "lost {} of requests (must be below {})", percent(*loss), percent(*limit))
            }
            Self::ReputationTooLow { reputation, limit, newcomer } => write!(
                f,
                "{}reputation 0.{reputation:03} ({} 0.{limit:03})",
                if *newcomer { "newcomer, " } else { "" },
                if *newcomer { "needs at least" } else { "needs more than" }
            ),
        }
    }
}

/// `70.0 %` from 700.
fn percent(per_mille: PerMille) -> String {
    format!("{}.{} %", per_mille / 10, per_mille % 10)
}

/// Whether the peer may hold a shard of this owner's; the first rule it breaks otherwise. Peers that failed in this
/// run are the caller's business ([`super::GroupRequest::avoid`]).
///
/// # Errors
/// The [`Rejection`], with figure and limit.
pub fn eligible(view: &PeerView, owner: &Owner, policy: &PlacementPolicy, now: Timestamp) -> Result<(), Rejection> {
    if view.peer == owner.peer {
        return Err(Rejection::Self_);
    }
    if view.domain == owner.domain {
        return Err(Rejection::OwnDomain { domain: view.domain.clone() });
    }
    let limits = &policy.thresholds;
    fit(view, limits)?;
    let silent_ms = now.ms_since(view.last_heard);
    if view.reachable.is_none() && silent_ms > limits.silence_ms_max {
        return Err(Rejection::Stale { silent_ms, limit_ms: limits.silence_ms_max });
    }
    Ok(())
}

/// The rules that ask neither who the owner is nor what time it is.
pub(super) fn fit(view: &PeerView, limits: &Thresholds) -> Result<(), Rejection> {
    if !view.roles.has(Roles::STORAGE) {
        return Err(Rejection::NotStorage);
    }
    if view.protocol != limits.protocol {
        return Err(Rejection::WrongProtocol { found: view.protocol, needed: limits.protocol });
    }
    if view.reachable == Some(false) {
        return Err(Rejection::Unreachable);
    }
    let needed = u64::from(limits.shards_expected).saturating_mul(SHARD_SIZE as u64);
    if view.free.0 < needed {
        return Err(Rejection::FreeBelowTwoShards { free: view.free, needed: ByteSize(needed) });
    }
    let load = load_after(view, needed);
    if load > limits.load_max {
        return Err(Rejection::LoadOver70Percent { load, limit: limits.load_max });
    }
    if view.loss >= limits.loss_below {
        return Err(Rejection::LossTooHigh { loss: view.loss, limit: limits.loss_below });
    }
    let (trusted, limit) = if view.newcomer {
        (view.reputation >= limits.newcomer_reputation_min, limits.newcomer_reputation_min)
    } else {
        (view.reputation > limits.reputation_above, limits.reputation_above)
    };
    if !trusted {
        return Err(Rejection::ReputationTooLow { reputation: view.reputation, limit, newcomer: view.newcomer });
    }
    Ok(())
}

/// Load of the pledge after `more` bytes, in thousandths, rounded up; 1000 for a peer that pledged nothing.
fn load_after(view: &PeerView, more: u64) -> PerMille {
    if view.give.0 == 0 {
        return 1000;
    }
    let used = u128::from(view.give.0.saturating_sub(view.free.0)) + u128::from(more);
    let load = (used * 1000).div_ceil(u128::from(view.give.0));
    PerMille::try_from(load).unwrap_or(PerMille::MAX)
}
