//! Shards of a stripe from whoever has them: its row's holders, and those who took them from stewards since.
//!
//! Stewards are asked in the background when a holder fails, and waited for only when there are too few shards without them
//! ([`learn`](crate::vault::learn)).

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, PoisonError, atomic::Ordering},
};

use bytes::Bytes;
use cairn_core::{
    reputation::Observed,
    stripe::{HashedShard, StripeError},
};
use cairn_proto::{
    PeerKey, Slot,
    index::StripeNo,
    wire::{Priority, RefusalCode},
};
use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::time::Instant;

use super::{Accept, ReadError, Reader, StripeSource};
use crate::{
    overlay::{ShardAddress, TransferError},
    vault::learn::Learned,
};

impl Reader {
    pub(super) fn has_trusted_holder(&self, source: &StripeSource, slot: Slot) -> bool {
        let holders = self.holders(source, slot);
        let known = self.known();
        holders.iter().any(|peer| {
            !known.suspects.contains(peer) && (!known.late.contains(peer) || self.overlay.is_connected(peer))
        })
    }

    /// Whether a trusted holder of the slot need not be dialled first.
    pub(super) fn is_at_hand(&self, source: &StripeSource, slot: Slot) -> bool {
        let holders = self.holders(source, slot);
        let known = self.known();
        holders.iter().any(|peer| !known.suspects.contains(peer) && self.overlay.is_connected(peer))
    }

    /// Begins to connect to all who hold something of a stripe's group, once: whoever reads its files asks most of them, and who cannot
    /// be reached should be known by then.
    pub(super) fn reach(&self, no: StripeNo) -> Result<(), ReadError> {
        self.reach_group(&self.source(no)?);
        Ok(())
    }

    /// The same, of a stripe whose rows are at hand.
    pub(super) fn reach_group(&self, source: &StripeSource) {
        if self.known().reached.insert(source.row.group) {
            for peer in source.group.0.holders.iter().flatten().filter(|peer| !self.overlay.is_connected(peer)) {
                self.overlay.reach(*peer);
            }
        }
    }

    /// Whether the stripe can be had without dialling anybody.
    pub(super) fn are_others_at_hand(&self, source: &StripeSource) -> bool {
        let at_hand = source.row.present().filter(|(slot, _)| self.is_at_hand(source, *slot)).count();
        at_hand >= usize::from(source.row.used)
    }

    pub(super) fn note_late(&self, source: &StripeSource, slot: Slot) {
        let holders = self.holders(source, slot);
        let mut known = self.known();
        known.late.extend(holders.into_iter().filter(|peer| !self.overlay.is_connected(peer)));
    }

    /// Whoever was asked for this slot's shard took longer than the line explains.
    pub(super) fn note_slow(&self, source: &StripeSource, slot: Slot) {
        let holders = self.holders(source, slot);
        let mut known = self.known();
        let asked =
            holders.into_iter().filter(|peer| !known.suspects.contains(peer) && self.overlay.is_connected(peer));
        let asked: Vec<PeerKey> = asked.collect();
        known.slow.extend(asked);
    }

    /// Whether all that may be asked for the slot were slow in this verb.
    fn is_slow(&self, source: &StripeSource, slot: Slot) -> bool {
        // As a rule nobody was, and nothing need be looked up.
        if self.known().slow.is_empty() {
            return false;
        }
        let holders = self.holders(source, slot);
        let known = self.known();
        holders.iter().all(|peer| known.slow.contains(peer) || known.suspects.contains(peer))
    }

    /// Whether to do without the slot's slow holders, because the stripe can be had from others: with every shard of theirs waited for,
    /// a restore would take as many waits as it has stripes. On a line of ours that is slow, all are, and nobody is passed over.
    pub(super) fn is_passed_over(&self, source: &StripeSource, slot: Slot) -> bool {
        let quick = |slot: &Slot| self.has_trusted_holder(source, *slot) && !self.is_slow(source, *slot);
        self.is_slow(source, slot)
            && source.row.present().filter(|(slot, _)| quick(slot)).count() >= usize::from(source.row.used)
    }

    /// Who may have a shard: those of the row, and who took it since as far as stewards were asked.
    fn holders(&self, source: &StripeSource, slot: Slot) -> Vec<PeerKey> {
        let mut holders = source.group.0.holders.get(slot.index()).cloned().unwrap_or_default();
        if let Some(learned) = self.learner.at_hand(source.row.group) {
            let more: Vec<PeerKey> =
                learned.takers(slot, source.row.ordinal).filter(|peer| !holders.contains(peer)).collect();
            holders.extend(more);
        }
        holders
    }

    /// What `accept` makes of a shard's bytes, from the first holder whose bytes are right; an error that is not the holder's
    /// fault ends it.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        source: &StripeSource,
        slot: Slot,
        priority: Priority,
        accept: Accept<T>,
    ) -> Option<Result<T, StripeError>> {
        let mut holders = self.holders(source, slot);
        {
            let known = self.known();
            holders.sort_by_key(|p| (known.suspects.contains(p), !self.overlay.is_connected(p)));
        }
        for holder in holders {
            tracing::trace!(peer = %holder.short(), slot = slot.index(), no = source.row.no.0, connected = self.overlay.is_connected(&holder), "asks");
            let address = ShardAddress { group: source.group.1.clone(), slot, ordinal: source.row.ordinal };
            match self.overlay.get_shard(holder, address, 0, 0, priority).await {
                Ok(bytes) => {
                    self.fetched.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                    let source = source.clone();
                    let stripe = source.row.stripe;
                    match self.work(move || accept(&source, slot, bytes)).await.ok()? {
                        Err(StripeError::WrongBytes { .. }) => self.saw(holder, Observed::BadBytes),
                        right => {
                            if right.is_ok() && self.known().thanked.insert(holder) {
                                self.saw(holder, Observed::Good);
                            }
                            return Some(right);
                        }
                    }
                    self.wrong_shards.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(peer = %holder.short(), stripe = %stripe.short(), "a holder gave wrong bytes");
                    self.known().suspects.insert(holder);
                }
                Err(TransferError::ShuttingDown) => return None,
                Err(TransferError::Refused { code, .. }) if code != RefusalCode::NotFound => {
                    tracing::debug!(peer = %holder.short(), ?code, "a holder refused");
                    continue;
                }
                Err(TransferError::Refused { .. }) => {}
                Err(e) => {
                    tracing::debug!(peer = %holder.short(), error = %e, "a holder did not answer");
                    self.known().suspects.insert(holder);
                }
            }
            // Somebody else may have it by now.
            self.learner.begin(source.row.group, &source.group.1);
        }
        None
    }

    fn saw(&self, holder: PeerKey, seen: Observed) {
        if let Some(witness) = self.overlay.witness() {
            witness.saw(holder, seen);
        }
    }

    /// Good shards of a stripe, checked against their roots, at least `wanted`, by slot; fewer when there are no more.
    pub(in crate::vault) async fn fetch_some(
        &self,
        source: &StripeSource,
        wanted: usize,
        priority: Priority,
    ) -> Vec<Option<HashedShard>> {
        let accept = |source: &StripeSource, slot: Slot, bytes: Bytes| {
            let shard = HashedShard::new(bytes);
            if shard.is(&source.row, slot) {
                Ok(shard)
            } else {
                Err(StripeError::WrongBytes { stripe: source.row.stripe, slot })
            }
        };
        let shards = self.gather_slots(source, wanted, priority, accept).await;
        shards.into_iter().map(|shard| shard?.ok()).collect()
    }

    /// What `accept` makes of at least `wanted` shards of a stripe, by slot; of fewer when there are no more, with whom stewards
    /// gave them to meanwhile.
    pub(super) async fn gather_slots<T: Send + 'static>(
        &self,
        source: &StripeSource,
        wanted: usize,
        priority: Priority,
        accept: Accept<T>,
    ) -> Vec<Option<Result<T, StripeError>>> {
        let slots: Vec<Slot> = source.row.present().map(|(slot, _)| slot).collect();
        let mut shards = self.gather_from(source, slots.clone(), wanted, priority, accept).await;
        for again in [false, true] {
            let good = shards.iter().flatten().count();
            if good >= wanted {
                break;
            }
            let (number, access) = (source.row.group, &source.group.1);
            let learned = if again {
                self.learner.learn_again(number, access).await
            } else {
                self.learner.learn(number, access).await
            };
            let others = |slot: &Slot| self.is_news(source, *slot, &learned);
            let lacking: Vec<Slot> =
                slots.iter().copied().filter(|slot| shards[slot.index()].is_none() && others(slot)).collect();
            if lacking.is_empty() {
                continue;
            }
            let more = self.gather_from(source, lacking, wanted - good, priority, accept).await;
            for (shard, more) in shards.iter_mut().zip(more) {
                *shard = shard.take().or(more);
            }
        }
        shards
    }

    /// Whether stewards told of somebody that the row does not name.
    fn is_news(&self, source: &StripeSource, slot: Slot, learned: &Learned) -> bool {
        let row = source.group.0.holders.get(slot.index());
        learned.takers(slot, source.row.ordinal).any(|peer| row.is_none_or(|row| !row.contains(&peer)))
    }

    async fn gather_from<T: Send + 'static>(
        &self,
        source: &StripeSource,
        slots: Vec<Slot>,
        wanted: usize,
        priority: Priority,
        accept: Accept<T>,
    ) -> Vec<Option<Result<T, StripeError>>> {
        let mut slots = VecDeque::from(slots);
        slots.make_contiguous().sort_by_cached_key(|slot| {
            let trusted = self.has_trusted_holder(source, *slot);
            (!trusted, self.is_slow(source, *slot), !self.is_at_hand(source, *slot))
        });
        let mut shards: Vec<_> = source.row.roots.iter().map(|_| None).collect();
        // Waiting for a turn does not count.
        let asked: Mutex<BTreeMap<Slot, Instant>> = Mutex::default();
        let asked = || asked.lock().unwrap_or_else(PoisonError::into_inner);
        let mut running = FuturesUnordered::new();
        let ask = |slot: Slot| async move {
            let mut turn = self.window.turn().await;
            asked().insert(slot, Instant::now());
            let shard = self.ask(source, slot, priority, accept).await;
            asked().remove(&slot);
            if shard.is_some() {
                turn.came();
            }
            (slot, shard)
        };
        // Where somebody is that need not be dialled, when somebody who was asked must be.
        let instead = |slots: &VecDeque<Slot>| {
            let is_late = asked().keys().any(|slot| !self.is_at_hand(source, *slot));
            slots.iter().position(|slot| self.is_at_hand(source, *slot)).filter(|_| is_late)
        };
        let mut good = 0;
        for slot in slots.drain(..wanted.min(slots.len())) {
            running.push(ask(slot));
        }
        while good < wanted {
            tokio::select! {
                biased;
                done = running.next() => match done {
                    Some((slot, Some(shard))) => {
                        shards[slot.index()] = Some(shard);
                        good += 1;
                    }
                    Some((_, None)) => running.extend(slots.pop_front().map(ask)),
                    None => break,
                },
                () = self.window.late(Instant::now(), || instead(&slots).is_some()), if !slots.is_empty() => {
                    running.extend(instead(&slots).and_then(|at| slots.remove(at)).map(ask));
                }
                () = tokio::time::sleep(self.window.patience()), if !slots.is_empty() => {
                    let patience = self.window.patience();
                    let over = |(slot, since): (&Slot, &Instant)| (since.elapsed() >= patience).then_some(*slot);
                    let slow: Vec<Slot> = asked().iter().filter_map(over).collect();
                    slow.into_iter().for_each(|slot| self.note_slow(source, slot));
                    running.extend(slots.pop_front().map(ask));
                }
            }
        }
        shards
    }
}
