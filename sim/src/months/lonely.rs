//! Slots of whose colour nobody is there but their holder, and tokens for them: nobody can audit such a holder, so stewards ask it with
//! what the owner left them.
//!
//! The owner deals its tokens to as many seats as the daemon does (`node/src/vault/stewards/tokens.rs`), and makes more of them: half a year is short. Shards are
//! [`super::SHARD`] bytes here, so a digest is a keyed hash of all of one; whoever has not got the bytes cannot reckon it.
//!
//! - **TRUST-1** No token is asked with twice, and nobody who has all that it claims is doubted: looked at after each answer.
//! - **SEP-1** What is asked for is a digest.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use cairn_core::steward::{
    Say, TokenAnswer, TokenQuestion,
    log::What,
    wire::{Answer as Reply, Refusal},
};
use cairn_proto::{
    GroupId, GroupTicket, PeerKey, Slot, Timestamp,
    audit::{Answer, Challenge, Found, Loss, Response, Way},
    tokens::{Booklet, TokenRow},
};
use ed25519_dalek::SigningKey;
use prost::Message as _;

use super::{Event, World, owner::OWNER, peers::Member};
use crate::{checkers::Violation, world::HOUR};

const DAY: u64 = 24 * HOUR;
/// Seats that a group's tokens are dealt to, and those of them whose stewards the owner names; the others are spare.
const SEATS: usize = 16;
const SEATS_OWN: usize = 10;
/// Questions of a steward in a round of two hours, and how long a holder may take.
const QUESTIONS: usize = 8;
const PATIENCE_MS: u64 = HOUR / 2;
/// In so many thousandths of the times that it is asked an honest holder is too busy.
const BUSY_PER_MILLE: u32 = 20;
/// An honest holder is away for days, once in so many hours, about.
const REST_HOURS: u32 = 6 * 24;

/// Slots of a group of whose colour only their holder is there. For worlds of one group and one copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lonely {
    /// So many, at most four: those have a shard of every stripe.
    pub slots: u32,
    /// Whether the owner leaves its stewards tokens for them.
    pub tokens: bool,
    /// After so many days others of these colours come; none: they never do.
    pub company: Option<u32>,
}

/// Tokens of a shard. The daemon makes as many of a group's first stripe alone, and for the others draws one stripe in 32.
const fn of_shard(ordinal: u8) -> usize {
    match ordinal {
        0..2 => 4 * SEATS,
        2..6 => 2 * SEATS,
        _ => SEATS,
    }
}

/// What only who has the shard can reckon.
fn digest(nonce: &[u8; 32], shard: &[u8]) -> [u8; 32] {
    *blake3::keyed_hash(nonce, shard).as_bytes()
}

impl World<'_> {
    /// The slots that are lonely: those with the most shards, so that there are tokens enough for one within a month.
    fn lonely_slots(&self, group: GroupId) -> Vec<Slot> {
        let most = self.settings.lonely.map_or(0, |lonely| lonely.slots as usize);
        let mut slots: Vec<Slot> = self.settings.code.each_slot().collect();
        slots.sort_by_key(|slot| Reverse(self.stripes_of(group, *slot).len()));
        slots.truncate(most);
        slots.sort_by_key(|slot| slot.as_u8());
        slots
    }

    /// Leaves each steward its booklet, and the first ones a spare one.
    pub(super) fn leave_tokens(
        &mut self,
        ticket: &GroupTicket,
        authority: &SigningKey,
        stewards: &[PeerKey],
    ) -> Result<(), Violation> {
        if !self.settings.lonely.is_some_and(|lonely| lonely.tokens) {
            return Ok(());
        }
        let (group, views) = (ticket.id(), self.views(None));
        for (rank, steward) in stewards.iter().enumerate() {
            let own = Some(self.booklet(group, authority, rank, Some(*steward))?);
            let spare = (rank < SEATS - SEATS_OWN).then(|| self.booklet(group, authority, SEATS_OWN + rank, None));
            let (at, now, spare) = (self.index[steward], self.now, spare.transpose()?);
            self.members[at].steward.told(OWNER, Say::Tokens { group, own, spare }, now, &views);
            self.effects(at)?;
        }
        Ok(())
    }

    fn booklet(
        &self,
        group: GroupId,
        authority: &SigningKey,
        seat: usize,
        steward: Option<PeerKey>,
    ) -> Result<Vec<u8>, Violation> {
        let mut slots = Vec::new();
        for slot in self.lonely_slots(group) {
            let mut rows: Vec<TokenRow> = Vec::new();
            for ordinal in self.stripes_of(group, slot) {
                let shard = self.members.iter().find_map(|member| member.shards.get(&(group, slot, ordinal)));
                let Some(shard) = shard else { continue };
                let mut root = [0; 8];
                root.copy_from_slice(&blake3::hash(shard).as_bytes()[..8]);
                let mine = (0..of_shard(ordinal)).filter(|number| (2 * usize::from(ordinal) + number) % SEATS == seat);
                rows.extend(mine.map(|number| {
                    let place = [slot.as_u8(), ordinal, number as u8];
                    let nonce = *blake3::keyed_hash(authority.as_bytes(), &[&place[..], &root].concat()).as_bytes();
                    let mut begins = [0; 16];
                    begins.copy_from_slice(&digest(&nonce, shard)[..16]);
                    TokenRow { ordinal, root, nonce, digest: begins }
                }));
            }
            rows.sort_unstable_by_key(|row| row.nonce);
            slots.push((slot, rows));
        }
        let sealed = Booklet { group, steward, slots }.seal(authority);
        sealed.map_err(|e| Violation { invariant: "TRUST-1", at: self.now, what: e.to_string() })
    }

    /// Everybody of a lonely colour but the holder goes, until company comes.
    pub(super) fn isolate(&mut self) {
        let Some(lonely) = self.settings.lonely else { return };
        for group in self.groups.clone() {
            for slot in self.lonely_slots(group) {
                let holders = self.holders(group, slot).into_iter().map(|at| self.members[at].key).collect();
                self.watcher.lonely.insert((group, slot), holders);
            }
        }
        (0..self.members.len()).for_each(|at| self.keep_away(at));
        if let Some(days) = lonely.company {
            self.after(u64::from(days) * DAY, Event::Company);
        }
        self.after(2 * DAY, Event::Rest);
    }

    /// Whoever would be company of a lonely holder is not there before it is time.
    pub(super) fn keep_away(&mut self, at: usize) {
        let come = self
            .settings
            .lonely
            .and_then(|lonely| lonely.company)
            .map_or(u64::MAX, |days| 25 * HOUR + u64::from(days) * DAY);
        let member = &self.members[at];
        let company = self.watcher.lonely.iter().any(|((group, slot), holders)| {
            !holders.contains(&member.key) && self.watcher.may_hold(group, *slot, member)
        });
        if company && self.now.0 < come {
            let member = &mut self.members[at];
            (member.up, member.silent_until) = (false, Timestamp(come));
        }
    }

    /// Whether somebody has a lonely slot.
    pub(super) fn has_lonely(&self, peer: &PeerKey) -> bool {
        self.watcher.lonely.values().any(|holders| holders.contains(peer))
    }

    /// Whether anybody but cheats could take a slot.
    pub(super) fn has_company(&self, group: &GroupId, slot: Slot) -> bool {
        let there = |member: &&Member| !member.departed && !member.cheats && member.silent_until <= self.now;
        self.members.iter().filter(there).any(|member| self.watcher.may_hold(group, slot, member))
    }

    /// They are there.
    pub(super) fn company(&mut self) {
        self.trace.line(self.now, format_args!("company comes"));
        for member in self.members.iter_mut().filter(|member| member.silent_until == self.now) {
            member.up = !member.departed;
        }
    }

    /// An honest holder is away for three days and more.
    pub(super) fn rest(&mut self) {
        let wait = self.dice.around_hours(REST_HOURS);
        self.after(wait, Event::Rest);
        let lonely: BTreeSet<PeerKey> = self.watcher.lonely.values().flatten().copied().collect();
        let honest = |at: &usize| self.members[*at].up && !self.members[*at].cheats;
        let honest: Vec<usize> = lonely.iter().map(|peer| self.index[peer]).filter(honest).collect();
        let Some(at) = honest.get(self.dice.below(honest.len() as u32) as usize).copied() else { return };
        let away = 72 * HOUR + self.dice.around_hours(24);
        let member = &mut self.members[at];
        (member.up, member.silent_until) = (false, self.now.plus_ms(away));
        self.trace.line(self.now, format_args!("{at} is away for days"));
        self.report.rests += 1;
        self.after(away, Event::Back(at));
    }

    /// A cheat has another machine, which is there to take what is found to be missing. Both are there always: they have nothing to lose.
    pub(super) fn bring_another(&mut self, cheat: usize) {
        // Also one that was resting.
        (self.members[cheat].up, self.members[cheat].silent_until) = (true, Timestamp(0));
        let (domain, at) = (self.members[cheat].domain.clone(), self.members.len());
        self.join(Timestamp(0));
        let member = &mut self.members[at];
        (member.domain, member.cheats, member.up, member.silent_until) = (domain, true, true, Timestamp(0));
        self.watcher.seconds.insert(at, cheat);
    }

    /// A steward asks those with tokens that nobody audits.
    pub(super) fn ask_with_tokens(&mut self, at: usize) -> Result<(), Violation> {
        if self.settings.lonely.is_none() {
            return Ok(());
        }
        let (now, crashes) = (self.now, self.report.crashes);
        let questions = self.members[at].steward.tokens_due(now, QUESTIONS, PATIENCE_MS);
        // On disk before anybody is asked; whoever crashes then knows that they are used, and not of what.
        self.effects(at)?;
        if self.report.crashes > crashes {
            return Ok(());
        }
        for question in &questions {
            let answer = self.answer(at, question)?;
            let TokenQuestion { holder, group, slot, .. } = *question;
            self.members[at].steward.token_answered(holder, group, slot, &answer, now);
        }
        self.effects(at)?;
        if questions.is_empty() { Ok(()) } else { self.honest_are_not_doubted(at) }
    }

    /// What a holder makes of a question: the truth, or as if it had what it dropped.
    fn answer(&mut self, by: usize, question: &TokenQuestion) -> Result<TokenAnswer, Violation> {
        let now = self.now;
        let bad = |invariant, what: String| Violation { invariant, at: now, what };
        let asked = Challenge::open(&question.question.challenge).map_err(|e| bad("SEP-1", e.to_string()))?;
        if asked.way != Way::Digest || question.question.grant.is_some() {
            return Err(bad("SEP-1", format!("a steward asks for leaves of slot {}", asked.slot)));
        }
        let at = self.index[&question.holder];
        if !self.reach(by, at) {
            return Ok(TokenAnswer::Unreached);
        }
        if !self.watcher.asked.insert(asked.nonce) {
            return Err(bad("TRUST-1", format!("a token of slot {} was asked with twice", asked.slot)));
        }
        self.report.questions += 1;
        let shard = self.members[at].shards.get(&(asked.group, asked.slot, asked.ordinal)).cloned();
        let honest = !self.members[at].cheats;
        if honest && self.dice.per_mille(BUSY_PER_MILLE) {
            return Ok(TokenAnswer::Said(Reply::Refused(Refusal::Busy)));
        }
        if self.dice.per_mille(self.settings.lost_per_mille) {
            return Ok(TokenAnswer::Silent);
        }
        let found = match shard {
            Some(shard) => Found::Digest(digest(&asked.nonce, &shard)),
            None if honest => Found::NotHere(Loss::Gone),
            // As good as any that it can make up.
            None => Found::Digest(digest(&asked.nonce, asked.root.as_bytes())),
        };
        self.trace.line(now, format_args!("{by} asks {at} for stripe {} of slot {}", asked.ordinal, asked.slot));
        let challenge = Challenge::id(&question.question.challenge);
        let said = Answer { holder: question.holder, challenge, previous: None, found };
        let answer = Some(said.seal(&self.members[at].identity));
        Ok(TokenAnswer::Said(Reply::Audit(Response { answer, slices: Vec::new() }.encode_to_vec())))
    }

    /// Whom a steward doubts, and of what.
    pub(super) fn doubted_by(&self, at: usize) -> BTreeSet<(GroupId, Slot, PeerKey)> {
        let steward = &self.members[at].steward;
        let reports = steward.groups().filter_map(|group| steward.report(&group, self.now));
        let of = reports.flat_map(|report| {
            report.audits.distrusted.into_iter().map(move |(slot, peer, _)| (report.group, slot, peer))
        });
        of.collect()
    }

    pub(super) fn honest_are_not_doubted(&self, at: usize) -> Result<(), Violation> {
        for (group, slot, peer) in self.doubted_by(at) {
            let member = &self.members[self.index[&peer]];
            let whole = self.stripes_of(group, slot).iter().all(|s| member.shards.contains_key(&(group, slot, *s)));
            if !member.cheats && whole && !member.departed {
                let what = format!("{} shows all of slot {slot} and is doubted", peer.short());
                return Err(Violation { invariant: "TRUST-1", at: self.now, what });
            }
        }
        Ok(())
    }

    /// How many of those that dropped a lonely slot a quorum doubts, and of which it is said that nobody can take it. A cheat's other
    /// machine never got what the first had.
    pub(super) fn check_lonely(&mut self) -> Result<(), Violation> {
        for (second, first) in &self.watcher.seconds {
            if !self.members[*first].departed && !self.members[*second].ledger.is_empty() {
                let what = format!("{second} got what {first} dropped, which is of the same domain");
                return Err(Violation { invariant: "SEP-2", at: self.now, what });
            }
        }
        let mut doubts: BTreeMap<(GroupId, Slot, PeerKey), usize> = BTreeMap::new();
        let (mut quorums, mut told) = (BTreeMap::new(), BTreeSet::new());
        for at in (0..self.members.len()).filter(|at| !self.members[*at].departed) {
            self.doubted_by(at).into_iter().for_each(|doubt| *doubts.entry(doubt).or_default() += 1);
            let steward = &self.members[at].steward;
            for report in steward.groups().filter_map(|group| steward.report(&group, self.now)) {
                quorums.insert(report.group, report.quorum);
                let says = |what: &dyn Fn(&What) -> bool| report.log.iter().any(|entry| what(&entry.what));
                let slots = self.settings.code.each_slot().map(Slot::as_u8);
                let both = slots.filter(|of| {
                    says(&|what| matches!(what, What::NotShown { slot, .. } if slot == of))
                        && says(&|what| matches!(what, What::NoPeer { slot } if slot == of))
                });
                told.extend(both.map(|slot| (report.group, slot)));
            }
        }
        for member in self.members.iter().filter(|member| !member.departed) {
            for (group, slot) in &member.dropped {
                let doubted = doubts.get(&(*group, *slot, member.key)).copied().unwrap_or_default();
                let enough = quorums.get(group).is_some_and(|quorum| doubted >= *quorum);
                self.report.by_quorum += u32::from(enough);
                self.report.nowhere += u32::from(told.contains(&(*group, slot.as_u8())));
            }
        }
        Ok(())
    }
}
