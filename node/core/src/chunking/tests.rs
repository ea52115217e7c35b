use proptest::prelude::*;

use super::*;

fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

fn cut(profile: ChunkProfile, seed: u64, source: &[u8], part: usize) -> Vec<Vec<u8>> {
    let mut chunker = Chunker::new(profile, seed);
    let mut chunks = Vec::new();
    for bytes in source.chunks(part) {
        chunker.push(bytes);
        while let Some(chunk) = chunker.next_chunk() {
            chunks.push(chunk.to_vec());
        }
        assert!(chunker.room().len() >= READ_ROOM);
        assert!(chunker.buffer.len() <= 2 * (profile.sizes().2 + READ_ROOM), "bounded");
    }
    while let Some(chunk) = chunker.finish() {
        chunks.push(chunk.to_vec());
    }
    chunks
}

const PAGE: ChunkProfile = match PageSize::new(4096) {
    Some(size) => ChunkProfile::Pages(size),
    None => ChunkProfile::Stream,
};

#[test]
fn golden_cuts() {
    let mut text = String::new();
    for (name, profile) in
        [("files", ChunkProfile::Files), ("stream", ChunkProfile::Stream), ("meta", ChunkProfile::Metadata)]
    {
        for seed in [0, 0x5eed_cafe] {
            let lengths: Vec<_> =
                cut(profile, seed, &bytes(2, 6 << 20), 1 << 20).iter().map(|c| c.len().to_string()).collect();
            text += &format!("{name} seed {seed:x}: {}\n", lengths.join(" "));
        }
    }
    crate::golden::check("cuts.txt", &text);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn chunks_are_the_source_whatever_the_parts(
        seed: u64, length in 0usize..400_000, part in 1usize..100_000, which in 0usize..3,
    ) {
        let profile = [ChunkProfile::Stream, ChunkProfile::Metadata, PAGE][which];
        let source = bytes(seed, length);
        let chunks = cut(profile, seed, &source, part);
        prop_assert!(chunks.concat() == source);
        prop_assert!(chunks == cut(profile, seed, &source, 65_536), "parts do not matter");
        let (min, _, max) = profile.sizes();
        let last = chunks.len().saturating_sub(1);
        prop_assert!(chunks.iter().enumerate().all(|(i, c)| c.len() <= max && (i == last || c.len() >= min)));
    }
}

#[test]
fn an_insertion_moves_no_cut_but_those_near_it() {
    let mut source = bytes(3, 2 << 20);
    let before = cut(ChunkProfile::Stream, 5, &source, 65_536);
    source.splice(1_000_000..1_000_000, *b"inserted");
    let after = cut(ChunkProfile::Stream, 5, &source, 65_536);
    let fresh = after.iter().filter(|chunk| !before.contains(chunk)).count();
    assert!(fresh <= 3, "{fresh} of {} chunks are new", after.len());
}

#[test]
fn the_seed_moves_the_cuts() {
    let source = bytes(4, 1 << 20);
    assert_ne!(cut(ChunkProfile::Stream, 1, &source, 65_536), cut(ChunkProfile::Stream, 2, &source, 65_536));
}

#[test]
fn a_chunker_serves_one_source_after_the_other() {
    let source = bytes(6, 300_000);
    let mut chunker = Chunker::new(ChunkProfile::Stream, 1);
    let expected = cut(ChunkProfile::Stream, 1, &source, 300_000);
    for _ in 0..3 {
        chunker.push(&source);
        let mut chunks = Vec::new();
        while let Some(chunk) = chunker.next_chunk() {
            chunks.push(chunk.to_vec());
        }
        while let Some(chunk) = chunker.finish() {
            chunks.push(chunk.to_vec());
        }
        assert_eq!(chunks, expected);
    }
    assert!(chunker.finish().is_none());
    assert!(PageSize::new(4000).is_none() && PageSize::new(256).is_none() && PageSize::new(1 << 21).is_none());
}
