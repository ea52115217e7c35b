//! What happened to groups while their owner was away: asked of their stewards, told in plain words.
//!
//! - **REP-1** A check asks about every group that lacks something, and shows what was done about the others.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use cairn_core::steward::{Happening, What, log::LOG_MAX};
use cairn_proto::{PeerKey, Timestamp, manifest::GroupRow, order::OrderId};
use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::Instant};

use super::{Vault, failures, groups::access_of, holdings::Holdings, learn::Learner, news};
use crate::{failure::Failure, ops::Event, overlay::Overlay};

/// Groups asked about at once.
const GROUPS_AT_ONCE: usize = 8;
/// Groups that lack nothing and are asked about for what happened alone.
const WHOLE_GROUPS: usize = 256;
/// How long a check asks stewards; what is not answered then is not told.
const TIME: Duration = Duration::from_secs(60);
/// Two stewards that say the same of a holder within this time mean the same thing.
const SAME_MS: u64 = 24 * 3600 * 1000;

/// Asks the stewards of these groups, those in `short` and others that were left to some: takes in what new holders have, and tells
/// what happened. How many things that is.
pub(super) async fn ask(
    vault: &Vault,
    learner: &Learner,
    overlay: &Arc<dyn Overlay>,
    rows: &[GroupRow],
    short: &BTreeSet<u32>,
    holdings: &mut Holdings,
    events: &mpsc::Sender<Event>,
) -> Result<usize, Failure> {
    let mut left: BTreeSet<u32> =
        vault.catalogue.registrations().map_err(failures::catalogue)?.into_keys().take(WHOLE_GROUPS).collect();
    left.extend(short);
    let questions = in_turn(rows, &left, short).map(|row| async move {
        let access = Arc::new(access_of(&vault.keys, row).ok()?);
        let learned = learner.learn(row.number, &access).await;
        let answers = news::ask(overlay, &access, learned.news(row)).await;
        Some((row.number, learned, answers))
    });
    let mut questions = futures::stream::iter(questions.collect::<Vec<_>>()).buffered(GROUPS_AT_ONCE);
    let end = Instant::now() + TIME;
    let mut count = 0;
    while let Ok(Some(answer)) = tokio::time::timeout_at(end, questions.next()).await {
        let Some((number, learned, answers)) = answer else { continue };
        holdings.add(number, &answers);
        for row in happenings(number, &learned.log) {
            count += 1;
            let _ = events.send(Event::Row { kind: "happening".to_owned(), row }).await;
        }
    }
    Ok(count)
}

/// The groups in `left`, those in `short` first: time may be up before the others' turn, and what new holders have of these decides
/// whether something is lost.
fn in_turn<'a>(
    rows: &'a [GroupRow],
    left: &BTreeSet<u32>,
    short: &BTreeSet<u32>,
) -> impl Iterator<Item = &'a GroupRow> {
    let (first, others): (Vec<_>, Vec<_>) =
        rows.iter().filter(|row| left.contains(&row.number)).partition(|row| short.contains(&row.number));
    first.into_iter().chain(others)
}

/// What became of one order.
struct Fate {
    at: Timestamp,
    slot: u8,
    to: PeerKey,
    shards: u16,
    /// `None` where only its end was told.
    rebuild: Option<bool>,
    what: &'static str,
}

fn many(shards: u16) -> String {
    if shards == 1 { "1 shard".to_owned() } else { format!("{shards} shards") }
}

impl Fate {
    fn text(&self) -> String {
        let Self { slot, to, .. } = self;
        let (to, shards) = (to.short(), many(self.shards));
        let (way, how) = match self.rebuild {
            Some(true) => ("a rebuild", "rebuilt at"),
            Some(false) => ("a copy", "copied to"),
            None => ("a copy", "given to"),
        };
        match self.what {
            "repaired" => format!("slot {slot}: {shards} {how} {to}"),
            "failed" => format!("slot {slot}: {way} of {shards} to {to} came to nothing"),
            _ => format!("slot {slot}: {way} of {shards} to {to} was ordered"),
        }
    }
}

/// A group's story from what its stewards told, by time; each order once.
fn happenings(group: u32, log: &[Happening]) -> Vec<Value> {
    let mut fates: BTreeMap<OrderId, Fate> = BTreeMap::new();
    let mut failed: BTreeSet<OrderId> = BTreeSet::new();
    let mut others: Vec<(Timestamp, Value)> = Vec::new();
    let mut told: BTreeMap<String, Timestamp> = BTreeMap::new();
    let mut other = |at: Timestamp, what: &str, slot: Option<u8>, peer: Option<PeerKey>, text: String| {
        if told.get(&text).is_none_or(|before| at.ms_since(*before) >= SAME_MS) {
            others.push((at, row(group, at, what, slot, peer, &text)));
            told.insert(text, at);
        }
    };
    for Happening { at, what } in log {
        let at = *at;
        match what {
            What::Ordered { order, slot, to, rebuild, shards, .. } => {
                let new = Fate { at, slot: *slot, to: *to, shards: *shards, rebuild: Some(*rebuild), what: "ordered" };
                fates.entry(*order).or_insert(new).rebuild = Some(*rebuild);
            }
            What::Repaired { order, slot, holder, shards, .. } => {
                let new = Fate { at, slot: *slot, to: *holder, shards: *shards, rebuild: None, what: "repaired" };
                let fate = fates.entry(*order).or_insert(new);
                if fate.what != "repaired" {
                    (fate.at, fate.shards, fate.what) = (at, *shards, "repaired");
                }
            }
            What::Failed { order, .. } => {
                failed.insert(*order);
            }
            What::Stewards { old, new, .. } => {
                let text = match (old, new) {
                    (Some(old), Some(new)) => {
                        format!("{} watches over it in the place of {}", new.short(), old.short())
                    }
                    (Some(old), None) => format!("{} watches over it no more", old.short()),
                    (None, Some(new)) => format!("{} watches over it too", new.short()),
                    (None, None) => continue,
                };
                other(at, "stewards", None, *new, text);
            }
            What::Lacks { slot, holder, shards, .. } => {
                let text = format!("slot {slot}: {} lacks {}", holder.short(), many(*shards));
                other(at, "lacks", Some(*slot), Some(*holder), text);
            }
            What::NotShown { slot, holder, shards, .. } => {
                let text = format!("slot {slot}: {} does not show {} to an auditor", holder.short(), many(*shards));
                other(at, "not_shown", Some(*slot), Some(*holder), text);
            }
            What::NoPeer { slot, .. } => {
                other(at, "no_peer", Some(*slot), None, format!("slot {slot}: there is nobody who may hold it"));
            }
            What::MapFull => {
                let text = "its stewards can note no more repairs: the next backup makes room".to_owned();
                other(at, "full", None, None, text);
            }
            // That we left it to them is no news.
            _ => {}
        }
    }
    for (order, fate) in &mut fates {
        if fate.what == "ordered" && failed.contains(order) {
            fate.what = "failed";
        }
        let mut row = row(group, fate.at, fate.what, Some(fate.slot), Some(fate.to), &fate.text());
        row["order"] = json!(hex(order));
        row["shards"] = json!(fate.shards);
        row["rebuild"] = json!(fate.rebuild);
        others.push((fate.at, row));
    }
    others.sort_by_key(|(at, _)| *at);
    let more = others.len().saturating_sub(LOG_MAX);
    others.into_iter().skip(more).map(|(_, row)| row).collect()
}

fn row(group: u32, at: Timestamp, what: &str, slot: Option<u8>, peer: Option<PeerKey>, text: &str) -> Value {
    json!({
        "group": group,
        "time": super::time_text(at),
        "time_ms": at.0,
        "what": what,
        "slot": slot,
        "peer": peer.map(|peer| peer.to_string()),
        "text": text,
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn peer(at: u8) -> PeerKey {
        PeerKey::from_bytes([at; 32])
    }

    fn at(hour: u64, what: What) -> Happening {
        Happening { at: Timestamp(hour * 3_600_000), what }
    }

    fn ordered(order: u8, rebuild: bool) -> What {
        What::Ordered { order: [order; 32], slot: 3, to: peer(order), rebuild, shards: 12 }
    }

    fn repaired(order: u8) -> What {
        What::Repaired { order: [order; 32], slot: 3, holder: peer(order), shards: 11 }
    }

    fn texts(log: &[Happening]) -> Vec<String> {
        happenings(7, log).iter().map(|row| row["text"].as_str().expect("a text").to_owned()).collect()
    }

    #[test]
    fn groups_that_lack_something_are_asked_about_first() {
        let row = |number| GroupRow {
            number,
            salt: [3; 32],
            code: cairn_proto::CodeParams::DEFAULT,
            colours: 9,
            holders: Vec::new(),
            stripes_used: 1,
            sealed: false,
        };
        let rows: Vec<GroupRow> = (1..=5).map(row).collect();
        let (left, short) = (BTreeSet::from([1, 2, 4, 5]), BTreeSet::from([2, 5]));
        let turn = in_turn(&rows, &left, &short);
        assert_eq!(turn.map(|row| row.number).collect::<Vec<_>>(), [2, 5, 1, 4]);
    }

    #[test]
    fn one_shard_is_one_shard() {
        let who = peer(1).short();
        let one = |what| What::Repaired { order: [what; 32], slot: 3, holder: peer(1), shards: 1 };
        let log = [
            at(1, What::Ordered { order: [1; 32], slot: 3, to: peer(1), rebuild: true, shards: 1 }),
            at(2, one(1)),
            at(3, What::Lacks { slot: 3, holder: peer(1), shards: 1 }),
            at(4, What::NotShown { slot: 3, holder: peer(1), shards: 1 }),
            at(5, What::NotShown { slot: 3, holder: peer(1), shards: 2 }),
        ];
        let said = [
            format!("slot 3: 1 shard rebuilt at {who}"),
            format!("slot 3: {who} lacks 1 shard"),
            format!("slot 3: {who} does not show 1 shard to an auditor"),
            format!("slot 3: {who} does not show 2 shards to an auditor"),
        ];
        assert_eq!(texts(&log), said);
    }

    #[test]
    fn each_order_is_told_once_and_by_its_end() {
        let (a, b, c) = (peer(1).short(), peer(2).short(), peer(3).short());
        let log = [
            at(1, What::Adopted { generation: 1 }),
            at(2, ordered(1, false)),
            at(2, ordered(1, false)),
            at(3, repaired(1)),
            at(4, repaired(1)),
            at(4, ordered(1, false)),
            at(5, ordered(2, true)),
            at(6, What::Failed { order: [2; 32], why: None }),
            // One steward gave up what another saw done.
            at(7, repaired(3)),
            at(8, What::Failed { order: [3; 32], why: None }),
            at(9, ordered(4, true)),
        ];
        let said = [
            format!("slot 3: 11 shards copied to {a}"),
            format!("slot 3: a rebuild of 12 shards to {b} came to nothing"),
            format!("slot 3: 11 shards given to {c}"),
            format!("slot 3: a rebuild of 12 shards to {} was ordered", peer(4).short()),
        ];
        assert_eq!(texts(&log), said);
        assert_eq!(happenings(7, &log)[0]["time_ms"], 3 * 3_600_000, "when the first steward learned of it");
    }

    #[test]
    fn what_two_stewards_saw_alike_is_one_thing() {
        let lacks = || What::Lacks { slot: 2, holder: peer(9), shards: 4 };
        let replaced = || What::Stewards { old: Some(peer(1)), new: Some(peer(2)) };
        let log = [at(1, lacks()), at(2, lacks()), at(3, replaced()), at(4, replaced()), at(40, lacks())];
        let lacks = format!("slot 2: {} lacks 4 shards", peer(9).short());
        let replaced = format!("{} watches over it in the place of {}", peer(2).short(), peer(1).short());
        assert_eq!(texts(&log), [lacks.clone(), replaced, lacks], "the same again a day later is another thing");
    }
}
