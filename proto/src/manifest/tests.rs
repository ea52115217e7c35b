use proptest::{collection::vec, option, prelude::*};

use super::*;
use crate::{ChunkId, index::tests::place};

/// Groups 1..=n with a code, holders from a small set of peers, each peer once a group.
pub(crate) fn groups(most: usize) -> impl Strategy<Value = Vec<GroupRow>> {
    let group = (1u8..6, 1u8..4, any::<[u8; 32]>(), 0u16..=256, any::<bool>(), vec(0usize..=HOLDERS_MAX, 9));
    vec(group, 0..=most).prop_map(|rows| {
        let made = rows.into_iter().zip(1u32..).map(|((data, parity, salt, stripes_used, sealed, counts), number)| {
            let code = CodeParams::new(data, parity).expect("in range");
            let mut next = number as u8;
            let mut peers = |count: usize| {
                let keys = (0..count).map(|_| {
                    next = next.wrapping_add(1);
                    PeerKey::from_bytes([next; 32])
                });
                keys.collect::<Vec<_>>()
            };
            let holders = counts.into_iter().take(code.slots()).map(&mut peers).collect();
            GroupRow { number, salt, code, colours: code.slots() as u8 + 1, holders, stripes_used, sealed }
        });
        made.collect()
    })
}

prop_compose! {
    fn record()(
        texts in ["[a-z.]{0,20}", "\\PC{0,20}", "[0-9.]{0,10}"],
        paths in vec(vec(any::<u8>(), 0..50), 0..4),
        tags in vec("[a-z]{0,9}", 0..4),
        numbers in any::<(u32, u32)>(),
        wide in any::<[u64; 4]>(),
        stream in any::<bool>(),
        ids in vec(any::<[u8; 32]>(), 0..4),
        parent in option::of(any::<[u8; 32]>()),
    ) -> SnapshotRecord {
        let [hostname, username, program] = texts;
        SnapshotRecord {
            time: Timestamp(wide[0]), hostname, username, uid: numbers.0, gid: numbers.1, paths, tags,
            source: if stream { SourceKind::Stream } else { SourceKind::Files },
            root: ContentRef { depth: 0, ids: ids.into_iter().map(ChunkId::from_bytes).collect() },
            total_files: wide[1], total_bytes: wide[2], data_added: wide[3], program,
            parent: parent.map(SnapshotId::from_bytes),
        }
    }
}

prop_compose! {
    fn manifest()(
        groups in groups(4),
        segments in vec(place(), 0..5),
        snapshots in vec((any::<[u8; 32]>(), record()), 0..4),
        epochs in 1u32..5,
    ) -> Manifest {
        Manifest {
            groups, segments,
            snapshots: snapshots.into_iter().map(|(id, r)| (SnapshotId::from_bytes(id), r)).collect(),
            next_stripe: StripeNo(3000), next_group: 100,
            epochs: (1..=epochs).map(|number| EpochRow { number, created: Timestamp(number.into()) }).collect(),
        }
    }
}

proptest! {
    #[test]
    fn manifests_round_trip(manifest in manifest()) {
        prop_assert_eq!(Manifest::decode(&manifest.encode()?), Ok(manifest));
    }

    #[test]
    fn records_round_trip(record in record()) {
        prop_assert_eq!(SnapshotRecord::decode(&record.encode()?), Ok(record));
    }

    #[test]
    fn a_manifest_that_decodes_has_one_encoding(manifest in manifest(), at: prop::sample::Index, bit in 0u8..8) {
        let mut bytes = manifest.encode()?;
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(other) = Manifest::decode(&bytes) {
            prop_assert_eq!(other.encode()?, bytes);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..300)) {
        let _ = Manifest::decode(&bytes);
        let _ = Manifest::decode(&[&[VERSION], &bytes[..]].concat());
        let _ = SnapshotRecord::decode(&bytes);
    }
}

fn small() -> Manifest {
    let code = CodeParams::LOW_PEER;
    let holders = (1..=5).map(|i| vec![PeerKey::from_bytes([i; 32])]).collect();
    Manifest {
        groups: vec![GroupRow { number: 1, salt: [1; 32], code, colours: 6, holders, stripes_used: 1, sealed: false }],
        segments: vec![],
        snapshots: vec![],
        next_stripe: StripeNo(1),
        next_group: 2,
        epochs: vec![EpochRow { number: 1, created: Timestamp(0) }],
    }
}

#[test]
fn manifests_that_break_a_rule_are_refused() {
    assert!(small().encode().is_ok());
    let refused = |change: fn(&mut Manifest)| {
        let mut manifest = small();
        change(&mut manifest);
        assert!(manifest.encode().is_err(), "{manifest:?}");
    };
    refused(|m| m.epochs.clear());
    refused(|m| m.epochs[0].number = 0);
    refused(|m| m.next_group = 1);
    refused(|m| m.next_stripe = StripeNo(0));
    refused(|m| m.groups[0].number = 0);
    refused(|m| m.groups[0].colours = 5);
    refused(|m| m.groups[0].stripes_used = 257);
    refused(|m| m.groups[0].holders[0] = m.groups[0].holders[1].clone());
    refused(|m| m.groups[0].holders[0] = (10..15).map(|i| PeerKey::from_bytes([i; 32])).collect());
    refused(|m| drop(m.groups[0].holders.pop()));
    refused(|m| m.groups.push(m.groups[0].clone()));
}

#[test]
fn a_peer_key_is_written_once() {
    let mut manifest = small();
    let one = manifest.encode().expect("valid").len();
    let again = GroupRow { number: 2, ..manifest.groups[0].clone() };
    manifest.groups.push(again);
    manifest.next_group = 3;
    assert!(manifest.encode().expect("valid").len() < one + 60);
}
