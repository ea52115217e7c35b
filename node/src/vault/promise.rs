//! What a vault promises (an SLA), and the shape that its next groups get for it.
//!
//! The owner names the promise once; the vault keeps it, with the shape of its newest groups and since when peers come and go more
//! than usual, so that the shape does not move with every figure ([`follow`]). It is of this machine: on a blank one it is named again.

use cairn_core::{
    durability::{
        Measured, Question, Shape, Sla,
        follow::{Followed, Why, churn_seen, follow},
        measured::Observed,
        repairs::RepairFigures,
    },
    liveness::Churn,
    peer_view::PeerView,
    placement::{self, PlacementPolicy},
};
use cairn_proto::{SHARD_SIZE, Timestamp};
use serde_json::{Value, json};

use super::{
    catalogue::{Catalogue, CatalogueError, Meta},
    placing::Relaxed,
};

/// Of a vault that has nothing yet: the promise is for what will be.
const BYTES_LEAST: u64 = 1 << 30;
/// Takes a promise back.
pub(super) const NONE: &str = "none";
const FORMAT: u8 = 1;
/// Format, SLA, k, m, r, high churn since.
const SIZE: usize = 13;

/// A vault's promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Promise {
    pub(super) sla: Sla,
    /// Shape of the newest groups.
    shape: Option<Shape>,
    /// Since when churn is high.
    stirred: Option<Timestamp>,
}

/// What the network lets us do about it now.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) promise: Promise,
    followed: Option<Followed>,
    /// Whether the time that repairs take was measured.
    measured: bool,
}

impl Promise {
    /// A new one.
    pub(super) const fn new(sla: Sla) -> Self {
        Self { sla, shape: None, stirred: None }
    }

    /// The vault's, when it made one.
    pub(super) fn of(catalogue: &Catalogue) -> Result<Option<Self>, CatalogueError> {
        let Some(bytes) = catalogue.meta(Meta::Promise)? else { return Ok(None) };
        Self::decode(&bytes).map(Some).ok_or(CatalogueError::Damaged("the promise"))
    }

    /// Has the vault remember it.
    pub(super) fn remember(&self, catalogue: &Catalogue) -> Result<(), CatalogueError> {
        catalogue.set_meta(Meta::Promise, Some(self.encode().to_vec()))
    }

    fn encode(&self) -> [u8; SIZE] {
        let Shape { k, m, r } = self.shape.unwrap_or(Shape { k: 0, m: 0, r: 0 });
        let sla = Sla::ALL.iter().position(|sla| *sla == self.sla).unwrap_or(0) as u8;
        let mut out = [0; SIZE];
        out[..5].copy_from_slice(&[FORMAT, sla, k, m, r]);
        out[5..].copy_from_slice(&self.stirred.map_or(0, |at| at.0).to_le_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let ([FORMAT, sla, k, m, r], since) = bytes.split_first_chunk()? else { return None };
        let since = u64::from_le_bytes(since.try_into().ok()?);
        let shape = Shape { k: *k, m: *m, r: *r };
        Some(Self {
            sla: *Sla::ALL.get(usize::from(*sla))?,
            // None was ever written that is no code.
            shape: (shape.k > 0).then_some(shape),
            stirred: (since > 0).then_some(Timestamp(since)),
        })
    }

    /// Copies of each shard that the newest groups have.
    pub(super) fn replicas(&self) -> u8 {
        self.shape.map_or(1, |shape| shape.r)
    }

    /// Follows it in the network as it is. `stripes`: how many the vault has; `repairs`: what this node saw of them, assumed where that is
    /// too little to tell.
    pub(super) fn follow(mut self, peers: &[PeerView], stripes: u64, repairs: &RepairFigures, now: Timestamp) -> Kept {
        let bytes = stripes.saturating_mul(5 * SHARD_SIZE as u64).max(BYTES_LEAST);
        let domains = placement::domains_that_fit(peers) as u32;
        let measured = Measured::of(&Observed::of(peers, now), repairs, domains);
        let churn = churn_seen(peers, self.stirred, now);
        self.stirred = match churn {
            Churn::High { since } => Some(since),
            Churn::Normal => None,
        };
        let followed = follow(&Question::new(self.sla, bytes), &measured, self.shape, churn);
        self.shape = followed.as_ref().map(|followed| followed.solution.shape);
        Kept { promise: self, followed, measured: repairs.mean_days_at_most.is_some() }
    }
}

impl Kept {
    /// The policy of the next groups: the network's size decides alone where it is too small for any code that is reckoned.
    pub(super) fn policy(&self, peers: &[PeerView]) -> PlacementPolicy {
        self.followed.as_ref().and_then(Followed::policy).unwrap_or_else(|| PlacementPolicy::for_network(peers))
    }

    /// What the owner must know each time.
    pub(super) fn notice(&self) -> Option<Relaxed> {
        let sla = self.promise.sla;
        let Some(followed) = &self.followed else {
            let text =
                format!("too few independent peers for any code that would keep {sla}; the network's size decides");
            return Some(("SLA", text));
        };
        let solution = &followed.solution;
        match followed.why {
            Why::BestReachable => {
                let text = format!(
                    "nothing keeps {sla} in this network now; the nearest is {}: anything is lost within a year with chance {:.1e}. \
                     `cairn plan --sla {sla}` says what is missing",
                    solution.shape,
                    solution.loss()
                );
                Some(("SLA", text))
            }
            Why::Churn => {
                let text = format!(
                    "peers come and go more than usual: shards are kept once more for a day ({})",
                    solution.shape
                );
                Some(("CHURN", text))
            }
            Why::Cheapest | Why::Kept | Why::Step => None,
        }
    }

    /// For the summary.
    pub(super) fn told(&self) -> Value {
        let followed = self.followed.as_ref();
        json!({
            "name": self.promise.sla,
            "kept": followed.is_some_and(|followed| followed.missing.is_none()),
            "shape": followed.map(|followed| followed.solution.shape.to_string()),
            "why": followed.map(|followed| followed.why),
            "expansion": followed.map(|followed| followed.solution.expansion),
            "repair_time": if self.measured { "measured" } else { "assumed" },
            "loss_a_year": followed.map(|followed| followed.solution.loss()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_is_read_as_it_was_written() {
        let shape = Some(Shape { k: 5, m: 4, r: 2 });
        for sla in Sla::ALL {
            for (shape, stirred) in [(None, None), (shape, None), (shape, Some(Timestamp(300)))] {
                let promise = Promise { sla, shape, stirred };
                assert_eq!(Promise::decode(&promise.encode()), Some(promise));
            }
        }
        let golden = Promise { sla: Sla::Gold, shape, stirred: Some(Timestamp(300)) }.encode();
        assert_eq!(golden, [1, 2, 5, 4, 2, 44, 1, 0, 0, 0, 0, 0, 0], "frozen");
        assert_eq!(Promise::decode(&golden[..12]), None);
        assert_eq!(Promise::decode(&[1, 4, 5, 4, 2, 0, 0, 0, 0, 0, 0, 0, 0]), None, "no such promise");
        assert_eq!(Promise::decode(&[2; SIZE]), None);
    }
}
