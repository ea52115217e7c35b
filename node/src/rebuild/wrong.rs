//! Who made a root wrong: first the fingerprints of what lies on the helpers' disks, then rebuilds that leave some out in turn.
//!
//! Both need more helpers in the order than the stripe has data shards; stewards name all that are there. What is found out serves all
//! stripes of the order: the next begins with helpers that made a shard right. An order whose helpers are all needed names nobody, and
//! says that it is one of them.
//!
//! What they give is suspicion (TRUST-1): the stewards leave that peer out of the next orders.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use cairn_core::{
    blind::{
        Fingerprint, Located, RUNS_OF_ORDER, RUNS_OF_STRIPE, Search, Verdict,
        invite::{Asked, Frame},
        locate,
        wire::Message,
    },
    erasure::Codec,
    steward::message::Failure,
};
use cairn_proto::{PeerKey, Slot, Timestamp, order::OrderId};
use futures::future::join_all;

use super::{
    Shared, entropy,
    holder::{Job, Stop},
    team::{Member, Team},
};
use crate::network::clock;

/// Orders whose searches are remembered: more than a new holder carries out at a time. The one that ends first goes for one more.
const SEARCHES_MAX: usize = 64;

/// What is known of an order's helpers. One stripe searches at a time: the others wait, and begin with what it found.
pub(super) type OfOrder = Arc<tokio::sync::Mutex<Known>>;

/// See [`OfOrder`].
pub(super) struct Known {
    search: Search,
    /// Runs beside each stripe's first.
    runs: usize,
}

/// An order, and how many data shards its stripes have: they are one number in honest orders.
type Of = (OrderId, u8);

/// One order's search.
struct Searched {
    /// Until when the order stands.
    expires: Timestamp,
    helpers: BTreeMap<Slot, PeerKey>,
    known: OfOrder,
}

/// The searches of orders that stand.
#[derive(Default)]
pub(super) struct Searches(Mutex<BTreeMap<Of, Searched>>);

impl Searches {
    /// What is known of the helpers of a stripe's order, if another of its stripes was here before.
    fn find(&self, frame: &Frame) -> Option<OfOrder> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&(*frame.order(), frame.used)).map(|one| one.known.clone())
    }

    /// The same, or a beginning. `silent`: whom we heard nothing of for long; they help last.
    fn of(&self, frame: &Frame, expires: Timestamp, silent: &BTreeSet<PeerKey>) -> OfOrder {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = clock();
        all.retain(|_, one| now < one.expires);
        let of = (*frame.order(), frame.used);
        if !all.contains_key(&of) && all.len() >= SEARCHES_MAX {
            let first = all.iter().min_by_key(|(_, one)| one.expires).map(|(of, _)| *of);
            if let Some(first) = first {
                all.remove(&first);
            }
        }
        let new = || {
            let mut helpers = frame.helpers.clone();
            helpers.sort_by_key(|(_, peer)| silent.contains(peer));
            let search = Search::new(helpers.iter().map(|(slot, _)| *slot), frame.used.into());
            let known = Arc::new(tokio::sync::Mutex::new(Known { search, runs: 0 }));
            Searched { expires, helpers: frame.helpers.iter().copied().collect(), known }
        };
        all.entry(of).or_insert_with(new).known.clone()
    }

    /// Whom the search of an order named; none where no root came out wrong.
    pub(super) async fn named(&self, order: &OrderId) -> Option<BTreeSet<PeerKey>> {
        let of_order: Vec<(BTreeMap<Slot, PeerKey>, OfOrder)> = {
            let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let own = all.iter().filter(|((of, _), _)| of == order);
            own.map(|(_, one)| (one.helpers.clone(), one.known.clone())).collect()
        };
        let mut named = None;
        for (helpers, known) in of_order {
            match known.lock().await.search.verdict() {
                Verdict::Named(slots) => {
                    let peers = slots.iter().filter_map(|slot| helpers.get(slot)).copied();
                    named.get_or_insert_with(BTreeSet::new).extend(peers);
                }
                Verdict::Among(_) => drop(named.get_or_insert_with(BTreeSet::new)),
                Verdict::Nobody => {}
            }
        }
        named
    }
}

#[cfg(test)]
impl Searches {
    /// Whom the next stripe of an order begins with.
    pub(super) async fn best_of(&self, order: &OrderId) -> Vec<Slot> {
        let known = {
            let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.iter().find(|((of, _), _)| of == order).map(|(_, one)| one.known.clone())
        };
        known.expect("an order of ours").lock().await.search.best()
    }
}

impl Known {
    /// Whom a stripe begins with, and who takes the place of one that is not there; all but those who broke off a session of it.
    pub(super) fn team(&self, job: &Job<'_>, broke: &[Slot]) -> Team {
        let there = |slot: &Slot| !broke.contains(slot);
        let (best, spares) = (self.search.best(), self.search.spares());
        let mut all = best.into_iter().chain(spares).filter(there);
        let first: Vec<Slot> = all.by_ref().take(self.search.needed()).collect();
        Team { first: chain(job, &first), spare: chain(job, &all.collect::<Vec<_>>()) }
    }

    /// These did not answer, or broke a session off: they help last from now on.
    pub(super) fn put_last(&mut self, slots: &[Slot]) {
        slots.iter().for_each(|slot| self.search.put_last(*slot));
    }

    /// Whether there may be one more session in the place of one that broke; then it counts, like those that look for a liar.
    pub(super) fn may_replace(&mut self, broke: &[Slot]) -> bool {
        let (best, spares) = (self.search.best(), self.search.spares());
        let left = best.iter().chain(&spares).filter(|slot| !broke.contains(slot)).count();
        let may = left >= self.search.needed() && self.runs < RUNS_OF_ORDER;
        self.runs += usize::from(may);
        may
    }
}

impl Shared {
    /// What is known of the helpers of a stripe's order.
    pub(super) async fn known_of(&self, frame: &Frame, expires: Timestamp) -> OfOrder {
        if let Some(known) = self.searches.find(frame) {
            return known;
        }
        let since = Timestamp(clock().0.saturating_sub(self.patience.silent.as_millis() as u64));
        let helpers = frame.helpers.iter().map(|(_, peer)| *peer).collect();
        let silent = self.net.silent(helpers, since).await;
        self.searches.of(frame, expires, &silent)
    }

    /// After an attempt with these helpers, and without those, came out wrong: brings the shard where it can be had without who lies, and
    /// finds out who that is ([`Searches::named`]). `before`: attempts of the stripe so far, beside its first.
    pub(super) async fn find_liar(
        &self,
        job: &Job<'_>,
        known: &OfOrder,
        (first, absent): (Vec<Slot>, &[Slot]),
        before: u16,
    ) -> Result<Bytes, Failure> {
        let mut known = known.lock().await;
        known.put_last(absent);
        known.search.ran(first, false);
        let mut shard = None;
        let mut prints = Some(());
        for attempt in before + 1..=RUNS_OF_STRIPE {
            // Another stripe of the order may have found out meanwhile: then its helpers are tried first.
            let next = if shard.is_none() && known.search.has_succeeded() {
                Some(known.search.best())
            } else {
                if prints.take().is_some() {
                    self.by_fingerprints(job, &mut known.search).await;
                }
                known.search.next_run()
            };
            let Some(helpers) = next.filter(|_| known.runs < RUNS_OF_ORDER) else { break };
            known.runs += 1;
            // These and nobody else: who is left out is what is asked.
            let team = Team { first: chain(job, &helpers), spare: Vec::new() };
            match self.attempt(job, &team, attempt).await.ended {
                Ok(right) => {
                    known.search.ran(helpers, true);
                    shard = Some(right);
                }
                Err(Stop::WrongRoot) => known.search.ran(helpers, false),
                Err(Stop::Failed(Failure::Missing(peer))) => {
                    tracing::info!(peer = %peer.short(), "a helper stays out of the search for who made a root wrong");
                    job.frame.slot_of(&peer).into_iter().for_each(|slot| known.search.left(slot));
                }
                Err(Stop::Failed(failure)) => {
                    tracing::info!(?failure, "a run that was to find out who made a root wrong broke off");
                    break;
                }
            }
        }
        let verdict = known.search.verdict();
        tracing::warn!(
            ?verdict,
            runs = known.runs,
            found = shard.is_some(),
            "a rebuild came out wrong, and was searched"
        );
        let named = match verdict {
            Verdict::Named(slots) => slots.iter().find_map(|slot| job.frame.helper(*slot)),
            Verdict::Among(_) | Verdict::Nobody => None,
        };
        shard.ok_or(Failure::Wrong(named))
    }

    /// Marks those whose stored shard is wrong.
    async fn by_fingerprints(&self, job: &Job<'_>, search: &mut Search) {
        let used = usize::from(job.frame.used);
        // Fewer cannot tell: no holder is asked for a byte in vain.
        if job.frame.helpers.len() < used + 2 {
            return;
        }
        let Some(seed) = entropy() else { return };
        let asked = job.frame.helpers.iter().map(|(slot, peer)| async move {
            match self.ask(job, *peer, Asked::Print { seed }).await {
                Some((_, Message::Print(print))) => Some((*slot, print)),
                _ => None,
            }
        });
        let prints: BTreeMap<Slot, Fingerprint> = join_all(asked).await.into_iter().flatten().collect();
        match locate(&Codec::new(job.frame.code), used, &prints) {
            Ok(Located::Wrong(slot)) => search.mark(slot),
            Ok(Located::WrongPair(one, other)) => [one, other].into_iter().for_each(|slot| search.mark(slot)),
            found => tracing::debug!(?found, "fingerprints name nobody"),
        }
    }
}

/// Helpers of an order, by their slots.
fn chain(job: &Job<'_>, slots: &[Slot]) -> Vec<Member> {
    slots.iter().filter_map(|slot| Some((*slot, job.frame.helper(*slot)?))).collect()
}
