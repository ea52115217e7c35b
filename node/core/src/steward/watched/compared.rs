//! How stewards find out whether they know the same of a group: digests, and maps where these differ.

use std::collections::BTreeSet;

use cairn_proto::{PeerKey, Timestamp, order::OrderId};

use super::{
    super::{Rhythm, message::Say},
    Watched,
};
use crate::liveness::{Presence, Watch};

impl Watched {
    /// In one half of the owner's sheets, in the other of stewards and entries: equal ones have equal halves.
    pub(in crate::steward) fn digest(&self) -> [u8; 32] {
        let mut sheets = blake3::Hasher::new_derive_key("cairn 2026-11 group sheets digest v1");
        for sheet in &self.record.sheets {
            sheets.update(&sheet.generation.to_le_bytes());
        }
        let mut map = blake3::Hasher::new_derive_key("cairn 2026-11 group map digest v1");
        map.update(self.committee().id());
        // One that half signed meanwhile is worth more, and the same to who looks at its name alone.
        for (_, change) in self.chain.successions() {
            map.update(&change.order.id().unwrap_or_default());
        }
        for (order, entry) in &self.entries {
            map.update(order).update(&cairn_proto::Taken::hash(&entry.sealed));
        }
        let mut digest = *sheets.finalize().as_bytes();
        digest[16..].copy_from_slice(&map.finalize().as_bytes()[16..]);
        digest
    }

    /// Whether a digest is one of the same sheets, the same mandate taken for granted.
    pub(in crate::steward) fn has_sheets_of(&self, digest: &[u8; 32]) -> bool {
        self.digest()[..16] == digest[..16]
    }

    /// Another steward whose map is to be compared with ours, when it is time.
    pub(in crate::steward) fn compare_with(
        &mut self,
        me: &PeerKey,
        now: Timestamp,
        rhythm: &Rhythm,
        watch: &Watch,
    ) -> Option<(PeerKey, [u8; 32])> {
        if now.ms_since(self.compared) < rhythm.compare_ms {
            return None;
        }
        self.compared = now;
        let there = |peer: &&PeerKey| **peer != *me && watch.belief(peer, now).presence <= Presence::Late;
        let others: Vec<PeerKey> = self.committee().stewards().iter().filter(there).copied().collect();
        let at = (now.0 / rhythm.compare_ms.max(1)) as usize % others.len().max(1);
        self.asked_for_map = others.get(at).copied();
        self.asked_for_map.map(|peer| (peer, self.digest()))
    }

    /// Another steward goes by another committee: its map is asked for, unless one was within a look.
    pub(in crate::steward) fn compare_soon(
        &mut self,
        with: PeerKey,
        now: Timestamp,
        rhythm: &Rhythm,
    ) -> Option<[u8; 32]> {
        if now.ms_since(self.compared) < rhythm.look_ms {
            return None;
        }
        self.compared = now;
        self.asked_for_map = Some(with);
        Some(self.digest())
    }

    /// Whether a map is waited for from there.
    pub(in crate::steward) fn has_asked(&self, peer: &PeerKey) -> bool {
        self.asked_for_map == Some(*peer)
    }

    /// Whether a map that was asked for came from there, and lacks something that we have.
    pub(in crate::steward) fn answer_to(&mut self, from: &PeerKey, changes: usize, theirs: &BTreeSet<OrderId>) -> bool {
        if self.asked_for_map != Some(*from) {
            return false;
        }
        self.asked_for_map = None;
        changes < self.chain.changes().len() || self.entries.keys().any(|order| !theirs.contains(order))
    }

    pub(in crate::steward) fn map_message(&self) -> Say {
        let (changes, past, entries) = (self.chain.changes().to_vec(), self.chain.past(), self.entries_to_tell());
        Say::Map { group: self.group(), changes, past, entries }
    }

    pub(in crate::steward) fn whole(&self) -> Say {
        let (changes, past, entries) = (self.chain.changes().to_vec(), self.chain.past(), self.entries_to_tell());
        Say::Record { record: Box::new(self.record.clone()), changes, past, entries }
    }
}
