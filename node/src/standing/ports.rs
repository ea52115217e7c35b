//! The seam between those who deal with peers and what this node thinks of them.

use cairn_core::reputation::Observed;
use cairn_proto::{PeerKey, audit::Evidence};

/// Takes note of what was seen first hand. Never blocks; what comes too fast may be dropped.
pub trait Witness: Send + Sync + 'static {
    /// Counts what was seen of a peer.
    fn saw(&self, peer: PeerKey, seen: Observed);

    /// Something that may prove a lie, or that a peer was silent. A proof is checked, believed for good, kept and spread; silence is
    /// spread as a complaint.
    fn learned(&self, evidence: Evidence);
}
