//! Reading and changing the catalogue's rows: one method per question.

use cairn_proto::{
    SnapshotId,
    index::{IndexSegment, RunPlace, RunRow, StripeNo, StripeRow},
    manifest::{GroupRow, Manifest, SnapshotRecord},
};

use super::{
    Catalogue, CatalogueError, CommitRecord, Meta, Result, StripeRecord,
    guard::Change,
    layout::{
        FILE, GROUP, PENDING_STRIPE, ROW_MAX, SEGMENT, SHORTFALL, SNAPSHOT, STRIPE, counters_bytes, decode_group,
        encode_group, encode_segments, encode_stripe, group_key, id_key, meta_key, receipt_rows, segment_key,
        stripe_key,
    },
};

impl Catalogue {
    /// A stripe.
    ///
    /// # Errors
    /// Damage or the disk.
    pub fn stripe(&self, no: StripeNo) -> Result<Option<StripeRow>> {
        let Some(bytes) = self.get(&stripe_key(STRIPE, no))? else { return Ok(None) };
        Ok(IndexSegment::decode(&bytes)?.stripes.pop())
    }

    /// The highest stripe number and group number on record; 0 where there is none.
    ///
    /// # Errors
    /// The disk.
    pub fn highest_numbers(&self) -> Result<(u64, u32)> {
        let stripe = self.tree.scan_prefix([STRIPE]).keys().next_back().transpose()?;
        let group = self.tree.scan_prefix([GROUP]).keys().next_back().transpose()?;
        let stripe = stripe.and_then(|k| Some(u64::from_be_bytes(k.get(1..9)?.try_into().ok()?)));
        let group = group.and_then(|k| Some(u32::from_be_bytes(k.get(1..5)?.try_into().ok()?)));
        Ok((stripe.unwrap_or(0), group.unwrap_or(0)))
    }

    /// Every stripe, in order of number.
    pub fn stripes(&self) -> impl Iterator<Item = Result<StripeRow>> {
        self.scan(STRIPE).map(|item| {
            IndexSegment::decode(&item?.1)?.stripes.pop().ok_or(CatalogueError::Damaged("a stripe row is empty"))
        })
    }

    /// A group.
    ///
    /// # Errors
    /// Damage or the disk.
    pub fn group(&self, number: u32) -> Result<Option<GroupRow>> {
        self.get(&group_key(number))?.map(|bytes| decode_group(&bytes)).transpose()
    }

    /// Every group, in order of number.
    pub fn groups(&self) -> impl Iterator<Item = Result<GroupRow>> {
        self.scan(GROUP).map(|item| decode_group(&item?.1))
    }

    /// Adds or replaces a group.
    ///
    /// # Errors
    /// The disk.
    pub fn set_group(&self, row: &GroupRow) -> Result<()> {
        let mut batch = Change::default();
        batch.put(&group_key(row.number), encode_group(row)?);
        self.apply(batch)?;
        Ok(())
    }

    /// Adds an acknowledged stripe with all that is complete with it, atomically.
    ///
    /// # Errors
    /// The disk.
    pub fn record_stripe(&self, record: &StripeRecord) -> Result<()> {
        let mut batch = Change::default();
        if let Some(row) = &record.row {
            batch.put(&stripe_key(STRIPE, row.no), encode_stripe(row)?);
            if record.pending {
                batch.put(&stripe_key(PENDING_STRIPE, row.no), Vec::new());
            }
            for (key, value) in receipt_rows(row.no, &record.receipts) {
                batch.put(&key, value);
            }
            if !record.shortfall.is_empty() {
                batch.put(&stripe_key(SHORTFALL, row.no), record.shortfall.clone());
            }
        }
        if let Some(group) = &record.group {
            batch.put(&group_key(group.number), encode_group(group)?);
        }
        if record.skip_known {
            return self.apply_with_runs(batch, &self.without_known(&record.runs)?, record.pending);
        }
        self.apply_with_runs(batch, &record.runs, record.pending)
    }

    /// Rows that no published segment has: stripes, then runs, in order, until they take `limit` bytes. The last value
    /// tells whether there are more.
    ///
    /// # Errors
    /// Damage or the disk.
    pub fn pending(&self, limit: usize) -> Result<(Vec<StripeRow>, Vec<RunRow>, bool)> {
        let (mut stripes, mut taken) = (Vec::new(), 0);
        for item in self.tree.scan_prefix([PENDING_STRIPE]).keys() {
            if taken >= limit {
                return Ok((stripes, Vec::new(), true));
            }
            let mut key = item?.to_vec();
            key[0] = STRIPE;
            let bytes = self.get(&key)?.ok_or(CatalogueError::Damaged("a pending stripe is missing"))?;
            taken += bytes.len();
            stripes.extend(IndexSegment::decode(&bytes)?.stripes);
        }
        let (runs, more) = self.pending_runs(limit, &mut taken)?;
        Ok((stripes, runs, more))
    }

    /// Snapshots, by id.
    ///
    /// # Errors
    /// Damage or the disk.
    pub fn snapshots(&self) -> Result<Vec<(SnapshotId, SnapshotRecord)>> {
        let mut found: Vec<(SnapshotId, Vec<u8>)> = Vec::new();
        for item in self.scan(SNAPSHOT) {
            let (key, part) = item?;
            let id = key.get(1..33).ok_or(CatalogueError::Damaged("a snapshot's key"))?;
            let id = SnapshotId::from_slice(id)?;
            match found.last_mut() {
                Some((last, value)) if *last == id => value.extend_from_slice(&part),
                _ => found.push((id, part)),
            }
        }
        found.into_iter().map(|(id, value)| Ok((id, SnapshotRecord::decode(&value)?))).collect()
    }

    /// Ends a commit, atomically: snapshots, numbers, where the segments lie, and which rows they have.
    ///
    /// # Errors
    /// The disk.
    pub fn finish_commit(&self, commit: &CommitRecord<'_>) -> Result<()> {
        let mut batch = Change::default();
        for (id, record) in commit.snapshots {
            for (part, at) in record.encode()?.chunks(ROW_MAX).zip(0u16..) {
                let mut key = id_key(SNAPSHOT, id.as_bytes());
                key.extend_from_slice(&at.to_be_bytes());
                batch.put(&key, part.to_vec());
            }
        }
        if let Some(counters) = commit.counters {
            batch.put(&meta_key(Meta::Counters), counters_bytes(counters));
        }
        let before = self.segments()?;
        for (at, place) in commit.segments.iter().enumerate() {
            if before.get(at) != Some(place) {
                batch.put(&segment_key(SEGMENT, at), encode_segments(std::slice::from_ref(place))?);
            }
        }
        for at in commit.segments.len()..before.len() {
            batch.remove(segment_key(SEGMENT, at));
        }
        for no in commit.stripes {
            batch.remove(stripe_key(PENDING_STRIPE, *no));
        }
        self.runs_are_in_segments(commit.runs, &mut batch)?;
        for group in commit.groups {
            batch.put(&group_key(group.number), encode_group(group)?);
        }
        self.apply(batch)?;
        self.flush()
    }

    /// Where the index segments lie that were written so far, oldest first.
    ///
    /// # Errors
    /// Damage or the disk.
    pub fn segments(&self) -> Result<Vec<RunPlace>> {
        self.places(SEGMENT)
    }

    pub(super) fn places(&self, prefix: u8) -> Result<Vec<RunPlace>> {
        self.scan(prefix)
            .map(|item| {
                Manifest::decode(&item?.1)?.segments.pop().ok_or(CatalogueError::Damaged("a segment row is empty"))
            })
            .collect()
    }

    /// Whether anything is known of any file.
    ///
    /// # Errors
    /// The disk.
    pub fn has_files(&self) -> Result<bool> {
        Ok(self.tree.scan_prefix([FILE]).next().transpose()?.is_some())
    }

    /// What was known of a file when it was last read, by a keyed hash of its path.
    ///
    /// # Errors
    /// Damage or the disk.
    pub fn file(&self, path: &[u8; 32]) -> Result<Option<Vec<u8>>> {
        self.get(&id_key(FILE, path))
    }

    /// Remembers files, atomically.
    ///
    /// # Errors
    /// The disk.
    pub fn set_files(&self, files: &[([u8; 32], Vec<u8>)]) -> Result<()> {
        let mut batch = Change::default();
        for (path, value) in files {
            match value.len() <= ROW_MAX {
                true => batch.put(&id_key(FILE, path), value.clone()),
                // It is read again next time.
                false => batch.remove(id_key(FILE, path)),
            }
        }
        self.apply(batch)?;
        Ok(())
    }
}
