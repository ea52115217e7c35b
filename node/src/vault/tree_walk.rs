//! Walks a snapshot's tree, depth first, names in order, chunk by chunk: memory follows the depth, not the size.

use cairn_proto::{
    ChunkId,
    tree::{ContentRef, Node, NodeKind, decode_nodes},
};

use super::reader::{ReadError, Reader};

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

#[derive(Default)]
struct Level {
    chunks: std::vec::IntoIter<ChunkId>,
    nodes: std::vec::IntoIter<Node>,
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
            let (ids, failed) = match self.reader.ids(&content).await {
                Ok(ids) => (ids, None),
                Err(e) => (Vec::new(), Some(e)),
            };
            self.stack.push(Level { chunks: ids.into_iter(), name, ..Level::default() });
            if let Some(e) = failed {
                return Some(TreeStep::Failed(e));
            }
        }
        loop {
            let level = self.stack.last_mut()?;
            if let Some(node) = level.nodes.next() {
                if node.kind != NodeKind::Dir {
                    return Some(TreeStep::Leaf(node));
                }
                self.entered = Some((node.content.clone(), node.name.clone()));
                return Some(TreeStep::Enter(node));
            }
            match level.chunks.next() {
                Some(id) => match nodes_of(self.reader, id).await {
                    Ok(nodes) => level.nodes = nodes.into_iter(),
                    Err(e) => return Some(TreeStep::Failed(e)),
                },
                None => {
                    self.stack.pop();
                    return (!self.stack.is_empty()).then_some(TreeStep::Leave);
                }
            }
        }
    }
}

async fn nodes_of(reader: &Reader, id: ChunkId) -> Result<Vec<Node>, ReadError> {
    let chunk = reader.chunk(id).await?;
    decode_nodes(&chunk).collect::<Result<_, _>>().map_err(|e| ReadError::Damaged(e.to_string()))
}

/// All entries of one folder, in order.
pub(super) async fn folder(reader: &Reader, content: &ContentRef) -> Result<Vec<Node>, ReadError> {
    let mut all = Vec::new();
    for id in reader.ids(content).await? {
        all.extend(nodes_of(reader, id).await?);
    }
    Ok(all)
}

/// The entry at a path below a folder; `None` when there is none. The empty path is the folder itself, as a nameless
/// node.
pub(super) async fn find(reader: &Reader, root: &ContentRef, path: &[u8]) -> Result<Option<Node>, ReadError> {
    let mut here = Node { content: root.clone(), mode: 0o700, ..Node::new(b"root".to_vec(), NodeKind::Dir) };
    for part in path.split(|b| *b == b'/').filter(|p| !p.is_empty() && *p != b".") {
        if here.kind != NodeKind::Dir {
            return Ok(None);
        }
        let mut found = None;
        for id in reader.ids(&here.content).await? {
            found = nodes_of(reader, id).await?.into_iter().find(|n| n.name == part);
            if found.is_some() {
                break;
            }
        }
        let Some(node) = found else { return Ok(None) };
        here = node;
    }
    Ok(Some(here))
}
