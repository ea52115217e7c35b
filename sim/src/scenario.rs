//! What is simulated: size, length, and how bad the world is.

use std::{fmt, str::FromStr};

/// A kind of world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// Churn, peers that change their domain, and owners that offer peers slots which are not theirs.
    Separation,
    /// Honest owners and three times the churn.
    Churn,
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Separation => "separation",
            Self::Churn => "churn",
        })
    }
}

impl FromStr for Scenario {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "separation" => Ok(Self::Separation),
            "churn" => Ok(Self::Churn),
            _ => Err("known scenarios: separation, churn".to_owned()),
        }
    }
}

/// A guard taken out of every receiver, to show that the checkers would notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// All guards stand.
    None,
    /// Receivers do not recompute their colour.
    NoColourCheck,
    /// Receivers keep no ledger.
    NoLedger,
}

/// One run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Which world.
    pub scenario: Scenario,
    /// Draws everything.
    pub seed: u64,
    /// Storage peers at the start.
    pub nodes: u32,
    /// Virtual days.
    pub days: u32,
    /// Guards taken out.
    pub sabotage: Sabotage,
}

impl Settings {
    /// A run with all guards.
    #[must_use]
    pub fn new(scenario: Scenario, seed: u64, nodes: u32, days: u32) -> Self {
        Self { scenario, seed, nodes, days, sabotage: Sabotage::None }
    }

    /// The command that repeats this run.
    #[must_use]
    pub fn command(&self) -> String {
        format!(
            "cargo run -p cairn-sim -- --scenario {} --seed {:#x} --nodes {} --days {}",
            self.scenario, self.seed, self.nodes, self.days
        )
    }

    /// Mean time between departures of one peer, in hours.
    pub(crate) fn hours_between_departures(&self) -> u32 {
        match self.scenario {
            Scenario::Separation => 72,
            Scenario::Churn => 24,
        }
    }

    /// One owner in so many is hostile; 0: none.
    pub(crate) fn hostile_one_in(&self) -> u32 {
        match self.scenario {
            Scenario::Separation => 3,
            Scenario::Churn => 0,
        }
    }
}
