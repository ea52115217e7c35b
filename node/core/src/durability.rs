//! How much redundancy a promise takes: the durability solver.
//!
//! From an [`Sla`], the size of the data and what was measured of the network ([`Measured`]) to the cheapest code and number
//! of replicas that keep the promise ([`Solution`]), or to what is missing ([`Infeasible`]). Only reckons; who gets what is
//! [`crate::placement`].
//!
//! Loss within a year is reckoned from a Markov chain of a stripe's slots ([`chain`]), independent for each stripe, plus a
//! common shock that hits the whole network at once; being restorable within a time from the share of holders that come
//! online in it. Sources: Plank & Thomason and the MTTDL literature for the chain, Grassmann, Taksar & Heyman 1985 for its
//! solution without subtractions, Marshall & Olkin 1967 for the common shock. The [`classic`] formulas stand beside it, with
//! what is wrong with them, and decide nothing.
//!
//! Floating point: nothing that two peers must agree on comes from here.

use cairn_proto::{CodeParams, code_params::SLOTS_MAX};
use serde::Serialize;

pub mod chain;
pub mod classic;
pub mod follow;
pub mod measured;
pub mod repairs;
pub mod survival;

#[cfg(test)]
mod tests;

pub use measured::Measured;

/// Days of a year and of a month.
pub const YEAR_DAYS: f64 = 365.25;
/// As above.
pub const MONTH_DAYS: f64 = 30.44;
/// Payload of a stripe of k data shards, about: what a size in bytes is divided by.
const SHARD_PAYLOAD: f64 = cairn_proto::SHARD_PAYLOAD as f64;
/// Bytes of user data that one group holds at least, so that a small backup is not spread over more peers than it takes.
const GROUP_BYTES: f64 = 100.0 * (1u64 << 30) as f64;
/// Groups of the smallest backup.
const GROUPS_MIN: f64 = 4.0;
/// Copies of a shard at most. With 32 slots that is 6545 states of the chain, and each more takes many times as long.
const COPIES_MAX: u8 = 3;
/// Eligible domains for each place of a group: with fewer, colour classes run empty.
const DOMAINS_A_PLACE: f64 = 1.5;

/// A promise, by the share of backups that lose nothing in a year.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Sla {
    /// 99 %.
    Bronze,
    /// 99.9 %.
    Silver,
    /// 99.99 %.
    Gold,
    /// 99.999 %.
    Platinum,
}

impl Sla {
    /// All of them, weakest first.
    pub const ALL: [Self; 4] = [Self::Bronze, Self::Silver, Self::Gold, Self::Platinum];

    /// Chance of a miss that it allows, in millionths. An integer: `1.0 - 0.9999` is not `0.0001`.
    #[must_use]
    pub const fn miss_ppm(self) -> u32 {
        match self {
            Self::Bronze => 10_000,
            Self::Silver => 1_000,
            Self::Gold => 100,
            Self::Platinum => 10,
        }
    }

    /// The same as a share.
    #[must_use]
    pub fn miss(self) -> f64 {
        f64::from(self.miss_ppm()) / 1e6
    }

    /// Its name, as users write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bronze => "bronze",
            Self::Silver => "silver",
            Self::Gold => "gold",
            Self::Platinum => "platinum",
        }
    }
}

impl std::fmt::Display for Sla {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Sla {
    type Err = UnknownSla;

    fn from_str(name: &str) -> Result<Self, UnknownSla> {
        Self::ALL.into_iter().find(|sla| sla.name().eq_ignore_ascii_case(name)).ok_or(UnknownSla)
    }
}

/// Not the name of an [`Sla`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an SLA is one of bronze (99 %), silver (99.9 %), gold (99.99 %), platinum (99.999 %)")]
pub struct UnknownSla;

/// k, m and r.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Shape {
    /// Data shards of a stripe.
    pub k: u8,
    /// Parity shards.
    pub m: u8,
    /// Copies of each shard.
    pub r: u8,
}

impl Shape {
    /// n: slots of a stripe.
    #[must_use]
    pub const fn slots(self) -> u32 {
        self.k as u32 + self.m as u32
    }

    /// Peers that hold a group.
    #[must_use]
    pub const fn places(self) -> u32 {
        self.slots() * self.r as u32
    }

    /// Bytes stored for each byte of user data.
    #[must_use]
    pub fn expansion(self) -> f64 {
        f64::from(self.places()) / f64::from(self.k)
    }

    /// The code; `None` for shapes that no code has.
    #[must_use]
    pub fn code(self) -> Option<CodeParams> {
        CodeParams::new(self.k, self.m).ok()
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RS({},{}) x {}", self.k, self.m, self.r)
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Question {
    /// The promise.
    pub sla: Sla,
    /// Bytes of user data.
    pub bytes: u64,
    /// Codes with so many data shards only; `None`: any from 3 to 10.
    pub data_shards: Option<u8>,
    /// Repair traffic a month that is allowed, as a multiple of the user data; `None`: any.
    pub traffic_max: Option<f64>,
    /// Peers of a group at most.
    pub places_max: u32,
}

impl Question {
    /// Of the default code's k.
    #[must_use]
    pub const fn new(sla: Sla, bytes: u64) -> Self {
        Self { sla, bytes, data_shards: Some(5), traffic_max: None, places_max: 36 }
    }

    /// Stripes of k data shards, at least one.
    #[must_use]
    pub fn stripes(&self, k: u8) -> f64 {
        (self.bytes as f64 / (f64::from(k) * SHARD_PAYLOAD)).ceil().max(1.0)
    }

    /// Groups that they are spread over.
    #[must_use]
    pub fn groups(&self, k: u8) -> f64 {
        (self.bytes as f64 / GROUP_BYTES).ceil().max(GROUPS_MIN).min(self.stripes(k))
    }
}

/// What a shape means for a question.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Solution {
    /// The shape.
    pub shape: Shape,
    /// Bytes stored for each byte.
    pub expansion: f64,
    /// Repair traffic a month, as a multiple of the user data.
    pub traffic: f64,
    /// Chance that anything is lost within a year: by holders that go one by one ...
    pub loss_independent: f64,
    /// ... or by a shock that hits all at once.
    pub loss_shock: f64,
    /// Chance that not all of it can be restored within [`Measured::restore_within_hours`].
    pub late: f64,
    /// Domains that it takes.
    pub domains: u32,
}

impl Solution {
    /// Chance that anything is lost within a year.
    #[must_use]
    pub fn loss(&self) -> f64 {
        (self.loss_independent + self.loss_shock).min(1.0)
    }

    /// What is compared: bytes stored, and a month's traffic as much as a month's storage.
    #[must_use]
    pub fn cost(&self) -> f64 {
        self.expansion + self.traffic
    }

    fn keeps(&self, question: &Question) -> bool {
        let miss = question.sla.miss();
        self.loss() <= miss && self.late <= miss && question.traffic_max.is_none_or(|max| self.traffic <= max)
    }
}

/// What would make a promise possible that is not.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Missing {
    /// This many domains, each alone.
    Domains {
        /// There are.
        have: u32,
        /// It would take.
        need: u32,
    },
    /// Repair within this time.
    RepairDays {
        /// It takes now.
        have: f64,
        /// It would have to take.
        need: f64,
    },
    /// So much traffic for repair.
    Traffic {
        /// Allowed, as a multiple of the user data a month.
        have: f64,
        /// Needed.
        need: f64,
    },
}

/// No shape keeps the promise.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Infeasible {
    /// The best there is: least likely to lose anything, or to be late.
    pub best: Option<Solution>,
    /// Each of these alone would do. Empty: nothing of this kind would.
    pub missing: Vec<Missing>,
}

/// The cheapest shape that keeps the promise.
///
/// # Errors
/// [`Infeasible`], with what is missing.
pub fn solve(question: &Question, measured: &Measured) -> Result<Solution, Infeasible> {
    cheapest(question, measured).map_err(|best| Infeasible { best, missing: missing(question, measured) })
}

/// A shape that no group has, and that is not reckoned with: its figures would be of another one, or take for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}: a group has 1 to {SLOTS_MAX} slots of 1 to {COPIES_MAX} copies each, and at least one of data")]
pub struct NoShape(pub Shape);

/// What a shape means for a question. One without parity is reckoned with too: full copies of one object, to compare with.
///
/// # Errors
/// [`NoShape`]: more slots than any code has, or more copies than are ever made.
pub fn evaluate(shape: Shape, question: &Question, measured: &Measured) -> Result<Solution, NoShape> {
    if shape.k == 0 || shape.slots() > u32::from(SLOTS_MAX) || !(1..=COPIES_MAX).contains(&shape.r) {
        return Err(NoShape(shape));
    }
    let (stripes, groups) = (question.stripes(shape.k), question.groups(shape.k));
    let of_stripe = chain::loss_within(shape, measured.departures_a_day, measured.repair_days, YEAR_DAYS);
    let of_group = survival::shock_loss(shape, measured.shock_share);
    let now = survival::unavailable(shape, measured.online_within);
    Ok(Solution {
        shape,
        expansion: shape.expansion(),
        traffic: traffic(shape, measured),
        loss_independent: (stripes * of_stripe).min(1.0),
        loss_shock: measured.shocks_a_year * (groups * of_group).min(1.0),
        late: -f64::exp_m1(groups * f64::ln_1p(-now.min(1.0))),
        domains: domains(shape),
    })
}

/// Repair traffic a month, as a multiple of the user data: each shard that is lost, or taken for lost, costs k transfers, or
/// one when another copy of it is there.
#[must_use]
pub fn traffic(shape: Shape, measured: &Measured) -> f64 {
    let lost = (measured.departures_a_day + measured.false_alarms_a_day) * MONTH_DAYS;
    let transfers = if shape.r == 1 { 1.0 } else { 1.0 / f64::from(shape.k) };
    lost * f64::from(shape.places()) * transfers
}

fn domains(shape: Shape) -> u32 {
    (f64::from(shape.places()) * DOMAINS_A_PLACE).ceil() as u32
}

/// Every shape that may be chosen, cheapest first.
fn shapes(question: &Question, measured: &Measured) -> Vec<Shape> {
    let ks = question.data_shards.map_or(3..=10, |k| k..=k);
    let all = ks.flat_map(|k| (2..=12).flat_map(move |m| (1..=COPIES_MAX).map(move |r| Shape { k, m, r })));
    let fits = |s: &Shape| s.places() <= question.places_max && s.code().is_some() && domains(*s) <= measured.domains;
    let mut shapes: Vec<Shape> = all.filter(fits).collect();
    let cost = |s: &Shape| s.expansion() + traffic(*s, measured);
    shapes.sort_by(|a, b| cost(a).total_cmp(&cost(b)).then(a.cmp(b)));
    shapes
}

fn cheapest(question: &Question, measured: &Measured) -> Result<Solution, Option<Solution>> {
    let mut best: Option<Solution> = None;
    let badness = |s: &Solution| s.loss().max(s.late);
    for shape in shapes(question, measured) {
        let Ok(solution) = evaluate(shape, question, measured) else { continue };
        if solution.keeps(question) {
            return Ok(solution);
        }
        let allowed = question.traffic_max.is_none_or(|max| solution.traffic <= max);
        // Of two that both surely lose something, the dearer loses less.
        if allowed && best.is_none_or(|best| badness(&solution) <= badness(&best)) {
            best = Some(solution);
        }
    }
    Err(best)
}

fn missing(question: &Question, measured: &Measured) -> Vec<Missing> {
    let mut missing = Vec::new();
    if let Ok(solution) = cheapest(question, &Measured { domains: u32::MAX, ..*measured })
        && solution.domains > measured.domains
    {
        missing.push(Missing::Domains { have: measured.domains, need: solution.domains });
    }
    let mut sooner = (1..8).map(|halvings| measured.repair_days / f64::from(1 << halvings));
    let enough = sooner.find(|days| cheapest(question, &Measured { repair_days: *days, ..*measured }).is_ok());
    missing.extend(enough.map(|need| Missing::RepairDays { have: measured.repair_days, need }));
    if let Some(have) = question.traffic_max
        && let Ok(solution) = cheapest(&Question { traffic_max: None, ..*question }, measured)
    {
        missing.push(Missing::Traffic { have, need: solution.traffic });
    }
    missing
}
