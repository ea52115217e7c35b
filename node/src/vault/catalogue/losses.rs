//! What the network lost: notes of stripes that lack slots, stripes that are lost, and index segments with them.

use std::collections::BTreeSet;

use cairn_proto::{
    head::HeadContent,
    index::{RunPlace, StripeNo},
    manifest::Manifest,
    tree::Node,
};

use super::{
    Catalogue, CatalogueError, Meta, Result,
    guard::Change,
    layout::{
        CHUNK, FILE, LOST, PENDING_RUN, PENDING_STRIPE, RECEIPT, ROW_MAX, RUN, SHORTFALL, STRIPE, encode_segments,
        id_key, run_key, stripe_key,
    },
};

/// Rows changed in one batch where all of them are.
const BATCH: usize = 1024;

fn touches(place: &RunPlace, stripes: &BTreeSet<StripeNo>) -> bool {
    stripes.contains(&place.stripe) || place.next.is_some_and(|no| stripes.contains(&no))
}

impl Catalogue {
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

    /// Which slots a stripe lacks.
    ///
    /// # Errors
    /// Damage or the disk.
    pub fn shortfall(&self, no: StripeNo) -> Result<Vec<u8>> {
        Ok(self.get(&stripe_key(SHORTFALL, no))?.unwrap_or_default())
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

    /// Replaces the set of lost stripes, atomically. When it grows, files whose content stands behind lists are forgotten:
    /// nobody knows without the lists whether they have chunks in it, so they are read again, once.
    ///
    /// # Errors
    /// Damage or the disk.
    pub fn set_lost(&self, lost: &BTreeSet<StripeNo>) -> Result<()> {
        let mut batch = Change::default();
        let before = self.lost()?;
        for no in before.difference(lost) {
            batch.remove(stripe_key(LOST, *no));
        }
        for no in lost {
            batch.put(&stripe_key(LOST, *no), Vec::new());
            // What cannot be read cannot be completed.
            batch.remove(stripe_key(SHORTFALL, *no));
        }
        if !lost.is_subset(&before) {
            for item in self.scan(FILE) {
                let (key, value) = item?;
                if Node::decode(&value).is_ok_and(|node| node.content.depth > 0) {
                    batch.remove(key.to_vec());
                }
            }
        }
        self.apply(batch)?;
        self.flush()
    }

    /// The lost stripes that something still needs: a chunk that has no newer place, an index segment, the manifest of the
    /// last head.
    ///
    /// # Errors
    /// Damage or the disk.
    pub fn needed(&self, lost: &BTreeSet<StripeNo>) -> Result<BTreeSet<StripeNo>> {
        let mut needed = BTreeSet::new();
        if lost.is_empty() {
            return Ok(needed);
        }
        let mut need = |place: &RunPlace| needed.extend([Some(place.stripe), place.next].into_iter().flatten());
        let head = self.meta(Meta::Head)?.map(|bytes| HeadContent::decode(&bytes)).transpose()?;
        self.segments()?.iter().chain(head.iter().flat_map(|head| &head.manifest)).for_each(&mut need);
        for run in self.runs() {
            let run = run?;
            if touches(&run.place, lost) {
                let place = &run_key(RUN, &run.place)[1..];
                for (id, _) in &run.chunks {
                    if self.get(&id_key(CHUNK, id.as_bytes()))?.as_deref() == Some(place) {
                        need(&run.place);
                        break;
                    }
                }
            }
        }
        needed.retain(|no| lost.contains(no));
        Ok(needed)
    }

    /// Whether the next head must not go on from the last one: its manifest or an index segment lies in a lost stripe.
    /// Segments that were never read do not count, nobody can write them anew.
    ///
    /// # Errors
    /// Damage or the disk.
    pub fn index_is_lost(&self) -> Result<bool> {
        let (lost, unread) = (self.lost()?, self.unread_segments()?);
        let head = self.meta(Meta::Head)?.map(|bytes| HeadContent::decode(&bytes)).transpose()?;
        let manifest = head.iter().flat_map(|head| &head.manifest);
        Ok(self.segments()?.iter().filter(|at| !unread.contains(at)).chain(manifest).any(|at| touches(at, &lost)))
    }

    /// Forgets the lost stripes that nothing needs any more; those that are left. No backup may be at work: what needs its
    /// stripes may not stand yet.
    ///
    /// # Errors
    /// Damage or the disk.
    pub fn retire_lost(&self) -> Result<BTreeSet<StripeNo>> {
        let lost = self.lost()?;
        let mut needed = self.needed(&lost)?;
        // A number that no head knows as used would be given out again.
        let next = self.counters()?.next_stripe;
        needed.extend(lost.iter().filter(|no| no.0 >= next));
        let gone: BTreeSet<StripeNo> = lost.difference(&needed).copied().collect();
        if gone.is_empty() {
            return Ok(needed);
        }
        for run in self.runs() {
            let place = run?.place;
            if touches(&place, &gone) {
                let mut batch = Change::default();
                batch.remove(run_key(RUN, &place));
                batch.remove(run_key(PENDING_RUN, &place));
                self.apply(batch)?;
            }
        }
        for no in gone {
            let mut batch = Change::default();
            for prefix in [STRIPE, PENDING_STRIPE, SHORTFALL, LOST] {
                batch.remove(stripe_key(prefix, no));
            }
            for key in self.tree.scan_prefix(stripe_key(RECEIPT, no)).keys() {
                batch.remove(key?.to_vec());
            }
            self.apply(batch)?;
        }
        self.flush()?;
        Ok(needed)
    }

    /// Index segments that recovery could not read.
    ///
    /// # Errors
    /// Damage or the disk.
    pub fn unread_segments(&self) -> Result<Vec<RunPlace>> {
        Ok(self.meta(Meta::Unread)?.map(|bytes| Manifest::decode(&bytes)).transpose()?.map_or(vec![], |m| m.segments))
    }

    /// Remembers which index segments recovery could not read: as many as fit into a row, oldest first.
    ///
    /// # Errors
    /// The disk.
    pub fn set_unread_segments(&self, segments: &[RunPlace]) -> Result<()> {
        // A place takes at most 32 bytes.
        let segments = &segments[..segments.len().min(ROW_MAX / 64)];
        self.set_meta(Meta::Unread, Some(encode_segments(segments)?))
    }

    /// Marks every stripe and run as in no segment, so that the next commit writes the whole index anew.
    ///
    /// # Errors
    /// The disk.
    pub fn pend_all(&self) -> Result<()> {
        for (rows, pending) in [(STRIPE, PENDING_STRIPE), (RUN, PENDING_RUN)] {
            let (mut batch, mut count) = (Change::default(), 0);
            for key in self.tree.scan_prefix([rows]).keys() {
                let mut key = key?.to_vec();
                key[0] = pending;
                batch.put(&key, Vec::new());
                count += 1;
                if count % BATCH == 0 {
                    self.apply(std::mem::take(&mut batch))?;
                }
            }
            self.apply(batch)?;
        }
        Ok(())
    }
}
