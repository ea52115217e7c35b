//! Who may have sent wrong bytes in a rebuild, by the word of new holders: left out of the next rebuilds while others are there.
//!
//! What helpers send is masked, so no root that is wrong proves anything of anybody: of a new holder that names a helper and the helper
//! one lies, and nobody can tell who. So each word counts once for its pair, lapses, and stops to count when its speaker names
//! [`NAMED_MAX`] and more: whoever meets so many liars is likelier one itself. What an order of k helpers says is only that it is one
//! of them, or the new holder; it is noted until the slot is whole, and tried again as soon as a helper more is there.
//!
//! # Invariants
//!
//! - **TRUST-1** One domain's word costs nobody standing, however many peers and orders it has. Enforced by [`Suspects::count_fresh`];
//!   attacked by `steward::tests::suspects::one_domains_word_costs_no_standing`.
//!
//! Layout: version u8 = 1 · count · each word: speaker 32 · suspect 32 · domain tag 16 · last order 32 · at · counted flag · count ·
//! each slot: group 32 · slot · at · tried flag · helpers (count; slot · peer 32) · new holders (count; peer 32), numbers in
//! minimal LEB128, all ascending.

use std::collections::{BTreeMap, BTreeSet};

use cairn_proto::{
    DecodeError, Domain, GroupId, PeerKey, Slot, Timestamp,
    layout::{Reader, at_most, put_number},
    order::OrderId,
};

use crate::peer_view::PeerView;

const WHAT: &str = "rebuild suspects";
const VERSION: u8 = 1;
/// Words that are kept: more liars than a steward meets in a month; some 150 KiB. The oldest goes for one more.
const WORDS_MAX: usize = 1024;
/// Words of one speaker that are kept, of those: one fills nobody's list.
const WORDS_OF_ONE_MAX: usize = 8;
/// Who names so many within the time that words last is not believed. Two liars may well sit in one group.
const NAMED_MAX: usize = 3;
/// Slots for which it is known that somebody lies and not who. The oldest goes for one more.
const AMONG_MAX: usize = 256;
/// Helpers and new holders that are kept of such a slot: as many slots as a code has, and their replicas.
const AMONG_EACH_MAX: usize = 96;
/// Most bytes of all of it.
pub(super) const ENCODED_MAX: usize =
    16 + WORDS_MAX * (32 + 32 + 16 + 32 + 10 + 1) + AMONG_MAX * (32 + 1 + 10 + 5 + AMONG_EACH_MAX * 65);

/// A new holder's word.
#[derive(Clone, Debug, PartialEq)]
struct Word {
    /// Of the speaker's domain.
    tag: [u8; 16],
    order: OrderId,
    at: Timestamp,
    /// Whether it was counted in the suspect's standing.
    counted: bool,
}

/// A slot of which it is known that somebody lies.
#[derive(Clone, Debug, PartialEq)]
struct Among {
    at: Timestamp,
    /// Whether it was tried again for a helper that was not among them.
    tried: bool,
    helpers: BTreeSet<(Slot, PeerKey)>,
    holders: BTreeSet<PeerKey>,
}

/// What a new holder says of an order's helpers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Accused {
    /// This one sent wrong bytes.
    One(PeerKey),
    /// One of these, as far as it could find out.
    Among(Slot, Vec<(Slot, PeerKey)>),
}

/// What is held against a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspicion {
    /// Of whom.
    pub peer: PeerKey,
    /// New holders of so many domains named it.
    pub domains: usize,
    /// When the last of them did.
    pub last: Timestamp,
}

/// A slot of a group of which it is known that somebody sends wrong bytes, and not who.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unresolved {
    /// The slot that cannot be rebuilt.
    pub slot: Slot,
    /// One of these sent wrong bytes.
    pub helpers: Vec<PeerKey>,
    /// ... or these new holders say that right bytes are wrong.
    pub holders: Vec<PeerKey>,
}

/// What is suspected in one group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SuspectReport {
    /// Holders that were named.
    pub named: Vec<Suspicion>,
    /// Slots of which it is not known who lies.
    pub among: Vec<Unresolved>,
}

/// All of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Suspects {
    /// By who says it, then of whom.
    words: BTreeMap<(PeerKey, PeerKey), Word>,
    among: BTreeMap<(GroupId, Slot), Among>,
    changed: bool,
}

/// What stands for a domain: one that is not known is the peer's own.
fn tag(peer: &PeerKey, peers: &[PeerView]) -> [u8; 16] {
    let domain: Option<&Domain> = peers.iter().find(|view| view.peer == *peer).map(|view| &view.domain);
    let mut hasher = blake3::Hasher::new_derive_key("cairn 2026-11 suspect's domain v1");
    match domain {
        Some(domain) => hasher.update(domain.to_string().as_bytes()),
        None => hasher.update(peer.as_bytes()),
    };
    let mut tag = [0; 16];
    tag.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    tag
}

impl Suspects {
    /// A new holder's word on an order.
    pub(super) fn note(
        &mut self,
        speaker: PeerKey,
        (group, order): (GroupId, OrderId),
        accused: Accused,
        now: Timestamp,
        peers: &[PeerView],
    ) {
        match accused {
            Accused::One(suspect) => self.note_one(speaker, suspect, order, now, peers),
            Accused::Among(slot, helpers) => self.note_among(speaker, (group, slot), helpers, now),
        }
    }

    fn note_one(&mut self, speaker: PeerKey, suspect: PeerKey, order: OrderId, now: Timestamp, peers: &[PeerView]) {
        let key = (speaker, suspect);
        let own = self.words.keys().filter(|(by, _)| *by == speaker).count();
        let known = self.words.get(&key);
        if known.is_some_and(|word| word.order == order) || known.is_none() && own >= WORDS_OF_ONE_MAX {
            return;
        }
        let counted = known.is_some_and(|word| word.counted);
        if known.is_none() && self.words.len() >= WORDS_MAX {
            let oldest = self.words.iter().min_by_key(|(_, word)| word.at).map(|(key, _)| *key);
            oldest.map(|oldest| self.words.remove(&oldest));
        }
        self.words.insert(key, Word { tag: tag(&speaker, peers), order, at: now, counted });
        self.changed = true;
    }

    fn note_among(&mut self, holder: PeerKey, of: (GroupId, Slot), helpers: Vec<(Slot, PeerKey)>, now: Timestamp) {
        if !self.among.contains_key(&of) && self.among.len() >= AMONG_MAX {
            let oldest = self.among.iter().min_by_key(|(_, among)| among.at).map(|(of, _)| *of);
            oldest.map(|oldest| self.among.remove(&oldest));
        }
        let none = || Among { at: now, tried: false, helpers: BTreeSet::new(), holders: BTreeSet::new() };
        let among = self.among.entry(of).or_insert_with(none);
        (among.at, among.tried) = (now, false);
        for helper in helpers {
            if among.helpers.len() < AMONG_EACH_MAX {
                among.helpers.insert(helper);
            }
        }
        if among.holders.len() < AMONG_EACH_MAX {
            among.holders.insert(holder);
        }
        self.changed = true;
    }

    /// A slot is repaired, or needs nothing.
    pub(super) fn settled(&mut self, group: &GroupId, slot: Slot) {
        self.changed |= self.among.remove(&(*group, slot)).is_some();
    }

    /// A group is watched no more.
    pub(super) fn forget(&mut self, group: &GroupId) {
        let before = self.among.len();
        self.among.retain(|(of, _), _| of != group);
        self.changed |= before != self.among.len();
    }

    /// Lets go of what is older than that; what lies ahead is of a clock that was set back.
    pub(super) fn lapse(&mut self, now: Timestamp, lasts_ms: u64) {
        let before = (self.words.len(), self.among.len());
        self.words.values_mut().for_each(|word| word.at = word.at.min(now));
        self.among.values_mut().for_each(|among| among.at = among.at.min(now));
        self.words.retain(|_, word| now.ms_since(word.at) < lasts_ms);
        self.among.retain(|_, among| now.ms_since(among.at) < lasts_ms);
        self.changed |= before != (self.words.len(), self.among.len());
    }

    /// Whether a new holder's word counts.
    fn is_believed(&self, speaker: &PeerKey) -> bool {
        !self.names_many(speaker)
    }

    /// Whether it names so many that it is likelier a liar itself.
    pub(super) fn names_many(&self, speaker: &PeerKey) -> bool {
        self.words.keys().filter(|(by, _)| by == speaker).count() >= NAMED_MAX
    }

    fn against(&self, peer: &PeerKey) -> impl Iterator<Item = &Word> {
        let of = self.words.iter().filter(move |((by, suspect), _)| suspect == peer && self.is_believed(by));
        of.map(|(_, word)| word)
    }

    /// What is held against a peer.
    pub(super) fn suspicion(&self, peer: &PeerKey) -> Option<Suspicion> {
        let domains: BTreeSet<[u8; 16]> = self.against(peer).map(|word| word.tag).collect();
        let last = self.against(peer).map(|word| word.at).max()?;
        Some(Suspicion { peer: *peer, domains: domains.len(), last })
    }

    /// Whether it is left out of rebuilds where others are there.
    pub(super) fn is_suspect(&self, peer: &PeerKey) -> bool {
        self.against(peer).next().is_some() || self.names_many(peer)
    }

    /// Everybody of whom that is so.
    pub(super) fn all(&self) -> BTreeSet<PeerKey> {
        let both = self.words.keys().flat_map(|(by, suspect)| [*by, *suspect]);
        let both: BTreeSet<PeerKey> = both.collect();
        both.into_iter().filter(|peer| self.is_suspect(peer)).collect()
    }

    /// Whether it is one of those of whom one lies: others come first.
    pub(super) fn is_among(&self, peer: &PeerKey) -> bool {
        self.among.values().any(|among| among.helpers.iter().any(|(_, helper)| helper == peer))
    }

    /// Slots of a group that are worth another try: a helper is there that was not among those of whom one lies. Each is said once, until it fails
    /// again.
    pub(super) fn worth_another_try(&mut self, group: &GroupId, is_there: &dyn Fn(Slot) -> Vec<PeerKey>) -> Vec<Slot> {
        let mut again = Vec::new();
        for ((of, slot), among) in &mut self.among {
            if of != group || among.tried {
                continue;
            }
            let met: BTreeSet<Slot> = among.helpers.iter().map(|(slot, _)| *slot).collect();
            let new = is_there(*slot).into_iter().any(|peer| among.helpers.iter().all(|(_, helper)| *helper != peer));
            if new && !met.is_empty() {
                among.tried = true;
                self.changed = true;
                again.push(*slot);
            }
        }
        again
    }

    /// Who is to be counted as suspected in its standing: named by two domains at least that are believed. Each word counts once.
    pub(super) fn count_fresh(&mut self) -> Vec<PeerKey> {
        let fresh: BTreeSet<PeerKey> =
            self.words.iter().filter(|(_, word)| !word.counted).map(|((_, suspect), _)| *suspect).collect();
        let due: Vec<PeerKey> = fresh
            .into_iter()
            .filter(|peer| self.suspicion(peer).is_some_and(|suspicion| suspicion.domains > 1))
            .collect();
        for ((_, suspect), word) in &mut self.words {
            if due.contains(suspect) {
                word.counted = true;
                self.changed = true;
            }
        }
        due
    }

    /// What is suspected of a group's people.
    pub(super) fn report(&self, group: &GroupId, people: impl IntoIterator<Item = PeerKey>) -> SuspectReport {
        let people: BTreeSet<PeerKey> = people.into_iter().collect();
        let named = people.iter().filter_map(|peer| self.suspicion(peer)).collect();
        let of = self.among.iter().filter(|((of, _), _)| of == group);
        let among = of.map(|((_, slot), among)| Unresolved {
            slot: *slot,
            helpers: among.helpers.iter().map(|(_, peer)| *peer).collect(),
            holders: among.holders.iter().copied().collect(),
        });
        SuspectReport { named, among: among.collect() }
    }

    /// Whether it changed since this was asked last.
    pub(super) const fn take_changed(&mut self) -> bool {
        std::mem::replace(&mut self.changed, false)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        put_number(&mut out, self.words.len() as u64);
        for ((speaker, suspect), word) in &self.words {
            out.extend_from_slice(speaker.as_bytes());
            out.extend_from_slice(suspect.as_bytes());
            out.extend_from_slice(&word.tag);
            out.extend_from_slice(&word.order);
            put_number(&mut out, word.at.0);
            out.push(word.counted.into());
        }
        put_number(&mut out, self.among.len() as u64);
        for ((group, slot), among) in &self.among {
            out.extend_from_slice(group.as_bytes());
            out.push(slot.as_u8());
            put_number(&mut out, among.at.0);
            out.push(among.tried.into());
            put_number(&mut out, among.helpers.len() as u64);
            for (slot, peer) in &among.helpers {
                out.push(slot.as_u8());
                out.extend_from_slice(peer.as_bytes());
            }
            put_number(&mut out, among.holders.len() as u64);
            among.holders.iter().for_each(|peer| out.extend_from_slice(peer.as_bytes()));
        }
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        at_most(WHAT, ENCODED_MAX, bytes.len())?;
        let mut r = Reader::new(WHAT, bytes);
        r.version(VERSION)?;
        let peer = |r: &mut Reader<'_>| r.array().map(PeerKey::from_bytes);
        let slot = |r: &mut Reader<'_>| Slot::new(r.byte()?);
        let mut all = Self::default();
        for _ in 0..r.count(WORDS_MAX, 114)? {
            let key = (peer(&mut r)?, peer(&mut r)?);
            let word = Word { tag: r.array()?, order: r.array()?, at: Timestamp(r.u64()?), counted: r.flag()? };
            if all.words.last_key_value().is_some_and(|(last, _)| *last >= key) {
                return Err(r.invalid("words out of order"));
            }
            all.words.insert(key, word);
        }
        for _ in 0..r.count(AMONG_MAX, 37)? {
            let key = (GroupId::from_bytes(r.array()?), slot(&mut r)?);
            let (at, tried) = (Timestamp(r.u64()?), r.flag()?);
            let mut among = Among { at, tried, helpers: BTreeSet::new(), holders: BTreeSet::new() };
            for _ in 0..r.count(AMONG_EACH_MAX, 33)? {
                let helper = (slot(&mut r)?, peer(&mut r)?);
                if among.helpers.last().is_some_and(|last| *last >= helper) {
                    return Err(r.invalid("helpers out of order"));
                }
                among.helpers.insert(helper);
            }
            for _ in 0..r.count(AMONG_EACH_MAX, 32)? {
                let holder = peer(&mut r)?;
                if among.holders.last().is_some_and(|last| *last >= holder) {
                    return Err(r.invalid("new holders out of order"));
                }
                among.holders.insert(holder);
            }
            if all.among.last_key_value().is_some_and(|(last, _)| *last >= key) {
                return Err(r.invalid("slots out of order"));
            }
            all.among.insert(key, among);
        }
        r.finish()?;
        Ok(all)
    }
}
