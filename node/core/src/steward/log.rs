//! What happened to a group, in order: what the owner reads on coming back.
//!
//! Layout of an entry: at · kind · fields. Kinds: `1` adopted: generation; `2` lacks: slot, holder 32, shards; `3` ordered:
//! order 32, slot, to 32, rebuild flag, shards; `4` repaired: order 32, slot, holder 32, shards; `5` failed: order 32, option of
//! failure; `6` stewards: option of old 32, option of new 32; `7` no peer: slot; `8` map full; `9` not shown: slot, holder 32, shards. Numbers in minimal LEB128, slots one byte,
//! options and failures as in [`super::message`].

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
    /// Our auditor found that a holder cannot, or will not, show shards.
    NotShown {
        /// The slot.
        slot: u8,
        /// Who.
        holder: PeerKey,
        /// How many.
        shards: u16,
    },
}

const WHAT: &str = "log entry";

impl Happening {
    /// Most bytes of an entry: one of what was ordered or repaired.
    pub const ENCODED_MAX: usize = 10 + 1 + 32 + 1 + 32 + 1 + 3;

    /// The bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::ENCODED_MAX);
        self.put(&mut out);
        out
    }

    /// Reads what [`Happening::encode`] gave, and nothing else.
    ///
    /// # Errors
    /// The first rule broken.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(WHAT, bytes);
        let entry = Self::read(&mut r)?;
        r.finish()?;
        Ok(entry)
    }

    /// Appends the bytes to what it is a part of.
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        put_number(out, self.at.0);
        let slot_of = |out: &mut Vec<u8>, slot: u8, peer: &PeerKey| {
            out.push(slot);
            out.extend_from_slice(peer.as_bytes());
        };
        let peer = |out: &mut Vec<u8>, peer: PeerKey| out.extend_from_slice(peer.as_bytes());
        match &self.what {
            What::Adopted { generation } => {
                out.push(1);
                put_number(out, *generation);
            }
            What::Lacks { slot, holder, shards } => {
                out.push(2);
                slot_of(out, *slot, holder);
                put_number(out, (*shards).into());
            }
            What::Ordered { order, slot, to, rebuild, shards } => {
                out.push(3);
                out.extend_from_slice(order);
                slot_of(out, *slot, to);
                out.push((*rebuild).into());
                put_number(out, (*shards).into());
            }
            What::Repaired { order, slot, holder, shards } => {
                out.push(4);
                out.extend_from_slice(order);
                slot_of(out, *slot, holder);
                put_number(out, (*shards).into());
            }
            What::Failed { order, why } => {
                out.push(5);
                out.extend_from_slice(order);
                put_option(out, why.as_ref(), |out, why| why.put(out));
            }
            What::Stewards { old, new } => {
                out.push(6);
                put_option(out, *old, peer);
                put_option(out, *new, peer);
            }
            What::NoPeer { slot } => out.extend_from_slice(&[7, *slot]),
            What::MapFull => out.push(8),
            What::NotShown { slot, holder, shards } => {
                out.push(9);
                slot_of(out, *slot, holder);
                put_number(out, (*shards).into());
            }
        }
    }

    /// Reads one off the front of what it is a part of.
    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let at = Timestamp(r.u64()?);
        let slot = |r: &mut Reader<'_>| Ok::<u8, DecodeError>(Slot::new(r.byte()?)?.as_u8());
        let peer = |r: &mut Reader<'_>| r.array().map(PeerKey::from_bytes);
        let shards = |r: &mut Reader<'_>| Ok::<u16, DecodeError>(r.number(u16::MAX.into())? as u16);
        let what = match r.byte()? {
            1 => What::Adopted { generation: r.u64()? },
            2 => What::Lacks { slot: slot(r)?, holder: peer(r)?, shards: shards(r)? },
            3 => What::Ordered {
                order: r.array()?,
                slot: slot(r)?,
                to: peer(r)?,
                rebuild: r.flag()?,
                shards: shards(r)?,
            },
            4 => What::Repaired { order: r.array()?, slot: slot(r)?, holder: peer(r)?, shards: shards(r)? },
            5 => What::Failed { order: r.array()?, why: r.option(Failure::read)? },
            6 => What::Stewards { old: r.option(peer)?, new: r.option(peer)? },
            7 => What::NoPeer { slot: slot(r)? },
            8 => What::MapFull,
            9 => What::NotShown { slot: slot(r)?, holder: peer(r)?, shards: shards(r)? },
            _ => return Err(r.invalid("unknown kind")),
        };
        Ok(Self { at, what })
    }
}
