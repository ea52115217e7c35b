//! Who first: weighted rendezvous hashing inside one colour, in integers, equal on every machine.
//!
//! `score = -log2(h) / weight`, h the peer's keyed hash as a fraction of 2^64; the smallest score is first. A peer's
//! coming or going moves nobody else's score (unless it moves the cap past a power of two). The logarithm is
//! computed bit by bit from integer squares, so no table and no rounding mode is involved; the vectors in
//! `tests::ranks_are_frozen` are part of the protocol.

use std::{collections::BTreeMap, fmt};

use cairn_proto::{Domain, GroupTicket, PeerKey, Timestamp};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::{
    explain::Latency,
    policy::{PlacementPolicy, Strategy},
};
use crate::peer_view::PeerView;

/// Free space that counts once in a weight.
const CAPACITY_UNIT: u64 = 64 << 20;
/// Units beyond which more space gains nothing: 64 GiB. A group brings a holder 256 MiB at most, so more room than
/// this says nothing about how well the next group fits.
const CAPACITY_UNITS_MAX: u64 = 1024;
/// Fraction bits of the fixed-point logarithm.
const LOG_FRACTION_BITS: u32 = 32;
/// Bits a score keeps below the logarithm's, so that dividing by a weight (below 2^29) loses no order that matters.
/// 64 * 2^32 * 2^24 = 2^62 fits.
const SCORE_SHIFT: u32 = 24;

/// Place in the race of a colour class; smaller is first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Score(u64);

impl Score {
    /// The number behind it.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

/// What ranks are keyed with. Secret in the randomised strategy, so wiped and never printed.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub(super) struct RankKey([u8; 32]);

impl fmt::Debug for RankKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RankKey(..)")
    }
}

impl RankKey {
    /// The key that strategy and ticket ask for. Without an owner key the randomised ranking is keyed with the salt
    /// too: still unforeseeable before the group exists, no longer private after.
    pub(super) fn new(strategy: Strategy, ticket: &GroupTicket, owner_key: Option<&[u8; 32]>) -> Self {
        let id = ticket.id();
        match (strategy, owner_key) {
            (Strategy::Randomised, Some(secret)) => {
                let mut key = blake3::derive_key("cairn 2026-11 owner's rank key v1", secret);
                let mut hasher = blake3::Hasher::new_keyed(&key);
                key.zeroize();
                Self(*hasher.update(id.as_bytes()).finalize().as_bytes())
            }
            _ => Self(blake3::derive_key("cairn 2026-11 public rank key v1", id.as_bytes())),
        }
    }

    fn hash(&self, peer: &PeerKey) -> u64 {
        let hash = blake3::keyed_hash(&self.0, peer.as_bytes());
        let mut first = [0u8; 8];
        first.copy_from_slice(&hash.as_bytes()[..8]);
        u64::from_le_bytes(first)
    }

    /// A peer's score at a weight; weight 0 counts as 1.
    pub(super) fn score(&self, peer: &PeerKey, weight: u64) -> Score {
        Score((negative_log2(self.hash(peer)) << SCORE_SHIFT) / weight.max(1))
    }
}

/// `-log2(h / 2^64)` with 32 fraction bits, rounded up; 0 counts as 1. In `1..=64 << 32`.
fn negative_log2(h: u64) -> u64 {
    let h = h.max(1);
    let mut log = u64::from(h.ilog2());
    let mut mantissa = h << h.leading_zeros();
    for _ in 0..LOG_FRACTION_BITS {
        // The mantissa stands for 1 <= x < 2 as x * 2^63. Squaring doubles the logarithm: a carry is its next bit.
        let square = (u128::from(mantissa) * u128::from(mantissa)) >> 63;
        let carry = square >> 64;
        log = (log << 1) | carry as u64;
        mantissa = (square >> carry) as u64;
    }
    (64 << LOG_FRACTION_BITS) - log
}

/// A peer's own weight, before caps: reputation x capacity factor x stability, halved beyond the preferred
/// round-trip time and reduced by a quarter when it was never measured. At least 1, below 2^29.
///
/// Stability is the share of requests that were answered, halved without a connection, and a sixteenth after a silence
/// that adverts do not explain: then it is probably gone, and asking it first costs a replacement
/// (`tests::first_attempts`).
#[must_use]
pub fn weight(view: &PeerView, policy: &PlacementPolicy, now: Timestamp) -> u64 {
    let reputation = u64::from(view.reputation.min(1000));
    let capacity = (view.free.0 / CAPACITY_UNIT).clamp(1, CAPACITY_UNITS_MAX);
    let delivered = u64::from(1000 - view.loss.min(1000)) / 10;
    let stability = match view.reachable {
        Some(true) => delivered,
        _ if now.ms_since(view.last_heard) <= policy.thresholds.silence_ms_doubtful => delivered / 2,
        _ => delivered / 16,
    };
    let nearness = Latency::of(view, policy).quarters();
    (reputation * capacity * stability * nearness).max(1)
}

/// Weights of all eligible peers, capped so that no domain draws more than a fair race allows: top-j sampling is not
/// proportional beyond `total / (2 n r)`. The cap is per domain (a hundred peers of one operator race as one) and
/// rounded down to a power of two, so that one peer more or less rarely moves it.
#[derive(Debug)]
pub(super) struct Weights<'a> {
    own: BTreeMap<PeerKey, u64>,
    domains: BTreeMap<&'a Domain, u64>,
    cap: u64,
}

impl<'a> Weights<'a> {
    pub(super) fn new(eligible: &[&'a PeerView], policy: &PlacementPolicy, now: Timestamp) -> Self {
        let mut own = BTreeMap::new();
        let mut domains: BTreeMap<&Domain, u64> = BTreeMap::new();
        for view in eligible {
            let w = weight(view, policy, now);
            own.insert(view.peer, w);
            let sum = domains.entry(&view.domain).or_insert(0);
            *sum = sum.saturating_add(w);
        }
        let total = domains.values().fold(0u64, |a, w| a.saturating_add(*w));
        let fair = total / (2 * policy.domains_needed() as u64).max(1);
        let cap = if fair == 0 { 1 } else { 1 << fair.ilog2() };
        Self { own, domains, cap }
    }

    /// The weight that a peer races with.
    pub(super) fn capped(&self, view: &PeerView) -> u64 {
        let own = self.own.get(&view.peer).copied().unwrap_or(1);
        let domain = self.domains.get(&view.domain).copied().unwrap_or(own).max(1);
        let share = u128::from(self.cap) * u128::from(own) / u128::from(domain);
        own.min(u64::try_from(share).unwrap_or(u64::MAX)).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_proto::CodeParams;

    #[test]
    fn the_logarithm_is_right_and_frozen() {
        assert_eq!(negative_log2(0), 64 << 32);
        assert_eq!(negative_log2(1), 64 << 32);
        assert_eq!(negative_log2(1 << 63), 1 << 32);
        assert_eq!(negative_log2(u64::MAX), 1);
        for h in [3u64, 1000, 0x1234_5678_9abc_def0, u64::MAX / 3, u64::MAX - (1 << 40)] {
            let exact = 64.0 - (h as f64).log2();
            let ours = negative_log2(h) as f64 / f64::from(1u32 << 31) / 2.0;
            assert!((exact - ours).abs() < 1e-8, "{h}: {exact} {ours}");
        }
        // Compared with a 60-digit decimal computation.
        assert_eq!(negative_log2(0x1234_5678_9abc_def0), 16_380_065_491);
        assert_eq!(negative_log2(3), 268_070_544_839);
    }

    #[test]
    fn ranks_are_frozen() {
        let ticket = GroupTicket::new([1; 32], [2; 32], CodeParams::DEFAULT, 9).expect("valid");
        let peer = PeerKey::from_bytes([3; 32]);
        let public = RankKey::new(Strategy::Deterministic, &ticket, None);
        let secret = RankKey::new(Strategy::Randomised, &ticket, Some(&[4; 32]));
        assert_eq!(public.score(&peer, 1000).as_u64(), 52_080_203_643_486);
        assert_eq!(secret.score(&peer, 1000).as_u64(), 66_782_611_908_853);
        assert_eq!(public, RankKey::new(Strategy::Deterministic, &ticket, Some(&[4; 32])));
    }

    /// A preference: half the weight, never a refusal; and it says so.
    #[test]
    fn near_peers_are_preferred() {
        let policy = PlacementPolicy::new(CodeParams::DEFAULT, 1);
        let now = Timestamp(1_800_000_000_000);
        let at = |rtt_ms| PeerView { rtt_ms, ..crate::placement::tests::peer(1, "d", "EU") };
        let weighs = |rtt| weight(&at(rtt), &policy, now);
        assert_eq!((weighs(Some(99)), weighs(Some(0))), (2 * weighs(Some(100)), weighs(Some(99))));
        assert_eq!((weighs(Some(100)), weighs(None) * 2), (weighs(Some(5000)), weighs(Some(5)) + weighs(Some(500))));
        let text = Latency::of(&at(Some(120)), &policy).to_string();
        assert_eq!(text, "120 ms away, half the weight (below 100 ms is preferred)");
    }

    #[test]
    fn silence_weighs() {
        let policy = PlacementPolicy::new(CodeParams::DEFAULT, 1);
        let now = Timestamp(1_800_000_000_000);
        let connected = crate::placement::tests::peer(1, "d", "EU");
        let silent = |minutes: u64| {
            let last_heard = Timestamp(now.0 - minutes * 60_000);
            weight(&PeerView { reachable: None, last_heard, ..connected.clone() }, &policy, now)
        };
        assert_eq!(silent(15) * 2, weight(&connected, &policy, now));
        assert!(silent(16) > 1 && silent(16) * 16 <= weight(&connected, &policy, now));
    }

    #[test]
    fn twice_the_weight_wins_twice_as_often() {
        let ticket = GroupTicket::new([1; 32], [2; 32], CodeParams::DEFAULT, 9).expect("valid");
        let key = RankKey::new(Strategy::Deterministic, &ticket, None);
        let peer = |i: u32, side: u8| {
            let mut bytes = [side; 32];
            bytes[..4].copy_from_slice(&i.to_le_bytes());
            PeerKey::from_bytes(bytes)
        };
        let wins = (0..6000).filter(|i| key.score(&peer(*i, 1), 2000) < key.score(&peer(*i, 2), 1000)).count();
        assert!((3850..4150).contains(&wins), "two thirds of 6000, got {wins}");
    }
}
