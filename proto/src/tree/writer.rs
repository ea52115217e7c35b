//! Nodes to metadata chunks and back.

use super::{NODE_MAX, Node};
use crate::{
    DecodeError,
    layout::{Reader, put_bytes},
};

/// Most bytes of a tree chunk, unless it is a single larger node.
pub const TREE_CHUNK_MAX: usize = 512 * 1024;
/// Fewest bytes of a tree chunk that has a successor.
const TREE_CHUNK_MIN: usize = 16 * 1024;
/// Mean bytes between cuts: a node ends its chunk with a probability of its size over this.
const TREE_CHUNK_CUT: u64 = 64 * 1024;

/// Writes one folder's nodes, in the order of their names, into metadata chunks.
///
/// Memory: one chunk and one node.
#[derive(Debug, Default)]
pub struct TreeWriter {
    chunk: Vec<u8>,
    last: Option<Vec<u8>>,
    cut: bool,
}

impl TreeWriter {
    /// An empty folder.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a node; returns a chunk when one is complete.
    ///
    /// # Errors
    /// The node breaks a rule, or its name does not come after the one before.
    pub fn push(&mut self, node: &Node) -> Result<Option<Vec<u8>>, DecodeError> {
        if self.last.as_ref().is_some_and(|last| *last >= node.name) {
            return Err(DecodeError::Invalid { what: "tree", why: "names are not in ascending order" });
        }
        let encoded = node.encode()?;
        let full = self.cut || self.chunk.len() + encoded.len() > TREE_CHUNK_MAX;
        let done = (full && !self.chunk.is_empty()).then(|| std::mem::take(&mut self.chunk));
        put_bytes(&mut self.chunk, &encoded);
        let mut drawn = [0u8; 8];
        drawn.copy_from_slice(&blake3::hash(&node.name).as_bytes()[..8]);
        let drawn = u64::from_le_bytes(drawn) % TREE_CHUNK_CUT;
        self.cut = self.chunk.len() >= TREE_CHUNK_MIN && drawn < encoded.len() as u64;
        self.last = Some(node.name.clone());
        Ok(done)
    }

    /// The last chunk; `None` for an empty folder.
    #[must_use]
    pub fn finish(self) -> Option<Vec<u8>> {
        (!self.chunk.is_empty()).then_some(self.chunk)
    }
}

/// The nodes of one tree chunk. Ends after the first error.
#[must_use]
pub fn decode_nodes(chunk: &[u8]) -> NodeIter<'_> {
    NodeIter { left: Reader::new("tree", chunk), last: None, failed: false }
}

/// Iterator of [`decode_nodes`].
#[derive(Clone, Debug)]
pub struct NodeIter<'a> {
    left: Reader<'a>,
    last: Option<Vec<u8>>,
    failed: bool,
}

impl NodeIter<'_> {
    fn read(&mut self) -> Result<Node, DecodeError> {
        let node = Node::decode(self.left.bytes(NODE_MAX)?)?;
        if self.last.as_ref().is_some_and(|last| *last >= node.name) {
            return Err(self.left.invalid("names are not in ascending order"));
        }
        self.last = Some(node.name.clone());
        Ok(node)
    }
}

impl Iterator for NodeIter<'_> {
    type Item = Result<Node, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.left.is_empty() {
            return None;
        }
        let node = self.read();
        self.failed = node.is_err();
        Some(node)
    }
}
