//! From bytes to stripes: cut, name, leave out what is known, compress, pack. Blocking; runs on one thread of the
//! blocking pool, compresses on others beside it, and hands full stripes to the senders through a bounded channel.
//!
//! Memory: one open stripe payload, the metadata lane (one payload), two open runs (1 MiB each), runs under compression
//! ([`compressing::WAITING_MAX`], twice), the chunker's buffer (8 MiB): about 36 MiB, whatever the size of the source.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use cairn_core::{
    chunking::ChunkProfile,
    keys::VaultKeys,
    pack::{MetadataLane, PackError, Packed, PackedRun, Packer, RawRun, RunBuilder, StripeNumbers, compress, is_alone},
};
use cairn_proto::{
    ChunkId, CodeParams, DecodeError,
    index::{RunPlace, RunRow, StripeNo},
    tree::{ContentRef, ListBuilder, Node, TreeWriter},
};
use tokio::sync::mpsc;

use super::{
    catalogue::{Catalogue, CatalogueError},
    session::StripeJob,
    under_way::UnderWay,
};

mod compressing;

use compressing::Compressing;

/// Chunks that a dry run remembers, which records none: 64 MiB or so. One that comes again after that many others is
/// counted twice.
const DRY_SEEN_MAX: usize = 1 << 20;

/// Why packing ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum IngestError {
    /// The senders are gone, or the run was cancelled.
    #[error("the run was stopped")]
    Stopped,
    /// A thread that compressed ended unexpectedly.
    #[error("a thread that compresses ended unexpectedly")]
    Compressor,
    /// A rule of packing was broken.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// A rule of the formats was broken.
    #[error(transparent)]
    Format(#[from] DecodeError),
    /// The catalogue failed.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
}

/// Figures of a run, shared with the progress display.
#[derive(Debug, Default)]
pub(super) struct Figures {
    pub(super) files: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) added: AtomicU64,
    pub(super) stored: AtomicU64,
    pub(super) data_chunks: AtomicU64,
    pub(super) tree_chunks: AtomicU64,
    pub(super) current: std::sync::Mutex<String>,
}

/// Which lane a chunk goes into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    Data,
    Metadata,
}

/// Where full stripes go.
pub(super) enum Out {
    /// To the senders.
    Senders(mpsc::Sender<StripeJob>),
    /// Nowhere: a dry run.
    Nowhere,
}

/// The packing half of a backup.
pub(super) struct Ingest {
    keys: Arc<VaultKeys>,
    catalogue: Catalogue,
    data: RunBuilder,
    metadata: RunBuilder,
    compressing: Compressing,
    code: CodeParams,
    packer: Packer,
    lane: MetadataLane,
    numbers: StripeNumbers,
    /// Rows of placed runs by the stripe that completes them.
    rows: BTreeMap<StripeNo, Vec<RunRow>>,
    under_way: Arc<UnderWay>,
    dry: bool,
    /// Stripes known to be lost: what lies in them is stored anew.
    lost: BTreeSet<StripeNo>,
    out: Out,
    figures: Arc<Figures>,
}

impl Ingest {
    pub(super) fn new(
        keys: Arc<VaultKeys>,
        catalogue: Catalogue,
        code: CodeParams,
        profile: ChunkProfile,
        numbers: StripeNumbers,
        out: Out,
        figures: Arc<Figures>,
    ) -> Result<Self, IngestError> {
        let lost = catalogue.lost()?;
        Ok(Self {
            keys,
            catalogue,
            data: RunBuilder::new(profile),
            metadata: RunBuilder::new(ChunkProfile::Metadata),
            compressing: Compressing::default(),
            code,
            packer: Packer::new(code)?,
            lane: MetadataLane::new(code),
            numbers,
            rows: BTreeMap::new(),
            under_way: Arc::default(),
            dry: matches!(out, Out::Nowhere),
            lost,
            out,
            figures,
        })
    }

    /// With what is under way shared with those who record it.
    pub(super) fn sharing(self, under_way: Arc<UnderWay>) -> Self {
        Self { under_way, ..self }
    }

    /// Keeps a chunk, unless the vault has it; its id.
    pub(super) fn keep(&mut self, lane: Lane, chunk: &[u8]) -> Result<ChunkId, IngestError> {
        let id = self.keys.chunk_id(chunk);
        if self.under_way.has(&id) || has(&self.catalogue, &self.lost, &id)? {
            return Ok(id);
        }
        if self.dry && self.under_way.len() >= DRY_SEEN_MAX {
            self.under_way.clear();
        }
        self.under_way.insert(id);
        self.figures.added.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        match lane {
            Lane::Data => {
                self.figures.data_chunks.fetch_add(1, Ordering::Relaxed);
                if is_alone(chunk) {
                    self.keep_alone(id, chunk)?;
                } else if let Some(run) = self.data.push(id, chunk)? {
                    self.pass_on(lane, run)?;
                }
            }
            Lane::Metadata => {
                self.figures.tree_chunks.fetch_add(1, Ordering::Relaxed);
                if let Some(run) = self.metadata.push(id, chunk)? {
                    self.pass_on(lane, run)?;
                }
            }
        }
        Ok(id)
    }

    /// Places a chunk as it lies, behind those before it. When none of them waits it is copied once, and no thread is woken for it.
    fn keep_alone(&mut self, id: ChunkId, chunk: &[u8]) -> Result<(), IngestError> {
        if let Some(run) = self.data.finish() {
            self.pass_on(Lane::Data, run)?;
        }
        if !self.compressing.is_empty() {
            self.compressing.push_alone(Lane::Data, id, chunk);
            return self.place_due();
        }
        self.figures.stored.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        let packed = self.packer.push_alone(id, chunk, &mut self.numbers)?;
        self.emit(packed)
    }

    /// Has a run compressed; those before it that are due get their places, in the order in which they came.
    fn pass_on(&mut self, lane: Lane, run: RawRun) -> Result<(), IngestError> {
        self.compressing.push(lane, run);
        self.place_due()
    }

    fn place_due(&mut self) -> Result<(), IngestError> {
        while let Some((lane, run)) = self.compressing.due()? {
            self.place(lane, run)?;
        }
        Ok(())
    }

    fn place(&mut self, lane: Lane, run: PackedRun) -> Result<(), IngestError> {
        let packed = match lane {
            Lane::Data => {
                self.figures.stored.fetch_add(run.stored.len() as u64, Ordering::Relaxed);
                self.packer.push(run, &mut self.numbers)?.1
            }
            Lane::Metadata => self.lane.push(run, &mut self.numbers)?,
        };
        self.emit(packed)
    }

    fn emit(&mut self, packed: Packed) -> Result<(), IngestError> {
        for row in packed.rows {
            // A run without chunks is an index segment or a manifest: whoever placed it keeps its place.
            if !row.chunks.is_empty() {
                self.rows.entry(row.place.next.unwrap_or(row.place.stripe)).or_default().push(row);
            }
        }
        for stripe in packed.stripes {
            let job = self.job(stripe);
            match &self.out {
                Out::Senders(sender) => sender.blocking_send(job).map_err(|_| IngestError::Stopped)?,
                Out::Nowhere => {}
            }
        }
        Ok(())
    }

    fn job(&mut self, stripe: cairn_core::pack::FilledStripe) -> StripeJob {
        let runs = self.rows.remove(&stripe.no).unwrap_or_default();
        StripeJob { no: stripe.no, payload: stripe.payload, runs, group: None }
    }

    /// Places a run behind the last data. Stripes that fill up on the way are collected, not sent.
    pub(super) fn place_in_tail(&mut self, run: RawRun, jobs: &mut Vec<StripeJob>) -> Result<RunPlace, IngestError> {
        let (place, packed) = self.packer.push(compress(run), &mut self.numbers)?;
        for stripe in packed.stripes {
            jobs.push(self.job(stripe));
        }
        Ok(place)
    }

    /// Packs runs without chunks into stripes of their own.
    pub(super) fn pack_apart(&mut self, runs: Vec<RawRun>) -> Result<(Vec<RunPlace>, Vec<StripeJob>), IngestError> {
        let mut packer = Packer::new(self.code)?;
        let (mut places, mut jobs) = (Vec::new(), Vec::new());
        for run in runs {
            let (place, packed) = packer.push(compress(run), &mut self.numbers)?;
            places.push(place);
            jobs.extend(packed.stripes.into_iter().map(|s| self.job(s)));
        }
        jobs.extend(packer.finish().map(|s| self.job(s)));
        Ok((places, jobs))
    }

    /// Places all that waits, data first, then metadata. The last stripe stays open for the tail.
    pub(super) fn settle(&mut self) -> Result<(), IngestError> {
        if let Some(run) = self.data.finish() {
            self.pass_on(Lane::Data, run)?;
        }
        if let Some(run) = self.metadata.finish() {
            self.pass_on(Lane::Metadata, run)?;
        }
        while let Some((lane, run)) = self.compressing.next()? {
            self.place(lane, run)?;
        }
        for run in self.lane.drain() {
            self.figures.stored.fetch_add(run.stored.len() as u64, Ordering::Relaxed);
            let (_, packed) = self.packer.push(run, &mut self.numbers)?;
            self.emit(packed)?;
        }
        Ok(())
    }

    /// Rows of runs that end in a stripe which is not sent yet.
    pub(super) fn open_rows(&self) -> Vec<RunRow> {
        self.rows.values().flatten().cloned().collect()
    }

    /// The open stripe, as short as it may be; nothing when none is open.
    pub(super) fn close(&mut self) -> Option<StripeJob> {
        let stripe = self.packer.finish()?;
        Some(self.job(stripe))
    }

    /// Lets go of the senders, so that they end when their queue is empty.
    pub(super) fn release_senders(&mut self) {
        self.out = Out::Nowhere;
    }

    /// The first stripe number not given out.
    pub(super) const fn next_stripe(&self) -> StripeNo {
        self.numbers.next()
    }

    /// Whether the vault has all chunks that the content names directly. Of content behind lists the caller remembers no
    /// file that is older than the last loss ([`Catalogue::set_lost`]).
    pub(super) fn has_content(&self, content: &ContentRef) -> Result<bool, IngestError> {
        for id in &content.ids {
            if !has(&self.catalogue, &self.lost, id)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Stripes that were known to be lost when the run began.
    pub(super) const fn lost(&self) -> &BTreeSet<StripeNo> {
        &self.lost
    }

    /// Whether stripes were known to be lost when the run began.
    pub(super) fn knows_losses(&self) -> bool {
        !self.lost.is_empty()
    }

    /// Bytes of chunks that the vault did not have.
    pub(super) fn bytes_added(&self) -> u64 {
        self.figures.added.load(Ordering::Relaxed)
    }

    /// Keys, for naming.
    pub(super) fn keys(&self) -> &VaultKeys {
        &self.keys
    }

    /// The catalogue.
    pub(super) const fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }
}

/// Whether the chunk lies in acknowledged stripes that are not lost.
fn has(catalogue: &Catalogue, lost: &BTreeSet<StripeNo>, id: &ChunkId) -> Result<bool, CatalogueError> {
    if lost.is_empty() {
        return catalogue.has_chunk(id);
    }
    let whole = |p: &RunPlace| !lost.contains(&p.stripe) && p.next.is_none_or(|no| !lost.contains(&no));
    Ok(catalogue.find_chunk(id)?.is_some_and(|run| whole(&run.place)))
}

/// A folder on its way: nodes go in by name, its content comes out.
#[derive(Default)]
pub(super) struct Folder {
    tree: TreeWriter,
    list: ListBuilder,
}

impl Folder {
    /// Adds an entry.
    pub(super) fn push(&mut self, node: &Node, ingest: &mut Ingest) -> Result<(), IngestError> {
        if let Some(chunk) = self.tree.push(node)? {
            let id = ingest.keep(Lane::Metadata, &chunk)?;
            self.list.push(id, &mut |list: Vec<u8>| ingest.keep(Lane::Metadata, &list))?;
        }
        Ok(())
    }

    /// The folder's content.
    pub(super) fn finish(mut self, ingest: &mut Ingest) -> Result<ContentRef, IngestError> {
        if let Some(chunk) = self.tree.finish() {
            let id = ingest.keep(Lane::Metadata, &chunk)?;
            self.list.push(id, &mut |list: Vec<u8>| ingest.keep(Lane::Metadata, &list))?;
        }
        self.list.finish(&mut |list: Vec<u8>| ingest.keep(Lane::Metadata, &list))
    }
}
