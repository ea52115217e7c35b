//! Walks a snapshot's tree, depth first, names in order, chunk by chunk. Memory follows the depth, not the size: a chunk
//! of entries and the ids of one list of each level for every folder that is open.

use cairn_proto::tree::{ContentRef, Node, NodeKind};

use super::{
    content_ids::FolderNodes,
    reader::{ReadError, Reader},
};

/// What comes next.
#[derive(Clone, Debug)]
pub(super) enum TreeStep {
    /// A folder; its entries come next, then [`TreeStep::Leave`].
    Enter(Node),
    /// The folder entered last and not left yet ends.
    Leave,
    /// Anything else.
    Leaf(Node),
    /// A folder's content, or a part of it, cannot be read; the walk goes on behind it.
    Failed(ReadError),
}

struct Level {
    nodes: FolderNodes,
    name: Vec<u8>,
}

/// A walk under way.
pub(super) struct TreeWalk<'a> {
    reader: &'a Reader,
    stack: Vec<Level>,
    /// Content of the folder that was just entered: opened at the next step, so that it can be skipped.
    entered: Option<(ContentRef, Vec<u8>)>,
}

impl<'a> TreeWalk<'a> {
    /// A walk over a folder's content.
    pub(super) const fn new(reader: &'a Reader, root: ContentRef) -> Self {
        Self { reader, stack: Vec::new(), entered: Some((root, Vec::new())) }
    }

    /// Path of the last step's entry, from the root of the walk on, beginning with a slash.
    pub(super) fn path_of(&self, name: &[u8]) -> Vec<u8> {
        let mut path = Vec::new();
        for level in self.stack.iter().skip(1) {
            path.push(b'/');
            path.extend_from_slice(&level.name);
        }
        path.push(b'/');
        path.extend_from_slice(name);
        path
    }

    /// Do not go into the folder that the last step entered; no [`TreeStep::Leave`] comes for it.
    pub(super) fn skip(&mut self) {
        self.entered = None;
    }

    /// The next step; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<TreeStep> {
        if let Some((content, name)) = self.entered.take() {
            self.stack.push(Level { nodes: FolderNodes::new(&content), name });
        }
        match self.stack.last_mut()?.nodes.next(self.reader).await {
            Some(Ok(node)) if node.kind == NodeKind::Dir => {
                self.entered = Some((node.content.clone(), node.name.clone()));
                Some(TreeStep::Enter(node))
            }
            Some(Ok(node)) => Some(TreeStep::Leaf(node)),
            Some(Err(e)) => Some(TreeStep::Failed(e)),
            None => {
                self.stack.pop();
                (!self.stack.is_empty()).then_some(TreeStep::Leave)
            }
        }
    }
}

/// The entry at a path below a folder; `None` when there is none. The empty path is the folder itself, as a nameless
/// node.
pub(super) async fn find(reader: &Reader, root: &ContentRef, path: &[u8]) -> Result<Option<Node>, ReadError> {
    let mut here = Node { content: root.clone(), mode: 0o700, ..Node::new(b"root".to_vec(), NodeKind::Dir) };
    for part in path.split(|b| *b == b'/').filter(|p| !p.is_empty() && *p != b".") {
        if here.kind != NodeKind::Dir {
            return Ok(None);
        }
        let mut nodes = FolderNodes::new(&here.content);
        let found = loop {
            match nodes.next(reader).await.transpose()? {
                // Entries stand in the order of their names.
                Some(node) if node.name.as_slice() < part => {}
                Some(node) if node.name == part => break Some(node),
                _ => break None,
            }
        };
        let Some(node) = found else { return Ok(None) };
        here = node;
    }
    Ok(Some(here))
}
