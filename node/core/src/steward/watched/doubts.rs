//! What a new holder's word says of others.

use cairn_proto::{Action, PeerKey, order::OrderId};

use super::{
    super::{message::Failure, suspects::Accused},
    Watched,
};

impl Watched {
    /// What a new holder's word says of the helpers of its rebuild, also of one that it carried out: then it names whom it had to leave out.
    pub(in super::super) fn accused(&self, from: &PeerKey, order: &OrderId, why: Failure) -> Option<Accused> {
        let done = self.entries.get(order).map(|entry| &entry.certificate);
        let (certificate, done) = match self.find_order(order) {
            Some((_, given, _)) => (&given.certificate, false),
            None => (done?, true),
        };
        let Action::Rebuild { slot, to, helpers, .. } = &certificate.order.action else { return None };
        if to != from {
            return None;
        }
        match why {
            Failure::Wrong(Some(peer)) => {
                helpers.iter().any(|(_, helper)| *helper == peer).then_some(Accused::One(peer))
            }
            Failure::Wrong(None) if !done => Some(Accused::Among(*slot, helpers.clone())),
            _ => None,
        }
    }
}
