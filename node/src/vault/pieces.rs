//! A content's bytes in order, fetched ahead: neighbouring chunks of a run are looked up, fetched and checked together.
//!
//! A stream's chunks are some 8 KiB, two hundred to a row of the catalogue and to a run: one at a time, each would cost a
//! look at the catalogue, a task, and 1/30 of what should be under way on a long line. What is fetched ahead is counted
//! in bytes instead, by a budget that all files of a verb share.
//!
//! Memory: [`AHEAD`] bytes of runs that pieces lie in, fetched or under way: a piece keeps its whole run in memory, so that is
//! what it counts as; neighbours in one run count once. A long raw run keeps the shards that it lies in instead, up to
//! three times its bytes where runs that follow each other in a file do not in their stripes. [`PARTS`] pieces at most, each
//! with its chunks' ids.

use std::{
    ops::Range,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use cairn_proto::{ChunkId, index::RunPlace, tree::ContentRef};
use futures::{FutureExt as _, Stream, future::BoxFuture};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::AbortOnDropHandle;

use super::{
    content_ids::ContentIds,
    parts::Parts,
    reader::{ReadError, Reader},
};

/// Bytes fetched ahead of whoever writes them: what a line of 1 Gbit/s carries in 200 ms.
const AHEAD: usize = 24 << 20;
/// Futures in order that are polled at once by the users of this module: pieces, and beginnings and ends of files. Small files
/// make many, whose runs are few.
pub(super) const PARTS: usize = 1024;
/// A piece of so many bytes is checked at once when its run is at hand: a task of its own would cost more.
const SMALL: usize = 64 << 10;
/// Most bytes of one piece, unless a single chunk is larger.
pub(super) const PIECE_MAX: usize = 1 << 20;

/// Consecutive chunks that lie one behind the other in a run.
#[derive(Debug)]
pub(super) struct Piece {
    place: RunPlace,
    begin: usize,
    chunks: Vec<(ChunkId, u32)>,
    bytes: usize,
}

impl Piece {
    fn of(place: RunPlace, id: ChunkId, range: Range<usize>) -> Self {
        Self { place, begin: range.start, chunks: vec![(id, range.len() as u32)], bytes: range.len() }
    }

    /// Whether the next one goes on where this one ends.
    fn takes(&self, next: &Self) -> bool {
        let neighbour = next.place == self.place && next.begin == self.begin + self.bytes;
        neighbour && self.bytes + next.bytes <= PIECE_MAX
    }

    fn append(&mut self, mut next: Self) {
        self.chunks.append(&mut next.chunks);
        self.bytes += next.bytes;
    }

    /// Its run, where it lies in there, and its chunks.
    pub(super) const fn parts(&self) -> (&RunPlace, Range<usize>, &[(ChunkId, u32)]) {
        (&self.place, self.begin..self.begin + self.bytes, self.chunks.as_slice())
    }
}

/// Bytes, and their share of the budget until they are dropped.
#[derive(Debug)]
pub(super) struct Held {
    /// Checked.
    pub(super) bytes: Parts,
    _room: Room,
}

/// A piece on its way.
pub(super) type Fetch = BoxFuture<'static, Result<Held, ReadError>>;

/// The row that the last chunk was found in, and where in it the next one should be.
struct Row {
    place: RunPlace,
    chunks: Vec<(ChunkId, Range<usize>)>,
    next: usize,
}

impl Row {
    fn find(&mut self, id: ChunkId) -> Option<Range<usize>> {
        let here = self.chunks.get(self.next).filter(|(found, _)| *found == id);
        let at = here.map(|_| self.next).or_else(|| self.chunks.iter().position(|(found, _)| *found == id))?;
        self.next = at + 1;
        Some(self.chunks[at].1.clone())
    }
}

/// A walk over a content's pieces.
pub(super) struct Pieces {
    ids: ContentIds,
    row: Option<Row>,
    /// What came after the last piece.
    waiting: Option<Result<Piece, ReadError>>,
    over: bool,
}

impl Pieces {
    pub(super) fn new(content: &ContentRef) -> Self {
        Self { ids: ContentIds::new(content), row: None, waiting: None, over: false }
    }

    /// The next piece; `None` at the end. After an error the walk is over.
    pub(super) async fn next(&mut self, reader: &Reader) -> Option<Result<Piece, ReadError>> {
        let first = match self.waiting.take() {
            Some(waiting) => Some(waiting),
            None => self.one(reader).await,
        };
        let mut open = match first? {
            Ok(piece) => piece,
            Err(e) => return Some(Err(e)),
        };
        loop {
            match self.one(reader).await {
                Some(Ok(next)) if open.takes(&next) => open.append(next),
                other => {
                    self.waiting = other;
                    return Some(Ok(open));
                }
            }
        }
    }

    /// The next chunk, as a piece of its own.
    async fn one(&mut self, reader: &Reader) -> Option<Result<Piece, ReadError>> {
        if self.over {
            return None;
        }
        let found = match self.ids.next(reader).await? {
            Ok(id) => self.look_up(reader, id),
            Err(e) => Err(e),
        };
        self.over = found.is_err();
        Some(found)
    }

    fn look_up(&mut self, reader: &Reader, id: ChunkId) -> Result<Piece, ReadError> {
        if let Some(row) = &mut self.row
            && let Some(range) = row.find(id)
        {
            return Ok(Piece::of(row.place, id, range));
        }
        let found = reader.find(id)?;
        let mut row = Row { place: found.place, chunks: found.ranges().collect(), next: 0 };
        let range = row.find(id).ok_or(ReadError::WrongChunk(id))?;
        self.row = Some(row);
        Ok(Piece::of(found.place, id, range))
    }
}

/// A run's share of the budget, until the last piece of it is dropped.
type Room = Arc<Option<OwnedSemaphorePermit>>;
/// A run that was met, and its share if it still has one.
type Met = (RunPlace, Weak<Option<OwnedSemaphorePermit>>);

/// What is fetched ahead, for all files of a verb.
#[derive(Clone)]
pub(super) struct Ahead {
    reader: Arc<Reader>,
    room: Arc<Semaphore>,
    /// The run that the last piece lies in. Small files follow each other in one: counted once, not for each of them.
    last: Arc<Mutex<Option<Met>>>,
}

impl Ahead {
    pub(super) fn new(reader: Arc<Reader>) -> Self {
        Self { reader, room: Arc::new(Semaphore::new(AHEAD)), last: Arc::default() }
    }

    /// A content's bytes as fetches in order: each is a task of its own, begun as soon as the budget has room for it, and
    /// ended when it is dropped. Await them in order, or whoever comes first may wait for room that the last one has.
    pub(super) fn fetches(&self, content: &ContentRef) -> impl Stream<Item = Fetch> + Send + use<> {
        let step = |(mut pieces, ahead): (Pieces, Self)| async move {
            let fetch = match pieces.next(&ahead.reader).await? {
                Ok(piece) => ahead.fetch(piece).await,
                Err(e) => std::future::ready(Err(e)).boxed(),
            };
            Some((fetch, (pieces, ahead)))
        };
        futures::stream::unfold((Pieces::new(content), self.clone()), step)
    }

    /// Whether nobody holds any of the budget.
    #[cfg(test)]
    pub(super) fn is_unused(&self) -> bool {
        self.room.available_permits() == AHEAD
    }

    async fn room(&self, piece: &Piece) -> Room {
        let last = |of: &Self| of.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((place, room)) = last(self)
            && place == piece.place
            && let Some(room) = room.upgrade()
        {
            return room;
        }
        let share = (piece.place.raw_len as usize).max(piece.bytes).min(AHEAD) as u32;
        // The semaphore is never closed.
        let room: Room = Arc::new(self.room.clone().acquire_many_owned(share).await.ok());
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((piece.place, Arc::downgrade(&room)));
        room
    }

    async fn fetch(&self, piece: Piece) -> Fetch {
        let room = self.room(&piece).await;
        if piece.bytes <= SMALL
            && let Some(cut) = self.reader.piece_at_hand(&piece)
        {
            return std::future::ready(cut.map(|bytes| Held { bytes, _room: room })).boxed();
        }
        let reader = self.reader.clone();
        let task = tokio::spawn(async move { Ok(Held { bytes: reader.piece(&piece).await?, _room: room }) });
        let task = AbortOnDropHandle::new(task);
        async move { task.await.unwrap_or(Err(ReadError::Worker)) }.boxed()
    }
}
