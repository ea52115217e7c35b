//! A storage peer: the receiver's two guards against SEP-1, its space, and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use cairn_core::colour::may_hold;
use cairn_proto::{ByteSize, Domain, GroupId, GroupTicket, PeerKey, Region, SHARD_SIZE, Slot, Timestamp};

use crate::scenario::Sabotage;

/// Whether a peer can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Answers.
    Up,
    /// Away since; will return with what it holds.
    Down(Timestamp),
    /// Never returns.
    Gone(Timestamp),
}

/// One storage peer.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Who.
    pub key: PeerKey,
    /// The domain that others pinned when they first saw it.
    pub pinned: Domain,
    /// The domain that it claims and believes today.
    pub own: Domain,
    /// Where.
    pub region: Region,
    /// Pledge.
    pub give: ByteSize,
    /// Reachable or not.
    pub presence: Presence,
    /// When it joined.
    pub joined: Timestamp,
    /// Loss that others measure, in thousandths.
    pub loss: u16,
    /// Round-trip time in milliseconds.
    pub rtt_ms: u32,
    /// Bytes that it counts as used.
    pub used: u64,
    /// Group -> the slot ever accepted. Never forgotten.
    pub ledger: BTreeMap<GroupId, Slot>,
    /// Ordinals held.
    pub held: BTreeMap<(GroupId, Slot), BTreeSet<u8>>,
}

/// Why an offer was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Not reachable.
    Away,
    /// Its colour is another.
    Colour,
    /// It accepted another slot of the group before.
    Ledger,
    /// No room.
    Full,
}

impl Peer {
    /// What the receiver does with an offered shard, in the daemon's order: colour, ledger, room.
    ///
    /// # Errors
    /// The [`Refusal`].
    pub fn offer(&mut self, ticket: &GroupTicket, slot: Slot, ordinal: u8, sabotage: Sabotage) -> Result<(), Refusal> {
        if self.presence != Presence::Up {
            return Err(Refusal::Away);
        }
        if sabotage != Sabotage::NoColourCheck && !may_hold(ticket, &self.own, slot) {
            return Err(Refusal::Colour);
        }
        let group = ticket.id();
        if sabotage != Sabotage::NoLedger && self.ledger.get(&group).is_some_and(|s| *s != slot) {
            return Err(Refusal::Ledger);
        }
        if self.held.get(&(group, slot)).is_some_and(|o| o.contains(&ordinal)) {
            return Ok(());
        }
        if self.used + SHARD_SIZE as u64 > self.give.0 {
            return Err(Refusal::Full);
        }
        self.ledger.entry(group).or_insert(slot);
        self.held.entry((group, slot)).or_default().insert(ordinal);
        self.used += SHARD_SIZE as u64;
        Ok(())
    }

    /// Whether it will ever answer again.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self.presence, Presence::Gone(_))
    }
}
