//! What the tests of rebuilds share: stripes, sessions, and chains of parties that run a slice.

use cairn_proto::{CodeParams, DecodeError, GroupId, ShardRoot, Slot, Timestamp};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use super::*;
use crate::erasure::Codec;

mod cancel;
mod formats;
mod ledger;
mod liar;
mod refusals;
mod reuse;
mod search;
mod taint;
mod wire;

pub(super) fn slot(index: usize) -> Slot {
    Slot::new(index as u8).expect("a slot")
}

pub(super) fn slots(indices: &[usize]) -> Vec<Slot> {
    indices.iter().map(|index| slot(*index)).collect()
}

/// A stripe of any shard length.
pub(super) struct Stripe {
    pub(super) codec: Codec,
    pub(super) used: usize,
    shards: Vec<Vec<u8>>,
}

impl Stripe {
    pub(super) fn new(code: CodeParams, used: usize, length: usize) -> Self {
        let codec = Codec::new(code);
        let mut chance = ChaCha8Rng::seed_from_u64(length as u64 ^ 0xb11d);
        let mut shards = vec![vec![0; length]; used];
        shards.iter_mut().for_each(|shard| chance.fill_bytes(shard));
        let parity = codec.parity(&shards).expect("a stripe");
        shards.resize(code.data(), vec![0; length]);
        shards.extend(parity);
        Self { codec, used, shards }
    }

    pub(super) fn shard(&self, slot: Slot) -> &[u8] {
        &self.shards[slot.index()]
    }

    pub(super) fn real(&self) -> Vec<Slot> {
        real(&self.codec, self.used)
    }
}

/// The slots of a stripe that are not virtual.
pub(super) fn real(codec: &Codec, used: usize) -> Vec<Slot> {
    codec.params().each_slot().filter(|slot| !(used..codec.params().data()).contains(&slot.index())).collect()
}

/// Every choice of so many, in order.
pub(super) fn choices(from: &[Slot], count: usize) -> Vec<Vec<Slot>> {
    let all = (0u32..1 << from.len()).filter(|mask| mask.count_ones() as usize == count);
    all.map(|mask| (0..from.len()).filter(|i| mask & (1 << i) != 0).map(|i| from[i]).collect()).collect()
}

/// `count` of them, in an order of chance.
pub(super) fn sample(from: &[Slot], count: usize, chance: &mut ChaCha8Rng) -> Vec<Slot> {
    let mut left = from.to_vec();
    (0..count).map(|_| left.swap_remove(chance.next_u32() as usize % left.len())).collect()
}

/// A party's secret; `tag` tells sessions apart.
pub(super) fn secret(tag: u64, slot: Slot) -> EphemeralSecret {
    EphemeralSecret::from_entropy(*blake3::hash(&[&tag.to_le_bytes()[..], &[slot.as_u8()]].concat()).as_bytes())
}

pub(super) fn order(used: usize, lost: Slot, helpers: &[Slot], tag: u64) -> Order {
    Order {
        group: GroupId::from_bytes([7; 32]),
        ordinal: 3,
        used: used as u8,
        lost,
        attempt: 1,
        nonce: *blake3::hash(&tag.to_le_bytes()).as_bytes(),
        new_holder: secret(tag, lost).public(),
        helpers: helpers.iter().map(|slot| (*slot, secret(tag, *slot).public())).collect(),
    }
}

pub(super) fn plan(codec: &Codec, used: usize, lost: Slot, helpers: &[Slot], tag: u64) -> Session {
    Session::plan(codec, order(used, lost, helpers, tag)).expect("a session")
}

pub(super) fn admit(session: &Session, slot: Slot) -> Admitted {
    SessionLedger::default().admit(Timestamp(0), session.clone(), slot).expect("nothing stands against it")
}

/// The parties of a session, each with a ledger of its own.
pub(super) struct Parties {
    pub(super) helpers: Vec<(Slot, Helper)>,
    pub(super) holder: NewHolder,
}

impl Parties {
    pub(super) fn new(codec: &Codec, session: &Session, tag: u64, root: ShardRoot) -> Self {
        let helper = |link: &Link| {
            let made = Helper::new(admit(session, link.slot), codec, secret(tag, link.slot));
            (link.slot, made.expect("a helper"))
        };
        let holder = NewHolder::new(admit(session, session.lost()), codec, secret(tag, session.lost()), root);
        Self { helpers: session.links().iter().map(helper).collect(), holder: holder.expect("a new holder") }
    }

    /// Runs a slice; `tamper` may change what a helper sends. Every message, in order.
    pub(super) fn run(
        &mut self,
        stripe: &Stripe,
        slice: usize,
        mut tamper: impl FnMut(Slot, &mut [u8]),
    ) -> Vec<Vec<u8>> {
        let mut messages: Vec<Vec<u8>> = Vec::new();
        for (slot, helper) in &mut self.helpers {
            let own = &stripe.shard(*slot)[slice * SLICE_SIZE..][..SLICE_SIZE];
            let mut out = vec![0xa5; SLICE_SIZE];
            helper.pass(slice, messages.last().map(Vec::as_slice), own, &mut out).expect("in order");
            tamper(*slot, &mut out);
            messages.push(out);
        }
        self.holder.take(slice, messages.last().expect("one helper at least")).expect("in order");
        messages
    }
}
