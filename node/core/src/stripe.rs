//! A stripe from payload to shards and back.
//!
//! - **SEC-1** [`SealedStripe`] has ciphertext only; it can be made in no other way than by sealing.
//! - **DUR-2** A data shard is used when it opens under its own key, which only the owner has, any other when it matches its
//!   root; what comes out of a rebuild opens or does not: a wrong byte is never returned. Fewer than k good shards are an
//!   error that says how many there were.

use bytes::Bytes;
use cairn_proto::{CodeParams, DecodeError, SHARD_PAYLOAD, SHARD_SIZE, ShardRoot, Slot, StripeId, index::StripeRow};

use crate::{
    erasure::{Codec, ErasureError},
    keys::EpochKeys,
    seal::{SealError, open_in_place, seal_in_place},
    shard_buffer::ShardBuffer,
};

#[cfg(test)]
mod tests;

/// Why a stripe could not be built or opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StripeError {
    /// Fewer good shards than it takes.
    #[error("{good} good shards of stripe {stripe}, {needed} are needed ({bad} came with wrong bytes)", stripe = stripe.short())]
    TooFew {
        /// The stripe.
        stripe: StripeId,
        /// Shards whose bytes match their roots.
        good: usize,
        /// Real shards needed: the data shards that are not virtual.
        needed: usize,
        /// Shards whose bytes did not match.
        bad: usize,
    },
    /// A shard's bytes are not the ones in the row.
    #[error("slot {slot} of stripe {stripe} has wrong bytes", stripe = stripe.short())]
    WrongBytes {
        /// The stripe.
        stripe: StripeId,
        /// The slot.
        slot: Slot,
    },
    /// The roots match, but a shard does not open: the keys are another vault's or epoch's.
    #[error("stripe {stripe} does not open: {source}", stripe = stripe.short())]
    Sealed {
        /// The stripe.
        stripe: StripeId,
        /// What the cipher said.
        source: SealError,
    },
    /// The row, or the payload, is not one of this code.
    #[error(transparent)]
    Row(#[from] DecodeError),
    /// The shards are not those of a stripe.
    #[error(transparent)]
    Erasure(#[from] ErasureError),
}

/// Plaintext of a stripe, laid out so that sealing needs no copy: buffers of [`SHARD_SIZE`] bytes, in each
/// [`SHARD_PAYLOAD`] bytes of payload and room for the tag. What was not written is made zero before it is sealed.
pub struct StripePayload {
    capacity: usize,
    buffers: Vec<ShardBuffer>,
    length: usize,
}

impl std::fmt::Debug for StripePayload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StripePayload({} of {} bytes)", self.length, self.capacity)
    }
}

impl StripePayload {
    /// An empty payload for a stripe of this code.
    #[must_use]
    pub const fn new(code: CodeParams) -> Self {
        Self { capacity: code.stripe_payload(), buffers: Vec::new(), length: 0 }
    }

    /// Bytes written.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.length
    }

    /// Whether nothing was written.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Bytes that still fit.
    #[must_use]
    pub const fn room(&self) -> usize {
        self.capacity - self.length
    }

    /// Data shards that are needed for what was written.
    #[must_use]
    pub const fn used(&self) -> usize {
        self.buffers.len()
    }

    /// Appends as much as fits and returns how much that was.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(self.room());
        let mut left = &bytes[..taken];
        while !left.is_empty() {
            let at = self.length % SHARD_PAYLOAD;
            if at == 0 {
                self.buffers.push(ShardBuffer::take());
            }
            let Some(buffer) = self.buffers.last_mut() else { break };
            let (now, later) = left.split_at(left.len().min(SHARD_PAYLOAD - at));
            buffer[at..at + now.len()].copy_from_slice(now);
            self.length += now.len();
            left = later;
        }
        taken
    }

    /// The payloads of its data shards, in slot order, without a copy; each is [`SHARD_PAYLOAD`] bytes long.
    #[must_use]
    pub fn into_parts(self) -> Vec<Bytes> {
        self.buffers.into_iter().map(|buffer| buffer.freeze().slice(..SHARD_PAYLOAD)).collect()
    }

    /// Copies bytes out; `None` when they are not all there.
    #[must_use]
    pub fn read(&self, offset: usize, length: usize) -> Option<Vec<u8>> {
        let end = offset.checked_add(length).filter(|end| *end <= self.length)?;
        let mut out = Vec::with_capacity(length);
        let mut at = offset;
        while at < end {
            let (slot, start) = (at / SHARD_PAYLOAD, at % SHARD_PAYLOAD);
            let stop = SHARD_PAYLOAD.min(start + end - at);
            out.extend_from_slice(&self.buffers[slot][start..stop]);
            at += stop - start;
        }
        Some(out)
    }
}

/// A stripe's shards, sealed, coded and hashed: what may be sent.
#[derive(Clone, Debug)]
pub struct SealedStripe {
    stripe: StripeId,
    used: u8,
    epoch: u32,
    shards: Vec<Option<Bytes>>,
    roots: Vec<Option<ShardRoot>>,
}

impl SealedStripe {
    /// Seals the payload under the stripe's keys, codes and hashes it. `stripe` must be 32 fresh random bytes (SEC-2).
    ///
    /// # Errors
    /// [`StripeError::Erasure`] when the payload is empty or made for a wider code.
    pub fn build(
        codec: &Codec,
        payload: StripePayload,
        keys: &EpochKeys,
        stripe: StripeId,
    ) -> Result<Self, StripeError> {
        let params = codec.params();
        let used = payload.used();
        let stripe_key = keys.stripe_key(&stripe);
        let tail = payload.length % SHARD_PAYLOAD;
        let mut data = payload.buffers;
        if tail > 0
            && let Some(last) = data.last_mut()
        {
            last[tail..].fill(0);
        }
        for (slot, shard) in params.each_slot().zip(&mut data) {
            let sealed = seal_in_place(&stripe_key, &stripe, slot, shard);
            sealed.map_err(|source| StripeError::Sealed { stripe, source })?;
        }
        let mut parity: Vec<_> = (0..params.parity()).map(|_| ShardBuffer::take()).collect();
        codec.parity_into(&data, &mut parity)?;
        let virtual_slots = std::iter::repeat_with(|| None).take(params.data() - used);
        let shards: Vec<_> =
            data.into_iter().map(Some).chain(virtual_slots).chain(parity.into_iter().map(Some)).collect();
        let shards: Vec<_> = shards.into_iter().map(|shard| shard.map(ShardBuffer::freeze)).collect();
        let roots = shards.iter().map(|shard| shard.as_deref().map(root_of)).collect();
        Ok(Self { stripe, used: used as u8, epoch: keys.number(), shards, roots })
    }

    /// The stripe's id.
    #[must_use]
    pub const fn stripe(&self) -> StripeId {
        self.stripe
    }

    /// Data shards present.
    #[must_use]
    pub const fn used(&self) -> u8 {
        self.used
    }

    /// Each slot's shard; `None` for virtual slots.
    #[must_use]
    pub fn shards(&self) -> &[Option<Bytes>] {
        &self.shards
    }

    /// Each slot's root; `None` for virtual slots.
    #[must_use]
    pub fn roots(&self) -> &[Option<ShardRoot>] {
        &self.roots
    }

    /// Each slot's shard with its root.
    #[must_use]
    pub fn hashed(&self) -> Vec<Option<HashedShard>> {
        let with_root = |(bytes, root): (&Option<Bytes>, &Option<ShardRoot>)| {
            Some(HashedShard { root: (*root)?, bytes: bytes.clone()? })
        };
        self.shards.iter().zip(&self.roots).map(with_root).collect()
    }

    /// The row that describes it.
    #[must_use]
    pub fn row(&self, no: cairn_proto::index::StripeNo, group: u32, ordinal: u8) -> StripeRow {
        let (stripe, epoch, used) = (self.stripe, self.epoch, self.used);
        StripeRow { no, group, ordinal, epoch, stripe, used, roots: self.roots.clone() }
    }
}

/// A stripe's plaintext, and what was wrong on the way.
#[derive(Debug)]
pub struct OpenedStripe {
    /// All of the payload, zero padding at the end included.
    pub payload: StripePayload,
    /// Slots that came with bytes other than the row says: their holders lied or lost them.
    pub wrong: Vec<Slot>,
}

/// The root of a shard's bytes.
#[must_use]
pub fn root_of(shard: &[u8]) -> ShardRoot {
    ShardRoot::from_bytes(*blake3::hash(shard).as_bytes())
}

/// Whether these are the bytes that the row has for the slot.
#[must_use]
pub fn shard_is_right(row: &StripeRow, slot: Slot, shard: &[u8]) -> bool {
    shard.len() == SHARD_SIZE && row.root(slot).is_some_and(|root| *root == root_of(shard))
}

/// A shard with the root of its bytes, so that they are hashed once however often they are looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashedShard {
    root: ShardRoot,
    bytes: Bytes,
}

impl HashedShard {
    /// Hashes the bytes, whatever they are.
    #[must_use]
    pub fn new(bytes: Bytes) -> Self {
        Self { root: root_of(&bytes), bytes }
    }

    /// The bytes.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// Whether these are the bytes that the row has for the slot.
    #[must_use]
    pub fn is(&self, row: &StripeRow, slot: Slot) -> bool {
        self.bytes.len() == SHARD_SIZE && row.root(slot).is_some_and(|root| *root == self.root)
    }
}

/// Opens a whole stripe from the shards at hand, at most one a slot, in slot order (`None`: not at hand). Codes only
/// when a data shard is missing or wrong.
///
/// # Errors
/// [`StripeError::TooFew`] and the others; never a wrong byte (DUR-2).
pub fn open_stripe(
    codec: &Codec,
    row: &StripeRow,
    shards: Vec<Option<HashedShard>>,
    keys: &EpochKeys,
) -> Result<OpenedStripe, StripeError> {
    let params = check_row(codec, row)?;
    let (mut good, wrong) = sift(row, params, shards);
    let used = usize::from(row.used);
    complete(codec, row, &mut good, wrong.len(), false)?;
    let stripe_key = keys.stripe_key(&row.stripe);
    let mut buffers = Vec::with_capacity(used);
    for (slot, shard) in params.each_slot().zip(good).take(used) {
        let Some(mut shard) = shard else {
            return Err(StripeError::WrongBytes { stripe: row.stripe, slot });
        };
        // What was rebuilt is proven by this too.
        let opened = open_in_place(&stripe_key, &row.stripe, slot, &mut shard);
        opened.map_err(|source| StripeError::Sealed { stripe: row.stripe, source })?;
        buffers.push(shard);
    }
    let payload = StripePayload { capacity: params.stripe_payload(), length: used * SHARD_PAYLOAD, buffers };
    Ok(OpenedStripe { payload, wrong })
}

/// Opens one data shard: its [`SHARD_PAYLOAD`] bytes of plaintext.
///
/// That it opens is the proof that it is what the owner sealed for this slot: nobody else has the key, and it sealed nothing
/// else. So it is hashed only when it does not open, to tell whose fault that is.
///
/// # Errors
/// [`StripeError::WrongBytes`] when the bytes are not the row's, [`StripeError::Sealed`] when the keys are not.
pub fn open_shard(row: &StripeRow, slot: Slot, shard: &[u8], keys: &EpochKeys) -> Result<Bytes, StripeError> {
    let stripe = row.stripe;
    let wrong = StripeError::WrongBytes { stripe, slot };
    if slot.index() >= row.used.into() {
        return Err(wrong);
    }
    let mut plain = ShardBuffer::copy_of(shard).ok_or(wrong.clone())?;
    match open_in_place(&keys.stripe_key(&stripe), &stripe, slot, &mut plain) {
        Ok(()) => Ok(plain.freeze().slice(..SHARD_PAYLOAD)),
        Err(source) if shard_is_right(row, slot, shard) => Err(StripeError::Sealed { stripe, source }),
        Err(_) => Err(wrong),
    }
}

/// A shard that proved to be the one in the stripe's row: a data shard by opening, a parity shard by its root.
#[derive(Clone)]
pub struct ProvenShard {
    stripe: StripeId,
    slot: Slot,
    sealed: Bytes,
    /// Of a data shard, its plaintext.
    plain: Option<Bytes>,
}

impl std::fmt::Debug for ProvenShard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ProvenShard({} of {})", self.slot, self.stripe.short())
    }
}

impl ProvenShard {
    /// Proves a shard's bytes.
    ///
    /// # Errors
    /// As [`open_shard`].
    pub fn new(row: &StripeRow, slot: Slot, sealed: Bytes, keys: &EpochKeys) -> Result<Self, StripeError> {
        let stripe = row.stripe;
        let plain = if slot.index() < row.used.into() {
            Some(open_shard(row, slot, &sealed, keys)?)
        } else if shard_is_right(row, slot, &sealed) {
            None
        } else {
            return Err(StripeError::WrongBytes { stripe, slot });
        };
        Ok(Self { stripe, slot, sealed, plain })
    }
}

/// The payloads of a stripe's data shards, [`SHARD_PAYLOAD`] bytes each, from any `used` of its shards. What had to be
/// rebuilt is proven by opening it.
///
/// # Errors
/// [`StripeError::TooFew`] and the others; never a wrong byte (DUR-2).
pub fn open_proven(
    codec: &Codec,
    row: &StripeRow,
    shards: Vec<ProvenShard>,
    keys: &EpochKeys,
) -> Result<Vec<Bytes>, StripeError> {
    let (params, stripe, needed) = (check_row(codec, row)?, row.stripe, usize::from(row.used));
    let mut at_hand: Vec<Option<ProvenShard>> = vec![None; params.slots()];
    for shard in shards.into_iter().filter(|shard| shard.stripe == stripe) {
        if let Some(place) = at_hand.get_mut(shard.slot.index()) {
            *place = Some(shard);
        }
    }
    let good = at_hand.iter().flatten().count();
    if good < needed {
        return Err(StripeError::TooFew { stripe, good, needed, bad: 0 });
    }
    let sealed: Vec<Option<&[u8]>> = at_hand.iter().map(|shard| shard.as_ref().map(|s| &s.sealed[..])).collect();
    let rebuilt = codec.missing(needed, &sealed, false, |_| ShardBuffer::take())?;
    let stripe_key = keys.stripe_key(&stripe);
    let mut payloads: Vec<Option<Bytes>> = at_hand.into_iter().take(needed).map(|s| s.and_then(|s| s.plain)).collect();
    for (at, mut shard) in rebuilt {
        let slot = Slot::new(at as u8)?;
        let opened = open_in_place(&stripe_key, &stripe, slot, &mut shard);
        opened.map_err(|source| StripeError::Sealed { stripe, source })?;
        payloads[at] = Some(shard.freeze().slice(..SHARD_PAYLOAD));
    }
    payloads.into_iter().collect::<Option<_>>().ok_or(StripeError::TooFew { stripe, good, needed, bad: 0 })
}

/// Makes every shard of a stripe again from any k, without a key; byte-identical to the first ones (DUR-3).
///
/// # Errors
/// [`StripeError::TooFew`] and the others.
pub fn rebuild(
    codec: &Codec,
    row: &StripeRow,
    shards: Vec<Option<HashedShard>>,
) -> Result<Vec<Option<Bytes>>, StripeError> {
    let params = check_row(codec, row)?;
    let (mut good, wrong) = sift(row, params, shards);
    complete(codec, row, &mut good, wrong.len(), true)?;
    Ok(good.into_iter().map(|shard| shard.map(ShardBuffer::freeze)).collect())
}

fn check_row(codec: &Codec, row: &StripeRow) -> Result<CodeParams, StripeError> {
    let params = row.code()?;
    if params != codec.params() {
        return Err(DecodeError::Invalid { what: "stripe row", why: "of another code than its group" }.into());
    }
    Ok(params)
}

/// Keeps the shards that are right and names those that are not.
fn sift(
    row: &StripeRow,
    params: CodeParams,
    shards: Vec<Option<HashedShard>>,
) -> (Vec<Option<ShardBuffer>>, Vec<Slot>) {
    let mut wrong = Vec::new();
    let mut good: Vec<Option<ShardBuffer>> = (0..params.slots()).map(|_| None).collect();
    for ((slot, place), shard) in params.each_slot().zip(&mut good).zip(shards) {
        match shard {
            Some(shard) if shard.is(row, slot) => *place = ShardBuffer::copy_of(&shard.bytes),
            Some(_) if row.root(slot).is_some() => wrong.push(slot),
            _ => {}
        }
    }
    (good, wrong)
}

/// Rebuilds what is missing: of the data shards only, which the caller opens and so proves, or all, checked against their roots.
fn complete(
    codec: &Codec,
    row: &StripeRow,
    shards: &mut [Option<ShardBuffer>],
    bad: usize,
    parity_too: bool,
) -> Result<(), StripeError> {
    let (stripe, needed) = (row.stripe, usize::from(row.used));
    let there: Vec<_> = shards.iter().map(Option::is_some).collect();
    let good = there.iter().filter(|there| **there).count();
    if good < needed {
        return Err(StripeError::TooFew { stripe, good, needed, bad });
    }
    codec.reconstruct_into(needed, shards, parity_too, |_| ShardBuffer::take())?;
    if !parity_too {
        return Ok(());
    }
    for (slot, _) in row.present() {
        let rebuilt = shards[slot.index()].as_deref().filter(|_| !there[slot.index()]);
        if rebuilt.is_some_and(|shard| !shard_is_right(row, slot, shard)) {
            return Err(StripeError::WrongBytes { stripe, slot });
        }
    }
    Ok(())
}
