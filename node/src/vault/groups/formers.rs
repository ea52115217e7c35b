//! Who has, had or may have something of a group and stands in no row of it.
//!
//! - **SEP-3** Neither it nor anybody else of its subnet gets another slot: it is remembered before anything is offered. Enforced by
//!   [`Groups::remember`] and [`apart`]; attacked by `tests::separation`.

use std::collections::{BTreeMap, BTreeSet};

use cairn_core::peer_view::PeerView;
use cairn_proto::{PeerKey, manifest::GroupRow};

use super::{Book, Groups};
use crate::vault::catalogue::holders::{FORMER_MAX, Former, OFFERED_MAX};

impl Book {
    /// Remembers that a peer may have something of a slot, wherever it stands; false when there are `most` already and none
    /// of them stands in this row, which is on record.
    pub(super) fn remember(
        &mut self,
        group: u32,
        slot: usize,
        peer: PeerKey,
        row: &[Vec<PeerKey>],
        most: usize,
    ) -> bool {
        let subnet = self.peers.iter().find(|v| v.peer == peer).and_then(|v| v.subnet.clone());
        let former = Former { slot: slot as u8, peer, subnet };
        let formers = self.formers.entry(group).or_default();
        // Where it stood is not forgotten because nobody knows it now.
        if formers.iter().any(|f| f.peer == peer && f.slot == former.slot && (former.subnet.is_none() || *f == former))
        {
            return true;
        }
        if formers.len() >= most {
            // Whoever stands in the row is known from there.
            let standing = |f: &Former| row.get(usize::from(f.slot)).is_some_and(|held| held.contains(&f.peer));
            let Some(at) = formers.iter().position(standing) else { return false };
            formers.remove(at);
        }
        formers.push(former);
        self.grown.insert(group);
        true
    }
}

/// Whether a peer is somebody else than all who have or had something of the group's other slots outside the row.
pub(super) fn apart(formers: Option<&Vec<Former>>, slot: usize, view: &PeerView) -> bool {
    formers
        .into_iter()
        .flatten()
        .filter(|f| usize::from(f.slot) != slot)
        .all(|f| f.peer != view.peer && (f.subnet.is_none() || f.subnet != view.subnet))
}

impl Groups {
    /// What earlier runs remembered of holders outside the rows.
    pub(in crate::vault) fn learn_formers(&self, formers: BTreeMap<u32, Vec<Former>>) {
        self.book().formers = formers;
    }

    /// Who is outside the rows of groups where that is not [on record](Self::formers_recorded). It must be before anything
    /// is offered to anybody of these groups.
    pub(in crate::vault) fn unrecorded_formers(&self) -> Vec<(u32, Vec<Former>)> {
        let book = self.book();
        book.grown.iter().filter_map(|group| Some((*group, book.formers.get(group)?.clone()))).collect()
    }

    /// These lists are on record. One that grew since is not.
    pub(in crate::vault) fn formers_recorded(&self, written: &[(u32, Vec<Former>)]) {
        let mut book = self.book();
        for (group, formers) in written {
            if book.formers.get(group) == Some(formers) {
                book.grown.remove(group);
            }
        }
    }

    /// Remembers that a peer may have something of a slot of any group; false when there is no room for that: then it must
    /// not leave the row.
    pub(in crate::vault) fn remember(&self, row: &GroupRow, slot: usize, peer: PeerKey) -> bool {
        self.book().remember(row.number, slot, peer, &row.holders, FORMER_MAX)
    }

    /// Remembers that a newcomer may get something of a slot of any group; false when there is no room for that: then it
    /// must not be offered anything.
    pub(in crate::vault) fn remember_offer(&self, row: &GroupRow, slot: usize, peer: PeerKey) -> bool {
        self.book().remember(row.number, slot, peer, &row.holders, OFFERED_MAX)
    }

    /// Who had something of a slot and stands in no row, or is on the way into it.
    pub(in crate::vault) fn outside(&self, row: &GroupRow, slot: usize) -> BTreeSet<PeerKey> {
        let book = self.book();
        let formers = book.formers.get(&row.number).into_iter().flatten();
        let outside = formers.filter(|f| usize::from(f.slot) == slot).map(|f| f.peer);
        outside.filter(|peer| row.holders.iter().flatten().all(|holder| holder != peer)).collect()
    }
}
