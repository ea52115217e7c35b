//! The DHT's records: head records of vaults and nothing else.
//!
//! # Invariants
//!
//! - **HEAD-1** Only a valid [`HeadRecord`] under its own look-up key is ever kept or served, and a newer one is
//!   never replaced by an older. Enforced by [`HeadRecords::offer`]; attacked by `tests` below.
//! - **HEAD-2** One peer brings at most [`VAULTS_PER_SOURCE`] vaults of its own that we did not know, and
//!   [`PASSED_ON_PER_SOURCE`] that it passes on; we pass on no more of one peer's than the first number; what was passed
//!   on never takes the last quarter of the places. So what one identity gives to each of many nodes reaches one of
//!   them through the others in small shares that leave room for theirs. Who brought a head is not written down: after a
//!   restart all count as passed on, and of them we pass on [`RESTORED_PASSED_ON`] in a round, by turns. While they fill
//!   three quarters of the places nothing more that is passed on is taken, from anybody: no head is ever dropped, because
//!   its owner may be away, and places become free only as owners come back, whose heads count as theirs again. Enforced by
//!   [`HeadRecords::offer`], [`HeadRecords::receive`], [`HeadRecords::restore`] and [`HeadRecords::next_round`]; attacked
//!   by `tests` below.
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

/// Vaults that one peer may bring as its own: an owner has a few. The quarter of all places that only these can take
/// needs [`HEADS_MAX`](crate::store::HEADS_MAX) / 4 / 16 identities, each with its solved puzzle.
pub(crate) const VAULTS_PER_SOURCE: usize = 16;
/// Vaults that one peer may pass on: those near both of us, of as many owners as this holds shares.
pub(crate) const PASSED_ON_PER_SOURCE: usize = 16 * VAULTS_PER_SOURCE;

/// Restored vaults that are passed on in one round of replication: as many as a peer takes from us
/// ([`PASSED_ON_PER_SOURCE`]), since one identity may have brought them all. All have their turn: 4096 in sixteen rounds.
/// Each of the twenty who keep a head draws its own order, so that somebody's turn comes sooner.
pub(crate) const RESTORED_PASSED_ON: usize = PASSED_ON_PER_SOURCE;

/// A head to be written down.
pub(crate) type HeadToKeep = (VaultKey, Vec<u8>);

pub(crate) struct Kept {
    record: Record,
    rank: (u32, u64),
    source: Source,
    /// Within its source's share of what we pass on in each round; restored ones take turns.
    passes: bool,
    /// The round in which a restored one had its last turn.
    round: u64,
}

/// Who brought a vault's first head since we run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// We did.
    Own,
    /// It was here before; nobody remembers who.
    Restored,
    /// A peer, and how.
    Peer(PeerId, Hand),
}

impl Source {
    /// Whether its vaults count as passed on.
    fn is_second_hand(self) -> bool {
        matches!(self, Self::Restored | Self::Peer(_, Hand::Second))
    }
}

/// How a head came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hand {
    /// As the peer's own.
    First,
    /// The peer holds it for somebody, as we do.
    Second,
}

/// Vaults that a peer brought, by hand.
#[derive(Clone, Copy, Debug, Default)]
struct Brought {
    first: usize,
    second: usize,
}

impl Brought {
    fn of(&mut self, hand: Hand) -> &mut usize {
        match hand {
            Hand::First => &mut self.first,
            Hand::Second => &mut self.second,
        }
    }
}

/// The record store of our Kademlia.
pub(crate) struct HeadRecords {
    heads: HashMap<RecordKey, Kept>,
    /// Where accepted heads are made durable; none for a node without a store.
    keep: Option<mpsc::Sender<HeadToKeep>>,
    /// Vaults kept by who brought them; each counts at least one of `heads`, so `capacity` bounds it too.
    sources: HashMap<PeerId, Brought>,
    /// Vaults of `heads` that count as passed on to us.
    second_hand: usize,
    capacity: usize,
    /// Decides who of the restored is next, and in which round we are.
    lots: [u8; 32],
    round: u64,
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
        let (heads, sources) = (HashMap::new(), HashMap::new());
        Self { heads, keep, sources, second_hand: 0, capacity, lots: [0; 32], round: 0 }
    }

    /// HEAD-2. Takes heads that the store kept from before, without writing them again. `lots`: fresh, so that nobody can
    /// make up vaults that are drawn.
    pub(crate) fn restore(&mut self, heads: Vec<Vec<u8>>, lots: &[u8; 32]) {
        self.lots = *lots;
        for value in heads.into_iter().take(self.capacity) {
            if let Ok(head) = HeadRecord::open(&value) {
                let key = RecordKey::new(&HeadRecord::lookup_key(&head.vault));
                let rank = (head.generation, head.sequence);
                let record = Record::new(key.clone(), value);
                let kept = Kept { record, rank, source: Source::Restored, passes: false, round: 0 };
                self.second_hand += usize::from(self.heads.insert(key, kept).is_none());
            }
        }
    }

    /// The head kept under a look-up key.
    pub(crate) fn find(&self, vault: &VaultKey) -> Option<&[u8]> {
        self.heads.get(&RecordKey::new(&HeadRecord::lookup_key(vault))).map(|kept| kept.record.value.as_slice())
    }

    /// HEAD-1, HEAD-2. Takes a head from a peer into memory; the caller writes it down.
    pub(crate) fn offer(&mut self, record: Record, source: PeerId) -> Result<Offered> {
        self.take(record, Source::Peer(source, Hand::First), false)
    }

    /// HEAD-1, HEAD-2. Takes a head that came over Kademlia, and writes it through. It is its publisher's own.
    pub(crate) fn receive(&mut self, record: Record, source: PeerId) -> Result<Offered> {
        let hand = if record.publisher == Some(source) { Hand::First } else { Hand::Second };
        self.take(record, Source::Peer(source, hand), true)
    }

    /// HEAD-2. Keys of the heads that we pass on to whoever is near them in the next round. Of the restored ones those whose
    /// turn was longest ago; lots decide where all begin.
    pub(crate) fn next_round(&mut self) -> Vec<RecordKey> {
        self.round += 1;
        let mut waiting: Vec<(u64, [u8; 32], RecordKey)> = Vec::new();
        let mut keys = Vec::new();
        for (key, kept) in &self.heads {
            if kept.source == Source::Restored {
                waiting.push((kept.round, *blake3::keyed_hash(&self.lots, key.as_ref()).as_bytes(), key.clone()));
            } else if kept.passes {
                keys.push(key.clone());
            }
        }
        waiting.sort_unstable_by_key(|(round, lot, _)| (*round, *lot));
        for (_, _, key) in waiting.into_iter().take(RESTORED_PASSED_ON) {
            if let Some(kept) = self.heads.get_mut(&key) {
                kept.round = self.round;
            }
            keys.push(key);
        }
        keys
    }

    /// Whether this source's share of the vaults is used up.
    fn is_share_full(&self, source: Source) -> bool {
        let Source::Peer(peer, hand) = source else { return false };
        let mut brought = self.sources.get(&peer).copied().unwrap_or_default();
        match hand {
            Hand::First => *brought.of(hand) >= VAULTS_PER_SOURCE,
            Hand::Second => {
                *brought.of(hand) >= PASSED_ON_PER_SOURCE || self.second_hand >= self.capacity - self.capacity / 4
            }
        }
    }

    /// Counts one more vault of this source; whether we pass it on.
    fn count(&mut self, source: Source) -> bool {
        self.second_hand += usize::from(source.is_second_hand());
        let Source::Peer(peer, hand) = source else { return true };
        let brought = self.sources.entry(peer).or_default();
        *brought.of(hand) += 1;
        *brought.of(hand) <= VAULTS_PER_SOURCE
    }

    /// Counts one vault of this source less.
    fn discount(&mut self, source: Source) {
        self.second_hand -= usize::from(source.is_second_hand());
        let Source::Peer(peer, hand) = source else { return };
        if let hash_map::Entry::Occupied(mut brought) = self.sources.entry(peer) {
            *brought.get_mut().of(hand) -= 1;
            if brought.get().first + brought.get().second == 0 {
                brought.remove();
            }
        }
    }

    /// Counts a restored vault as this source's: now it is known whose it is.
    fn now_of(&mut self, source: Source) -> (Source, bool) {
        self.discount(Source::Restored);
        (source, self.count(source))
    }

    fn take(&mut self, record: Record, source: Source, write: bool) -> Result<Offered> {
        if record.value.len() > HEAD_RECORD_MAX {
            return Err(Error::ValueTooLarge);
        }
        // The trait has no word for "invalid"; any error refuses.
        let head = HeadRecord::open(&record.value).map_err(|_| Error::ValueTooLarge)?;
        if record.key.as_ref() != HeadRecord::lookup_key(&head.vault) {
            return Err(Error::ValueTooLarge);
        }
        let rank = (head.generation, head.sequence);
        let share_full = self.is_share_full(source);
        let owner_is_back = matches!(source, Source::Own | Source::Peer(_, Hand::First)) && !share_full;
        let kept = self.heads.get(&record.key).map(|kept| (kept.source, kept.passes, kept.round));
        match self.heads.get(&record.key) {
            Some(kept) if kept.record.value == record.value => {
                if owner_is_back && kept.source == Source::Restored {
                    let (source, passes) = self.now_of(source);
                    if let Some(kept) = self.heads.get_mut(&record.key) {
                        (kept.source, kept.passes) = (source, passes);
                    }
                }
                return Ok(Offered::Known);
            }
            Some(kept) if kept.rank >= rank => return Err(Error::ValueTooLarge),
            None if share_full || self.heads.len() >= self.capacity => return Err(Error::MaxRecords),
            _ => {}
        }
        if let Some(keep) = self.keep.as_ref().filter(|_| write) {
            keep.try_send((head.vault, record.value.clone())).map_err(|_| Error::MaxRecords)?;
        }
        // No expiry: the vault's owner may be away for months; the network keeps the last word.
        // No publisher either: what we pass on is not our own.
        let record = Record { expires: None, publisher: None, ..record };
        let (source, passes, round) = match kept {
            Some((Source::Restored, ..)) if owner_is_back => {
                let (source, passes) = self.now_of(source);
                (source, passes, 0)
            }
            Some(as_before) => as_before,
            None => (source, self.count(source), 0),
        };
        self.heads.insert(record.key.clone(), Kept { record, rank, source, passes, round });
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
        self.take(record, Source::Own, true).map(|_| ())
    }

    fn remove(&mut self, key: &RecordKey) {
        if let Some(kept) = self.heads.remove(key) {
            self.discount(kept.source);
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

    /// A head as its owner publishes it.
    fn own(record: Record, publisher: PeerId) -> Record {
        Record { publisher: Some(publisher), ..record }
    }

    /// The i-th of many vaults.
    fn nth(label: &str, i: usize) -> Record {
        head_of(label, i, 1)
    }

    /// Its next head.
    fn moved(label: &str, i: usize) -> Record {
        head_of(label, i, 2)
    }

    fn head_of(label: &str, i: usize, sequence: u64) -> Record {
        let key = SigningKey::from_bytes(blake3::hash(format!("{label}{i}").as_bytes()).as_bytes());
        let vault = VaultKey::from_bytes(key.verifying_key().to_bytes());
        let record = HeadRecord { vault, generation: 0, sequence, sealed: vec![1; 40] };
        Record::new(RecordKey::new(&HeadRecord::lookup_key(&vault)), record.seal(&key))
    }

    #[test]
    fn one_peer_cannot_fill_all_places() {
        let (keep, mut kept) = mpsc::channel(256);
        let mut heads = HeadRecords::new(Some(keep), 256);
        let (flooder, other) = (PeerId::random(), PeerId::random());
        for vault in 0..VAULTS_PER_SOURCE as u8 {
            let record = own(head(vault, 1), flooder);
            let taken = if vault % 2 == 0 { heads.offer(record, flooder) } else { heads.receive(record, flooder) };
            assert!(matches!(taken, Ok(Offered::Taken)), "vault {vault}");
        }
        assert!(heads.offer(head(100, 1), flooder).is_err(), "HEAD-2");
        assert!(heads.receive(own(head(100, 1), flooder), flooder).is_err(), "HEAD-2 over Kademlia");
        assert!(heads.offer(head(3, 2), flooder).is_ok(), "a known vault may still move on");
        assert!(heads.receive(own(head(100, 1), other), other).is_ok());
        assert!(heads.put(head(101, 1)).is_ok(), "our own");
        assert!(heads.receive(own(head(100, 2), flooder), flooder).is_ok(), "another's vault is no new one");
        heads.remove(&head(3, 0).key);
        assert!(heads.receive(own(head(102, 1), flooder), flooder).is_ok(), "a place became free");
        let written = std::iter::from_fn(|| kept.try_recv().ok()).count();
        assert_eq!(written, VAULTS_PER_SOURCE / 2 + 4, "what came over Kademlia, and our own");
    }

    #[test]
    fn a_flood_through_honest_nodes_leaves_room_for_what_they_hold() {
        let capacity = 1024;
        let mut b = HeadRecords::new(None, capacity);
        let attacker = PeerId::random();
        let honest: Vec<PeerId> = (0..16).map(|_| PeerId::random()).collect();
        for (node, id) in honest.iter().enumerate() {
            let mut a = HeadRecords::new(None, capacity);
            // Both ways, until it is refused.
            for i in 0..PASSED_ON_PER_SOURCE + 9 {
                let _ = a.receive(own(nth(&format!("own {node} "), i), attacker), attacker);
                let _ = a.receive(nth(&format!("passed {node} "), i), attacker);
            }
            let genuine = nth("genuine", node);
            assert!(a.offer(genuine.clone(), PeerId::random()).is_ok());
            let passed: Vec<Record> = a.next_round().iter().map(|key| a.get(key).expect("kept").into_owned()).collect();
            assert_eq!(passed.len(), 2 * VAULTS_PER_SOURCE + 1, "HEAD-2: shares of what we pass on");
            for record in passed {
                assert_eq!(record.publisher, None, "not our own");
                let taken = b.receive(record.clone(), *id);
                assert!(taken.is_ok() || record != genuine, "HEAD-2: the genuine vault of node {node}");
            }
            assert!(b.find(&HeadRecord::open(&genuine.value).expect("valid").vault).is_some());
        }
        // One identity with a share of junk at each of as many nodes as it likes, and others that lie outright.
        for liar in 0..4 {
            let id = PeerId::random();
            for i in 0..PASSED_ON_PER_SOURCE {
                let _ = b.receive(nth(&format!("lie {liar} "), i), id);
            }
        }
        assert_eq!(b.heads.len(), capacity * 3 / 4, "the last quarter is for owners");
        let owner = PeerId::random();
        assert!(b.receive(own(nth("owner", 0), owner), owner).is_ok());
        assert!(b.offer(nth("owner", 1), owner).is_ok());
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

    #[test]
    fn after_a_restart_the_last_quarter_is_still_for_owners() {
        let capacity = 1024;
        let kept: Vec<Record> = (0..capacity * 3 / 4).map(|i| nth("before ", i)).collect();
        let mut heads = HeadRecords::new(None, capacity);
        heads.restore(kept.iter().map(|record| record.value.clone()).collect(), &[1; 32]);
        for i in 0..PASSED_ON_PER_SOURCE {
            let passed = heads.receive(nth("after ", i), PeerId::random());
            assert!(passed.is_err(), "HEAD-2: {i}");
        }
        let owner = PeerId::random();
        assert!(heads.receive(own(nth("owner", 0), owner), owner).is_ok());
        assert!(heads.put(nth("own", 0)).is_ok());

        // What one identity may have brought is passed on in the share of one peer, by turns that lots decide.
        type Keys = std::collections::BTreeSet<Vec<u8>>;
        let next = |heads: &mut HeadRecords| -> Keys {
            let mut keys = heads.next_round();
            keys.retain(|key| kept.iter().any(|record| record.key == *key));
            keys.iter().map(RecordKey::to_vec).collect()
        };
        let rounds = kept.len().div_ceil(RESTORED_PASSED_ON);
        let first: Vec<Keys> = (0..rounds).map(|_| next(&mut heads)).collect();
        assert!(first.iter().all(|drawn| drawn.len() == RESTORED_PASSED_ON), "HEAD-2");
        assert_eq!(
            first.iter().flatten().collect::<std::collections::BTreeSet<_>>().len(),
            kept.len(),
            "all had a turn"
        );
        assert!(next(&mut heads) == first[0], "and then again");
        let mut other = HeadRecords::new(None, capacity);
        other.restore(kept.iter().map(|record| record.value.clone()).collect(), &[2; 32]);
        assert!(next(&mut other) != first[0], "nobody can foresee them");

        // An owner that comes back, with news or without, gives its place among those passed on free, and is passed on.
        let owner = PeerId::random();
        for (i, record) in [moved("before ", 0), nth("before ", 1)].into_iter().enumerate() {
            assert!(heads.receive(own(record, owner), owner).is_ok());
            let mut always = (0..rounds).map(|_| next(&mut heads));
            assert!(always.all(|drawn| drawn.contains(&kept[i].key.to_vec())), "{i}");
            assert!(heads.receive(nth("after ", i), PeerId::random()).is_ok());
            assert!(heads.receive(nth("after ", 2), PeerId::random()).is_err(), "HEAD-2");
        }
    }
}
