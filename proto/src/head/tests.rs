use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{CodeParams, ShardRoot, StripeId, index::StripeNo, manifest::tests::groups};

prop_compose! {
    fn head()(
        mut groups in groups(3).prop_filter("one at least", |g| !g.is_empty()),
        stripes in vec((any::<u8>(), any::<[u8; 32]>(), 0usize..3, 0u8..8), 1..6),
        numbers in any::<(u64, u32, u64, u32)>(),
        runs in 1usize..4,
        providers in proptest::collection::btree_map(any::<[u8; 32]>(), "[A-Za-z0-9._-]{1,32}", 0..4),
    ) -> HeadContent {
        let providers = providers.into_iter().map(|(id, name)| ProviderRow { id, name }).collect();
        let tail: Vec<_> = stripes.into_iter().zip(1u64..).map(|((ordinal, seed, group, used), no)| {
            let group = &groups[group % groups.len()];
            let (data, slots) = (group.code.data() as u8, group.code.slots() as u8);
            let used = used % data + 1;
            let root = |slot: u8| (slot < used || slot >= data).then(|| ShardRoot::from_bytes([slot; 32]));
            let roots = (0..slots).map(root).collect();
            let (no, group, stripe) = (StripeNo(no), group.number, StripeId::from_bytes(seed));
            StripeRow { no, group, ordinal, epoch: numbers.3, stripe, used, roots }
        }).collect();
        groups.retain(|g| tail.iter().any(|row| row.group == g.number));
        let place = RunPlace {
            stripe: tail[0].no, offset: 9, stored_len: 8, next: tail.get(1).map(|t| t.no),
            codec: crate::index::RunCodec::Zstd, raw_len: 99,
        };
        HeadContent {
            format: FORMAT_VERSION, sequence: numbers.0, generation: numbers.1, created: Timestamp(numbers.2),
            epoch: numbers.3, groups, tail, manifest: vec![place; runs], providers,
        }
    }
}

proptest! {
    #[test]
    fn heads_round_trip(head in head()) {
        prop_assert_eq!(HeadContent::decode(&head.encode()?), Ok(head));
    }

    #[test]
    fn a_head_that_decodes_has_one_encoding(head in head(), at: prop::sample::Index, bit in 0u8..8) {
        let mut bytes = head.encode()?;
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(other) = HeadContent::decode(&bytes) {
            prop_assert_eq!(other.encode()?, bytes);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..300)) {
        let _ = HeadContent::decode(&bytes);
        let _ = HeadContent::decode(&[&[FORMAT_VERSION as u8], &bytes[..]].concat());
    }
}

fn wide_tail(stripes: u64) -> HeadContent {
    let code = CodeParams::DEFAULT;
    let holders = (1..=8).map(|i| vec![crate::PeerKey::from_bytes([i; 32])]).collect();
    let group = GroupRow { number: 1, salt: [1; 32], code, colours: 9, holders, stripes_used: 9, sealed: false };
    let row = |no| StripeRow {
        no: StripeNo(no),
        group: 1,
        ordinal: no as u8,
        epoch: 1,
        stripe: StripeId::from_bytes([2; 32]),
        used: 5,
        roots: vec![Some(ShardRoot::from_bytes([3; 32])); 8],
    };
    let place = RunPlace {
        stripe: StripeNo(1),
        offset: 0,
        stored_len: 5,
        next: None,
        codec: crate::index::RunCodec::Raw,
        raw_len: 5,
    };
    HeadContent {
        format: FORMAT_VERSION,
        sequence: 1,
        generation: 1,
        created: Timestamp(1),
        epoch: 1,
        groups: vec![group],
        tail: (1..=stripes).map(row).collect(),
        manifest: vec![place],
        providers: Vec::new(),
    }
}

#[test]
fn a_tail_for_the_largest_manifest_fits() {
    assert!(wide_tail(16).encode().is_ok(), "64 MiB of manifest and some more");
    assert!(matches!(wide_tail(40).encode(), Err(DecodeError::TooLarge { .. })));
}

#[test]
fn heads_that_lead_nowhere_are_refused() {
    let refused = |change: fn(&mut HeadContent)| {
        let mut head = wide_tail(2);
        change(&mut head);
        assert!(head.encode().is_err(), "{head:?}");
    };
    refused(|h| h.format = 2);
    refused(|h| h.manifest.clear());
    refused(|h| h.manifest = vec![h.manifest[0]; MANIFEST_RUNS_MAX + 1]);
    refused(|h| h.manifest[0].stripe = StripeNo(3));
    refused(|h| h.manifest[0].next = Some(StripeNo(3)));
    refused(|h| h.groups.clear());
    refused(|h| h.tail[0].roots.truncate(7));
}

#[test]
fn an_empty_list_of_providers_and_names_that_are_none_are_refused() {
    let head = wide_tail(1);
    let encoded = head.encode().expect("valid");
    assert!(HeadContent::decode(&[&encoded[..], &[0]].concat()).is_err(), "no providers is no byte");
    for name in ["", "a b", "\u{1b}[0m", "x/y", &"n".repeat(33)] {
        let provider = ProviderRow { id: [1; 32], name: name.to_owned() };
        assert!(HeadContent { providers: vec![provider], ..head.clone() }.encode().is_err(), "{name:?}");
    }
    let same = vec![ProviderRow { id: [1; 32], name: "a".to_owned() }; 2];
    assert!(HeadContent { providers: same, ..head }.encode().is_err(), "one stands there twice");
}
