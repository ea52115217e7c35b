//! What goes out to other peers: bounded in number, bytes and tries, all in all and for each peer, and nobody waits for it.
//!
//! A peer that takes our streams and never answers keeps [`LANES_EACH`] lanes and [`WAITING_EACH`] places, so it takes little from
//! what is said to others. What a new holder says has an outbox of its own: whom it speaks to, any stranger's order says.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use cairn_core::steward::{
    Say,
    wire::{Answer, Refusal, Request},
};
use cairn_proto::PeerKey;
use tokio::sync::{Semaphore, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::ports::StewardNet;
use crate::overlay::TransferError;

/// Messages of a steward that are on their way at the same time, all in all.
pub(super) const LANES: usize = 32;
/// ... of a new holder: two orders' stewards.
pub(super) const HOLDER_LANES: usize = 16;
/// ... to one peer.
const LANES_EACH: usize = 2;
/// Messages to one peer that wait or are on their way. A committee that watches many groups has a burst to say when a holder goes, an
/// order's worth each; sixteen MiB of maps is the most that this may be ([`Outbox::enter`]).
const WAITING_EACH: usize = 64;
/// KiB that wait to be sent or tried again; beyond, a message is lost, which stewards are used to.
const ROOM_KIB: u32 = 64 * 1024;
/// What any message counts for, its task included; so at most 8192 wait.
const LEAST_KIB: u32 = 8;
/// Times that a message is tried.
const TRIES: u32 = 3;
/// Times that an order is given to a new holder that is busy; the steward gives one that got lost again by itself. Each pause is four
/// times the one before, so the sixth try is 341 first pauses after the first: 70 minutes, by when a holder is done with what made it
/// busy. A seventh would come after nearly five of the six hours that an order holds, too late to carry it out.
const GIVE_TRIES: u32 = 6;
/// How long one try may take: a map of 2 MiB over a slow line.
const PATIENCE: Duration = Duration::from_secs(60);

/// What became of an order that was to be brought to its new holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Given {
    /// It took it, as far as is known.
    Taken,
    /// It cannot be reached, or is busy whenever it is asked.
    Undelivered,
    /// It said no.
    Refused,
}

fn given(sent: &Result<Answer, TransferError>) -> Option<Given> {
    match sent {
        Ok(Answer::Done) => Some(Given::Taken),
        Ok(Answer::Refused(Refusal::Busy)) => Some(Given::Undelivered),
        Ok(_) | Err(TransferError::Misbehaved(_)) => Some(Given::Refused),
        Err(TransferError::Unreachable(_) | TransferError::TimedOut | TransferError::Refused { .. }) => {
            Some(Given::Undelivered)
        }
        Err(TransferError::ShuttingDown) => None,
    }
}

/// Sends messages.
#[derive(Clone)]
pub(super) struct Outbox {
    net: Arc<dyn StewardNet>,
    room: Arc<Semaphore>,
    lanes: Arc<Semaphore>,
    peers: Arc<Mutex<HashMap<PeerKey, Bound>>>,
    /// Before the second try; four times that before the third.
    pause: Duration,
    tracker: TaskTracker,
    cancel: CancellationToken,
}

/// What is for one peer; forgotten when there is nothing, so there are no more of them than messages.
struct Bound {
    messages: usize,
    kib: u32,
    lanes: Arc<Semaphore>,
}

/// A message's place among those to its peer, given back when dropped.
struct Place {
    peers: Arc<Mutex<HashMap<PeerKey, Bound>>>,
    to: PeerKey,
    kib: u32,
    lanes: Arc<Semaphore>,
}

fn lock(peers: &Mutex<HashMap<PeerKey, Bound>>) -> MutexGuard<'_, HashMap<PeerKey, Bound>> {
    peers.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut peers = lock(&self.peers);
        if let Some(bound) = peers.get_mut(&self.to) {
            bound.messages -= 1;
            bound.kib -= self.kib;
            if bound.messages == 0 {
                peers.remove(&self.to);
            }
        }
    }
}

impl Outbox {
    pub(super) fn new(net: Arc<dyn StewardNet>, lanes: usize, pause: Duration, cancel: CancellationToken) -> Self {
        let (room, lanes) = (Semaphore::new(ROOM_KIB as usize), Semaphore::new(lanes));
        let (room, lanes) = (Arc::new(room), Arc::new(lanes));
        Self { net, room, lanes, peers: Arc::default(), pause, tracker: TaskTracker::new(), cancel }
    }

    /// A place for a message to a peer. Whoever has something waiting gets more only while that leaves as much free as it then has:
    /// maps for a few that hang leave room for everybody else's.
    fn enter(&self, to: PeerKey, kib: u32) -> Option<Place> {
        let free = self.room.available_permits();
        let mut peers = lock(&self.peers);
        let bound = peers.entry(to).or_insert_with(|| Bound {
            messages: 0,
            kib: 0,
            lanes: Arc::new(Semaphore::new(LANES_EACH)),
        });
        if bound.messages >= WAITING_EACH || (bound.kib > 0 && (bound.kib + 2 * kib) as usize > free) {
            return None;
        }
        bound.messages += 1;
        bound.kib += kib;
        let lanes = Arc::clone(&bound.lanes);
        Some(Place { peers: Arc::clone(&self.peers), to, kib, lanes })
    }

    /// Sends it, or loses it when too much waits.
    pub(super) fn send(&self, to: PeerKey, request: Request) {
        self.send_and_tell(to, request, None);
    }

    /// Gives a new holder an order, and says what became of that when all tries are used up; nothing when it was lost here.
    pub(super) fn give(&self, to: PeerKey, request: Request) -> oneshot::Receiver<Given> {
        let (tell, told) = oneshot::channel();
        self.send_and_tell(to, request, Some(tell));
        told
    }

    fn send_and_tell(&self, to: PeerKey, request: Request, tell: Option<oneshot::Sender<Given>>) {
        let kib = weight_kib(&request);
        let place = self.enter(to, kib);
        let room = place.and_then(|place| Some((place, Arc::clone(&self.room).try_acquire_many_owned(kib).ok()?)));
        let Some((place, room)) = room else {
            tracing::warn!(peer = %to.short(), "too many messages wait; one is lost");
            return;
        };
        let this = self.clone();
        self.tracker.spawn(async move {
            let sent = this.cancel.clone().run_until_cancelled_owned(this.try_to_send(&place, request)).await;
            if let Some((given, tell)) = sent.as_ref().and_then(given).zip(tell) {
                // Whoever asked may have gone away.
                let _ = tell.send(given);
            }
            if let Some(Err(error)) = sent {
                tracing::debug!(peer = %to.short(), %error, "a message was lost");
            }
            drop((place, room));
        });
    }

    pub(super) fn say(&self, to: PeerKey, say: Say) {
        self.send(to, Request::Say(Box::new(say)));
    }

    async fn try_to_send(&self, place: &Place, request: Request) -> Result<Answer, TransferError> {
        let mut tried = 0;
        loop {
            let answer = self.ask_from(place, request.clone()).await;
            tried += 1;
            let tries = match (&request, &answer) {
                (Request::Give { .. }, Ok(_)) => GIVE_TRIES,
                _ => TRIES,
            };
            let again = match answer {
                Ok(Answer::Refused(Refusal::Busy)) => true,
                Ok(_) => return answer,
                Err(TransferError::Unreachable(_) | TransferError::TimedOut) => true,
                Err(TransferError::Refused { retry_after_ms, .. }) => retry_after_ms > 0,
                Err(TransferError::Misbehaved(_) | TransferError::ShuttingDown) => false,
            };
            if !again || tried >= tries {
                return answer;
            }
            tokio::time::sleep(self.pause * 4u32.pow(tried - 1)).await;
        }
    }

    /// Asks once, when there is a lane; out of time at once when too much waits for that peer.
    pub(super) async fn ask(&self, to: PeerKey, request: Request) -> Result<Answer, TransferError> {
        let Some(place) = self.enter(to, weight_kib(&request)) else { return Err(TransferError::TimedOut) };
        self.ask_from(&place, request).await
    }

    async fn ask_from(&self, place: &Place, request: Request) -> Result<Answer, TransferError> {
        // The peer's own first: who waits for a slow peer holds nothing that others want.
        let Ok(_of_peer) = place.lanes.acquire().await else { return Err(TransferError::ShuttingDown) };
        let Ok(_lane) = self.lanes.acquire().await else { return Err(TransferError::ShuttingDown) };
        let asked = self.net.request(place.to, request);
        tokio::time::timeout(PATIENCE, asked).await.unwrap_or(Err(TransferError::TimedOut))
    }

    /// Waits until everything was sent or given up; the token ends that soon.
    pub(super) async fn close(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}

/// About what it takes in memory.
fn weight_kib(request: &Request) -> u32 {
    let certificates = |count: usize| (count * 3 / 2) as u32;
    LEAST_KIB
        + match request {
            Request::Say(say) => match &**say {
                Say::Map { changes, entries, .. } => certificates(changes.len() + entries.len()),
                Say::Record { changes, entries, .. } => 160 + certificates(changes.len() + entries.len()),
                Say::Tokens { .. } => 176,
                _ => 0,
            },
            Request::Give { credentials, .. } => 16 + certificates(credentials.changes.len()),
            Request::Register { .. } | Request::Ask { .. } => 80,
            Request::Duty(_) | Request::Notice(_) => 32,
            Request::Findings(_) | Request::Challenge(_) => 8,
        }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use cairn_core::{part::Credentials, peer_view::PeerView};
    use cairn_proto::{GroupId, Ordinals, Slot};
    use futures::{FutureExt as _, future::BoxFuture};
    use tokio::sync::mpsc;

    use super::*;
    use crate::stewardship::ports::WatchPass;

    /// A network of which an outbox only asks; this answers.
    struct Answering<F>(F);

    impl<F> StewardNet for Answering<F>
    where
        F: Fn(PeerKey) -> BoxFuture<'static, Result<Answer, TransferError>> + Send + Sync + 'static,
    {
        fn me(&self) -> PeerKey {
            PeerKey::from_bytes([0; 32])
        }

        fn peers(&self) -> BoxFuture<'_, Vec<PeerView>> {
            unreachable!("an outbox only asks")
        }

        fn probe(&self, _: PeerKey) -> BoxFuture<'_, Result<(), TransferError>> {
            unreachable!("an outbox only asks")
        }

        fn request(&self, to: PeerKey, _: Request) -> BoxFuture<'_, Result<Answer, TransferError>> {
            (self.0)(to)
        }

        fn holding(&self, _: PeerKey, _: WatchPass, _: Slot) -> BoxFuture<'_, Result<Ordinals, TransferError>> {
            unreachable!("an outbox only asks")
        }

        fn fetch(&self, _: PeerKey, _: Arc<Credentials>, _: u8) -> BoxFuture<'_, Result<bytes::Bytes, TransferError>> {
            unreachable!("an outbox only asks")
        }
    }

    const HANGS: PeerKey = PeerKey::from_bytes([1; 32]);

    /// Peer 1 takes what it is asked and never answers; whom else is asked is told. And how many questions it took.
    fn hanging(asked: mpsc::Sender<PeerKey>) -> (Arc<dyn StewardNet>, Arc<AtomicUsize>) {
        let open = Arc::new(AtomicUsize::new(0));
        let taken = Arc::clone(&open);
        let answer = move |to| {
            let (open, asked) = (Arc::clone(&open), asked.clone());
            async move {
                if to == HANGS {
                    open.fetch_add(1, Ordering::SeqCst);
                    std::future::pending::<()>().await;
                }
                asked.send(to).await.expect("listened to");
                Ok(Answer::Done)
            }
            .boxed()
        };
        (Arc::new(Answering(answer)), taken)
    }

    #[tokio::test]
    async fn who_never_answers_takes_little_from_others() {
        let (asked, mut heard) = mpsc::channel(256);
        let (net, open) = hanging(asked);
        let outbox = Outbox::new(net, LANES, Duration::from_secs(1), CancellationToken::new());
        let say = || Say::Compare { group: GroupId::from_bytes([9; 32]), generation: 1, digest: [0; 32] };
        for _ in 0..1000 {
            outbox.say(HANGS, say());
        }
        let others: Vec<PeerKey> = (2..=200).map(|n| PeerKey::from_bytes([n; 32])).collect();
        others.iter().for_each(|other| outbox.say(*other, say()));
        for _ in &others {
            heard.recv().await.expect("the others are told");
        }
        assert_eq!(open.load(Ordering::SeqCst), LANES_EACH);
        assert_eq!(lock(&outbox.peers)[&HANGS].messages, WAITING_EACH, "the rest is lost");
        assert_eq!(outbox.ask(HANGS, Request::Say(Box::new(say()))).await, Err(TransferError::TimedOut));
        outbox.cancel.cancel();
        outbox.close().await;
        assert!(lock(&outbox.peers).is_empty());
    }

    #[tokio::test]
    async fn what_became_of_an_order_is_told_when_all_tries_are_used_up() {
        let nobody = TransferError::Unreachable("nobody".to_owned());
        for (said, told) in [
            (Ok(Answer::Done), Some(Given::Taken)),
            (Ok(Answer::Refused(Refusal::Busy)), Some(Given::Undelivered)),
            (Ok(Answer::Refused(Refusal::Full)), Some(Given::Refused)),
            (Ok(Answer::Refused(Refusal::Forged)), Some(Given::Refused)),
            (Err(nobody), Some(Given::Undelivered)),
            (Err(TransferError::TimedOut), Some(Given::Undelivered)),
            (Err(TransferError::ShuttingDown), None),
        ] {
            let answer = said.clone();
            let net = Arc::new(Answering(move |_| std::future::ready(answer.clone()).boxed()));
            let outbox = Outbox::new(net, LANES, Duration::from_micros(10), CancellationToken::new());
            // What it carries does not matter here.
            let say = Say::Compare { group: GroupId::from_bytes([9; 32]), generation: 1, digest: [0; 32] };
            let given = outbox.give(PeerKey::from_bytes([3; 32]), Request::Say(Box::new(say)));
            assert_eq!(given.await.ok(), told, "{said:?}");
            outbox.close().await;
        }
    }

    #[test]
    fn maps_for_one_peer_leave_room_for_others() {
        let (asked, _heard) = mpsc::channel(256);
        let (net, _) = hanging(asked);
        let outbox = Outbox::new(net, LANES, Duration::from_secs(1), CancellationToken::new());
        let mut places = Vec::new();
        while let Some(place) = outbox.enter(HANGS, 2048) {
            places.push((place, Arc::clone(&outbox.room).try_acquire_many_owned(2048).expect("room")));
        }
        assert!((8..=16).contains(&places.len()), "{}", places.len());
        assert!(outbox.enter(PeerKey::from_bytes([2; 32]), 2048).is_some());
    }
}
