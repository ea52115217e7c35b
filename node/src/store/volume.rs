//! Tells this node's store from an empty mount point or somebody else's disk.
//!
//! The store's folder holds a random volume id, and the data folder remembers it beside (`store-volume`). A store that
//! is missing or different is refused: starting afresh would look, to everyone, like the loss of all shards, and
//! the ledger (SEP-1) would be forgotten. The id also keys the log's record checks, so it stays readable by
//! this user alone (0600).

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{StoreError, disk::write_whole};

/// Where the data folder remembers the id of the store in `dir`.
pub(super) fn memory_of(dir: &Path) -> PathBuf {
    let mut name = dir.file_name().unwrap_or("store".as_ref()).to_os_string();
    name.push("-volume");
    dir.with_file_name(name)
}

/// The volume id, made when this data folder never had a store and the folder holds no segments.
pub(super) fn identify(dir: &Path, has_segments: bool) -> Result<[u8; 32], StoreError> {
    let io = StoreError::io("reading the volume id");
    let (inside, beside) = (dir.join("volume"), memory_of(dir));
    let wrong = |why| StoreError::WrongVolume { dir: dir.to_owned(), why };
    match (read(&inside).map_err(&io)?, read(&beside).map_err(&io)?) {
        (Content::Id(a), Content::Id(b)) if a == b => Ok(a),
        (Content::Id(_), Content::Id(_)) => Err(wrong("it has another volume id")),
        (Content::Nothing, Content::Id(_)) => Err(wrong("its volume id is missing: is the disk mounted?")),
        (Content::Junk, _) | (_, Content::Junk) => Err(wrong("a volume id file is damaged; the two should be equal")),
        (Content::Nothing, Content::Nothing) if has_segments => Err(wrong("it has segments but no volume id")),
        // A crash between the two writes below, or a store that moved to a new data folder with its disk.
        (Content::Id(id), Content::Nothing) => write(&beside, &id),
        (Content::Nothing, Content::Nothing) => {
            let mut id = [0; 32];
            getrandom::fill(&mut id).map_err(|e| io(io::Error::other(e)))?;
            write(&inside, &id)?;
            write(&beside, &id)
        }
    }
}

enum Content {
    Nothing,
    Junk,
    Id([u8; 32]),
}

fn read(path: &Path) -> io::Result<Content> {
    match fs::read(path) {
        Ok(bytes) => Ok(<[u8; 32]>::try_from(bytes).map_or(Content::Junk, Content::Id)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Content::Nothing),
        Err(e) => Err(e),
    }
}

fn write(path: &Path, id: &[u8; 32]) -> Result<[u8; 32], StoreError> {
    write_whole(path, id).map_err(StoreError::io("writing the volume id"))?;
    Ok(*id)
}
