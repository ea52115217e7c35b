//! What happened to a group, in order: what the owner reads on coming back.

use cairn_proto::{
    DecodeError, PeerKey, Slot, Timestamp,
    layout::{Reader, put_number, put_option},
    order::OrderId,
};

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
    /// Another repair was carried out and the map has no room for it: only the owner's next backup makes some.
    MapFull,
}

impl Happening {
    /// Appends it. Layout: when, as a number · kind · its fields: `0` generation; `1` slot, holder 32, shards; `2` order 32, slot,
    /// holder 32, rebuild (flag), shards; `3` order 32, slot, holder 32, shards; `4` order 32, why (flag, [`Failure`]); `5` old
    /// and new (each flag, 32); `6` slot; `7`. Numbers in minimal LEB128.
    pub fn put(&self, out: &mut Vec<u8>) {
        let peer = |out: &mut Vec<u8>, peer: &PeerKey| out.extend_from_slice(peer.as_bytes());
        put_number(out, self.at.0);
        match &self.what {
            What::Adopted { generation } => {
                out.push(0);
                put_number(out, *generation);
            }
            What::Lacks { slot, holder, shards } => {
                out.extend_from_slice(&[1, *slot]);
                peer(out, holder);
                put_number(out, (*shards).into());
            }
            What::Ordered { order, slot, to, rebuild, shards } => {
                out.push(2);
                out.extend_from_slice(order);
                out.push(*slot);
                peer(out, to);
                out.push(u8::from(*rebuild));
                put_number(out, (*shards).into());
            }
            What::Repaired { order, slot, holder, shards } => {
                out.push(3);
                out.extend_from_slice(order);
                out.push(*slot);
                peer(out, holder);
                put_number(out, (*shards).into());
            }
            What::Failed { order, why } => {
                out.push(4);
                out.extend_from_slice(order);
                put_option(out, *why, |out, why| why.put(out));
            }
            What::Stewards { old, new } => {
                out.push(5);
                put_option(out, old.as_ref(), peer);
                put_option(out, new.as_ref(), peer);
            }
            What::NoPeer { slot } => out.extend_from_slice(&[6, *slot]),
            What::MapFull => out.push(7),
        }
    }

    /// Reads what [`Happening::put`] appended.
    ///
    /// # Errors
    /// An unknown kind, or a field out of its domain.
    pub fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let peer = |r: &mut Reader<'_>| r.array().map(PeerKey::from_bytes);
        let slot = |r: &mut Reader<'_>| Ok::<u8, DecodeError>(Slot::new(r.byte()?)?.as_u8());
        let shards = |r: &mut Reader<'_>| r.number(u16::MAX.into()).map(|shards| shards as u16);
        let at = Timestamp(r.u64()?);
        let what = match r.byte()? {
            0 => What::Adopted { generation: r.u64()? },
            1 => What::Lacks { slot: slot(r)?, holder: peer(r)?, shards: shards(r)? },
            2 => What::Ordered {
                order: r.array()?,
                slot: slot(r)?,
                to: peer(r)?,
                rebuild: r.flag()?,
                shards: shards(r)?,
            },
            3 => What::Repaired { order: r.array()?, slot: slot(r)?, holder: peer(r)?, shards: shards(r)? },
            4 => What::Failed { order: r.array()?, why: r.option(Failure::read)? },
            5 => What::Stewards { old: r.option(peer)?, new: r.option(peer)? },
            6 => What::NoPeer { slot: slot(r)? },
            7 => What::MapFull,
            _ => return Err(r.invalid("unknown happening")),
        };
        Ok(Self { at, what })
    }
}
