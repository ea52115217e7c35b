//! The search for who makes a root wrong: rebuilds with other helper sets, until one comes out right and the liars are told apart.
//!
//! With s survivors of whom a rebuild needs k, each run leaves s - k out. While none succeeded, the next leaves out who alone would
//! explain what failed, then pairs that would. A run that succeeds clears its helpers; those of failed runs who are not cleared are
//! then taken in by halves, each among cleared ones only.
//!
//! # Invariants
//!
//! - **TRUST-1** A slot is named only when runs with it failed at least twice (once where its fingerprint is wrong too), none with it
//!   succeeded, and one failed in which all others are cleared. Enforced by [`Search::verdict`]; attacked by
//!   `tests::search::who_behaves_at_times_gets_nobody_named`. It is suspicion all the same: who behaves until it may frame somebody
//!   can, and a new holder can say that right bytes are wrong.

use std::collections::BTreeSet;

use cairn_proto::Slot;

/// Runs beside the first that one stripe is searched with at most: each takes one of the sessions that a shard may be in
/// ([`super::SESSIONS_MAX`]), and a second order is to have some left.
pub const RUNS_OF_STRIPE: u16 = 6;

/// ... all stripes of an order together: 120 MiB of others' lines with 5+3, where one liar takes four runs, and two at most
/// twenty pairs.
pub const RUNS_OF_ORDER: usize = 24;

/// A run that is over: the root was right, or wrong. Runs that broke off for other reasons say nothing and are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Run {
    helpers: BTreeSet<Slot>,
    succeeded: bool,
}

/// Whom the runs point at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No run failed.
    Nobody,
    /// These, if who lies does so whenever it helps.
    Named(BTreeSet<Slot>),
    /// One of these at least, or the new holder says that right bytes are wrong.
    Among(BTreeSet<Slot>),
}

/// What is known from the runs of one order.
#[derive(Clone, Debug)]
pub struct Search {
    survivors: Vec<Slot>,
    needed: usize,
    runs: Vec<Run>,
    /// Whose fingerprints are wrong.
    marked: BTreeSet<Slot>,
}

impl Search {
    /// Of these survivors (virtual slots are none), so many of whom make a rebuild.
    #[must_use]
    pub fn new(survivors: impl IntoIterator<Item = Slot>, needed: usize) -> Self {
        let mut all: Vec<Slot> = Vec::new();
        for slot in survivors {
            if !all.contains(&slot) {
                all.push(slot);
            }
        }
        Self { survivors: all, needed, runs: Vec::new(), marked: BTreeSet::new() }
    }

    /// Whom to begin with, in the survivors' order: a set that succeeded, else one that would if the fewest lied, else the first.
    #[must_use]
    pub fn best(&self) -> Vec<Slot> {
        if let Some(run) = self.runs.iter().rev().find(|run| run.succeeded && self.are_there(&run.helpers)) {
            return self.in_order(&run.helpers);
        }
        let without = if self.runs.is_empty() { None } else { self.to_get_it() };
        without.unwrap_or_else(|| self.survivors.iter().take(self.needed).copied().collect())
    }

    /// Who may stand in for one of [`Search::best`] that does not help, in the survivors' order: nobody who may have made a root wrong.
    #[must_use]
    pub fn spares(&self) -> Vec<Slot> {
        let mut out: BTreeSet<Slot> = self.best().into_iter().collect();
        out.extend(self.failed().flat_map(|run| self.open(run)).chain(self.marked.iter().copied()));
        self.survivors.iter().filter(|slot| !out.contains(slot)).copied().collect()
    }

    /// The helpers of the next run; `None` when no run would say more. It gets the shard first, then tells the liars apart.
    #[must_use]
    pub fn next_run(&self) -> Option<Vec<Slot>> {
        if self.has_succeeded() { self.to_tell_apart() } else { self.to_get_it() }
    }

    /// A run is over.
    pub fn ran(&mut self, helpers: impl IntoIterator<Item = Slot>, succeeded: bool) {
        self.runs.push(Run { helpers: helpers.into_iter().collect(), succeeded });
    }

    /// The fingerprint of this slot's shard is wrong.
    pub fn mark(&mut self, slot: Slot) {
        self.marked.insert(slot);
    }

    /// A survivor did not answer, or too late: it helps where the others do not suffice. Whom the runs point at stays the same.
    pub fn put_last(&mut self, slot: Slot) {
        if let Some(at) = self.survivors.iter().position(|survivor| *survivor == slot) {
            let slow = self.survivors.remove(at);
            self.survivors.push(slow);
        }
    }

    /// A survivor does not help any more.
    pub fn left(&mut self, slot: Slot) {
        self.survivors.retain(|survivor| *survivor != slot);
    }

    /// Helpers of a run.
    #[must_use]
    pub const fn needed(&self) -> usize {
        self.needed
    }

    /// Whether a run came out wrong.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.runs.iter().any(|run| !run.succeeded)
    }

    /// Whether one came out right.
    #[must_use]
    pub fn has_succeeded(&self) -> bool {
        self.runs.iter().any(|run| run.succeeded)
    }

    /// Whom they point at.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let Some(first) = self.failed().next() else { return Verdict::Nobody };
        let named = self.named();
        if !named.is_empty() {
            return Verdict::Named(named);
        }
        let open: BTreeSet<Slot> = self.failed().flat_map(|run| self.open(run)).collect();
        let alone = self.alone();
        let narrow = if alone.is_empty() { open } else { alone };
        // All of them are cleared: one behaves at times.
        Verdict::Among(if narrow.is_empty() { first.helpers.clone() } else { narrow })
    }

    fn failed(&self) -> impl Iterator<Item = &Run> {
        self.runs.iter().filter(|run| !run.succeeded)
    }

    fn cleared(&self) -> BTreeSet<Slot> {
        self.runs.iter().filter(|run| run.succeeded).flat_map(|run| run.helpers.iter().copied()).collect()
    }

    /// Who of a failed run is not cleared.
    fn open(&self, run: &Run) -> BTreeSet<Slot> {
        let cleared = self.cleared();
        run.helpers.difference(&cleared).copied().collect()
    }

    fn named(&self) -> BTreeSet<Slot> {
        let often = |slot: &Slot| {
            let least = if self.marked.contains(slot) { 1 } else { 2 };
            self.failed().filter(|run| run.helpers.contains(slot)).count() >= least
        };
        let alone = self.failed().filter_map(|run| {
            let open = self.open(run);
            if open.len() == 1 { open.first().copied() } else { None }
        });
        alone.filter(often).collect()
    }

    /// Who alone explains all that failed, if it lies whenever it helps.
    fn alone(&self) -> BTreeSet<Slot> {
        let cleared = self.cleared();
        let all = self.survivors.iter().filter(|slot| !cleared.contains(slot));
        all.filter(|slot| self.failed().all(|run| run.helpers.contains(slot))).copied().collect()
    }

    fn are_there(&self, helpers: &BTreeSet<Slot>) -> bool {
        helpers.iter().all(|slot| self.survivors.contains(slot))
    }

    fn in_order(&self, helpers: &BTreeSet<Slot>) -> Vec<Slot> {
        self.survivors.iter().filter(|slot| helpers.contains(slot)).copied().collect()
    }

    /// A run without some who would explain what failed: nobody, alone or in twos, explains it once it was left out in vain.
    fn to_get_it(&self) -> Option<Vec<Slot>> {
        // Whose fingerprint is wrong stays out first; where that was in vain, they are as good as any.
        self.without(&self.marked).or_else(|| self.without(&BTreeSet::new()))
    }

    fn without(&self, first: &BTreeSet<Slot>) -> Option<Vec<Slot>> {
        let spare = self.survivors.len().checked_sub(self.needed).filter(|spare| *spare > 0 && self.needed > 0)?;
        let mut out: BTreeSet<Slot> = BTreeSet::new();
        let there = |slot: &&Slot| self.survivors.contains(slot);
        let alone = self.alone();
        out.extend(first.iter().filter(there).take(spare).copied());
        let left = spare - out.len();
        out.extend(
            self.survivors.iter().filter(|slot| alone.contains(slot) && !first.contains(slot)).take(left).copied(),
        );
        let explains = |one: &Slot, other: &Slot| {
            self.failed().all(|run| run.helpers.contains(one) || run.helpers.contains(other))
        };
        let rest = |out: &BTreeSet<Slot>| -> Vec<Slot> {
            self.survivors.iter().filter(|slot| !out.contains(slot)).copied().collect()
        };
        let degree = |slot: &Slot| self.survivors.iter().filter(|o| *o != slot && explains(slot, o)).count();
        if out.is_empty() && spare >= 2 {
            // The pair whose two are in most pairs.
            let all = rest(&out);
            let pairs = all.iter().enumerate().flat_map(|(at, one)| all[at + 1..].iter().map(move |o| (*one, *o)));
            let pairs = pairs.filter(|(one, other)| explains(one, other));
            let (one, other) = pairs.min_by_key(|(one, other)| std::cmp::Reverse(degree(one) + degree(other)))?;
            out.extend([one, other]);
        }
        if out.is_empty() {
            return None;
        }
        while out.len() < spare {
            let gain =
                |slot: &Slot| out.iter().filter(|o| explains(slot, o)).count() * self.survivors.len() + degree(slot);
            let next = rest(&out).into_iter().min_by_key(|slot| std::cmp::Reverse(gain(slot)))?;
            out.insert(next);
        }
        let helpers = rest(&out);
        let set: BTreeSet<Slot> = helpers.iter().copied().collect();
        let known = self.runs.iter().any(|run| run.helpers == set);
        (helpers.len() == self.needed && !known).then_some(helpers)
    }

    /// Some of those who are not cleared, among those who are.
    fn to_tell_apart(&self) -> Option<Vec<Slot>> {
        let (cleared, named) = (self.cleared(), self.named());
        let there = |slots: BTreeSet<Slot>| -> Vec<Slot> { self.in_order(&slots) };
        let explained = |open: &BTreeSet<Slot>| open.is_empty() || !open.is_disjoint(&named);
        let unexplained = self.failed().map(|run| self.open(run)).filter(|open| !explained(open));
        let group: Vec<Slot> = match unexplained.min_by_key(BTreeSet::len) {
            // One is asked again alone: that it failed may have been another's doing who behaves now.
            Some(open) => {
                let open = there(open);
                let half = open.len().div_ceil(2);
                open.into_iter().take(half).collect()
            }
            // What failed is explained; the others who were in it are cleared, or there is a second liar.
            None => {
                let open = self.failed().flat_map(|run| self.open(run)).filter(|slot| !named.contains(slot));
                there(open.collect())
            }
        };
        let group: Vec<Slot> = group.into_iter().take(self.needed).collect();
        let fill = self.survivors.iter().filter(|slot| cleared.contains(slot)).take(self.needed - group.len());
        let helpers: BTreeSet<Slot> = group.iter().chain(fill).copied().collect();
        (!group.is_empty() && helpers.len() == self.needed).then(|| self.in_order(&helpers))
    }
}
