//! How the catalogue notices that it is not what it was: sums over its rows, and a mark beside its folder.
//!
//! sled checks what it reads, but not that all is there. A log that is cut, or damaged where a crash made sled read it anew,
//! opens without a word as it was some time ago, or without a few rows in the middle; and a folder may be an old copy. A
//! backup that believed such a catalogue would publish a manifest without groups and snapshots, or leave out chunks that
//! no published index names. Hence:
//!
//! - [`Sums`]: a sum over the hashes of all rows that decisions rest on, changed in the same batch as the rows. Rows that are
//!   missing, or are as they were once, do not add up. The few rows are added up whenever the catalogue is opened; the many
//!   (runs, stripes) before a backup and a check.
//! - [`Mark`]: a file beside the folder that says how far the catalogue had come when it was last made durable. One that has
//!   not come as far has lost its end, or is an old copy.
//!
//! Files that were read before (a row lost costs one more reading) and receipts (evidence for stewards; one that
//! is lost costs a holder's word for a shard) are not in the sums.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs, io,
    io::Write as _,
    path::{Path, PathBuf},
};

use super::{
    CatalogueError, Meta, Result,
    layout::{FILE, META, PENDING_RUN, PENDING_STRIPE, RECEIPT, RUN, STRIPE},
};

/// Rows that change together, by key; `None` removes.
#[derive(Debug, Default)]
pub(super) struct Change {
    rows: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl Change {
    /// Sets a row; its checksum comes behind the value.
    pub(super) fn put(&mut self, key: &[u8], mut value: Vec<u8>) {
        let sum = crc32c::crc32c_append(crc32c::crc32c(key), &value);
        value.extend_from_slice(&sum.to_le_bytes());
        self.rows.insert(key.to_vec(), Some(value));
    }

    /// Removes a row.
    pub(super) fn remove(&mut self, key: impl Into<Vec<u8>>) {
        self.rows.insert(key.into(), None);
    }

    /// Keys of the rows that it sets to this many bytes or more.
    pub(super) fn rows_from(&self, size: usize) -> Vec<Vec<u8>> {
        let large = self.rows.iter().filter(|(_, value)| value.as_ref().is_some_and(|value| value.len() >= size));
        large.map(|(key, _)| key.clone()).collect()
    }

    /// As sled takes it; `sums` comes out as it is when the change is done.
    pub(super) fn batch(mut self, tree: &sled::Tree, sums: &mut Sums) -> Result<sled::Batch> {
        let before = *sums;
        for (key, value) in &self.rows {
            if class_of(key).is_some() {
                let old = tree.get(key)?;
                sums.change(key, old.as_deref(), value.as_deref());
            }
        }
        if *sums != before {
            self.put(&[META, Meta::Sums as u8], sums.encode());
        }
        let mut batch = sled::Batch::default();
        for (key, value) in self.rows {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        Ok(batch)
    }
}

/// Which sum a row counts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// As many as there are groups and snapshots.
    Few = 0,
    /// As many as there are rows of runs and stripes.
    Many = 1,
}

/// Prefixes of the rows of which there are many.
pub(super) const MANY: [u8; 4] = [RUN, STRIPE, PENDING_STRIPE, PENDING_RUN];

fn class_of(key: &[u8]) -> Option<Class> {
    match *key.first()? {
        FILE | RECEIPT => None,
        META if [Meta::Sums as u8, Meta::Serial as u8].contains(key.get(1)?) => None,
        prefix if MANY.contains(&prefix) => Some(Class::Many),
        _ => Some(Class::Few),
    }
}

/// Sums of the hashes of rows, by class. Addition, so that the order does not count and a row can be taken out again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums([u128; 2]);

impl Sums {
    pub(super) fn of(self, class: Class) -> u128 {
        self.0[class as usize]
    }

    /// Counts a row as it lies in the tree.
    pub(super) fn add(&mut self, key: &[u8], value: &[u8]) {
        self.change(key, None, Some(value));
    }

    fn change(&mut self, key: &[u8], old: Option<&[u8]>, new: Option<&[u8]>) {
        let Some(class) = class_of(key) else { return };
        let sum = &mut self.0[class as usize];
        *sum = sum.wrapping_sub(old.map_or(0, |v| hash(key, v))).wrapping_add(new.map_or(0, |v| hash(key, v)));
    }

    fn encode(self) -> Vec<u8> {
        self.0.iter().flat_map(|sum| sum.to_le_bytes()).collect()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        let (sums, rest) = bytes.as_chunks::<16>();
        match (sums, rest) {
            ([few, many], []) => Ok(Self([u128::from_le_bytes(*few), u128::from_le_bytes(*many)])),
            _ => Err(CatalogueError::Damaged("its sums do not decode")),
        }
    }
}

fn hash(key: &[u8], value: &[u8]) -> u128 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(key.len() as u64).to_le_bytes()).update(key).update(value);
    let mut out = [0; 16];
    out.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    u128::from_le_bytes(out)
}

const MAGIC: &[u8; 8] = b"CAIRNCM1";
const SIZE: usize = 8 + 16 + 8 + 4 + 8 + 4;

/// How far a catalogue had come when it was last made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::vault) struct Mark {
    /// Which catalogue: drawn when it is made.
    pub(super) instance: [u8; 16],
    /// Counts up with each [`super::Catalogue::flush`].
    pub(super) serial: u64,
    /// Generation of the newest head that was signed here.
    pub(in crate::vault) generation: u32,
    /// Its sequence.
    pub(in crate::vault) sequence: u64,
}

impl Mark {
    /// The file that belongs to a catalogue's folder: `catalogue.mark` beside `catalogue`.
    pub(in crate::vault) fn path(dir: &Path) -> PathBuf {
        let mut name = OsString::from(dir);
        name.push(".mark");
        name.into()
    }

    /// `None` when there is none.
    pub(in crate::vault) fn read(dir: &Path) -> Result<Option<Self>> {
        let bytes = match fs::read(Self::path(dir)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|e| CatalogueError::Database(e.to_string().into()))?,
        };
        let bad = CatalogueError::Damaged("its mark does not decode");
        let body = bytes.strip_suffix(&crc32c::crc32c(&bytes[..bytes.len().saturating_sub(4)]).to_le_bytes()[..]);
        let body = body.filter(|b| b.len() == SIZE - 4 && b.starts_with(MAGIC)).ok_or(bad)?;
        let array = |at: usize| {
            let mut out = [0; 8];
            out.copy_from_slice(&body[at..at + 8]);
            u64::from_le_bytes(out)
        };
        let mut instance = [0; 16];
        instance.copy_from_slice(&body[8..24]);
        Ok(Some(Self { instance, serial: array(24), generation: (array(28) >> 32) as u32, sequence: array(36) }))
    }

    /// Replaces the file, durably.
    pub(super) fn write(&self, dir: &Path) -> Result<()> {
        let mut bytes = Vec::with_capacity(SIZE);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&self.instance);
        bytes.extend_from_slice(&self.serial.to_le_bytes());
        bytes.extend_from_slice(&self.generation.to_le_bytes());
        bytes.extend_from_slice(&self.sequence.to_le_bytes());
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        let (path, temporary) = (Self::path(dir), Self::path(dir).with_extension("mark.tmp"));
        let write = || {
            let mut file = fs::File::create(&temporary)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            path.parent().map_or(Ok(()), |parent| fs::File::open(parent)?.sync_all())
        };
        write().map_err(|e: io::Error| CatalogueError::Database(e.to_string().into()))
    }
}
