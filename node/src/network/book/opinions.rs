//! What the book has to do with what is thought of peers: it says what came of dealing with them, and who may be heard as whom.

use std::collections::BTreeMap;

use cairn_core::reputation::Observed;
use cairn_proto::{Domain, PeerKey, Timestamp};

use super::{Known, PeerBook};
use crate::network::invitations::Invitations;
use crate::standing::{Standings, Voice, ports::Witness as _};

impl PeerBook {
    /// Whose opinions these peers' standing is.
    pub(crate) fn with_standings(mut self, standings: Standings) -> Self {
        self.standings = Some(standings);
        self
    }

    /// Who may be here.
    pub(crate) fn with_invitations(mut self, invitations: Invitations) -> Self {
        self.invitations = Some(invitations);
        self
    }

    /// Something came of dealing with a peer that we know.
    pub(super) fn tell(&self, peer: &PeerKey, there: bool) {
        if let Some(standings) = &self.standings {
            standings.saw(*peer, if there { Observed::Alive } else { Observed::Silent });
        }
    }

    /// A sign of life that came by itself, and that some peers give more often than others.
    pub(super) fn tell_heard(&self, peer: &PeerKey, now: Timestamp) {
        if let Some(standings) = &self.standings {
            standings.heard(*peer, now);
        }
    }

    pub(super) fn is_convicted(&self, peer: &PeerKey) -> bool {
        self.standings.as_ref().is_some_and(|standings| standings.is_convicted(peer))
    }

    /// Under which domain each peer may be heard: names are free and addresses are not, so all that were seen at one subnet speak as
    /// the one of them that is known longest, and all that only say they are there as another one. Who is at no address that could be
    /// checked has no voice, unless addresses are private.
    pub(crate) fn voices(&self) -> BTreeMap<PeerKey, Voice> {
        let mut eldest: BTreeMap<&Domain, &Known> = BTreeMap::new();
        for known in self.peers.values() {
            if let Some(subnet) = &known.subnet_seen {
                let first = eldest.entry(subnet).or_insert(known);
                if (known.first_seen, known.advert.peer) < (first.first_seen, first.advert.peer) {
                    *first = known;
                }
            }
        }
        let voice = |known: &Known| {
            let domain = match (&known.subnet_seen, &known.subnet_told) {
                (Some(subnet), _) => {
                    eldest.get(subnet).map_or_else(|| known.domain.clone(), |first| first.domain.clone())
                }
                (None, Some(told)) => told.clone(),
                (None, None) if self.allow_private => known.domain.clone(),
                (None, None) => return None,
            };
            Some((known.advert.peer, Voice { domain, since: known.first_seen }))
        };
        self.peers.values().filter_map(voice).collect()
    }
}
