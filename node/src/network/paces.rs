//! How long peers take over a shard, so that who serves slowly is known ([`cairn_core::reputation::pace`]).
//!
//! A reader that has enough of a stripe drops what others still owe it, and would never learn how long these take. So now and then
//! one that was dropped late is followed to its end, and its bytes thrown away: of one peer once in ten minutes, of few at a time.
//!
//! Counted is the time from the question on, without what our own line had us wait before, and shared among all that we asked the
//! same peer for at the time.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use cairn_core::reputation::pace::{Pace, SLOW_MS};
use cairn_proto::{PeerKey, SHARD_SIZE, wire::RefusalCode};
use futures::{FutureExt as _, future::BoxFuture};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::clock;
use crate::{
    overlay::TransferError,
    standing::{Standings, ports::Witness as _},
};

/// Reads of less than this say more of the way than of the pace.
const MEASURED_LEAST: usize = SHARD_SIZE / 4;
/// What was dropped sooner is not followed: it was not waited for.
const FOLLOWED_AFTER: Duration = Duration::from_secs(2);
/// Shards followed at a time: each is a MiB that nobody needs.
const FOLLOWED_MAX: usize = 4;
/// ... and of one peer within this time.
const FOLLOWED_APART: Duration = Duration::from_secs(600);
/// Peers of whom it is remembered that one was.
const REMEMBERED_MAX: usize = 256;
/// A peer that has so many of our questions at once is followed for so many times as long, and no longer.
const SHARED_MAX: u32 = 4;

/// See the module's text.
pub(crate) struct Paces {
    state: Mutex<State>,
    standings: Standings,
    shutdown: CancellationToken,
    /// By how much tests go faster.
    hurry: u32,
}

#[derive(Default)]
struct State {
    pace: Pace,
    /// Questions that each peer has of ours.
    under_way: BTreeMap<PeerKey, u32>,
    /// Who was followed, and when last.
    followed: BTreeMap<PeerKey, Instant>,
    following: usize,
}

impl Paces {
    pub(crate) fn new(standings: Standings, shutdown: CancellationToken) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), standings, shutdown, hurry: 1 })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a read of so many bytes tells of a pace.
    pub(crate) const fn tells(bytes: usize) -> bool {
        bytes >= MEASURED_LEAST
    }

    /// A read of so many bytes begins.
    pub(crate) fn begin(self: &Arc<Self>, peer: PeerKey, bytes: usize) -> Flight {
        let mut state = self.state();
        let shared = state.under_way.entry(peer).or_default();
        *shared += 1;
        let shared = *shared;
        drop(state);
        Flight { paces: Arc::clone(self), peer, bytes: bytes.max(1), asked: Arc::default(), shared }
    }
}

/// A read under way.
pub(crate) struct Flight {
    paces: Arc<Paces>,
    peer: PeerKey,
    bytes: usize,
    asked: Arc<OnceLock<Instant>>,
    shared: u32,
}

impl Drop for Flight {
    fn drop(&mut self) {
        let mut state = self.paces.state();
        if let Some(count) = state.under_way.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                state.under_way.remove(&self.peer);
            }
        }
    }
}

impl Flight {
    /// To be set when the question goes out.
    pub(crate) fn asked(&self) -> Arc<OnceLock<Instant>> {
        Arc::clone(&self.asked)
    }

    /// Does the read, and judges what it took.
    pub(crate) async fn watch(
        self,
        read: impl Future<Output = Result<Bytes, TransferError>> + Send + 'static,
    ) -> Result<Bytes, TransferError> {
        let mut watched = Watched { flight: Some(self), read: Some(read.boxed()) };
        let Some(read) = watched.read.as_mut() else { return Err(TransferError::ShuttingDown) };
        let result = read.await;
        watched.read = None;
        if let Some(flight) = watched.flight.take() {
            flight.ended(&result);
        }
        result
    }

    fn elapsed(&self) -> Duration {
        self.asked.get().map_or(Duration::ZERO, Instant::elapsed) * self.paces.hurry
    }

    fn ended(&self, result: &Result<Bytes, TransferError>) {
        match result {
            Ok(_) => self.took(true),
            // Who is busy for ever serves slowly, and so does who never ends.
            Err(TransferError::TimedOut | TransferError::Refused { code: RefusalCode::Busy, .. }) => self.took(false),
            // Nothing of the pace.
            Err(_) => {}
        }
    }

    /// By the MiB, and for as many as the peer had to do for us at once.
    fn took(&self, came: bool) {
        let mut state = self.paces.state();
        let shared = self.shared.max(state.under_way.get(&self.peer).copied().unwrap_or(1)).max(1);
        let ms = self.elapsed().as_millis() * SHARD_SIZE as u128 / self.bytes as u128 / u128::from(shared);
        let ms = u64::try_from(ms).unwrap_or(u64::MAX);
        let seen = state.pace.took(self.peer, ms, came, clock());
        drop(state);
        if let Some(seen) = seen {
            self.paces.standings.saw(self.peer, seen);
        }
    }

    /// Whether to see how long it takes, now that nobody waits for it.
    fn may_follow(&self) -> bool {
        let now = Instant::now();
        let mut state = self.paces.state();
        state.followed.retain(|_, at| now.duration_since(*at) < FOLLOWED_APART);
        let may = self.elapsed() >= FOLLOWED_AFTER
            && state.following < FOLLOWED_MAX
            && state.followed.len() < REMEMBERED_MAX
            && !state.followed.contains_key(&self.peer);
        if may {
            state.followed.insert(self.peer, now);
            state.following += 1;
        }
        may
    }

    async fn follow(self, mut read: Read) {
        let longest = Duration::from_millis(SLOW_MS) * self.shared.clamp(1, SHARED_MAX);
        tokio::select! {
            biased;
            () = self.paces.shutdown.cancelled() => {}
            ended = &mut read => self.ended(&ended),
            () = tokio::time::sleep(longest.saturating_sub(self.elapsed()) / self.paces.hurry) => self.took(false),
        }
        self.paces.state().following -= 1;
    }
}

type Read = BoxFuture<'static, Result<Bytes, TransferError>>;

/// Ends the read with whoever waits for it, or follows it.
struct Watched {
    flight: Option<Flight>,
    read: Option<Read>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        let (Some(flight), Some(read)) = (self.flight.take(), self.read.take()) else { return };
        if let Ok(runtime) = tokio::runtime::Handle::try_current()
            && flight.may_follow()
        {
            drop(runtime.spawn(flight.follow(read)));
        }
    }
}

#[cfg(test)]
mod tests {
    use cairn_core::reputation::Reason;
    use cairn_proto::{Timestamp, network_file::NetworkFile};
    use ed25519_dalek::SigningKey;

    use super::*;
    use crate::timers::Timers;

    /// A millisecond of the figures is fifty microseconds here.
    const HURRY: u32 = 20;
    const MS: Duration = Duration::from_micros(1000 / HURRY as u64);

    fn paces() -> Arc<Paces> {
        let key = SigningKey::from_bytes(&[1; 32]);
        let network = NetworkFile::create("paces", 0, &key).expect("valid");
        let standings = Standings::in_memory(key, network, &Timers::default(), Arc::new(clock), &[0; 32]);
        let Some(paces) = Arc::into_inner(Paces::new(standings, CancellationToken::new())) else { unreachable!("new") };
        Arc::new(Paces { hurry: HURRY, ..paces })
    }

    fn peer(n: u8) -> PeerKey {
        PeerKey::from_bytes([n; 32])
    }

    async fn shard_after(time: Duration) -> Result<Bytes, TransferError> {
        tokio::time::sleep(time).await;
        Ok(Bytes::from_static(b"all of it"))
    }

    async fn read(paces: &Arc<Paces>, n: u8, time: Duration) {
        let flight = paces.begin(peer(n), SHARD_SIZE);
        let asked = flight.asked();
        let read = async move {
            let _ = asked.set(Instant::now());
            shard_after(time).await
        };
        flight.watch(read).await.expect("comes");
    }

    /// Prompt and slow shards, once the notes are taken.
    async fn seen(paces: &Paces, n: u8) -> (u64, u64) {
        tokio::time::sleep(2000 * MS).await;
        let standing = paces.standings.standing(&peer(n), Timestamp(0));
        let of = |why: &Reason| match why {
            Reason::Pace { prompt, slow, .. } => Some((*prompt, *slow)),
            _ => None,
        };
        standing.why.iter().find_map(of).unwrap_or_default()
    }

    #[tokio::test]
    async fn who_is_dropped_late_is_followed_to_its_end() {
        let paces = paces();
        for n in 2..6 {
            read(&paces, n, 300 * MS).await;
        }
        assert_eq!(seen(&paces, 2).await, (1, 0));
        // Enough came from others meanwhile; nobody waits for this one, and it is seen that it never ends.
        let dropped = tokio::time::timeout(3000 * MS, read(&paces, 1, 600_000 * MS)).await;
        assert!(dropped.is_err());
        assert_eq!(paces.state().following, 1);
        tokio::time::sleep(20_000 * MS).await;
        assert_eq!(seen(&paces, 1).await, (0, 1));
        assert!(paces.state().following == 0 && paces.state().under_way.is_empty());
        // Not again so soon, and not who was dropped at once.
        let _ = tokio::time::timeout(3000 * MS, read(&paces, 1, 600_000 * MS)).await;
        let _ = tokio::time::timeout(100 * MS, read(&paces, 7, 600_000 * MS)).await;
        assert!(paces.state().following == 0 && paces.state().under_way.is_empty());
        // A home line that needs ten seconds is nothing of the kind.
        let _ = tokio::time::timeout(3000 * MS, read(&paces, 8, 10_000 * MS)).await;
        tokio::time::sleep(20_000 * MS).await;
        assert_eq!(seen(&paces, 8).await, (0, 0));
        for n in 10..20 {
            let _ = tokio::time::timeout(3000 * MS, read(&paces, n, 600_000 * MS)).await;
            assert!(paces.state().following <= FOLLOWED_MAX);
        }
        // It ends with the network.
        paces.shutdown.cancel();
        tokio::time::sleep(2000 * MS).await;
        assert_eq!(paces.state().following, 0);
    }

    #[tokio::test]
    async fn what_a_peer_does_for_us_at_once_is_shared() {
        let paces = paces();
        for n in 2..6 {
            read(&paces, n, 300 * MS).await;
        }
        // Eight shards over one line in 24 s are three seconds each.
        futures::future::join_all((0..8).map(|_| read(&paces, 1, 24_000 * MS))).await;
        let (prompt, slow) = seen(&paces, 1).await;
        assert!(prompt >= 1 && slow == 0, "{prompt} {slow}");
    }
}
