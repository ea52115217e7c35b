//! What a departure and this node's health look like, for people and programs.

use std::collections::BTreeSet;

use cairn_proto::{PeerKey, SHARD_SIZE, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Departure, HeldGroup, Phase, Scrubbed, State, book::Sums, departure::Verdict};

/// How a departure goes; without one, what it would be about.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LeaveStatus {
    /// `none`, `leaving`, `done`, `over` or `staying`.
    pub state: String,
    /// From when on the node is gone.
    pub at: Option<Timestamp>,
    /// Groups of which something is held.
    pub groups: u64,
    /// Of those, groups whose stewards say that others have it.
    pub groups_elsewhere: u64,
    /// Groups that are watched, and of which something would be lost as far as is known.
    pub groups_needed: u64,
    /// Groups that nobody is known to watch: they cannot be moved.
    pub groups_unwatched: u64,
    /// Shards held.
    pub shards: u64,
    /// Shards that would be lost by going now.
    pub shards_needed: u64,
    /// Shards of groups that nobody watches.
    pub shards_unwatched: u64,
    /// Bytes held.
    pub bytes: u64,
    /// Bytes that the others would send each other if this node were gone now: a copy where there is another, else a rebuild out of k
    /// others.
    pub rebuild_bytes: u64,
    /// Stewards of all these groups.
    pub stewards: u64,
    /// Groups of which a majority of the stewards knows of the departure.
    pub groups_told: u64,
    /// Rounds of questions so far.
    pub rounds: u64,
}

impl LeaveStatus {
    pub(super) fn new(groups: &[HeldGroup], state: &State, now: Timestamp) -> Self {
        let departure = state.departure.as_ref();
        let mut status = Self {
            state: phase(departure).to_owned(),
            at: departure.map(|departure| departure.at),
            groups: groups.len() as u64,
            rounds: state.answers.rounds,
            ..Self::default()
        };
        let (mut stewards, shard) = (BTreeSet::new(), SHARD_SIZE as u64);
        for held in groups {
            let (by, shards) = (state.book.get(&held.group), held.sound.len() as u64);
            status.shards += shards;
            status.bytes += shards * shard;
            stewards.extend(by.into_iter().flat_map(|by| by.stewards.iter().copied()));
            let told = by.is_some_and(|by| 2 * state.answers.heard(&held.group) > by.stewards.len());
            status.groups_told += u64::from(told);
            match state.answers.verdict(&held.group, by, now) {
                Verdict::Unwatched => {
                    status.groups_unwatched += 1;
                    status.shards_unwatched += shards;
                }
                Verdict::Elsewhere => status.groups_elsewhere += 1,
                Verdict::Needed | Verdict::Unheard => {
                    status.groups_needed += 1;
                    status.shards_needed += shards;
                    let times = by.map_or(1, |by| if by.replicas > 1 { 1 } else { by.data.into() });
                    status.rebuild_bytes += shards * shard * times;
                }
            }
        }
        status.stewards = stewards.len() as u64;
        status
    }

    /// Whether nothing is lost by going.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == "done"
    }
}

fn phase(departure: Option<&Departure>) -> &'static str {
    match departure.map(|departure| departure.phase) {
        None => "none",
        Some(Phase::Leaving) => "leaving",
        Some(Phase::Done) => "done",
        Some(Phase::Over) => "over",
        Some(Phase::Staying { .. }) => "staying",
    }
}

/// What is known of how the stewards see this node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Census {
    /// Groups of which something is held, ...
    pub groups: usize,
    /// ... and those of them that somebody is known to watch.
    pub watched: usize,
    /// Stewards of these.
    pub stewards: usize,
    /// Which steward asked last what is here, and when.
    pub asked: Option<(PeerKey, Timestamp)>,
    /// When stewards last gave shards to this node.
    pub ordered: Option<Timestamp>,
    /// Groups of which something is lost and not healed, ...
    pub lost_groups: usize,
    /// ... shards of them, ...
    pub lost_shards: usize,
    /// ... and groups of them of which a majority of the stewards took note.
    pub told_groups: usize,
    /// Shards lost and healed ever.
    pub sums: Sums,
    /// The last scrub.
    pub scrubbed: Option<Scrubbed>,
    /// `none`, `leaving`, `done`, `over` or `staying`, and from when on.
    pub leave: (String, Option<Timestamp>),
    /// What was written here last is of a time that is yet to come: the clock was set back.
    pub clock_back_ms: u64,
}

impl Census {
    pub(super) fn new(groups: &[HeldGroup], state: &State, now: Timestamp) -> Self {
        let watchers = || groups.iter().filter_map(|held| state.book.get(&held.group));
        let losses = state.losses.all();
        let told =
            losses.iter().filter(|(group, loss)| state.book.get(group).is_some_and(|by| loss.is_told(&by.stewards)));
        Self {
            groups: groups.len(),
            watched: watchers().filter(|by| by.ends > now).count(),
            stewards: watchers().flat_map(|by| &by.stewards).collect::<BTreeSet<_>>().len(),
            asked: watchers().filter_map(|by| by.asked).max_by_key(|(_, at)| *at),
            ordered: watchers().filter_map(|by| by.ordered).max(),
            lost_groups: losses.len(),
            lost_shards: losses.values().map(|loss| loss.ordinals.len()).sum(),
            told_groups: told.count(),
            sums: state.losses.sums,
            scrubbed: state.scrubbed,
            leave: (phase(state.departure.as_ref()).to_owned(), state.departure.map(|departure| departure.at)),
            clock_back_ms: state.saved.map_or(0, |saved| saved.ms_since(now)),
        }
    }
}
