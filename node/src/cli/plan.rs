//! `cairn plan`

use cairn_core::durability::{Sla, repairs::RepairFigures};
use cairn_proto::ByteSize;
use clap::Args;

use super::{Context, execute, render::Renderer};
use crate::{
    failure::{ExitCode, Failure},
    ops::{Event, Verb},
    plan::{PlanArgs, plan},
};

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  cairn plan --sla gold                          with what this node knows of its network\n  \
    cairn plan --sla platinum --size 500GB --churn 20% --repair-time 1d\n  \
    cairn plan --sla gold --domains 64             without a network"
)]
pub(super) struct Plan {
    /// bronze (99 %), silver (99.9 %), gold (99.99 %) or platinum (99.999 %): of backups like this one, the share that loses
    /// nothing in a year
    #[arg(long, value_name = "SLA")]
    sla: Sla,
    /// Size of the data
    #[arg(long, value_name = "SIZE", default_value = "1TB")]
    size: ByteSize,
    /// Independent peers that can take shards [default: those that are known]; with it no network is asked
    #[arg(long, value_name = "N")]
    domains: Option<u32>,
    /// Peers that leave for good within a month, as `5%` [default: measured]
    #[arg(long, value_name = "SHARE", value_parser = share)]
    churn: Option<f64>,
    /// From a peer's death to full redundancy, as `36h` or `3d`
    #[arg(long, value_name = "TIME", value_parser = days)]
    repair_time: Option<f64>,
    /// Holders that come online within a day, as `95%` [default: measured]
    #[arg(long, value_name = "SHARE", value_parser = share)]
    online: Option<f64>,
    /// Peers that go at once in a common shock, which is reckoned with every ten years
    #[arg(long, value_name = "SHARE", value_parser = share)]
    shock: Option<f64>,
    /// Most repair traffic a month, as a multiple of the data
    #[arg(long, value_name = "TIMES")]
    traffic_max: Option<f64>,
    /// Any code of 3 to 10 data shards, not only of 5
    #[arg(long)]
    any_code: bool,
}

pub(super) async fn run(context: &Context, command: Plan) -> Result<ExitCode, Failure> {
    let args = PlanArgs {
        sla: command.sla.name().to_owned(),
        bytes: command.size.0,
        domains: command.domains,
        churn: command.churn,
        repair_days: command.repair_time,
        online: command.online,
        shock: command.shock,
        traffic_max: command.traffic_max,
        any_code: command.any_code,
    };
    if args.domains.is_none() {
        return execute::verb(context, Verb::Plan(args)).await;
    }
    // Seconds of arithmetic where nothing keeps the promise.
    let sla = command.sla;
    let reckoned = tokio::task::spawn_blocking(move || {
        plan(&args, sla, None, &RepairFigures::default(), cairn_proto::Timestamp(0))
    })
    .await;
    let reckoned = reckoned.map_err(|e| Failure::new(ExitCode::Failed, "PANIC", "cannot reckon").caused_by(&e))?;
    let mut renderer = Renderer::new(context.output(), false);
    for (kind, row) in reckoned.rows {
        renderer.show(&Event::Row { kind: kind.into(), row });
    }
    renderer.show(&Event::Summary { verb: "plan".into(), summary: reckoned.summary });
    renderer.finish();
    Ok(reckoned.code)
}

/// `5%` or `0.05`.
fn share(text: &str) -> Result<f64, String> {
    let wrong = || "a share is written as 5% or 0.05".to_owned();
    let value = match text.strip_suffix('%') {
        Some(percent) => percent.trim().parse::<f64>().map_err(|_| wrong())? / 100.0,
        None => text.parse::<f64>().map_err(|_| wrong())?,
    };
    if (0.0..=1.0).contains(&value) { Ok(value) } else { Err("a share is between 0% and 100%".to_owned()) }
}

/// `36h` or `3d`, in days.
fn days(text: &str) -> Result<f64, String> {
    let (number, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len()));
    let number: f64 = number.trim().parse().map_err(|_| "a time is written as 36h or 3d".to_owned())?;
    let days = match unit {
        "h" => number / 24.0,
        "d" => number,
        "w" => number * 7.0,
        _ => return Err("a time is written as 36h or 3d".to_owned()),
    };
    if (0.01..=1000.0).contains(&days) { Ok(days) } else { Err("a repair takes between 15m and 1000d".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_times_are_checked() {
        assert_eq!(share("5%"), Ok(0.05));
        assert_eq!(share("0.2"), Ok(0.2));
        assert!(["", "%", "x", "-1%", "101%", "NaN", "2"].iter().all(|text| share(text).is_err()));
        assert_eq!(days("36h"), Ok(1.5));
        assert_eq!(days("3d"), Ok(3.0));
        assert!(["", "3", "3y", "d", "0d", "-3d", "1e9d"].iter().all(|text| days(text).is_err()));
    }
}
