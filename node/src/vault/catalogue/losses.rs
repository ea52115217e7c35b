//! What the network lost: notes of stripes that lack slots, stripes that are lost, and index segments with them.

use std::collections::{BTreeSet, HashSet};

use cairn_proto::{
    head::HeadContent,
    index::{RunPlace, StripeNo},
    tree::Node,
};

use super::{
    Catalogue, CatalogueError, Meta, Result,
    guard::Change,
    layout::{
        FILE, LOST, PENDING_RUN, PENDING_STRIPE, RECEIPT, RUN, SHORTFALL, STRIPE, UNREAD, encode_runs, encode_segments,
        row_key, segment_key, stripe_key,
    },
};

/// Rows changed in one batch where all of them are.
const BATCH: usize = 1024;

fn touches(place: &RunPlace, stripes: &BTreeSet<StripeNo>) -> bool {
    stripes.contains(&place.stripe) || place.next.is_some_and(|no| stripes.contains(&no))
}

impl Catalogue {
    /// Stripes that lack slots and can be completed, with the slots: all notes but those of lost stripes.
    ///
    /// # Errors
    /// Damage or the disk.
    pub fn short(&self) -> Result<Vec<(StripeNo, Vec<u8>)>> {
        let lost = self.lost()?;
        let mut notes = self.shortfalls()?;
        notes.retain(|(no, _)| !lost.contains(no));
        Ok(notes)
    }

    /// Every note of which slots a stripe lacks. A stripe that is lost keeps its note: it may come back, and nobody would
    /// note anew what was never stored.
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
        self.forget_recent()?;
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
                for (id, _) in &run.chunks {
                    if self.find_chunk(id)?.is_some_and(|newest| newest.place == run.place) {
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
        let (lost, unread) = (self.lost()?, self.unread_set()?);
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
        for row in self.run_rows() {
            let (key, mut runs) = row?;
            let before = runs.len();
            runs.retain(|run| !touches(&run.place, &gone));
            let mut batch = Change::default();
            match runs.len() {
                left if left == before => continue,
                0 => [RUN, PENDING_RUN].into_iter().for_each(|prefix| batch.remove(row_key(prefix, key))),
                _ => batch.put(&row_key(RUN, key), encode_runs(&runs)?),
            }
            self.apply(batch)?;
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
        self.forget_recent()?;
        self.flush()?;
        Ok(needed)
    }

    /// The segments that the next manifest goes on from. When one of them is lost, only those that were never read: all rows
    /// are marked to be written anew, or recovery would not find what is left.
    ///
    /// # Errors
    /// Damage or the disk.
    pub fn living_segments(&self) -> Result<Vec<RunPlace>> {
        let (lost, unread) = (self.lost()?, self.unread_set()?);
        let mut segments = self.segments()?;
        if segments.iter().any(|place| touches(place, &lost) && !unread.contains(place)) {
            self.pend_all()?;
            segments.retain(|place| unread.contains(place));
        }
        Ok(segments)
    }

    /// Index segments that recovery could not read: never given up, since their holders may come back.
    ///
    /// # Errors
    /// Damage or the disk.
    pub fn unread_segments(&self) -> Result<Vec<RunPlace>> {
        self.places(UNREAD)
    }

    fn unread_set(&self) -> Result<HashSet<RunPlace>> {
        Ok(self.unread_segments()?.into_iter().collect())
    }

    /// Remembers which index segments recovery could not read, one row each: those of them that the index names, so that
    /// there are never more than it has segments.
    ///
    /// # Errors
    /// The disk.
    pub fn set_unread_segments(&self, unread: &[RunPlace]) -> Result<()> {
        let named: HashSet<RunPlace> = self.segments()?.into_iter().collect();
        let mut batch = Change::default();
        for key in self.tree.scan_prefix([UNREAD]).keys() {
            batch.remove(key?.to_vec());
        }
        for (at, place) in unread.iter().filter(|place| named.contains(place)).enumerate() {
            batch.put(&segment_key(UNREAD, at), encode_segments(std::slice::from_ref(place))?);
        }
        self.apply(batch)
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
