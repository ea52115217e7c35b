//! `cairn plan`: what a promise takes in this network, from what was measured of it, what was given, or else assumed.

use cairn_core::{
    durability::{
        self, Infeasible, Measured, Missing, Question, Shape, Sla, Solution, classic,
        measured::{Observed, PEERS_ENOUGH, churn_of_departures, departures_of_churn},
        repairs::RepairFigures,
    },
    peer_view::PeerView,
    placement,
};
use cairn_proto::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::failure::ExitCode;

/// Arguments of [`crate::ops::Verb::Plan`]. Shares are 0..=1.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanArgs {
    /// bronze, silver, gold or platinum.
    pub sla: String,
    /// Bytes of user data.
    pub bytes: u64,
    /// Domains that can take shards; those that are known when `None`.
    pub domains: Option<u32>,
    /// Share of the peers that leaves within a month.
    pub churn: Option<f64>,
    /// Days from a death to full redundancy.
    pub repair_days: Option<f64>,
    /// Share of holders that come online within a day.
    pub online: Option<f64>,
    /// Share of peers that a common shock takes, one in ten years.
    pub shock: Option<f64>,
    /// Repair traffic a month, as a multiple of the user data.
    pub traffic_max: Option<f64>,
    /// Codes of any number of data shards, not of five alone.
    pub any_code: bool,
}

/// Where a figure comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum From {
    Given,
    Measured,
    Assumed,
}

/// A figure that the answer rests on.
#[derive(Clone, Debug, Serialize)]
struct Figure {
    figure: &'static str,
    value: String,
    from: From,
    note: String,
}

/// The answer: rows by kind, the summary, the exit code.
pub(crate) struct Plan {
    pub(crate) rows: Vec<(&'static str, Value)>,
    pub(crate) summary: Value,
    pub(crate) code: ExitCode,
}

/// Reckons. `peers`: everybody known, when the network was asked. `repairs`: what this node saw of them as a steward.
pub(crate) fn plan(
    args: &PlanArgs,
    sla: Sla,
    peers: Option<&[PeerView]>,
    repairs: &RepairFigures,
    now: Timestamp,
) -> Plan {
    let (measured, figures) = gather(args, peers, repairs, now);
    let question = Question {
        data_shards: if args.any_code { None } else { Some(5) },
        traffic_max: args.traffic_max,
        ..Question::new(sla, args.bytes)
    };
    let answer = durability::solve(&question, &measured);
    let mut rows: Vec<(&'static str, Value)> = Vec::new();
    let chosen = answer.as_ref().ok().map(|solution| solution.shape);
    let defaults = [Shape { k: 5, m: 3, r: 1 }, Shape { k: 5, m: 3, r: 2 }];
    let best = answer.as_ref().err().and_then(|infeasible| infeasible.best).map(|solution| solution.shape);
    let mut shown: Vec<Shape> = chosen.into_iter().chain(best).collect();
    shown.extend(defaults.into_iter().filter(|shape| Some(*shape) != chosen && Some(*shape) != best));
    for shape in shown {
        let Ok(solution) = durability::evaluate(shape, &question, &measured) else { continue };
        rows.push(("plan", plan_row(&solution, &question, &measured, chosen)));
    }
    rows.extend(figures.iter().map(|figure| ("plan_figure", serde_json::to_value(figure).unwrap_or_default())));
    rows.extend(classics(&question, &measured, answer.as_ref().ok()).map(|row| ("plan_classic", row)));
    let (says, missing) = match &answer {
        Ok(solution) => (kept(sla, solution, &measured), Vec::new()),
        Err(infeasible) => (not_kept(sla, infeasible), infeasible.missing.iter().map(what_would_do).collect()),
    };
    let summary = json!({
        "sla": sla,
        "bytes": args.bytes,
        "feasible": answer.is_ok(),
        "shape": chosen.map(|shape| shape.to_string()),
        "restorable_within_hours": measured.restore_within_hours,
        "answer": says,
        "missing": missing,
    });
    Plan { rows, summary, code: if answer.is_ok() { ExitCode::Success } else { ExitCode::TooFewPeers } }
}

fn gather(
    args: &PlanArgs,
    peers: Option<&[PeerView]>,
    repairs: &RepairFigures,
    now: Timestamp,
) -> (Measured, Vec<Figure>) {
    let observed = peers.map(|peers| Observed::of(peers, now)).unwrap_or_default();
    let seen = format!("{} departures in {:.0} peer-days", observed.departures, observed.peer_days);
    let mut figures = Vec::new();
    let mut tell = |figure, value: String, from, note: String| figures.push(Figure { figure, value, from, note });
    let (domains, from) = match (args.domains, peers) {
        (Some(domains), _) => (domains, From::Given),
        (None, Some(peers)) => (placement::domains_that_fit(peers) as u32, From::Measured),
        (None, None) => (0, From::Assumed),
    };
    tell("domains", domains.to_string(), from, "that can take shards".into());
    let assumed = Measured::assumed(domains);
    let (departures, from, note) = match (args.churn, observed.departures_at_most()) {
        (Some(churn), _) => (departures_of_churn(churn), From::Given, String::new()),
        (None, Some(rate)) => (rate, From::Measured, format!("{seen}; the bound that is right in 19 of 20 cases")),
        (None, None) => (assumed.departures_a_day, From::Assumed, format!("{seen} seen: too few to tell")),
    };
    tell("churn a month", per_cent(churn_of_departures(departures)), from, note);
    let (repair_days, from, note) = match (args.repair_days, repairs.mean_days_at_most) {
        (Some(days), _) => (days, From::Given, "from a death to full redundancy".into()),
        (None, Some(days)) => (days, From::Measured, repairs_seen(repairs)),
        (None, None) => {
            let note = format!("from a death to full redundancy; {} repairs seen: too few to tell", repairs.repairs);
            (assumed.repair_days, From::Assumed, note)
        }
    };
    tell("repair time", days_text(repair_days), from, note);
    let (online, from) = match (args.online, observed.online_within_a_day(PEERS_ENOUGH)) {
        (Some(online), _) => (online, From::Given),
        (None, Some(online)) => (online, From::Measured),
        (None, None) => (assumed.online_within, From::Assumed),
    };
    tell("online within a day", per_cent(online), from, "of the holders, at some time".into());
    let (share, from) = args.shock.map_or((assumed.shock_share, From::Assumed), |share| (share, From::Given));
    tell("common shock", per_cent(share), from, "of all peers at once, every ten years".into());
    let measured =
        Measured { departures_a_day: departures, repair_days, online_within: online, shock_share: share, ..assumed };
    (measured, figures)
}

/// What the measured time of repair rests on.
fn repairs_seen(repairs: &RepairFigures) -> String {
    let most = repairs.most_days.map_or(String::new(), |days| format!(", 19 of 20 within {}", days_text(days)));
    format!(
        "from a death to full redundancy, {} repairs seen and {} open: {} in the mean{most}; the bound of the mean that is right in 19 of \
         20 cases",
        repairs.repairs,
        repairs.open,
        days_text(repairs.mean_days)
    )
}

/// Half an hour is not 0.0 days.
fn days_text(days: f64) -> String {
    if days >= 1.0 { format!("{days:.1} days") } else { format!("{:.1} hours", days * 24.0) }
}

fn plan_row(solution: &Solution, question: &Question, measured: &Measured, chosen: Option<Shape>) -> Value {
    let miss = question.sla.miss();
    let fits = solution.domains <= measured.domains;
    let verdict = if Some(solution.shape) == chosen {
        "cheapest that keeps it"
    } else if !fits {
        "too few domains"
    } else if solution.loss() > miss {
        "too likely to lose"
    } else if solution.late > miss {
        "too likely to be late"
    } else if question.traffic_max.is_some_and(|max| solution.traffic > max) {
        "too much traffic"
    } else {
        "keeps it, dearer"
    };
    json!({
        "shape": solution.shape.to_string(),
        "peers": solution.shape.places(),
        "domains_needed": solution.domains,
        "expansion": round(solution.expansion),
        "traffic_a_month": round(solution.traffic),
        "loss_a_year": solution.loss(),
        "loss_independent": solution.loss_independent,
        "loss_shock": solution.loss_shock,
        "late": solution.late,
        "loss_text": chance(solution.loss()),
        "late_text": chance(solution.late),
        "verdict": verdict,
    })
}

/// The formulas that are often quoted, and what is wrong with their answers here.
fn classics<'a>(
    question: &'a Question,
    measured: &'a Measured,
    solved: Option<&'a Solution>,
) -> impl Iterator<Item = Value> + 'a {
    let churn = churn_of_departures(measured.departures_a_day);
    let dead = 1.0 - measured.online_within;
    let copies = classic::copies(question.sla, dead).map(|copies| ("log(1 - SLA) / log(p)", copies));
    let dynamic = classic::dynamic(5, churn, measured.domains);
    copies.into_iter().chain(std::iter::once(("5 (1 + churn / 10%) max(1, 100 / peers) + 2", dynamic))).map(
        move |(formula, copies)| {
            // Full copies are a code of one data shard: the chain says what they are worth.
            let full = Shape { k: 1, m: u8::try_from(copies.saturating_sub(1)).unwrap_or(u8::MAX), r: 1 };
            let fits = copies <= measured.domains.min(32);
            let reckoned = durability::evaluate(full, question, measured).ok().filter(|_| fits);
            let (fits, loss) = (reckoned.is_some(), reckoned.map_or(0.0, |solution| solution.loss()));
            let solved_cost = solved.map(|solution| solution.expansion);
            let verdict = classic::Verdict::of(copies, measured.domains.min(32), loss, f64::from(copies), question.sla, solved_cost);
            json!({ "formula": formula, "copies": copies, "loss_a_year": fits.then_some(loss), "verdict": verdict.to_string() })
        },
    )
}

fn kept(sla: Sla, solution: &Solution, measured: &Measured) -> String {
    format!(
        "{} keeps {sla}: {} peers of {} domains hold each group, {:.2} bytes are stored for each byte, repair moves {:.2} \
         times the data a month; anything is lost within a year with chance {}, not restorable within {:.0} h with {}",
        solution.shape,
        solution.shape.places(),
        measured.domains,
        solution.expansion,
        solution.traffic,
        chance(solution.loss()),
        measured.restore_within_hours,
        chance(solution.late),
    )
}

fn not_kept(sla: Sla, infeasible: &Infeasible) -> String {
    infeasible.best.map_or_else(
        || format!("nothing keeps {sla}: there are too few domains for any code"),
        |best| {
            format!(
                "nothing keeps {sla}; best reachable is {}: chance of loss within a year {}, of being late {}",
                best.shape,
                chance(best.loss()),
                chance(best.late)
            )
        },
    )
}

fn what_would_do(missing: &Missing) -> String {
    match missing {
        Missing::Domains { have, need } => format!("{need} independent peers instead of {have} would do"),
        Missing::RepairDays { have, need } => format!("repair within {need:.2} days instead of {have:.1} would do"),
        Missing::Traffic { have, need } => {
            format!("{need:.2} times the data in repair traffic a month instead of {have:.2} would do")
        }
    }
}

fn per_cent(share: f64) -> String {
    format!("{:.2} %", share * 100.0)
}

fn chance(chance: f64) -> String {
    if chance == 0.0 {
        "0".into()
    } else if chance > 0.9995 {
        "certain".into()
    } else if chance >= 0.001 {
        format!("{:.2} %", chance * 100.0)
    } else {
        format!("{chance:.1e}")
    }
}

fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(sla: &str) -> PlanArgs {
        PlanArgs {
            sla: sla.into(),
            bytes: 1_000_000_000_000,
            domains: None,
            churn: None,
            repair_days: None,
            online: None,
            shock: None,
            traffic_max: None,
            any_code: false,
        }
    }

    #[test]
    fn given_figures_need_no_network() {
        let given = PlanArgs { domains: Some(200), churn: Some(0.2), online: Some(0.999), ..args("gold") };
        let plan = plan(&given, Sla::Gold, None, &RepairFigures::default(), Timestamp(0));
        assert_eq!(plan.code, ExitCode::Success, "{}", plan.summary);
        let first = &plan.rows[0].1;
        assert_eq!(first["verdict"], "cheapest that keeps it");
        assert!(first["loss_a_year"].as_f64().expect("a number") <= 1e-4);
        let from: Vec<_> =
            plan.rows.iter().filter(|(kind, _)| *kind == "plan_figure").map(|(_, r)| &r["from"]).collect();
        assert_eq!(from, ["given", "given", "assumed", "given", "assumed"]);
        assert!(plan.rows.iter().any(|(kind, row)| *kind == "plan_classic" && row["verdict"] != "would do, by chance"));
    }

    /// A hundred repairs of an hour each go before the assumption of three days, nine do not, and what was given goes before both.
    #[test]
    fn measured_repairs_go_before_the_assumption_when_they_are_enough() {
        let seen = |count: usize| {
            let mut seen = cairn_core::durability::repairs::RepairTimes::default();
            (0..count).for_each(|_| seen.note(3_600_000));
            seen.figures()
        };
        let told = |args: &PlanArgs, repairs: &RepairFigures| {
            let plan = plan(args, Sla::Silver, None, repairs, Timestamp(0));
            let figure = plan.rows.iter().find(|(_, row)| row["figure"] == "repair time").expect("told").1.clone();
            (figure["from"].as_str().map(str::to_owned), figure["value"].to_string(), figure["note"].to_string())
        };
        let args = PlanArgs { domains: Some(200), ..args("silver") };
        let (from, value, note) = told(&args, &seen(9));
        assert_eq!((from.as_deref(), &value[..]), (Some("assumed"), "\"3.0 days\""));
        assert!(note.contains("9 repairs seen: too few"), "{note}");
        let (from, value, note) = told(&args, &seen(100));
        assert_eq!((from.as_deref(), &value[..]), (Some("measured"), "\"1.2 hours\""));
        assert!(note.contains("100 repairs seen and 0 open: 1.0 hours in the mean"), "{note}");
        let given = PlanArgs { repair_days: Some(2.0), ..args };
        assert_eq!(told(&given, &seen(100)).0.as_deref(), Some("given"));
    }

    #[test]
    fn what_is_missing_is_said() {
        let few = PlanArgs { domains: Some(12), ..args("platinum") };
        let plan = plan(&few, Sla::Platinum, None, &RepairFigures::default(), Timestamp(0));
        assert_eq!(plan.code, ExitCode::TooFewPeers);
        assert_eq!(plan.summary["feasible"], false);
        let missing = plan.summary["missing"].as_array().expect("a list");
        assert!(missing.iter().any(|m| m.as_str().is_some_and(|m| m.contains("independent peers"))), "{missing:?}");
    }

    #[test]
    fn chances_are_written_so_that_they_can_be_read() {
        assert_eq!(chance(0.0), "0");
        assert_eq!(chance(1.0), "certain");
        assert_eq!(chance(0.0123), "1.23 %");
        assert_eq!(chance(2.5e-7), "2.5e-7");
        assert_eq!(per_cent(0.05), "5.00 %");
    }
}
