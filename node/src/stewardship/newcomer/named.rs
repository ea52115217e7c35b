//! Whom a rebuild had to leave out, told to the stewards after it was done.

use cairn_core::{
    part::Credentials,
    steward::{Failure, Say},
};
use cairn_proto::order::OrderId;

use super::Newcomer;

/// Helpers of one order that are named: whoever names more is not believed.
const NAMED_MAX: usize = 2;

impl Newcomer {
    /// Helpers without whom roots came out right, once what came is known. Lost by a restart: the next rebuild meets them again.
    pub(super) async fn name_liars(&self, order: &OrderId, credentials: &Credentials) {
        let Some(rebuilder) = &self.0.tools.rebuilder else { return };
        let named = rebuilder.named(order).await;
        if named.is_empty() {
            return;
        }
        let group = credentials.certificate.order.group;
        for steward in self.stewards(credentials).await {
            for peer in named.iter().take(NAMED_MAX) {
                let say = Say::Failed { group, order: *order, failure: Failure::Wrong(Some(*peer)) };
                self.0.tools.outbox.say(steward, say);
            }
        }
    }
}
