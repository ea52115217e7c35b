//! REP-2: no window gets more than its share.

use cairn_proto::CodeParams;
use proptest::prelude::*;

use super::*;
use crate::{
    assess::{Triggers, assess},
    liveness::{Belief, Class, Presence},
};

const MIB: u64 = 1024 * 1024;
const START: Timestamp = Timestamp(1_800_000_000_000);

fn group(number: u16) -> GroupId {
    let mut id = [1; 32];
    id[..2].copy_from_slice(&number.to_be_bytes());
    GroupId::from_bytes(id)
}

fn peer(number: u16) -> PeerKey {
    PeerKey::from_bytes(*group(number).as_bytes())
}

/// 1 MiB a second and 8 at once for a group, half of it for a peer; ours is 30 % of the upstream.
fn small(upstream: u64) -> Budget {
    Budget::new(Limits { group: Rate::new(MIB, 8 * MIB), peer: Rate::new(MIB / 2, 4 * MIB) }, upstream, START)
}

fn take(budget: &mut Budget, ms: u64, class: Priority, peers: &[PeerKey], bytes: u64) -> Result<(), WaitMs> {
    budget.take(START.plus_ms(ms), Weather::Fair, class, group(0), peers, bytes)
}

#[test]
fn a_bucket_empties_and_fills() {
    let mut budget = small(1 << 40);
    assert_eq!(take(&mut budget, 0, Priority::Critical, &[], 8 * MIB), Ok(()));
    assert_eq!(take(&mut budget, 0, Priority::Critical, &[], MIB), Err(WaitMs(1000)));
    assert_eq!(take(&mut budget, 999, Priority::Critical, &[], MIB), Err(WaitMs(1)));
    assert_eq!(take(&mut budget, 1000, Priority::Critical, &[], MIB), Ok(()));
    assert_eq!(take(&mut budget, 1000, Priority::Critical, &[], 8 * MIB + 1), Err(WaitMs::NEVER));
    // It holds its burst and no more, however long nobody asked.
    assert_eq!(take(&mut budget, 1 << 60, Priority::Critical, &[], 8 * MIB), Ok(()));
    assert!(take(&mut budget, 1 << 60, Priority::Critical, &[], 1).is_err());
}

#[test]
fn ours_is_thirty_per_cent_of_the_upstream() {
    let mut budget = Budget::new(Limits { group: Rate::new(1 << 40, 1 << 40), ..Limits::default() }, 10_000_000, START);
    let burst = 3_000_000 * 60;
    assert_eq!(take(&mut budget, 0, Priority::Critical, &[], burst + 1), Err(WaitMs::NEVER));
    assert_eq!(take(&mut budget, 0, Priority::Critical, &[], burst), Ok(()));
    assert_eq!(take(&mut budget, 0, Priority::Critical, &[], 3_000_000), Err(WaitMs(1000)));
    // Measured again: a hundredth of it, and never nothing.
    budget.set_upstream(100_000, START);
    assert_eq!(take(&mut budget, 0, Priority::Critical, &[], 30_000), Err(WaitMs(1000)));
    budget.set_upstream(0, START);
    assert_eq!(take(&mut budget, 0, Priority::Critical, &[], 19_650), Err(WaitMs(1000)));
    // A slow line still takes shards of every class.
    assert_eq!(take(&mut budget, 300_000, Priority::Low, &[], SHARD_SIZE as u64 + 4096), Ok(()));
}

#[test]
fn all_buckets_or_none() {
    let mut budget = small(1 << 40);
    // The second peer's bucket is empty: neither the first one's nor the group's is touched.
    assert_eq!(take(&mut budget, 0, Priority::Critical, &[peer(2)], 4 * MIB), Ok(()));
    for _ in 0..100 {
        assert_eq!(take(&mut budget, 0, Priority::Critical, &[peer(1), peer(2)], 2 * MIB), Err(WaitMs(4000)));
    }
    assert_eq!(take(&mut budget, 0, Priority::Critical, &[peer(1)], 4 * MIB), Ok(()));
    // The group's is empty now, and a third peer pays nothing for asking.
    assert!(take(&mut budget, 0, Priority::Critical, &[peer(3)], MIB).is_err());
    assert_eq!(budget.peers.len(), 2);
    // Named twice is charged once.
    assert_eq!(take(&mut budget, 8000, Priority::Critical, &[peer(3), peer(3)], 3 * MIB), Ok(()));
    assert_eq!(take(&mut budget, 8000, Priority::Critical, &[peer(3)], MIB), Ok(()));
}

#[test]
fn the_less_urgent_leaves_something() {
    let mut budget = small(1 << 40);
    assert_eq!(take(&mut budget, 0, Priority::Low, &[], 4 * MIB + 1), Err(WaitMs::NEVER));
    assert_eq!(take(&mut budget, 0, Priority::Low, &[], 4 * MIB), Ok(()));
    assert_eq!(take(&mut budget, 0, Priority::Low, &[], MIB), Err(WaitMs(1000)));
    assert_eq!(take(&mut budget, 0, Priority::Normal, &[], 2 * MIB), Ok(()));
    assert_eq!(take(&mut budget, 0, Priority::High, &[], MIB), Err(WaitMs(1000)));
    assert_eq!(take(&mut budget, 0, Priority::Critical, &[], 2 * MIB), Ok(()));
}

#[test]
fn storms_and_outages_hold_repair_back() {
    let suspected = Outage::Suspected { since: START, silent: 9, known: 10 };
    for (outage, mass, lets) in [
        (Outage::None, false, &Priority::ALL[..]),
        (Outage::None, true, &[Priority::Critical][..]),
        (suspected, false, &[][..]),
        (suspected, true, &[][..]),
    ] {
        for class in Priority::ALL {
            let mut budget = small(1 << 40);
            let found = budget.take(START, Weather::of(&outage, mass), class, group(0), &[peer(1)], MIB);
            assert_eq!(found, if lets.contains(&class) { Ok(()) } else { Err(LOOK_AGAIN) });
            assert_eq!(budget.groups.len(), usize::from(found.is_ok()), "nothing is charged for a refusal");
        }
    }
}

#[test]
fn a_clock_that_goes_back_gives_nothing_twice() {
    let mut budget = small(1 << 40);
    assert_eq!(take(&mut budget, 10_000, Priority::Critical, &[], 8 * MIB), Ok(()));
    assert_eq!(take(&mut budget, 0, Priority::Critical, &[], MIB), Err(WaitMs(11_000)));
    assert_eq!(take(&mut budget, 10_500, Priority::Critical, &[], MIB), Err(WaitMs(500)));
    // Nor when something is taken at the earlier time.
    assert_eq!(take(&mut budget, 14_000, Priority::Critical, &[], 2 * MIB), Ok(()));
    assert_eq!(take(&mut budget, 0, Priority::Critical, &[], 2 * MIB), Ok(()));
    assert_eq!(take(&mut budget, 14_000, Priority::Critical, &[], MIB), Err(WaitMs(1000)));
}

#[test]
fn the_maps_are_bounded_and_nobody_gains_by_it() {
    let mut budget = small(1 << 50);
    let mut now = START;
    for number in 0..=u16::try_from(GROUPS_MAX).expect("fits") {
        let found = budget.take(now, Weather::Fair, Priority::Critical, group(number), &[peer(number)], 2 * MIB);
        if usize::from(number) < GROUPS_MAX {
            assert_eq!(found, Ok(()));
        } else {
            // Every bucket lacks something; the peers' are the slower.
            assert_eq!(found, Err(WaitMs(4000)));
            now = now.plus_ms(4000);
            assert_eq!(
                budget.take(now, Weather::Fair, Priority::Critical, group(number), &[peer(number)], MIB),
                Ok(())
            );
        }
        assert!(budget.groups.len() <= GROUPS_MAX && budget.peers.len() <= PEERS_MAX);
    }
    assert_eq!(budget.groups.len(), 1, "those that were full again were dropped");
    let crowd: Vec<_> = (0..=u16::try_from(PEERS_MAX).expect("fits")).map(peer).collect();
    assert_eq!(budget.take(now, Weather::Fair, Priority::Critical, group(1), &crowd, 1), Err(WaitMs::NEVER));
}

#[test]
fn the_weakest_group_comes_first() {
    let belief = |alive: f64, presence| {
        let (class, leaving) = (Class::Home, false);
        Belief { presence, class, alive, silent_ms: 0, usual_ms: 1, leaving }
    };
    let here = belief(1.0, Presence::Here);
    let gone = belief(0.3, Presence::Gone);
    let of = |replicas: u8, weak: Belief, slots: u8| {
        let record: Vec<Vec<PeerKey>> =
            (0..8).map(|slot| (0..replicas).map(|copy| peer(slot * 8 + u16::from(copy))).collect()).collect();
        let believe = |peer: &PeerKey| {
            let number = u16::from_be_bytes([peer.as_bytes()[0], peer.as_bytes()[1]]);
            // One copy of each of the first slots is weak.
            if number.is_multiple_of(8) && number / 8 < u16::from(slots) { weak } else { here }
        };
        assess(CodeParams::DEFAULT, replicas, &record, &believe, &Triggers::default())
    };
    let lost = priority(&of(1, gone, 4), group(9));
    let critical = priority(&of(1, gone, 2), group(8));
    let rebuild = priority(&of(1, gone, 1), group(7));
    let copies = priority(&of(2, gone, 3), group(6));
    let one_copy = priority(&of(2, gone, 1), group(4));
    let healthy = priority(&of(2, gone, 0), group(1));
    let same = priority(&of(2, gone, 0), group(2));
    let mut all = [same, healthy, one_copy, copies, rebuild, critical, lost];
    all.sort();
    assert_eq!(all, [lost, critical, rebuild, copies, one_copy, healthy, same]);
    assert_eq!(all.map(|urgency| urgency.class as u8), [0, 0, 1, 2, 2, 3, 3]);
    // Both have k holders here and so nothing to fear now; one has less to lose than the other.
    let (k, k_plus_1) = (of(1, gone, 3), of(1, gone, 2));
    assert_eq!((k.loss, k_plus_1.loss), (0.0, 0.0));
    assert!(priority(&k, group(99)) < critical);
}

#[derive(Clone, Debug)]
struct Call {
    after_ms: u64,
    class: usize,
    group: u16,
    peers: Vec<u16>,
    bytes: u64,
    upstream: Option<u64>,
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    let call = (
        prop_oneof![Just(0u64), 0u64..50, 0u64..20_000],
        0usize..4,
        0u16..3,
        prop::collection::vec(0u16..4, 0..4),
        prop_oneof![0u64..4096, 0u64..5 * MIB],
        prop::option::weighted(0.05, 0u64..40_000_000),
    )
        .prop_map(|(after_ms, class, group, peers, bytes, upstream)| Call {
            after_ms,
            class,
            group,
            peers,
            bytes,
            upstream,
        });
    prop::collection::vec(call, 1..120)
}

/// Bytes let through at a moment, for one bucket.
type Log = Vec<(u64, u64)>;

fn within_share(log: &Log, rate: Rate) -> Result<(), TestCaseError> {
    for first in 0..log.len() {
        let mut sum = 0u128;
        for (at, bytes) in &log[first..] {
            sum += u128::from(*bytes) * 1000;
            let span = u128::from(at - log[first].0);
            let most = span * u128::from(rate.bytes_per_s()) + u128::from(rate.burst()) * 1000;
            prop_assert!(sum <= most, "{sum} of {most} within {span} ms");
        }
    }
    Ok(())
}

proptest! {
    /// Whatever the line, what is said to be the most at once is let through sooner or later, and has room for two shards.
    #[test]
    fn nothing_that_is_asked_for_in_parts_waits_for_ever(
        upstream in prop_oneof![0u64..1 << 20, 0u64..1 << 40],
        class in 0usize..4,
        used in prop::collection::vec((0u64..9 * MIB, 0u64..100_000), 0..20),
    ) {
        let class = Priority::ALL[class];
        let mut budget = Budget::new(Limits::default(), upstream, START);
        let most = budget.most_at_once(class);
        prop_assert!(most >= 2 * SHARD_SIZE as u64);
        let mut ms = 0;
        for (bytes, after) in used {
            ms += after;
            let _ = take(&mut budget, ms, Priority::Critical, &[peer(1)], bytes);
        }
        match take(&mut budget, ms, class, &[peer(1)], most) {
            Ok(()) => {}
            Err(wait) => {
                prop_assert!(wait < WaitMs::NEVER);
                prop_assert_eq!(take(&mut budget, ms + wait.0, class, &[peer(1)], most), Ok(()));
            }
        }
        prop_assert_eq!(take(&mut budget, ms, class, &[peer(1)], 1 << 50), Err(WaitMs::NEVER), "more than ever");
    }

    /// Against the definition, in every window between any two calls, of every bucket.
    #[test]
    fn no_window_gets_more_than_its_share(calls in calls()) {
        // The most that ours ever is, as it changes on the way.
        let fastest = calls.iter().filter_map(|call| call.upstream).max().unwrap_or(0).max(20_000_000);
        let mut budget = small(20_000_000);
        let (mut ours, mut groups, mut peers) = (Log::new(), BTreeMap::new(), BTreeMap::new());
        let mut ms = 0;
        for call in calls {
            ms += call.after_ms;
            if let Some(upstream) = call.upstream {
                budget.set_upstream(upstream, START.plus_ms(ms));
            }
            let keys: Vec<_> = call.peers.iter().map(|number| peer(*number)).collect();
            let take = |budget: &mut Budget, ms: u64| {
                let class = Priority::ALL[call.class];
                budget.take(START.plus_ms(ms), Weather::Fair, class, group(call.group), &keys, call.bytes)
            };
            let mut found = take(&mut budget, ms);
            if let Err(wait) = found
                && wait < WaitMs(5000)
            {
                // What was said is true: not a millisecond earlier, and then surely.
                prop_assert!(wait > WaitMs(0));
                prop_assert_eq!(take(&mut budget, ms + wait.0 - 1), Err(WaitMs(1)));
                ms += wait.0;
                found = take(&mut budget, ms);
                prop_assert_eq!(found, Ok(()));
            }
            if found.is_ok() {
                ours.push((ms, call.bytes));
                groups.entry(call.group).or_insert_with(Log::new).push((ms, call.bytes));
                let mut each = call.peers;
                each.sort_unstable();
                each.dedup();
                for number in each {
                    peers.entry(number).or_insert_with(Log::new).push((ms, call.bytes));
                }
            }
        }
        within_share(&ours, our_rate(fastest))?;
        groups.values().try_for_each(|log| within_share(log, budget.limits.group))?;
        peers.values().try_for_each(|log| within_share(log, budget.limits.peer))?;
    }
}
