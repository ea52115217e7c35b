//! How long peers take over a shard, so that who serves slowly is known ([`cairn_core::reputation::pace`]).
//!
//! A reader that has enough of a stripe drops what others still owe it, and would never learn how long these take. So now and then
//! one that was dropped late is followed to its end, and its bytes thrown away: of one peer once in ten minutes, of few at a time.
//!
//! Counted is the time from the question on, without what our own line had us wait before, and shared among all that we asked the
//! same peer for at the time: what we gave up too, because a line carries to its end what it began. A peer of which nothing came until
//! the request was given up counts as slow when it still answers a small question; who does not is gone, which is another thing.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use cairn_core::reputation::{
    Observed,
    pace::{PROMPT_MS, Pace, SLOW_MS},
};
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
pub(crate) const FOLLOWED_APART: Duration = Duration::from_secs(600);
/// Peers of whom it is remembered that one was, or what they were asked for.
const REMEMBERED_MAX: usize = 256;
/// What nobody waits for any more is on its way for so long: no request takes longer ([`ClientPatience`](super::ClientPatience)).
const LEFT_FOR: Duration = Duration::from_secs(120);
/// ... and so many of a peer count.
const LEFT_MAX: usize = 32;
/// A peer that has so many of our questions at once is followed for so many times as long, and no longer.
const SHARED_MAX: u32 = 4;

/// See the module's text.
pub(crate) struct Paces {
    state: Mutex<State>,
    standings: Standings,
    shutdown: CancellationToken,
    /// How long a peer is not followed after it was.
    apart: Duration,
    /// By how much tests go faster.
    hurry: u32,
}

#[derive(Default)]
struct State {
    pace: Pace,
    /// Questions that each peer has of ours.
    under_way: BTreeMap<PeerKey, Asked>,
    /// How many questions there were.
    begun: u64,
    /// Who was followed, and when last.
    followed: BTreeMap<PeerKey, Instant>,
    following: usize,
}

/// What a peer has to do for us.
#[derive(Default)]
struct Asked {
    /// Somebody waits for these.
    live: u32,
    /// Nobody does for these any more: which question, and when it was given up.
    left: Vec<(u64, Instant)>,
}

impl Asked {
    fn shared(&self) -> u32 {
        self.live.saturating_add(u32::try_from(self.left.len()).unwrap_or(u32::MAX)).max(1)
    }
}

impl Paces {
    /// `apart`: how long a peer is not followed after it was.
    pub(crate) fn new(standings: Standings, apart: Duration, shutdown: CancellationToken) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), standings, shutdown, apart, hurry: 1 })
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
        let (now, hurry) = (Instant::now(), self.hurry);
        state.under_way.retain(|_, asked| {
            asked.left.retain(|(_, at)| now.duration_since(*at) * hurry < LEFT_FOR);
            asked.live > 0 || !asked.left.is_empty()
        });
        let number = state.begun;
        state.begun += 1;
        let asked = state.under_way.entry(peer).or_default();
        asked.live += 1;
        let (beside, shared) = (asked.live, asked.shared());
        drop(state);
        Flight { paces: Arc::clone(self), peer, bytes: bytes.max(1), asked: Arc::default(), number, beside, shared }
    }
}

/// A read under way.
pub(crate) struct Flight {
    paces: Arc<Paces>,
    peer: PeerKey,
    bytes: usize,
    asked: Arc<OnceLock<Instant>>,
    /// Which of our questions it is.
    number: u64,
    /// So many others were waited for when it began, with it ...
    beside: u32,
    /// ... and with those that had been given up.
    shared: u32,
}

impl Drop for Flight {
    fn drop(&mut self) {
        let mut state = self.paces.state();
        if let Some(asked) = state.under_way.get_mut(&self.peer) {
            asked.live = asked.live.saturating_sub(1);
            if asked.live == 0 && asked.left.is_empty() {
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

    /// Does the read, and judges what it took. `is_there`: whether the peer answers a small question; only asked when nothing came.
    pub(crate) async fn watch(
        self,
        read: impl Future<Output = Result<Bytes, TransferError>> + Send + 'static,
        is_there: impl Future<Output = bool> + Send + 'static,
    ) -> Result<Bytes, TransferError> {
        let parts = Parts { read: read.boxed(), is_there: is_there.boxed() };
        let mut watched = Watched { flight: Some(self), parts: Some(parts) };
        let Some(parts) = watched.parts.as_mut() else { return Err(TransferError::ShuttingDown) };
        let result = parts.read.as_mut().await;
        if let (Some(flight), Some(parts)) = (watched.flight.take(), watched.parts.take())
            && flight.is_stuck(&result)
            && flight.may_follow(Duration::ZERO)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let paces = Arc::clone(&flight.paces);
            drop(runtime.spawn(async move {
                flight.stuck(parts.is_there).await;
                paces.state().following -= 1;
            }));
        }
        result
    }

    fn elapsed(&self) -> Duration {
        self.asked.get().map_or(Duration::ZERO, Instant::elapsed) * self.paces.hurry
    }

    /// Takes note of how a read ended. True: it was given up sooner than anybody is called slow, because nothing came at all.
    fn is_stuck(&self, result: &Result<Bytes, TransferError>) -> bool {
        match result {
            Ok(_) => self.took(true),
            Err(TransferError::TimedOut) if self.elapsed() < Duration::from_millis(SLOW_MS) => return true,
            // Who is busy for ever serves slowly, and so does who never ends.
            Err(TransferError::TimedOut | TransferError::Refused { code: RefusalCode::Busy, .. }) => self.took(false),
            // Nothing of the pace.
            Err(_) => {}
        }
        false
    }

    /// Nothing came. A machine that was switched off is not slow.
    async fn stuck(&self, is_there: BoxFuture<'static, bool>) {
        if self.asked.get().is_some()
            && let Some(true) = self.paces.shutdown.run_until_cancelled(is_there).await
        {
            let seen = self.paces.state().pace.took(self.peer, SLOW_MS.max(self.by_the_mib(1)), false, clock());
            self.saw(seen);
        }
    }

    /// The time that it took by the MiB, when so many were on their way.
    fn by_the_mib(&self, shared: u32) -> u64 {
        let ms = self.elapsed().as_millis() * SHARD_SIZE as u128 / self.bytes as u128 / u128::from(shared.max(1));
        u64::try_from(ms).unwrap_or(u64::MAX)
    }

    /// By the MiB, and for as many as the peer had to do for us at once.
    fn took(&self, came: bool) {
        let mut state = self.paces.state();
        let (mut beside, mut shared) = (self.beside, self.shared);
        if came {
            if let Some(asked) = state.under_way.get_mut(&self.peer) {
                (beside, shared) = (beside.max(asked.live), shared.max(asked.shared()));
                // Answers of one stream come in the order of their questions.
                asked.left.retain(|(left, _)| *left > self.number);
            }
        } else {
            // What was asked for later excuses nobody who has not sent this; nor does all that went before it.
            (beside, shared) = (beside.min(SHARED_MAX), shared.min(SHARED_MAX));
        }
        // What was given up may not have been sent either: that excuses, and is no praise.
        let (least, excused) = (self.by_the_mib(beside), self.by_the_mib(shared));
        let ms = if least <= PROMPT_MS { least } else { excused.max(PROMPT_MS + 1) };
        let seen = state.pace.took(self.peer, ms, came, clock());
        if seen == Some(Observed::Slow)
            && let Some(asked) = state.under_way.get_mut(&self.peer)
        {
            // It had the time for them.
            asked.left.retain(|(left, _)| *left > self.number);
        }
        drop(state);
        self.saw(seen);
    }

    fn saw(&self, seen: Option<Observed>) {
        if let Some(seen) = seen {
            tracing::debug!(peer = %self.peer.short(), ?seen, elapsed = ?self.elapsed(), shared = self.shared, "a pace");
            self.paces.standings.saw(self.peer, seen);
        }
    }

    /// Whether to see how long it takes, now that nobody waits for it.
    fn may_follow(&self, after: Duration) -> bool {
        let now = Instant::now();
        let mut state = self.paces.state();
        state.followed.retain(|_, at| now.duration_since(*at) < self.paces.apart);
        let may = self.elapsed() >= after
            && state.following < FOLLOWED_MAX
            && state.followed.len() < REMEMBERED_MAX
            && !state.followed.contains_key(&self.peer);
        if may {
            state.followed.insert(self.peer, now);
            state.following += 1;
        }
        may
    }

    /// Nobody waits for it any more, nor sees how long it takes: the peer may send it all the same.
    fn leave(&self) {
        let mut state = self.paces.state();
        let known = state.under_way.len();
        if let Some(asked) = state.under_way.get_mut(&self.peer)
            && self.asked.get().is_some()
            && asked.left.len() < LEFT_MAX
            && known <= REMEMBERED_MAX
        {
            asked.left.push((self.number, Instant::now()));
        }
    }

    async fn follow(self, parts: Parts) {
        let Parts { mut read, is_there } = parts;
        let longest = Duration::from_millis(SLOW_MS) * self.shared.clamp(1, SHARED_MAX);
        let mut is_stuck = false;
        tokio::select! {
            biased;
            () = self.paces.shutdown.cancelled() => {}
            ended = &mut read => is_stuck = self.is_stuck(&ended),
            () = tokio::time::sleep(longest.saturating_sub(self.elapsed()) / self.paces.hurry) => {
                self.took(false);
                self.leave();
            }
        }
        drop(read);
        if is_stuck {
            self.stuck(is_there).await;
        }
        self.paces.state().following -= 1;
    }
}

type Read = BoxFuture<'static, Result<Bytes, TransferError>>;

/// A read, and what tells whether the peer is there.
struct Parts {
    read: Read,
    is_there: BoxFuture<'static, bool>,
}

/// Ends the read with whoever waits for it, or follows it.
struct Watched {
    flight: Option<Flight>,
    parts: Option<Parts>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        let (Some(flight), Some(parts)) = (self.flight.take(), self.parts.take()) else { return };
        if let Ok(runtime) = tokio::runtime::Handle::try_current()
            && flight.may_follow(FOLLOWED_AFTER)
        {
            drop(runtime.spawn(flight.follow(parts)));
        } else {
            flight.leave();
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
        let Some(paces) = Arc::into_inner(Paces::new(standings, FOLLOWED_APART, CancellationToken::new())) else {
            unreachable!("new")
        };
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
        flight.watch(read, std::future::ready(true)).await.expect("comes");
    }

    /// Nothing comes until it is given up.
    async fn stuck(paces: &Arc<Paces>, n: u8, time: Duration, is_there: bool) {
        let flight = paces.begin(peer(n), SHARD_SIZE);
        let asked = flight.asked();
        let read = async move {
            let _ = asked.set(Instant::now());
            tokio::time::sleep(time).await;
            Err(TransferError::TimedOut)
        };
        assert!(flight.watch(read, std::future::ready(is_there)).await.is_err());
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

    /// Nobody waits for anything.
    fn is_idle(paces: &Paces) -> bool {
        let state = paces.state();
        state.following == 0 && state.under_way.values().all(|asked| asked.live == 0)
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
        assert!(is_idle(&paces));
        // Not again so soon, and not who was dropped at once.
        let _ = tokio::time::timeout(3000 * MS, read(&paces, 1, 600_000 * MS)).await;
        let _ = tokio::time::timeout(100 * MS, read(&paces, 7, 600_000 * MS)).await;
        assert!(is_idle(&paces));
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

    /// The worst of all: it takes the question and sends nothing.
    #[tokio::test]
    async fn who_sends_nothing_and_is_there_is_slow() {
        let paces = paces();
        for n in 2..6 {
            read(&paces, n, 300 * MS).await;
        }
        stuck(&paces, 1, 15_000 * MS, true).await;
        stuck(&paces, 7, 15_000 * MS, false).await;
        assert_eq!(
            (seen(&paces, 1).await, seen(&paces, 7).await),
            ((0, 1), (0, 0)),
            "who was switched off is not slow"
        );
        // Once in a while, however often it happens.
        stuck(&paces, 1, 15_000 * MS, true).await;
        assert_eq!(seen(&paces, 1).await, (0, 1));
        // Also when nobody waited for it.
        let dropped = tokio::time::timeout(3000 * MS, stuck(&paces, 8, 15_000 * MS, true)).await;
        assert!(dropped.is_err());
        tokio::time::sleep(15_000 * MS).await;
        assert_eq!(seen(&paces, 8).await, (0, 1));
        assert!(paces.state().following == 0 && paces.state().under_way.is_empty());
    }

    /// A line with a limit carries what it began, whether anybody wants it or not: that is no fault of what comes after it.
    #[tokio::test]
    async fn what_was_given_up_is_shared_too() {
        let paces = paces();
        for n in 2..6 {
            read(&paces, n, 300 * MS).await;
        }
        for _ in 0..3 {
            let _ = tokio::time::timeout(1000 * MS, read(&paces, 1, 600_000 * MS)).await;
        }
        assert_eq!(paces.state().under_way[&peer(1)].left.len(), 3);
        // Three before it, of ten seconds each, and itself.
        let flight = tokio::time::timeout(3000 * MS, read(&paces, 1, 40_000 * MS)).await;
        assert!(flight.is_err() && paces.state().following == 1);
        tokio::time::sleep(40_000 * MS).await;
        assert_eq!(seen(&paces, 1).await, (0, 0), "neither slow nor prompt");
        assert!(paces.state().under_way.is_empty(), "what was asked before came before");
        // Of one that sends none of them for as long as all four may take, nothing excuses that.
        for _ in 0..3 {
            let _ = tokio::time::timeout(1000 * MS, read(&paces, 9, 600_000 * MS)).await;
        }
        let _ = tokio::time::timeout(3000 * MS, read(&paces, 9, 600_000 * MS)).await;
        tokio::time::sleep(80_000 * MS).await;
        assert_eq!(seen(&paces, 9).await, (0, 1));
        for _ in 0..2 * LEFT_MAX {
            let _ = tokio::time::timeout(MS, read(&paces, 10, 600_000 * MS)).await;
        }
        assert_eq!(paces.state().under_way[&peer(10)].left.len(), LEFT_MAX);
        for asked in paces.state().under_way.values_mut() {
            asked.left.iter_mut().for_each(|(_, at)| *at -= LEFT_FOR / HURRY);
        }
        drop(paces.begin(peer(11), SHARD_SIZE));
        assert!(paces.state().under_way.is_empty(), "forgotten");
    }
}
