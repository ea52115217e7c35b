use cairn_proto::code_params::SLOTS_MAX;
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::keys::{MasterSeed, VaultKeys};

fn keys(seed: u8, provider: u8) -> FallbackKeys {
    VaultKeys::derive(&MasterSeed::from_entropy([seed; 32])).fallback(&[provider; 32])
}

fn place(group: u8, slot: u8, ordinal: u8) -> Place {
    Place { group: GroupId::from_bytes([group; 32]), slot: Slot::new(slot).expect("valid"), ordinal }
}

proptest! {
    #[test]
    fn no_provider_ever_has_more_than_its_cap(
        code in (1u8..=16, 1u8..=16),
        providers in 1usize..=4,
        wishes in vec(vec(0usize..32, 1..5), 0..12),
    ) {
        let code = CodeParams::new(code.0, code.1).expect("valid");
        let most = most_at_one(code);
        prop_assert!(most < code.data() && most <= code.parity(), "SEP-6: it cannot read, and its loss loses nothing");
        let mut ever = vec![BTreeSet::new(); providers];
        for slots in wishes {
            let slots: BTreeSet<usize> = slots.into_iter().map(|slot| slot % code.slots()).collect();
            let slots: Vec<usize> = slots.into_iter().collect();
            let new = slots.iter().filter(|slot| !ever.iter().any(|had: &BTreeSet<usize>| had.contains(slot))).count();
            let given = share_out(code, &ever, &slots);
            // Exactly when there is room for those that have no place yet.
            prop_assert_eq!(given.is_some(), new <= room(code, &ever));
            for (slot, at) in slots.iter().zip(given.unwrap_or_default()) {
                ever[at].insert(*slot);
            }
            for had in &ever {
                prop_assert!(had.len() <= most, "SEP-6: {} slots of {} at one provider", had.len(), most);
            }
        }
    }

    #[test]
    fn slots_spread_over_providers(slots in 1usize..=8) {
        let code = CodeParams::DEFAULT;
        let ever = vec![BTreeSet::new(); 3];
        let wanted: Vec<usize> = (0..slots).collect();
        let given = share_out(code, &ever, &wanted).expect("three have room for nine");
        for at in 0..3 {
            let count = given.iter().filter(|given| **given == at).count();
            prop_assert!(count >= slots / 3 && count <= slots.div_ceil(3));
        }
    }

    #[test]
    fn a_changed_object_does_not_open(at: prop::sample::Index, bit in 0u8..8, cut in 1usize..OBJECT_SIZE) {
        let keys = keys(1, 1);
        let object = keys.seal(&place(1, 2, 3), [9; 32], &vec![7; SHARD_SIZE]).expect("sealed");
        let mut bad = object.clone();
        bad[at.index(OBJECT_SIZE)] ^= 1 << bit;
        prop_assert!(keys.open(&place(1, 2, 3), &bad).is_err());
        let found = OBJECT_SIZE - cut;
        prop_assert_eq!(keys.open(&place(1, 2, 3), &object[..found]), Err(ObjectError::Length { found }));
    }
}

#[test]
fn an_object_opens_in_its_own_place_only() {
    let keys_here = keys(1, 1);
    let shard = vec![7; SHARD_SIZE];
    let object = keys_here.seal(&place(1, 2, 3), [9; 32], &shard).expect("sealed");
    assert_eq!(object.len(), OBJECT_SIZE);
    assert_eq!(keys_here.open(&place(1, 2, 3), &object), Ok(shard.clone()));
    for elsewhere in [place(2, 2, 3), place(1, 1, 3), place(1, 2, 4)] {
        assert_eq!(keys_here.open(&elsewhere, &object), Err(ObjectError::NotAuthentic));
    }
    for other in [keys(2, 1), keys(1, 2)] {
        assert_eq!(other.open(&place(1, 2, 3), &object), Err(ObjectError::NotAuthentic));
    }
    assert_eq!(
        keys_here.seal(&place(1, 2, 3), [9; 32], &shard[1..]),
        Err(ObjectError::Length { found: SHARD_SIZE - 1 })
    );
}

#[test]
fn names_and_bytes_tell_nothing() {
    let keys = keys(1, 1);
    let (mut names, mut holders) = (BTreeSet::new(), BTreeSet::new());
    for slot in 0..SLOTS_MAX {
        assert!(holders.insert(keys.holder(Slot::new(slot).expect("valid")).verifying_key().to_bytes()));
        assert!(names.insert(keys.folder(&GroupId::from_bytes([1; 32]), Slot::new(slot).expect("valid"))));
        for ordinal in [0, 1, 255] {
            assert!(names.insert(keys.name(&place(1, slot, ordinal))));
        }
    }
    assert!(names.iter().all(|name| name.len() == 32 && name.chars().all(|c| c.is_ascii_hexdigit())));
    // Sealed twice it looks different, so two uploads cannot be told to be the same shard.
    let seal = |salt| keys.seal(&place(1, 2, 3), [salt; 32], &vec![0; SHARD_SIZE]).expect("sealed");
    let (a, b) = (seal(1), seal(2));
    let same = a[40..].iter().zip(&b[40..]).filter(|(a, b)| a == b).count();
    assert!(same < SHARD_SIZE / 200, "{same} bytes alike, one in 256 by chance");
}

#[test]
fn an_object_is_frozen() {
    let shard: Vec<u8> = (0..SHARD_SIZE).map(|at| (at % 251) as u8).collect();
    let keys = keys(3, 4);
    let object = keys.seal(&place(5, 6, 7), [8; 32], &shard).expect("sealed");
    let told = format!(
        "{} {} {}",
        keys.folder(&GroupId::from_bytes([5; 32]), Slot::new(6).expect("valid")),
        keys.name(&place(5, 6, 7)),
        blake3::hash(&object)
    );
    crate::golden::check("fallback-object.txt", &told);
}
