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
//!   further runs too; with the last one it takes the place. There is one such [heir](heirs) of a slot at a time;
//! - nobody else makes room.
//!
//! # Invariants
//!
//! - **SEP-2** A slot is whole when as many holders *of different domains* as there are replicas say that they have it.
//! - **SEP-3** Whoever is offered a shard outside the row is remembered, durably, before; so is who leaves.
//! - **DUR-3** A rebuilt shard is byte-identical: its root is checked by `stripe::rebuild` before it is sent.

pub(super) mod asked;
mod heirs;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use cairn_core::stripe::rebuild;
use cairn_proto::{
    PeerKey, Slot,
    index::StripeNo,
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
use crate::overlay::{GroupAccess, ShardAddress, ShardPut, TransferError};
use asked::{Asked, Ordinals, with};
pub(super) use heirs::proves;
use heirs::{Failed, Heir, NEW_OFFERS};

/// Those outside a row who are asked what they have before anybody is given more: the best candidates.
const OUTSIDE_ASKED: usize = 4;

/// Candidates for a shard that do not answer, one after the other, before it is left for another run: then it is rather we
/// who are cut off.
const FAILURES_IN_A_ROW: usize = 4;

/// Why somebody is remembered.
#[derive(Clone, Copy)]
enum Why {
    /// A newcomer is about to be offered something.
    Offered,
    /// A holder is about to leave a row.
    Leaves,
}

/// What a run refills with.
pub(super) struct Refill<'a> {
    session: &'a Session,
    reader: &'a Reader,
    /// Which ordinals each slot of a group is needed for; 256 bytes a group, read when the first row is full.
    needed: Option<BTreeMap<u32, Vec<Ordinals>>>,
    /// Groups in which somebody took another's place, or will not: their other stripes may be whole by that, or go to
    /// somebody else.
    pub(super) moved: BTreeSet<u32>,
    /// The newcomer that gets a full row's slot, by group and slot.
    heirs: BTreeMap<(u32, u8), Heir>,
    failed: Failed,
    /// How many newcomers were offered something and did not take it, by group and slot.
    wasted: BTreeMap<(u32, u8), usize>,
}

/// A slot that lacks holders.
struct Lacking {
    /// As noted.
    byte: u8,
    slot: Slot,
    asked: Asked,
}

impl<'a> Refill<'a> {
    pub(super) fn new(session: &'a Session, reader: &'a Reader) -> Self {
        Self {
            session,
            reader,
            needed: None,
            moved: BTreeSet::new(),
            heirs: BTreeMap::new(),
            failed: Failed::default(),
            wasted: BTreeMap::new(),
        }
    }

    /// Who says that they have the shard. One that does not answer counts as without: a put to it is repeated, which costs
    /// nothing when it has the shard after all.
    async fn who_has(&mut self, holders: &[PeerKey], access: &Arc<GroupAccess>, slot: Slot, ordinal: u8) -> Asked {
        let overlay = &self.session.overlay;
        let questions = holders.iter().map(|peer| {
            let asked = !self.failed.is_deaf(peer);
            async move {
                let answer = if asked { overlay.has_shards(*peer, access.clone(), slot).await.ok() } else { None };
                (*peer, asked, answer)
            }
        });
        let mut this = Asked::default();
        for (peer, asked, answer) in futures::future::join_all(questions).await {
            if asked {
                self.failed.answered(peer, answer.is_some());
            }
            // Whoever stands for fallback storage keeps its place with nothing in it, and may always be asked again (SEP-6).
            let stays = overlay.fallback_of(&peer).is_some();
            match answer {
                Some(bits) if names(&bits, ordinal) => this.holding.insert(peer),
                _ if stays => false,
                Some([0, rest @ ..]) if rest == [0; 31] => this.empty.insert(peer),
                Some(_) => false,
                None => this.silent.insert(peer),
            };
            this.has.extend(answer.map(|bits| (peer, bits)));
        }
        this
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
            let mut asked = self.who_has(group.holders.get(slot.index())?, &access, slot, source.row.ordinal).await;
            if byte & READ_WRONG != 0 {
                verify(self.session, &source, slot, &mut asked).await;
            }
            if asked.holding.len() < self.session.replicas {
                let mut one = Lacking { byte: *byte, slot, asked };
                self.let_in(&source, &mut group, &mut one).await?;
                lacking.push(one);
            }
        }
        let replicas = self.session.replicas;
        let idle =
            |one: &Lacking| one.asked.holding.len() >= replicas || self.candidates(&source, &group, one).is_empty();
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
    fn candidates(&self, source: &StripeSource, group: &GroupRow, one: &Lacking) -> Vec<PeerKey> {
        let (at, asked) = (one.slot.index(), &one.asked);
        let holders = group.holders.get(at).map_or(&[][..], Vec::as_slice);
        let mut found = self.session.groups.candidates(group, at, &asked.holding);
        found.retain(|peer| {
            let known = holders.contains(peer);
            !asked.wrong.contains(peer) && !asked.holding.contains(peer) && self.failed.may_be_offered(peer, known)
        });
        if found.is_empty() && asked.holding.is_empty() {
            let last = self.session.groups.lean_on(group, at).filter(|peer| !asked.wrong.contains(peer));
            found.extend(last.filter(|peer| self.failed.may_be_offered(peer, holders.contains(peer))));
        } else if asked.is_full(holders) {
            let outside = self.session.groups.outside(group, at);
            let heir = self.heirs.get(&(group.number, one.slot.as_u8()));
            let enters = |peer: &PeerKey| {
                let heirs = heir.is_none_or(|heir| heir.peer == *peer && !names(&heir.has, source.row.ordinal));
                heirs && asked.may_leave(holders)
            };
            found.retain(|peer| holders.contains(peer) || enters(peer));
            // Who has some already comes before who has none.
            found.sort_by_key(|peer| (!holders.contains(peer), !outside.contains(peer)));
        }
        found
    }

    /// Finds the heir of an earlier time to a slot of a full row, and lets it take a place if it can.
    async fn let_in(&mut self, source: &StripeSource, group: &mut GroupRow, one: &mut Lacking) -> Option<()> {
        let at = one.slot.index();
        let holders = group.holders.get(at)?;
        if !one.asked.is_full(holders) || !one.asked.may_leave(holders) {
            return Some(());
        }
        if !self.heirs.contains_key(&(group.number, one.slot.as_u8())) {
            let outside = self.session.groups.outside(group, at);
            let mut found = self.candidates(source, group, one);
            found.retain(|peer| outside.contains(peer));
            let needed = self.needed(group, at)?;
            let mut some = Vec::new();
            for peer in found.into_iter().take(OUTSIDE_ASKED) {
                let bits = self.ask(peer, &source.group.1, one.slot).await.unwrap_or_default();
                let useful = bits.iter().zip(needed).map(|(has, needed)| (has & needed).count_ones()).sum::<u32>();
                some.extend((useful > 0).then_some((useful, peer, bits)));
            }
            some.sort_by_key(|(useful, ..)| Reverse(*useful));
            for (_, peer, bits) in some {
                if self.appoint(source, group, one.slot, peer, bits).await {
                    break;
                }
            }
        }
        self.enter(group, one, source.row.ordinal)
    }

    /// Makes a newcomer the heir, if what it says to have is there; false when not, and for the rest of the run.
    async fn appoint(
        &mut self,
        source: &StripeSource,
        group: &GroupRow,
        slot: Slot,
        peer: PeerKey,
        has: Ordinals,
    ) -> bool {
        if has != [0; 32] && !proves(self.session, group.number, &source.group.1, slot, peer, &has).await {
            self.failed.refused(peer);
            return false;
        }
        self.heirs.insert((group.number, slot.as_u8()), Heir { peer, has });
        true
    }

    async fn ask(&mut self, peer: PeerKey, access: &Arc<GroupAccess>, slot: Slot) -> Option<Ordinals> {
        let answer = self.session.overlay.has_shards(peer, access.clone(), slot).await.ok();
        self.failed.answered(peer, answer.is_some());
        answer
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
        let place = (group.number, one.slot.as_u8());
        let root = *source.row.root(one.slot)?;
        let (mut tried, mut in_a_row) = (BTreeSet::new(), 0);
        while one.asked.holding.len() < self.session.replicas && in_a_row < FAILURES_IN_A_ROW {
            // Anew each time: an heir came, went or entered, and a liar was found out.
            let mut candidates = self.candidates(source, group, one).into_iter();
            let Some(peer) = candidates.find(|peer| !tried.contains(peer)) else { break };
            tried.insert(peer);
            let holders = group.holders.get(at)?;
            let known = holders.contains(&peer);
            let useless = one.asked.useless(holders);
            let full = holders.len() >= HOLDERS_MAX;
            let new = !known && !self.session.groups.outside(group, at).contains(&peer);
            if !known {
                if new && self.wasted.get(&place).is_some_and(|wasted| *wasted >= NEW_OFFERS) {
                    continue;
                }
                // A shard's bytes go out with the question whether it is wanted, and whoever got some is remembered for
                // good. This one tells beforehand, without a shard, who is not there or does not want the group.
                let Some(bits) = self.ask(peer, access, one.slot).await else {
                    in_a_row += 1;
                    self.disinherit(place, peer);
                    continue;
                };
                if full && useless.is_none() {
                    let is_heir = self.heirs.contains_key(&place);
                    if !is_heir && !self.appoint(source, group, one.slot, peer, bits).await {
                        continue;
                    }
                    let has = self.heirs.get(&place).is_some_and(|heir| names(&heir.has, ordinal));
                    if has {
                        self.enter(group, one, ordinal)?;
                        continue;
                    }
                }
                if !self.remember(group, at, peer, Why::Offered) {
                    self.disinherit(place, peer);
                    continue;
                }
                *self.wasted.entry(place).or_default() += usize::from(new);
            }
            let address = ShardAddress { group: access.clone(), slot: one.slot, ordinal };
            let put = ShardPut { address, root, lease_until: self.session.lease_until, bytes: bytes.clone() };
            match self.session.overlay.put_shard(peer, put, Priority::Low).await {
                Ok(kept) => self.session.keep_receipt(source.row.no, one.slot, &kept),
                Err(e) => {
                    tracing::debug!(peer = %peer.short(), error = %e, "a holder did not take a missing shard");
                    in_a_row = if matches!(e, TransferError::Refused { .. }) { 0 } else { in_a_row + 1 };
                    self.failed.refused(peer);
                    self.disinherit(place, peer);
                    continue;
                }
            }
            in_a_row = 0;
            if new && let Some(wasted) = self.wasted.get_mut(&place) {
                *wasted = wasted.saturating_sub(1);
            }
            match (known, full, useless) {
                // Its word was not enough before.
                (true, ..) if one.byte & READ_WRONG != 0 => {
                    match gives(self.session, source, one.slot, peer).await {
                        Some(true) => one.asked.holding.insert(peer),
                        Some(false) | None => one.asked.wrong.insert(peer),
                    };
                }
                (true, ..) => {
                    one.asked.holding.insert(peer);
                }
                (false, false, _) => self.change(group, one, peer, None).ok()?,
                (false, true, Some(leaver)) => {
                    if self.remember(group, at, *group.holders.get(at)?.get(leaver)?, Why::Leaves) {
                        self.change(group, one, peer, Some(leaver)).ok()?;
                    }
                }
                (false, true, None) => {
                    if let Some(heir) = self.heirs.get_mut(&place) {
                        heir.has = with(heir.has, ordinal);
                    }
                    self.enter(group, one, ordinal)?;
                }
            }
        }
        Some(())
    }

    /// Somebody else may be the heir.
    fn disinherit(&mut self, place: (u32, u8), peer: PeerKey) {
        if self.heirs.get(&place).is_some_and(|heir| heir.peer == peer) {
            self.heirs.remove(&place);
            self.moved.insert(place.0);
        }
    }

    /// Gives the heir, once it has this shard, the place of somebody who can be spared, if there is one.
    fn enter(&mut self, group: &mut GroupRow, one: &mut Lacking, ordinal: u8) -> Option<()> {
        let (at, place) = (one.slot.index(), (group.number, one.slot.as_u8()));
        let Some(Heir { peer, has }) = self.heirs.get(&place).cloned() else { return Some(()) };
        if !names(&has, ordinal) {
            return Some(());
        }
        let needed = self.needed(group, at)?;
        let holders = group.holders.get(at)?;
        let Some(leaver) = one.asked.covered(holders, &has, &needed) else { return Some(()) };
        if !self.remember(group, at, *holders.get(leaver)?, Why::Leaves) {
            return Some(());
        }
        self.heirs.remove(&place);
        one.asked.has.insert(peer, has);
        self.change(group, one, peer, Some(leaver)).ok()?;
        self.moved.insert(group.number);
        Some(())
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
        // Who stands for fallback storage is first where it has the slot.
        let leans = self.session.groups.is_fallback(&peer);
        holders.insert(if leans { 0 } else { holders.len() }, peer);
        self.session.groups.replace_row(group);
        // Until a head says so, nobody else finds the new holder.
        self.session.catalogue.set_meta(Meta::Moved, Some(vec![1]))?;
        self.session.catalogue.set_group(group)
    }

    fn remember(&self, group: &GroupRow, slot: usize, peer: PeerKey, why: Why) -> bool {
        let groups = &self.session.groups;
        let remembered = match why {
            Why::Offered => groups.remember_offer(group, slot, peer),
            Why::Leaves => groups.remember(group, slot, peer),
        };
        if !remembered {
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
pub(super) fn needed(session: &Session) -> Result<BTreeMap<u32, Vec<Ordinals>>, CatalogueError> {
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

/// Whether a holder gives the right bytes; `None` when it gives none.
async fn gives(session: &Session, source: &StripeSource, slot: Slot, peer: PeerKey) -> Option<bool> {
    heirs::gives(session, &source.group.1, &source.row, slot, peer).await
}

/// Reads the shard from everybody who says to have it.
async fn verify(session: &Session, source: &StripeSource, slot: Slot, asked: &mut Asked) {
    for peer in asked.holding.clone() {
        match gives(session, source, slot, peer).await {
            Some(true) => continue,
            // An object that opens is what was put there; one that does not gave no bytes.
            Some(false) if session.groups.is_fallback(&peer) => false,
            Some(false) => asked.wrong.insert(peer),
            // It may have found the shard damaged: then it takes it again, and is read once more.
            None => false,
        };
        asked.holding.remove(&peer);
    }
}
