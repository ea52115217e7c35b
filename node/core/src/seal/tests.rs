use cairn_proto::{
    CodeParams, PeerKey, ShardRoot, Timestamp,
    head::FORMAT_VERSION,
    index::{RunCodec, RunPlace, StripeNo, StripeRow},
    manifest::GroupRow,
};
use proptest::prelude::*;

use super::*;
use crate::keys::{KeyMode, MasterSeed};

fn stripe_key() -> (StripeKey, StripeId) {
    let stripe = StripeId::from_bytes([3; 32]);
    let keys = VaultKeys::derive(&MasterSeed::from_entropy([1; 32]));
    (keys.epoch(KeyMode::Paper, 1).stripe_key(&stripe), stripe)
}

fn slot(index: u8) -> Slot {
    Slot::new(index).expect("in range")
}

fn plain() -> Vec<u8> {
    let mut shard: Vec<u8> = (0..SHARD_SIZE).map(|i| ((i * i) >> 7) as u8).collect();
    shard[SHARD_PAYLOAD..].fill(0);
    shard
}

#[test]
fn what_was_sealed_opens_and_is_unreadable_between() {
    let (key, stripe) = stripe_key();
    let mut shard = plain();
    seal_in_place(&key, &stripe, slot(0), &mut shard).expect("a shard");
    crate::golden::check("sealed-shard.txt", &format!("{}\n", crate::stripe::root_of(&shard)));
    assert_ne!(shard[..64], plain()[..64]);
    open_in_place(&key, &stripe, slot(0), &mut shard).expect("opens");
    assert_eq!(shard[..SHARD_PAYLOAD], plain()[..SHARD_PAYLOAD]);
}

#[test]
fn both_implementations_agree() {
    let (key, stripe) = stripe_key();
    for index in 0..3 {
        let (mut ours, mut theirs) = (plain(), plain());
        seal_in_place(&key, &stripe, slot(index), &mut ours).expect("a shard");
        let aad = associated(&stripe, slot(index));
        let tag = encrypt(&key.shard_key(slot(index)), &[0; NONCE], &aad, &mut theirs[..SHARD_PAYLOAD]).expect("seals");
        theirs[SHARD_PAYLOAD..].copy_from_slice(&tag);
        assert!(ours == theirs);
    }
}

#[test]
fn another_slot_stripe_or_key_does_not_open() {
    let (key, stripe) = stripe_key();
    let mut sealed = plain();
    seal_in_place(&key, &stripe, slot(1), &mut sealed).expect("a shard");
    let other = StripeId::from_bytes([4; 32]);
    let keys = VaultKeys::derive(&MasterSeed::from_entropy([2; 32]));
    let stranger = keys.epoch(KeyMode::Paper, 1).stripe_key(&stripe);
    for (key, stripe, slot) in [(&key, &stripe, slot(0)), (&key, &other, slot(1)), (&stranger, &stripe, slot(1))] {
        let mut copy = sealed.clone();
        assert_eq!(open_in_place(key, stripe, slot, &mut copy), Err(SealError::NotAuthentic));
        assert!(copy.iter().all(|b| *b == 0), "nothing is left of it");
    }
    for length in [0, SHARD_PAYLOAD, SHARD_SIZE - 1, SHARD_SIZE + 1] {
        let error = Err(SealError::Length { found: length });
        assert_eq!(seal_in_place(&key, &stripe, slot(0), &mut vec![0; length]), error);
        assert_eq!(open_in_place(&key, &stripe, slot(0), &mut vec![0; length]), error);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_flipped_bit_anywhere_is_refused(at in 0..SHARD_SIZE, bit in 0u8..8) {
        let (key, stripe) = stripe_key();
        let mut shard = plain();
        seal_in_place(&key, &stripe, slot(0), &mut shard)?;
        shard[at] ^= 1 << bit;
        prop_assert_eq!(open_in_place(&key, &stripe, slot(0), &mut shard), Err(SealError::NotAuthentic));
    }
}

fn head(sequence: u64) -> HeadContent {
    let code = CodeParams::LOW_PEER;
    let holders = (1..=5).map(|i| vec![PeerKey::from_bytes([i; 32])]).collect();
    let root = Some(ShardRoot::from_bytes([3; 32]));
    HeadContent {
        format: FORMAT_VERSION,
        sequence,
        generation: 2,
        created: Timestamp(4),
        epoch: 1,
        groups: vec![GroupRow { number: 1, salt: [1; 32], code, colours: 6, holders, stripes_used: 1, sealed: false }],
        tail: vec![StripeRow {
            no: StripeNo(1),
            group: 1,
            ordinal: 0,
            epoch: 1,
            stripe: StripeId::from_bytes([2; 32]),
            used: 1,
            roots: vec![root, None, None, root, root],
        }],
        manifest: vec![RunPlace {
            stripe: StripeNo(1),
            offset: 0,
            stored_len: 5,
            next: None,
            codec: RunCodec::Raw,
            raw_len: 5,
        }],
        providers: Vec::new(),
    }
}

#[test]
fn heads_open_only_with_the_vaults_keys() {
    let keys = VaultKeys::derive(&MasterSeed::from_entropy([1; 32]));
    let sealed = seal_head(&keys, &head(9)).expect("fits");
    let record = HeadRecord::open(&sealed).expect("signed");
    assert_eq!((record.vault, record.generation, record.sequence), (keys.vault_key(), 2, 9));
    assert_eq!(record.sealed.len() % HEAD_STEP, NONCE + SEAL_OVERHEAD);
    assert_eq!(open_head(&keys, &record), Ok(head(9)));

    let stranger = VaultKeys::derive(&MasterSeed::from_entropy([2; 32]));
    assert_eq!(open_head(&stranger, &record), Err(SealError::NotAuthentic));
    let renumbered = HeadRecord { sequence: 10, ..record.clone() };
    assert_eq!(open_head(&keys, &renumbered), Err(SealError::NotAuthentic));
    for at in 0..record.sealed.len() {
        let mut bad = record.clone();
        bad.sealed[at] ^= 1;
        assert_eq!(open_head(&keys, &bad), Err(SealError::NotAuthentic), "byte {at}");
    }
    for length in [0, 27, 28] {
        let short = HeadRecord { sealed: vec![0; length], ..record.clone() };
        assert_eq!(open_head(&keys, &short), Err(SealError::NotAuthentic));
    }
}

#[test]
fn two_heads_never_share_a_nonce() {
    let keys = VaultKeys::derive(&MasterSeed::from_entropy([1; 32]));
    let nonce = |head: &HeadContent| {
        let record = HeadRecord::open(&seal_head(&keys, head).expect("fits")).expect("signed");
        record.sealed[..NONCE].to_vec()
    };
    let crashed_and_redone = HeadContent { created: Timestamp(5), ..head(9) };
    assert_ne!(nonce(&head(9)), nonce(&crashed_and_redone));
    assert_eq!(nonce(&head(9)), nonce(&head(9)));
}

#[test]
fn the_largest_head_fits_its_record() {
    let keys = VaultKeys::derive(&MasterSeed::from_entropy([1; 32]));
    let mut largest = HeadContent { sequence: u64::MAX, generation: u32::MAX, ..head(1) };
    let mut row = largest.tail[0].clone();
    loop {
        row.no = StripeNo(row.no.0 + 1);
        largest.tail.push(row.clone());
        if largest.encode().is_err() {
            largest.tail.pop();
            break;
        }
    }
    let sealed = seal_head(&keys, &largest).expect("fits");
    assert!(HeadRecord::open(&sealed).is_ok(), "{} bytes", sealed.len());
}
