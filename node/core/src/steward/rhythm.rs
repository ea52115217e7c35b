//! How often stewards do what.

use crate::audit::panel;

/// In milliseconds. All of it scales together for trials. What two clocks may differ by is not in it: that is
/// [`cairn_proto::order::SKEW_MS`], the same for everybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rhythm {
    /// Between two looks at a group.
    pub look_ms: u64,
    /// How much longer each next steward waits before it proposes what those before it did not.
    pub turn_ms: u64,
    /// How long votes are waited for.
    pub vote_ms: u64,
    /// How long an order stands.
    pub order_ms: u64,
    /// After a failure, doubled with each further one up to [`Rhythm::pause_ms_max`].
    pub pause_ms: u64,
    /// The longest of these.
    pub pause_ms_max: u64,
    /// Between two questions to another steward whether its map is the same.
    pub compare_ms: u64,
    /// Within this each holder is asked once what it has.
    pub inventory_ms: u64,
    /// Silence after which another steward takes a steward's place, whatever its class: to put one in costs nothing but a message, and
    /// two that are lost before the first is replaced may cost the quorum.
    pub steward_lost_ms: u64,
    /// A round of audits: within it each holder gets an auditor of ours, who goes on for two of them.
    pub audit_ms: u64,
    /// Nobody audits for us whom we do not know for so long.
    pub registered_ms: u64,
    /// How long shards that an auditor did not get to see count as not there, when nobody sees them meanwhile.
    pub distrust_ms: u64,
    /// How long a peer has been in a place before it counts as there.
    pub settled_ms: u64,
    /// Over how long a steward spreads the tokens that it has for a slot.
    pub tokens_ms: u64,
}

impl Default for Rhythm {
    fn default() -> Self {
        const MINUTE: u64 = 60 * 1000;
        Self {
            look_ms: 5 * MINUTE,
            turn_ms: 10 * MINUTE,
            vote_ms: 2 * MINUTE,
            order_ms: 6 * 60 * MINUTE,
            pause_ms: 10 * MINUTE,
            pause_ms_max: 12 * 60 * MINUTE,
            compare_ms: 6 * 60 * MINUTE,
            inventory_ms: 24 * 60 * MINUTE,
            steward_lost_ms: 24 * 60 * MINUTE,
            audit_ms: panel::ROUND_MS,
            registered_ms: panel::REGISTERED_MS,
            distrust_ms: 7 * 24 * 60 * MINUTE,
            settled_ms: 24 * 60 * MINUTE,
            tokens_ms: cairn_proto::mandate::MANDATE_MS_MAX,
        }
    }
}

impl Rhythm {
    /// All of it this many times as long; never zero.
    #[must_use]
    pub fn scaled(self, factor: f64) -> Self {
        let scale = |ms: u64| ((ms as f64 * factor) as u64).max(1);
        Self {
            look_ms: scale(self.look_ms),
            turn_ms: scale(self.turn_ms),
            vote_ms: scale(self.vote_ms),
            order_ms: scale(self.order_ms),
            pause_ms: scale(self.pause_ms),
            pause_ms_max: scale(self.pause_ms_max),
            compare_ms: scale(self.compare_ms),
            inventory_ms: scale(self.inventory_ms),
            steward_lost_ms: scale(self.steward_lost_ms),
            audit_ms: scale(self.audit_ms),
            registered_ms: scale(self.registered_ms),
            distrust_ms: scale(self.distrust_ms),
            settled_ms: scale(self.settled_ms),
            tokens_ms: scale(self.tokens_ms),
        }
    }

    /// How long a word about wrong bytes counts, and is remembered of which slot somebody lies: four weeks.
    pub(super) const fn suspect_ms(&self) -> u64 {
        self.distrust_ms.saturating_mul(4)
    }

    /// How long to wait after so many failures.
    pub(super) fn pause_after(&self, failures: u32) -> u64 {
        self.pause_ms.saturating_mul(1 << failures.min(16)).min(self.pause_ms_max)
    }
}
