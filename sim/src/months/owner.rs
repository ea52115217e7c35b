//! The owner: makes a group, puts stripes into it and leaves record and mandate with its stewards.

use std::collections::BTreeSet;

use cairn_core::placement::{self, GroupRequest, Owner, PlacementPolicy};
use cairn_proto::{
    GroupId, GroupRecord, Mandate, PeerKey, Powers, ShardRoot, SheetRow, Slot, SlotSheet, Timestamp,
    mandate::{MANDATE_MS_MAX, STEWARDS_MAX, is_real},
    manifest::HOLDERS_MAX,
};
use ed25519_dalek::SigningKey;
use rand_core::Rng as _;

use super::{SHARD, STRIPES, World};
use crate::checkers::Violation;

pub(super) const OWNER: PeerKey = PeerKey::from_bytes([255; 32]);

impl World<'_> {
    /// The owner makes a group, puts stripes into it and leaves record and mandate with its stewards.
    pub(super) fn place(&mut self, number: u32) -> Result<(), Violation> {
        let bad = |what: String| Violation { invariant: "REP-1", at: Timestamp(0), what };
        let views = self.views(None);
        let policy = PlacementPolicy::new(self.settings.code, self.settings.copies);
        let mut secret = crate::world::key("authority", number);
        secret[..8].copy_from_slice(&self.settings.seed.to_le_bytes());
        let authority = SigningKey::from_bytes(&secret);
        let owner = Owner { peer: OWNER, domain: crate::world::operator("the-owner") };
        let avoid = BTreeSet::new();
        let request = GroupRequest {
            owner,
            authority: authority.verifying_key().to_bytes(),
            policy: &policy,
            avoid: &avoid,
            now: self.now,
            owner_key: Some([number as u8; 32]),
        };
        let plan = placement::plan_group(&views, &request, self.dice.rng());
        let plan = plan.map_err(|e| bad(format!("no group: {e}")))?;
        let mut stewards = placement::stewards(&views, &request, &plan.ticket);
        stewards.truncate(STEWARDS_MAX);
        let group = plan.ticket.id();
        let mut rows: Vec<Vec<SheetRow>> = plan.slots.iter().map(|_| Vec::new()).collect();
        // Half of the groups are small: no stripe of theirs has all its data shards.
        let most = self.settings.code.data() as u32;
        let largest = if self.dice.per_mille(500) { most } else { 1 + self.dice.below(most - 1) };
        for ordinal in 0..STRIPES {
            let used = 1 + self.dice.below(largest) as u8;
            let shards = self.stripe(group, ordinal, used);
            for slot in self.settings.code.each_slot() {
                let Some(bytes) = &shards[slot.index()] else { continue };
                let root = ShardRoot::from_bytes(*blake3::hash(bytes).as_bytes());
                rows[slot.index()].push(SheetRow { ordinal, used, root });
                for holder in plan.chosen(slot) {
                    self.store(self.index[holder], &plan.ticket, slot, ordinal, bytes.clone())?;
                }
            }
        }
        let mandate = Mandate {
            ticket: plan.ticket,
            generation: 1,
            stewards: stewards.clone(),
            replicas: self.settings.copies,
            powers: Powers::ALL,
            monthly_bytes: 64 << 30,
            issued: self.now,
            ends: self.now.plus_ms(MANDATE_MS_MAX),
        };
        let sheet = |slot: Slot| {
            let holders = plan.chosen(slot).iter().take(HOLDERS_MAX).copied().collect();
            let rows = rows[slot.index()].clone();
            SlotSheet { group, slot, generation: 1, holders, rows, leans: false }.seal(&authority)
        };
        let sheets = self.settings.code.each_slot().map(sheet).collect::<Result<Vec<_>, _>>();
        let record = sheets.and_then(|sheets| GroupRecord::new(mandate.seal(&authority)?, sheets));
        let record = record.map_err(|e| bad(e.to_string()))?;
        for slot in self.settings.code.each_slot() {
            self.sheets.insert((group, Some(slot)), record.sealed_sheet(slot).unwrap_or_default().to_vec());
        }
        self.trace.line(self.now, format_args!("group {} with {} stewards", group.short(), stewards.len()));
        for (rank, steward) in stewards.into_iter().enumerate() {
            let at = self.index[&steward];
            let now = self.now;
            if rank < self.settings.bad as usize {
                self.members[at].malice.get_or_insert_default();
            }
            let adopted = self.members[at].steward.adopt(record.clone(), &[], OWNER, now);
            adopted.map_err(|e| bad(e.to_string()))?;
            self.effects(at)?;
        }
        self.leave_tokens(&plan.ticket, &authority, &record.mandate.stewards)?;
        self.watcher.group(group, plan.ticket);
        self.groups.push(group);
        Ok(())
    }

    /// Its shards by slot; none where it is virtual.
    fn stripe(&mut self, group: GroupId, ordinal: u8, used: u8) -> Vec<Option<Vec<u8>>> {
        let mut data: Vec<Vec<u8>> = Vec::new();
        for _ in 0..used {
            let mut bytes = vec![0; SHARD];
            self.dice.rng().fill_bytes(&mut bytes);
            data.push(bytes);
        }
        let parity = self.codec.parity(&data).unwrap_or_default();
        self.data.insert((group, ordinal), data.clone());
        let mut shards: Vec<Option<Vec<u8>>> = data.into_iter().map(Some).collect();
        shards.resize(self.codec.params().data(), None);
        shards.extend(parity.into_iter().map(Some));
        shards
    }

    /// Data shards of a stripe.
    pub(super) fn used(&self, group: GroupId, stripe: u8) -> u8 {
        self.data.get(&(group, stripe)).map_or(0, |data| data.len() as u8)
    }

    /// The stripes that have a shard in this slot.
    pub(super) fn stripes_of(&self, group: GroupId, slot: Slot) -> Vec<u8> {
        let real = |stripe: &u8| is_real(self.settings.code, self.used(group, *stripe), slot);
        (0..STRIPES).filter(real).collect()
    }
}
