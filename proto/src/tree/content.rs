//! How a content of any length is listed: its chunk ids, or the ids of lists of them, up to four levels deep.

use crate::{
    ChunkId, DecodeError,
    layout::{Reader, at_most, put_number},
};

/// Most ids that stand in a node or a snapshot record itself.
pub const INLINE_IDS_MAX: usize = 256;
/// Most ids in one list chunk: 256 KiB.
pub const LIST_IDS_MAX: usize = 8192;
/// Fewest ids in a list chunk that has a successor.
const LIST_IDS_MIN: usize = 1024;
/// One id in this many ends a list: lists have about 4,000 ids, and an insertion changes one or two lists.
const LIST_CUT: u16 = 4096;
/// Most levels of lists: 256 x 1024^4 chunks at least.
pub const LIST_DEPTH_MAX: u8 = 4;

const WHAT: &str = "content";

/// Where a content is. Depth 0: the ids of its chunks in order. Depth d: ids of list chunks, each the concatenation
/// of 32-byte ids of depth d - 1.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ContentRef {
    /// Levels of lists between `ids` and the content's chunks, at most [`LIST_DEPTH_MAX`].
    pub depth: u8,
    /// At most [`INLINE_IDS_MAX`] ids.
    pub ids: Vec<ChunkId>,
}

impl ContentRef {
    /// No bytes at all.
    #[must_use]
    pub const fn empty() -> Self {
        Self { depth: 0, ids: Vec::new() }
    }

    pub(crate) fn check(&self) -> Result<(), DecodeError> {
        at_most("content depth", LIST_DEPTH_MAX.into(), self.depth.into())?;
        at_most("content ids", INLINE_IDS_MAX, self.ids.len())?;
        if self.depth > 0 && self.ids.is_empty() {
            return Err(DecodeError::Invalid { what: WHAT, why: "levels of lists without a list" });
        }
        Ok(())
    }

    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        out.push(self.depth);
        put_number(out, self.ids.len() as u64);
        for id in &self.ids {
            out.extend_from_slice(id.as_bytes());
        }
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let depth = r.byte()?;
        let count = r.count(INLINE_IDS_MAX, 32)?;
        let mut ids = Vec::with_capacity(count);
        for _ in 0..count {
            ids.push(ChunkId::from_bytes(r.array()?));
        }
        let content = Self { depth, ids };
        content.check()?;
        Ok(content)
    }
}

/// Reads a list chunk.
///
/// # Errors
/// Empty, over [`LIST_IDS_MAX`] ids, or not a whole number of ids.
pub fn decode_list(bytes: &[u8]) -> Result<Vec<ChunkId>, DecodeError> {
    at_most("list chunk", LIST_IDS_MAX * 32, bytes.len())?;
    if bytes.is_empty() || !bytes.len().is_multiple_of(32) {
        return Err(DecodeError::Invalid { what: "list chunk", why: "empty, or not a whole number of ids" });
    }
    bytes.chunks_exact(32).map(ChunkId::from_slice).collect()
}

/// Collects the chunk ids of one content and writes list chunks when they get too many.
///
/// Memory: at most 5 x [`LIST_IDS_MAX`] ids, whatever the size of the content.
#[derive(Debug, Default)]
pub struct ListBuilder {
    levels: Vec<Vec<ChunkId>>,
}

impl ListBuilder {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next chunk's id. `keep` is given each list chunk's bytes that is complete; it must see to it that
    /// the bytes are stored as a metadata chunk and return that chunk's id.
    ///
    /// # Errors
    /// What `keep` returned, or a content beyond [`LIST_DEPTH_MAX`] levels.
    pub fn push<E: From<DecodeError>>(
        &mut self,
        id: ChunkId,
        keep: &mut impl FnMut(Vec<u8>) -> Result<ChunkId, E>,
    ) -> Result<(), E> {
        self.push_at(0, id, keep)
    }

    fn push_at<E: From<DecodeError>>(
        &mut self,
        level: usize,
        id: ChunkId,
        keep: &mut impl FnMut(Vec<u8>) -> Result<ChunkId, E>,
    ) -> Result<(), E> {
        at_most("content depth", LIST_DEPTH_MAX.into(), level)?;
        if self.levels.len() <= level {
            self.levels.push(Vec::new());
        }
        let ids = &mut self.levels[level];
        ids.push(id);
        let bytes = id.as_bytes();
        let cut = u16::from_le_bytes([bytes[0], bytes[1]]).is_multiple_of(LIST_CUT) && ids.len() >= LIST_IDS_MIN;
        if cut || ids.len() == LIST_IDS_MAX {
            self.flush(level, keep)?;
        }
        Ok(())
    }

    fn flush<E: From<DecodeError>>(
        &mut self,
        level: usize,
        keep: &mut impl FnMut(Vec<u8>) -> Result<ChunkId, E>,
    ) -> Result<(), E> {
        let ids = std::mem::take(&mut self.levels[level]);
        let list = ids.iter().flat_map(|id| *id.as_bytes()).collect();
        let id = keep(list)?;
        self.push_at(level + 1, id, keep)
    }

    /// Ends the content.
    ///
    /// # Errors
    /// As [`ListBuilder::push`].
    pub fn finish<E: From<DecodeError>>(
        mut self,
        keep: &mut impl FnMut(Vec<u8>) -> Result<ChunkId, E>,
    ) -> Result<ContentRef, E> {
        let mut level = 0;
        while level < self.levels.len() {
            let top = level + 1 == self.levels.len();
            if top && self.levels[level].len() <= INLINE_IDS_MAX {
                let ids = std::mem::take(&mut self.levels[level]);
                return Ok(ContentRef { depth: level as u8, ids });
            }
            if !self.levels[level].is_empty() {
                self.flush(level, keep)?;
            }
            level += 1;
        }
        Ok(ContentRef::empty())
    }
}
