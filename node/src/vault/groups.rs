//! The groups that a run puts stripes into: which are open, who holds what in them, who failed.
//!
//! A holder that fails costs its groups their openness: they are sealed, their stripes in flight go to a replacement of the
//! same colour, and new stripes go to a new group among peers that live. Only when no new group can be placed are sealed
//! groups of this run used on, as long as enough of their slots live.
//!
//! # Invariants
//!
//! - **SEP-1** Slot i of a group is offered to peers of colour i only: holders come from a plan or from
//!   [`placement::candidates`], both by colour. A stripe that moves to another group is sealed again first (new stripe
//!   id, new keys), so no old shard complements a new one. Attacked by the recorder in `tests/memory_overlay.rs`.
//! - **SEP-3** Whoever left a row, or was offered something and never entered it, is remembered with its subnet, and before
//!   anything is offered: neither it nor anybody else of its subnet gets another slot. Enforced by `formers`;
//!   attacked by `tests::separation`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use cairn_core::{
    keys::VaultKeys,
    peer_view::PeerView,
    placement::{self, Owner, PlacementError, PlacementPolicy, Strategy, Vacancy},
};
use cairn_proto::{
    DecodeError, GroupTicket, PeerKey, STRIPES_PER_GROUP_MAX, Timestamp,
    manifest::{GroupRow, HOLDERS_MAX},
};

use super::{
    catalogue::holders::{FORMER_MAX, Former, OFFERED_MAX},
    leaning::Stand,
    placing::{FirstAttempt, FirstAttempts, Relaxed, relaxed, strategy_before},
};
use crate::overlay::GroupAccess;

mod formers;
mod lean;
mod opening;
mod vetting;
mod watchers;

pub(super) use lean::Use;

use formers::apart;

/// Groups that take stripes at the same time, so that throughput grows with the network.
const OPEN_MAX: usize = 4;
/// Stripes in flight in every open group before another group is opened.
const IN_FLIGHT_BEFORE_NEXT: usize = 2;

/// A place for one stripe.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// Group number.
    pub(super) group: u32,
    /// Ordinal in the group.
    pub(super) ordinal: u8,
    /// What the overlay needs.
    pub(super) access: Arc<GroupAccess>,
}

/// Why there is no place.
#[derive(Debug, thiserror::Error)]
pub(super) enum PlaceError {
    /// The network is too small.
    #[error(transparent)]
    Placement(#[from] PlacementError),
    /// The network is too small, and so is the fallback storage.
    #[error("{error}; fallback storage can take {room} slots of a group")]
    Leaning {
        /// What the network lacks.
        error: PlacementError,
        /// Slots that all providers together may have of one group.
        room: usize,
    },
    /// Group numbers are used up.
    #[error("the vault has no group number left")]
    NoNumber,
    /// The operating system gives no randomness.
    #[error("no randomness: {0}")]
    Random(String),
}

struct Open {
    row: GroupRow,
    access: Arc<GroupAccess>,
    /// Ranked candidates by slot, chosen ones first.
    ranked: Vec<Vec<PeerKey>>,
    in_flight: usize,
    /// Slots and holders that may have shards of this group: they stay in its row.
    kept: BTreeSet<(usize, PeerKey)>,
}

struct Book {
    peers: Vec<PeerView>,
    policy: PlacementPolicy,
    avoid: BTreeSet<PeerKey>,
    groups: BTreeMap<u32, Open>,
    next_number: u32,
    relaxations: BTreeSet<Relaxed>,
    first: FirstAttempts,
    /// Groups opened since somebody asked.
    opened: Vec<u32>,
    /// Who has, had or may have something of a group outside its row.
    formers: BTreeMap<u32, Vec<Former>>,
    /// Groups whose list of these is not on record as it is.
    grown: BTreeSet<u32>,
    /// Fallback storage, and whether slots may be given to it now.
    stand: Stand,
    lean: bool,
    /// What newcomers may be given.
    vetting: vetting::Vetting,
}

/// The groups of one run. All methods are short; planning a group takes milliseconds.
pub(super) struct Groups {
    keys: Arc<VaultKeys>,
    owner: Owner,
    now: Timestamp,
    book: Mutex<Book>,
}

impl Groups {
    /// Starts with the unsealed groups that are left over, as far as their holders live. `policy`: of the next groups.
    #[allow(clippy::too_many_arguments, reason = "one call, all that a run knows")]
    pub(super) fn new(
        keys: Arc<VaultKeys>,
        owner: Owner,
        peers: Vec<PeerView>,
        now: Timestamp,
        left: Vec<GroupRow>,
        next_number: u32,
        mut policy: PlacementPolicy,
        fallback: Use,
    ) -> Self {
        policy.strategy_before = strategy_before(&keys, &left);
        let this = Self {
            keys,
            owner,
            now,
            book: Mutex::new(Book {
                peers,
                policy,
                avoid: BTreeSet::new(),
                groups: BTreeMap::new(),
                next_number,
                relaxations: BTreeSet::new(),
                first: FirstAttempts::default(),
                opened: Vec::new(),
                formers: BTreeMap::new(),
                grown: BTreeSet::new(),
                stand: fallback.stand,
                lean: fallback.now,
                vetting: vetting::Vetting::default(),
            }),
        };
        for row in left {
            this.adopt(row);
        }
        this
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // A panic elsewhere leaves the book consistent: each change is a single step.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The policy of this run.
    pub(super) fn policy(&self) -> PlacementPolicy {
        self.book().policy.clone()
    }

    /// What had to be relaxed so far, and whether the first choice held too rarely.
    pub(super) fn relaxations(&self) -> Vec<Relaxed> {
        let book = self.book();
        book.relaxations.iter().cloned().chain(book.first.notice()).collect()
    }

    /// How the first choices of this run did.
    pub(super) fn first_attempt(&self) -> FirstAttempt {
        self.book().first.report()
    }

    /// The next group number, for the counters.
    pub(super) fn next_number(&self) -> u32 {
        self.book().next_number
    }

    /// A place for the next stripe. `only` asks for that group if it still takes stripes.
    pub(super) fn take_place(&self, only: Option<u32>) -> Result<Place, PlaceError> {
        let mut book = self.book();
        let takes = |g: &Open| !g.row.sealed && usize::from(g.row.stripes_used) < STRIPES_PER_GROUP_MAX;
        let limit = OPEN_MAX.min((book.peers.len() / book.policy.code.slots().max(1)).max(1));
        let preferred = only.filter(|n| book.groups.get(n).is_some_and(takes));
        let open: Vec<(usize, u32)> =
            book.groups.values().filter(|g| takes(g)).map(|g| (g.in_flight, g.row.number)).collect();
        let calmest = open.iter().min().copied();
        let number = match (preferred, calmest) {
            (Some(number), _) => number,
            (None, Some((in_flight, number))) if in_flight < IN_FLIGHT_BEFORE_NEXT || open.len() >= limit => number,
            (None, calmest) => match self.open_group(&mut book) {
                Ok(number) => number,
                Err(e) => calmest.map(|c| c.1).or_else(|| usable(&book)).ok_or(e)?,
            },
        };
        let group = book.groups.get_mut(&number).ok_or(PlaceError::NoNumber)?;
        let ordinal = group.row.stripes_used as u8;
        group.row.stripes_used += 1;
        group.row.sealed |= usize::from(group.row.stripes_used) == STRIPES_PER_GROUP_MAX;
        group.in_flight += 1;
        Ok(Place { group: number, ordinal, access: group.access.clone() })
    }

    /// A holder took a shard. False when it was taken out of a full row meanwhile: nobody would find it there.
    pub(super) fn took(&self, group: u32, slot: usize, peer: PeerKey) -> bool {
        let mut book = self.book();
        book.first.took(group, slot, peer);
        let Some(open) = book.groups.get_mut(&group) else { return false };
        let there = open.row.holders.get(slot).is_some_and(|holders| holders.contains(&peer));
        if there {
            open.kept.insert((slot, peer));
        }
        book.vetted(peer, self.now);
        there
    }

    /// Whom to give a slot to next: of the candidates that did not fail and are not in `tried` a holder that the slot
    /// has, or else the one that fits best into the group as it stands (SEP-5).
    pub(super) fn next_holder(&self, group: u32, slot: usize, tried: &BTreeSet<PeerKey>) -> Option<PeerKey> {
        let mut book = self.book();
        let Book { groups, avoid, peers, policy, formers, stand, vetting, .. } = &*book;
        let open = groups.get(&group)?;
        let free: Vec<PeerKey> =
            open.ranked.get(slot)?.iter().filter(|p| !avoid.contains(p) && !tried.contains(p)).copied().collect();
        if let Some(holder) = free.first().filter(|p| open.row.holders.get(slot).is_some_and(|h| h.contains(p))) {
            return Some(*holder);
        }
        let vacancy = Vacancy { slot, holders: &open.row.holders, beside: &(tried - avoid), failed: avoid };
        let formers = formers.get(&group);
        let views: BTreeMap<PeerKey, &PeerView> = peers.iter().map(|v| (v.peer, v)).collect();
        let is_apart = |peer: &PeerKey| views.get(peer).is_some_and(|view| apart(formers, slot, view));
        let held = open.row.holders.get(slot)?;
        let mut order = placement::replacements(&free, &vacancy, peers, policy);
        // Newcomers that have their quota of the day come last.
        order.sort_by_key(|r| !held.contains(&r.peer) && vetting.held().is_some_and(|spent| spent.contains(&r.peer)));
        let Some(best) = order.into_iter().find(|r| held.contains(&r.peer) || is_apart(&r.peer)) else {
            return lean::take_over(&mut book, group, slot, tried);
        };
        if !held.contains(&best.peer) {
            // A row has room for HOLDERS_MAX: whoever failed before it took anything makes room. It was offered something
            // all the same.
            let mut row = open.row.holders.clone();
            let holders = row.get_mut(slot)?;
            if holders.len() >= HOLDERS_MAX {
                // Whoever stands for fallback storage stays: the row is what tells how much of the group it ever had (SEP-6).
                let nothing = |p: &PeerKey| avoid.contains(p) && !open.kept.contains(&(slot, *p)) && !stand.is_one(p);
                let at = holders.iter().position(nothing)?;
                let left = holders.remove(at);
                if !book.remember(group, slot, left, &[], FORMER_MAX) {
                    return None;
                }
            }
            // Until the row is on record, this is all that tells a later run of it. So nobody makes room for standing in it.
            if !book.remember(group, slot, best.peer, &[], OFFERED_MAX) {
                return None;
            }
            let holders = book.groups.get_mut(&group)?.row.holders.get_mut(slot)?;
            holders.clone_from(row.get(slot)?);
            holders.push(best.peer);
            book.relaxations.extend(best.relaxations.iter().map(relaxed));
        }
        Some(best.peer)
    }

    /// A peer failed: not a candidate for the rest of the run, and its groups take no new stripes.
    pub(super) fn peer_failed(&self, peer: PeerKey) {
        let mut book = self.book();
        book.avoid.insert(peer);
        book.stand.give_up(&peer);
        book.first.failed(peer);
        for open in book.groups.values_mut().filter(|g| g.row.holders.iter().flatten().any(|p| *p == peer)) {
            open.row.sealed = true;
        }
    }

    /// The group takes no new stripes.
    pub(super) fn seal(&self, group: u32) {
        if let Some(open) = self.book().groups.get_mut(&group) {
            open.row.sealed = true;
        }
    }

    /// A stripe is out of flight; the group as it stands now.
    pub(super) fn release(&self, group: u32) -> Option<GroupRow> {
        let mut book = self.book();
        let open = book.groups.get_mut(&group)?;
        open.in_flight = open.in_flight.saturating_sub(1);
        Some(open.row.clone())
    }

    /// A group of this run as it stands now.
    pub(super) fn current(&self, group: u32) -> Option<GroupRow> {
        self.book().groups.get(&group).map(|g| g.row.clone())
    }

    /// A group of this run has other holders now; nothing for a group that is not of this run.
    pub(super) fn replace_row(&self, row: &GroupRow) {
        if let Some(open) = self.book().groups.get_mut(&row.number) {
            for (at, (old, new)) in open.row.holders.iter().zip(&row.holders).enumerate() {
                open.kept.extend(new.iter().filter(|peer| !old.contains(peer)).map(|peer| (at, *peer)));
            }
            open.row.holders.clone_from(&row.holders);
        }
    }

    /// Every group touched in this run as it stands now.
    pub(super) fn rows(&self) -> Vec<GroupRow> {
        self.book().groups.values().map(|g| g.row.clone()).collect()
    }

    /// Living candidates for one more copy of a slot of any group, best first: nobody who is not somebody else than
    /// those of `holding` and of the group's other slots, and as few broken caps as can be.
    pub(super) fn candidates(&self, row: &GroupRow, slot: usize, holding: &BTreeSet<PeerKey>) -> Vec<PeerKey> {
        self.candidates_in(&self.book(), row, slot, holding)
    }

    fn candidates_in(&self, book: &Book, row: &GroupRow, slot: usize, holding: &BTreeSet<PeerKey>) -> Vec<PeerKey> {
        let Ok(access) = access_of(&self.keys, row) else { return Vec::new() };
        let request = self.request((&book.policy, &book.avoid), *access.ticket.authority(), row.number);
        let mut ranked = placement::candidates(&book.peers, &request, &access.ticket, Strategy::Deterministic);
        let found = if slot < ranked.len() { ranked.swap_remove(slot) } else { Vec::new() };
        let vacancy = Vacancy { slot, holders: &row.holders, beside: holding, failed: &book.avoid };
        let order = placement::replacements(&found, &vacancy, &book.peers, &book.policy);
        let views: BTreeMap<PeerKey, &PeerView> = book.peers.iter().map(|v| (v.peer, v)).collect();
        let (formers, held) = (book.formers.get(&row.number), row.holders.get(slot));
        let may = |peer: &PeerKey| {
            held.is_some_and(|held| held.contains(peer))
                || views.get(peer).is_some_and(|view| apart(formers, slot, view))
        };
        let mut found: Vec<PeerKey> = order.into_iter().map(|replacement| replacement.peer).filter(may).collect();
        found.sort_by_key(|peer| book.vetting.held().is_some_and(|spent| spent.contains(peer)));
        found
    }
}

/// A group of this run that is sealed for a dead holder, has ordinals left and k + 2 living slots.
fn usable(book: &Book) -> Option<u32> {
    let lives = |slot: &Vec<PeerKey>| slot.iter().any(|p| !book.avoid.contains(p));
    book.groups
        .values()
        .filter(|g| g.row.code == book.policy.code && usize::from(g.row.stripes_used) < STRIPES_PER_GROUP_MAX)
        .find(|g| g.ranked.iter().filter(|s| lives(s)).count() >= (g.row.code.data() + 2).min(g.row.code.slots()))
        .map(|g| g.row.number)
}

/// Ticket and authority of a group that we own, made again from its row.
pub(super) fn access_of(keys: &VaultKeys, row: &GroupRow) -> Result<GroupAccess, DecodeError> {
    let authority = keys.group_authority(row.number);
    let ticket = GroupTicket::new(authority.verifying_key().to_bytes(), row.salt, row.code, row.colours)?;
    Ok(GroupAccess { ticket, authority })
}
