//! `cairn node leave`: makes, shows, follows and calls off a departure. The plan itself stands on disk, whoever looks at it.

use std::time::Duration;

use cairn_proto::ByteSize;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::service::{NodeService, send};
use crate::{
    failure::{ExitCode, Failure},
    holdings::report::LeaveStatus,
    ops::{Event, LeaveArgs, Outcome, Progress, VerbResult},
    stewardship::report::time,
};

/// Without another word.
const USUAL_MS: u64 = 24 * 3_600_000;
/// How often the departure is looked at when nothing seems to happen.
const LOOK: Duration = Duration::from_secs(2);

impl NodeService {
    pub(super) async fn leave(
        &self,
        args: LeaveArgs,
        events: &mpsc::Sender<Event>,
        cancel: &CancellationToken,
    ) -> VerbResult {
        if self.node().store().is_none() {
            return Err(super::folder::no_store(self.node().dir().root()));
        }
        let holdings = self.node().holdings();
        let before = self.leave_status().await?;
        let planned = matches!(before.state.as_str(), "leaving" | "done" | "over");
        if args.cancel {
            return self.stay(events).await;
        }
        if args.now && !args.yes {
            row(events, &before).await;
            return Err(needs_yes(&before));
        }
        if args.now || args.in_ms.is_some() || !planned {
            let within = if args.now { 0 } else { args.in_ms.unwrap_or(USUAL_MS) };
            holdings.leave(crate::vault::now().plus_ms(within));
        }
        row(events, &self.leave_status().await?).await;
        let text = "the plan stands until `cairn node leave --cancel`, also when this view is ended or the daemon is started again";
        send(events, Event::Notice { id: "LEAVING".into(), text: text.into() }).await;
        self.follow(events, cancel).await
    }

    async fn leave_status(&self) -> Result<LeaveStatus, Failure> {
        let holdings = self.node().holdings().clone();
        super::assemble::blocking(move || holdings.leave_status()).await
    }

    async fn stay(&self, events: &mpsc::Sender<Event>) -> VerbResult {
        if !self.node().holdings().stay() {
            let text = "no departure is planned, so there is none to call off";
            end(events, &self.leave_status().await?, text).await;
            return Ok(Outcome { code: ExitCode::NothingToDo });
        }
        end(events, &self.leave_status().await?, "this node stays, and takes shards again; its stewards are told")
            .await;
        Ok(Outcome { code: ExitCode::Success })
    }

    /// Until nothing is lost by going, or the time came.
    async fn follow(&self, events: &mpsc::Sender<Event>, cancel: &CancellationToken) -> VerbResult {
        let holdings = self.node().holdings();
        loop {
            let status = self.leave_status().await?;
            match status.state.as_str() {
                "done" => {
                    row(events, &status).await;
                    end(events, &status, &gone_text(&status)).await;
                    return Ok(Outcome { code: ExitCode::Success });
                }
                "over" => {
                    row(events, &status).await;
                    let text = format!(
                        "the time came: {} would have to be rebuilt by the others, {} of groups that nobody watches are their \
                         owners' to replace. Every hour that this node goes on serving helps; `cairn node leave` shows how far it is",
                        shards(status.shards_needed),
                        shards(status.shards_unwatched)
                    );
                    end(events, &status, &text).await;
                    return Ok(Outcome { code: ExitCode::BelowTarget });
                }
                "leaving" => {}
                _ => {
                    end(events, &status, "the departure was called off").await;
                    return Ok(Outcome { code: ExitCode::NothingToDo });
                }
            }
            let progress = Progress {
                phase: "leave".into(),
                percent_done: (status.groups > 0).then(|| status.groups_elsewhere as f64 / status.groups as f64),
                total_files: status.groups,
                files_done: status.groups_elsewhere,
                total_bytes: status.bytes,
                bytes_done: status.bytes.saturating_sub(status.shards_needed * cairn_proto::SHARD_SIZE as u64),
                ..Progress::default()
            };
            send(events, Event::Status(progress)).await;
            tokio::select! {
                () = cancel.cancelled() => {
                    return Err(Failure::new(ExitCode::Interrupted, "INTERRUPTED", "the view was ended, the plan stands")
                        .with_hint("`cairn node leave` shows it again, `cairn node leave --cancel` calls it off"));
                }
                () = holdings.did_something() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }
}

fn shards(count: u64) -> String {
    format!("{count} shard{}", if count == 1 { "" } else { "s" })
}

fn gone_text(status: &LeaveStatus) -> String {
    let at = status.at.map_or_else(|| "?".to_owned(), time);
    format!(
        "nothing is lost by going: others have all {} groups. The node serves until it is stopped, best not before {at}; its data is \
         left where it is: stop the daemon, then remove the folder `store` of its data folder to give the space back",
        status.groups
    )
}

fn needs_yes(status: &LeaveStatus) -> Failure {
    let text = format!(
        "to go now costs the others {}: {} in {} groups are nowhere else as far as is known",
        ByteSize(status.rebuild_bytes),
        shards(status.shards_needed + status.shards_unwatched),
        status.groups_needed + status.groups_unwatched
    );
    Failure::new(ExitCode::Refused, "NEEDS_YES", text)
        .with_hint("`cairn node leave --in 24h` lets them copy it first; add --yes to go now all the same")
}

async fn row(events: &mpsc::Sender<Event>, status: &LeaveStatus) {
    send(events, Event::Row { kind: "leave".into(), row: as_row(status) }).await;
}

fn as_row(status: &LeaveStatus) -> serde_json::Value {
    let mut row = serde_json::to_value(status).unwrap_or_default();
    row["time"] = status.at.map(time).into();
    row
}

async fn end(events: &mpsc::Sender<Event>, status: &LeaveStatus, text: &str) {
    let mut summary = as_row(status);
    summary["text"] = text.into();
    send(events, Event::Summary { verb: "leave".into(), summary }).await;
}
