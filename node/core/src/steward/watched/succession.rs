//! Of one group: whether its stewards are left alone, and who was passed over by a succession.

use cairn_proto::{
    Certificate, Committee, PeerKey, Timestamp,
    mandate::{STEWARDS_MAX, half},
    order::OrderId,
};

use super::{
    super::{Rhythm, subject_of},
    Subject, Watched,
};
use crate::liveness::Watch;

/// Times [`Rhythm::steward_lost_ms`] for which fewer than half of a committee were heard before those who are left put others in their places.
/// Whoever is asked to believe it waits for one only: the two may have heard a steward last at times that are far apart.
const LEFT_ALONE: u64 = 2;
/// Stewards that were passed over and are remembered: those of two committees.
const PASSED_OVER_MAX: usize = 2 * STEWARDS_MAX;
/// Times that one of them is told once half signed.
const TOLD_MAX: u8 = 4;

impl Watched {
    /// Whether fewer than half of the committee were heard for so long that nobody waits for the others any more.
    pub(in super::super) fn is_left_alone(&self, me: &PeerKey, watch: &Watch, rhythm: &Rhythm, now: Timestamp) -> bool {
        let long = rhythm.steward_lost_ms.saturating_mul(LEFT_ALONE);
        let stewards = self.committee().stewards();
        // One that was never heard is waited for as long as one that was.
        let here = |peer: &&PeerKey| *peer == me || watch.belief(peer, now).silent_ms < long;
        stewards.iter().filter(here).count() < half(stewards.len())
    }

    /// Our proposal about a silent steward that found too few signatures in time. One: each succession makes another committee.
    pub(in super::super) fn succession_due(&mut self, now: Timestamp) -> Option<Certificate> {
        let over =
            |(_, order): &(OrderId, &cairn_proto::Order)| matches!(subject_of(&order.action), Subject::Steward(_));
        let (name, _) = self.in_vain_until(now).find(over)?;
        self.certify_by(&name, 1)
    }

    /// The successions among another's changes that pass this steward over, made at such times; and who have the places after all of them. None where our own
    /// chain has them.
    pub(in super::super) fn passing_over(
        &self,
        me: &PeerKey,
        changes: &[Certificate],
        at: &dyn Fn(Timestamp) -> bool,
    ) -> (Vec<Certificate>, Vec<PeerKey>) {
        let beyond = self.chain.beyond(changes);
        let stewards = beyond.last().map_or_else(Vec::new, |(_, _, after)| after.stewards().to_vec());
        let passes = |committee: &Committee, change: &Certificate| {
            committee.is_succession(change)
                && committee.unsigned(change).any(|peer| peer == me)
                && at(change.order.issued)
        };
        let passing = beyond.into_iter().filter(|(committee, change, _)| passes(committee, change));
        (passing.map(|(_, change, _)| change).collect(), stewards)
    }

    /// The signature of a steward that a succession passed over, and that came back and believes it. Whether it was news.
    pub(in super::super) fn endorse(&mut self, from: &PeerKey, order: &OrderId, signature: [u8; 64]) -> bool {
        self.chain.endorse(from, order, signature)
    }

    /// Who was passed over and is heard again: to be told, each so often at most. A few times more once half signed, since only then it goes by that.
    pub(in super::super) fn next_to_tell(
        &mut self,
        now: Timestamp,
        pause_ms: u64,
        heard: impl Fn(&PeerKey) -> bool,
    ) -> Option<PeerKey> {
        let passed_over = self.chain.successions().flat_map(|(committee, change)| committee.unsigned(change));
        for peer in passed_over.copied().collect::<Vec<_>>() {
            if self.told.len() < PASSED_OVER_MAX || self.told.contains_key(&peer) {
                let (_, times) = self.told.entry(peer).or_insert((None, 0));
                *times = (*times).min(TOLD_MAX - 1);
            }
        }
        let due = |(peer, (at, times)): &(&PeerKey, &(Option<Timestamp>, u8))| {
            let lately = at.is_some_and(|at| at <= now && now.ms_since(at) < pause_ms);
            *times < TOLD_MAX && !lately && heard(peer) && !self.committee().stewards().contains(peer)
        };
        let back = self.told.iter().find(due).map(|(peer, _)| *peer)?;
        let (at, times) = self.told.entry(back).or_default();
        (*at, *times) = (Some(now), *times + 1);
        Some(back)
    }

    /// Whether a peer that we do not know as a steward may be one by these changes. Looking closer costs signatures, so not more often than once a pause.
    pub(in super::super) fn may_have_come(
        &mut self,
        peer: &PeerKey,
        changes: &[Certificate],
        now: Timestamp,
        rhythm: &Rhythm,
    ) -> bool {
        let came = changes.iter().any(|change| change.order.action.stewards().1 == Some(*peer));
        let lately = self.stranger.is_some_and(|at| at <= now && now.ms_since(at) < rhythm.pause_ms);
        if came && !lately {
            self.stranger = Some(now);
        }
        came && !lately
    }
}
