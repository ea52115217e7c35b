//! The DHT's records: head records of vaults and nothing else.
//!
//! # Invariants
//!
//! - **HEAD-1** Only a valid [`HeadRecord`] under its own look-up key is ever kept or served, and a newer one is
//!   never replaced by an older. Enforced by [`HeadRecords::offer`]; attacked by `tests` below.
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
use libp2p::kad::{
    ProviderRecord, Record, RecordKey,
    store::{Error, RecordStore, Result},
};
use tokio::sync::mpsc;

/// Most heads in memory: 8192 of at most 8 KiB are 64 MiB, and one head is one vault of the network, twenty copies
/// each: enough for 400 vaults a storage peer.
pub(crate) const HEADS_MAX: usize = 8192;

/// A head to be written down.
pub(crate) type HeadToKeep = (VaultKey, Vec<u8>);

pub(crate) struct Kept {
    record: Record,
    rank: (u32, u64),
}

/// The record store of our Kademlia.
pub(crate) struct HeadRecords {
    heads: HashMap<RecordKey, Kept>,
    /// Where accepted heads are made durable; none for a node without a store.
    keep: Option<mpsc::Sender<HeadToKeep>>,
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
        Self { heads: HashMap::new(), keep, capacity }
    }

    /// Takes heads that the store kept from before, without writing them again.
    pub(crate) fn restore(&mut self, heads: Vec<Vec<u8>>) {
        for value in heads.into_iter().take(self.capacity) {
            if let Ok(head) = HeadRecord::open(&value) {
                let key = RecordKey::new(&HeadRecord::lookup_key(&head.vault));
                let rank = (head.generation, head.sequence);
                self.heads.insert(key.clone(), Kept { record: Record::new(key, value), rank });
            }
        }
    }

    /// The head kept under a look-up key.
    pub(crate) fn find(&self, vault: &VaultKey) -> Option<&[u8]> {
        self.heads.get(&RecordKey::new(&HeadRecord::lookup_key(vault))).map(|kept| kept.record.value.as_slice())
    }

    /// HEAD-1. Takes a head into memory; the caller writes it down.
    pub(crate) fn offer(&mut self, record: Record) -> Result<Offered> {
        self.take(record, false)
    }

    fn take(&mut self, record: Record, write: bool) -> Result<Offered> {
        if record.value.len() > HEAD_RECORD_MAX {
            return Err(Error::ValueTooLarge);
        }
        // The trait has no word for "invalid"; any error refuses.
        let head = HeadRecord::open(&record.value).map_err(|_| Error::ValueTooLarge)?;
        if record.key.as_ref() != HeadRecord::lookup_key(&head.vault) {
            return Err(Error::ValueTooLarge);
        }
        let rank = (head.generation, head.sequence);
        let full = self.heads.len() >= self.capacity;
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
        let kept = Kept { record: Record { expires: None, ..record }, rank };
        match entry {
            hash_map::Entry::Occupied(mut entry) => {
                entry.insert(kept);
            }
            hash_map::Entry::Vacant(entry) => {
                entry.insert(kept);
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

    /// Writes through. An error makes Kademlia reset the stream, so that the sender sees the refusal.
    fn put(&mut self, record: Record) -> Result<()> {
        self.take(record, true).map(|_| ())
    }

    fn remove(&mut self, key: &RecordKey) {
        self.heads.remove(key);
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

    fn remove_provider(&mut self, _: &RecordKey, _: &libp2p::PeerId) {}
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
        assert_eq!(heads.offer(head(1, 5)).ok(), Some(Offered::Known));
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
    fn a_head_that_cannot_be_written_down_is_refused() {
        let (keep, mut kept) = mpsc::channel(1);
        let mut heads = HeadRecords::new(Some(keep), 8);
        assert!(heads.put(head(1, 1)).is_ok());
        assert!(heads.put(head(2, 1)).is_err());
        assert!(kept.try_recv().is_ok());
        assert!(heads.put(head(2, 1)).is_ok());
    }
}
