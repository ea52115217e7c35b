//! SEP-1 on the wire: whoever hears every stream in the clear finds no shard of anybody's, and no multiple of one.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
};

use cairn_core::blind::{SLICE_SIZE, SLICES};
use cairn_proto::{CodeParams, PeerKey, SHARD_SIZE};

use super::{
    lines::{Kind, Recorded, Tape},
    village::{Plan, Village},
};

/// So many bytes of a shard are no accident.
const WINDOW: usize = 16;

/// The product in the code's field, GF(2^8) over x^8 + x^4 + x^3 + x^2 + 1.
fn times(mut a: u8, mut b: u8) -> u8 {
    let mut product = 0;
    while b != 0 {
        if b & 1 != 0 {
            product ^= a;
        }
        let carry = a & 0x80 != 0;
        a = (a << 1) ^ if carry { 0x1d } else { 0 };
        b >>= 1;
    }
    product
}

/// The beginning of every slice of these shards, and of each of its multiples.
fn patterns(shards: &[&[u8]]) -> HashSet<[u8; WINDOW]> {
    let begins = shards.iter().flat_map(|shard| shard.chunks(SLICE_SIZE)).map(|slice| &slice[..WINDOW]);
    let every = begins.flat_map(|begin| (1..=u8::MAX).map(move |c| std::array::from_fn(|at| times(c, begin[at]))));
    every.collect()
}

/// Whether any of them was said anywhere.
fn hears(said: &[Recorded], patterns: &HashSet<[u8; WINDOW]>) -> bool {
    let says = |said: &Recorded| {
        said.bytes
            .windows(WINDOW)
            .any(|window| window.try_into().is_ok_and(|window: [u8; WINDOW]| patterns.contains(&window)))
    };
    said.iter().any(says)
}

#[test]
fn the_field_is_the_codes() {
    // A stripe with one data shard: slot 5's shard is a multiple of it.
    let codec = cairn_core::erasure::Codec::new(CodeParams::DEFAULT);
    let parity = codec.parity(&[(0..=255).collect::<Vec<u8>>()]).expect("a stripe");
    let factor = parity[0][1];
    assert!((0..=255).all(|byte: u8| times(factor, byte) == parity[0][usize::from(byte)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_on_the_wire_is_a_shard() {
    let tape: Tape = Arc::new(Mutex::new(Vec::new()));
    let chain = [7, 2, 5, 1, 6];
    let mut plan = Plan::new(CodeParams::DEFAULT, 0, &chain, &[5]);
    let its = tape.clone();
    plan.lines = Box::new(move |_| Kind { tape: Some(its.clone()), ..Kind::default() });
    let village = Village::start(plan).await;
    assert!(village.rebuild(0).await.as_ref() == Ok(village.lost_shard(0)));

    let mut said = tape.lock().expect("lock").clone();
    // Every slice went from each to the next, and nothing else did.
    let mut long: Vec<(PeerKey, PeerKey)> =
        said.iter().filter(|said| said.bytes.len() >= SLICES * SLICE_SIZE).map(|said| (said.from, said.to)).collect();
    let peers: Vec<PeerKey> = chain.iter().chain([&0]).map(|at| village.nodes[at].peer).collect();
    let mut links: Vec<(PeerKey, PeerKey)> = peers.windows(2).map(|two| (two[0], two[1])).collect();
    long.sort_unstable();
    links.sort_unstable();
    assert_eq!(long, links);
    let rest: usize = said.iter().map(|said| said.bytes.len()).sum::<usize>() - links.len() * SHARD_SIZE;
    assert!(rest < 64 * 1024, "{rest} bytes beside the slices");

    let shards: Vec<&[u8]> = village.shards[0].iter().map(AsRef::as_ref).collect();
    let patterns = patterns(&shards);
    assert!(!hears(&said, &patterns), "SEP-1: a shard, or a multiple of one, went over a stream");
    // It would have been heard.
    let multiple: Vec<u8> = shards[3][5 * SLICE_SIZE..][..100].iter().map(|byte| times(77, *byte)).collect();
    said[0].bytes.extend([&[1, 2, 3][..], &multiple].concat());
    assert!(hears(&said, &patterns));
}
