//! Who exists, drawn by the seed, and how others see it.

use cairn_core::peer_view::{self, PeerView};
use cairn_proto::{ByteSize, Domain, PROTOCOL_VERSION, PeerKey, Region, Timestamp, message::Roles};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use crate::peer::{Peer, Presence};

/// Milliseconds of an hour.
pub const HOUR: u64 = 3_600_000;
/// How long others still believe in a peer that fell silent: DESIGN's 300 s. Offers in this time fail.
const LATE_AFTER: u64 = 300_000;

/// The one source of chance.
pub struct Dice(ChaCha8Rng);

impl Dice {
    /// Seeded.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// The generator, for the core.
    pub fn rng(&mut self) -> &mut ChaCha8Rng {
        &mut self.0
    }

    /// `0..n`; 0 for n = 0. The bias of the multiplication is below 2^-32.
    pub fn below(&mut self, n: u32) -> u32 {
        ((u64::from(self.0.next_u32()) * u64::from(n)) >> 32) as u32
    }

    /// True `n` times in a thousand.
    pub fn per_mille(&mut self, n: u32) -> bool {
        self.below(1000) < n
    }

    /// A life that ends within `hours` with a chance of `percent` in a hundred, and so on ever after: exponential. Never shorter
    /// than an hour.
    pub fn exponential_hours(&mut self, hours_times_100: u64, percent: u32) -> u64 {
        // The fraction of a uniform draw, as a sum of halvings: no floating point, so no machine differs.
        let mean = hours_times_100 / u64::from(percent.max(1));
        let mut halvings = 0u64;
        let mut draw = self.0.next_u64();
        while draw & 1 == 1 && halvings < 64 {
            (draw, halvings) = (draw >> 1, halvings + 1);
        }
        let fraction = u64::from(self.below(1000));
        (((halvings * 1000 + fraction) * mean * 693 / 1_000_000) * HOUR).max(HOUR)
    }

    /// A wait between 1 ms and twice the mean.
    pub fn around_hours(&mut self, mean: u32) -> u64 {
        let ms = u64::from(mean) * HOUR * 2;
        1 + ((u128::from(self.0.next_u64()) * u128::from(ms)) >> 64) as u64
    }
}

/// A key made of a label and a number.
#[must_use]
pub fn key(label: &str, i: u32) -> [u8; 32] {
    *blake3::hash(format!("{label} {i}").as_bytes()).as_bytes()
}

/// Text that is known to fit.
pub(crate) fn operator(name: &str) -> Domain {
    Domain::operator(name).unwrap_or_else(|_| Domain::of_peer(&PeerKey::from_bytes([0; 32])))
}

/// Draws one peer: three in ten belong to an operator of many, the rest stand alone; pledges from 64 MiB to 16 GiB,
/// so that some fill up within a run.
pub fn draw_peer(i: u32, operators: u32, now: Timestamp, dice: &mut Dice) -> Peer {
    let domain = if dice.per_mille(300) {
        operator(&format!("op{}", dice.below(operators)))
    } else {
        operator(&format!("h{i}"))
    };
    let region = match dice.below(20) {
        0..=7 => "EU/DE",
        8..=13 => "NA/US",
        14..=17 => "AS/JP",
        18 => "SA/BR",
        _ => "",
    };
    Peer {
        key: PeerKey::from_bytes(key("peer", i)),
        pinned: domain.clone(),
        own: domain,
        region: Region::new(region).unwrap_or_else(|_| Region::unknown()),
        give: ByteSize(64 << (20 + dice.below(9))),
        presence: Presence::Up,
        joined: now,
        loss: if dice.per_mille(50) { 80 } else { dice.below(30) as u16 },
        rtt_ms: 5 + dice.below(250),
        used: 0,
        ledger: std::collections::BTreeMap::new(),
        held: std::collections::BTreeMap::new(),
    }
}

/// What everybody knows of a peer.
#[must_use]
pub fn view(peer: &Peer, now: Timestamp) -> PeerView {
    let (reachable, last_heard) = match peer.presence {
        Presence::Up => (true, now),
        Presence::Down(since) | Presence::Gone(since) => (now.ms_since(since) < LATE_AFTER, since),
    };
    // As a node's book judges, from a thousand requests.
    let (reputation, newcomer) = peer_view::standing(peer.joined, now, true, (1000, peer.loss.into()));
    PeerView {
        peer: peer.key,
        domain: peer.pinned.clone(),
        subnet: None,
        subnet_seen: false,
        region: peer.region.clone(),
        region_basis: cairn_core::region::Basis::Declared,
        network: None,
        roles: Roles::STORAGE,
        protocol: PROTOCOL_VERSION,
        give: peer.give,
        free: ByteSize(peer.give.0.saturating_sub(peer.used)),
        first_seen: peer.joined,
        last_heard,
        reachable: Some(reachable),
        rtt_ms: Some(peer.rtt_ms),
        loss: peer.loss,
        reputation,
        newcomer,
    }
}
