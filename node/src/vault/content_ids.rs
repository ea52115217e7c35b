//! The chunk ids of a content, one after the other, however many there are.
//!
//! Memory: one list of each level, [`IDS_HELD_MAX`] ids (1.3 MiB), for a content of any length. Lists are metadata, which
//! the reader keeps apart from data, so that the list that comes next is still there when the data of this one is read.

use super::reader::{ReadError, Reader};
use cairn_proto::{
    ChunkId,
    tree::{ContentRef, INLINE_IDS_MAX, LIST_DEPTH_MAX, LIST_IDS_MAX, Node, decode_list, decode_nodes},
};

/// Most ids that a walk holds: those in the node, and a list of each level.
pub(super) const IDS_HELD_MAX: usize = INLINE_IDS_MAX + LIST_DEPTH_MAX as usize * LIST_IDS_MAX;

/// A walk over the ids of a content.
#[derive(Debug)]
pub(super) struct ContentIds {
    /// Levels below the content's own ids.
    depth: usize,
    /// What is left of the list that is open on each level, the content's own ids first. Never more than `depth + 1`.
    open: Vec<std::vec::IntoIter<ChunkId>>,
}

impl ContentIds {
    /// A walk from the first id on.
    pub(super) fn new(content: &ContentRef) -> Self {
        Self { depth: content.depth.into(), open: vec![content.ids.clone().into_iter()] }
    }

    /// The next id; `None` at the end. After an error the walk is over: what a list had is not known.
    pub(super) async fn next(&mut self, reader: &Reader) -> Option<Result<ChunkId, ReadError>> {
        loop {
            let level = self.open.len().checked_sub(1)?;
            match self.open[level].next() {
                None => {
                    self.open.pop();
                }
                Some(id) if level >= self.depth => return Some(Ok(id)),
                Some(list) => match list_of(reader, list).await {
                    Ok(ids) => {
                        self.open.push(ids.into_iter());
                        debug_assert!(self.held() <= IDS_HELD_MAX, "a list of each level at most");
                    }
                    Err(e) => {
                        self.open.clear();
                        return Some(Err(e));
                    }
                },
            }
        }
    }

    /// Ids held now.
    pub(super) fn held(&self) -> usize {
        self.open.iter().map(|ids| ids.as_slice().len()).sum()
    }
}

async fn list_of(reader: &Reader, id: ChunkId) -> Result<Vec<ChunkId>, ReadError> {
    let list = reader.metadata(id).await?;
    decode_list(&list).map_err(|e| ReadError::Damaged(e.to_string()))
}

/// The entries of a folder, in order, a chunk of them at a time.
#[derive(Debug)]
pub(super) struct FolderNodes {
    ids: ContentIds,
    nodes: std::vec::IntoIter<Node>,
}

impl FolderNodes {
    /// A walk over a folder's content.
    pub(super) fn new(content: &ContentRef) -> Self {
        Self { ids: ContentIds::new(content), nodes: Vec::new().into_iter() }
    }

    /// The next entry; `None` at the end. After an error the walk goes on behind the chunk that could not be read, as far
    /// as it is known what comes there.
    pub(super) async fn next(&mut self, reader: &Reader) -> Option<Result<Node, ReadError>> {
        loop {
            if let Some(node) = self.nodes.next() {
                return Some(Ok(node));
            }
            let read = match self.ids.next(reader).await? {
                Ok(id) => nodes_of(reader, id).await,
                Err(e) => Err(e),
            };
            match read {
                Ok(nodes) => self.nodes = nodes.into_iter(),
                Err(e) => return Some(Err(e)),
            }
        }
    }
}

async fn nodes_of(reader: &Reader, id: ChunkId) -> Result<Vec<Node>, ReadError> {
    let chunk = reader.metadata(id).await?;
    decode_nodes(&chunk).collect::<Result<_, _>>().map_err(|e| ReadError::Damaged(e.to_string()))
}
