//! What survives a restart: one small file, as JSON under a checksum ([`StateFiles`]). One that is damaged is set aside.

use std::{collections::BTreeMap, io, path::PathBuf, sync::Arc};

use cairn_proto::{GroupId, Slot, Timestamp};
use serde::{Deserialize, Serialize};

use super::{
    Departure, Scrubbed, State, Watchers,
    book::{Book, Losses, Sums},
};
use crate::stewardship::files::{Disk, StateFiles};

const NAME: &str = "holdings.json";

/// The file's content.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Kept {
    saved: Timestamp0,
    groups: BTreeMap<GroupId, Watchers>,
    losses: BTreeMap<GroupId, (u8, Vec<u8>, Timestamp)>,
    sums: Sums,
    departure: Option<Departure>,
    scrubbed: Option<Scrubbed>,
}

/// A time that a file of before has not.
type Timestamp0 = Option<Timestamp>;

impl Kept {
    /// The folder, and what was in it.
    pub(super) fn open(folder: PathBuf, disk: Arc<dyn Disk>) -> io::Result<(StateFiles, Option<Self>)> {
        let files = StateFiles::open(folder, disk)?;
        let read = files.read(NAME).and_then(|body| serde_json::from_slice(&body).map_err(io::Error::other));
        let kept = match read {
            Ok(kept) => Some(kept),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                files.set_aside(NAME, &error);
                None
            }
        };
        Ok((files, kept))
    }

    /// What is to be written, at this time.
    pub(super) fn of(state: &State, now: Timestamp) -> Self {
        let losses = state.losses.all().iter();
        let losses =
            losses.map(|(group, loss)| (*group, (loss.slot.as_u8(), loss.ordinals.iter().collect(), loss.since)));
        Self {
            saved: Some(now),
            groups: state.book.all().clone(),
            losses: losses.collect(),
            sums: state.losses.sums,
            departure: state.departure,
            scrubbed: state.scrubbed,
        }
    }

    /// Blocking; durable when it is good.
    pub(super) fn write(&self, files: &StateFiles) -> io::Result<()> {
        let body = serde_json::to_vec(self).map_err(io::Error::other)?;
        files.write([(NAME.to_owned(), body)]).pop().unwrap_or(Ok(()))
    }

    /// Takes up what was kept. What was learned meanwhile stands above it.
    pub(super) fn into_state(self, state: &mut State) {
        let learned = std::mem::take(&mut state.book);
        state.book = Book::of(self.groups);
        for (group, by) in learned.all() {
            state.book.note(*group, by.clone());
        }
        let losses = self.losses.into_iter();
        let losses = losses.filter_map(|(group, (slot, lost, at))| Some((group, (Slot::new(slot).ok()?, lost, at))));
        state.losses = Losses::of(losses.collect(), self.sums);
        (state.departure, state.scrubbed, state.saved) = (self.departure, self.scrubbed, self.saved);
    }
}
