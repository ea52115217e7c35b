//! How many peers were last heard when: counts by steps of time, so that a question costs a hundred additions however many
//! peers there are.

use std::collections::BTreeMap;

use cairn_proto::Timestamp;

/// At most one entry for each peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Silences {
    step_ms: u64,
    counts: BTreeMap<u64, usize>,
}

impl Silences {
    pub(super) fn new(step_ms: u64) -> Self {
        Self { step_ms: step_ms.max(1), counts: BTreeMap::new() }
    }

    /// The step that a moment is in.
    pub(super) const fn step(&self, at: Timestamp) -> u64 {
        at.0 / self.step_ms
    }

    /// So many steps make so much time, one at least.
    pub(super) fn steps(&self, ms: u64) -> u64 {
        (ms / self.step_ms).max(1)
    }

    /// When a step begins.
    pub(super) const fn begin(&self, step: u64) -> Timestamp {
        Timestamp(step.saturating_mul(self.step_ms))
    }

    pub(super) fn add(&mut self, at: Timestamp) {
        *self.counts.entry(self.step(at)).or_default() += 1;
    }

    pub(super) fn remove(&mut self, at: Timestamp) {
        let step = self.step(at);
        if let Some(count) = self.counts.get_mut(&step) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&step);
            }
        }
    }

    /// Peers last heard in these steps, both included.
    pub(super) fn between(&self, from: u64, to: u64) -> usize {
        if from > to { 0 } else { self.counts.range(from..=to).map(|(_, count)| count).sum() }
    }

    /// Peers last heard in this step or later.
    pub(super) fn since(&self, from: u64) -> usize {
        self.between(from, u64::MAX)
    }

    /// The steps within these in which somebody was last heard, oldest first.
    pub(super) fn used(&self, from: u64, to: u64) -> impl Iterator<Item = u64> {
        let range = if from > to { 1..1 } else { from..to.saturating_add(1) };
        self.counts.range(range).map(|(step, _)| *step)
    }

    /// The latest step up to this one in which somebody was last heard.
    pub(super) fn newest(&self, to: u64) -> Option<u64> {
        self.counts.range(..=to).next_back().map(|(step, _)| *step)
    }
}
