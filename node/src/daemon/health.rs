//! `cairn node health`: how this node does as a holder, in plain words and before anybody holds it against it.

use std::{
    sync::OnceLock,
    time::{Instant, SystemTime},
};

use cairn_proto::{SHARD_SIZE, Timestamp};
use tokio::sync::mpsc;

use super::service::{NodeService, send};
use crate::{
    failure::ExitCode,
    holdings::report::Census,
    ops::{Event, Outcome, VerbResult},
    stewardship::report::time,
    store::{ShardState, Store, Usage},
};

/// A clock that moved by so much against the time that passed is worth a word: orders allow for less than this.
const CLOCK_MS: u64 = 60_000;
/// Stewards ask once a day; after two a holder may ask itself why nobody does.
const ASKED_MS: u64 = 2 * 24 * 3_600_000;
/// A scrub every week: one that is twice as old is late.
const SCRUB_WEEKS: u64 = 2;
const DAY_MS: u64 = 24 * 3_600_000;
/// Shards that are looked at under one lock of the store's index.
const PAGE: usize = 4096;

/// When this process began, by both clocks.
static BEGAN: OnceLock<(Instant, SystemTime)> = OnceLock::new();

/// Notes the time, so that a clock that is set while the node runs is noticed.
pub(super) fn note_start() {
    BEGAN.get_or_init(|| (Instant::now(), SystemTime::now()));
}

/// How far the clock was moved since the start.
fn clock_moved_ms() -> u64 {
    let Some((instant, system)) = BEGAN.get() else { return 0 };
    let passed = instant.elapsed();
    let by_clock = SystemTime::now().duration_since(*system).unwrap_or_default();
    passed.abs_diff(by_clock).as_millis() as u64
}

/// One thing that is looked at.
struct Finding {
    about: &'static str,
    code: ExitCode,
    text: String,
}

fn fine(about: &'static str, text: String) -> Finding {
    Finding { about, code: ExitCode::Success, text }
}

/// Everything that the findings are made of.
struct Facts {
    census: Census,
    store: StoreFacts,
    usage: Option<Usage>,
    addresses: Vec<String>,
    peers: usize,
    reached: usize,
    moved_ms: u64,
    scrub_every_ms: u64,
    now: Timestamp,
}

#[derive(Default)]
struct StoreFacts {
    shards: u64,
    damaged: u64,
    lease_over: u64,
    trash: u64,
}

impl StoreFacts {
    fn of(store: &Store, now: Timestamp) -> Self {
        let (mut facts, mut after) = (Self::default(), None);
        loop {
            let page = store.list_after(after, PAGE);
            let Some(last) = page.last() else { return facts };
            after = Some((last.group, last.ordinal));
            for shard in &page {
                facts.trash += u64::from(shard.state == ShardState::Trash);
                if shard.state == ShardState::Live {
                    facts.shards += 1;
                    facts.damaged += u64::from(shard.damaged);
                    facts.lease_over += u64::from(shard.lease_until <= now);
                }
            }
        }
    }
}

impl Facts {
    fn findings(&self) -> Vec<Finding> {
        vec![
            self.disk(),
            self.scrub(),
            self.losses(),
            self.space(),
            self.reach(),
            self.clock(),
            self.stewards(),
            self.leases(),
            self.plan(),
        ]
    }

    fn disk(&self) -> Finding {
        let StoreFacts { shards, damaged, .. } = self.store;
        if damaged == 0 {
            return fine("disk", format!("{shards} shards, none of them known to be damaged"));
        }
        let text = format!(
            "{damaged} of {shards} shards are damaged or gone; they are brought here again, look after the disk"
        );
        Finding { about: "disk", code: ExitCode::Damage, text }
    }

    fn scrub(&self) -> Finding {
        let Some(last) = self.census.scrubbed else {
            return fine("scrub", "every shard is read for the first time soon after the start".to_owned());
        };
        let late = self.now.ms_since(last.at) > SCRUB_WEEKS * self.scrub_every_ms.max(1);
        let found = format!(
            "last {}: {} read, {} damaged, {} missing",
            time(last.at),
            last.checked,
            last.damaged,
            last.missing
        );
        let text = if late { format!("{found}; the next one is late") } else { found };
        fine("scrub", text)
    }

    fn losses(&self) -> Finding {
        let census = &self.census;
        let past = format!("{} lost and {} healed so far", census.sums.lost, census.sums.healed);
        if census.lost_groups == 0 {
            return fine("losses", past);
        }
        let text = format!(
            "{} shards of {} groups are lost and not healed; of {} groups most stewards took note. {past}",
            census.lost_shards, census.lost_groups, census.told_groups
        );
        Finding { about: "losses", code: ExitCode::Damage, text }
    }

    fn space(&self) -> Finding {
        let Some(usage) = &self.usage else { return fine("space", "nothing is stored here".to_owned()) };
        let leaving = matches!(self.census.leave.0.as_str(), "leaving" | "done" | "over");
        let text = format!("{} free of {} given", usage.free_bytes, usage.pledged);
        let full = usage.free_bytes.0 < 2 * SHARD_SIZE as u64 && !leaving;
        // A pledge that is used up is what it was given for; a disk that is full before that is not.
        let early = usage.live_bytes.0.saturating_add(4 * SHARD_SIZE as u64) < usage.pledged.0 / 10 * 9;
        if full && early {
            return Finding {
                about: "space",
                code: ExitCode::NoSpace,
                text: format!("{text}: the disk is full before the pledge is"),
            };
        }
        fine("space", text)
    }

    fn reach(&self) -> Finding {
        let text = format!(
            "{} of {} known peers answer; others find this node at {} addresses",
            self.reached,
            self.peers,
            self.addresses.len()
        );
        let code =
            if self.reached == 0 || self.addresses.is_empty() { ExitCode::TooFewPeers } else { ExitCode::Success };
        Finding { about: "reach", code, text }
    }

    fn clock(&self) -> Finding {
        let back = self.census.clock_back_ms;
        if back > CLOCK_MS {
            let text = format!(
                "it shows a time {} s before one at which this node wrote; set it, or orders are refused",
                back / 1000
            );
            return Finding { about: "clock", code: ExitCode::Failed, text };
        }
        if self.moved_ms > CLOCK_MS {
            let text =
                format!("it was set by {} s since the node was started, or the machine slept", self.moved_ms / 1000);
            return fine("clock", text);
        }
        fine("clock", "it goes on as it should".to_owned())
    }

    fn stewards(&self) -> Finding {
        let census = &self.census;
        let known = format!(
            "{} of {} groups are watched, by {} stewards as far as is known",
            census.watched, census.groups, census.stewards
        );
        let asked = match census.asked {
            Some((by, at)) => {
                let long = if self.now.ms_since(at) > ASKED_MS { ", which is long ago: are you reached?" } else { "" };
                format!("; {} asked last, {}{long}", by.short(), time(at))
            }
            None if census.groups > 0 => "; nobody asked yet, they do once a day".to_owned(),
            None => String::new(),
        };
        let ordered = census
            .ordered
            .map_or_else(String::new, |at| format!("; shards were last given here by order {}", time(at)));
        fine("stewards", known + &asked + &ordered)
    }

    fn leases(&self) -> Finding {
        let StoreFacts { lease_over, trash, .. } = self.store;
        fine("leases", format!("{lease_over} ended and are kept all the same; {trash} shards are in the trash"))
    }

    fn plan(&self) -> Finding {
        let at = self.census.leave.1.map_or_else(|| "?".to_owned(), time);
        fine(
            "plan",
            match self.census.leave.0.as_str() {
                "leaving" => format!("leaves for good at {at}; `cairn node leave` shows how far it is"),
                "done" => format!("leaves for good at {at}, and nothing is lost by it"),
                "over" => format!("left at {at}, and others still need what is here; `cairn node leave` shows it"),
                _ => "stays".to_owned(),
            },
        )
    }
}

/// The gravest of them: first what the operator alone can mend.
fn gravest(findings: &[Finding]) -> ExitCode {
    const ORDER: [ExitCode; 4] = [ExitCode::Failed, ExitCode::Damage, ExitCode::TooFewPeers, ExitCode::NoSpace];
    let found = ORDER.into_iter().find(|code| findings.iter().any(|finding| finding.code == *code));
    found.unwrap_or(ExitCode::Success)
}

impl NodeService {
    pub(super) async fn health(&self, events: &mpsc::Sender<Event>) -> VerbResult {
        let Some(store) = self.node().store().cloned() else {
            return Err(super::folder::no_store(self.node().dir().root()));
        };
        let peers = self.known_peers(false).await.unwrap_or_default();
        let (holdings, now) = (self.node().holdings().clone(), crate::vault::now());
        let looked = super::assemble::blocking(move || (holdings.census(), StoreFacts::of(&store, now), store.usage()));
        let (census, of_store, usage) = looked.await?;
        let facts = Facts {
            census,
            store: of_store,
            usage: Some(usage),
            addresses: self.node().addresses(),
            peers: peers.len(),
            reached: peers.iter().filter(|peer| peer.reachable == Some(true)).count(),
            moved_ms: clock_moved_ms(),
            scrub_every_ms: 7 * DAY_MS,
            now,
        };
        let findings = facts.findings();
        for finding in &findings {
            let verdict = if finding.code == ExitCode::Success { "fine" } else { "bad" };
            let code = u8::from(finding.code);
            let row =
                serde_json::json!({ "about": finding.about, "verdict": verdict, "text": finding.text, "code": code });
            send(events, Event::Row { kind: "health".into(), row }).await;
        }
        let code = gravest(&findings);
        let bad = findings.iter().filter(|finding| finding.code != ExitCode::Success).count();
        let text =
            if bad == 0 { "all is fine".to_owned() } else { format!("{bad} of {} need looking after", findings.len()) };
        let summary = serde_json::json!({
            "healthy": bad == 0,
            "bad": bad,
            "shards": facts.store.shards,
            "damaged": facts.store.damaged,
            "lost": facts.census.sums.lost,
            "healed": facts.census.sums.healed,
            "groups": facts.census.groups,
            "watched": facts.census.watched,
            "text": text,
        });
        send(events, Event::Summary { verb: "health".into(), summary }).await;
        Ok(Outcome { code })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        let addresses = vec!["/ip4/198.51.100.7/tcp/4001".to_owned()];
        Facts {
            census: Census::default(),
            store: StoreFacts::default(),
            usage: None,
            addresses,
            peers: 9,
            reached: 4,
            moved_ms: 0,
            scrub_every_ms: 7 * DAY_MS,
            now: Timestamp(100 * DAY_MS),
        }
    }

    #[test]
    fn each_trouble_has_a_code_of_its_own_and_the_gravest_is_told() {
        let code = |change: &dyn Fn(&mut Facts)| {
            let mut facts = facts();
            change(&mut facts);
            gravest(&facts.findings())
        };
        assert_eq!(code(&|_| ()), ExitCode::Success);
        assert_eq!(code(&|f| f.store.damaged = 1), ExitCode::Damage);
        assert_eq!(code(&|f| f.census.lost_groups = 1), ExitCode::Damage);
        assert_eq!(code(&|f| f.reached = 0), ExitCode::TooFewPeers);
        assert_eq!(code(&|f| f.addresses.clear()), ExitCode::TooFewPeers);
        assert_eq!(code(&|f| f.census.clock_back_ms = CLOCK_MS + 1), ExitCode::Failed);
        assert_eq!(code(&|f| (f.reached, f.store.damaged) = (0, 1)), ExitCode::Damage);
        // What is no fault is said and costs nothing.
        assert_eq!(code(&|f| f.moved_ms = 2 * CLOCK_MS), ExitCode::Success);
        assert_eq!(code(&|f| f.census.leave = ("leaving".into(), Some(Timestamp(1)))), ExitCode::Success);
    }
}
