//! What this node thinks of others, and why: its own decision whom to place on, never a global score.
//!
//! Two figures for each peer. *Integrity* (does it keep and say what is so) has a long memory, a thousand events;
//! *availability* (is it there) counts days, each day once, against what its class promises. First-hand experience comes
//! first. From others come proofs, which convict; verdicts, which lapse; and complaints, which count for nothing until a third
//! of all domains complains. There is no way to praise: nobody can raise a peer but the peer by serving us.
//!
//! Pure and bounded; integers only. The leaves: `entry` (one peer's figures), `asked` (what
//! a node asks and tells besides), `pace` (who serves slowly), `explain` (the figures, told), `state` (on disk).
//!
//! # Invariants
//!
//! - **TRUST-1** Fewer than a third of the domains, however many identities they have, change nothing at a node that knows the
//!   subject, exclude nobody for good anywhere, and what a quorum takes comes back. Enforced by [`Reputation::standing`],
//!   which believes for good only a [`Conviction`]; attacked by `tests::adversary`. Nor does one branch of the invitation tree
//!   ([`crate::invitations`]), however many domains it has: `tests::one_branch_has_no_third`.

mod asked;
mod entry;
pub mod explain;
pub mod pace;
mod state;

use std::collections::BTreeMap;

use cairn_proto::{
    Domain, PeerKey, Timestamp,
    audit::{Verified, verdict::VerdictKind},
};
use serde::Serialize;

use crate::{
    audit::Conviction,
    invitations,
    peer_view::{NEWCOMER_MS, PerMille},
};

use self::entry::{Entry, INTEGRITY_LEAST};
pub use self::explain::{Reason, Standing};
pub use self::state::STATE_MAX;

/// Most peers with figures: as many as a peer book has.
pub const ENTRIES_MAX: usize = 4096;
/// Most convictions kept. Who was convicted and dealt with us is never forgotten for a stranger.
pub const CONVICTIONS_MAX: usize = 8192;
/// Most complaints kept in all, and how many subjects one domain may complain of at a time.
pub const COMPLAINTS_MAX: usize = 16_384;
/// See [`COMPLAINTS_MAX`]: 512 domains fill it; a home does not deal with more than 32 bad peers in a week.
pub const COMPLAINTS_OF_DOMAIN_MAX: usize = 32;
/// Above this a peer may get shards.
pub const ELIGIBLE_ABOVE: PerMille = 700;
/// Most that anybody's word takes from a score: 1.0 falls to 0.75 and stays eligible, 0.9 does not.
pub const SECOND_HAND_MAX: PerMille = 250;
/// Standing of a newcomer, as in [`crate::peer_view::standing`].
const NEWCOMER: PerMille = 500;
/// A newcomer's share of what it may hold, doubled for each thirty clean days.
pub const QUOTA_FIRST: PerMille = 10;
const DAY_MS: u64 = 24 * 3600 * 1000;
/// How long a complaint and a suspicion count, and how long an exclusion.
const SUSPECT_MS: u64 = 7 * DAY_MS;
const EXCLUDE_MS: u64 = 30 * DAY_MS;

/// What a peer promises to be. Learned from behaviour by the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Always on: 95 % of the time is full marks.
    Server,
    /// At home: 60 %.
    Home,
}

/// What we saw ourselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Observed {
    /// It answered an audit, or served a shard, and rightly.
    Good,
    /// It answered something that shows no bytes: a ping, a request.
    Alive,
    /// It did not answer in time, or could not be reached.
    Silent,
    /// It said "not here" only when it was asked.
    NotHere,
    /// It said so before it was asked. Costs a twentieth of a failure, and of one accident at most five.
    Reported,
    /// It kept silent about one shard for a day and answered for others ([`crate::audit::schedule::Silence`]).
    Withheld,
    /// A digest that was wrong by a token.
    Mismatch,
    /// New holders of several domains say that it sent wrong bytes in rebuilds. Nothing of that is signed, so it is a suspicion.
    Suspected,
    /// It served a shard quickly ([`pace`]).
    Prompt,
    /// It took many times as long over one as others did at the same time. No lie: it costs standing for a while and nothing else.
    Slow,
    /// It served bytes that are not the shard. What it served was not signed, so it convicts here and nowhere else.
    BadBytes,
}

/// Somebody's word that a peer was silent, opened and verified: one for each domain counts.
#[derive(Clone, Debug)]
pub struct Complaint {
    /// Who complains.
    pub reporter: PeerKey,
    /// The domain that we pinned for it.
    pub reporter_domain: Domain,
    /// Of whom.
    pub subject: PeerKey,
    /// Its domain.
    pub subject_domain: Domain,
    /// Of which branch of the invitation tree the one who complains is; none where nobody is invited.
    pub branch: Option<PeerKey>,
}

/// A conviction, and whether we dealt with the peer before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Convicted {
    conviction: Conviction,
    dealt: bool,
}

/// What one domain said of one peer.
#[derive(Clone, Copy, Debug)]
struct Said {
    weight: PerMille,
    branch: Option<PeerKey>,
    at: Timestamp,
}

/// Everybody's figures.
#[derive(Clone, Debug, Default)]
pub struct Reputation {
    entries: BTreeMap<PeerKey, Entry>,
    convicted: BTreeMap<PeerKey, Convicted>,
    /// By subject, then by domain. Not kept on disk: complaints last a week, and are sent again.
    complaints: BTreeMap<PeerKey, BTreeMap<Domain, Said>>,
}

impl Reputation {
    /// Knows nobody.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes note of a peer, or of its class. False: there is no room, and it stays a stranger.
    pub fn met(&mut self, peer: PeerKey, class: Class, now: Timestamp) -> bool {
        let Some(entry) = self.entry(peer, now) else { return false };
        entry.class = class;
        true
    }

    /// Counts what was seen first hand.
    pub fn observe(&mut self, peer: PeerKey, seen: Observed, now: Timestamp) {
        if let Some(entry) = self.entry(peer, now) {
            entry.count(seen, now);
        }
    }

    /// Notes a complaint. What the subject's own domain says of it, and what strangers, newcomers and those that lost their
    /// standing say, is not heard. False: not heard.
    pub fn hear(&mut self, complaint: &Complaint, now: Timestamp) -> bool {
        let Complaint { reporter, reporter_domain, subject, subject_domain, branch } = complaint;
        if reporter == subject || reporter_domain == subject_domain || self.convicted.contains_key(reporter) {
            return false;
        }
        let Some(weight) = self.entries.get(reporter).and_then(|e| e.weight(now)) else { return false };
        for said in self.complaints.values_mut() {
            said.retain(|_, said| now.ms_since(said.at) < SUSPECT_MS);
        }
        self.complaints.retain(|_, said| !said.is_empty());
        let known = self.complaints.get(subject).is_some_and(|said| said.contains_key(reporter_domain));
        let all: usize = self.complaints.values().map(BTreeMap::len).sum();
        let of_domain = self.complaints.values().filter(|said| said.contains_key(reporter_domain)).count();
        if !known && (all >= COMPLAINTS_MAX || of_domain >= COMPLAINTS_OF_DOMAIN_MAX) {
            return false;
        }
        let said = Said { weight, branch: *branch, at: now };
        self.complaints.entry(*subject).or_default().insert(reporter_domain.clone(), said);
        true
    }

    /// Believes a proof, for good. False: there is no room for another stranger's.
    pub fn convict(&mut self, conviction: Conviction) -> bool {
        let subject = *conviction.subject();
        if self.convicted.contains_key(&subject) {
            return true;
        }
        let dealt = self.entries.get(&subject).is_some_and(|e| e.events > 0);
        if self.convicted.len() >= CONVICTIONS_MAX {
            let stranger = self.convicted.iter().find(|(_, c)| !c.dealt).map(|(peer, _)| *peer);
            let Some(stranger) = stranger.filter(|_| dealt) else { return false };
            self.convicted.remove(&stranger);
        }
        self.convicted.insert(subject, Convicted { conviction, dealt });
        true
    }

    /// Takes note of a verified verdict. It lapses; a voter's clock cannot make it last longer. False: it lapsed already, or
    /// there is no room.
    pub fn follow(&mut self, verdict: &Verified, now: Timestamp) -> bool {
        let matter = verdict.matter();
        let issued = verdict.issued().min(now);
        let lasts = match matter.kind {
            VerdictKind::Suspect => SUSPECT_MS,
            VerdictKind::Exclude => EXCLUDE_MS,
        };
        let until = issued.plus_ms(lasts);
        if until <= now {
            return false;
        }
        let votes = u8::try_from(verdict.votes()).unwrap_or(u8::MAX);
        let Some(entry) = self.entry(matter.subject, now) else { return false };
        let ruling = match matter.kind {
            VerdictKind::Suspect => &mut entry.suspected,
            VerdictKind::Exclude => &mut entry.excluded,
        };
        if until > ruling.until {
            *ruling = entry::Ruling { until, votes };
        }
        true
    }

    /// Who is proved to have lied.
    pub fn convictions(&self) -> impl Iterator<Item = &Conviction> {
        self.convicted.values().map(|c| &c.conviction)
    }

    /// What to think of a peer. `domains`: how many other domains we know that are older than a day, the measure of what
    /// complaints weigh; with none nobody is there to be heard, and our own eyes alone count.
    #[must_use]
    pub fn standing(&self, peer: &PeerKey, domains: usize, now: Timestamp) -> Standing {
        if let Some(c) = self.convicted.get(peer) {
            let why = vec![Reason::Convicted { lie: c.conviction.lie(), evidence: *c.conviction.evidence() }];
            return Standing { score: 0, eligible: false, quota: 0, why };
        }
        let Some(entry) = self.entries.get(peer) else {
            return Standing { score: NEWCOMER, eligible: true, quota: QUOTA_FIRST, why: vec![Reason::Unknown] };
        };
        let mut why = vec![entry.integrity_reason(), entry.availability_reason(now)];
        let age = now.ms_since(entry.first_seen);
        let newcomer = age < NEWCOMER_MS;
        let quota = entry.quota(now);
        let first_hand = entry.first_hand(now);
        why.extend(entry.pace_reason(now));
        why.push(Reason::FirstHand { score: first_hand, events: entry.events });
        if quota < 1000 {
            why.push(Reason::Quota { age_days: age / DAY_MS, quota });
        }
        let yields = entry.vouched(now);
        if let Some(witness) = yields {
            why.push(witness);
        }
        let complaint = self.complaint(peer, domains, now, &mut why);
        let mut taken = complaint;
        if let Some(votes) = entry.suspected.stands(now) {
            let until = entry.suspected.until;
            why.push(Reason::Suspected { votes, until, takes: SECOND_HAND_MAX });
            taken = SECOND_HAND_MAX;
        }
        let mut excluded = false;
        if let Some(votes) = entry.excluded.stands(now) {
            why.push(Reason::Excluded { votes, until: entry.excluded.until });
            excluded = true;
        }
        if yields.is_some() {
            (taken, excluded) = (0, false);
        }
        // Never more than our own experience says.
        let taken = taken.min(first_hand / 2);
        let base = if newcomer { NEWCOMER.min(first_hand) } else { first_hand };
        let score = if excluded { 0 } else { base - taken.min(base) };
        let enough = score > ELIGIBLE_ABOVE || (newcomer && taken == 0 && first_hand > NEWCOMER);
        Standing { score, eligible: enough && !excluded && entry.integrity() >= INTEGRITY_LEAST, quota, why }
    }

    /// What complaints take: nothing up to a third of the domains, then in proportion, all that they may at two thirds. Nothing where no domain
    /// is known for a day: a third of nobody is no measure, and whoever was heard before (a restart, an emptied book) is told of all the same.
    fn complaint(&self, peer: &PeerKey, domains: usize, now: Timestamp, why: &mut Vec<Reason>) -> PerMille {
        let said = self.complaints.get(peer).into_iter().flat_map(BTreeMap::values);
        let fresh = said.filter(|said| now.ms_since(said.at) < SUSPECT_MS);
        let mut branches: BTreeMap<Option<PeerKey>, u64> = BTreeMap::new();
        let mut count = 0u64;
        for said in fresh {
            count += 1;
            *branches.entry(said.branch).or_default() += u64::from(said.weight);
        }
        if count == 0 {
            return 0;
        }
        // Whom one invited, and whom these did, speak together with so much and no more.
        let most = invitations::branch_voices(domains) as u64 * 1000;
        let of =
            |(branch, weight): (&Option<PeerKey>, &u64)| if branch.is_some() { most.min(*weight) } else { *weight };
        let weight: u64 = branches.iter().map(of).sum();
        // Weights are thousandths of a voice; a network that is smaller than those who complain is as large as they are.
        let voices = weight / count.max(domains as u64).max(1);
        let beyond = if domains == 0 { 0 } else { voices.saturating_sub(334).min(333) };
        let takes = PerMille::try_from(beyond * u64::from(SECOND_HAND_MAX) / 333).unwrap_or(SECOND_HAND_MAX);
        why.push(Reason::Complaints { domains: count, of: domains as u64, voices, takes });
        takes
    }

    /// The entry of a peer, made when there is room: strangers that never dealt with us make way, those with a bad name never.
    fn entry(&mut self, peer: PeerKey, now: Timestamp) -> Option<&mut Entry> {
        if !self.entries.contains_key(&peer) {
            if self.entries.len() >= ENTRIES_MAX {
                let least =
                    self.entries.iter().filter(|(_, e)| !e.bad_name(now)).min_by_key(|(_, e)| (e.events, e.last));
                let least = least.map(|(peer, _)| *peer)?;
                self.entries.remove(&least);
            }
            self.entries.insert(peer, Entry::new(now));
        }
        self.entries.get_mut(&peer)
    }
}

#[cfg(test)]
mod tests;
