//! A group's tokens, as one of its stewards uses them on holders that nobody else of their colour can audit.
//!
//! Each is asked with once, and is on disk as used before it is ([`crate::steward::Effect::Persist`]). What comes of it concerns this
//! steward alone, as what its auditors find does: what it doubts counts as not there for it, and what is repaired takes a quorum of
//! stewards, each with tokens of its own.
//!
//! - **TRUST-1** An honest holder is never found wrong: a token of a shard that the sheet does not have, or that the holder was not given
//!   or says it lacks, is not used. Attacked by `tests::tokens::a_token_of_another_shard_is_never_asked_with`.

use std::collections::BTreeMap;

use cairn_proto::{
    GroupTicket, Ordinals, PeerKey, ShardRoot, Slot, Timestamp,
    signed::SignedBytes,
    tokens::{Booklet, TOKENS_OF_SLOT_MAX, TokenRow},
};

use super::{super::log::What, Watched, audits::Distrust};
use crate::{
    audit::Outcome,
    liveness::{Presence, Watch},
    steward::{Rhythm, Say},
};

/// Tokens of a slot that are kept, used ones included: those of the owner's newest booklet, and of shards that went meanwhile until they
/// are let go of.
pub(super) const POOL_OF_SLOT_MAX: usize = 2 * TOKENS_OF_SLOT_MAX;
/// Questions that must be right one after the other before what is doubted of a holder counts again.
const RIGHT_AGAIN: u8 = 3;
/// What is left unanswered before it counts as not there, in points: three questions to a holder that was there for each ...
const SILENCE_MAX: u8 = 9;
const SILENT: u8 = 3;
/// ... or nine at which it was busy: others may keep it so for a while.
const BUSY: u8 = 1;
/// Times that a spare booklet is said to the same steward: no answer tells whether it came.
const HANDED_MAX: u8 = 3;

/// A token and whether it was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) slot: u8,
    pub(super) row: TokenRow,
    pub(super) used: bool,
}

/// A question that is not answered.
#[derive(Clone, Debug, PartialEq)]
struct Open {
    challenge: SignedBytes,
    row: TokenRow,
}

/// How a holder of a slot stands.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Asked {
    /// When it is asked next.
    pub(super) due: Timestamp,
    /// Points for what it left unanswered since its last answer.
    pub(super) silence: u8,
    /// Right answers since its last other one.
    pub(super) right: u8,
    /// Not kept across a crash: the token is used.
    open: Option<Open>,
}

impl Asked {
    /// As it was written.
    pub(super) const fn new(due: Timestamp, silence: u8, right: u8) -> Self {
        Self { due, silence, right, open: None }
    }
}

/// To whom the spare booklet was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Handed {
    pub(super) to: PeerKey,
    pub(super) times: u8,
    pub(super) at: Timestamp,
}

/// All of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Tokens {
    /// By nonce. These are random and secret, so their order is one that no holder foresees.
    pub(super) pool: BTreeMap<[u8; 32], Kept>,
    pub(super) asked: BTreeMap<(u8, PeerKey), Asked>,
    pub(super) spare: Option<Vec<u8>>,
    pub(super) handed: Option<Handed>,
}

/// A holder that is asked with tokens, since nobody can audit it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenReport {
    /// The slot.
    pub slot: Slot,
    /// Who.
    pub holder: PeerKey,
    /// Tokens that can still be used on it.
    pub left: usize,
    /// Those of the slot that were used.
    pub used: usize,
}

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Came {
    /// What the holder said.
    Judged(Outcome),
    /// It was there and said nothing that is an answer.
    Silent,
    /// It has too much to do.
    Busy,
    /// It could not be reached, so it never saw the question.
    Unreached,
    /// It may have been us: nothing follows.
    Blind,
}

impl Watched {
    /// Takes tokens up, as their owner signed them. Whether there was anything new.
    pub(in super::super) fn learn_tokens(&mut self, me: &PeerKey, own: Option<&[u8]>, spare: Option<&[u8]>) -> bool {
        let ticket = self.record.mandate.ticket;
        let open = |sealed: Option<&[u8]>| sealed.and_then(|sealed| Booklet::open(sealed, &ticket).ok());
        let Some(own) = open(own) else { return false };
        let named = own.steward == Some(*me);
        // One that names nobody is for who was put in by others, and has none: whoever kept it may have shown it to holders.
        let heir = own.steward.is_none()
            && self.tokens.pool.is_empty()
            && !self.record.mandate.stewards.contains(me)
            && self.committee().stewards().contains(me);
        if !named && !heir {
            return false;
        }
        let mut news = self.add_tokens(&own);
        // Whoever shows a booklet that names us is its owner, or had it from there.
        let new = spare.filter(|_| named && open(spare).is_some_and(|spare| spare.steward.is_none()));
        if let Some(new) = new.filter(|_| self.tokens.handed.is_none())
            && self.tokens.spare.as_deref() != Some(new)
        {
            self.tokens.spare = Some(new.to_vec());
            news = true;
        }
        news
    }

    fn add_tokens(&mut self, booklet: &Booklet) -> bool {
        let mut news = false;
        for (slot, rows) in &booklet.slots {
            let at = slot.as_u8();
            let fresh: Vec<TokenRow> =
                rows.iter().filter(|row| !self.tokens.pool.contains_key(&row.nonce)).copied().collect();
            let over = (self.of_slot(at).count() + fresh.len()).saturating_sub(POOL_OF_SLOT_MAX);
            // What is of no shard any more makes room.
            let gone = self.of_slot(at).filter(|kept| self.root_of(*slot, &kept.row).is_none());
            let gone: Vec<[u8; 32]> = gone.take(over).map(|kept| kept.row.nonce).collect();
            self.tokens.pool.retain(|nonce, _| !gone.contains(nonce));
            let room = POOL_OF_SLOT_MAX.saturating_sub(self.of_slot(at).count());
            for row in fresh.into_iter().take(room) {
                self.tokens.pool.insert(row.nonce, Kept { slot: at, row, used: false });
                news = true;
            }
        }
        news
    }

    /// The root that the sheet has of a token's shard, when it is the one that the token was made for.
    fn root_of(&self, slot: Slot, token: &TokenRow) -> Option<ShardRoot> {
        let rows = &self.record.sheets.get(slot.index())?.rows;
        let at = rows.binary_search_by_key(&token.ordinal, |row| row.ordinal).ok()?;
        rows.get(at).map(|row| row.root).filter(|root| token.is_of(root))
    }

    fn of_slot(&self, slot: u8) -> impl Iterator<Item = &Kept> + '_ {
        self.tokens.pool.values().filter(move |kept| kept.slot == slot)
    }

    /// Those that can be used on a holder: of shards that it was given and does not say that it lacks.
    fn fresh<'a>(&'a self, slot: Slot, holder: &PeerKey) -> impl Iterator<Item = (&'a Kept, ShardRoot)> + 'a {
        let claims = self.claims(slot, holder).and(&self.wanted(slot));
        let usable = move |kept: &'a Kept| {
            let may = !kept.used && claims.contains(kept.row.ordinal);
            self.root_of(slot, &kept.row).filter(|_| may).map(|root| (kept, root))
        };
        self.of_slot(slot.as_u8()).filter_map(usable)
    }

    /// Between two questions for a slot: so that its tokens last as long as they are to.
    fn token_gap(&self, slot: u8, rhythm: &Rhythm) -> u64 {
        let all = self.of_slot(slot).count().max(1) as u64;
        (rhythm.tokens_ms / all).max(rhythm.audit_ms)
    }

    /// How long what tokens did not find counts as not there: until the other stewards had their turn too.
    pub(super) fn doubt_ms(&self, slot: u8, rhythm: &Rhythm) -> u64 {
        rhythm.distrust_ms.max(self.token_gap(slot, rhythm).saturating_mul(2))
    }

    /// Holders of the group that have no auditor for want of anybody, and are to be asked with a token now.
    pub(in super::super) fn to_ask_with_tokens(&self, now: Timestamp) -> Vec<(Slot, PeerKey)> {
        if self.tokens.pool.is_empty() {
            return Vec::new();
        }
        let due = |key: &(u8, PeerKey)| {
            self.tokens.asked.get(key).is_none_or(|asked| asked.open.is_none() && asked.due <= now)
        };
        let alone = self.alone(now).filter(|key| due(key));
        let of = alone.filter_map(|(at, holder)| Some((Slot::new(at).ok()?, holder)));
        of.filter(|(slot, holder)| self.fresh(*slot, holder).next().is_some()).collect()
    }

    /// Takes a token for a holder, the shard that was asked for least often first; from now on it is used.
    pub(in super::super) fn take_token(
        &mut self,
        slot: Slot,
        holder: &PeerKey,
        now: Timestamp,
        rhythm: &Rhythm,
    ) -> Option<(TokenRow, ShardRoot)> {
        let mut times: BTreeMap<u8, usize> = BTreeMap::new();
        for kept in self.of_slot(slot.as_u8()).filter(|kept| kept.used) {
            *times.entry(kept.row.ordinal).or_default() += 1;
        }
        let often = |row: &TokenRow| times.get(&row.ordinal).copied().unwrap_or_default();
        let chosen = self.fresh(slot, holder).min_by_key(|(kept, _)| (often(&kept.row), kept.row.nonce));
        let (row, root) = chosen.map(|(kept, root)| (kept.row, root))?;
        let due = now.plus_ms(self.token_gap(slot.as_u8(), rhythm));
        self.tokens.pool.get_mut(&row.nonce)?.used = true;
        self.tokens.asked.entry((slot.as_u8(), *holder)).or_insert(Asked::new(due, 0, 0)).due = due;
        Some((row, root))
    }

    /// The question is on its way.
    pub(in super::super) fn asked_with(&mut self, slot: Slot, holder: &PeerKey, challenge: SignedBytes, row: TokenRow) {
        if let Some(asked) = self.tokens.asked.get_mut(&(slot.as_u8(), *holder)) {
            asked.open = Some(Open { challenge, row });
        }
    }

    /// The question to a holder that waits for its answer, and how the right one begins.
    pub(in super::super) fn open_question(&self, slot: Slot, holder: &PeerKey) -> Option<(&SignedBytes, [u8; 16])> {
        let open = self.tokens.asked.get(&(slot.as_u8(), *holder))?.open.as_ref()?;
        Some((&open.challenge, open.row.digest))
    }

    /// What came of the open question to a holder. Whether anything changed that must be kept.
    pub(in super::super) fn token_came(
        &mut self,
        slot: Slot,
        holder: &PeerKey,
        came: &Came,
        now: Timestamp,
        rhythm: &Rhythm,
    ) -> bool {
        let key = (slot.as_u8(), *holder);
        let soon = now.plus_ms(rhythm.audit_ms);
        let Some(asked) = self.tokens.asked.get_mut(&key) else { return false };
        let Some(Open { row, .. }) = asked.open.take() else { return false };
        let only = Ordinals::from_iter([row.ordinal]);
        let (mut missing, mut shown) = (Ordinals::default(), Ordinals::default());
        match came {
            Came::Judged(Outcome::Good) => {
                (asked.silence, asked.right) = (0, asked.right.saturating_add(1));
                shown = only;
            }
            Came::Judged(Outcome::NotHere(_)) => {
                (asked.silence, asked.right) = (0, 0);
                missing = only;
            }
            Came::Judged(Outcome::Mismatch | Outcome::Wrong(_)) => {
                (asked.silence, asked.right) = (0, 0);
                // It says that it has them and signs what is not so: nothing that it says of this slot counts.
                missing = self.claims(slot, holder).or(&only);
            }
            Came::Silent | Came::Busy => {
                let points = if *came == Came::Busy { BUSY } else { SILENT };
                (asked.silence, asked.right) = (asked.silence.saturating_add(points).min(SILENCE_MAX), 0);
                if asked.silence >= SILENCE_MAX {
                    missing = self.claims(slot, holder).or(&only);
                } else {
                    asked.due = asked.due.min(soon);
                }
            }
            Came::Unreached => {
                asked.due = asked.due.min(soon);
                if let Some(kept) = self.tokens.pool.get_mut(&row.nonce) {
                    kept.used = false;
                }
            }
            Came::Blind => {}
        }
        let right = *came == Came::Judged(Outcome::Good);
        self.doubt(slot, holder, &missing, &shown, now, rhythm);
        // Whoever shows something again has its name back soon. Of who goes on being wrong one more token at its time is enough: it is
        // doubted for longer than that.
        if right
            && self.distrusted.contains_key(&key)
            && let Some(asked) = self.tokens.asked.get_mut(&key)
        {
            asked.due = asked.due.min(soon);
        }
        true
    }

    fn doubt(
        &mut self,
        slot: Slot,
        holder: &PeerKey,
        missing: &Ordinals,
        shown: &Ordinals,
        now: Timestamp,
        rhythm: &Rhythm,
    ) {
        let key = (slot.as_u8(), *holder);
        let known = self.distrust(slot, holder);
        let right = self.tokens.asked.get(&key).map_or(0, |asked| asked.right);
        let doubted = if right >= RIGHT_AGAIN { Ordinals::default() } else { known.without(shown).or(missing) };
        let fresh = missing.without(&known);
        if !fresh.is_empty() {
            self.note(now, What::NotShown { slot: key.0, holder: *holder, shards: fresh.len() as u16 });
        }
        if doubted == known && missing.is_empty() {
            return;
        }
        self.looked = None;
        if doubted.is_empty() {
            self.distrusted.remove(&key);
            return;
        }
        let until = now.plus_ms(self.doubt_ms(key.0, rhythm));
        let entry = self.distrusted.entry(key).or_insert(Distrust { ordinals: doubted, until });
        entry.ordinals = doubted;
        if !missing.is_empty() {
            entry.until = entry.until.max(until);
        }
    }

    /// What a spare booklet is said with to a steward that others put in, when it is ours to give: the k-th change's comes from the k-th of
    /// those whom the owner named, or the next of them who is there. Then it is given, whether it arrives or not.
    pub(in super::super) fn hand_over(
        &mut self,
        me: &PeerKey,
        watch: &Watch,
        now: Timestamp,
        rhythm: &Rhythm,
    ) -> Option<(PeerKey, Say)> {
        let spare = self.tokens.spare.clone()?;
        let to = match self.tokens.handed {
            Some(Handed { to, times, at }) => {
                (times < HANDED_MAX && now.ms_since(at) >= rhythm.compare_ms).then_some(to)?
            }
            None => self.heir_of(me)?,
        };
        let there = watch.belief(&to, now).presence <= Presence::Late;
        if !there || !self.committee().stewards().contains(&to) {
            return None;
        }
        let times = self.tokens.handed.map_or(0, |handed| handed.times).saturating_add(1);
        self.tokens.handed = Some(Handed { to, times, at: now });
        Some((to, Say::Tokens { group: self.group(), own: Some(spare), spare: None }))
    }

    fn heir_of(&self, me: &PeerKey) -> Option<PeerKey> {
        let named = &self.record.mandate.stewards;
        let serve = self.committee().stewards();
        let put_in = self.chain.changes().iter().enumerate();
        let mut put_in = put_in.filter_map(|(at, change)| Some((at, change.order.action.stewards().1?)));
        put_in.find_map(|(at, new)| {
            let mut givers = named.iter().cycle().skip(at % named.len().max(1)).take(named.len());
            let giver = givers.find(|giver| serve.contains(giver));
            (giver == Some(me) && serve.contains(&new) && !named.contains(&new)).then_some(new)
        })
    }

    /// After another record, or the clock: what is of nobody goes, and nothing waits for years.
    pub(super) fn settle_tokens(&mut self) {
        let given = &self.given;
        self.tokens.asked.retain(|holder, _| given.contains_key(holder));
    }

    pub(super) fn clamp_tokens(&mut self, now: Timestamp, rhythm: &Rhythm) {
        let gaps: BTreeMap<u8, u64> =
            self.tokens.asked.keys().map(|(slot, _)| (*slot, self.token_gap(*slot, rhythm))).collect();
        for ((slot, _), asked) in &mut self.tokens.asked {
            let gap = gaps.get(slot).copied().unwrap_or(rhythm.audit_ms);
            asked.due = asked.due.min(now.plus_ms(gap));
        }
        if let Some(handed) = &mut self.tokens.handed {
            handed.at = handed.at.min(now);
        }
    }

    /// Holders that nobody audits and that are asked with tokens, and how many are left; those without any are for their owner alone.
    pub(super) fn token_report(&self, now: Timestamp) -> Vec<TokenReport> {
        let of = |(at, holder): (u8, PeerKey)| {
            let slot = Slot::new(at).ok()?;
            let used = self.of_slot(at).filter(|kept| kept.used).count();
            Some(TokenReport { slot, holder, left: self.fresh(slot, &holder).count(), used })
        };
        self.alone(now).filter_map(of).collect()
    }

    /// The ticket that tokens are checked by.
    pub(in super::super) const fn ticket(&self) -> GroupTicket {
        self.record.mandate.ticket
    }
}

#[cfg(test)]
impl Watched {
    pub(in super::super) fn token_nonces(&self) -> impl Iterator<Item = [u8; 32]> + '_ {
        self.tokens.pool.keys().copied()
    }
}
