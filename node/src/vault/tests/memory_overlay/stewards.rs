//! Peers as stewards: they keep records as real ones do, and tell of repairs that a test makes with real signatures.

use std::{collections::BTreeSet, time::Duration};

use cairn_core::{
    colour::colour,
    steward::{
        Happening, What,
        wire::{GroupMap, Refusal},
    },
};
use cairn_proto::{
    Action, Certificate, Committee, GroupId, GroupRecord, Order, Ordinals, PeerKey, Slot, Taken, mandate::quorum,
};

use super::{Manner, MemoryOverlay, now};
use crate::overlay::{StewardError, TransferError};

/// How a peer stewards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::vault::tests) enum Stewarding {
    /// Says this.
    Refuses(Refusal),
    /// Takes the question and never answers. For what it knows it is given up after a time, as the network does.
    Hangs,
    /// Takes this many seconds for each question.
    Slow(u64),
}

/// What a steward has of a group.
#[derive(Clone)]
pub(super) struct Left {
    record: GroupRecord,
    changes: Vec<Certificate>,
    entries: Vec<(Certificate, Vec<u8>)>,
    log: Vec<Happening>,
}

/// To whom, its own booklet, and the spare one.
pub(in crate::vault::tests) type LeftTokens = (PeerKey, Vec<u8>, Option<Vec<u8>>);

/// What makes a repair a lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::vault::tests) enum Lie {
    None,
    /// Fewer stewards signed than it takes.
    Few,
    /// Peers signed that are no stewards.
    Strangers,
    /// The order is of another group.
    OtherGroup,
    /// The new holder's word is signed by somebody else.
    OtherHand,
}

impl MemoryOverlay {
    /// From now on a peer stewards so; `None`: as it should.
    pub(in crate::vault::tests) fn set_stewarding(&self, peer: &PeerKey, how: Option<Stewarding>) {
        let mut world = self.world();
        match how {
            Some(how) => world.stewarding.insert(*peer, how),
            None => world.stewarding.remove(peer),
        };
    }

    /// The same for everybody.
    pub(in crate::vault::tests) fn set_all_stewarding(&self, how: Option<Stewarding>) {
        self.peer_keys().iter().for_each(|peer| self.set_stewarding(peer, how));
    }

    /// What stewards have of a group.
    pub(in crate::vault::tests) fn records(&self, group: GroupId) -> Vec<(PeerKey, GroupRecord)> {
        let world = self.world();
        let of = world.left.iter().filter(|((_, id), _)| *id == group);
        of.map(|((steward, _), left)| (*steward, left.record.clone())).collect()
    }

    /// Records that were sent to anybody since the last call, taken or not.
    pub(in crate::vault::tests) fn take_registered(&self) -> usize {
        std::mem::take(&mut self.world().registered)
    }

    /// Questions what became of a group, since the last call.
    pub(in crate::vault::tests) fn take_maps_asked(&self) -> usize {
        std::mem::take(&mut self.world().maps_asked)
    }

    /// From now on this steward tells this of the group, whatever it knows.
    pub(in crate::vault::tests) fn tell(&self, steward: &PeerKey, group: GroupId, map: GroupMap) {
        self.world().lies.insert((*steward, group), map);
    }

    /// The next question to each steward of a group about it fails.
    pub(in crate::vault::tests) fn stumble(&self, group: GroupId) {
        let stewards: Vec<PeerKey> = self.records(group).into_iter().map(|(steward, _)| steward).collect();
        self.world().stumbling.extend(stewards.into_iter().map(|steward| (steward, group)));
    }

    /// The stewards of a group put `new` in the place of `old`, and it knows what they know.
    pub(in crate::vault::tests) fn replace_steward(&self, group: GroupId, old: &PeerKey, new: &PeerKey) {
        let mut world = self.world();
        let left = world.left[&(*old, group)].clone();
        let mandate = &left.record.mandate;
        let issued = now();
        let order = Order {
            group,
            generation: mandate.generation,
            committee: *Committee::of(mandate).id(),
            nonce: [77; 16],
            issued,
            expires: issued.plus_ms(3_600_000),
            urgent: false,
            action: Action::Replace { old: *old, new: *new },
        };
        let signers = mandate.stewards.iter().filter(|peer| *peer != old);
        let votes: Vec<_> = signers.map(|peer| (*peer, order.sign(&world.peers[peer].key).expect("valid"))).collect();
        let certificate = Certificate::new(order, votes);
        world.left.insert((*new, group), left);
        for (_, left) in world.left.iter_mut().filter(|((_, id), _)| *id == group) {
            left.changes.push(certificate.clone());
        }
    }

    /// What a steward would tell.
    pub(in crate::vault::tests) fn map(&self, steward: &PeerKey, group: GroupId) -> GroupMap {
        let world = self.world();
        let left = &world.left[&(*steward, group)];
        GroupMap {
            mandate: left.record.sealed_mandate().to_vec(),
            sheets: left.record.sheets.iter().map(|sheet| sheet.generation).collect(),
            changes: left.changes.clone(),
            past: Vec::new(),
            entries: left.entries.clone(),
            log: left.log.clone(),
        }
    }

    /// The root of a shard that a peer has.
    pub(in crate::vault::tests) fn root(
        &self,
        peer: &PeerKey,
        group: GroupId,
        slot: u8,
        ordinal: u8,
    ) -> Option<cairn_proto::ShardRoot> {
        self.world().peers[peer].shards.get(&(group, slot, ordinal)).map(|(root, _)| *root)
    }

    /// An order to copy all that `from` has of a slot to `to`, and the word of `to` that it did.
    pub(in crate::vault::tests) fn order(
        &self,
        group: GroupId,
        slot: Slot,
        from: &PeerKey,
        to: &PeerKey,
        lie: Lie,
    ) -> (Certificate, Vec<u8>) {
        let mandate = self.records(group).into_iter().map(|(_, record)| record.mandate).max_by_key(|m| m.generation);
        let mandate = mandate.expect("it has stewards");
        let world = self.world();
        let mut committee = Committee::of(&mandate);
        let changes = world
            .left
            .iter()
            .find(|((_, id), left)| *id == group && left.record.mandate.generation == mandate.generation);
        for change in changes.map(|(_, left)| &left.changes).into_iter().flatten() {
            committee.change(change).expect("follows");
        }
        let shards = world.peers[from].shards.keys().filter(|(g, s, _)| *g == group && *s == slot.as_u8());
        let ordinals: Ordinals = shards.map(|(.., ordinal)| *ordinal).collect();
        let issued = now();
        let order = Order {
            group: if lie == Lie::OtherGroup { GroupId::from_bytes([3; 32]) } else { group },
            generation: mandate.generation,
            committee: *committee.id(),
            nonce: [slot.as_u8(); 16],
            issued,
            expires: issued.plus_ms(3_600_000),
            urgent: false,
            action: Action::Copy { slot, from: *from, to: *to, ordinals },
        };
        let strangers = world.peers.keys().filter(|peer| !mandate.stewards.contains(peer));
        let signers: Vec<PeerKey> = match lie {
            Lie::Few => mandate.stewards.iter().take(quorum(mandate.stewards.len()) - 1).copied().collect(),
            Lie::Strangers => strangers.take(7).copied().collect(),
            _ => committee.stewards().iter().take(quorum(committee.stewards().len())).copied().collect(),
        };
        let votes = signers.iter().map(|peer| (*peer, order.sign(&world.peers[peer].key).expect("valid")));
        let certificate = Certificate::new(order.clone(), votes.collect::<Vec<_>>());
        let taken = Taken {
            order: order.id().expect("valid"),
            group: order.group,
            slot,
            ordinals,
            previous: [0; 32],
            at: issued,
            holder: *to,
        };
        let hand = if lie == Lie::OtherHand { from } else { to };
        (certificate, taken.seal(&world.peers[hand].key))
    }

    /// The stewards of a group have all that `from` has of a slot copied to `to`, and all of them know.
    pub(in crate::vault::tests) fn repair(&self, group: GroupId, slot: Slot, from: &PeerKey, to: &PeerKey) {
        let entry = self.order(group, slot, from, to, Lie::None);
        let (certificate, sealed) = &entry;
        let taken = Taken::open(sealed).expect("signed");
        let ordinals: Vec<u8> = taken.ordinals.iter().collect();
        self.copy_shards(from, to, group, slot.as_u8(), &ordinals);
        let mut world = self.world();
        let places = [world.peers[to].domain.clone(), world.peers[to].subnet.clone()];
        for place in places {
            world.offered.entry((place, group)).or_default().insert(slot.as_u8());
        }
        let (order, shards, slot) = (certificate.order.id().expect("valid"), ordinals.len() as u16, slot.as_u8());
        for (_, left) in world.left.iter_mut().filter(|((_, id), _)| *id == group) {
            left.entries.push(entry.clone());
            let ordered = What::Ordered { order, slot, to: *to, rebuild: false, shards };
            let repaired = What::Repaired { order, slot, holder: *to, shards };
            left.log.extend([ordered, repaired].map(|what| Happening { at: now(), what }));
        }
    }

    /// A peer of a slot's colour that has none of `not`'s places.
    pub(in crate::vault::tests) fn newcomer(
        &self,
        ticket: &cairn_proto::GroupTicket,
        slot: Slot,
        not: &BTreeSet<PeerKey>,
    ) -> PeerKey {
        self.coloured(ticket, slot).into_iter().find(|peer| !not.contains(peer)).expect("one more of the colour")
    }

    /// A peer of the stewards' colour that is none of `not`.
    pub(in crate::vault::tests) fn steward_to_be(
        &self,
        ticket: &cairn_proto::GroupTicket,
        not: &BTreeSet<PeerKey>,
    ) -> PeerKey {
        let world = self.world();
        let may = |peer: &super::Peer| colour(ticket, &peer.domain).index() == ticket.code().slots();
        let mut coloured = world.peers.iter().filter(|(key, peer)| may(peer) && !not.contains(key));
        *coloured.next().expect("one more of the colour").0
    }

    /// Whether it is reached at all; hangs when it does.
    async fn reach(&self, steward: PeerKey) -> Result<(), StewardError> {
        self.step().await;
        let (manner, how) = {
            let world = self.world();
            (world.peers.get(&steward).map(|peer| peer.manner), world.stewarding.get(&steward).copied())
        };
        match (manner, how) {
            (None | Some(Manner::Dead | Manner::Vanished), _) => {
                Err(TransferError::Unreachable("dead".to_owned()).into())
            }
            (_, Some(Stewarding::Hangs)) => std::future::pending().await,
            (_, Some(Stewarding::Slow(seconds))) => {
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                Ok(())
            }
            (_, Some(Stewarding::Refuses(why))) => Err(StewardError::Refused(why)),
            (_, None) => Ok(()),
        }
    }

    /// Keeps what it is left, if it watches the group.
    pub(super) async fn steward_takes_tokens(
        &self,
        steward: PeerKey,
        group: GroupId,
        own: Vec<u8>,
        spare: Option<Vec<u8>>,
    ) -> Result<(), StewardError> {
        self.reach(steward).await?;
        let mut world = self.world();
        if !world.left.contains_key(&(steward, group)) {
            return Err(StewardError::Refused(Refusal::NotSteward));
        }
        world.tokens.push((group, (steward, own, spare)));
        Ok(())
    }

    /// What stewards were left of a group, in that order.
    pub(in crate::vault::tests) fn tokens(&self, group: GroupId) -> Vec<LeftTokens> {
        let world = self.world();
        world.tokens.iter().filter(|(id, _)| *id == group).map(|(_, left)| left.clone()).collect()
    }

    pub(super) async fn steward_takes(&self, steward: PeerKey, record: Vec<u8>) -> Result<(), StewardError> {
        self.world().registered += 1;
        self.reach(steward).await?;
        let record = GroupRecord::decode(&record).map_err(|_| StewardError::Refused(Refusal::Forged))?;
        let mut world = self.world();
        let peer = &world.peers[&steward];
        let class = record.mandate.ticket.code().slots();
        assert_eq!(colour(&record.mandate.ticket, &peer.domain).index(), class, "SEP-1: of the stewards' colour");
        assert!(peer.domain != self.domain, "SEP-1: the owner's own domain watches nothing");
        // Or put in by the others under the same mandate.
        let put_in = world.left.get(&(steward, record.group())).is_some_and(|left| {
            let same = left.record.sealed_mandate() == record.sealed_mandate();
            same && left.changes.iter().any(|change| change.order.action.stewards().1 == Some(steward))
        });
        if !(put_in || record.mandate.stewards.contains(&steward)) || !record.mandate.holds_at(now()) {
            return Err(StewardError::Refused(Refusal::NotSteward));
        }
        let place = (steward, record.group());
        let generation = record.mandate.generation;
        match world.left.get_mut(&place) {
            Some(left) if record.supersedes(&left.record) => left.record = record,
            Some(_) => return Err(StewardError::Refused(Refusal::Old)),
            None => {
                let log = vec![Happening { at: now(), what: What::Adopted { generation } }];
                let left = Left { record, changes: Vec::new(), entries: Vec::new(), log };
                world.left.insert(place, left);
            }
        }
        Ok(())
    }

    pub(super) async fn steward_tells(&self, steward: PeerKey, group: GroupId) -> Result<Box<GroupMap>, StewardError> {
        {
            let mut world = self.world();
            world.maps_asked += 1;
            if world.stumbling.remove(&(steward, group)) {
                return Err(TransferError::Unreachable("the connection broke".to_owned()).into());
            }
        }
        let reached = tokio::time::timeout(Duration::from_secs(5), self.reach(steward)).await;
        reached.unwrap_or_else(|_| Err(TransferError::TimedOut.into()))?;
        if let Some(lie) = self.world().lies.get(&(steward, group)) {
            return Ok(Box::new(lie.clone()));
        }
        if !self.world().left.contains_key(&(steward, group)) {
            return Err(StewardError::Refused(Refusal::NotSteward));
        }
        Ok(Box::new(self.map(&steward, group)))
    }
}
