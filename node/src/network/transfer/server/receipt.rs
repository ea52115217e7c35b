//! The receipt for a shard that is durable now: with it we are bound, until the lease is over.

use cairn_proto::{
    GroupId, ShardRoot, Slot,
    message::{Held, Receipt},
};
use prost::Message as _;

use super::Server;
use crate::{network::keeper::ShardKeeper, store::StoredShard};

impl Server {
    /// Says what we have of the slot in all, too: the newest receipt speaks for the whole slot (ADR 0021). Only what the ledger has is
    /// said, and it is kept until its lease is over, whoever has it deleted (DUR-5): so nothing is signed that could be held against us
    /// falsely.
    pub(super) fn receipt(
        &self,
        keeper: &dyn ShardKeeper,
        (group, slot, ordinal, root): (GroupId, Slot, u8, ShardRoot),
        kept: &StoredShard,
    ) -> Vec<u8> {
        let rows = keeper.rows(group, slot);
        let own = rows.iter().any(|(at, of, _)| (*at, *of) == (ordinal, root));
        let receipt = Receipt {
            holder: self.identity.peer(),
            group,
            slot,
            ordinal,
            root,
            lease_until: kept.lease_until,
            stored_at: kept.stored_at,
            held: own.then(|| Held::of(&rows)),
        };
        receipt.seal(self.identity.signing_key()).encode_to_vec()
    }
}
