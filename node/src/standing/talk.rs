//! What goes round about peers: what is taken of it, what goes on to others, what we say ourselves.
//!
//! Everything that comes is bounded before it is verified, and noted after: whoever forges another's name uses up nothing of its
//! share. A piece that cannot be what it claims costs its bringer; one that is old, too much, or of strangers does not, because an
//! honest peer may bring it, and does not go on.
//!
//! # Invariants
//!
//! - **TRUST-1** Voices are domains as the book pinned them, and all that came from one subnet is one voice; of each so much a
//!   round and no more, and of all together too. Enforced here; attacked by `tests::talk`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use cairn_core::{
    audit::panel::{Candidate, Panel, Round},
    invitations::branch_voices,
    reputation::{COMPLAINTS_OF_DOMAIN_MAX, Complaint},
};
use cairn_proto::{
    Domain, PeerKey, Timestamp,
    audit::{
        Bench as _, Evidence, Matter, Opened, Verdict, VerdictKind, Vote, spread::Spread, verdict::EXCLUDE_DOMAINS_MIN,
    },
    signed::SignedBytes,
};
use serde::Serialize;

use super::mind::{Believed, DAY_MS, Mind};

/// Complaints, and votes, of one peer in a round: as many bad peers as a home has to do with.
const OF_ONE_MAX: usize = COMPLAINTS_OF_DOMAIN_MAX;
/// Complaints and votes of all in a round: 1.5 MB of votes, and a quarter of a full book complaining of a peer each.
const OF_ALL_MAX: usize = 4096;
/// Proofs in a round against keys that nobody here knows: true ones cost a key pair and a puzzle each, so they can be made. One
/// that we know is always heard; of the others we hear from whoever has them when we connect.
const STRANGERS_MAX: usize = 256;
/// ... of those, brought by one publisher.
const STRANGERS_OF_ONE_MAX: usize = 16;
/// What waits to be said: more than a node says in a round.
const OUTBOX_MAX: usize = 128;
/// Subjects whose votes are counted at a survey: a panel of a full book takes milliseconds to draw.
const JUDGED_AT_ONCE: usize = 8;
/// In the place of a vote's round: there was none so early.
const COMPLAINT: u64 = 0;
/// A round that somebody's clock is behind or ahead.
const ROUNDS_APART: u64 = 1;

/// What becomes of a message of gossip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// It is news, and goes on.
    News,
    /// It says nothing new, or too much, or nobody here knows who says it; it does not go on.
    Nothing,
    /// It cannot be what it claims: it costs whoever brings it.
    False,
}

/// A peer that may be heard.
#[derive(Clone, Debug)]
pub(crate) struct Voice {
    /// Under which domain it speaks.
    pub(crate) domain: Domain,
    /// Since when it is known, by the node's clock.
    pub(crate) since: Timestamp,
}

/// A vote that came.
#[derive(Clone, Debug)]
struct Cast {
    against: bool,
    signed: SignedBytes,
}

/// Votes against a peer that were heard within this round and the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Voted {
    /// Who votes to exclude it: peers.
    pub peers: usize,
    /// ... of so many domains, each of which has one vote.
    pub domains: usize,
    /// Other domains that are known for longer than a day: of them a panel is drawn.
    pub of: usize,
}

/// What was said in this round.
#[derive(Debug, Default)]
pub(super) struct Talk {
    voices: BTreeMap<PeerKey, Voice>,
    round: u64,
    /// Who complained of whom ([`COMPLAINT`]), or voted on whom in which round: an old vote that somebody says again takes no new
    /// one's place. At most [`OF_ALL_MAX`].
    said: BTreeSet<(PeerKey, PeerKey, u64)>,
    of_one: BTreeMap<PeerKey, usize>,
    strangers: usize,
    strangers_of: BTreeMap<PeerKey, usize>,
    /// Votes, by round and subject, then by voter. Nobody here votes for anybody; who does is remembered all the same, so that its vote
    /// against the same peer in the same round is a proof.
    votes: BTreeMap<(u64, PeerKey), BTreeMap<PeerKey, Cast>>,
    /// Matters with votes that were not counted yet.
    uncounted: BTreeSet<(u64, PeerKey)>,
    outbox: VecDeque<Vec<u8>>,
}

impl Mind {
    fn round(&self, now: Timestamp) -> u64 {
        self.at(now).0 / DAY_MS
    }

    /// A new round begins with new shares.
    fn turn(&mut self, now: Timestamp) {
        let round = self.round(now);
        if self.talk.round != round {
            let keep = |(of, _): &(u64, PeerKey)| of.abs_diff(round) <= ROUNDS_APART;
            self.talk.votes.retain(|matter, _| keep(matter));
            self.talk.uncounted.retain(keep);
            self.talk.said.clear();
            self.talk.of_one.clear();
            self.talk.strangers_of.clear();
            (self.talk.strangers, self.talk.round) = (0, round);
        }
    }

    /// One message; `publisher` signed it as a message, which says nothing about what is in it.
    pub(super) fn gossiped(&mut self, bytes: &[u8], publisher: PeerKey, now: Timestamp) -> Heard {
        self.turn(now);
        match Spread::decode(bytes) {
            Ok(Spread::Evidence(evidence)) => match &evidence {
                Evidence::WrongAnswer { answer: word, .. } | Evidence::Equivocation { first: word, .. } => {
                    self.proof_came(&evidence, word, publisher)
                }
                Evidence::Silence { report, .. } => self.complaint_came(&evidence, report, now),
                // Nobody has a reason to spread one.
                Evidence::SelfReport { .. } => Heard::False,
            },
            Ok(Spread::Vote(vote)) => self.vote_came(vote, now),
            Err(_) => Heard::False,
        }
    }

    fn proof_came(&mut self, evidence: &Evidence, word: &SignedBytes, publisher: PeerKey) -> Heard {
        let Ok(subject) = PeerKey::from_slice(&word.signer) else { return Heard::False };
        if self.is_convicted(&subject) || subject == self.me {
            return Heard::Nothing;
        }
        let stranger = !self.talk.voices.contains_key(&subject) && !self.reputation.has_met(&subject);
        let of_one = self.talk.strangers_of.get(&publisher).copied().unwrap_or(0);
        if stranger && (self.talk.strangers >= STRANGERS_MAX || of_one >= STRANGERS_OF_ONE_MAX) {
            return Heard::Nothing;
        }
        match self.learn_proof(evidence) {
            Ok(Believed::News(id)) => {
                if stranger {
                    self.talk.strangers += 1;
                    *self.talk.strangers_of.entry(publisher).or_default() += 1;
                }
                tracing::warn!(peer = %subject.short(), %id, "a peer is proved to have lied; it is outside from now on");
                Heard::News
            }
            Ok(Believed::Known) => Heard::Nothing,
            Err(_) => Heard::False,
        }
    }

    /// Whether one more word of this speaker on this subject is within its share; who is unknown has none.
    fn may_say(&self, speaker: &PeerKey, subject: &PeerKey, what: u64) -> bool {
        let known = self.talk.voices.contains_key(speaker) && !self.is_convicted(speaker);
        let of_one = self.talk.of_one.get(speaker).copied().unwrap_or(0);
        let room = self.talk.said.len() < OF_ALL_MAX && of_one < 2 * OF_ONE_MAX;
        known && room && !self.talk.said.contains(&(*speaker, *subject, what))
    }

    fn note_said(&mut self, speaker: PeerKey, subject: PeerKey, what: u64) {
        if self.talk.said.insert((speaker, subject, what)) {
            *self.talk.of_one.entry(speaker).or_default() += 1;
        }
    }

    fn complaint_came(&mut self, evidence: &Evidence, report: &SignedBytes, now: Timestamp) -> Heard {
        let Ok(speaker) = PeerKey::from_slice(&report.signer) else { return Heard::False };
        if !self.talk.voices.contains_key(&speaker) {
            return Heard::Nothing;
        }
        let Ok(Opened::Silence { challenge, report }) = evidence.open() else { return Heard::False };
        let subject = challenge.holder;
        let at = self.at(report.at).0.abs_diff(self.at(now).0);
        let recent = at <= (ROUNDS_APART + 1) * DAY_MS;
        if !recent || !self.may_say(&speaker, &subject, COMPLAINT) || self.is_convicted(&subject) {
            return Heard::Nothing;
        }
        let domain = |peer: &PeerKey| self.talk.voices.get(peer).map(|voice| voice.domain.clone());
        let (Some(reporter_domain), Some(subject_domain)) = (domain(&speaker), domain(&subject)) else {
            return Heard::Nothing;
        };
        if reporter_domain == subject_domain {
            return Heard::Nothing;
        }
        self.note_said(speaker, subject, COMPLAINT);
        let branch = self.branch(&speaker);
        let complaint = Complaint { reporter: speaker, reporter_domain, subject, subject_domain, branch };
        let now = self.at(now);
        self.reputation.hear(&complaint, now);
        Heard::News
    }

    fn vote_came(&mut self, signed: SignedBytes, now: Timestamp) -> Heard {
        let Ok(speaker) = PeerKey::from_slice(&signed.signer) else { return Heard::False };
        if !self.talk.voices.contains_key(&speaker) {
            return Heard::Nothing;
        }
        let Ok(vote) = Vote::open(&signed) else { return Heard::False };
        let Matter { subject, kind, round, place } = vote.matter;
        // Others may vote on more than we read.
        let read = kind == VerdictKind::Exclude && place.is_none() && speaker != subject;
        let on_time = round.abs_diff(self.round(now)) <= ROUNDS_APART;
        if !read || !on_time || self.is_convicted(&subject) {
            return Heard::Nothing;
        }
        let cast = Cast { against: vote.against, signed };
        let before = self.talk.votes.get(&(round, subject)).and_then(|votes| votes.get(&speaker));
        if let Some(before) = before.filter(|before| before.against != cast.against) {
            // It says one thing to some and another to others. The proof goes round instead of its word.
            let evidence = Evidence::Equivocation { first: before.signed.clone(), second: cast.signed };
            self.learned(&evidence, now);
            return Heard::Nothing;
        }
        if !self.may_say(&speaker, &subject, round) {
            return Heard::Nothing;
        }
        self.note_said(speaker, subject, round);
        if cast.against {
            self.talk.uncounted.insert((round, subject));
        }
        self.talk.votes.entry((round, subject)).or_default().insert(speaker, cast);
        Heard::News
    }

    /// Who may be heard from now on, and what follows: our own votes, and those of others that came to a verdict by our own lot.
    pub(super) fn survey(&mut self, voices: BTreeMap<PeerKey, Voice>, now: Timestamp) {
        self.turn(now);
        for (peer, voice) in &voices {
            let since = self.at(voice.since);
            self.reputation.known_since(peer, since);
        }
        let aged = |voice: &&Voice| self.at(now).ms_since(self.at(voice.since)) >= DAY_MS;
        let domains: BTreeSet<&Domain> = voices.values().filter(aged).map(|voice| &voice.domain).collect();
        self.domains = domains.len();
        self.talk.voices = voices;
        self.vote(now);
        self.judge(now);
    }

    /// Votes against whom our own eyes tell not to trust, once a round. Never for anybody, so that no two votes contradict.
    fn vote(&mut self, now: Timestamp) {
        let round = self.round(now);
        let distrusted: Vec<PeerKey> = self.reputation.distrusted().collect();
        for subject in distrusted {
            let mine = self.talk.of_one.get(&self.me).copied().unwrap_or(0);
            let said = self.talk.said.contains(&(self.me, subject, round));
            if said || mine >= OF_ONE_MAX || self.is_convicted(&subject) || subject == self.me {
                continue;
            }
            let matter = Matter { subject, kind: VerdictKind::Exclude, round, place: None };
            // By the time that figures go by: readers reckon from it when a verdict lapses.
            let vote = Vote { voter: self.me, matter, against: true, evidence: Vec::new(), issued: self.at(now) };
            let sealed = vote.seal(&self.key);
            self.note_said(self.me, subject, round);
            self.say(&Spread::Vote(sealed));
        }
    }

    /// Counts the votes of matters that got new ones, a few at a time.
    fn judge(&mut self, now: Timestamp) {
        let matters: Vec<(u64, PeerKey)> = self.talk.uncounted.iter().copied().take(JUDGED_AT_ONCE).collect();
        if matters.is_empty() {
            return;
        }
        let of = |(peer, voice): (&PeerKey, &Voice)| Candidate {
            peer: *peer,
            domain: voice.domain.clone(),
            first_seen: self.at(voice.since),
        };
        let candidates: Vec<Candidate> = self.talk.voices.iter().map(of).collect();
        for (number, subject) in matters {
            self.talk.uncounted.remove(&(number, subject));
            if let Some(verdict) = self.verdict(&candidates, number, subject) {
                let now = self.at(now);
                let votes = verdict.1.votes();
                if self.reputation.follow(&verdict.1, now) {
                    self.dirty = true;
                    self.verdicts.insert(subject, verdict.0.encode());
                    tracing::warn!(peer = %subject.short(), votes, "a peer is excluded for a while by others' votes");
                }
            }
        }
    }

    fn verdict(
        &self,
        candidates: &[Candidate],
        number: u64,
        subject: PeerKey,
    ) -> Option<(Verdict, cairn_proto::audit::Verified)> {
        let votes = self.talk.votes.get(&(number, subject))?;
        // Before a panel is drawn, which takes time.
        if votes.values().filter(|cast| cast.against).count() < EXCLUDE_DOMAINS_MIN {
            return None;
        }
        let domain = &self.talk.voices.get(&subject)?.domain;
        let matter = Matter { subject, kind: VerdictKind::Exclude, round: number, place: None };
        let beacon = *blake3::keyed_hash(&self.lots, &number.to_le_bytes()).as_bytes();
        let round = Round { number, began: Timestamp(number * DAY_MS), beacon };
        let panel = Panel::draw(candidates, &round, matter, domain, None);
        let mut seats: BTreeMap<Domain, SignedBytes> = BTreeMap::new();
        // Whom one invited, and whom these did, have so many votes together.
        let (most, mut of_branch) = (branch_voices(self.domains), BTreeMap::<PeerKey, usize>::new());
        for (voter, cast) in votes.iter().filter(|(_, cast)| cast.against) {
            if let Some(seat) = panel.seat(&matter, voter) {
                if let Some(branch) = self.branch(voter).filter(|_| !seats.contains_key(&seat)) {
                    let votes = of_branch.entry(branch).or_default();
                    if *votes >= most {
                        continue;
                    }
                    *votes += 1;
                }
                seats.entry(seat).or_insert_with(|| cast.signed.clone());
            }
        }
        let verdict = Verdict { matter, votes: seats.into_values().collect() };
        let verified = verdict.verify(&panel).ok()?;
        Some((verdict, verified))
    }

    /// Who votes against a peer, whether that suffices or not.
    pub(super) fn voted(&self, subject: &PeerKey) -> Option<Voted> {
        let votes = self.talk.votes.iter().filter(|((_, of), _)| of == subject).flat_map(|(_, votes)| votes);
        let voters: BTreeSet<&PeerKey> = votes.filter(|(_, cast)| cast.against).map(|(voter, _)| voter).collect();
        let domains: BTreeSet<&Domain> =
            voters.iter().filter_map(|voter| Some(&self.talk.voices.get(*voter)?.domain)).collect();
        let voted = Voted { peers: voters.len(), domains: domains.len(), of: self.domains };
        (voted.peers > 0).then_some(voted)
    }

    /// A proof of ours, or a complaint, goes round; a complaint of one peer once a round.
    pub(super) fn spread(&mut self, evidence: &Evidence, now: Timestamp) {
        self.turn(now);
        if let Evidence::Silence { .. } = evidence {
            let Ok(Opened::Silence { challenge, report }) = evidence.open() else { return };
            let (me, subject) = (self.me, challenge.holder);
            let mine = self.talk.of_one.get(&me).copied().unwrap_or(0);
            if report.reporter != me || mine >= 2 * OF_ONE_MAX || self.talk.said.contains(&(me, subject, COMPLAINT)) {
                return;
            }
            self.note_said(me, subject, COMPLAINT);
        }
        self.say(&Spread::Evidence(evidence.clone()));
    }

    fn say(&mut self, spread: &Spread) {
        if self.talk.outbox.len() >= OUTBOX_MAX {
            // The oldest: what is newer is less likely known.
            self.talk.outbox.pop_front();
        }
        self.talk.outbox.push_back(spread.encode());
    }

    pub(super) fn waits_to_be_said(&self) -> bool {
        !self.talk.outbox.is_empty()
    }

    pub(super) fn next_to_say(&mut self) -> Option<Vec<u8>> {
        self.talk.outbox.pop_front()
    }

    /// Nobody was there to hear it.
    pub(super) fn say_again(&mut self, message: Vec<u8>) {
        if self.talk.outbox.len() < OUTBOX_MAX {
            self.talk.outbox.push_front(message);
        }
    }
}
