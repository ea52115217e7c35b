//! Whom a rebuild had to leave out, told to the stewards after it was done; and that others' lines were used to find that out.

use cairn_core::{
    part::Credentials,
    steward::{Failure, Say},
};
use cairn_proto::{PeerKey, order::OrderId};

use super::Newcomer;

/// Helpers of one order that are named: whoever names more is not believed.
const NAMED_MAX: usize = 2;

impl Newcomer {
    /// Helpers without whom roots came out right, once what came is known; or that nobody can be named, since the search for them used others'
    /// lines all the same. Lost by a restart: the next rebuild meets them again.
    pub(super) async fn name_liars(&self, order: &OrderId, credentials: &Credentials) {
        let Some(rebuilder) = &self.0.tools.rebuilder else { return };
        let Some(named) = rebuilder.named(order).await else { return };
        let mut accused: Vec<Option<PeerKey>> = named.into_iter().take(NAMED_MAX).map(Some).collect();
        if accused.is_empty() {
            accused.push(None);
        }
        let group = credentials.certificate.order.group;
        for steward in self.stewards(credentials).await {
            for peer in &accused {
                let say = Say::Failed { group, order: *order, failure: Failure::Wrong(*peer) };
                self.0.tools.outbox.say(steward, say);
            }
        }
    }
}
