//! What stewardship does, for people: rows of `cairn status` and `cairn repair --dry-run`.

use cairn_core::{
    assess::GroupState,
    budget,
    liveness::{Belief, Class, Presence},
    steward::{
        Failure, GroupReport, Happening, OrderEnd, PlannedRepair, RepairPhases, Stuck, StuckWhy, Subject, Suspicion,
        TokenReport, Wait, What,
    },
};
use cairn_proto::{Action, ByteSize, PeerKey, SHARD_SIZE, Timestamp, mandate::half, order::OrderId, wire::Priority};
use serde::{Deserialize, Serialize};

/// Happenings that are shown of a group; its owner is told all of them.
const LAST: usize = 5;

/// How one group stands that this node watches for an absent owner.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupStatus {
    /// The group's short id.
    pub group: String,
    /// `healthy`, `degraded`, `critical` or `lost`.
    pub state: String,
    /// Slots with a holder that is not presumed gone.
    pub live_slots: u8,
    /// Slots.
    pub slots: usize,
    /// Live slots beyond the k that it takes; negative when lost.
    pub margin: i16,
    /// Stewards.
    pub stewards: usize,
    /// Stewards that are not silent.
    pub stewards_here: usize,
    /// How many of them an order takes.
    pub quorum: usize,
    /// Where more slots stand than may, in words: a copy elsewhere is ordered when somebody is there for it.
    pub too_close: Vec<String>,
    /// Whether its holders have auditors of this steward's: `yes`, `partly` or `no`.
    pub audited: String,
    /// Slots that only the owner can audit: nobody else of their colour is there, and no token is left for them.
    pub not_audited: Vec<u8>,
    /// Slots that nobody else of their colour is there to audit, and that this steward asks for with tokens of the owner's.
    #[serde(default)]
    pub by_tokens: Vec<TokenStatus>,
    /// Holders that did not show shards to this steward's auditors, and how many: they count as gone here.
    pub not_shown: Vec<String>,
    /// Slots that their owner keeps in fallback storage: they count as living, and stewards cannot read them.
    #[serde(default)]
    pub leaning: Vec<u8>,
    /// Holders that may have sent wrong bytes in rebuilds, and slots of which it is not known who does.
    #[serde(default)]
    pub suspected: Vec<String>,
    /// Slots that should be repaired and for which nothing can be ordered now, and what would help.
    pub stuck: Vec<StuckStatus>,
    /// What was ordered and is not done.
    pub under_way: Vec<String>,
    /// What happened last, newest first.
    pub last: Vec<String>,
    /// How the last orders went, oldest first: for programs.
    #[serde(default)]
    pub phases: Vec<PhasesStatus>,
    /// Who is on record for each slot: for programs.
    #[serde(default)]
    pub holders: Vec<HolderStatus>,
    /// What this steward wants done that is not ordered: for programs.
    #[serde(default)]
    pub waits: Vec<WaitStatus>,
    /// What it did not sign lately, in words, oldest first.
    #[serde(default)]
    pub refused: Vec<String>,
}

/// Who is on record for a slot, as a steward sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HolderStatus {
    /// The slot.
    pub slot: u8,
    /// Its short key.
    pub peer: String,
    /// `here`, `late`, `away`, `gone` or `left`.
    pub presence: String,
    /// Whether it is as good as always there.
    pub server: bool,
    /// How long it is silent, in ms ...
    pub silent_ms: u64,
    /// ... and how long is not unusual for it.
    pub usual_ms: u64,
    /// Shards that it has ...
    pub shards: usize,
    /// ... of so many.
    pub of: usize,
}

/// Something that a steward wants done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitStatus {
    /// `slot 3`, `steward 1adfdd78`, `one more steward` or `a copy elsewhere`.
    pub about: String,
    /// Since when, in ms since 1970.
    pub since_ms: u64,
    /// From when on this steward proposes it.
    pub turn_ms: u64,
    /// How often something about it came to nothing.
    pub failures: u32,
    /// Nobody was there for it when it was this steward's turn last.
    pub nobody: bool,
}

/// An order, and when this steward saw it come how far, in ms since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhasesStatus {
    /// Its short name.
    pub order: String,
    /// The slot.
    pub slot: u8,
    /// Short key of the new holder.
    pub to: String,
    /// Whether from other slots.
    pub rebuild: bool,
    /// How many shards.
    pub shards: u16,
    /// The last sign of life of those who have the slot.
    pub silent_ms: Option<u64>,
    /// Since when this steward wanted it, or what the order before it left.
    pub wanted_ms: Option<u64>,
    /// When it was proposed.
    pub proposed_ms: u64,
    /// When a quorum had signed it.
    pub ordered_ms: u64,
    /// When it was over.
    pub ended_ms: Option<u64>,
    /// `done`, or why nothing came of it.
    pub came: Option<String>,
}

/// A slot that is asked for with tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenStatus {
    /// Which.
    pub slot: u8,
    /// Its holder.
    pub holder: String,
    /// Tokens that are left to this steward for it.
    pub left: usize,
    /// Those that it used.
    pub used: usize,
    /// The same in words.
    pub text: String,
}

/// A slot for which nothing can be ordered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StuckStatus {
    /// Which.
    pub slot: u8,
    /// Whether it lacks somebody who may take it; else whoever has what it takes is away.
    pub nobody: bool,
    /// The same, and what would help, in words.
    pub text: String,
}

/// One thing that would be ordered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlannedRepairStatus {
    /// The group's short id.
    pub group: String,
    /// `copy` or `rebuild` of shards; `replace`, `retire` or `enlist` of a steward; `none` for a slot that nothing can be ordered for.
    pub action: String,
    /// The slot, when it is about shards.
    pub slot: Option<u8>,
    /// Short keys of whom it comes from: the source, the helpers, the steward that is lost.
    pub from: Vec<String>,
    /// Short key of who gets it.
    pub to: Option<String>,
    /// Shards.
    pub shards: usize,
    /// Bytes that all lines together carry.
    pub bytes: ByteSize,
    /// `critical`, `high`, `normal` or `low`.
    pub priority: String,
    /// Chance that the group lives on as it is.
    pub survival: f64,
    /// Why, when nothing is missing.
    pub why: Option<String>,
    /// What it waits for; none when it is ordered as soon as it is this steward's turn.
    pub waits_for: Option<String>,
}

/// What goes on around this steward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Weather {
    /// It may be cut off itself.
    pub(super) cut_off: bool,
    /// Many fell silent at once.
    pub(super) mass_failure: bool,
}

pub(super) fn group_status(report: &GroupReport, stuck: &[Stuck]) -> GroupStatus {
    let assessment = &report.assessment;
    GroupStatus {
        group: report.group.short(),
        state: state(assessment.state).to_owned(),
        live_slots: assessment.live_slots,
        slots: report.slots.len(),
        margin: assessment.margin,
        stewards: report.stewards.len(),
        stewards_here: here(report),
        quorum: report.quorum,
        too_close: report.clumps.iter().map(ToString::to_string).collect(),
        audited: match (report.audits.audited + report.audits.by_tokens.len(), report.audits.owner_only.is_empty()) {
            (0, _) => "no",
            (_, true) => "yes",
            (_, false) => "partly",
        }
        .to_owned(),
        not_audited: report.audits.owner_only.iter().map(|slot| slot.as_u8()).collect(),
        by_tokens: report.audits.by_tokens.iter().map(token_status).collect(),
        not_shown: report
            .audits
            .distrusted
            .iter()
            .map(|(slot, peer, shards)| format!("{} of slot {}: {shards} shards", peer.short(), slot.as_u8()))
            .collect(),
        leaning: report.leaning.iter().map(|slot| slot.as_u8()).collect(),
        suspected: suspected(report),
        stuck: stuck.iter().map(stuck_status).collect(),
        under_way: under_way(&report.log).into_iter().map(|entry| words(&entry.what)).collect(),
        last: report
            .log
            .iter()
            .rev()
            .take(LAST)
            .map(|entry| format!("{} {}", time(entry.at), words(&entry.what)))
            .collect(),
        phases: report.phases.iter().map(phases).collect(),
        holders: holders(report),
        waits: report.waits.iter().map(wait).collect(),
        refused: report
            .refused
            .iter()
            .map(|refused| {
                let (who, about) = (refused.from.short(), about(&refused.about));
                format!("{} {about}, proposed by {who}: {}", time(refused.at), refused.why)
            })
            .collect(),
    }
}

fn holders(report: &GroupReport) -> Vec<HolderStatus> {
    let slots = (0u8..).zip(&report.slots);
    let holder = |slot: u8, (peer, belief, has, wanted): &(PeerKey, Belief, usize, usize)| HolderStatus {
        slot,
        peer: peer.short(),
        presence: presence(belief.presence).to_owned(),
        server: belief.class == Class::Server,
        silent_ms: belief.silent_ms,
        usual_ms: belief.usual_ms,
        shards: *has,
        of: *wanted,
    };
    slots.flat_map(|(slot, all)| all.iter().map(move |one| holder(slot, one))).collect()
}

fn wait(of: &Wait) -> WaitStatus {
    WaitStatus {
        about: about(&of.about),
        since_ms: of.since.0,
        turn_ms: of.turn.0,
        failures: of.failures,
        nobody: of.nobody,
    }
}

fn about(subject: &Subject) -> String {
    match subject {
        Subject::Slot(slot) => format!("slot {slot}"),
        Subject::Steward(peer) => format!("steward {}", peer.short()),
        Subject::Another => "one more steward".to_owned(),
        Subject::Apart => "a copy elsewhere".to_owned(),
    }
}

const fn presence(presence: Presence) -> &'static str {
    match presence {
        Presence::Here => "here",
        Presence::Late => "late",
        Presence::Away => "away",
        Presence::Gone => "gone",
        Presence::Left => "left",
    }
}

fn phases(of: &RepairPhases) -> PhasesStatus {
    PhasesStatus {
        order: short(&of.order),
        slot: of.slot.as_u8(),
        to: of.to.short(),
        rebuild: of.rebuild,
        shards: of.shards,
        silent_ms: of.silent.map(|at| at.0),
        wanted_ms: of.wanted.map(|at| at.0),
        proposed_ms: of.proposed.0,
        ordered_ms: of.ordered.0,
        ended_ms: of.ended.map(|(at, _)| at.0),
        came: of.ended.map(|(_, came)| match came {
            OrderEnd::Done => "done".to_owned(),
            OrderEnd::Nothing(why) => why_nothing(why.as_ref()),
        }),
    }
}

/// The beginning of an order's name.
fn short(order: &OrderId) -> String {
    order.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

fn why_nothing(why: Option<&Failure>) -> String {
    why.map_or_else(|| "nothing was heard".to_owned(), failure)
}

fn suspected(report: &GroupReport) -> Vec<String> {
    let named = report.suspects.named.iter().map(|named| format!("{}: {}", named.peer.short(), suspicion(named)));
    let names = |peers: &[PeerKey]| peers.iter().map(PeerKey::short).collect::<Vec<_>>().join(", ");
    let among = report.suspects.among.iter().map(|unresolved| {
        format!(
            "slot {} comes out wrong: {} sends wrong bytes, or {} says so of right ones; it is tried again when one more holder is there",
            unresolved.slot.as_u8(),
            match unresolved.helpers.as_slice() {
                [one] => one.short(),
                many => format!("one of {}", names(many)),
            },
            names(&unresolved.holders)
        )
    });
    named.chain(among).collect()
}

/// What is held against a peer that helped in rebuilds.
pub(super) fn suspicion(suspicion: &Suspicion) -> String {
    let who = match suspicion.domains {
        1 => "a new holder says".to_owned(),
        more => format!("new holders of {more} domains say"),
    };
    format!("{who} that it sent wrong bytes in a rebuild, last {}; others help before it", time(suspicion.last))
}

pub(super) fn planned(report: &GroupReport, plan: &PlannedRepair, weather: Weather) -> PlannedRepairStatus {
    let (action, from, to) = match &plan.action {
        Action::Copy { from, to, .. } => ("copy", vec![from.short()], Some(*to)),
        Action::Rebuild { helpers, to, .. } => {
            // Those beyond help only to find out who lies.
            let each = (plan.action.ordinals().len() * SHARD_SIZE) as u64;
            let chain = helpers.iter().take((plan.bytes / each.max(1)) as usize);
            ("rebuild", chain.map(|(_, helper)| helper.short()).collect(), Some(*to))
        }
        Action::Replace { old, new } => ("replace", vec![old.short()], Some(*new)),
        Action::Retire { old } => ("retire", vec![old.short()], None),
        Action::Enlist { new } => ("enlist", Vec::new(), Some(*new)),
    };
    PlannedRepairStatus {
        group: report.group.short(),
        action: action.to_owned(),
        slot: plan.action.slot().map(cairn_proto::Slot::as_u8),
        from,
        to: to.map(|to: PeerKey| to.short()),
        shards: plan.action.ordinals().len(),
        bytes: ByteSize(plan.bytes),
        priority: priority(plan.class).to_owned(),
        survival: plan.survival,
        why: plan.apart.as_ref().map(ToString::to_string).or_else(|| plan.beyond_quota.then(beyond_quota)),
        waits_for: waits_for(report, plan, weather),
    }
}

fn beyond_quota() -> String {
    "the group is critical, and nobody else is there than a newcomer that has its quota of the day".to_owned()
}

fn token_status(tokens: &TokenReport) -> TokenStatus {
    let TokenReport { slot, holder, left, used } = *tokens;
    let (slot, holder) = (slot.as_u8(), holder.short());
    let text = format!("slot {slot} at {holder} is audited by tokens: {used} were used and {left} are left");
    TokenStatus { slot, holder, left, used, text }
}

fn stuck_status(stuck: &Stuck) -> StuckStatus {
    StuckStatus {
        slot: stuck.slot.as_u8(),
        nobody: matches!(stuck.why, StuckWhy::Nobody { .. }),
        text: why_stuck(stuck),
    }
}

fn why_stuck(stuck: &Stuck) -> String {
    let slot = stuck.slot.as_u8();
    match stuck.why {
        StuckWhy::Nobody { unfit, colours } => {
            let known = match unfit {
                0 => format!("no other peer of colour {slot} is known"),
                1 => format!("the one other peer of colour {slot} is away, full, too new or not relied on"),
                more => format!("all {more} other peers of colour {slot} are away, full, too new or not relied on"),
            };
            let more = stuck.why.likely_with().unwrap_or(0);
            format!(
                "{known}; about one new domain in {colours} has it, so {more} more bring it with 95 %; or a lost holder returns"
            )
        }
        StuckWhy::Sources => "who has what it takes is away".to_owned(),
        StuckWhy::Quota => {
            "who may take it is a newcomer that has its quota of the day: it is given more tomorrow, or when the group is critical".to_owned()
        }
    }
}

/// A slot that is wanted, and for which nothing can be done.
pub(super) fn not_planned(report: &GroupReport, stuck: &Stuck) -> PlannedRepairStatus {
    PlannedRepairStatus {
        group: report.group.short(),
        action: "none".to_owned(),
        slot: Some(stuck.slot.as_u8()),
        from: Vec::new(),
        to: None,
        shards: 0,
        bytes: ByteSize(0),
        priority: priority(budget::priority(&report.assessment, report.group).class).to_owned(),
        survival: report.assessment.survival,
        why: None,
        waits_for: Some(why_stuck(stuck)),
    }
}

/// Why it is not ordered at the next look; budgets and turns are asked then only.
fn waits_for(report: &GroupReport, plan: &PlannedRepair, weather: Weather) -> Option<String> {
    let slot = plan.action.slot();
    let ordered = |entry: &&Happening| matches!(&entry.what, What::Ordered { slot: at, .. } if Some(*at) == slot.map(cairn_proto::Slot::as_u8));
    if weather.cut_off {
        return Some("this node may be cut off itself".to_owned());
    }
    if here(report) < report.quorum {
        let few = here(report) < half(report.stewards.len());
        let then =
            if few { "; those who are fill the places of the others, once these were silent for two days" } else { "" };
        return Some(format!("{} stewards, {} are here{then}", report.quorum, here(report)));
    }
    if slot.is_some() && weather.mass_failure && plan.class != Priority::Critical {
        return Some("many peers fell silent at once: only what is critical is repaired".to_owned());
    }
    if under_way(&report.log).iter().any(ordered) {
        return Some("an order for this slot that is under way".to_owned());
    }
    None
}

fn here(report: &GroupReport) -> usize {
    // We are one of them, and nothing is believed of ourselves.
    report.stewards.iter().filter(|(_, presence)| *presence <= Presence::Late).count()
}

/// Orders of the log with nothing after them that ends them.
fn under_way(log: &[Happening]) -> Vec<&Happening> {
    let ends = |order: &OrderId| {
        log.iter().any(|entry| match &entry.what {
            What::Repaired { order: ended, .. } | What::Failed { order: ended, .. } => ended == order,
            _ => false,
        })
    };
    log.iter().filter(|entry| matches!(&entry.what, What::Ordered { order, .. } if !ends(order))).collect()
}

fn words(what: &What) -> String {
    let count = |shards: &u16| if *shards == 1 { "1 shard".to_owned() } else { format!("{shards} shards") };
    match what {
        What::Adopted { generation } => format!("its owner's record {generation} was taken up"),
        What::Lacks { slot, holder, shards } => format!("{} lost {} of slot {slot}", holder.short(), count(shards)),
        What::Ordered { slot, to, rebuild, shards, .. } => {
            let how = if *rebuild { "rebuild" } else { "copy" };
            format!("{how} of {} of slot {slot} to {} was ordered", count(shards), to.short())
        }
        What::Repaired { slot, holder, shards, .. } => {
            format!("{} has {} of slot {slot}", holder.short(), count(shards))
        }
        What::Failed { order, why } => {
            format!("order {} came to nothing: {}", short(order), why_nothing(why.as_ref()))
        }
        What::Stewards { old: Some(old), new: Some(new) } => {
            format!("steward {} replaces {}", new.short(), old.short())
        }
        What::Stewards { old: Some(old), new: None } => format!("steward {} was lost", old.short()),
        What::Stewards { old: None, new: Some(new) } => format!("steward {} joined", new.short()),
        What::Stewards { old: None, new: None } => "stewards changed".to_owned(),
        What::NoPeer { slot } => format!("nobody is there to take slot {slot}"),
        What::NotShown { slot, holder, shards } => {
            format!("{} does not show {} of slot {slot} when it is audited", holder.short(), count(shards))
        }
        What::MapFull => "no more repairs can be noted until its owner's next backup".to_owned(),
    }
}

fn failure(failure: &Failure) -> String {
    match failure {
        Failure::Refused => "the new holder cannot take it".to_owned(),
        Failure::Missing(peer) => format!("{} could not be reached or did not have it", peer.short()),
        Failure::Wrong(Some(peer)) => format!("{} sent wrong bytes", peer.short()),
        Failure::Wrong(None) => "what came of it was wrong".to_owned(),
    }
}

const fn state(state: GroupState) -> &'static str {
    match state {
        GroupState::Healthy => "healthy",
        GroupState::Degraded => "degraded",
        GroupState::Critical => "critical",
        GroupState::Lost => "lost",
    }
}

const fn priority(class: Priority) -> &'static str {
    match class {
        Priority::Critical => "critical",
        Priority::High => "high",
        Priority::Normal => "normal",
        Priority::Low => "low",
    }
}

pub(crate) fn time(at: Timestamp) -> String {
    let told = i64::try_from(at.0).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    told.map_or_else(|| "?".to_owned(), |told| told.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}
