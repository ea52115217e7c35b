//! How many of the first-choice holders are there when they are asked: 95 % of them, with a fifth of all peers dead.

use super::*;

const MINUTE: u64 = 60_000;
/// Share of first choices that should take their shard, in thousandths.
const TARGET: usize = 950;

/// What an owner knows of a network in which every fifth peer died `ago(i)` milliseconds ago. It is connected to some of
/// the others; the rest it knows by their adverts, one in ten minutes. Of the dead it has tried one in four since.
fn seen(n: u32, seed: u64, ago: impl Fn(u64) -> u64) -> (Vec<PeerView>, BTreeSet<PeerKey>) {
    let mut dead = BTreeSet::new();
    let mut peers = fleet(n);
    for (i, p) in (0u64..).zip(&mut peers) {
        p.domain = Domain::operator(format!("s{seed}d{i}").as_str()).expect("valid");
        let dice = blake3::hash(&[seed.to_le_bytes(), i.to_le_bytes()].concat());
        let roll = |at: usize, below: u64| {
            u64::from(u16::from_le_bytes([dice.as_bytes()[at], dice.as_bytes()[at + 1]])) % below
        };
        let advert = roll(0, 10) * MINUTE;
        if roll(2, 5) == 0 {
            dead.insert(p.peer);
            p.last_heard = Timestamp(NOW.0 - ago(roll(4, 60_000)) - advert);
            p.reachable = (roll(6, 4) == 0).then_some(false);
        } else {
            p.last_heard = Timestamp(NOW.0 - advert);
            p.reachable = (roll(6, 3) == 0).then_some(true);
        }
    }
    (peers, dead)
}

/// Of all first choices of many groups, those that live, in thousandths; and how many there were.
fn success(n: u32, ago: impl Fn(u64) -> u64 + Copy) -> (usize, usize) {
    let (mut asked, mut took) = (0, 0);
    for seed in 0..60 {
        let (peers, dead) = seen(n, seed, ago);
        let mut policy = PlacementPolicy::for_network(&peers);
        policy.regions.extra_salts = 0;
        assert_eq!(policy.strategy_for(&peers), Strategy::Randomised, "too few answer");
        let Ok(found) = plan(&peers, &policy, seed) else { continue };
        for holder in found.slots.iter().flat_map(|list| &list[..found.replicas]) {
            asked += 1;
            took += usize::from(!dead.contains(holder));
        }
    }
    (took * 1000 / asked, asked)
}

/// Dead for minutes up to two days, as in a network that loses and gains peers all the time.
#[test]
fn a_fifth_dead_over_time_meets_the_target() {
    for n in [30, 100, 300] {
        let (share, asked) = success(n, |roll| roll * 2 * 1440 * MINUTE / 60_000);
        assert!(asked >= 400 && share >= TARGET, "{n} peers: {share} of a thousand, {asked} asked");
    }
}

/// All at once, a quarter of an hour ago and longer: their adverts are missed.
#[test]
fn a_fifth_dead_at_once_meets_the_target_when_their_adverts_are_missed() {
    for minutes in [16, 20, 40] {
        for n in [30, 100, 300] {
            let (share, asked) = success(n, |_| minutes * MINUTE);
            assert!(asked >= 400 && share >= TARGET, "{n} peers, {minutes} minutes ago: {share} of a thousand");
        }
    }
}
