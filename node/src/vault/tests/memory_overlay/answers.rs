//! What the network in memory answers, each peer in its manner.

use std::sync::{Arc, atomic::Ordering};

use bytes::Bytes;
use cairn_core::{
    colour,
    peer_view::{self, PeerView, PerMille},
    steward::wire::GroupMap,
};
use cairn_proto::{
    ByteSize, Domain, GroupId, PROTOCOL_VERSION, PeerKey, Region, Slot, Timestamp, VaultKey,
    message::{HeadRecord, Held, Receipt, Roles},
    wire::{Priority, RefusalCode},
};
use futures::future::BoxFuture;

use super::{Manner, MemoryOverlay, Peer, now};
use crate::overlay::{
    Challenged, GroupAccess, HeadPublished, KeptReceipt, Overlay, OverlayError, ShardAddress, ShardChallenge, ShardPut,
    StewardError, TransferError,
};

impl MemoryOverlay {
    /// A request goes out, or its answer comes back.
    pub(super) async fn step(&self) {
        let count = |n: u64| Some(if n == u64::MAX { n } else { n.saturating_sub(1) });
        let left = self.halt.steps.fetch_update(Ordering::SeqCst, Ordering::SeqCst, count).unwrap_or_default();
        if left <= 1 {
            self.halt.reached.notify_waiters();
            std::future::pending::<()>().await;
        }
        let drawn = |n: u64| {
            if n == 0 { n } else { n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407) }
        };
        let random =
            self.halt.jitter.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| Some(drawn(n))).unwrap_or_default();
        for _ in 0..=(random >> 33) % 4 {
            tokio::task::yield_now().await;
        }
    }

    fn view(key: PeerKey, peer: &Peer, at: usize) -> PeerView {
        const REGIONS: [&str; 4] = ["EU/DE/FSN", "EU/FI/HEL", "US/VA/ASH", "AP/SG/SIN"];
        let (reputation, newcomer) = peer_view::standing(Timestamp(0), now(), true, (0, 0));
        PeerView {
            peer: key,
            domain: peer.domain.clone(),
            subnet: Some(peer.subnet.clone()),
            subnet_seen: true,
            region: Region::new(REGIONS[at % REGIONS.len()]).expect("valid"),
            region_basis: cairn_core::region::Basis::Declared,
            network: None,
            roles: Roles::STORAGE,
            protocol: PROTOCOL_VERSION,
            give: ByteSize(1 << 40),
            free: ByteSize(1 << 40),
            first_seen: Timestamp(0),
            last_heard: now(),
            reachable: Some(peer.manner != Manner::Dead),
            rtt_ms: Some(1),
            loss: 0,
            reputation,
            newcomer: newcomer || peer.quota.is_some(),
        }
    }

    pub(super) fn access<T>(
        &self,
        peer: PeerKey,
        work: impl FnOnce(&mut Peer) -> Result<T, TransferError>,
    ) -> Result<T, TransferError> {
        let mut world = self.world();
        let found = world.peers.get_mut(&peer).ok_or(TransferError::Unreachable("unknown".to_owned()))?;
        if matches!(found.manner, Manner::Dead | Manner::Vanished) {
            return Err(TransferError::Unreachable("dead".to_owned()));
        }
        work(found)
    }
}

pub(super) fn refused(code: RefusalCode) -> TransferError {
    TransferError::Refused { code, retry_after_ms: 0 }
}

impl Overlay for MemoryOverlay {
    fn me(&self) -> PeerKey {
        self.me
    }

    fn my_domain(&self) -> Domain {
        self.domain.clone()
    }

    fn quota(&self, peer: &PeerKey, _: Timestamp) -> PerMille {
        self.world().peers[peer].quota.unwrap_or(1000)
    }

    fn peers(&self, _refresh: bool) -> BoxFuture<'_, Result<Vec<PeerView>, OverlayError>> {
        Box::pin(async move {
            self.step().await;
            let views: Vec<_> =
                self.world().peers.iter().enumerate().map(|(at, (key, peer))| Self::view(*key, peer, at)).collect();
            if views.is_empty() { Err(OverlayError::NoPeers("nobody".to_owned())) } else { Ok(views) }
        })
    }

    fn is_connected(&self, peer: &PeerKey) -> bool {
        self.world().peers.get(peer).is_some_and(|peer| !matches!(peer.manner, Manner::Away | Manner::Asleep))
    }

    fn reach(&self, peer: PeerKey) {
        self.dial(&peer);
    }

    fn put_shard(
        &self,
        to: PeerKey,
        put: ShardPut,
        _priority: Priority,
    ) -> BoxFuture<'_, Result<KeptReceipt, TransferError>> {
        Box::pin(async move {
            self.step().await;
            let ticket = put.address.group.ticket;
            let (group, slot, ordinal) = (ticket.id(), put.address.slot, put.address.ordinal);
            assert_eq!(put.bytes.len(), cairn_proto::SHARD_SIZE);
            assert_eq!(put.root.as_bytes(), blake3::hash(&put.bytes).as_bytes());
            {
                let mut world = self.world();
                *world.offers.entry((group, slot.as_u8(), to)).or_default() += 1;
                let peer = world.peers.get(&to).expect("puts go to known peers");
                for who in [peer.domain.clone(), peer.subnet.clone()] {
                    world.offered.entry((who, group)).or_default().insert(slot.as_u8());
                }
            }
            let full = self.world().full_slot == Some(slot.as_u8());
            let terse = self.world().terse;
            let receipt = self.access(to, |peer| {
                if !colour::may_hold(&ticket, &peer.domain, slot) {
                    return Err(refused(RefusalCode::WrongColour));
                }
                if full || peer.manner == Manner::Full {
                    return Err(refused(RefusalCode::NoSpace));
                }
                let kept =
                    peer.shards.entry((group, slot.as_u8(), ordinal)).or_insert_with(|| (put.root, put.bytes.clone()));
                if kept.0 != put.root {
                    return Err(refused(RefusalCode::Occupied));
                }
                let own = peer.shards.iter().filter(|((of, at, _), _)| (*of, *at) == (group, slot.as_u8()));
                let all: Vec<_> = own.map(|((.., ordinal), (root, _))| (*ordinal, *root, put.lease_until)).collect();
                let receipt = Receipt {
                    holder: to,
                    group,
                    slot,
                    ordinal,
                    root: put.root,
                    lease_until: put.lease_until,
                    stored_at: now(),
                    held: (!terse).then(|| Held::of(&all)),
                };
                Ok(KeptReceipt { receipt, signed: receipt.seal(&peer.key) })
            });
            if matches!(receipt, Err(TransferError::Refused { code: RefusalCode::Occupied, .. })) {
                self.world().occupied += 1;
            }
            let receipt = receipt?;
            // The receipt is on its way: whoever gives up here has a shard there and does not know it.
            self.step().await;
            self.sent.fetch_add(put.bytes.len() as u64, Ordering::SeqCst);
            if self.fuse.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| {
                Some(if n == u64::MAX { n } else { n.saturating_sub(1) })
            }) == Ok(1)
                && let Some(token) = &*self.fuse_token.lock().expect("lock")
            {
                token.cancel();
            }
            if self.stall.load(Ordering::SeqCst) && self.fuse.load(Ordering::SeqCst) == 0 {
                std::future::pending::<()>().await;
            }
            Ok(receipt)
        })
    }

    fn get_shard(
        &self,
        from: PeerKey,
        address: ShardAddress,
        offset: u32,
        length: u32,
        _priority: Priority,
    ) -> BoxFuture<'_, Result<Bytes, TransferError>> {
        Box::pin(async move {
            self.step().await;
            let place = (address.group.ticket.id(), address.slot.as_u8(), address.ordinal);
            self.dial(&from);
            if !self.is_connected(&from) {
                self.world().waits += 1;
                tokio::time::sleep(std::time::Duration::from_secs(5)).await;
                return Err(TransferError::Unreachable("a dial in vain".to_owned()));
            }
            if self.world().peers.get(&from).is_some_and(|peer| peer.manner == Manner::Slow) {
                self.world().waits += 1;
                tokio::time::sleep(std::time::Duration::from_secs(60)).await;
            }
            let bytes = self.access(from, |peer| {
                if peer.manner == Manner::Mute {
                    return Err(refused(RefusalCode::Busy));
                }
                let (_, bytes) = peer.shards.get(&place).ok_or(refused(RefusalCode::NotFound))?;
                let end = if length == 0 { bytes.len() } else { (offset + length) as usize };
                let mut part = bytes.slice(offset as usize..end);
                if peer.manner == Manner::Liar {
                    part = part.iter().map(|b| b ^ 0x55).collect::<Vec<_>>().into();
                }
                Ok(part)
            })?;
            self.fetched.fetch_add(bytes.len() as u64, Ordering::SeqCst);
            Ok(bytes)
        })
    }

    fn has_shards(
        &self,
        at: PeerKey,
        group: Arc<GroupAccess>,
        slot: Slot,
    ) -> BoxFuture<'_, Result<[u8; 32], TransferError>> {
        Box::pin(async move {
            self.step().await;
            let id = group.ticket.id();
            if let Some(work) = self.on_question.lock().expect("lock").take() {
                work();
            }
            self.access(at, |peer| {
                let mut bits = [0u8; 32];
                for (_, _, ordinal) in
                    peer.shards.keys().chain(&peer.dropped).filter(|(g, s, _)| *g == id && *s == slot.as_u8())
                {
                    bits[usize::from(*ordinal / 8)] |= 1 << (ordinal % 8);
                }
                Ok(bits)
            })
        })
    }

    fn delete_shard(&self, at: PeerKey, address: ShardAddress) -> BoxFuture<'_, Result<(), TransferError>> {
        Box::pin(async move {
            let place = (address.group.ticket.id(), address.slot.as_u8(), address.ordinal);
            self.access(at, |peer| peer.shards.remove(&place).map(|_| ()).ok_or(refused(RefusalCode::NotFound)))
        })
    }

    fn challenge(&self, at: PeerKey, about: ShardChallenge) -> BoxFuture<'_, Result<Challenged, TransferError>> {
        Box::pin(self.holder_answers(at, about))
    }

    fn register_group(&self, steward: PeerKey, record: Vec<u8>) -> BoxFuture<'_, Result<(), StewardError>> {
        Box::pin(self.steward_takes(steward, record))
    }

    fn leave_tokens(
        &self,
        steward: PeerKey,
        group: GroupId,
        own: Vec<u8>,
        spare: Option<Vec<u8>>,
    ) -> BoxFuture<'_, Result<(), StewardError>> {
        Box::pin(self.steward_takes_tokens(steward, group, own, spare))
    }

    fn group_map(
        &self,
        steward: PeerKey,
        group: Arc<GroupAccess>,
    ) -> BoxFuture<'_, Result<Box<GroupMap>, StewardError>> {
        Box::pin(self.steward_tells(steward, group.ticket.id()))
    }

    fn publish_head(&self, vault: VaultKey, encoded: Vec<u8>) -> BoxFuture<'_, Result<HeadPublished, OverlayError>> {
        Box::pin(async move {
            self.step().await;
            let record = HeadRecord::open(&encoded).expect("a head that verifies");
            assert_eq!(record.vault, vault);
            let alive = {
                let mut world = self.world();
                if world.keep_no_heads {
                    return Ok(HeadPublished { kept_by: 0 });
                }
                let alive = world.peers.values().filter(|p| p.manner != Manner::Dead).count();
                if alive == 0 {
                    return Err(OverlayError::NoPeers("all dead".to_owned()));
                }
                if world.head.as_ref().is_none_or(|old| record.supersedes(old)) {
                    world.head = Some(record);
                }
                alive
            };
            self.step().await;
            Ok(HeadPublished { kept_by: alive.min(20) })
        })
    }

    fn find_head(&self, vault: VaultKey) -> BoxFuture<'_, Result<Option<HeadRecord>, OverlayError>> {
        Box::pin(async move {
            self.step().await;
            let world = self.world();
            if world.peers.values().all(|p| p.manner == Manner::Dead) {
                return Err(OverlayError::NoPeers("all dead".to_owned()));
            }
            Ok(world.head.clone().filter(|h| h.vault == vault))
        })
    }
}
