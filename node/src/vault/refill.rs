//! One stripe that lacks slots: who has what, who gets a copy, and who makes room in a full row.
//!
//! # Who makes room
//!
//! A slot's row has room for [`HOLDERS_MAX`], and whoever is not in it is asked by nobody any more: what it has is as good
//! as gone. So
//!
//! - who answered that it has nothing of the slot makes room at once;
//! - who is silent, or gave wrong bytes, makes room when every stripe of the group has somebody else for this slot who
//!   answers. Where that is not so yet, the newcomer waits outside the row and is given one stripe after the other, in
//!   further runs too; with the last one it takes the place;
//! - nobody else makes room.
//!
//! # Invariants
//!
//! - **SEP-2** A slot is whole when as many holders *of different domains* as there are replicas say that they have it.
//! - **SEP-3** Whoever is offered a shard outside the row is remembered, durably, before; so is who leaves.
//! - **DUR-3** A rebuilt shard is byte-identical: its root is checked by `stripe::rebuild` before it is sent.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use cairn_core::stripe::{rebuild, shard_is_right};
use cairn_proto::{
    PeerKey, Slot,
    index::{StripeNo, StripeRow},
    manifest::{GroupRow, HOLDERS_MAX},
    wire::Priority,
};

use super::{
    catalogue::{CatalogueError, Meta},
    holdings::names,
    reader::{Reader, StripeSource},
    session::Session,
    shortfall::READ_WRONG,
};
use crate::overlay::{GroupAccess, ShardAddress, ShardPut};

/// Those outside a row who are asked what they have before anybody is given more: the best candidates.
const OUTSIDE_ASKED: usize = 4;

type Ordinals = [u8; 32];

/// What a run refills with.
pub(super) struct Refill<'a> {
    session: &'a Session,
    reader: &'a Reader,
    /// Which ordinals each slot of a group is needed for; 256 bytes a group, read when the first row is full.
    needed: Option<BTreeMap<u32, Vec<Ordinals>>>,
    /// Groups in which somebody took another's place: their other stripes may be whole by that.
    pub(super) moved: BTreeSet<u32>,
}

/// What the holders of one slot say of one stripe.
#[derive(Debug, Default)]
struct Asked {
    holding: BTreeSet<PeerKey>,
    /// They say that they have nothing of this slot at all.
    empty: BTreeSet<PeerKey>,
    silent: BTreeSet<PeerKey>,
    /// They say that they have it, and give other bytes.
    wrong: BTreeSet<PeerKey>,
    /// All that those have who answered.
    has: BTreeMap<PeerKey, Ordinals>,
}

impl Asked {
    /// Who in a full row makes room without a newcomer having anything.
    fn useless(&self, holders: &[PeerKey]) -> Option<usize> {
        holders.iter().position(|peer| self.empty.contains(peer) && !self.holding.contains(peer))
    }

    /// Who in a full row makes room for a newcomer that has these ordinals: a liar first, then a silent one, when for all
    /// that the slot is needed for somebody else answers.
    fn covered(&self, holders: &[PeerKey], newcomer: &Ordinals, needed: &Ordinals) -> Option<usize> {
        let others = |leaver: &PeerKey| {
            let mut union = *newcomer;
            let answering = self.has.iter().filter(|(peer, _)| *peer != leaver && !self.wrong.contains(peer));
            answering.for_each(|(_, bits)| union.iter_mut().zip(bits).for_each(|(all, more)| *all |= more));
            union
        };
        let covers = |all: &Ordinals| needed.iter().zip(all).all(|(needed, there)| needed & !there == 0);
        let leaves = |set: &BTreeSet<PeerKey>, peer: &PeerKey| {
            set.contains(peer) && !self.holding.contains(peer) && covers(&others(peer))
        };
        [&self.wrong, &self.silent].into_iter().find_map(|set| holders.iter().position(|peer| leaves(set, peer)))
    }

    fn may_leave(&self, holders: &[PeerKey]) -> bool {
        holders.iter().any(|peer| self.wrong.contains(peer) || self.silent.contains(peer))
    }
}

/// A slot that lacks holders.
struct Lacking {
    /// As noted.
    byte: u8,
    slot: Slot,
    asked: Asked,
    /// Somebody outside the row has it already, and waits until it has the rest.
    waiting: bool,
}

const fn with(mut bits: Ordinals, ordinal: u8) -> Ordinals {
    bits[(ordinal / 8) as usize] |= 1 << (ordinal % 8);
    bits
}

impl<'a> Refill<'a> {
    pub(super) const fn new(session: &'a Session, reader: &'a Reader) -> Self {
        Self { session, reader, needed: None, moved: BTreeSet::new() }
    }

    /// Fills what it can of the slots noted for a stripe; those that are still lacking. `None` when the stripe could not be
    /// read.
    pub(super) async fn stripe(&mut self, no: StripeNo, slots: &[u8]) -> Option<Vec<u8>> {
        let source = self.reader.source(no).ok()?;
        let access = source.group.1.clone();
        // The reader's row is as old as the reader: what this run added to the group is here.
        let mut group = match self.session.groups.current(source.row.group) {
            Some(group) => group,
            None => self.session.catalogue.group(source.row.group).ok()??,
        };
        let mut lacking = Vec::new();
        for byte in slots {
            let slot = Slot::new(byte & !READ_WRONG).ok()?;
            let mut asked =
                who_has(self.session, group.holders.get(slot.index())?, &access, slot, source.row.ordinal).await;
            if byte & READ_WRONG != 0 {
                verify(self.session, &source, slot, &mut asked).await;
            }
            if asked.holding.len() < self.session.replicas {
                let mut one = Lacking { byte: *byte, slot, asked, waiting: false };
                self.let_in(&source, &mut group, &mut one).await?;
                lacking.push(one);
            }
        }
        let replicas = self.session.replicas;
        let idle = |one: &Lacking| one.asked.holding.len() >= replicas || self.candidates(&group, one).is_empty();
        if lacking.iter().all(idle) {
            return Some(self.left(&lacking));
        }
        let shards = self.reader.fetch_some(&source, source.row.used.into(), Priority::Low).await;
        let (codec, row) = (source.codec.clone(), source.row.clone());
        let shards = tokio::task::spawn_blocking(move || rebuild(&codec, &row, shards)).await.ok()?.ok()?;
        for one in &mut lacking {
            let bytes = shards.get(one.slot.index())?.clone()?;
            self.give(&source, &mut group, one, &bytes).await?;
        }
        Some(self.left(&lacking))
    }

    fn left(&self, lacking: &[Lacking]) -> Vec<u8> {
        lacking.iter().filter(|one| one.asked.holding.len() < self.session.replicas).map(|one| one.byte).collect()
    }

    /// Whom to offer a slot to, in this order.
    fn candidates(&self, group: &GroupRow, one: &Lacking) -> Vec<PeerKey> {
        let (at, asked) = (one.slot.index(), &one.asked);
        let holders = group.holders.get(at).map_or(&[][..], Vec::as_slice);
        let mut found = self.session.groups.candidates(group, at, &asked.holding);
        found.retain(|peer| !asked.wrong.contains(peer) && !asked.holding.contains(peer));
        if holders.len() >= HOLDERS_MAX && asked.useless(holders).is_none() {
            let outside = self.session.groups.outside(group, at);
            let enters = !one.waiting && asked.may_leave(holders);
            found.retain(|peer| holders.contains(peer) || enters);
            // Who has some already comes before who has none.
            found.sort_by_key(|peer| (!holders.contains(peer), !outside.contains(peer)));
        }
        found
    }

    /// Asks those outside a full row who may have the shard from an earlier time, and lets one take a place if it can.
    async fn let_in(&mut self, source: &StripeSource, group: &mut GroupRow, one: &mut Lacking) -> Option<()> {
        let at = one.slot.index();
        let holders = group.holders.get(at)?;
        if holders.len() < HOLDERS_MAX || one.asked.useless(holders).is_some() {
            return Some(());
        }
        let outside = self.session.groups.outside(group, at);
        let found = self.candidates(group, one).into_iter().filter(|peer| outside.contains(peer));
        for peer in found.take(OUTSIDE_ASKED).collect::<Vec<_>>() {
            let answer = self.session.overlay.has_shards(peer, source.group.1.clone(), one.slot).await;
            if let Ok(bits) = answer
                && names(&bits, source.row.ordinal)
            {
                one.waiting = true;
                if self.enter(group, one, peer, &bits).await? || one.asked.holding.len() >= self.session.replicas {
                    break;
                }
            }
        }
        Some(())
    }

    /// Offers a slot to its candidates until it has its replicas.
    async fn give(
        &mut self,
        source: &StripeSource,
        group: &mut GroupRow,
        one: &mut Lacking,
        bytes: &Bytes,
    ) -> Option<()> {
        let (at, ordinal, access) = (one.slot.index(), source.row.ordinal, &source.group.1);
        let root = *source.row.root(one.slot)?;
        for peer in self.candidates(group, one) {
            if one.asked.holding.len() >= self.session.replicas {
                break;
            }
            let holders = group.holders.get(at)?;
            let known = holders.contains(&peer);
            let useless = one.asked.useless(holders);
            let full = holders.len() >= HOLDERS_MAX;
            let mut bits = [0; 32];
            if !known {
                if full && useless.is_none() {
                    if one.waiting {
                        continue;
                    }
                    let Ok(has) = self.session.overlay.has_shards(peer, access.clone(), one.slot).await else {
                        continue;
                    };
                    bits = has;
                }
                if !self.remember(group, at, peer) {
                    continue;
                }
            }
            let address = ShardAddress { group: access.clone(), slot: one.slot, ordinal };
            let put = ShardPut { address, root, lease_until: self.session.lease_until, bytes: bytes.clone() };
            if let Err(e) = self.session.overlay.put_shard(peer, put, Priority::Low).await {
                tracing::debug!(peer = %peer.short(), error = %e, "a holder did not take a missing shard");
                continue;
            }
            match (known, full, useless) {
                (true, ..) => {
                    one.asked.holding.insert(peer);
                }
                (false, false, _) => self.change(group, one, peer, None).ok()?,
                (false, true, Some(leaver)) => {
                    if self.remember(group, at, *group.holders.get(at)?.get(leaver)?) {
                        self.change(group, one, peer, Some(leaver)).ok()?;
                    }
                }
                (false, true, None) => {
                    one.waiting = true;
                    self.enter(group, one, peer, &with(bits, ordinal)).await?;
                }
            }
        }
        Some(())
    }

    /// Gives a newcomer with these ordinals the place of somebody who can be spared, if there is one.
    async fn enter(&mut self, group: &mut GroupRow, one: &mut Lacking, peer: PeerKey, bits: &Ordinals) -> Option<bool> {
        let at = one.slot.index();
        let needed = self.needed(group, at)?;
        let holders = group.holders.get(at)?;
        let Some(leaver) = one.asked.covered(holders, bits, &needed) else { return Some(false) };
        if !self.remember(group, at, *holders.get(leaver)?) {
            return Some(false);
        }
        one.waiting = false;
        one.asked.has.insert(peer, *bits);
        self.change(group, one, peer, Some(leaver)).ok()?;
        self.moved.insert(group.number);
        Some(true)
    }

    /// Puts a holder into a row, durably before anybody is told.
    fn change(
        &self,
        group: &mut GroupRow,
        one: &mut Lacking,
        peer: PeerKey,
        leaver: Option<usize>,
    ) -> Result<(), CatalogueError> {
        one.asked.holding.insert(peer);
        let Some(holders) = group.holders.get_mut(one.slot.index()) else { return Ok(()) };
        if let Some(at) = leaver {
            holders.remove(at);
        }
        holders.push(peer);
        self.session.groups.replace_row(group);
        // Until a head says so, nobody else finds the new holder.
        self.session.catalogue.set_meta(Meta::Moved, Some(vec![1]))?;
        self.session.catalogue.set_group(group)
    }

    fn remember(&self, group: &GroupRow, slot: usize, peer: PeerKey) -> bool {
        if !self.session.groups.remember(group, slot, peer) {
            tracing::warn!(group = group.number, "too many holders came and went in a group: it gets no new ones");
            return false;
        }
        self.session.record_formers().is_ok()
    }

    fn needed(&mut self, group: &GroupRow, slot: usize) -> Option<Ordinals> {
        if self.needed.is_none() {
            self.needed = Some(needed(self.session).ok()?);
        }
        self.needed.as_ref()?.get(&group.number)?.get(slot).copied()
    }
}

/// The ordinals that each slot is needed for, by group. Lost stripes count: they may come back. While parts of the index are
/// unread, all ordinals that were given out do.
fn needed(session: &Session) -> Result<BTreeMap<u32, Vec<Ordinals>>, CatalogueError> {
    let mut needed: BTreeMap<u32, Vec<Ordinals>> = BTreeMap::new();
    for row in session.catalogue.stripes() {
        let row = row?;
        let slots = needed.entry(row.group).or_insert_with(|| vec![[0; 32]; row.roots.len()]);
        for (slot, _) in row.present() {
            if let Some(bits) = slots.get_mut(slot.index()) {
                *bits = with(*bits, row.ordinal);
            }
        }
    }
    if !session.catalogue.unread_segments()?.is_empty() {
        for row in session.catalogue.groups() {
            let row = row?;
            let all = (0..=u8::MAX).take(row.stripes_used.into()).fold([0; 32], with);
            needed.insert(row.number, vec![all; row.code.slots()]);
        }
    }
    Ok(needed)
}

/// Who says that they have the shard. One that does not answer counts as without: a put to it is repeated, which costs
/// nothing when it has the shard after all.
async fn who_has(session: &Session, holders: &[PeerKey], access: &Arc<GroupAccess>, slot: Slot, ordinal: u8) -> Asked {
    let questions = holders
        .iter()
        .map(|peer| async move { (*peer, session.overlay.has_shards(*peer, access.clone(), slot).await.ok()) });
    let mut asked = Asked::default();
    for (peer, answer) in futures::future::join_all(questions).await {
        match answer {
            Some(bits) if names(&bits, ordinal) => asked.holding.insert(peer),
            Some([0, rest @ ..]) if rest == [0; 31] => asked.empty.insert(peer),
            Some(_) => false,
            None => asked.silent.insert(peer),
        };
        asked.has.extend(answer.map(|bits| (peer, bits)));
    }
    asked
}

/// Reads the shard from everybody who says to have it.
async fn verify(session: &Session, source: &StripeSource, slot: Slot, asked: &mut Asked) {
    for peer in asked.holding.clone() {
        let address = ShardAddress { group: source.group.1.clone(), slot, ordinal: source.row.ordinal };
        let right = match session.overlay.get_shard(peer, address, 0, 0, Priority::Low).await {
            Ok(bytes) => {
                let row: Arc<StripeRow> = source.row.clone();
                tokio::task::spawn_blocking(move || shard_is_right(&row, slot, &bytes)).await.unwrap_or(false)
            }
            // It takes a shard that it found damaged again: no liar.
            Err(_) => {
                asked.holding.remove(&peer);
                continue;
            }
        };
        if !right {
            asked.holding.remove(&peer);
            asked.wrong.insert(peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn peer(at: u8) -> PeerKey {
        PeerKey::from_bytes([at; 32])
    }

    fn bits(ordinals: &[u8]) -> Ordinals {
        ordinals.iter().copied().fold([0; 32], with)
    }

    #[test]
    fn who_may_have_the_only_copy_of_something_stays_in_the_row() {
        let row = [peer(1), peer(2), peer(3), peer(4)];
        let mut asked = Asked { silent: [peer(1)].into(), wrong: [peer(2)].into(), ..Asked::default() };
        asked.has = [(peer(2), bits(&[0, 1, 2, 255])), (peer(3), bits(&[0, 1])), (peer(4), bits(&[0]))].into();
        let needed = bits(&[0, 1, 2, 255]);
        assert_eq!(asked.covered(&row, &bits(&[2]), &needed), None, "255 is nobody else's whose word counts");
        assert_eq!(asked.covered(&row, &bits(&[2, 255]), &needed), Some(1), "a liar goes first");
        asked.wrong.clear();
        assert_eq!(asked.covered(&row, &bits(&[2]), &needed), Some(0), "the others have what the silent one may have");
        assert_eq!(asked.covered(&row, &bits(&[2]), &bits(&[0, 1, 2, 7, 255])), None);
        assert_eq!(asked.useless(&row), None, "nobody said to have nothing");
        asked.empty = [peer(4)].into();
        assert_eq!(asked.useless(&row), Some(3));
        asked.holding = [peer(4), peer(1)].into();
        assert_eq!(asked.useless(&row), None, "it took something meanwhile");
        assert_eq!(asked.covered(&row, &bits(&[2]), &needed), None, "it was heard meanwhile");
    }
}
