//! Makes hostile inputs from valid ones. Pure: the same generator state gives the same input.

use rand_core::Rng;

/// Longest input that is made: over every decoder's own limit that can be reached cheaply.
pub const INPUT_MAX: usize = 64 * 1024;

/// Numbers at which length and count checks tend to be wrong.
const EDGES: [u64; 12] =
    [0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x10_0000, 0x7fff_ffff, 0xffff_ffff, 0x7fff_ffff_ffff_ffff, u64::MAX];

/// One input: mostly a valid one with one to eight changes, sometimes noise.
pub fn input(rng: &mut impl Rng, corpus: &[Vec<u8>]) -> Vec<u8> {
    if corpus.is_empty() || below(rng, 16) == 0 {
        let mut noise = vec![0; below(rng, 512)];
        rng.fill_bytes(&mut noise);
        return noise;
    }
    let mut bytes = corpus[below(rng, corpus.len())].clone();
    for _ in 0..=below(rng, 8) {
        change(rng, &mut bytes, corpus);
        bytes.truncate(INPUT_MAX);
    }
    bytes
}

fn change(rng: &mut impl Rng, bytes: &mut Vec<u8>, corpus: &[Vec<u8>]) {
    let at = below(rng, bytes.len() + 1);
    let rest = bytes.len() - at;
    match below(rng, 8) {
        0 if rest > 0 => bytes[at] ^= 1 << below(rng, 8),
        1 if rest > 0 => bytes[at] = rng.next_u32() as u8,
        2 => bytes.truncate(at),
        3 => {
            bytes.drain(at..at + below(rng, rest.min(64) + 1));
        }
        4 => {
            let piece = bytes[at..at + below(rng, rest.min(256) + 1)].to_vec();
            let to = below(rng, bytes.len() + 1);
            bytes.splice(to..to, piece);
        }
        5 => {
            let edge = EDGES[below(rng, EDGES.len())].to_le_bytes();
            let width = [1, 2, 4, 8][below(rng, 4)].min(rest);
            bytes[at..at + width].copy_from_slice(&edge[..width]);
        }
        6 => {
            let varint = varint(EDGES[below(rng, EDGES.len())]);
            bytes.splice(at..at + usize::from(rest > 0), varint);
        }
        _ => {
            let other = &corpus[below(rng, corpus.len())];
            let from = below(rng, other.len() + 1);
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from..]);
        }
    }
}

fn varint(mut n: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
    out
}

fn below(rng: &mut impl Rng, bound: usize) -> usize {
    if bound == 0 { 0 } else { (rng.next_u64() % bound as u64) as usize }
}
