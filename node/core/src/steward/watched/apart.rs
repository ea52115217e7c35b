//! Where too much of a group stands together since its holders moved, and which slots may get a copy elsewhere for it.

use cairn_proto::{PeerKey, Slot, Timestamp};

use super::{
    super::{Rhythm, places::Places},
    Watched,
};
use crate::{
    assess::Triggers,
    liveness::{Presence, Watch},
    placement::{
        PlacementPolicy,
        clump::{Clump, Place, clumps},
    },
};

impl Watched {
    /// Who counts as a holder here: is not presumed gone, stays, and keeps what it takes. Also who has a part only, since the rest is on
    /// its way to it or is ordered first.
    fn keepers(&self, slot: Slot, watch: &Watch, rhythm: &Rhythm, now: Timestamp) -> Vec<PeerKey> {
        let stays = |peer: &PeerKey| {
            let belief = watch.belief(peer, now);
            belief.presence < Presence::Gone && !belief.leaving
        };
        let keeps = |peer: &PeerKey| !self.hides(slot, peer) && !self.breaks_word(slot, peer, now, rhythm);
        let all = self.holders(slot).into_iter().filter(|peer| !self.has(slot, peer).is_empty());
        all.filter(|peer| stays(peer) && keeps(peer)).collect()
    }

    /// Where more slots stand than may, worst first.
    pub(in super::super) fn clumps(
        &self,
        watch: &Watch,
        places: &Places,
        rhythm: &Rhythm,
        now: Timestamp,
    ) -> Vec<Clump> {
        let slots = self.code().each_slot().filter(|slot| !self.wanted(*slot).is_empty());
        let stand = |slot: Slot| -> (Slot, Vec<Place<'_>>) {
            let keepers = self.keepers(slot, watch, rhythm, now);
            (slot, keepers.iter().map(|peer| places.settled(peer, now, rhythm.settled_ms)).collect())
        };
        let slots: Vec<(Slot, Vec<Place<'_>>)> = slots.map(stand).collect();
        let caps = PlacementPolicy::new(self.code(), self.record.mandate.replicas).regions;
        clumps(&slots, &caps)
    }

    /// Slots of these clumps that may get one more holder: as few holders as possible come first. However often holders move, a slot
    /// gets no more than [`Triggers::spares`] beyond what it should have for that.
    pub(in super::super) fn movable(
        &self,
        clumps: &[Clump],
        watch: &Watch,
        rhythm: &Rhythm,
        now: Timestamp,
    ) -> Vec<Slot> {
        let most = usize::from(self.record.mandate.replicas.max(1)) + usize::from(Triggers::default().spares);
        let clumped = self.code().each_slot().filter(|slot| clumps.iter().any(|clump| clump.slots.contains(slot)));
        let mut all: Vec<(usize, Slot)> =
            clumped.map(|slot| (self.keepers(slot, watch, rhythm, now).len(), slot)).collect();
        all.retain(|(keepers, _)| *keepers < most);
        all.sort_unstable();
        all.into_iter().map(|(_, slot)| slot).collect()
    }
}
