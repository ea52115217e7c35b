//! The manifest: what a vault consists of at one commit. Groups with their holders, where the index segments lie,
//! snapshots, epochs, the next free numbers. Written whole with each commit, cut into runs of at most
//! [`crate::index::RUN_RAW_MAX`] bytes; the head says where they are.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    CodeParams, DecodeError, PeerKey, SnapshotId, Timestamp,
    code_params::STRIPES_PER_GROUP_MAX,
    index::{GROUPS_MAX, RunPlace, StripeNo},
    layout::{Reader, at_most, put_bytes, put_number, put_option},
    tree::ContentRef,
};

#[cfg(test)]
pub(crate) mod tests;

/// Most bytes of an encoded manifest: 16 runs, which the head has room for.
pub const MANIFEST_MAX: usize = 64 << 20;
/// Most snapshots of a vault.
pub const SNAPSHOTS_MAX: usize = 1_000_000;
/// Most index segments: at 1 MiB each, the index of some 10^10 chunks.
pub const SEGMENTS_MAX: usize = 1_000_000;
/// Most epochs: one every 90 days for a thousand years.
pub const EPOCHS_MAX: usize = 4096;
/// Most peers that keep, or kept, shards of one slot of a group: replicas and replacements.
pub const HOLDERS_MAX: usize = 4;
/// Most bytes of a snapshot's host name, user name, version or of one tag.
pub const LABEL_MAX: usize = 1024;
/// Most tags of a snapshot.
pub const TAGS_MAX: usize = 256;
/// Most source paths of a snapshot.
pub const PATHS_MAX: usize = 4096;
/// Most bytes of one source path.
pub const PATH_MAX: usize = 65_536;

const WHAT: &str = "manifest";
const RECORD: &str = "snapshot record";
const VERSION: u8 = 1;

/// A placement group as its owner knows it. The group's authority key follows from the vault secret and `number`,
/// so ticket and id can be made again from this row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupRow {
    /// Its number in the vault, from 1.
    pub number: u32,
    /// What colours are keyed with.
    pub salt: [u8; 32],
    /// The code of its stripes.
    pub code: CodeParams,
    /// C, more than k + m.
    pub colours: u8,
    /// For each slot the peers that were given shards of it, at most [`HOLDERS_MAX`]: first the chosen ones, then
    /// replacements of the same colour.
    pub holders: Vec<Vec<PeerKey>>,
    /// Ordinals given out, at most 256.
    pub stripes_used: u16,
    /// No more stripes come.
    pub sealed: bool,
}

impl GroupRow {
    fn check(&self) -> Result<(), DecodeError> {
        let bad = |why| Err(DecodeError::Invalid { what: "group row", why });
        if self.number == 0 || self.number > GROUPS_MAX {
            return bad("number out of range");
        }
        if self.holders.len() != self.code.slots() || usize::from(self.colours) <= self.code.slots() {
            return bad("slots, code and colours do not fit together");
        }
        if usize::from(self.stripes_used) > STRIPES_PER_GROUP_MAX {
            return bad("more stripes than a group has");
        }
        for peers in &self.holders {
            at_most("holders of a slot", HOLDERS_MAX, peers.len())?;
        }
        let distinct: BTreeSet<_> = self.holders.iter().flatten().collect();
        if distinct.len() != self.holders.iter().map(Vec::len).sum::<usize>() {
            return bad("a peer stands twice in the group");
        }
        Ok(())
    }
}

/// Groups with the peer keys that they name, each key written once.
pub(crate) fn put_groups(out: &mut Vec<u8>, groups: &[GroupRow]) -> Result<(), DecodeError> {
    let keys: BTreeSet<_> = groups.iter().flat_map(|g| g.holders.iter().flatten()).collect();
    put_number(out, keys.len() as u64);
    for key in &keys {
        out.extend_from_slice(key.as_bytes());
    }
    let place: BTreeMap<_, _> = keys.into_iter().zip(0u64..).collect();
    put_number(out, groups.len() as u64);
    for group in groups {
        group.check()?;
        put_number(out, group.number.into());
        out.extend_from_slice(&group.salt);
        out.extend_from_slice(&[group.code.data() as u8, group.code.parity() as u8, group.colours]);
        put_number(out, group.stripes_used.into());
        out.push(group.sealed.into());
        for peers in &group.holders {
            out.push(peers.len() as u8);
            for peer in peers {
                put_number(out, place[peer]);
            }
        }
    }
    check_ascending(groups.iter().map(|g| g.number), "groups out of order")
}

pub(crate) fn read_groups(r: &mut Reader<'_>) -> Result<Vec<GroupRow>, DecodeError> {
    let mut keys = Vec::new();
    for _ in 0..r.count(MANIFEST_MAX / 32, 32)? {
        keys.push(PeerKey::from_bytes(r.array()?));
    }
    check_ascending(keys.iter().copied(), "peer keys out of order")?;
    let mut used = vec![false; keys.len()];
    let count = r.count(GROUPS_MAX as usize, 40)?;
    let mut groups = Vec::with_capacity(count);
    for _ in 0..count {
        let number = r.u32()?;
        let salt = r.array()?;
        let code = CodeParams::new(r.byte()?, r.byte()?)?;
        let colours = r.byte()?;
        let stripes_used = r.number(STRIPES_PER_GROUP_MAX as u64)? as u16;
        let sealed = r.flag()?;
        let mut holders = Vec::with_capacity(code.slots());
        for _ in 0..code.slots() {
            let mut peers = Vec::new();
            for _ in 0..r.count(HOLDERS_MAX, 1)? {
                let place = r.number(u32::MAX.into())? as usize;
                let (Some(key), Some(used)) = (keys.get(place), used.get_mut(place)) else {
                    return Err(r.invalid("a holder that is not in the list of peers"));
                };
                *used = true;
                peers.push(*key);
            }
            holders.push(peers);
        }
        let group = GroupRow { number, salt, code, colours, holders, stripes_used, sealed };
        group.check()?;
        groups.push(group);
    }
    if used.contains(&false) {
        return Err(r.invalid("a peer that no group names"));
    }
    check_ascending(groups.iter().map(|g| g.number), "groups out of order")?;
    Ok(groups)
}

/// What was backed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SourceKind {
    /// Files and folders.
    Files = 0,
    /// A stream, kept as one file.
    Stream = 1,
}

/// One moment of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotRecord {
    /// When it was begun.
    pub time: Timestamp,
    /// Machine.
    pub hostname: String,
    /// Who ran the backup.
    pub username: String,
    /// Who ran the backup, as a number.
    pub uid: u32,
    /// Their group.
    pub gid: u32,
    /// Source paths as raw bytes; for a stream its file name.
    pub paths: Vec<Vec<u8>>,
    /// Tags, in the order given.
    pub tags: Vec<String>,
    /// What was backed up.
    pub source: SourceKind,
    /// Content of the root folder.
    pub root: ContentRef,
    /// Files in it.
    pub total_files: u64,
    /// Bytes in them.
    pub total_bytes: u64,
    /// Bytes sent for it that the vault did not have, before compression.
    pub data_added: u64,
    /// Version of the program.
    pub program: String,
    /// The snapshot that it was compared with.
    pub parent: Option<SnapshotId>,
}

impl SnapshotRecord {
    /// Checks and encodes. A snapshot's id is the keyed hash of these bytes.
    ///
    /// # Errors
    /// The first rule broken.
    pub fn encode(&self) -> Result<Vec<u8>, DecodeError> {
        at_most("source paths", PATHS_MAX, self.paths.len())?;
        at_most("tags", TAGS_MAX, self.tags.len())?;
        for label in [&self.hostname, &self.username, &self.program].into_iter().chain(&self.tags) {
            at_most("text in a snapshot record", LABEL_MAX, label.len())?;
        }
        let mut out = vec![VERSION];
        put_number(&mut out, self.time.0);
        put_bytes(&mut out, self.hostname.as_bytes());
        put_bytes(&mut out, self.username.as_bytes());
        put_number(&mut out, self.uid.into());
        put_number(&mut out, self.gid.into());
        put_number(&mut out, self.paths.len() as u64);
        for path in &self.paths {
            at_most("source path", PATH_MAX, path.len())?;
            put_bytes(&mut out, path);
        }
        put_number(&mut out, self.tags.len() as u64);
        for tag in &self.tags {
            put_bytes(&mut out, tag.as_bytes());
        }
        out.push(self.source as u8);
        self.root.check()?;
        self.root.put(&mut out);
        for number in [self.total_files, self.total_bytes, self.data_added] {
            put_number(&mut out, number);
        }
        put_bytes(&mut out, self.program.as_bytes());
        put_option(&mut out, self.parent, |out, id| out.extend_from_slice(id.as_bytes()));
        Ok(out)
    }

    /// Decodes what [`SnapshotRecord::encode`] gave.
    ///
    /// # Errors
    /// The first rule broken.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(RECORD, bytes);
        r.version(VERSION)?;
        let time = Timestamp(r.u64()?);
        let (hostname, username) = (r.text(LABEL_MAX)?, r.text(LABEL_MAX)?);
        let (uid, gid) = (r.u32()?, r.u32()?);
        let mut paths = Vec::new();
        for _ in 0..r.count(PATHS_MAX, 1)? {
            paths.push(r.bytes(PATH_MAX)?.to_vec());
        }
        let mut tags = Vec::new();
        for _ in 0..r.count(TAGS_MAX, 1)? {
            tags.push(r.text(LABEL_MAX)?);
        }
        let source = if r.flag()? { SourceKind::Stream } else { SourceKind::Files };
        let root = ContentRef::read(&mut r)?;
        let (total_files, total_bytes, data_added) = (r.u64()?, r.u64()?, r.u64()?);
        let program = r.text(LABEL_MAX)?;
        let parent = r.option(|r| r.array().map(SnapshotId::from_bytes))?;
        r.finish()?;
        Ok(Self {
            time,
            hostname,
            username,
            uid,
            gid,
            paths,
            tags,
            source,
            root,
            total_files,
            total_bytes,
            data_added,
            program,
            parent,
        })
    }
}

/// Where an index segment lies: a run without chunks.
pub type SegmentRef = RunPlace;

/// An epoch of data keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EpochRow {
    /// Its number, from 1.
    pub number: u32,
    /// When it began.
    pub created: Timestamp,
}

/// What a vault consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Groups, ascending by number.
    pub groups: Vec<GroupRow>,
    /// Index segments, oldest first. The stripes that a segment lies in have their rows in a later segment, or,
    /// for those of this commit, in the head: read them newest first.
    pub segments: Vec<SegmentRef>,
    /// Snapshots, in the order of their making.
    pub snapshots: Vec<(SnapshotId, SnapshotRecord)>,
    /// First stripe number not given out yet.
    pub next_stripe: StripeNo,
    /// First group number not given out yet.
    pub next_group: u32,
    /// Epochs, ascending by number, at least one.
    pub epochs: Vec<EpochRow>,
}

impl Manifest {
    /// Checks and encodes.
    ///
    /// # Errors
    /// The first rule broken, or more than [`MANIFEST_MAX`] bytes.
    pub fn encode(&self) -> Result<Vec<u8>, DecodeError> {
        self.check()?;
        let mut out = vec![VERSION];
        put_number(&mut out, self.next_stripe.0);
        put_number(&mut out, self.next_group.into());
        put_number(&mut out, self.epochs.len() as u64);
        for epoch in &self.epochs {
            put_number(&mut out, epoch.number.into());
            put_number(&mut out, epoch.created.0);
        }
        put_groups(&mut out, &self.groups)?;
        put_number(&mut out, self.segments.len() as u64);
        for segment in &self.segments {
            segment.put(&mut out)?;
        }
        put_number(&mut out, self.snapshots.len() as u64);
        for (id, record) in &self.snapshots {
            out.extend_from_slice(id.as_bytes());
            put_bytes(&mut out, &record.encode()?);
        }
        at_most(WHAT, MANIFEST_MAX, out.len())?;
        Ok(out)
    }

    /// Decodes what [`Manifest::encode`] gave.
    ///
    /// # Errors
    /// The first rule broken.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        at_most(WHAT, MANIFEST_MAX, bytes.len())?;
        let mut r = Reader::new(WHAT, bytes);
        r.version(VERSION)?;
        let next_stripe = StripeNo(r.u64()?);
        let next_group = r.u32()?;
        let mut epochs = Vec::new();
        for _ in 0..r.count(EPOCHS_MAX, 2)? {
            epochs.push(EpochRow { number: r.u32()?, created: Timestamp(r.u64()?) });
        }
        let groups = read_groups(&mut r)?;
        let mut segments = Vec::new();
        for _ in 0..r.count(SEGMENTS_MAX, 6)? {
            segments.push(RunPlace::read(&mut r)?);
        }
        let mut snapshots = Vec::new();
        for _ in 0..r.count(SNAPSHOTS_MAX, 50)? {
            let id = SnapshotId::from_bytes(r.array()?);
            snapshots.push((id, SnapshotRecord::decode(r.bytes(MANIFEST_MAX)?)?));
        }
        r.finish()?;
        let manifest = Self { groups, segments, snapshots, next_stripe, next_group, epochs };
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), DecodeError> {
        at_most("groups", GROUPS_MAX as usize, self.groups.len())?;
        at_most("snapshots", SNAPSHOTS_MAX, self.snapshots.len())?;
        at_most("segments", SEGMENTS_MAX, self.segments.len())?;
        at_most("epochs", EPOCHS_MAX, self.epochs.len())?;
        check_ascending(self.epochs.iter().map(|e| e.number), "epochs out of order")?;
        let bad = |why| Err(DecodeError::Invalid { what: WHAT, why });
        if self.epochs.first().is_none_or(|e| e.number == 0) {
            return bad("no epoch, or one with the number 0");
        }
        if self.next_stripe.0 == 0 || self.next_group == 0 {
            return bad("numbers count from 1");
        }
        if self.groups.last().is_some_and(|g| g.number >= self.next_group) {
            return bad("a group number that was not given out yet");
        }
        let beyond = |place: &RunPlace| place.stripe.max(place.next.unwrap_or(place.stripe)) >= self.next_stripe;
        if self.segments.iter().any(beyond) {
            return bad("a stripe number that was not given out yet");
        }
        Ok(())
    }
}

fn check_ascending<T: PartialOrd>(mut items: impl Iterator<Item = T>, why: &'static str) -> Result<(), DecodeError> {
    let Some(mut last) = items.next() else { return Ok(()) };
    for item in items {
        if item <= last {
            return Err(DecodeError::Invalid { what: WHAT, why });
        }
        last = item;
    }
    Ok(())
}
