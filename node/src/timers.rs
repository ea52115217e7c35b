//! Every span of time that the node's upkeep goes by, in one place, so that one factor shortens them all for a trial: a week in
//! which somebody is presumed gone becomes a minute, and everything else keeps its proportion.
//!
//! `[timers]` of `config.toml` names any of them in seconds, before the factor; `scale` there, or `CAIRN_TIMERS_SCALE` above it, is
//! the factor. Real clocks and lines do not get faster with it, so each timer has a least value ([`Timers::new`]).

use std::time::Duration;

use cairn_core::{liveness, steward::Rhythm};
use serde::Deserialize;

const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
/// Factors outside are a slip: beyond them nothing is left of the proportions, or nothing happens any more.
const SCALES: std::ops::RangeInclusive<f64> = 1e-6..=1e3;
/// The longest that a timer may be, ten years: sums of two stay far from any limit.
const LONGEST_MS: f64 = 10.0 * 365.0 * DAY as f64;

macro_rules! named_timers {
    ($($(#[$doc:meta])* $name:ident = $default:expr, at least $least:expr;)*) => {
        /// The section `[timers]`: seconds each, before the factor.
        #[derive(Clone, Debug, Default, PartialEq, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct TimersSection {
            /// The factor for all of them.
            pub scale: Option<f64>,
            $($(#[$doc])* pub $name: Option<f64>,)*
        }

        /// Milliseconds each, with the factor.
        struct Named { $($name: u64,)* }

        impl Named {
            fn read(section: &TimersSection, scale: f64) -> Result<Self, WrongTimer> {
                Ok(Self { $($name: one(stringify!($name), section.$name, $default, $least, scale)?,)* })
            }
        }

        /// What the settings file may say.
        pub(crate) const KEYS: &[&str] = &["timers.scale", $(concat!("timers.", stringify!($name)),)*];
    };
}

named_timers! {
    /// Silence from which a peer is late; three times `announce` at least, so half an hour by default and not the five minutes that
    /// the design has. Connected peers are heard by pings, every `ping`, but nothing says which watched peers are connected: all
    /// others are heard by adverts only, and with five minutes every one of them would be late between two, which looks as if we
    /// were cut off ourselves. The price: a steward or holder that vanishes is late 25 minutes later than it might be. Nobody is
    /// away or gone any later, so no repair begins later (ADR 0020).
    late = 300 * SECOND, at least 2 * SECOND;
    /// Silence from which it is away.
    away = HOUR, at least 3 * SECOND;
    /// Silence after which a server is presumed gone.
    server_gone = DAY, at least 5 * SECOND;
    /// Silence after which a home machine is.
    home_gone = 7 * DAY, at least 5 * SECOND;
    /// Others that fall silent within this time do so by one cause, perhaps our own link.
    own_outage = 300 * SECOND, at least 2 * SECOND;
    /// How long we suspect ourselves while most of the others are heard.
    own_outage_hold = HOUR, at least 3 * SECOND;
    /// The same when more than half stay silent.
    own_outage_hold_most = DAY, at least 5 * SECOND;
    /// Within which many failures are one mass failure.
    mass = HOUR, at least 3 * SECOND;
    /// How long that is minded.
    mass_hold = 6 * HOUR, at least 3 * SECOND;
    /// The short span of churn.
    churn = HOUR, at least 3 * SECOND;
    /// The long one.
    day = DAY, at least 5 * SECOND;
    /// Quiet time after which churn is normal again.
    churn_calm = DAY, at least 5 * SECOND;
    /// How long a peer is watched before it can be a server.
    server_after = 7 * DAY, at least 5 * SECOND;
    /// Absence that no server-to-be has.
    server_absence = 4 * HOUR, at least 3 * SECOND;
    /// Time after which half of what a peer did is forgotten.
    record = 14 * DAY, at least 10 * SECOND;
    /// Median absence of a home machine, before any was counted.
    home_off = 8 * HOUR, at least SECOND;
    /// The same of a server.
    server_off = HOUR, at least SECOND;
    /// Between two looks of a steward at a group.
    look = 5 * MINUTE, at least 200;
    /// How much longer each next steward waits with a proposal.
    turn = 10 * MINUTE, at least 200;
    /// How long votes are waited for: over slow lines, so seconds at least.
    vote = 2 * MINUTE, at least 3 * SECOND;
    /// How long an order stands: 8 MiB must get through within it.
    order = 6 * HOUR, at least 30 * SECOND;
    /// Pause after a failed order, doubled with each further one ...
    pause = 10 * MINUTE, at least 200;
    /// ... up to this.
    pause_max = 12 * HOUR, at least 2 * SECOND;
    /// Between two comparisons of maps.
    compare = 6 * HOUR, at least SECOND;
    /// Silence after which a steward's place is given to another.
    steward_lost = DAY, at least 5 * SECOND;
    /// Between two probes of a silent peer of a group that needs something.
    probe = 100 * SECOND, at least SECOND;
    /// Silence after which any other peer is probed; half of `away`.
    probe_silent = HOUR / 2, at least SECOND;
    /// Between two questions to a holder what it has.
    inventory = DAY, at least 2 * SECOND;
    /// A round of audits: within it each holder gets an auditor of each of its stewards, who goes on for two rounds.
    audit = DAY, at least 20 * SECOND;
    /// How long a holder may take to answer a challenge: a home line that wakes up, and what waits before us.
    audit_answer = 10 * MINUTE, at least 10 * SECOND;
    /// How often an auditor tells stewards what it saw when nothing is missing.
    audit_report = 4 * HOUR, at least 2 * SECOND;
    /// Whom a steward does not know for so long does not audit for it.
    registered = 7 * DAY, at least 5 * SECOND;
    /// How long shards count as not there that an auditor was not shown, when nobody sees them meanwhile.
    distrust = 7 * DAY, at least 60 * SECOND;
    /// How long a peer has been in a region, network or subnet before stewards count it as there.
    settled = DAY, at least 5 * SECOND;
    /// Over how long a steward spreads the tokens that it asks holders with whom nobody audits: a mandate's time.
    tokens = 396 * DAY, at least 40 * SECOND;
    /// Between two adverts.
    announce = 10 * MINUTE, at least 2 * SECOND;
    /// Between two pings of a connected peer.
    ping = 150 * SECOND, at least 2 * SECOND;
    /// Between two times that it is seen how long a peer takes over a shard that nobody waits for any more.
    follow = 10 * MINUTE, at least 5 * SECOND;
    /// Between two turns of the store: ended holds of the trash, compaction.
    compact = HOUR, at least SECOND;
    /// Between two reads of every shard.
    scrub = 7 * DAY, at least 10 * SECOND;
    /// Between two tries of a holder to tell stewards what it lost, doubled each time; and before it looks whether it was healed.
    tell = MINUTE, at least 500;
    /// Between two questions of a leaving holder to the stewards how far the others are.
    leave_ask = 5 * MINUTE, at least SECOND;
    /// A round: a day by which it is counted who was there, and in which complaints and votes are bounded. What is thought of peers goes by
    /// it in weeks and months too.
    round = DAY, at least 10 * SECOND;
    /// How often what is believed of peers is written down.
    save = 5 * MINUTE, at least SECOND;
}

/// A timer that cannot be used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("`timers.{name}` cannot be {value}: {why}")]
pub struct WrongTimer {
    name: &'static str,
    value: f64,
    why: &'static str,
}

fn one(name: &'static str, named: Option<f64>, default_ms: u64, least: u64, scale: f64) -> Result<u64, WrongTimer> {
    let ms = named.map_or(default_ms as f64, |seconds| seconds * 1000.0);
    if !ms.is_finite() || ms <= 0.0 || ms > LONGEST_MS {
        let value = named.unwrap_or_default();
        return Err(WrongTimer { name, value, why: "it is a number of seconds above zero, at most ten years" });
    }
    Ok(((ms * scale).min(LONGEST_MS) as u64).max(least))
}

/// All timers of a node, scaled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timers {
    /// The factor that made them.
    pub scale: f64,
    /// When somebody is late, away, gone.
    pub liveness: liveness::Timers,
    /// How often stewards do what.
    pub rhythm: Rhythm,
    /// Between two probes of a silent peer of a group that needs something.
    pub probe: Duration,
    /// Silence after which any other watched peer is probed.
    pub probe_silent: Duration,
    /// How long a holder may take to answer a challenge.
    pub audit_answer: Duration,
    /// Between two reports of an auditor that misses nothing.
    pub audit_report: Duration,
    /// Between two adverts.
    pub announce: Duration,
    /// Between two pings.
    pub ping: Duration,
    /// Between two times that a late shard of one peer is followed to its end.
    pub follow: Duration,
    /// Between two turns of the store.
    pub compact: Duration,
    /// Between two scrubs.
    pub scrub: Duration,
    /// Between two tries to tell stewards of a loss.
    pub tell: Duration,
    /// Between two questions of who leaves.
    pub leave_ask: Duration,
    /// A round of what is thought of peers: a day.
    pub round: Duration,
    /// Between two times that beliefs are written down.
    pub save: Duration,
}

impl Default for Timers {
    fn default() -> Self {
        // The defaults are above every least value and in order, so nothing can be wrong with them.
        Self::new(&TimersSection::default(), None).unwrap_or_else(|_| unreachable!("the defaults are valid"))
    }
}

impl Timers {
    /// From the settings and the environment's factor, which stands above theirs.
    ///
    /// Nothing gets shorter than its least value: two seconds for adverts and pings, one for probes, two seconds of silence to be late and
    /// five to be gone, three seconds for votes, thirty for an order, a fifth of a second for a look. Late is three
    /// adverts at least, so half an hour by default; and whoever is away was late, whoever is gone was away.
    ///
    /// # Errors
    /// A timer that is no number of seconds, or a factor outside a millionth to a thousand.
    pub fn new(section: &TimersSection, environment: Option<f64>) -> Result<Self, WrongTimer> {
        let scale = environment.or(section.scale).unwrap_or(1.0);
        if !SCALES.contains(&scale) {
            return Err(WrongTimer { name: "scale", value: scale, why: "it is a factor from 0.000001 to 1000" });
        }
        let mut t = Named::read(section, scale)?;
        // Whoever says less often that it is there than we call it late would make every third peer fall silent at once, which is how
        // we recognise that we are cut off ourselves.
        t.late = t.late.max(3 * t.announce);
        t.away = t.away.max(t.late);
        t.server_gone = t.server_gone.max(t.away);
        t.home_gone = t.home_gone.max(t.server_gone);
        t.steward_lost = t.steward_lost.max(t.late);
        t.pause_max = t.pause_max.max(t.pause);
        t.audit_answer = t.audit_answer.min(cairn_proto::audit::DEADLINE_MAX_MS);
        Ok(Self {
            scale,
            liveness: liveness::Timers {
                late_ms: t.late,
                away_ms: t.away,
                server_gone_ms: t.server_gone,
                home_gone_ms: t.home_gone,
                own_outage_ms: t.own_outage,
                own_outage_hold_ms: t.own_outage_hold,
                own_outage_hold_most_ms: t.own_outage_hold_most,
                mass_ms: t.mass,
                mass_hold_ms: t.mass_hold,
                churn_ms: t.churn,
                day_ms: t.day,
                churn_calm_ms: t.churn_calm,
                server_after_ms: t.server_after,
                server_absence_ms: t.server_absence,
                record_ms: t.record,
                home_off_ms: t.home_off,
                server_off_ms: t.server_off,
            },
            rhythm: Rhythm {
                look_ms: t.look,
                turn_ms: t.turn,
                vote_ms: t.vote,
                order_ms: t.order,
                pause_ms: t.pause,
                pause_ms_max: t.pause_max,
                compare_ms: t.compare,
                inventory_ms: t.inventory,
                steward_lost_ms: t.steward_lost,
                audit_ms: t.audit,
                registered_ms: t.registered,
                distrust_ms: t.distrust,
                settled_ms: t.settled,
                tokens_ms: t.tokens,
            },
            probe: Duration::from_millis(t.probe),
            probe_silent: Duration::from_millis(t.probe_silent),
            audit_answer: Duration::from_millis(t.audit_answer),
            audit_report: Duration::from_millis(t.audit_report),
            announce: Duration::from_millis(t.announce),
            ping: Duration::from_millis(t.ping),
            follow: Duration::from_millis(t.follow),
            compact: Duration::from_millis(t.compact),
            scrub: Duration::from_millis(t.scrub),
            tell: Duration::from_millis(t.tell),
            leave_ask: Duration::from_millis(t.leave_ask),
            round: Duration::from_millis(t.round),
            save: Duration::from_millis(t.save),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_those_of_the_design() {
        let timers = Timers::default();
        let late_ms = 3 * timers.announce.as_millis() as u64;
        assert_eq!(timers.liveness, liveness::Timers { late_ms, ..liveness::Timers::default() });
        assert_eq!(timers.rhythm, Rhythm::default());
        assert_eq!(timers.probe_silent.as_millis() as u64 * 2, timers.liveness.away_ms);
    }

    #[test]
    fn one_factor_scales_all_and_the_environment_stands_above_the_file() {
        let section = TimersSection {
            scale: Some(0.5),
            home_gone: Some(1000.0),
            announce: Some(60.0),
            ..TimersSection::default()
        };
        let timers = Timers::new(&section, None).expect("valid");
        assert_eq!(
            (timers.liveness.home_gone_ms, timers.liveness.late_ms),
            (12 * HOUR, 150 * SECOND),
            "gone after away"
        );
        let longer = TimersSection { home_gone: Some(1e6), ..section };
        assert_eq!(Timers::new(&longer, None).expect("valid").liveness.home_gone_ms, 500_000 * SECOND);
        let timers = Timers::new(&longer, Some(0.1)).expect("valid");
        assert_eq!((timers.liveness.home_gone_ms, timers.rhythm.look_ms), (100_000 * SECOND, 30 * SECOND));
    }

    #[test]
    fn the_shortest_trial_keeps_clocks_lines_and_order() {
        let timers = Timers::new(&TimersSection::default(), Some(1e-6)).expect("valid");
        let t = timers.liveness;
        assert!(t.late_ms >= 3 * timers.announce.as_millis() as u64 && t.late_ms >= 2000);
        assert!(t.away_ms >= t.late_ms && t.server_gone_ms >= t.away_ms && t.home_gone_ms >= t.server_gone_ms);
        assert_eq!(timers.rhythm.order_ms, 30_000);
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for wrong in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e12] {
            let section = TimersSection { late: Some(wrong), ..TimersSection::default() };
            assert!(Timers::new(&section, None).is_err(), "{wrong}");
            assert!(Timers::new(&TimersSection::default(), Some(wrong)).is_err(), "factor {wrong}");
        }
    }
}
