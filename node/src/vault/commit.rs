//! The commit: index segments, manifest, tail stripes, head.
//!
//! All stripes but the tail's are acknowledged when this begins. Their rows, and all runs, go into index segments; segments
//! and manifest follow the last data into the tail; the rows of the tail's stripes stand in the head.
//!
//! # Invariants
//!
//! - **DUR-1** The head is published after the last tail stripe was acknowledged; the catalogue lists the snapshot
//!   after a peer confirmed the head.
//! - An index segment that is lost does not stay in the manifest: its rows are written anew.
//! - A segment's stripe has its row in a later segment or in the head, so that recovery reads segments newest first.

use cairn_core::{pack::RawRun, pack::blobs, seal::seal_head};
use cairn_proto::{
    DecodeError, SnapshotId, Timestamp,
    head::{FORMAT_VERSION, HeadContent},
    index::{IndexSegment, RunPlace, RunRow, SEGMENT_TARGET, StripeNo, StripeRow},
    manifest::{EpochRow, GroupRow, Manifest, SnapshotRecord},
};
use std::collections::BTreeMap;

use super::{
    catalogue::{CatalogueError, CommitRecord, Counters, Meta},
    fallback,
    ingest::{Ingest, IngestError},
    session::{Session, StoreError, StripeJob},
};
use crate::overlay::OverlayError;

/// Segments that the tail may carry; more are written into stripes of their own first, or the head would not hold the
/// tail's rows: 4 MiB are one stripe.
const TAIL_SEGMENTS_MAX: usize = 3;
/// Bytes of index rows that are taken at once: with their segments and the stripes of those about 20 MiB, however large the
/// source was. More than [`TAIL_SEGMENTS_MAX`] segments, so that each turn gets rid of some.
const PENDING_AT_ONCE: usize = 4 * SEGMENT_TARGET;
const _: () = assert!(PENDING_AT_ONCE > TAIL_SEGMENTS_MAX * SEGMENT_TARGET);
/// Stripe numbers skipped with each commit, because the manifest says which is free before it is packed itself.
const NUMBERS_SLACK: u64 = 64;
/// Peers that should keep a head before it counts as safe.
pub(super) const HEAD_QUORUM: usize = 3;

/// Why a commit failed. What was stored before stays known and is not sent again.
#[derive(Debug, thiserror::Error)]
pub(super) enum CommitError {
    /// A tail stripe was not stored.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Packing failed.
    #[error(transparent)]
    Ingest(#[from] IngestError),
    /// The catalogue failed.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// A format's limit was reached.
    #[error("the vault has outgrown a format: {0}")]
    Format(#[from] DecodeError),
    /// The head could not be sealed.
    #[error("the head cannot be sealed: {0}")]
    Seal(String),
    /// Nobody confirmed the head.
    #[error("no peer kept the vault's head")]
    HeadNotKept,
    /// The overlay failed.
    #[error(transparent)]
    Overlay(#[from] OverlayError),
}

/// A commit that stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Committed {
    pub(super) head_kept_by: usize,
    /// Lost stripes that some snapshot still needs.
    pub(super) stripes_lost: usize,
}

/// Everything but the tail: what the caller knows.
pub(super) struct Commit<'a> {
    pub(super) session: &'a Session,
    pub(super) ingest: &'a mut Ingest,
    pub(super) snapshots: Vec<(SnapshotId, SnapshotRecord)>,
    pub(super) counters: Counters,
    pub(super) epochs: Vec<EpochRow>,
    pub(super) now: Timestamp,
}

impl Commit<'_> {
    /// Runs the commit to its end.
    pub(super) async fn run(mut self) -> Result<Committed, CommitError> {
        let mut segments = self.session.catalogue.living_segments()?;
        let (stripes, runs) = self.flush_surplus(&mut segments).await?;
        let tail_runs = self.ingest.open_rows();
        let placed: Vec<RunPlace> = runs.iter().chain(&tail_runs).map(|r| r.place).collect();
        let numbers: Vec<StripeNo> = stripes.iter().map(|s| s.no).collect();
        let mut jobs = Vec::new();
        for segment in IndexSegment::split(stripes, runs.into_iter().chain(tail_runs).collect()) {
            let run = RawRun::blob(segment.encode()?).map_err(IngestError::from)?;
            segments.push(self.ingest.place_in_tail(run, &mut jobs)?);
        }
        let manifest = self.manifest(&segments)?;
        let mut places = Vec::new();
        for run in blobs(&manifest.encode()?) {
            places.push(self.ingest.place_in_tail(run, &mut jobs)?);
        }
        jobs.extend(self.ingest.close());
        let tail = self.store_tail(jobs).await?;
        self.session.catalogue.flush()?;
        let (head, kept_by) = self.publish(tail, places).await?;

        let counters = Counters {
            sequence: head.sequence,
            next_stripe: manifest.next_stripe.0,
            next_group: self.session.groups.next_number(),
            ..self.counters
        };
        self.session.catalogue.finish_commit(&CommitRecord {
            snapshots: &self.snapshots,
            counters: Some(counters),
            segments: &segments,
            stripes: &numbers,
            runs: &placed,
            groups: &self.session.groups.rows(),
        })?;
        debug_assert_eq!(self.session.under_way.len(), 0, "all that was kept is recorded");
        self.session.catalogue.set_meta(Meta::Recovered, None)?;
        self.session.catalogue.set_meta(Meta::Moved, None)?;
        let stripes_lost = self.session.catalogue.retire_lost()?.len();
        Ok(Committed { head_kept_by: kept_by, stripes_lost })
    }

    /// Writes index segments into stripes of their own until what is left fits into the tail.
    async fn flush_surplus(
        &mut self,
        segments: &mut Vec<RunPlace>,
    ) -> Result<(Vec<StripeRow>, Vec<RunRow>), CommitError> {
        loop {
            let (stripes, runs, more) = self.session.catalogue.pending(PENDING_AT_ONCE)?;
            let mut parts = IndexSegment::split(stripes, runs);
            if !more && parts.len() <= TAIL_SEGMENTS_MAX {
                let stripes = parts.iter_mut().flat_map(|p| std::mem::take(&mut p.stripes)).collect();
                return Ok((stripes, parts.into_iter().flat_map(|p| p.runs).collect()));
            }
            // The last part is likely short; it waits for the tail.
            parts.pop();
            let (mut stripes, mut runs) = (Vec::new(), Vec::new());
            let mut packed = Vec::with_capacity(parts.len());
            for part in parts {
                packed.push(RawRun::blob(part.encode()?).map_err(IngestError::from)?);
                stripes.extend(part.stripes.iter().map(|s| s.no));
                runs.extend(part.runs.iter().map(|r| r.place));
            }
            let (places, jobs) = self.ingest.pack_apart(packed)?;
            for job in jobs {
                self.session.store(job).await?;
            }
            segments.extend(places);
            let groups = self.session.groups.rows();
            self.session.catalogue.finish_commit(&CommitRecord {
                segments,
                stripes: &stripes,
                runs: &runs,
                groups: &groups,
                ..CommitRecord::default()
            })?;
        }
    }

    fn manifest(&self, segments: &[RunPlace]) -> Result<Manifest, CommitError> {
        let mut groups: BTreeMap<u32, GroupRow> = BTreeMap::new();
        for row in self.session.catalogue.groups() {
            let row = row?;
            groups.insert(row.number, row);
        }
        for row in self.session.groups.rows() {
            groups.insert(row.number, row);
        }
        let mut snapshots = self.session.catalogue.snapshots()?;
        snapshots.extend(self.snapshots.iter().cloned());
        snapshots.sort_by_key(|(id, record)| (record.time, *id));
        Ok(Manifest {
            groups: groups.into_values().collect(),
            segments: segments.to_vec(),
            snapshots,
            next_stripe: StripeNo(self.ingest.next_stripe().0.saturating_add(NUMBERS_SLACK)),
            next_group: self.session.groups.next_number(),
            epochs: self.epochs.clone(),
        })
    }

    /// Stores the tail, all in one group when that has room: the head must name every group of it.
    async fn store_tail(&self, jobs: Vec<StripeJob>) -> Result<Vec<StripeRow>, CommitError> {
        let mut rows = Vec::with_capacity(jobs.len());
        let mut group = None;
        for job in jobs {
            let row = self.session.store(StripeJob { group, ..job }).await?;
            group = Some(row.group);
            rows.push(row);
        }
        Ok(rows)
    }

    async fn publish(
        &self,
        tail: Vec<StripeRow>,
        manifest: Vec<RunPlace>,
    ) -> Result<(HeadContent, usize), CommitError> {
        let mut groups = self.session.groups.rows();
        groups.retain(|g| tail.iter().any(|row| row.group == g.number));
        let head = HeadContent {
            format: FORMAT_VERSION,
            sequence: self.counters.sequence + 1,
            generation: self.counters.generation,
            created: self.now,
            epoch: self.session.epoch.number(),
            groups,
            tail,
            manifest,
            providers: fallback::in_head(&self.session.catalogue)?,
        };
        let encoded = head.encode()?;
        let sealed = seal_head(&self.session.keys, &head).map_err(|e| CommitError::Seal(e.to_string()))?;
        // Noted before it leaves: if the answer gets lost, the next run knows this head as its own.
        self.session.catalogue.set_meta(Meta::Head, Some(encoded))?;
        self.session.catalogue.flush()?;
        let published = self.session.overlay.publish_head(self.session.keys.vault_key(), sealed).await?;
        if published.kept_by == 0 {
            return Err(CommitError::HeadNotKept);
        }
        Ok((head, published.kept_by))
    }
}
