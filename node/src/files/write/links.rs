//! Names of one inode: the first gets the content, the others are linked to it.
//!
//! Kept for each inode until all names that it had at the source were placed; an inode with names outside the snapshot
//! stays until the end (about 200 bytes each).

use std::{
    collections::HashMap,
    ffi::{CStr, CString},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use cairn_proto::tree::{Node, NodeKind};

use crate::files::dir::{Dir, identity};

/// A further name to be made.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) key: u64,
    pub(super) dir: Arc<Dir>,
    pub(super) name: CString,
    pub(super) path: PathBuf,
}

#[derive(Debug, Default)]
pub(super) struct Links {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    known: HashMap<u64, Known>,
    waiting: Vec<Link>,
}

#[derive(Debug)]
struct Known {
    same: [u8; 32],
    missing: u64,
    /// Links to it that are made at the end. The source may have got names after its count was taken, so the count alone
    /// does not tell when the last one was placed.
    waiting: u64,
    /// `None`: its content is being written.
    first: Option<First>,
}

#[derive(Debug)]
struct First {
    dir: Arc<Dir>,
    name: CString,
    inode: (u64, u64),
}

/// What must be equal beside the key. Keys come from the network, and one key on two contents must not merge them.
fn fingerprint(node: &Node) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[node.kind as u8, u8::from(node.kind == NodeKind::File)]);
    for number in [node.size, node.rdev, node.holes.len() as u64, node.content.ids.len() as u64] {
        hasher.update(&number.to_le_bytes());
    }
    for id in &node.content.ids {
        hasher.update(id.as_bytes());
    }
    hasher.update(&node.link_target);
    *hasher.finalize().as_bytes()
}

impl Links {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first name's content is being written.
    pub(super) fn comes(&self, node: &Node) {
        if let Some(key) = node.hardlink {
            let known =
                Known { same: fingerprint(node), missing: node.links.saturating_sub(1), waiting: 0, first: None };
            self.state().known.entry(key).or_insert(known);
        }
    }

    /// The content could not be written: the next name is to try.
    pub(super) fn failed(&self, node: &Node) {
        let Some(key) = node.hardlink else { return };
        let mut state = self.state();
        if state.known.get(&key).is_some_and(|known| known.first.is_none() && known.same == fingerprint(node)) {
            state.known.remove(&key);
        }
    }

    /// A name stands.
    pub(super) fn stands(&self, node: &Node, dir: &Arc<Dir>, name: &CStr) {
        let Some(key) = node.hardlink else { return };
        let Ok(stat) =
            dir.fd_once().and_then(|fd| Ok(rustix::fs::statat(fd, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?))
        else {
            return;
        };
        let same = fingerprint(node);
        let mut state = self.state();
        let known = state.known.entry(key).or_insert(Known {
            same,
            missing: node.links.saturating_sub(1),
            waiting: 0,
            first: None,
        });
        if known.same != same {
            return;
        }
        if known.first.is_none() {
            let first = First { dir: Arc::clone(dir), name: name.to_owned(), inode: identity(&stat) };
            known.first = Some(first);
        } else {
            drop(state);
            self.count_down(key);
        }
    }

    /// One more name of the inode was made or found. After the last one it is forgotten.
    pub(super) fn count_down(&self, key: u64) {
        let mut state = self.state();
        if let Some(known) = state.known.get_mut(&key) {
            known.missing = known.missing.saturating_sub(1);
            if known.missing == 0 && known.waiting == 0 {
                state.known.remove(&key);
            }
        }
    }

    /// Whether another name of this inode stands or is on its way.
    pub(super) fn knows(&self, node: &Node) -> bool {
        let Some(key) = node.hardlink else { return false };
        self.state().known.get(&key).is_some_and(|known| known.same == fingerprint(node))
    }

    /// Where the first name stands.
    pub(super) fn first(&self, key: u64) -> Option<(Arc<Dir>, CString)> {
        let state = self.state();
        let first = state.known.get(&key)?.first.as_ref()?;
        Some((Arc::clone(&first.dir), first.name.clone()))
    }

    /// The inode that the first name has here.
    pub(super) fn first_inode(&self, node: &Node) -> Option<(u64, u64)> {
        let state = self.state();
        let known = state.known.get(&node.hardlink?)?;
        (known.same == fingerprint(node)).then_some(known.first.as_ref()?.inode)
    }

    /// Makes the link at the end.
    pub(super) fn wait(&self, link: Link) {
        let mut state = self.state();
        if let Some(known) = state.known.get_mut(&link.key) {
            known.waiting += 1;
        }
        state.waiting.push(link);
    }

    /// The links that waited.
    pub(super) fn take_waiting(&self) -> Vec<Link> {
        std::mem::take(&mut self.state().waiting)
    }
}
