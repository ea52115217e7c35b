//! How long peers take over a shard, so that who serves slowly is known ([`cairn_core::reputation::pace`]).
//!
//! A reader that has enough of a stripe drops what others still owe it, and would never learn how long these take. So now and then
//! one that was dropped late is followed to its end, and its bytes thrown away: of one peer once in ten minutes, of few at a time.
//!
//! Counted is the time from the question on, without what our own line had us wait before, and shared among all that we asked the
//! same peer for at the time: what we gave up too, because a line carries to its end what it began. A peer of which nothing came until
//! the request was given up counts as slow when it still answers a small question; who does not is gone, which is another thing.
//!
//! What a peer refused because it was busy is not on its line, so it excuses nothing that comes after it. To be busy for a moment is no
//! fault. To be busy whenever we ask, for twenty minutes and three questions at the least, while it has nothing else to send us and others
//! serve us quickly, is to be slow.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
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
/// Who is busy whenever it is asked, for so many times as long as one is not followed again, serves slowly ...
const BUSY_TIMES: u32 = 2;
/// ... and for no less than this, however short that is: nobody's line gets faster by it.
const BUSY_LEAST: Duration = LEFT_FOR;

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
    /// Who was followed, and when last.
    followed: BTreeMap<PeerKey, Instant>,
    following: usize,
    /// Who was busy whenever it was asked: since when, and when last.
    busy: BTreeMap<PeerKey, (Instant, Instant)>,
}

/// What a peer has to do for us.
#[derive(Default)]
struct Asked {
    /// Somebody waits for these.
    live: u32,
    /// Those of them that the peer has: it did not refuse them.
    there: u32,
    /// How many came, as long as there is one.
    came: u32,
    /// Nobody waits for these any more: when each went out, and when it was given up.
    left: Vec<(Instant, Instant)>,
}

impl Asked {
    fn shared(&self) -> u32 {
        self.live.saturating_add(self.left()).max(1)
    }

    fn left(&self) -> u32 {
        u32::try_from(self.left.len()).unwrap_or(u32::MAX)
    }

    /// Those that it surely has.
    fn beside(&self) -> u32 {
        self.there.max(1)
    }

    /// Those that it may have.
    fn there(&self) -> u32 {
        self.beside().saturating_add(self.left())
    }

    /// What it sent, or may have, besides one that was asked for when so many had come.
    fn since(&self, came: u32) -> u32 {
        self.came.saturating_sub(came).saturating_add(self.left()).saturating_add(1)
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
        let asked = state.under_way.entry(peer).or_default();
        asked.live += 1;
        let shared = asked.shared();
        drop(state);
        let question = Question { paces: Arc::clone(self), peer, sent: Mutex::default() };
        Flight { paces: Arc::clone(self), peer, bytes: bytes.max(1), question: Arc::new(question), shared }
    }

    /// How long a peer must be busy whenever it is asked before that says anything.
    fn busy_for(&self) -> Duration {
        (self.apart * BUSY_TIMES).max(BUSY_LEAST)
    }
}

/// Where the question of a read is: with the peer or not.
pub(crate) struct Question {
    paces: Arc<Paces>,
    peer: PeerKey,
    sent: Mutex<Sent>,
}

#[derive(Clone, Copy, Default)]
struct Sent {
    /// When it first went out.
    first: Option<Instant>,
    /// When it last did, while the peer has it.
    last: Option<Instant>,
    /// So many of our questions the peer had then, with this one.
    beside: u32,
    /// So many had come when it first went out.
    came: u32,
}

impl Question {
    fn sent(&self) -> MutexGuard<'_, Sent> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It goes out, for the first time or again.
    pub(crate) fn goes_out(&self) {
        let mut state = self.paces.state();
        let mut sent = self.sent();
        let now = Instant::now();
        if let Some(asked) = state.under_way.get_mut(&self.peer) {
            asked.there += u32::from(sent.last.is_none());
            sent.beside = sent.beside.max(asked.beside());
            if sent.first.is_none() {
                sent.came = asked.came;
            }
        }
        sent.first.get_or_insert(now);
        sent.last = Some(now);
    }

    /// The peer does not have it any more.
    pub(crate) fn refused(&self) {
        let mut state = self.paces.state();
        if self.sent().last.take().is_some()
            && let Some(asked) = state.under_way.get_mut(&self.peer)
        {
            asked.there = asked.there.saturating_sub(1);
        }
    }
}

/// A read under way.
pub(crate) struct Flight {
    paces: Arc<Paces>,
    peer: PeerKey,
    bytes: usize,
    question: Arc<Question>,
    /// So many were waited for or had been given up when it began, with it.
    shared: u32,
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.question.refused();
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
    /// To be told where the question is.
    pub(crate) fn question(&self) -> Arc<Question> {
        Arc::clone(&self.question)
    }

    fn sent(&self) -> Sent {
        *self.question.sent()
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
        self.sent().first.map_or(Duration::ZERO, |first| first.elapsed()) * self.paces.hurry
    }

    /// Takes note of how a read ended. True: it was given up sooner than anybody is called slow, because nothing came at all.
    fn is_stuck(&self, result: &Result<Bytes, TransferError>) -> bool {
        match result {
            Ok(_) => {
                self.took(true);
            }
            Err(TransferError::TimedOut) if self.elapsed() < Duration::from_millis(SLOW_MS) => return true,
            // Who is busy for ever serves slowly, and so does who never ends.
            Err(TransferError::TimedOut) => {
                self.took(false);
            }
            Err(TransferError::Refused { code: RefusalCode::Busy, .. }) => {
                self.took(false);
                self.was_busy();
            }
            // Nothing of the pace.
            Err(_) => {}
        }
        false
    }

    /// Nothing came. A machine that was switched off is not slow.
    async fn stuck(&self, is_there: BoxFuture<'static, bool>) {
        if self.sent().first.is_some()
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

    /// By the MiB, and for as many as the peer had to do for us at once. What that says.
    fn took(&self, came: bool) -> Option<Observed> {
        let mut state = self.paces.state();
        let sent = self.sent();
        let (mut beside, mut shared) = (sent.beside.max(1), self.shared);
        // Answers of one stream come in the order of their questions.
        let is_after = |(left, _): &(Instant, Instant)| sent.last.is_some_and(|last| *left > last);
        if let Some(asked) = state.under_way.get(&self.peer) {
            // Whoever looks for several at once may find what was asked for later sooner.
            shared = shared.max(asked.since(sent.came));
        }
        if came {
            if let Some(asked) = state.under_way.get_mut(&self.peer) {
                (beside, shared) = (beside.max(asked.beside()), shared.max(asked.shared()));
                asked.left.retain(is_after);
                asked.came = asked.came.saturating_add(1);
            }
            state.busy.remove(&self.peer);
        } else {
            // What was asked for later and is not there either excuses nobody; nor does all that went before it.
            (beside, shared) = (beside.min(SHARED_MAX), shared.min(SHARED_MAX));
        }
        // What was given up may not have been sent either: that excuses, and is no praise.
        let (least, excused) = (self.by_the_mib(beside), self.by_the_mib(shared));
        let ms = if least <= PROMPT_MS { least } else { excused.max(PROMPT_MS + 1) };
        let seen = state.pace.took(self.peer, ms, came, clock());
        if seen == Some(Observed::Slow)
            && let Some(asked) = state.under_way.get_mut(&self.peer)
        {
            // It had the time for what went before. What went after is forgotten with it: two minutes later it would be, and until then
            // nothing is counted that this day does not know.
            asked.left.clear();
        }
        drop(state);
        self.saw(seen);
        seen
    }

    /// It said that it is busy. Not for the first time, not for a moment, and not because of what it sends us already?
    fn was_busy(&self) {
        let mut state = self.paces.state();
        let (now, hurry, long) = (Instant::now(), self.paces.hurry, self.paces.busy_for());
        state.busy.retain(|_, (_, last)| now.duration_since(*last) * hurry < long);
        let has_ours = state.under_way.get(&self.peer).is_some_and(|asked| asked.there > 0 || !asked.left.is_empty());
        if has_ours || (state.busy.len() >= REMEMBERED_MAX && !state.busy.contains_key(&self.peer)) {
            return;
        }
        let (since, last) = state.busy.entry(self.peer).or_insert((now, now));
        *last = now;
        let busy = now.duration_since(*since) * hurry;
        if busy < long {
            return;
        }
        // Whatever comes of it counts from here on.
        *since = now;
        let ms = u64::try_from(busy.as_millis()).unwrap_or(u64::MAX);
        let seen = state.pace.took(self.peer, ms, false, clock());
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
        // Who is busy says nothing by what does not come.
        let may = self.elapsed() >= after
            && self.sent().last.is_some()
            && state.following < FOLLOWED_MAX
            && state.followed.len() < REMEMBERED_MAX
            && !state.followed.contains_key(&self.peer);
        if may {
            state.followed.insert(self.peer, now);
            state.following += 1;
        }
        may
    }

    /// Nobody waits for it any more, nor sees how long it takes: the peer may send it all the same, if it has it.
    fn leave(&self) {
        let mut state = self.paces.state();
        let (known, sent) = (state.under_way.len(), self.sent());
        if let Some(asked) = state.under_way.get_mut(&self.peer)
            && let Some(last) = sent.last
            && asked.left.len() < LEFT_MAX
            && known <= REMEMBERED_MAX
        {
            asked.left.push((last, Instant::now()));
        }
        drop(state);
        if sent.first.is_some() && sent.last.is_none() {
            self.was_busy();
        }
    }

    async fn follow(mut self, parts: Parts) {
        let Parts { mut read, is_there } = parts;
        // What was asked for at about the same time may come before it.
        let there = self.paces.state().under_way.get(&self.peer).map_or(1, Asked::there);
        self.shared = self.shared.max(there);
        let longest = Duration::from_millis(SLOW_MS) * self.shared.clamp(1, SHARED_MAX);
        let mut is_stuck = false;
        tokio::select! {
            biased;
            () = self.paces.shutdown.cancelled() => {}
            ended = &mut read => is_stuck = self.is_stuck(&ended),
            () = tokio::time::sleep(longest.saturating_sub(self.elapsed()) / self.paces.hurry) => {
                // What it was found slow with is no excuse for what is asked next.
                if self.took(false) != Some(Observed::Slow) {
                    self.leave();
                }
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
mod tests;
