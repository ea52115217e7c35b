//! The overlay as a vault sees it: transfers, the peers there are, heads kept by many.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use cairn_core::{
    peer_view::{PeerView, PerMille},
    steward::wire::GroupMap,
};
use cairn_proto::{
    Domain, GroupId, PeerKey, Slot, Timestamp, VaultKey,
    message::{ADVERTS_PER_ANSWER_MAX, ControlRequest, HeadRecord, Roles, control_request::Ask},
    wire::Priority,
};
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream};
use libp2p::{Multiaddr, PeerId, identity};
use rand_core::Rng as _;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout, timeout_at},
};

use super::{NetworkHandle, command::Command, hedge::Hedge, paces::Paces, transfer::client::ShardClient, waits::Waits};
use crate::overlay::{
    Challenged, GroupAccess, HeadPublished, KeptReceipt, Overlay, OverlayError, ShardAddress, ShardChallenge, ShardPut,
    StewardError, TransferError,
};
use crate::standing::ports::Witness;

/// Walks of one refresh: each finds some twenty peers near a random place and asks them for 64 adverts each.
const WALKS_MAX: usize = 6;
/// Connected peers asked on the first walk.
const WALK_FIRST: usize = 8;
/// Peers asked at once on a walk: all that one finds.
const WALK_WIDTH: usize = 32;
/// Peers told directly of a new head, beside the DHT's own twenty. Only these count as keepers: they answer when the
/// head is durable, Kademlia before.
const HEAD_KEEPERS: usize = 8;
/// A peer that wants to be asked again later than this is not.
const RETRY_MAX: Duration = Duration::from_secs(4);
/// ... and so often.
const RETRIES: usize = 3;
/// Peers asked for a head at once, and in all.
const FIND_WIDTH: usize = 32;
const FIND_MAX: usize = 512;

impl Overlay for NetworkHandle {
    fn me(&self) -> PeerKey {
        self.inner.me
    }

    fn my_domain(&self) -> Domain {
        self.inner.domain.clone()
    }

    fn witness(&self) -> Option<&dyn Witness> {
        Some(&self.inner.standings)
    }

    fn quota(&self, peer: &PeerKey, since: Timestamp) -> PerMille {
        self.inner.standings.quota(peer, since)
    }

    fn peers(&self, refresh: bool) -> BoxFuture<'_, Result<Vec<PeerView>, OverlayError>> {
        async move {
            if refresh {
                self.walk().await?;
            }
            self.ask(|reply| Command::Peers { reply }).await
        }
        .boxed()
    }

    fn is_connected(&self, peer: &PeerKey) -> bool {
        self.inner.presence.has(peer)
    }

    fn reach(&self, peer: PeerKey) {
        if !self.is_connected(&peer) {
            // With more in the queue than fits, whoever asks the peer dials it.
            let _ = self.inner.commands.try_send(Command::Reach { peer });
        }
    }

    fn put_shard(
        &self,
        to: PeerKey,
        put: ShardPut,
        priority: Priority,
    ) -> BoxFuture<'_, Result<KeptReceipt, TransferError>> {
        self.inner.client.put(to, put, priority).boxed()
    }

    fn get_shard(
        &self,
        from: PeerKey,
        address: ShardAddress,
        offset: u32,
        length: u32,
        priority: Priority,
    ) -> BoxFuture<'_, Result<Bytes, TransferError>> {
        let bytes = ShardClient::bytes_of(offset, length);
        if !Paces::tells(bytes) {
            return async move { self.inner.client.get(from, address, offset, length, priority, None).await }.boxed();
        }
        let (flight, handle) = (self.inner.paces.begin(from, bytes), self.clone());
        let (question, reader) = (flight.question(), handle.clone());
        let read =
            async move { reader.inner.client.get(from, address, offset, length, priority, Some(&question)).await };
        let is_there = async move {
            let request = ControlRequest { ask: Some(Ask::Adverts(1)) };
            handle.control(from, Vec::new(), request).await.is_some()
        };
        flight.watch(read, is_there).boxed()
    }

    fn has_shards(
        &self,
        at: PeerKey,
        group: Arc<GroupAccess>,
        slot: Slot,
    ) -> BoxFuture<'_, Result<[u8; 32], TransferError>> {
        self.inner.client.has(at, group, slot).boxed()
    }

    fn delete_shard(&self, at: PeerKey, address: ShardAddress) -> BoxFuture<'_, Result<(), TransferError>> {
        self.inner.client.delete(at, address).boxed()
    }

    fn challenge(&self, at: PeerKey, about: ShardChallenge) -> BoxFuture<'_, Result<Challenged, TransferError>> {
        self.challenge_at(at, about).boxed()
    }

    fn register_group(&self, steward: PeerKey, record: Vec<u8>) -> BoxFuture<'_, Result<(), StewardError>> {
        self.register_at(steward, record).boxed()
    }

    fn leave_tokens(
        &self,
        steward: PeerKey,
        group: GroupId,
        own: Vec<u8>,
        spare: Option<Vec<u8>>,
    ) -> BoxFuture<'_, Result<(), StewardError>> {
        self.leave_tokens_at(steward, group, own, spare).boxed()
    }

    fn group_map(
        &self,
        steward: PeerKey,
        group: Arc<GroupAccess>,
    ) -> BoxFuture<'_, Result<Box<GroupMap>, StewardError>> {
        self.ask_steward(steward, group).boxed()
    }

    fn publish_head(&self, vault: VaultKey, encoded: Vec<u8>) -> BoxFuture<'_, Result<HeadPublished, OverlayError>> {
        async move {
            let key = HeadRecord::lookup_key(&vault);
            let (reply, dht) = oneshot::channel();
            let put = Command::PutRecord { key, value: encoded.clone(), reply };
            self.inner.commands.send(put).await.map_err(|_| OverlayError::ShuttingDown)?;
            let keepers = nearest(self.storage_peers().await?, &key, HEAD_KEEPERS);
            let questions = keepers.into_iter().map(|(peer, _)| {
                let request = ControlRequest { ask: Some(Ask::KeepHead(encoded.clone())) };
                async move {
                    let answer = self.control_again(peer, request).await;
                    answer.is_some_and(|a| a.granted).then_some(peer)
                }
            });
            let mut kept = BTreeSet::new();
            let waits = &self.inner.waits;
            let wave = ask_all(questions, HEAD_KEEPERS, waits, waits.head, |keeper| {
                kept.insert(keeper);
                true
            });
            let dht_time = if wave.await.is_half() { waits.late } else { waits.dht };
            // Waited for so that it is out before a short-lived process ends.
            let _ = timeout(dht_time, dht).await;
            kept.remove(&self.inner.me);
            if kept.is_empty() && self.readiness().connected == 0 {
                return Err(OverlayError::NoPeers("nobody could be asked to keep the head".into()));
            }
            Ok(HeadPublished { kept_by: kept.len() })
        }
        .boxed()
    }

    fn find_head(&self, vault: VaultKey) -> BoxFuture<'_, Result<Option<HeadRecord>, OverlayError>> {
        async move {
            let key = HeadRecord::lookup_key(&vault);
            let (reply, dht) = oneshot::channel();
            self.inner
                .commands
                .send(Command::GetRecord { key, reply })
                .await
                .map_err(|_| OverlayError::ShuttingDown)?;
            let asked = nearest(self.storage_peers().await?, &key, FIND_MAX);
            // By domains: who has many names has one word.
            let domains: BTreeSet<Domain> = asked.iter().map(|(_, domain)| domain.clone()).collect();
            let near: BTreeSet<Domain> = asked.iter().take(HEAD_KEEPERS).map(|(_, domain)| domain.clone()).collect();
            let questions = asked.into_iter().map(|(peer, domain)| {
                let request = ControlRequest { ask: Some(Ask::FindHead(vault.as_bytes().to_vec())) };
                async move {
                    let answer = self.control_again(peer, request).await;
                    // "Come again" says nothing about the head.
                    answer.filter(|a| a.granted || a.retry_after_ms == 0).map(|a| (domain, a.head))
                }
            });
            let mut answered: BTreeSet<Domain> = BTreeSet::new();
            let mut best = None;
            // Nobody is given up as late while nobody has a head.
            let waits = &self.inner.waits;
            let wave = ask_all(questions, FIND_WIDTH, waits, waits.head, |(domain, head)| {
                answered.insert(domain);
                take_newer(&mut best, &head, &vault);
                best.is_some()
            });
            wave.await;
            let (count, near_answered) = (domains.len(), answered.intersection(&near).count());
            let dht_time = if best.is_some() { waits.late } else { waits.dht };
            for head in timeout(dht_time, dht).await.ok().and_then(Result::ok).unwrap_or_default() {
                take_newer(&mut best, &head, &vault);
            }
            if best.is_none() && !is_no_word_of_all(answered.len(), count, near_answered, near.len()) {
                let text = format!("only {} of {count} domains that may have the head answered", answered.len());
                return Err(OverlayError::NoPeers(text));
            }
            if best.is_none() && count == 0 && self.readiness().connected == 0 {
                return Err(OverlayError::NoPeers("nobody could be asked for the head".into()));
            }
            Ok(best)
        }
        .boxed()
    }
}

/// Asks all, so many at once, and hands answers over as they come; `may_end` says whether the late may be given up.
async fn ask_all<T, F: Future<Output = Option<T>>>(
    questions: impl ExactSizeIterator<Item = F>,
    width: usize,
    waits: &Waits,
    longest: Duration,
    mut may_end: impl FnMut(T) -> bool,
) -> Hedge {
    let count = questions.len();
    let mut wave = Hedge::new(count, waits.late, longest, Instant::now());
    let (mut received, mut may) = (0, false);
    let mut answers = std::pin::pin!(stream::iter(questions).buffer_unordered(width));
    loop {
        let asked = if may { count.min(received + width) } else { 0 };
        let Ok(Some(answer)) = timeout_at(wave.until(asked), answers.next()).await else { return wave };
        received += 1;
        if let Some(answer) = answer {
            wave.answered(Instant::now());
            may = may_end(answer);
        }
    }
}

/// Whether enough of those asked answered that they have no head to say that there is none: half of all, or half of the
/// nearest, who were told of it. Whoever believes less starts the vault anew over what it has.
fn is_no_word_of_all(answered: usize, asked: usize, near_answered: usize, near: usize) -> bool {
    asked == 0 || 2 * answered >= asked || 2 * near_answered >= near.max(1)
}

/// The highest valid (generation, sequence) of this vault wins.
fn take_newer(best: &mut Option<HeadRecord>, encoded: &[u8], vault: &VaultKey) {
    if encoded.is_empty() {
        return;
    }
    match HeadRecord::open(encoded) {
        Ok(head) if head.vault == *vault => {
            if best.as_ref().is_none_or(|b| head.supersedes(b)) {
                *best = Some(head);
            }
        }
        Ok(_) => tracing::debug!("a peer answered with another vault's head"),
        Err(error) => tracing::debug!(%error, "a peer answered with a false head"),
    }
}

/// The peers nearest to a key, those that may be reached first: whoever looks asks the same ones. Of each domain, and of each subnet, one
/// comes before any second: a hundred names of one operator are not the only ones that are asked. With the domain of each.
fn nearest(mut peers: Vec<PeerView>, key: &[u8; 32], limit: usize) -> Vec<(PeerKey, Domain)> {
    let distance = |peer: &PeerKey| {
        let place = blake3::hash(peer.as_bytes());
        let mut apart = *place.as_bytes();
        apart.iter_mut().zip(key).for_each(|(a, k)| *a ^= k);
        apart
    };
    peers.sort_by_cached_key(|p| (p.reachable == Some(false), distance(&p.peer)));
    let mut seen: BTreeMap<Domain, usize> = BTreeMap::new();
    let mut ranked: Vec<(bool, usize, PeerView)> = Vec::with_capacity(peers.len());
    for view in peers {
        let of = |house: &Domain| seen.get(house).copied().unwrap_or(0);
        let rank = of(&view.domain).max(view.subnet.as_ref().map_or(0, of));
        let houses = std::iter::once(&view.domain).chain(view.subnet.as_ref().filter(|subnet| **subnet != view.domain));
        houses.for_each(|house| *seen.entry(house.clone()).or_default() += 1);
        ranked.push((view.reachable == Some(false), rank, view));
    }
    // Stable: nearer ones stay before.
    ranked.sort_by_key(|(gone, rank, _)| (*gone, *rank));
    ranked.into_iter().take(limit).map(|(.., view)| (view.peer, view.subnet.unwrap_or(view.domain))).collect()
}

impl NetworkHandle {
    async fn storage_peers(&self) -> Result<Vec<PeerView>, OverlayError> {
        let mut peers = self.ask(|reply| Command::Peers { reply }).await?;
        peers.retain(|p| p.roles.has(Roles::STORAGE) && !self.inner.standings.is_convicted(&p.peer));
        Ok(peers)
    }

    /// One question, and again as often as the peer says that it should come again; not for ever.
    async fn control_again(
        &self,
        peer: PeerKey,
        request: ControlRequest,
    ) -> Option<cairn_proto::message::ControlAnswer> {
        let mut answer = self.control(peer, Vec::new(), request.clone()).await?;
        for _ in 0..RETRIES {
            let wait = Duration::from_millis(answer.retry_after_ms);
            if answer.granted || wait.is_zero() || wait > RETRY_MAX {
                break;
            }
            tokio::time::sleep(wait).await;
            answer = self.control(peer, Vec::new(), request.clone()).await?;
        }
        Some(answer)
    }

    /// One question; `None` for any failure.
    async fn control(
        &self,
        peer: PeerKey,
        addresses: Vec<Multiaddr>,
        request: ControlRequest,
    ) -> Option<cairn_proto::message::ControlAnswer> {
        let answer = self.ask(|reply| Command::Ask { peer, addresses, request, reply }).await;
        answer.ok()?.map_err(|error| tracing::debug!(peer = %peer.short(), %error, "no answer")).ok()
    }

    /// Walks to random places until nothing new turns up or a bound is reached. Adverts that come back go into the
    /// book by themselves.
    async fn walk(&self) -> Result<(), OverlayError> {
        let mut asked: BTreeSet<PeerKey> = BTreeSet::new();
        let known = self.ask(|reply| Command::Peers { reply }).await?;
        let connected = known.iter().filter(|p| p.reachable == Some(true)).map(|p| (p.peer, Vec::new()));
        let mut found: BTreeMap<PeerKey, Vec<Multiaddr>> = connected.take(WALK_FIRST).collect();
        let mut before = self.readiness().storage_peers;
        let waits = &self.inner.waits;
        for _ in 0..WALKS_MAX {
            let target = self.random_place();
            let walk = self.ask(|reply| Command::Closest { target, reply });
            if let Ok(Ok(peers)) = timeout(waits.walk, walk).await {
                found.extend(peers);
            }
            found.retain(|peer, _| *peer != self.inner.me && asked.insert(*peer));
            let questions = std::mem::take(&mut found).into_iter().map(|(peer, addresses)| {
                let request = ControlRequest { ask: Some(Ask::Adverts(ADVERTS_PER_ANSWER_MAX as u32)) };
                self.control(peer, addresses, request)
            });
            ask_all(questions, WALK_WIDTH, waits, waits.walk, |_| true).await;
            let after = self.readiness().storage_peers;
            if after == before {
                break;
            }
            before = after;
        }
        Ok(())
    }

    fn random_place(&self) -> PeerId {
        let mut seed = [0u8; 32];
        self.inner.walks.lock().unwrap_or_else(PoisonError::into_inner).fill_bytes(&mut seed);
        identity::Keypair::ed25519_from_bytes(seed).map_or_else(|_| PeerId::random(), |k| k.public().to_peer_id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A silent network is not an empty one.
    #[test]
    fn few_that_say_no_are_no_word_of_all() {
        assert!(!is_no_word_of_all(1, 8, 1, 8), "one of eight");
        assert!(!is_no_word_of_all(0, 8, 0, 8), "nobody");
        assert!(is_no_word_of_all(4, 8, 4, 8), "half of them");
        assert!(is_no_word_of_all(4, 100, 4, 8), "half of those who would have it");
        assert!(is_no_word_of_all(0, 0, 0, 0), "there is nobody to ask");
    }
    fn view(n: u8, domain: &str, subnet: Option<&str>) -> PeerView {
        PeerView {
            peer: PeerKey::from_bytes([n; 32]),
            domain: Domain::operator(domain).expect("valid"),
            subnet: subnet.map(|subnet| Domain::new(subnet).expect("valid")),
            subnet_seen: subnet.is_some(),
            region: cairn_proto::Region::unknown(),
            region_basis: cairn_core::region::Basis::Unsaid,
            network: None,
            roles: Roles::STORAGE,
            protocol: 1,
            give: cairn_proto::ByteSize(0),
            free: cairn_proto::ByteSize(0),
            first_seen: Timestamp(0),
            last_heard: Timestamp(0),
            reachable: None,
            rtt_ms: None,
            loss: 0,
            reputation: 800,
            newcomer: false,
        }
    }

    /// A hundred names of one operator, or at one subnet, are asked after the first of everybody else.
    #[test]
    fn a_crowd_of_one_domain_is_not_all_that_is_asked() {
        let honest = (0..8).map(|n| view(n, &format!("o{n}"), None));
        let crowd = (100..200).map(|n| view(n, "crowd", None));
        let street = (200..250).map(|n| view(n, &format!("name{n}"), Some("v4:203.0.113")));
        let found = nearest(honest.chain(crowd).chain(street).collect(), &[9; 32], 10);
        let domains: BTreeSet<&Domain> = found.iter().map(|(_, domain)| domain).collect();
        assert_eq!(domains.len(), 10, "{found:?}");
        let mut gone = view(1, "gone", None);
        gone.reachable = Some(false);
        let found = nearest(vec![gone, view(2, "o", None), view(3, "o", None)], &[9; 32], 10);
        assert_eq!(found.last().map(|(peer, _)| *peer), Some(PeerKey::from_bytes([1; 32])));
    }
}
