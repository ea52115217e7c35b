//! A standing with every figure that it comes from, for `cairn peers --explain`, the API and the dashboard alike.

use std::fmt;

use cairn_proto::{StatementId, Timestamp};
use serde::Serialize;

use super::{Class, ELIGIBLE_ABOVE};
use crate::{audit::Lie, peer_view::PerMille};

/// What to think of a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// 0..=1000.
    pub score: PerMille,
    /// Whether shards may be placed on it; a newcomer's within its quota.
    pub eligible: bool,
    /// How much of what it offers may be used.
    pub quota: PerMille,
    /// Why: every figure that went into it.
    pub why: Vec<Reason>,
}

/// One figure, or a group that belongs together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Reason {
    /// Nothing was seen of it yet.
    Unknown,
    /// Proved to have lied.
    Convicted {
        /// How.
        lie: Lie,
        /// The file that proves it.
        evidence: StatementId,
    },
    /// How often it kept and said what is so.
    Integrity {
        /// good / (good + bad).
        score: PerMille,
        /// Good events remembered, in hundredths.
        good: u64,
        /// Bad ones.
        bad: u64,
        /// Below this nothing is placed.
        least: PerMille,
    },
    /// How often it was there.
    Availability {
        /// Mean over the days.
        share: PerMille,
        /// Days on which it was looked for.
        days: u64,
        /// What it promises to be.
        class: Class,
        /// What that class must reach for full marks.
        promised: PerMille,
        /// Share of the promise that it kept.
        kept: PerMille,
    },
    /// How quickly it served us, beside others.
    Pace {
        /// Mean over the days.
        score: PerMille,
        /// Days on which it served us.
        days: u64,
        /// Shards that came quickly.
        prompt: u64,
        /// Shards that took many times as long as others' did.
        slow: u64,
    },
    /// Integrity times availability kept, times pace.
    FirstHand {
        /// The product.
        score: PerMille,
        /// Events seen, ever.
        events: u64,
    },
    /// Not all of what it offers may be used yet.
    Quota {
        /// Known for so long.
        age_days: u64,
        /// What may be used.
        quota: PerMille,
    },
    /// We saw enough ourselves: verdicts without proof, and complaints, are not followed.
    OwnEyes {
        /// Audits and reads that went well within a week.
        shown: u64,
        /// Times that it was silent.
        silent: u64,
    },
    /// Others complain.
    Complaints {
        /// Domains that do.
        domains: u64,
        /// Domains known.
        of: u64,
        /// Their voices by their own standing, of all; up to 334 takes nothing.
        voices: u64,
        /// What it takes from the score, if followed.
        takes: PerMille,
    },
    /// A panel suspects it.
    Suspected {
        /// Votes.
        votes: u8,
        /// Until when.
        until: Timestamp,
        /// What it takes from the score, if followed.
        takes: PerMille,
    },
    /// A panel excluded it.
    Excluded {
        /// Votes.
        votes: u8,
        /// Until when.
        until: Timestamp,
    },
}

/// Thousandths as a person reads them.
struct Share(u64);

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1000, self.0 % 1000)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = |p: &PerMille| Share(u64::from(*p));
        match self {
            Self::Unknown => write!(f, "never dealt with"),
            Self::Convicted { lie, evidence } => {
                let did = match lie {
                    Lie::WrongAnswer => "signed an answer that is not of the shard",
                    Lie::Equivocation => "signed two words that cannot both be true",
                };
                write!(f, "proved: it {did}; evidence {evidence}")
            }
            Self::Integrity { score, good, bad, least } => write!(
                f,
                "integrity {} from {}.{:02} good and {}.{:02} bad events, at least {}",
                share(score),
                good / 100,
                good % 100,
                bad / 100,
                bad % 100,
                share(least)
            ),
            Self::Availability { share: there, days, class, promised, kept } => {
                let class = match class {
                    Class::Server => "a server",
                    Class::Home => "a home machine",
                };
                write!(
                    f,
                    "there {} of the time, {days} days seen; {class} promises {}, so {} of it kept",
                    share(there),
                    share(promised),
                    share(kept)
                )
            }
            Self::Pace { score, days, prompt, slow } => write!(
                f,
                "served quickly {} of the time, {days} days seen: {prompt} prompt and {slow} slow shards, beside what others took",
                share(score)
            ),
            Self::FirstHand { score, events } => {
                write!(f, "first hand {} (integrity x promise kept x pace), {events} events", share(score))
            }
            Self::Quota { age_days, quota } => {
                write!(f, "known for {age_days} days, {} of what it offers may be used", share(quota))
            }
            Self::OwnEyes { shown, silent } => {
                write!(f, "{shown} right answers and {silent} silences within a week: others' word is not followed")
            }
            Self::Complaints { domains, of, voices, takes } => write!(
                f,
                "{domains} of {of} domains complain with {} of all voices, which takes {} (nothing up to 0.334)",
                Share(*voices),
                share(takes)
            ),
            Self::Suspected { votes, until, takes } => {
                write!(f, "suspected by {votes} votes until {}, which takes {}", until.0, share(takes))
            }
            Self::Excluded { votes, until } => write!(f, "excluded by {votes} votes until {}", until.0),
        }
    }
}

impl Standing {
    /// Every figure, one line each, the result first.
    #[must_use]
    pub fn explain(&self) -> Vec<String> {
        let verdict = if self.eligible { "eligible" } else { "not eligible" };
        let (score, limit) = (Share(self.score.into()), Share(ELIGIBLE_ABOVE.into()));
        let mut lines = vec![format!("standing {score}, {verdict} (above {limit}, or a newcomer within its quota)")];
        lines.extend(self.why.iter().map(ToString::to_string));
        lines
    }
}
