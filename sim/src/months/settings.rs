//! What a run of months is made of.

use cairn_proto::CodeParams;

use super::{Blow, Lonely};

/// One run.
#[derive(Clone, Debug, PartialEq)]
pub struct Months {
    /// Draws everything.
    pub seed: u64,
    /// Peers, kept up by newcomers.
    pub peers: u32,
    /// Days.
    pub days: u32,
    /// Hundredths of the peers that leave for good in a month.
    pub churn_percent: u32,
    /// The owner's groups.
    pub groups: u32,
    /// Thousandths of messages that are lost.
    pub lost_per_mille: u32,
    /// The day on which the network is cut in two for 30 hours.
    pub cut_on_day: Option<u32>,
    /// One part in so many is on one side of the cut.
    pub cut_parts: u8,
    /// What befalls many at once, and on which day.
    pub blow: Option<(u32, Blow)>,
    /// The code, and how many copies of each slot.
    pub code: CodeParams,
    /// As above.
    pub copies: u8,
    /// Whether nobody is a server: all sleep about eight hours a day.
    pub sleepers: bool,
    /// Stewards of each group that are bad.
    pub bad: u32,
    /// Hundredths of the departures that are said a day ahead; with any, holders also say themselves what they lost.
    pub polite_percent: u32,
    /// Holders that drop all they have on the fifteenth day and go on answering; with any, stewards draw auditors.
    pub cheats: u32,
    /// Whether nobody audits all the same, to show that cheats are not found out then.
    pub unaudited: bool,
    /// Whether some slots have nobody of their colour but their holder; then it is these that cheats drop.
    pub lonely: Option<Lonely>,
    /// Shards that a newcomer may be given in a day: it offers a hundred times that. `None`: as much as everybody, and nothing is counted.
    pub quota: Option<u32>,
    /// Whether newcomers offer as much as everybody all the same, to show that the count sees it.
    pub generous: bool,
    /// Whether stewards do nothing, to show that something is needed of them.
    pub asleep: bool,
    /// Whether new holders take the slot behind the one that they are given, to show that the checks would see it.
    pub greedy: bool,
}

impl Months {
    /// 48 peers, 180 days, two groups.
    #[must_use]
    pub const fn new(seed: u64, churn_percent: u32) -> Self {
        let (cut_on_day, cut_parts, blow) = (Some(60), 2, None);
        let (asleep, greedy, sleepers) = (false, false, false);
        let (peers, days, groups, lost_per_mille, bad) = (48, 180, 2, 10, 0);
        let (code, copies) = (CodeParams::DEFAULT, 2);
        let (polite_percent, cheats, unaudited, lonely) = (0, 0, false, None);
        let (quota, generous) = (None, false);
        Self {
            seed,
            peers,
            days,
            churn_percent,
            groups,
            lost_per_mille,
            cut_on_day,
            cut_parts,
            blow,
            code,
            copies,
            sleepers,
            bad,
            polite_percent,
            cheats,
            unaudited,
            lonely,
            quota,
            generous,
            asleep,
            greedy,
        }
    }

    /// The command that repeats this run.
    #[must_use]
    pub fn command(&self) -> String {
        format!(
            "cargo run -p cairn-sim -- --scenario months --seed {:#x} --nodes {} --days {} --churn {} --groups {} --bad {}",
            self.seed, self.peers, self.days, self.churn_percent, self.groups, self.bad
        )
    }
}
