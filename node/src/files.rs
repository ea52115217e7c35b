//! Files as sources and as targets: walking, reading, restoring, comparing. Blocking calls throughout, meant for blocking
//! threads; nothing here knows of chunks, keys or peers.
//!
//! | part | does |
//! |---|---|
//! | [`walk`] | lists what is to be backed up, in the order of the snapshot's trees |
//! | [`meta`] | turns what the kernel says about an entry into a [`Node`](cairn_proto::tree::Node) |
//! | [`read`] | reads a file's data extents, noticing that it changes meanwhile |
//! | [`mod@write`] | restores entries below a target folder and nowhere else |
//! | [`filter`] | what patterns mean |
//! | [`command`] | a command's output as a stream that fails when the command fails |
//! | [`compare`] | says how two folders differ, byte for byte and in metadata |
//! | [`dir`] | directories by descriptor, for paths of any depth |
//!
//! # Invariants
//!
//! - **FILE-1** No symlink is followed below a starting folder (see [`dir`]).
//! - **FILE-2** Nothing is written outside the target of a restore (see [`mod@write`]).
//! - **FILE-3** An existing file is never half overwritten (see [`mod@write`]).
//! - **FILE-4** A source that could not be read, or changed while it was read, is always reported (see [`walk`], [`read`]).

pub mod command;
pub mod compare;
pub mod dir;
pub mod filter;
pub mod meta;
pub mod read;
pub mod walk;
pub mod write;

#[cfg(test)]
mod tests;

use std::path::Path;

use crate::ops::ItemError;

/// An item error about a path.
pub(crate) fn item_error(path: &Path, during: &str, message: impl std::fmt::Display) -> ItemError {
    ItemError { item: path.to_string_lossy().into_owned(), during: during.to_owned(), message: message.to_string() }
}
