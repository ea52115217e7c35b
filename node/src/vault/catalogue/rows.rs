//! Reading and changing the catalogue's rows: one method per question.

use std::collections::BTreeSet;

use cairn_proto::{
    ChunkId, SnapshotId,
    index::{IndexSegment, RunPlace, RunRow, StripeNo, StripeRow},
    manifest::{GroupRow, Manifest, SnapshotRecord},
};

use super::{
    Catalogue, CatalogueError, CommitRecord, Meta, Result, StripeRecord,
    guard::Change,
    layout::{
        CHUNK, FILE, GROUP, LOST, PENDING_RUN, PENDING_STRIPE, RECEIPT, RUN, SHORTFALL, SNAPSHOT, STRIPE,
        counters_bytes, decode_group, encode_group, encode_run, encode_segments, encode_stripe, group_key, id_key,
        meta_key, run_key, stripe_key,
    },
};

impl Catalogue {
    /// Whether the chunk lies in acknowledged stripes.
    ///
    /// # Errors
    /// The disk.
    pub fn has_chunk(&self, id: &ChunkId) -> Result<bool> {
        Ok(self.tree.contains_key(id_key(CHUNK, id.as_bytes()))?)
    }

    /// The run that a chunk lies in.
    ///
    /// # Errors
    /// Damage or the disk.
    pub fn find_chunk(&self, id: &ChunkId) -> Result<Option<RunRow>> {
        let Some(place) = self.get(&id_key(CHUNK, id.as_bytes()))? else { return Ok(None) };
        let mut key = vec![RUN];
        key.extend_from_slice(&place);
        let bytes = self.get(&key)?.ok_or(CatalogueError::Damaged("a chunk without its run"))?;
        let row = IndexSegment::decode(&bytes)?.runs.pop();
        row.map(Some).ok_or(CatalogueError::Damaged("a run row is empty"))
    }

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

    /// Every run, in order of place.
    pub fn runs(&self) -> impl Iterator<Item = Result<RunRow>> {
        self.scan(RUN)
            .map(|item| IndexSegment::decode(&item?.1)?.runs.pop().ok_or(CatalogueError::Damaged("a run row is empty")))
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
            for (slot, signed) in &record.receipts {
                let mut key = stripe_key(RECEIPT, row.no);
                key.push(*slot);
                batch.put(&key, signed.clone());
            }
            if !record.shortfall.is_empty() {
                batch.put(&stripe_key(SHORTFALL, row.no), record.shortfall.clone());
            }
        }
        if let Some(group) = &record.group {
            batch.put(&group_key(group.number), encode_group(group)?);
        }
        for run in &record.runs {
            let key = run_key(RUN, &run.place);
            for (id, _) in &run.chunks {
                if !(record.keep_places && self.has_chunk(id)?) {
                    batch.put(&id_key(CHUNK, id.as_bytes()), key[1..].to_vec());
                }
            }
            batch.put(&key, encode_run(run)?);
            if record.pending {
                batch.put(&run_key(PENDING_RUN, &run.place), Vec::new());
            }
        }
        self.apply(batch)?;
        Ok(())
    }

    /// Rows that no published segment has: stripes, then runs, in order, until they take `limit` bytes. The last value
    /// tells whether there are more.
    ///
    /// # Errors
    /// Damage or the disk.
    pub fn pending(&self, limit: usize) -> Result<(Vec<StripeRow>, Vec<RunRow>, bool)> {
        let (mut stripes, mut runs, mut taken) = (Vec::new(), Vec::new(), 0);
        for item in self.tree.scan_prefix([PENDING_STRIPE]).keys() {
            if taken >= limit {
                return Ok((stripes, runs, true));
            }
            let mut key = item?.to_vec();
            key[0] = STRIPE;
            let bytes = self.get(&key)?.ok_or(CatalogueError::Damaged("a pending stripe is missing"))?;
            taken += bytes.len();
            stripes.extend(IndexSegment::decode(&bytes)?.stripes);
        }
        for item in self.tree.scan_prefix([PENDING_RUN]).keys() {
            if taken >= limit {
                return Ok((stripes, runs, true));
            }
            let mut key = item?.to_vec();
            key[0] = RUN;
            let bytes = self.get(&key)?.ok_or(CatalogueError::Damaged("a pending run is missing"))?;
            taken += bytes.len();
            runs.extend(IndexSegment::decode(&bytes)?.runs);
        }
        Ok((stripes, runs, false))
    }

    /// Snapshots, by id.
    ///
    /// # Errors
    /// Damage or the disk.
    pub fn snapshots(&self) -> Result<Vec<(SnapshotId, SnapshotRecord)>> {
        self.scan(SNAPSHOT)
            .map(|item| {
                let (key, value) = item?;
                Ok((SnapshotId::from_slice(&key[1..])?, SnapshotRecord::decode(&value)?))
            })
            .collect()
    }

    /// Ends a commit, atomically: snapshots, numbers, where the segments lie, and which rows they have.
    ///
    /// # Errors
    /// The disk.
    pub fn finish_commit(&self, commit: &CommitRecord<'_>) -> Result<()> {
        let mut batch = Change::default();
        for (id, record) in commit.snapshots {
            batch.put(&id_key(SNAPSHOT, id.as_bytes()), record.encode()?);
        }
        if let Some(counters) = commit.counters {
            batch.put(&meta_key(Meta::Counters), counters_bytes(counters));
        }
        batch.put(&meta_key(Meta::Segments), encode_segments(commit.segments)?);
        for no in commit.stripes {
            batch.remove(stripe_key(PENDING_STRIPE, *no));
        }
        for place in commit.runs {
            batch.remove(run_key(PENDING_RUN, place));
        }
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
        match self.meta(Meta::Segments)? {
            None => Ok(Vec::new()),
            Some(bytes) => Ok(Manifest::decode(&bytes)?.segments),
        }
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
            batch.put(&id_key(FILE, path), value.clone());
        }
        self.apply(batch)?;
        Ok(())
    }

    /// Stripes that lack slots, with the slots.
    ///
    /// # Errors
    /// Damage or the disk.
    pub fn shortfalls(&self) -> Result<Vec<(StripeNo, Vec<u8>)>> {
        self.scan(SHORTFALL)
            .map(|item| {
                let (key, value) = item?;
                let no: [u8; 8] = key[1..].try_into().map_err(|_| CatalogueError::Damaged("a shortfall key"))?;
                Ok((StripeNo(u64::from_be_bytes(no)), value))
            })
            .collect()
    }

    /// Stripes that the last check found lost: chunks in them do not count as had.
    ///
    /// # Errors
    /// Damage or the disk.
    pub fn lost(&self) -> Result<BTreeSet<StripeNo>> {
        self.scan(LOST)
            .map(|item| {
                let no: [u8; 8] =
                    item?.0[1..].try_into().map_err(|_| CatalogueError::Damaged("a lost stripe's key"))?;
                Ok(StripeNo(u64::from_be_bytes(no)))
            })
            .collect()
    }

    /// Replaces the set of lost stripes, atomically.
    ///
    /// # Errors
    /// Damage or the disk.
    pub fn set_lost(&self, lost: &BTreeSet<StripeNo>) -> Result<()> {
        let mut batch = Change::default();
        for no in self.lost()?.difference(lost) {
            batch.remove(stripe_key(LOST, *no));
        }
        for no in lost {
            batch.put(&stripe_key(LOST, *no), Vec::new());
        }
        self.apply(batch)?;
        self.flush()
    }

    /// Sets which slots a stripe lacks; none removes the note.
    ///
    /// # Errors
    /// The disk.
    pub fn set_shortfall(&self, no: StripeNo, slots: &[u8]) -> Result<()> {
        let mut batch = Change::default();
        let key = stripe_key(SHORTFALL, no);
        if slots.is_empty() {
            batch.remove(key);
        } else {
            batch.put(&key, slots.to_vec());
        }
        self.apply(batch)?;
        Ok(())
    }
}
