//! Which shards are asked for at whom.
//!
//! A holder is asked for what it says that it has, and for what nobody says to have: of two holders of a slot the one that came later
//! never got the older stripes, and owes none. One that does not say what it has is asked for anything.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use cairn_proto::{
    ChunkId, PeerKey, ShardRoot, Slot, SnapshotId,
    index::{StripeNo, StripeRow},
    manifest::GroupRow,
    tree::ContentRef,
};
use futures::StreamExt as _;
use rand_chacha::ChaCha20Rng;
use rand_core::Rng as _;
use tokio::sync::mpsc;

use crate::{
    failure::Failure,
    ops::{Event, ItemError},
    overlay::{GroupAccess, Overlay, OverlayError, TransferError},
    vault::{
        Vault, browse,
        content_ids::ContentIds,
        failures,
        groups::access_of,
        holdings::names,
        reader::Reader,
        tree_walk::{TreeStep, TreeWalk},
    },
};

/// Holders asked at once what they have.
const ASKED: usize = 32;

/// A shard, and whom to ask for it.
pub(super) type Sampled = (Target, Vec<PeerKey>);

/// One shard to ask for.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) access: Arc<GroupAccess>,
    pub(super) slot: Slot,
    pub(super) ordinal: u8,
    pub(super) root: ShardRoot,
}

/// A draw of some of many that pass by, each as likely as any other (Vitter's algorithm R).
#[derive(Debug, Default)]
struct Lots {
    seen: u64,
    held: usize,
}

impl Lots {
    /// Where to put the next one, which may be behind the last, or nowhere.
    fn draw(&mut self, most: u64, rng: &mut ChaCha20Rng) -> Option<usize> {
        self.seen += 1;
        if (self.held as u64) < most {
            self.held += 1;
            return Some(self.held - 1);
        }
        // The remainder's slant is below 2^-40 for any vault that fits the format.
        usize::try_from(rng.next_u64() % self.seen).ok().filter(|at| *at < self.held)
    }
}

fn put<T>(chosen: &mut Vec<T>, at: usize, one: T) {
    match chosen.get_mut(at) {
        Some(place) => *place = one,
        None => chosen.push(one),
    }
}

/// The sample of one holder, and of how many shards it is.
#[derive(Debug, Default)]
pub(super) struct Beat {
    lots: Lots,
    pub(super) chosen: Vec<Target>,
}

impl Beat {
    pub(super) const fn shards(&self) -> u64 {
        self.lots.seen
    }
}

/// The samples of all holders.
#[derive(Debug, Default)]
pub(super) struct Beats {
    pub(super) by_holder: BTreeMap<PeerKey, Beat>,
    /// Shards in all.
    pub(super) shards: u64,
    /// Shards that nobody is known to hold.
    pub(super) without_holder: u64,
}

impl Beats {
    /// Shards that somebody is asked for; one that two holders are asked for is one.
    pub(super) fn asked_shards(&self) -> u64 {
        let chosen = self.by_holder.values().flat_map(|beat| &beat.chosen);
        let of = |target: &Target| (target.access.ticket.id(), target.slot, target.ordinal);
        chosen.map(of).collect::<BTreeSet<_>>().len() as u64
    }
}

/// What each holder of a slot of a group says to have; nothing when it says nothing.
type Said = BTreeMap<(u32, u8), Vec<(PeerKey, Option<[u8; 32]>)>>;

/// What is audited.
pub(super) struct Chosen {
    /// `None`: everything.
    only: Option<BTreeSet<StripeNo>>,
    pub(super) snapshot: Option<SnapshotId>,
    pub(super) stripes: u64,
    /// Folders and files of which it cannot be told now where they lie.
    pub(super) unread: u64,
    groups: BTreeMap<u32, Arc<GroupAccess>>,
    said: Said,
}

/// The stripes of a snapshot, or all, and who says to have them.
pub(super) async fn choose(
    vault: &Vault,
    reader: &Reader,
    overlay: &Arc<dyn Overlay>,
    snapshot: Option<&str>,
    all: bool,
    events: &mpsc::Sender<Event>,
) -> Result<Chosen, Failure> {
    let (mut only, mut unread, mut id) = (None, 0, None);
    if !all {
        let (found, record) = browse::pick(vault, snapshot.unwrap_or("latest"))?;
        let (stripes, failed) = stripes_of(vault, reader, record.root, events).await?;
        (only, unread, id) = (Some(stripes), failed, Some(found));
    }
    let (mut numbers, mut stripes) = (BTreeSet::new(), 0);
    let wanted = |row: &StripeRow| only.as_ref().is_none_or(|only| only.contains(&row.no));
    for row in vault.catalogue.stripes() {
        let row = row.map_err(failures::catalogue)?;
        if wanted(&row) {
            stripes += 1;
            numbers.insert(row.group);
        }
    }
    let rows: Vec<GroupRow> = vault.catalogue.groups().collect::<Result<_, _>>().map_err(failures::catalogue)?;
    let mut groups = BTreeMap::new();
    for row in rows.iter().filter(|row| numbers.contains(&row.number)) {
        groups.insert(row.number, Arc::new(access_of(&vault.keys, row).map_err(|e| failures::bug("GROUP", &e))?));
    }
    let holders = |row: &GroupRow| -> Vec<(u32, Slot, PeerKey)> {
        let slots = row.code.each_slot().zip(&row.holders);
        slots.flat_map(|(slot, holders)| holders.iter().map(move |h| (row.number, slot, *h))).collect()
    };
    let rows: Vec<&GroupRow> = rows.iter().filter(|row| groups.contains_key(&row.number)).collect();
    let mut said = Said::new();
    ask(overlay, &groups, rows.iter().flat_map(|row| holders(row)).collect(), &mut said).await?;
    // Where somebody is silent or lacks something, stewards may know who holds it now.
    let mut short: BTreeSet<u32> =
        said.iter().filter(|(_, s)| s.iter().any(|(_, bits)| bits.is_none())).map(|((g, _), _)| *g).collect();
    for row in vault.catalogue.stripes() {
        let row = row.map_err(failures::catalogue)?;
        if wanted(&row) && row.present().any(|(slot, _)| !is_named(&said, &row, slot)) {
            short.insert(row.group);
        }
    }
    let mut news = Vec::new();
    for row in rows.iter().filter(|row| short.contains(&row.number)) {
        let Some(access) = groups.get(&row.number) else { continue };
        let learned = reader.learner().learn(row.number, access).await;
        news.extend(learned.news(row).into_iter().map(|(slot, holder)| (row.number, slot, holder)));
    }
    ask(overlay, &groups, news, &mut said).await?;
    Ok(Chosen { only, snapshot: id, stripes, unread, groups, said })
}

/// Asks holders what they have.
async fn ask(
    overlay: &Arc<dyn Overlay>,
    groups: &BTreeMap<u32, Arc<GroupAccess>>,
    whom: Vec<(u32, Slot, PeerKey)>,
    said: &mut Said,
) -> Result<(), Failure> {
    let questions = whom.into_iter().filter_map(|(group, slot, holder)| {
        let access = groups.get(&group)?.clone();
        Some(async move { (group, slot, holder, overlay.has_shards(holder, access, slot).await) })
    });
    let mut answers = futures::stream::iter(questions).buffer_unordered(ASKED);
    while let Some((group, slot, holder, answer)) = answers.next().await {
        if answer == Err(TransferError::ShuttingDown) {
            return Err(failures::overlay(OverlayError::ShuttingDown));
        }
        said.entry((group, slot.as_u8())).or_default().push((holder, answer.ok()));
    }
    Ok(())
}

fn is_named(said: &Said, row: &StripeRow, slot: Slot) -> bool {
    let holders = said.get(&(row.group, slot.as_u8())).map(Vec::as_slice).unwrap_or_default();
    holders.iter().any(|(_, bits)| bits.is_some_and(|bits| names(&bits, row.ordinal)))
}

impl Chosen {
    /// Each shard with whom to ask for it.
    fn each(&self, vault: &Vault, mut take: impl FnMut(Target, Vec<PeerKey>)) -> Result<(), Failure> {
        for row in vault.catalogue.stripes() {
            let row = row.map_err(failures::catalogue)?;
            if self.only.as_ref().is_some_and(|only| !only.contains(&row.no)) {
                continue;
            }
            // A backup beside us may have added it.
            let Some(access) = self.groups.get(&row.group) else { continue };
            for (slot, root) in row.present() {
                let holders = self.said.get(&(row.group, slot.as_u8())).map(Vec::as_slice).unwrap_or_default();
                let named = is_named(&self.said, &row, slot);
                let owes = |bits: &Option<[u8; 32]>| bits.is_none_or(|bits| !named || names(&bits, row.ordinal));
                let whom = holders.iter().filter(|(_, bits)| owes(bits)).map(|(holder, _)| *holder).collect();
                take(Target { access: access.clone(), slot, ordinal: row.ordinal, root: *root }, whom);
            }
        }
        Ok(())
    }

    /// A sample of at most so many shards for each holder.
    pub(super) fn beats(&self, vault: &Vault, most: u64, rng: &mut ChaCha20Rng) -> Result<Beats, Failure> {
        let mut beats = Beats::default();
        self.each(vault, |target, holders| {
            beats.shards += 1;
            beats.without_holder += u64::from(holders.is_empty());
            for holder in holders {
                let beat = beats.by_holder.entry(holder).or_default();
                if let Some(at) = beat.lots.draw(most, rng) {
                    put(&mut beat.chosen, at, target.clone());
                }
            }
        })?;
        Ok(beats)
    }

    /// A sample of at most so many of all shards that somebody may hold, with whom to ask; and of how many.
    pub(super) fn sample(
        &self,
        vault: &Vault,
        most: u64,
        rng: &mut ChaCha20Rng,
    ) -> Result<(Vec<Sampled>, u64), Failure> {
        let (mut lots, mut chosen) = (Lots::default(), Vec::new());
        self.each(vault, |target, holders| {
            if !holders.is_empty()
                && let Some(at) = lots.draw(most, rng)
            {
                put(&mut chosen, at, (target, holders));
            }
        })?;
        Ok((chosen, lots.seen))
    }
}

/// Where a snapshot's trees and contents lie, and how much of it cannot be told now.
async fn stripes_of(
    vault: &Vault,
    reader: &Reader,
    root: ContentRef,
    events: &mpsc::Sender<Event>,
) -> Result<(BTreeSet<StripeNo>, u64), Failure> {
    let (mut stripes, mut unread) = (BTreeSet::new(), 0);
    // And the index, without which nobody finds them on another machine.
    for place in vault.catalogue.segments().map_err(failures::catalogue)? {
        stripes.insert(place.stripe);
        stripes.extend(place.next);
    }
    unread += u64::from(!place(vault, reader, &root, &mut stripes).await?);
    let mut walk = TreeWalk::new(reader, root);
    while let Some(step) = walk.next().await {
        let (name, why) = match step {
            TreeStep::Enter(node) | TreeStep::Leaf(node) => {
                match place(vault, reader, &node.content, &mut stripes).await? {
                    true => continue,
                    false => (node.name, "cannot be told where it lies".to_owned()),
                }
            }
            TreeStep::Failed(error) => (Vec::new(), error.to_string()),
            TreeStep::Leave => continue,
        };
        unread += 1;
        let item = String::from_utf8_lossy(&walk.path_of(&name)).into_owned();
        let _ = events.send(Event::Error(ItemError { item, during: "fetch".to_owned(), message: why })).await;
    }
    Ok((stripes, unread))
}

/// Adds the stripes of a content: its chunks', and its first lists'. False: not all of it is known.
async fn place(
    vault: &Vault,
    reader: &Reader,
    content: &ContentRef,
    stripes: &mut BTreeSet<StripeNo>,
) -> Result<bool, Failure> {
    let mut whole = true;
    let mut add = |id: &ChunkId| -> Result<bool, Failure> {
        let run = vault.catalogue.find_chunk(id).map_err(failures::catalogue)?;
        if let Some(run) = &run {
            stripes.insert(run.place.stripe);
            stripes.extend(run.place.next);
        }
        Ok(run.is_some())
    };
    for id in &content.ids {
        whole &= add(id)?;
    }
    if content.depth > 0 {
        let mut ids = ContentIds::new(content);
        while let Some(id) = ids.next(reader).await {
            whole &= match id {
                Ok(id) => add(&id)?,
                Err(_) => false,
            };
        }
    }
    Ok(whole)
}
