//! Contents fetched ahead in pieces of runs.

use std::sync::Arc;

use futures::StreamExt as _;

use super::*;
use crate::vault::{
    browse,
    pieces::{Ahead, PARTS, PIECE_MAX, Pieces},
    reader::Reader,
};

/// Rows of text: compressible, and cut into chunks of some 8 KiB.
fn rows(count: usize) -> Vec<u8> {
    let row = |i: usize| format!("({i},'{}')\n", blake3::hash(&i.to_le_bytes()).to_hex());
    (0..count).flat_map(|i| row(i).into_bytes()).collect()
}

async fn stream(owner: &Owner, bytes: &[u8]) {
    let args = BackupArgs { stdin_filename: Some("dump".to_owned()), ..BackupArgs::default() };
    let input = StreamInput::from_reader(std::io::Cursor::new(bytes.to_vec()));
    let verb = Verb::Backup(args);
    owner.run_with(verb, None, Some(input), CancellationToken::new()).await.expect(ExitCode::Success);
}

async fn content(owner: &Owner, reader: &Reader) -> cairn_proto::tree::ContentRef {
    let vault = Vault::open(&owner.data, None).expect("opens");
    let (_, record) = browse::pick(&vault, "latest").expect("one");
    browse::locate(reader, &record.root, "/dump").await.expect("there").content
}

fn reader(owner: &Owner) -> Arc<Reader> {
    let vault = Vault::open(&owner.data, None).expect("opens");
    Arc::new(Reader::new(vault.keys.clone(), owner.overlay.shared(), Some(vault.catalogue.clone())))
}

#[tokio::test(flavor = "multi_thread")]
async fn neighbours_are_fetched_together_and_the_budget_comes_back() {
    let owner = Owner::new(24);
    // The second half of the stream is the first again, with a change in between: back in runs that were read before.
    let half = rows(30_000);
    let source = [&half[..], b"changed", &half[..]].concat();
    stream(&owner, &source).await;
    let reader = reader(&owner);
    let content = content(&owner, &reader).await;

    let mut walk = Pieces::new(&content);
    let (mut pieces, mut chunks, mut bytes) = (0, 0, 0);
    while let Some(piece) = walk.next(&reader).await {
        let piece = piece.expect("known");
        let (_, range, ids) = piece.parts();
        assert!(range.len() <= PIECE_MAX && range.len() == ids.iter().map(|(_, n)| *n as usize).sum::<usize>());
        (pieces, chunks, bytes) = (pieces + 1, chunks + ids.len(), bytes + range.len());
    }
    assert_eq!(bytes, source.len());
    assert!(chunks > 300 && pieces * 8 < chunks, "{chunks} chunks in {pieces} pieces");

    let ahead = Ahead::new(reader.clone());
    let read: Vec<_> =
        ahead.fetches(&content).buffered(PARTS).map(|piece| piece.expect("there").bytes.joined()).collect().await;
    assert!(read.concat() == source);
    assert!(ahead.is_unused());

    // Whoever goes away in the middle leaves nothing behind.
    let mut some = std::pin::pin!(ahead.fetches(&content).buffered(PARTS));
    let first = some.next().await.expect("one at least").expect("there");
    assert!(!ahead.is_unused(), "what is held counts");
    drop(first);
    some.set(ahead.fetches(&cairn_proto::tree::ContentRef::empty()).buffered(PARTS));
    let empty = async {
        while !ahead.is_unused() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), empty).await.expect("nothing is held");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_chunk_ends_the_walk() {
    let owner = Owner::new(24);
    stream(&owner, &rows(2_000)).await;
    let reader = reader(&owner);
    let mut content = content(&owner, &reader).await;
    assert_eq!(content.depth, 0);
    let last = content.ids.len() - 1;
    content.ids[last] = cairn_proto::ChunkId::from_bytes([7; 32]);
    let read: Vec<_> = Ahead::new(reader).fetches(&content).buffered(PARTS).collect().await;
    let (bad, good) = read.split_last().expect("some");
    assert!(!good.is_empty() && good.iter().all(Result::is_ok));
    assert!(matches!(bad, Err(crate::vault::reader::ReadError::UnknownChunk(_))), "{bad:?}");
}
