//! A holder's signed word for what it has: one shard, and with it all that it has of the slot.
//!
//! Who keeps a group's record may hold a loss against whoever signed, and nobody else can be named: a receipt says which group, slot,
//! stripe and root, and its signature is the holder's. The newest receipt of a slot says it of all rows, so a slot of 256 shards takes one.

use std::collections::BTreeMap;

use ed25519_dalek::SigningKey;
use prost::Message as _;
use serde::Serialize;

use crate::{
    DecodeError, GroupId, Ordinals, PeerKey, ShardRoot, Slot, SlotSheet, Timestamp,
    layout::{Reader, put_number, put_option},
    message::{decode, ordinal, slot},
    signed::SignedBytes,
};

/// Words of one holder of a slot in a group's record at most. One is enough where it said what it has in all; else these are drawn by
/// the owner's lot, which nobody foresees, so who dropped a tenth is without one of them in 97 cases of 100.
pub const WORDS_OF_HOLDER_MAX: usize = 32;
/// Words in a group's record at most: so many of four holders of eight slots.
pub const WORDS_MAX: usize = WORDS_OF_HOLDER_MAX * 32;
/// Most bytes of one in a record: where it belongs, two times, what it has in all with a time, the signature.
const WORD_SIZE_MAX: usize = 3 + 2 * 10 + 1 + 64 + 10 + 64;
/// Most bytes of all words of a group's record: 166 KiB. Usual is one for each holder of a slot, 150 bytes.
pub const WORDS_SIZE_MAX: usize = 2 + WORDS_MAX * WORD_SIZE_MAX;

const CONTEXT: &str = "cairn receipt v1";
const WHAT: &str = "receipt";

/// What a holder has of a slot in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Which shards.
    pub ordinals: Ordinals,
    /// Of their roots: [`Held::of`].
    pub digest: [u8; 32],
    /// Until when it promises to keep all of them.
    pub lease_until: Timestamp,
}

impl Held {
    /// Of these shards, each once, by ordinal: what is durable, until when it is kept.
    #[must_use]
    pub fn of(rows: &[(u8, ShardRoot, Timestamp)]) -> Self {
        let lease_until = rows.iter().map(|(.., lease)| *lease).min().unwrap_or(Timestamp(0));
        let digest = digest(rows.iter().map(|(ordinal, root, _)| (*ordinal, *root)));
        Self { ordinals: rows.iter().map(|(ordinal, ..)| *ordinal).collect(), digest, lease_until }
    }
}

fn digest(rows: impl Iterator<Item = (u8, ShardRoot)>) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("cairn 2026-11 shards of a slot v1");
    for (ordinal, root) in rows {
        hasher.update(&[ordinal]).update(root.as_bytes());
    }
    *hasher.finalize().as_bytes()
}

/// A holder's signed word that a shard is durable on its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Receipt {
    /// Who holds it: the signer.
    pub holder: PeerKey,
    /// The group.
    pub group: GroupId,
    /// The slot.
    pub slot: Slot,
    /// The stripe of the group.
    pub ordinal: u8,
    /// BLAKE3 of the shard.
    pub root: ShardRoot,
    /// Until when the holder promises to keep it.
    pub lease_until: Timestamp,
    /// When it was stored, by the holder's clock.
    pub stored_at: Timestamp,
    /// What it has of the slot in all, this shard included; holders of earlier versions do not say.
    #[serde(skip)]
    pub held: Option<Held>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ReceiptBody {
    #[prost(bytes = "vec", tag = "1")]
    group: Vec<u8>,
    #[prost(uint32, tag = "2")]
    slot: u32,
    #[prost(uint32, tag = "3")]
    ordinal: u32,
    #[prost(bytes = "vec", tag = "4")]
    root: Vec<u8>,
    #[prost(uint64, tag = "5")]
    lease_until: u64,
    #[prost(uint64, tag = "6")]
    stored_at: u64,
    #[prost(message, optional, tag = "20")]
    held: Option<HeldBody>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HeldBody {
    #[prost(bytes = "vec", tag = "1")]
    ordinals: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    digest: Vec<u8>,
    #[prost(uint64, tag = "3")]
    lease_until: u64,
}

impl Receipt {
    fn body(&self) -> Vec<u8> {
        let held = self.held.map(|held| HeldBody {
            ordinals: held.ordinals.as_bytes().to_vec(),
            digest: held.digest.to_vec(),
            lease_until: held.lease_until.0,
        });
        let body = ReceiptBody {
            group: self.group.as_bytes().to_vec(),
            slot: self.slot.as_u8().into(),
            ordinal: self.ordinal.into(),
            root: self.root.as_bytes().to_vec(),
            lease_until: self.lease_until.0,
            stored_at: self.stored_at.0,
            held,
        };
        body.encode_to_vec()
    }

    /// Signs with the holder's identity; `self.holder` must be that key.
    #[must_use]
    pub fn seal(&self, key: &SigningKey) -> SignedBytes {
        SignedBytes::sign(CONTEXT, self.body(), key)
    }

    /// Verifies and checks every field.
    ///
    /// # Errors
    /// [`DecodeError`] naming the first rule broken.
    pub fn open(signed: &SignedBytes) -> Result<Self, DecodeError> {
        let holder = PeerKey::from_bytes(signed.verify(CONTEXT)?);
        Self::read(holder, &signed.body)
    }

    /// Every field, and nothing of the signature.
    fn read(holder: PeerKey, body: &[u8]) -> Result<Self, DecodeError> {
        let body = decode::<ReceiptBody>(body, WHAT)?;
        let bytes = |bytes: &[u8]| {
            <[u8; 32]>::try_from(bytes).map_err(|_| DecodeError::Invalid { what: WHAT, why: "32 bytes are needed" })
        };
        let ordinal = ordinal(body.ordinal)?;
        let held = body.held.map(|held| {
            let ordinals = Ordinals::from_bytes(bytes(&held.ordinals)?);
            if !ordinals.contains(ordinal) {
                return Err(DecodeError::Invalid { what: WHAT, why: "all that it has is without this shard" });
            }
            Ok(Held { ordinals, digest: bytes(&held.digest)?, lease_until: Timestamp(held.lease_until) })
        });
        Ok(Self {
            holder,
            group: GroupId::from_slice(&body.group)?,
            slot: slot(body.slot)?,
            ordinal,
            root: ShardRoot::from_slice(&body.root)?,
            lease_until: Timestamp(body.lease_until),
            stored_at: Timestamp(body.stored_at),
            held: held.transpose()?,
        })
    }

    /// What of a slot's rows it is a word for, and until when. Nothing where it is of another group or slot, or of other shards: what it
    /// says that it has in all counts only if the sheet has these very shards.
    #[must_use]
    pub fn speaks_for(&self, sheet: &SlotSheet) -> BTreeMap<u8, Timestamp> {
        let mut of = BTreeMap::new();
        if self.group != sheet.group || self.slot != sheet.slot {
            return of;
        }
        if let Some(held) = &self.held {
            let rows = sheet.rows.iter().filter(|row| held.ordinals.contains(row.ordinal));
            if digest(rows.clone().map(|row| (row.ordinal, row.root))) == held.digest {
                of.extend(rows.map(|row| (row.ordinal, held.lease_until)));
            }
        }
        if sheet.rows.iter().any(|row| row.ordinal == self.ordinal && row.root == self.root) {
            of.entry(self.ordinal)
                .and_modify(|until| *until = self.lease_until.max(*until))
                .or_insert(self.lease_until);
        }
        of
    }
}

/// A receipt beside its signature, which nobody looked at yet: [`Word::verified`]. As the record keeps it, it says nothing that stands in
/// the sheet already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word {
    /// What it says.
    pub receipt: Receipt,
    /// The holder's signature, as is claimed.
    pub signature: [u8; 64],
}

impl Word {
    /// Of a sealed receipt, as it travels or is stored.
    ///
    /// # Errors
    /// It is not as [`Receipt::seal`] makes it.
    pub fn of(signed: &SignedBytes) -> Result<Self, DecodeError> {
        let receipt = Receipt::read(PeerKey::from_slice(&signed.signer)?, &signed.body)?;
        let bad = DecodeError::Invalid { what: WHAT, why: "is encoded in another way" };
        let signature = signed.signature.as_slice().try_into().map_err(|_| bad.clone())?;
        let word = Self { receipt, signature };
        if word.signed() == *signed { Ok(word) } else { Err(bad) }
    }

    /// Of [`Word::encode`]'s bytes.
    ///
    /// # Errors
    /// They are something else.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::of(&decode(bytes, WHAT)?)
    }

    /// The sealed receipt's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.signed().encode_to_vec()
    }

    /// The sealed receipt.
    #[must_use]
    pub fn signed(&self) -> SignedBytes {
        let Self { receipt, signature } = self;
        SignedBytes { body: receipt.body(), signer: receipt.holder.as_bytes().to_vec(), signature: signature.to_vec() }
    }

    /// The receipt, if its holder signed it.
    #[must_use]
    pub fn verified(&self) -> Option<&Receipt> {
        self.signed().verify(CONTEXT).is_ok().then_some(&self.receipt)
    }

    /// Where it belongs among these sheets: slot, place of its holder, ordinal. None where they have no such shard or holder.
    pub(crate) fn place(&self, sheets: &[SlotSheet]) -> Option<(u8, u8, u8)> {
        let Receipt { group, slot, holder, ordinal, root, .. } = &self.receipt;
        let sheet = sheets.get(slot.index()).filter(|sheet| sheet.slot == *slot && sheet.group == *group)?;
        let at = sheet.holders.iter().position(|peer| peer == holder)?;
        let row = sheet.rows.binary_search_by_key(ordinal, |row| row.ordinal).ok()?;
        (sheet.rows[row].root == *root).then_some((slot.as_u8(), u8::try_from(at).ok()?, *ordinal))
    }

    /// As it stands in a record.
    pub(crate) fn put(&self, place: (u8, u8, u8), out: &mut Vec<u8>) {
        out.extend_from_slice(&[place.0, place.1, place.2]);
        put_number(out, self.receipt.lease_until.0);
        put_number(out, self.receipt.stored_at.0);
        put_option(out, self.receipt.held, |out, held| {
            out.extend_from_slice(held.ordinals.as_bytes());
            out.extend_from_slice(&held.digest);
            put_number(out, held.lease_until.0);
        });
        out.extend_from_slice(&self.signature);
    }

    /// From a record with these sheets.
    pub(crate) fn take(r: &mut Reader<'_>, sheets: &[SlotSheet]) -> Result<Self, DecodeError> {
        let [at, holder, ordinal] = r.array()?;
        let sheet = sheets.get(usize::from(at)).ok_or_else(|| r.invalid("of no slot"))?;
        let holder = *sheet.holders.get(usize::from(holder)).ok_or_else(|| r.invalid("of no holder"))?;
        let row = sheet.rows.binary_search_by_key(&ordinal, |row| row.ordinal);
        let root = row.map(|at| sheet.rows[at].root).map_err(|_| r.invalid("of no shard"))?;
        let (lease_until, stored_at) = (Timestamp(r.u64()?), Timestamp(r.u64()?));
        let held = r.option(|r| {
            let (ordinals, digest) = (Ordinals::from_bytes(r.array()?), r.array()?);
            Ok(Held { ordinals, digest, lease_until: Timestamp(r.u64()?) })
        })?;
        if held.is_some_and(|held| !held.ordinals.contains(ordinal)) {
            return Err(r.invalid("all that it has is without this shard"));
        }
        let (group, slot) = (sheet.group, sheet.slot);
        let receipt = Receipt { holder, group, slot, ordinal, root, lease_until, stored_at, held };
        Ok(Self { receipt, signature: r.array()? })
    }
}

#[cfg(test)]
mod tests;
