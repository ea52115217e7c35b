//! Newcomers' quota of the day: kept to where older peers are enough, over restarts, and nobody is refused in a young network.

use super::*;

/// Shards that all newcomers have together, and the most that one has.
fn held(owner: &Owner, newcomers: &[cairn_proto::PeerKey]) -> (usize, usize) {
    let counts: Vec<usize> = newcomers.iter().map(|peer| owner.overlay.shards_of(peer)).collect();
    (counts.iter().sum(), counts.iter().copied().max().unwrap_or(0))
}

async fn back_up(owner: &Owner, run: u8) -> Ran {
    owner.write(&format!("file{run}"), &noise(run, 40_000_000));
    owner.backup().await.expect(ExitCode::Success)
}

/// Sixteen peers of whom six are new: of the ten others a group can stand. A group has one place for a newcomer.
fn mixed(quota: u16) -> (Owner, Vec<cairn_proto::PeerKey>) {
    let owner = Owner::new(16);
    let newcomers = owner.overlay.peer_keys()[..6].to_vec();
    newcomers.iter().for_each(|peer| owner.overlay.set_newcomer(peer, quota));
    (owner, newcomers)
}

/// Owners of such networks, one after the other: the salts of some choose no newcomer at all.
async fn some_newcomer_got_something(quota: u16, look: impl Fn(&[usize], &[usize])) -> usize {
    for _ in 0..12 {
        let (owner, newcomers) = mixed(quota);
        let shards = || newcomers.iter().map(|peer| owner.overlay.shards_of(peer)).collect::<Vec<_>>();
        for run in 0..5 {
            let before = shards();
            let ran = back_up(&owner, run).await;
            assert!(!ran.notices().contains(&"NEWCOMERS_QUOTA"), "{:?}", ran.notices());
            look(&before, &shards());
        }
        owner.restore("back").await.expect(ExitCode::Success);
        owner.assert_same("back");
        let (all, most) = held(&owner, &newcomers);
        if all > 0 {
            return most;
        }
    }
    panic!("of twelve owners none gave a newcomer anything");
}

#[tokio::test]
async fn a_newcomer_that_has_its_quota_of_the_day_gets_no_more_that_day() {
    let most = some_newcomer_got_something(0, |before, now| {
        for (before, now) in before.iter().zip(now) {
            // Each run is a node that was started anew: what was given before is known to it.
            assert!(*before == 0 || now == before, "{before} of 1, and {now}");
        }
    })
    .await;
    // With a quota that nobody reaches, they get more.
    let unbound = some_newcomer_got_something(1000, |_, _| {}).await;
    assert!(unbound > most, "{most} {unbound}");
}

#[tokio::test]
async fn a_young_network_takes_everything_and_says_what_it_leaves_out() {
    let owner = Owner::new(8);
    let all = owner.overlay.peer_keys();
    all.iter().for_each(|peer| owner.overlay.set_newcomer(peer, 0));
    let mut notices = Vec::new();
    for run in 0..3 {
        let ran = back_up(&owner, run).await;
        notices.extend(ran.notices().into_iter().map(str::to_owned));
    }
    assert!(notices.iter().any(|id| id == "NEWCOMERS_QUOTA"), "{notices:?}");
    assert!(held(&owner, &all).1 > 3, "{:?}", held(&owner, &all));
    owner.restore("back").await.expect(ExitCode::Success);
    owner.assert_same("back");
}
