//! The state as bytes.

use proptest::prelude::*;

use super::*;

/// Something of everything: an episode, a churn, a departure, somebody gone, a server.
fn eventful() -> World {
    let mut world = World::of(12);
    world.run(HOUR).off(5..6).run(5 * HOUR).on(5..6).run(8 * DAY);
    world.watch.leaving(peer(11), world.now, world.now);
    world.watch.expect(peer(20), world.now);
    world.off(11..12).run(HOUR).off(0..4).run(2 * DAY);
    world.off(4..9).run(10 * MINUTE);
    world
}

#[test]
fn the_bytes_are_frozen() {
    let world = eventful();
    let hex: String = world
        .watch
        .encode()
        .chunks(32)
        .map(|line| line.iter().map(|b| format!("{b:02x}")).collect::<String>() + "\n")
        .collect();
    crate::golden::check("liveness.txt", &hex);
}

#[test]
fn what_was_known_is_known_again() {
    let mut world = eventful();
    assert_ne!(world.watch.outage(world.now), Outage::None);
    let mut again = Watch::decode(&world.watch.encode(), Timers::default()).expect("own state");
    assert_eq!(again.encode(), world.watch.encode());
    for _ in 0..200 {
        for number in 0..25 {
            assert_eq!(again.belief(&peer(number), world.now), world.belief(number));
        }
        assert_eq!(again.outage(world.now), world.watch.outage(world.now));
        assert_eq!(again.mass_failure(world.now), world.watch.mass_failure(world.now));
        assert_eq!(again.churn(world.now), world.watch.churn(world.now));
        world.run(MINUTE);
        world.on.keys().for_each(|number| again.heard(peer(*number), world.now));
    }
    assert_eq!(again.encode(), world.watch.encode());
}

/// Where the time of earlier contact is, which version 2 did not have.
const CONTACT_MS: std::ops::Range<usize> = 134..142;

#[test]
fn the_version_before_is_read() {
    let bytes = eventful().watch.encode();
    let mut before = bytes.clone();
    assert_eq!(before.drain(CONTACT_MS).collect::<Vec<u8>>(), [0; 8]);
    before[0] = 2;
    assert_eq!(Watch::decode(&before, Timers::default()).expect("of before").encode(), bytes);
}

#[test]
fn wrong_bytes_are_refused() {
    let bytes = eventful().watch.encode();
    for cut in 0..bytes.len() {
        assert!(Watch::decode(&bytes[..cut], Timers::default()).is_err(), "{cut}");
    }
    let refused = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut changed = bytes.clone();
        change(&mut changed);
        assert!(Watch::decode(&changed, Timers::default()).is_err());
    };
    let peers = bytes.len() - 13 * 109;
    refused(&|bytes| bytes[0] = 1);
    refused(&|bytes| bytes[0] = 4);
    refused(&|bytes| bytes.push(0));
    refused(&|bytes| bytes[1 + 72 + 32] |= 0x20);
    refused(&|bytes| bytes[peers + 32] |= 0x40);
    refused(&|bytes| bytes.copy_within(peers..peers + 32, peers + 109));
    refused(&|bytes| bytes[peers - 4..peers].copy_from_slice(&u32::MAX.to_le_bytes()));
    refused(&|bytes| bytes[peers + 33 + 24..peers + 33 + 32].copy_from_slice(&[0xff; 8]));
}

proptest! {
    /// Any bytes that are taken for a state do no harm, and come out as they went in.
    #[test]
    fn strange_states_do_no_harm(
        changes in prop::collection::vec((0usize..2000, any::<u8>()), 0..12),
        head in prop::collection::vec(any::<u8>(), 72 + 32),
        later in any::<u64>(),
    ) {
        let mut bytes = eventful_once().to_vec();
        bytes[1..=head.len()].copy_from_slice(&head);
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        if let Ok(mut watch) = Watch::decode(&bytes, Timers::default()) {
            prop_assert!(bytes[0] != 3 || watch.encode() == bytes);
            for now in [START, Timestamp(later), Timestamp(u64::MAX), Timestamp(0)] {
                for number in 0..13 {
                    let belief = watch.belief(&peer(number), now);
                    prop_assert!((0.0..=1.0).contains(&belief.alive), "{:?}", belief);
                    watch.heard(peer(number), now);
                }
                let _ = (watch.outage(now), watch.mass_failure(now), watch.churn(now));
            }
        }
    }
}

fn eventful_once() -> &'static [u8] {
    static BYTES: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    BYTES.get_or_init(|| eventful().watch.encode())
}
