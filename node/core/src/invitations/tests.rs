//! What the tree bounds, and that it judges nobody.

use cairn_proto::pass::Step;

use super::*;

fn peer(number: u32) -> PeerKey {
    let mut key = [0; 32];
    key[..4].copy_from_slice(&number.to_be_bytes());
    PeerKey::from_bytes(key)
}

/// Down from the founder; `Some`: a bearer's key with so many uses.
fn member(path: &[(u32, Option<u8>)]) -> Member {
    let steps: Vec<Step> = path.iter().map(|(number, bearer)| Step { key: peer(*number), bearer: *bearer }).collect();
    let last = steps.last().expect("not empty").key;
    Member { peer: last, steps, depth: 0, expires: None }
}

const T: Timestamp = Timestamp(1000);

#[test]
fn a_bearer_lets_in_as_many_as_it_may() {
    let mut tree = Tree::default();
    for user in [1, 2, 1] {
        assert_eq!(tree.learn(member(&[(50, Some(2)), (user, None)]), T), Ok(()), "user {user}");
    }
    assert_eq!(tree.learn(member(&[(50, Some(2)), (3, None)]), T), Err(UsedUp));
    assert_eq!(tree.learn(member(&[(50, Some(2)), (3, None), (4, None)]), T), Err(UsedUp), "nor below it");
    assert_eq!(tree.learn(member(&[(50, Some(2)), (2, None), (4, None)]), T), Ok(()));
    assert!(tree.place(&peer(3)).is_none());
    assert_eq!(tree.branch(&peer(4)), Some(peer(50)), "all of one bearer are one branch");
}

#[test]
fn one_branch_cannot_make_the_others_forgotten() {
    let mut tree = Tree::default();
    tree.learn(member(&[(1, None)]), Timestamp(1)).expect("room");
    tree.learn(member(&[(2, Some(1)), (3, None)]), Timestamp(1)).expect("room");
    for number in 0..2 * PLACES_OF_BRANCH_MAX as u32 {
        let (bearer, user) = (100_000 + number, 200_000 + number);
        tree.learn(member(&[(9, None), (bearer, Some(1)), (user, None)]), Timestamp(2)).expect("its own room");
    }
    assert_eq!(tree.len(), PLACES_OF_BRANCH_MAX + 2);
    assert!(tree.bearers.len() <= BEARERS_OF_BRANCH_MAX + 1);
    assert!(tree.place(&peer(1)).is_some() && tree.place(&peer(3)).is_some());
    assert_eq!(tree.learn(member(&[(2, Some(1)), (4, None)]), T), Err(UsedUp), "nor their counts");
}

#[test]
fn the_largest_branch_makes_room() {
    let mut tree = Tree::default();
    let branches = (PLACES_MAX / PLACES_OF_BRANCH_MAX) as u32;
    for branch in 0..branches {
        for number in 0..PLACES_OF_BRANCH_MAX as u32 {
            let who = member(&[(branch, None), (1000 + branch * 100_000 + number, None)]);
            tree.learn(who, Timestamp(u64::from(number))).expect("room");
        }
    }
    assert_eq!(tree.len(), PLACES_MAX);
    tree.learn(member(&[(77, None)]), T).expect("room is made");
    assert_eq!(tree.len(), PLACES_MAX);
    assert!(tree.place(&peer(77)).is_some());
}

#[test]
fn liars_cost_their_inviters_newcomers_and_nobody_else() {
    let mut tree = Tree::default();
    for path in [
        &[(1, None)][..],
        &[(1, None), (10, None)],
        &[(1, None), (11, None)],
        &[(1, None), (11, None), (20, None)],
        &[(2, None)],
        &[(2, None), (30, None)],
    ] {
        tree.learn(member(path), T).expect("room");
    }
    let liars = [peer(11), peer(20)];
    let beside = |of: u32| tree.convicted_beside(&peer(of), |who| liars.contains(who));
    assert_eq!((beside(10), beside(20), beside(30)), (2, 1, 0), "whom the same one let in, not whom others did");
    assert_eq!((beside(1), beside(2)), (0, 0), "whom the founder let in");
    assert_eq!(beside(99), 0, "a stranger");
    assert_eq!([0, 1, 2, 3, 4, 40].map(|n| newcomers_quota(10, n)), [10, 5, 2, 1, 1, 1]);
    assert_eq!((newcomers_quota(0, 3), newcomers_quota(1000, 0)), (0, 1000));
}

#[test]
fn no_branch_has_a_third() {
    assert_eq!((0..8).map(branch_voices).max(), Some(1));
    for domains in 4..5000 {
        assert!(branch_voices(domains) * 3 < domains, "{domains}");
    }
}
