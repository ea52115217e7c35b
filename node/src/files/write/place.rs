//! How one entry is placed: the folder it goes into, what is there already, and which way it is made.

use std::{
    ffi::{CStr, CString},
    io,
    path::Path,
    sync::Arc,
};

use cairn_proto::tree::{Node, NodeKind};
use rustix::{
    fs::{AtFlags, FileType, Mode, Stat},
    io::Errno,
};

use super::{
    FileSink, Overwrite, Placed, Restorer, attributes, c_name, links::Link, rename, sink, sweep, temporary_name,
};
use crate::files::{
    dir::{Dir, identity},
    item_error, meta,
};

impl Restorer {
    /// The folder the caller is in, made now if need be, with those above it. `None`: it could not be made, or it is a
    /// dry run and not there.
    pub(super) fn folder(&mut self) -> Option<Arc<Dir>> {
        let mut dir = self.top.clone()?;
        let made = self.stack.iter().rposition(|l| l.dir.is_some());
        if let Some(at) = made {
            dir = self.stack[at].dir.clone()?;
        }
        for at in made.map_or(0, |at| at + 1)..self.stack.len() {
            if self.stack[at].broken {
                return None;
            }
            match self.make_folder(&dir, &self.stack[at].node) {
                Ok(child) => {
                    self.report.folders += 1;
                    self.stack[at].dir = Some(Arc::clone(&child));
                    dir = child;
                }
                Err(e) => {
                    self.stack[at].broken = true;
                    self.shared.disk.heed(&e);
                    if !self.options.dry_run {
                        let path = self.stack[at].path.clone();
                        self.report_error(item_error(&path, "write", e));
                    }
                    return None;
                }
            }
        }
        Some(dir)
    }

    fn make_folder(&self, parent: &Arc<Dir>, node: &Node) -> io::Result<Arc<Dir>> {
        let name = c_name(node)?;
        if self.options.dry_run {
            return parent.open_child(&name);
        }
        match rustix::fs::mkdirat(parent.fd()?, &name, Mode::RWXU) {
            Ok(()) => return parent.open_child(&name),
            Err(Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
        }
        let there = parent.lstat(&name)?;
        if FileType::from_raw_mode(there.st_mode) == FileType::Directory {
            if there.st_mode & 0o700 != 0o700 && there.st_uid == rustix::process::geteuid().as_raw() {
                // Left by an earlier restore perhaps; the snapshot's mode comes back when the folder is left.
                attributes::set_mode(&parent.fd()?, &name, Mode::RWXU)?;
            }
            let dir = parent.open_child(&name)?;
            sweep(&dir);
            return Ok(dir);
        }
        if !self.replaces(node, &there) {
            return Err(io::Error::other("something that is no folder is in the way, and is to be left"));
        }
        rustix::fs::unlinkat(parent.fd()?, &name, AtFlags::empty())?;
        rustix::fs::mkdirat(parent.fd()?, &name, Mode::RWXU)?;
        parent.open_child(&name)
    }

    pub(super) fn finish_folder(&mut self, dir: &Arc<Dir>, node: &Node, path: &Path) {
        let done = dir.fd_once().map_err(|e| vec![e]).and_then(|fd| self.shared.ownership.apply_to_fd(&fd, node));
        for e in done.err().into_iter().flatten() {
            self.report_error(item_error(path, "write", e));
        }
    }

    /// Whether the policy replaces what is there (and is not the same).
    fn replaces(&self, node: &Node, there: &Stat) -> bool {
        match self.options.overwrite {
            Overwrite::Always | Overwrite::IfChanged => true,
            Overwrite::IfNewer => node.mtime > meta::mtime(there),
            Overwrite::Never => false,
        }
    }

    pub(super) fn try_place(&mut self, node: &Node, path: &Path) -> io::Result<Placed> {
        let name = c_name(node)?;
        let Some(dir) = self.folder() else {
            let ours = self.options.dry_run && !self.stack.iter().any(|l| c_name(&l.node).is_err());
            return if ours { Ok(self.would(node)) } else { Ok(Placed::Failed) };
        };
        let there = match dir.lstat(&name) {
            Ok(stat) => Some(stat),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(e),
        };
        if let Some(there) = &there {
            if self.leave_as_is(node, &dir, &name, there)? {
                self.report.left += 1;
                return Ok(Placed::Left);
            }
            if FileType::from_raw_mode(there.st_mode) == FileType::Directory && !self.options.dry_run {
                // Only an empty folder gives way; what is in it is not ours to delete.
                rustix::fs::unlinkat(dir.fd()?, &name, AtFlags::REMOVEDIR)
                    .map_err(|_| io::Error::other("a folder with entries in it is in the way"))?;
            }
        }
        if self.options.dry_run {
            return Ok(self.would(node));
        }
        match node.kind {
            NodeKind::File => self.place_file(node, path, dir, name, there.is_some()),
            NodeKind::Dir => Err(io::Error::other("a folder where an entry should be")),
            _ => {
                if let Some(link) = self.further_name(node, path, &dir, &name) {
                    return self.place_link(link);
                }
                let temporary = temporary_name()?;
                attributes::make_other(&dir, &temporary, node)?;
                let result = self.shared.ownership.apply_to_name(&dir, &temporary, node);
                rename(&dir, &temporary, &name)?;
                self.shared.links.stands(node, &dir, &name);
                self.report.others += 1;
                for e in result.err().into_iter().flatten() {
                    self.report_error(item_error(path, "write", e));
                }
                Ok(Placed::Done)
            }
        }
    }

    fn would(&mut self, node: &Node) -> Placed {
        let bytes = sink::data_len(node).unwrap_or(0);
        match node.kind {
            NodeKind::File => self.report.files += 1,
            _ => self.report.others += 1,
        }
        self.report.bytes += bytes;
        Placed::Would(bytes)
    }

    /// Whether the entry that is there stays; sets its attributes when it is the same as the snapshot's.
    fn leave_as_is(&mut self, node: &Node, dir: &Arc<Dir>, name: &CStr, there: &Stat) -> io::Result<bool> {
        let same_kind = meta::kind(there) == Some(node.kind);
        if self.options.overwrite == Overwrite::IfChanged && same_kind {
            let same = match node.kind {
                NodeKind::File => size(there) == node.size && meta::mtime(there) == node.mtime,
                NodeKind::Symlink => {
                    rustix::fs::readlinkat(dir.fd()?, name, Vec::new())?.to_bytes() == node.link_target
                }
                NodeKind::CharDevice | NodeKind::BlockDevice => rdev(there) == node.rdev,
                _ => true,
            };
            // A further name of a file must be the very inode of its first.
            let first = self.shared.links.first_inode(node);
            if !same || first.is_some_and(|first| first != identity(there)) {
                return Ok(false);
            }
            if !self.options.dry_run {
                let done = self.shared.ownership.apply_to_name(dir, name, node);
                let path = self.path_of(node);
                for e in done.err().into_iter().flatten() {
                    self.report_error(item_error(&path, "write", e));
                }
                self.shared.links.stands(node, dir, name);
            }
            return Ok(true);
        }
        Ok(!self.replaces(node, there))
    }

    fn place_file(
        &mut self,
        node: &Node,
        path: &Path,
        dir: Arc<Dir>,
        name: CString,
        replaces: bool,
    ) -> io::Result<Placed> {
        if let Some(link) = self.further_name(node, path, &dir, &name) {
            return self.place_link(link);
        }
        let data = sink::data_len(node)?;
        // What replaces a file must be on the disk before the old one goes, or a power cut leaves neither.
        let sync = replaces && !self.options.no_sync;
        let sink = FileSink::create(Arc::clone(&self.shared), dir, name, node.clone(), path.to_owned(), sync)?;
        self.shared.links.comes(node);
        if data > 0 {
            return Ok(Placed::Content(Box::new(sink)));
        }
        match sink.finish() {
            Ok(warnings) => {
                for e in warnings {
                    self.report_error(e);
                }
                Ok(Placed::Done)
            }
            Err(e) => {
                self.report_error(e);
                Ok(Placed::Failed)
            }
        }
    }

    /// `Some` when another name of the same inode stands or is on its way.
    fn further_name(&self, node: &Node, path: &Path, dir: &Arc<Dir>, name: &CStr) -> Option<Link> {
        let key = node.hardlink?;
        let known = self.shared.links.knows(node);
        known.then(|| Link { key, dir: Arc::clone(dir), name: name.to_owned(), path: path.to_owned() })
    }

    fn place_link(&mut self, link: Link) -> io::Result<Placed> {
        if self.shared.links.first(link.key).is_none() {
            // The first name's content is still being written.
            self.shared.links.wait(link);
            return Ok(Placed::Done);
        }
        self.link(&link)?;
        self.report.links += 1;
        Ok(Placed::Done)
    }

    pub(super) fn link(&self, link: &Link) -> io::Result<()> {
        let (first_dir, first_name) = self
            .shared
            .links
            .first(link.key)
            .ok_or_else(|| io::Error::other("another name of the same file could not be restored"))?;
        let temporary = temporary_name()?;
        let at = link.dir.fd_once()?;
        rustix::fs::linkat(first_dir.fd_once()?, &first_name, &at, &temporary, AtFlags::empty())?;
        let renamed = rename(&link.dir, &temporary, &link.name);
        // When both names are one inode already, rename does nothing and leaves the temporary one.
        let _ = rustix::fs::unlinkat(&at, &temporary, AtFlags::empty());
        if renamed.is_ok() {
            self.shared.links.count_down(link.key);
        }
        renamed
    }
}

#[allow(clippy::unnecessary_cast, reason = "the field types differ between platforms")]
fn size(stat: &Stat) -> u64 {
    stat.st_size as u64
}

#[allow(clippy::unnecessary_cast, reason = "the field types differ between platforms")]
fn rdev(stat: &Stat) -> u64 {
    stat.st_rdev as u64
}
