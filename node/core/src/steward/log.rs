//! What happened to a group, in order: what the owner reads on coming back.

use cairn_proto::{PeerKey, Timestamp, order::OrderId};

use super::message::Failure;

/// Entries that are kept for a group: thirteen months of one order a day.
pub const LOG_MAX: usize = 400;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happening {
    /// When this steward learned of it.
    pub at: Timestamp,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// The owner's record was taken up, with this generation of the mandate.
    Adopted {
        /// Which.
        generation: u64,
    },
    /// A holder said that it lacks shards.
    Lacks {
        /// The slot.
        slot: u8,
        /// Who.
        holder: PeerKey,
        /// How many.
        shards: u16,
    },
    /// A quorum ordered a copy or a rebuild.
    Ordered {
        /// Which order.
        order: OrderId,
        /// The slot.
        slot: u8,
        /// The new holder.
        to: PeerKey,
        /// Whether from other slots.
        rebuild: bool,
        /// How many shards.
        shards: u16,
    },
    /// The new holder has them.
    Repaired {
        /// Which order.
        order: OrderId,
        /// The slot.
        slot: u8,
        /// The new holder.
        holder: PeerKey,
        /// How many shards.
        shards: u16,
    },
    /// The order came to nothing.
    Failed {
        /// Which order.
        order: OrderId,
        /// Why; `None`: nothing was heard until it was over.
        why: Option<Failure>,
    },
    /// Stewards changed.
    Stewards {
        /// Who was lost.
        old: Option<PeerKey>,
        /// Who came.
        new: Option<PeerKey>,
    },
    /// A slot needs a holder and nobody of its colour is there.
    NoPeer {
        /// The slot.
        slot: u8,
    },
}
