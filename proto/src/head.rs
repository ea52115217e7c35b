//! The head: the one small record that everything else of a vault is found from. What is here is sealed under the
//! head key and travels inside [`crate::message::HeadRecord`], which adds signature, generation and sequence.

use crate::{
    DecodeError, Timestamp,
    index::{RunPlace, StripeRow},
    layout::{Reader, at_most, put_bytes, put_number},
    manifest::{GroupRow, put_groups, read_groups},
};

#[cfg(test)]
mod tests;

/// Version of the formats that a head leads to.
pub const FORMAT_VERSION: u32 = 1;
/// Most bytes of an encoded head: what [`crate::message::HEAD_RECORD_MAX`] leaves for it, after the signed envelope
/// and the sealing (some 160 bytes), in whole steps of [`HEAD_STEP`], less the two bytes of its length.
pub const HEAD_CONTENT_MAX: usize = 15 * HEAD_STEP - 2;
/// A sealed head is padded to a multiple of this, so that its size says little.
pub const HEAD_STEP: usize = 512;
/// Most runs that a manifest is cut into.
pub const MANIFEST_RUNS_MAX: usize = 16;
/// Most providers of fallback storage that a vault ever had: far more than are in use at a time, since one that moved away
/// is forgotten only when nothing lies there any more.
pub const PROVIDERS_MAX: usize = 16;
/// Most bytes of a provider's name.
pub const PROVIDER_NAME_MAX: usize = 32;

const WHAT: &str = "head";

/// A provider of fallback storage at which some slots lie, so that whoever recovers the vault on a blank machine can be told
/// what is missing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProviderRow {
    /// What its marker object says: drawn at random when it was first used.
    pub id: [u8; 32],
    /// As its owner calls it.
    pub name: String,
}

impl ProviderRow {
    /// Whether a provider may be called so: short, and plain enough for a terminal.
    #[must_use]
    pub fn may_be_named(name: &str) -> bool {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        !name.is_empty() && name.len() <= PROVIDER_NAME_MAX && name.chars().all(plain)
    }
}

/// What a head says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadContent {
    /// Version of the formats; [`FORMAT_VERSION`].
    pub format: u32,
    /// Raised by one with every commit.
    pub sequence: u64,
    /// Raised by every recovery on another machine.
    pub generation: u32,
    /// When the commit was made.
    pub created: Timestamp,
    /// Epoch whose key seals new stripes.
    pub epoch: u32,
    /// The groups that the tail's stripes are in, ascending by number.
    pub groups: Vec<GroupRow>,
    /// The stripes whose rows are in no index segment yet; the manifest and the newest segment lie in them.
    pub tail: Vec<StripeRow>,
    /// Where the manifest lies: its runs in order, at least one.
    pub manifest: Vec<RunPlace>,
    /// Providers of fallback storage, ascending by id. None is no byte, as in heads from before there were any.
    pub providers: Vec<ProviderRow>,
}

impl HeadContent {
    /// Checks and encodes.
    ///
    /// # Errors
    /// The first rule broken, or more than [`HEAD_CONTENT_MAX`] bytes: then the tail must be shortened by writing
    /// another index segment first.
    pub fn encode(&self) -> Result<Vec<u8>, DecodeError> {
        self.check()?;
        let mut out = Vec::with_capacity(1024);
        put_number(&mut out, self.format.into());
        put_number(&mut out, self.sequence);
        put_number(&mut out, self.generation.into());
        put_number(&mut out, self.created.0);
        put_number(&mut out, self.epoch.into());
        put_groups(&mut out, &self.groups)?;
        put_number(&mut out, self.tail.len() as u64);
        for row in &self.tail {
            row.put(&mut out)?;
        }
        put_number(&mut out, self.manifest.len() as u64);
        for place in &self.manifest {
            place.put(&mut out)?;
        }
        if !self.providers.is_empty() {
            put_number(&mut out, self.providers.len() as u64);
            for row in &self.providers {
                out.extend_from_slice(&row.id);
                put_bytes(&mut out, row.name.as_bytes());
            }
        }
        at_most(WHAT, HEAD_CONTENT_MAX, out.len())?;
        Ok(out)
    }

    /// Decodes what [`HeadContent::encode`] gave.
    ///
    /// # Errors
    /// The first rule broken.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        at_most(WHAT, HEAD_CONTENT_MAX, bytes.len())?;
        let mut r = Reader::new(WHAT, bytes);
        let format = r.u32()?;
        if format != FORMAT_VERSION {
            return Err(r.invalid("written by another version of the program"));
        }
        let (sequence, generation) = (r.u64()?, r.u32()?);
        let (created, epoch) = (Timestamp(r.u64()?), r.u32()?);
        let groups = read_groups(&mut r)?;
        let mut tail = Vec::new();
        for _ in 0..r.count(HEAD_CONTENT_MAX, 32 * 3)? {
            tail.push(StripeRow::read(&mut r)?);
        }
        let mut manifest = Vec::new();
        for _ in 0..r.count(MANIFEST_RUNS_MAX, 6)? {
            manifest.push(RunPlace::read(&mut r)?);
        }
        let mut providers = Vec::new();
        if !r.is_empty() {
            for _ in 0..r.count(PROVIDERS_MAX, 34)? {
                providers.push(ProviderRow { id: r.array()?, name: r.text(PROVIDER_NAME_MAX)? });
            }
            if providers.is_empty() {
                return Err(r.invalid("an empty list of providers"));
            }
        }
        r.finish()?;
        let head = Self { format, sequence, generation, created, epoch, groups, tail, manifest, providers };
        head.check()?;
        Ok(head)
    }

    fn check(&self) -> Result<(), DecodeError> {
        let bad = |why| Err(DecodeError::Invalid { what: WHAT, why });
        if self.format != FORMAT_VERSION {
            return bad("unknown format");
        }
        at_most("manifest runs", MANIFEST_RUNS_MAX, self.manifest.len())?;
        if self.manifest.is_empty() {
            return bad("no manifest");
        }
        at_most("providers", PROVIDERS_MAX, self.providers.len())?;
        if !self.providers.is_sorted_by(|a, b| a.id < b.id) {
            return bad("providers out of order");
        }
        if !self.providers.iter().all(|row| ProviderRow::may_be_named(&row.name)) {
            return bad("a provider's name");
        }
        let known = |no| self.tail.iter().any(|row| row.no == no);
        if self.manifest.iter().any(|p| !known(p.stripe) || p.next.is_some_and(|no| !known(no))) {
            return bad("the manifest lies in a stripe that is not in the tail");
        }
        let group = |row: &StripeRow| self.groups.iter().find(|g| g.number == row.group);
        for row in &self.tail {
            if group(row).is_none_or(|g| row.code() != Ok(g.code)) {
                return bad("a stripe of the tail without its group, or of another code");
            }
        }
        Ok(())
    }
}
