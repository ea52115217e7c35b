//! The index in sled: a cache of the log, so that a start need not scan it.
//!
//! One batch for many commits ([`super::StoreConfig::index_behind`]) writes the changed rows, the place in the log up to which they are right, and a digest over all
//! rows. On load the digest must fit, or the rows are not used and the log is scanned: sled may lose, tear or
//! mangle anything, or panic, and cost no more than time. Values are small (at most a head record): sled 0.34 never
//! syncs values over 128 KiB.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use cairn_proto::{GroupId, ShardRoot, Slot, Timestamp, VaultKey, record::KeptHead};

use crate::sled_folder;

use super::index::{Entry, Group, HeadEntry, Index, Place, Row, Stage};

/// sled's default cache is 1 GiB; the index is in memory anyway.
const CACHE_BYTES: u64 = 16 << 20;
const CHECKPOINT: &[u8] = b"checkpoint";
const NONE: u32 = u32::MAX;

pub(super) struct Database {
    db: sled::Db,
    digest: [u8; 16],
}

/// The rows of a database that fits together.
pub(super) struct Loaded {
    pub(super) groups: BTreeMap<GroupId, Group>,
    pub(super) heads: BTreeMap<VaultKey, HeadEntry>,
    /// The log is known up to here.
    pub(super) up_to: Place,
}

impl Database {
    /// Opens the folder. One that cannot be opened is set aside under `.damaged` and made anew.
    pub(super) fn open(folder: &Path) -> Option<Self> {
        match open_sled(folder) {
            Ok(db) => Some(Self { db, digest: [0; 16] }),
            Err(reason) => {
                let aside: PathBuf = folder.with_extension("damaged");
                tracing::warn!(%reason, "the store's index cannot be opened and is set aside; the log is scanned");
                // One that was set aside before is worth nothing: the log has everything.
                let _ = std::fs::remove_dir_all(&aside);
                std::fs::rename(folder, &aside).ok()?;
                open_sled(folder).ok().map(|db| Self { db, digest: [0; 16] })
            }
        }
    }

    /// Reads all rows; `None` when they do not fit together.
    pub(super) fn load(&mut self) -> Option<Loaded> {
        let loaded = catch_unwind(AssertUnwindSafe(|| self.read_all())).ok()??;
        self.digest = loaded.1;
        Some(loaded.0)
    }

    fn read_all(&self) -> Option<(Loaded, [u8; 16])> {
        let mut groups: BTreeMap<GroupId, Group> = BTreeMap::new();
        let (mut heads, mut checkpoint, mut digest) = (BTreeMap::new(), None, [0; 16]);
        for row in self.db.iter() {
            let (key, value) = row.ok()?;
            if key == CHECKPOINT {
                checkpoint = Some(value);
                continue;
            }
            fold(&mut digest, &key, &value);
            let mut r = Fields(&value);
            // A group's row sorts before its shards' rows.
            match (key.first()?, key.len()) {
                (b'g', 33) => {
                    let (slot, segment) = (Slot::new(r.byte()?).ok()?, r.u32()?);
                    let ledger_segment = (segment != NONE).then_some(segment);
                    groups.insert(group_of(&key)?, Group { slot, ledger_segment, shards: BTreeMap::new() });
                }
                (b'g', 34) => {
                    groups.get_mut(&group_of(&key)?)?.shards.insert(key[33], decode_entry(&mut r)?);
                }
                (b'h', 33) => {
                    let (segment, generation, sequence) = (r.u32()?, r.u32()?, r.u64()?);
                    let vault = VaultKey::from_slice(&key[1..]).ok()?;
                    let kept = KeptHead { vault, generation, sequence, bytes: r.0.to_vec() };
                    heads.insert(vault, HeadEntry { kept, segment });
                }
                _ => return None,
            }
        }
        let checkpoint = checkpoint?;
        let mut r = Fields(&checkpoint);
        let up_to = Place { segment: r.u32()?, offset: r.u64()? };
        (r.0 == digest).then_some((Loaded { groups, heads, up_to }, digest))
    }

    /// Replaces everything by the index as it is, known up to `up_to`.
    pub(super) fn rewrite(&mut self, index: &Index, up_to: Place) -> bool {
        let cleared = catch_unwind(AssertUnwindSafe(|| self.db.clear().is_ok())).unwrap_or(false);
        self.digest = [0; 16];
        let mut rows = Vec::new();
        for (id, group) in &index.groups {
            rows.push(Row::Group(*id));
            rows.extend(group.shards.keys().map(|o| Row::Shard(*id, *o)));
        }
        rows.extend(index.heads.keys().map(|v| Row::Head(*v)));
        // sled keeps a batch in memory, hence steps; their checkpoint names no segment, so that an interrupted rewrite
        // is not taken for a whole one.
        let unfinished = Place { segment: NONE, offset: 0 };
        let steps = cleared && rows.chunks(4096).all(|step| self.record(index, step, unfinished));
        let ok = steps && self.record(index, &[], up_to);
        ok && self.flush()
    }

    /// Writes the rows as the index has them. `false` when sled failed: it must not be used any more.
    pub(super) fn record(&mut self, index: &Index, rows: &[Row], up_to: Place) -> bool {
        catch_unwind(AssertUnwindSafe(|| self.try_record(index, rows, up_to).is_ok())).unwrap_or(false)
    }

    fn try_record(&mut self, index: &Index, rows: &[Row], up_to: Place) -> sled::Result<()> {
        let mut batch = sled::Batch::default();
        let mut digest = self.digest;
        let mut rows = rows.to_vec();
        rows.sort_unstable();
        rows.dedup();
        for row in rows {
            let key = row_key(&row);
            if let Some(old) = self.db.get(&key)? {
                fold(&mut digest, &key, &old);
            }
            match row_value(index, &row) {
                Some(value) => {
                    fold(&mut digest, &key, &value);
                    batch.insert(key, value);
                }
                None => batch.remove(key),
            }
        }
        let mut checkpoint = Vec::with_capacity(28);
        checkpoint.extend(up_to.segment.to_le_bytes());
        checkpoint.extend(up_to.offset.to_le_bytes());
        checkpoint.extend(digest);
        batch.insert(CHECKPOINT, checkpoint);
        self.db.apply_batch(batch)?;
        self.digest = digest;
        Ok(())
    }

    /// Brings everything to the disk, as well as sled does.
    pub(super) fn flush(&self) -> bool {
        catch_unwind(AssertUnwindSafe(|| self.db.flush().is_ok())).unwrap_or(false)
    }
}

fn open_sled(folder: &Path) -> Result<sled::Db, sled_folder::OpenError> {
    // The store's own lock is ours, so no other process has it open.
    sled_folder::open(&sled::Config::new().path(folder).cache_capacity(CACHE_BYTES))
}

/// An order-free digest: rows are folded in and, being the same, out again.
fn fold(digest: &mut [u8; 16], key: &[u8], value: &[u8]) {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(key.len() as u32).to_le_bytes()).update(key).update(value);
    digest.iter_mut().zip(hasher.finalize().as_bytes()).for_each(|(d, h)| *d ^= h);
}

fn row_key(row: &Row) -> Vec<u8> {
    match row {
        Row::Group(g) => [b"g", g.as_bytes().as_slice()].concat(),
        Row::Shard(g, ordinal) => [b"g", g.as_bytes().as_slice(), &[*ordinal]].concat(),
        Row::Head(v) => [b"h", v.as_bytes().as_slice()].concat(),
    }
}

fn row_value(index: &Index, row: &Row) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(80);
    match row {
        Row::Group(g) => {
            let group = index.groups.get(g)?;
            out.push(group.slot.as_u8());
            out.extend(group.ledger_segment.unwrap_or(NONE).to_le_bytes());
        }
        Row::Shard(g, ordinal) => {
            let e = index.entry(g, *ordinal)?;
            out.extend(e.root.as_bytes());
            out.extend(e.lease_until.0.to_le_bytes());
            out.extend(e.stored_at.0.to_le_bytes());
            out.extend(e.place.segment.to_le_bytes());
            out.extend(e.place.offset.to_le_bytes());
            out.extend(e.state_segment.unwrap_or(NONE).to_le_bytes());
            out.push(u8::from(e.damaged));
            if let Stage::Trash { since } = e.stage {
                out.extend(since.0.to_le_bytes());
            }
        }
        Row::Head(v) => {
            let h = index.heads.get(v)?;
            out.extend(h.segment.to_le_bytes());
            out.extend(h.kept.generation.to_le_bytes());
            out.extend(h.kept.sequence.to_le_bytes());
            out.extend(&h.kept.bytes);
        }
    }
    Some(out)
}

fn decode_entry(r: &mut Fields<'_>) -> Option<Entry> {
    let root = ShardRoot::from_bytes(r.take()?);
    let (lease_until, stored_at) = (Timestamp(r.u64()?), Timestamp(r.u64()?));
    let place = Place { segment: r.u32()?, offset: r.u64()? };
    let state_segment = Some(r.u32()?).filter(|s| *s != NONE);
    let damaged = r.byte()? != 0;
    let stage = if r.0.is_empty() { Stage::Live } else { Stage::Trash { since: Timestamp(r.u64()?) } };
    Some(Entry { root, lease_until, stored_at, place, stage, state_segment, damaged })
}

fn group_of(key: &[u8]) -> Option<GroupId> {
    GroupId::from_slice(key.get(1..33)?).ok()
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk()?;
        self.0 = tail;
        Some(*head)
    }
    fn byte(&mut self) -> Option<u8> {
        self.take::<1>().map(|[b]| b)
    }
    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }
    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }
}
