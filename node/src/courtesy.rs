//! How this node uses its line: limits by the hour, who goes first, pauses, and what the line was seen to carry.
//!
//! All shard bytes that go to or come from others pass one [`Line`] for each direction: what is served, what is taken over, what a
//! rebuild passes on, what the node's own backups and restores move. The decisions are [`cairn_core::courtesy`]'s.
//!
//! # Invariants
//!
//! - **CRT-1** and **CRT-2** of [`cairn_core::courtesy::gate`] hold here, but for steps of what has begun: those go after
//!   ten seconds in any case, and others wait for them. Attacked by `courtesy::tests`.
//! - **CRT-3** A node that is paused moves no shard byte for others, and answers all the same: `Busy`, and when to come again.
//!   Enforced in [`crate::network`]'s server and desk, in [`crate::rebuild`] and in [`crate::stewardship`]; attacked by
//!   `network::tests::courtesy` and `rebuild::tests::gone`.

mod files;
pub mod limits;
pub mod line;
#[cfg(test)]
mod tests;
pub mod verb;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use cairn_core::courtesy::{
    timetable::{LocalMinute, Speeds, Timetable},
    upstream::Upstream,
    urgent::Urgent,
};
use cairn_proto::{GroupId, SHARD_SIZE, Timestamp, wire::Priority};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use self::line::{Line, Meter};
use self::line::{Patience, Restores};
use crate::{failure::Failure, store::Clock};

/// Between two looks at the meter: it counts whole seconds.
const TICK: Duration = Duration::from_secs(1);
/// Looks between two at the timetable: it counts minutes.
const TABLE_EVERY: u64 = 5;
/// ... between two times that what was measured is written down.
const SAVE_EVERY: u64 = 300;
/// Whoever asks a paused node is told to come again after this at most, in milliseconds, since a pause may be ended by hand.
const AGAIN_MAX_MS: u64 = 15 * 60 * 1000;
const DAY_MS: u64 = 24 * 3600 * 1000;

/// How long this node takes no part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pause {
    /// Until it is told to resume.
    UntilResumed,
    /// Until then, or until it is told to resume.
    Until(Timestamp),
}

impl Pause {
    /// For so many milliseconds from now on, or until resumed.
    #[must_use]
    pub fn lasting(ms: Option<u64>, now: Timestamp) -> Self {
        ms.map_or(Self::UntilResumed, |ms| Self::Until(now.plus_ms(ms)))
    }

    fn left_ms(self, now: Timestamp) -> u64 {
        match self {
            Self::UntilResumed => u64::MAX,
            Self::Until(end) => end.ms_since(now),
        }
    }
}

/// The minute of the week where this machine stands.
pub type LocalTime = Arc<dyn Fn() -> LocalMinute + Send + Sync>;

/// What a node's courtesy is made from.
pub struct CourtesyConfig {
    /// Limits by the hour.
    pub timetable: Timetable,
    /// Where pauses and measures are kept; none keeps them in memory.
    pub folder: Option<PathBuf>,
    /// The time.
    pub clock: Clock,
    /// The same on the wall.
    pub local: LocalTime,
}

impl CourtesyConfig {
    /// With this machine's clocks.
    #[must_use]
    pub fn new(timetable: Timetable, folder: Option<PathBuf>) -> Self {
        Self { timetable, folder, clock: Arc::new(crate::vault::now), local: Arc::new(local_minute) }
    }
}

/// By this machine's time zone.
fn local_minute() -> LocalMinute {
    let now = jiff::Zoned::now();
    let weekday = now.weekday().to_monday_zero_offset();
    LocalMinute::new(
        weekday.unsigned_abs().into(),
        u16::from(now.hour().unsigned_abs()) * 60 + u16::from(now.minute().unsigned_abs()),
    )
}

/// A node's courtesy, cheap to clone. It ends with the last clone.
#[derive(Clone)]
pub struct Courtesy {
    inner: Arc<Inner>,
    _running: Arc<DropGuard>,
}

struct Inner {
    up: Arc<Line>,
    down: Arc<Line>,
    meter: Arc<Meter>,
    timetable: Timetable,
    folder: Option<PathBuf>,
    clock: Clock,
    local: LocalTime,
    pause: watch::Sender<Option<Pause>>,
    speeds: Mutex<Speeds>,
    upstream: Mutex<Upstream>,
    urgent: Mutex<Urgent>,
}

/// What `cairn status` says of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CourtesyStatus {
    /// Bytes a second that may go out now; none when there is no limit.
    pub limit_up: Option<u64>,
    /// ... and come in.
    pub limit_down: Option<u64>,
    /// Which row of the timetable says so, from 0.
    pub timetable_row: Option<usize>,
    /// Minutes until other limits hold; none when that is never.
    pub changes_in_minutes: Option<u16>,
    /// Whether the node is paused.
    pub paused: bool,
    /// Until when, in ms since 1970; none until it is resumed.
    pub paused_until: Option<Timestamp>,
    /// Bytes a second that the line is taken to carry outwards.
    pub upstream: u64,
    /// Whether that was measured.
    pub upstream_measured: bool,
}

impl Courtesy {
    /// Reads what is kept and begins. Blocking for three small files; must be called within a runtime.
    #[must_use]
    pub fn start(config: CourtesyConfig) -> Self {
        let CourtesyConfig { timetable, folder, clock, local } = config;
        let (restores, patience) = (Arc::new(Restores::new(line::steady())), Patience::default());
        let now = clock();
        let pause = folder.as_deref().and_then(files::read_pause).filter(|pause| pause.left_ms(now) > 0);
        let upstream = folder.as_deref().map(|folder| files::read_upstream(folder, now.0 / DAY_MS)).unwrap_or_default();
        let speeds = timetable.at(local());
        let urgent = folder.as_deref().map_or_else(|| Urgent::new(now), |folder| files::resume_urgent(folder, now));
        let inner = Arc::new(Inner {
            up: Line::new(restores.clone(), patience),
            down: Line::new(restores, patience),
            meter: Arc::default(),
            timetable,
            folder,
            clock,
            local,
            pause: watch::Sender::new(pause),
            speeds: Mutex::new(speeds),
            upstream: Mutex::new(upstream),
            urgent: Mutex::new(urgent),
        });
        inner.set_speeds(speeds);
        let stop = CancellationToken::new();
        for line in [&inner.up, &inner.down] {
            let (line, stop) = (line.clone(), stop.clone());
            tokio::spawn(async move { stop.run_until_cancelled(line.run()).await });
        }
        let tended = (inner.clone(), stop.clone());
        tokio::spawn(async move { tended.1.run_until_cancelled(tended.0.tend()).await });
        Self { inner, _running: Arc::new(stop.drop_guard()) }
    }

    /// No limits, nothing kept.
    #[must_use]
    pub fn free() -> Self {
        Self::start(CourtesyConfig::new(Timetable::free(), None))
    }

    /// What goes out.
    #[must_use]
    pub fn up(&self) -> &Line {
        &self.inner.up
    }

    /// What comes in.
    #[must_use]
    pub fn down(&self) -> &Line {
        &self.inner.down
    }

    /// Counts what went out.
    #[must_use]
    pub fn meter(&self) -> &Arc<Meter> {
        &self.inner.meter
    }

    /// How a shard goes that a quorum's order moves over our line: background work, unless they say that it is `urgent` and the group, and
    /// all of them, have not had what may go first, a restart included.
    #[must_use]
    pub fn class_of(&self, group: &GroupId, urgent: bool) -> Priority {
        if !urgent {
            return Priority::Low;
        }
        let mut all = self.inner.urgent.lock().unwrap_or_else(PoisonError::into_inner);
        all.class(*group, SHARD_SIZE as u64, (self.inner.clock)())
    }

    /// Milliseconds after which whoever is told that we are paused should come again; none when we are not.
    #[must_use]
    pub fn paused_ms(&self) -> Option<u64> {
        let left = (*self.inner.pause.borrow())?.left_ms((self.inner.clock)());
        (left > 0).then(|| left.clamp(1000, AGAIN_MAX_MS))
    }

    /// Waits until the node is not paused. A pause that ends by itself is noticed within a second.
    pub async fn resumed(&self) {
        let mut pause = self.inner.pause.subscribe();
        while self.paused_ms().is_some() {
            let _ = tokio::time::timeout(TICK, pause.changed()).await;
        }
    }

    /// Every pause and its end.
    #[must_use]
    pub fn pauses(&self) -> watch::Receiver<Option<Pause>> {
        self.inner.pause.subscribe()
    }

    /// Takes no part from now on, or takes part again. On disk when this returns. Blocking.
    ///
    /// # Errors
    /// It cannot be written; then nothing changed.
    pub fn set_pause(&self, pause: Option<Pause>) -> Result<(), Failure> {
        if let Some(folder) = &self.inner.folder {
            files::write_pause(folder, pause)?;
        }
        self.inner.pause.send_replace(pause);
        Ok(())
    }

    /// Bytes a second that our line carries outwards, as far as we may use it.
    #[must_use]
    pub fn upstream(&self) -> u64 {
        let limit = self.inner.speeds().up.limit();
        self.inner.upstream.lock().unwrap_or_else(PoisonError::into_inner).usable(limit)
    }

    /// How it stands.
    #[must_use]
    pub fn status(&self) -> CourtesyStatus {
        let speeds = self.inner.speeds();
        let measured = self.inner.upstream.lock().unwrap_or_else(PoisonError::into_inner).measured();
        CourtesyStatus {
            limit_up: speeds.up.limit(),
            limit_down: speeds.down.limit(),
            timetable_row: speeds.row,
            changes_in_minutes: self.inner.timetable.changes_in((self.inner.local)()),
            paused: self.paused_ms().is_some(),
            paused_until: match *self.inner.pause.borrow() {
                Some(Pause::Until(end)) => Some(end),
                _ => None,
            },
            upstream: self.upstream(),
            upstream_measured: measured.is_some(),
        }
    }
}

/// A pause of a node that does not run: it will be paused when it does. Blocking; the caller holds the folder's lock.
///
/// # Errors
/// It cannot be written.
pub fn write_pause(folder: &std::path::Path, pause: Option<Pause>) -> Result<(), Failure> {
    files::write_pause(folder, pause)
}

impl Inner {
    fn speeds(&self) -> Speeds {
        *self.speeds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_speeds(&self, speeds: Speeds) {
        *self.speeds.lock().unwrap_or_else(PoisonError::into_inner) = speeds;
        self.up.set_limit(speeds.up.limit());
        self.down.set_limit(speeds.down.limit());
    }

    /// Follows the clock.
    async fn tend(&self) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut tick, mut loaded_before, mut news) = (0u64, false, false);
        loop {
            ticks.tick().await;
            tick += 1;
            let now = (self.clock)();
            let ended = self.pause.borrow().is_some_and(|pause| pause.left_ms(now) == 0);
            if ended {
                tracing::info!("the pause is over");
                self.pause.send_replace(None);
            }
            if tick.is_multiple_of(TABLE_EVERY) {
                self.look_at_table();
            }
            news |= self.count_second(&mut loaded_before, now);
            self.save_urgent(now).await;
            if tick.is_multiple_of(SAVE_EVERY) && std::mem::take(&mut news) {
                self.save().await;
            }
        }
    }

    fn look_at_table(&self) {
        let speeds = self.timetable.at((self.local)());
        if speeds != self.speeds() {
            tracing::info!(?speeds, "other limits hold");
            self.set_speeds(speeds);
        }
    }

    /// A second is over; whether it says something of what the line carries.
    fn count_second(&self, loaded_before: &mut bool, now: Timestamp) -> bool {
        let (bytes, loaded) = self.meter.take();
        // The first second of a load fills buffers.
        let counts = loaded && *loaded_before && bytes > 0;
        *loaded_before = loaded;
        if counts {
            self.upstream.lock().unwrap_or_else(PoisonError::into_inner).note(now.0 / DAY_MS, bytes);
        }
        counts
    }

    /// Whatever went first is on disk within a second: until then, little more does.
    async fn save_urgent(&self, now: Timestamp) {
        let Some(folder) = self.folder.clone() else { return };
        let news = self.urgent.lock().unwrap_or_else(PoisonError::into_inner).to_save(now);
        let Some((bytes, new)) = news else { return };
        match tokio::task::spawn_blocking(move || files::write_urgent(&folder, &bytes)).await {
            Ok(Ok(())) => self.urgent.lock().unwrap_or_else(PoisonError::into_inner).saved(new),
            Ok(Err(error)) => {
                tracing::warn!(%error, "what went first of urgent repairs cannot be written down; the rest goes as background work until it can");
            }
            Err(_) => {}
        }
    }

    async fn save(&self) {
        let Some(folder) = self.folder.clone() else { return };
        let upstream = self.upstream.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let written = tokio::task::spawn_blocking(move || files::write_upstream(&folder, &upstream)).await;
        if let Ok(Err(error)) = written {
            tracing::warn!(%error, "what the line carries cannot be written down; a restart measures it anew");
        }
    }
}
