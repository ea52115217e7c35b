//! The DHT's records: head records of vaults and nothing else.
//!
//! # Invariants
//!
//! - **HEAD-1** Only a valid [`HeadRecord`] under its own look-up key is ever kept or served, and a newer one is
//!   never replaced by an older. Enforced by [`HeadRecords::offer`]; attacked by `tests` below.
//! - **HEAD-2** One peer brings at most [`VAULTS_PER_SOURCE`] vaults that we did not know. Enforced by
//!   [`HeadRecords::offer`] and [`HeadRecords::receive`]; attacked by `tests` below.
//! - Provider records are never kept.

use std::{
    borrow::Cow,
    collections::{HashMap, hash_map},
    iter, slice,
};

use cairn_proto::{
    VaultKey,
    message::{HEAD_RECORD_MAX, HeadRecord},
};
use libp2p::{
    PeerId,
    kad::{
        ProviderRecord, Record, RecordKey,
        store::{Error, RecordStore, Result},
    },
};
use tokio::sync::mpsc;

/// Vaults that one peer may bring. An owner has a few, and a peer that replicates the heads it holds brings a newcomer
/// some of the vaults near both; the others come from other peers or with their owners' next snapshot. To fill all
/// places an attacker needs [`HEADS_MAX`](crate::store::HEADS_MAX) / 64 identities, each with its solved puzzle.
pub(crate) const VAULTS_PER_SOURCE: usize = 64;

/// A head to be written down.
pub(crate) type HeadToKeep = (VaultKey, Vec<u8>);

pub(crate) struct Kept {
    record: Record,
    rank: (u32, u64),
    /// Who brought the vault's first head, since we run.
    source: Option<PeerId>,
}

/// The record store of our Kademlia.
pub(crate) struct HeadRecords {
    heads: HashMap<RecordKey, Kept>,
    /// Where accepted heads are made durable; none for a node without a store.
    keep: Option<mpsc::Sender<HeadToKeep>>,
    /// Vaults kept by who brought them; each counts at least one of `heads`, so `capacity` bounds it too.
    sources: HashMap<PeerId, usize>,
    capacity: usize,
}

/// What became of an offered head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offered {
    /// It is the newest now.
    Taken,
    /// We had exactly this one.
    Known,
}

impl HeadRecords {
    pub(crate) fn new(keep: Option<mpsc::Sender<HeadToKeep>>, capacity: usize) -> Self {
        Self { heads: HashMap::new(), keep, sources: HashMap::new(), capacity }
    }

    /// Takes heads that the store kept from before, without writing them again.
    pub(crate) fn restore(&mut self, heads: Vec<Vec<u8>>) {
        for value in heads.into_iter().take(self.capacity) {
            if let Ok(head) = HeadRecord::open(&value) {
                let key = RecordKey::new(&HeadRecord::lookup_key(&head.vault));
                let rank = (head.generation, head.sequence);
                self.heads.insert(key.clone(), Kept { record: Record::new(key, value), rank, source: None });
            }
        }
    }

    /// The head kept under a look-up key.
    pub(crate) fn find(&self, vault: &VaultKey) -> Option<&[u8]> {
        self.heads.get(&RecordKey::new(&HeadRecord::lookup_key(vault))).map(|kept| kept.record.value.as_slice())
    }

    /// HEAD-1, HEAD-2. Takes a head from a peer into memory; the caller writes it down.
    pub(crate) fn offer(&mut self, record: Record, source: PeerId) -> Result<Offered> {
        self.take(record, Some(source), false)
    }

    /// HEAD-1, HEAD-2. Takes a head that came over Kademlia, and writes it through.
    pub(crate) fn receive(&mut self, record: Record, source: PeerId) -> Result<Offered> {
        self.take(record, Some(source), true)
    }

    fn take(&mut self, record: Record, source: Option<PeerId>, write: bool) -> Result<Offered> {
        if record.value.len() > HEAD_RECORD_MAX {
            return Err(Error::ValueTooLarge);
        }
        // The trait has no word for "invalid"; any error refuses.
        let head = HeadRecord::open(&record.value).map_err(|_| Error::ValueTooLarge)?;
        if record.key.as_ref() != HeadRecord::lookup_key(&head.vault) {
            return Err(Error::ValueTooLarge);
        }
        let rank = (head.generation, head.sequence);
        let brought = source.and_then(|source| self.sources.get(&source)).copied().unwrap_or(0);
        let full = self.heads.len() >= self.capacity || brought >= VAULTS_PER_SOURCE;
        let entry = self.heads.entry(record.key.clone());
        match &entry {
            hash_map::Entry::Occupied(kept) if kept.get().record.value == record.value => return Ok(Offered::Known),
            hash_map::Entry::Occupied(kept) if kept.get().rank >= rank => return Err(Error::ValueTooLarge),
            hash_map::Entry::Vacant(_) if full => return Err(Error::MaxRecords),
            _ => {}
        }
        if let Some(keep) = self.keep.as_ref().filter(|_| write) {
            keep.try_send((head.vault, record.value.clone())).map_err(|_| Error::MaxRecords)?;
        }
        // No expiry: the vault's owner may be away for months; the network keeps the last word.
        let record = Record { expires: None, ..record };
        match entry {
            hash_map::Entry::Occupied(mut entry) => {
                let source = entry.get().source;
                entry.insert(Kept { record, rank, source });
            }
            hash_map::Entry::Vacant(entry) => {
                entry.insert(Kept { record, rank, source });
                if let Some(source) = source {
                    *self.sources.entry(source).or_default() += 1;
                }
            }
        }
        Ok(Offered::Taken)
    }
}

impl RecordStore for HeadRecords {
    type RecordsIter<'a> = iter::Map<hash_map::Values<'a, RecordKey, Kept>, fn(&'a Kept) -> Cow<'a, Record>>;
    type ProvidedIter<'a> =
        iter::Map<slice::Iter<'a, ProviderRecord>, fn(&'a ProviderRecord) -> Cow<'a, ProviderRecord>>;

    fn get(&self, key: &RecordKey) -> Option<Cow<'_, Record>> {
        self.heads.get(key).map(|kept| Cow::Borrowed(&kept.record))
    }

    /// Writes through. Only our own heads come this way: those of others come as requests, with their source.
    fn put(&mut self, record: Record) -> Result<()> {
        self.take(record, None, true).map(|_| ())
    }

    fn remove(&mut self, key: &RecordKey) {
        let Some(source) = self.heads.remove(key).and_then(|kept| kept.source) else { return };
        if let hash_map::Entry::Occupied(mut brought) = self.sources.entry(source) {
            *brought.get_mut() -= 1;
            if *brought.get() == 0 {
                brought.remove();
            }
        }
    }

    fn records(&self) -> Self::RecordsIter<'_> {
        self.heads.values().map(|kept| Cow::Borrowed(&kept.record))
    }

    fn add_provider(&mut self, _: ProviderRecord) -> Result<()> {
        Err(Error::MaxProvidedKeys)
    }

    fn providers(&self, _: &RecordKey) -> Vec<ProviderRecord> {
        Vec::new()
    }

    fn provided(&self) -> Self::ProvidedIter<'_> {
        [].iter().map(Cow::Borrowed)
    }

    fn remove_provider(&mut self, _: &RecordKey, _: &PeerId) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::SigningKey;

    fn head(vault: u8, sequence: u64) -> Record {
        let key = SigningKey::from_bytes(&[vault; 32]);
        let vault = VaultKey::from_bytes(key.verifying_key().to_bytes());
        let record = HeadRecord { vault, generation: 0, sequence, sealed: vec![1; 40] };
        Record::new(RecordKey::new(&HeadRecord::lookup_key(&vault)), record.seal(&key))
    }

    #[test]
    fn only_valid_heads_under_their_own_key_and_the_newest_wins() {
        let mut heads = HeadRecords::new(None, 2);
        assert!(heads.put(head(1, 5)).is_ok());
        assert!(heads.put(head(1, 4)).is_err(), "older");
        assert_eq!(heads.offer(head(1, 5), PeerId::random()).ok(), Some(Offered::Known));
        assert!(heads.put(head(1, 6)).is_ok());
        assert_eq!(heads.get(&head(1, 0).key).expect("kept").value, head(1, 6).value);

        assert!(heads.put(Record { key: head(2, 0).key, ..head(1, 7) }).is_err(), "another's key");
        assert!(heads.put(Record { value: vec![7; 90], ..head(2, 1) }).is_err(), "junk");
        assert!(heads.put(Record { value: vec![7; HEAD_RECORD_MAX + 1], ..head(2, 1) }).is_err(), "too long");
        assert!(heads.put(head(2, 1)).is_ok());
        assert!(heads.put(head(3, 1)).is_err(), "full");
        assert!(heads.put(head(1, 8)).is_ok(), "a known vault may still move on");
    }

    #[test]
    fn one_peer_cannot_fill_all_places() {
        let (keep, mut kept) = mpsc::channel(256);
        let mut heads = HeadRecords::new(Some(keep), 256);
        let (flooder, other) = (PeerId::random(), PeerId::random());
        for vault in 0..VAULTS_PER_SOURCE as u8 {
            let record = head(vault, 1);
            let taken = if vault % 2 == 0 { heads.offer(record, flooder) } else { heads.receive(record, flooder) };
            assert!(matches!(taken, Ok(Offered::Taken)), "vault {vault}");
        }
        assert!(heads.offer(head(100, 1), flooder).is_err(), "HEAD-2");
        assert!(heads.receive(head(100, 1), flooder).is_err(), "HEAD-2 over Kademlia");
        assert!(heads.offer(head(3, 2), flooder).is_ok(), "a known vault may still move on");
        assert!(heads.receive(head(100, 1), other).is_ok());
        assert!(heads.put(head(101, 1)).is_ok(), "our own");
        assert!(heads.receive(head(100, 2), flooder).is_ok(), "another's vault is no new one");
        heads.remove(&head(3, 0).key);
        assert!(heads.receive(head(102, 1), flooder).is_ok(), "a place became free");
        let written = std::iter::from_fn(|| kept.try_recv().ok()).count();
        assert_eq!(written, 32 + 4, "what came over Kademlia, and our own");
    }

    #[test]
    fn a_head_that_cannot_be_written_down_is_refused() {
        let (keep, mut kept) = mpsc::channel(1);
        let mut heads = HeadRecords::new(Some(keep), 8);
        assert!(heads.put(head(1, 1)).is_ok());
        assert!(heads.put(head(2, 1)).is_err());
        assert!(kept.try_recv().is_ok());
        assert!(heads.put(head(2, 1)).is_ok());
    }
}
