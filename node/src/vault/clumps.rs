//! Groups whose holders moved together since they were placed, as the owner sees it: told by `cairn check`, mended by the stewards.
//!
//! The owner goes by where peers are now; stewards wait until a peer has been there for a day before they order a copy. A refill of the
//! owner's own gives a slot that lacks a copy to whoever fits best ([`super::groups`]), and moves nothing that is whole.

use std::collections::{BTreeMap, BTreeSet};

use cairn_core::{
    peer_view::PeerView,
    placement::{
        PlacementPolicy,
        clump::{Clump, Place, clumps},
    },
};
use cairn_proto::{PeerKey, Slot, manifest::GroupRow};

/// Under which id it is told.
pub(super) const NOTICE: &str = "SLOTS_TOGETHER";
/// Groups that are described; of the rest there is a count.
const DESCRIBED_MAX: usize = 3;

fn place(view: &PeerView) -> Place<'_> {
    let continent = (!view.region.is_unknown()).then(|| view.region.continent());
    Place { continent, network: view.network, subnet: view.subnet.as_ref() }
}

/// The clumps of these groups. `gone`: holders that were silent for so long that they do not count.
pub(super) fn of(rows: &[GroupRow], peers: &[PeerView], gone: &BTreeSet<PeerKey>) -> BTreeMap<u32, Vec<Clump>> {
    let views: BTreeMap<PeerKey, &PeerView> = peers.iter().map(|view| (view.peer, view)).collect();
    let stand = |row: &GroupRow| -> Vec<(Slot, Vec<Place<'_>>)> {
        let places = |slot: Slot| -> Vec<Place<'_>> {
            let holders = row.holders.get(slot.index()).into_iter().flatten().filter(|peer| !gone.contains(peer));
            holders.map(|peer| views.get(peer).map_or_else(Place::default, |view| place(view))).collect()
        };
        row.code.each_slot().map(|slot| (slot, places(slot))).collect()
    };
    let found = rows.iter().filter(|row| row.stripes_used > 0).map(|row| {
        let caps = PlacementPolicy::new(row.code, 1).regions;
        (row.number, clumps(&stand(row), &caps))
    });
    found.filter(|(_, clumps)| !clumps.is_empty()).collect()
}

/// In a sentence; nothing when there is none.
pub(super) fn told(found: &BTreeMap<u32, Vec<Clump>>) -> Option<String> {
    let one = |(group, clumps): (&u32, &Vec<Clump>)| {
        let clumps: Vec<String> = clumps.iter().map(ToString::to_string).collect();
        format!("group {group}: {}", clumps.join("; "))
    };
    let described: Vec<String> = found.iter().take(DESCRIBED_MAX).map(one).collect();
    let more = found.len().saturating_sub(DESCRIBED_MAX);
    let more = if more > 0 { format!("; and {more} more groups") } else { String::new() };
    let text = format!(
        "holders moved, and too much stands together now: {}{more}. The groups' stewards copy slots elsewhere once it has been so for \
         a day and somebody is there to take them",
        described.join("; ")
    );
    (!found.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use cairn_proto::{ByteSize, CodeParams, Domain, Region, Timestamp, message::Roles};

    use super::*;

    fn view(i: u8, region: &str) -> PeerView {
        PeerView {
            peer: PeerKey::from_bytes([i; 32]),
            domain: Domain::operator(&format!("d{i}")).expect("valid"),
            subnet: None,
            subnet_seen: false,
            region: Region::new(region).expect("valid"),
            region_basis: cairn_core::region::Basis::Declared,
            network: None,
            roles: Roles::STORAGE,
            protocol: cairn_proto::PROTOCOL_VERSION,
            give: ByteSize(1 << 40),
            free: ByteSize(1 << 40),
            first_seen: Timestamp(0),
            last_heard: Timestamp(0),
            reachable: Some(true),
            rtt_ms: None,
            loss: 0,
            reputation: 900,
            newcomer: false,
        }
    }

    #[test]
    fn holders_that_moved_together_are_told_of_until_one_is_elsewhere() {
        let mut row = GroupRow {
            number: 7,
            salt: [0; 32],
            code: CodeParams::DEFAULT,
            colours: 9,
            holders: (0..8).map(|i| vec![PeerKey::from_bytes([i; 32])]).collect(),
            stripes_used: 1,
            sealed: false,
        };
        let mut peers: Vec<PeerView> =
            (0..10).map(|i| view(i, ["EU/DE", "NA/US", "AS/JP"][usize::from(i) % 3])).collect();
        let none = BTreeSet::new();
        let rows = |row: &GroupRow| vec![row.clone()];
        assert_eq!(told(&of(&rows(&row), &peers, &none)), None);
        peers[1] = view(1, "EU/FR");
        let found = of(&rows(&row), &peers, &none);
        let text = told(&found).expect("four in Europe");
        assert!(text.contains("group 7: 4 slots stand or fall with region EU, and 3 may"), "{text}");
        // Somebody else has one of them too.
        row.holders[1].push(PeerKey::from_bytes([8; 32]));
        assert!(of(&rows(&row), &peers, &none).is_empty());
        // But it is gone.
        assert_eq!(of(&rows(&row), &peers, &[PeerKey::from_bytes([8; 32])].into()).len(), 1);
        row.stripes_used = 0;
        assert!(of(&rows(&row), &peers, &none).is_empty(), "nothing is in it");
    }
}
