//! The end of a verb and its progress as sentences.

use cairn_proto::ByteSize;
use serde_json::Value;

use super::values::{block, moment, plain, short_id, time};
use crate::ops::Progress;

/// `1 group`, `2 groups`.
fn many(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// Reads a summary's figures; one that is missing counts as none.
struct Figures<'a>(&'a Value);

impl Figures<'_> {
    fn count(&self, key: &str) -> u64 {
        self.0[key].as_u64().unwrap_or(0)
    }

    fn bytes(&self, key: &str) -> String {
        ByteSize(self.count(key)).to_string()
    }

    fn seconds(&self, key: &str) -> f64 {
        self.0[key].as_f64().unwrap_or(0.0)
    }

    fn id(&self, key: &str) -> Option<String> {
        self.0[key].as_str().map(short_id)
    }

    /// What was put into words already.
    fn lines(&self) -> Vec<String> {
        self.0["lines"].as_array().into_iter().flatten().map(plain).collect()
    }

    fn is(&self, key: &str) -> bool {
        self.0[key].as_bool() == Some(true)
    }
}

/// What is printed when a verb is done.
pub(super) fn lines(verb: &str, summary: &Value) -> Vec<String> {
    let f = Figures(summary);
    match verb {
        "backup" => backup(&f),
        "restore" => restore(&f),
        "check" => check(&f),
        "audit" => audit(&f),
        "audit-make-token" => made_tokens(&f),
        "audit-token" => used_tokens(&f),
        "status" => status(&f),
        "stats" => stats(&f),
        "explain" | "verify" => f.lines(),
        "recover" => recover(&f),
        "diff" => vec![format!(
            "{} added, {} removed, {} changed",
            total(&f, "added"),
            total(&f, "removed"),
            f.count("changed")
        )],
        "debug-placement" => vec![format!(
            "{} with {} colours, strategy {}{}",
            plain(&summary["code"]),
            f.count("colours"),
            plain(&summary["strategy"]),
            match summary["relaxations"].as_array() {
                Some(relaxed) if !relaxed.is_empty() => format!("; relaxed: {}", plain(&summary["relaxations"])),
                _ => String::new(),
            }
        )],
        "peers" => vec![format!("{}, {} of them store", many(f.count("peers"), "peer"), f.count("storage"))],
        "plan" => plan(&f),
        "leave" => vec![plain(&summary["text"])],
        "health" => vec![plain(&summary["text"])],
        "repair" => vec![match f.count("planned") {
            0 if f.count("stuck") > 0 => format!(
                "{} watched, nothing that can be repaired now: {} above",
                many(f.count("groups"), "group"),
                many(f.count("stuck"), "slot")
            ),
            0 => format!("{} watched, nothing to repair", many(f.count("groups"), "group")),
            planned => format!(
                "{} for {} watched, {} to move; it goes on by itself",
                many(planned, "step"),
                many(f.count("groups"), "group"),
                f.bytes("bytes")
            ),
        }],
        "pause" => vec![pause(&f)],
        "debug-store" => vec![format!("{}, {}", many(f.count("shards"), "shard"), f.bytes("bytes"))],
        "lab" => vec![format!(
            "{} of {} nodes up; network file {}",
            f.count("up"),
            f.count("nodes"),
            plain(&summary["network"])
        )],
        // The rows were the answer.
        "snapshots" | "ls" | "find" | "dump" => Vec::new(),
        _ => block(summary),
    }
}

/// What is said on stderr when a listing has nothing: silence would look like a verb that did not work.
pub(super) fn nothing(verb: &str, summary: &Value) -> Option<&'static str> {
    let f = Figures(summary);
    match verb {
        "snapshots" if f.count("snapshots") == 0 => Some("no snapshots"),
        "find" if f.count("matches") == 0 => Some("nothing matches"),
        "ls" if f.count("entries") == 0 => Some("an empty folder"),
        _ => None,
    }
}

fn pause(f: &Figures<'_>) -> String {
    let when = if f.is("node_runs") { "" } else { " when it runs" };
    match (f.is("paused"), f.0["until_ms"].as_u64()) {
        (false, _) => format!("the node takes part{when}"),
        (true, None) => format!("the node is paused{when}, until `cairn node resume`"),
        (true, Some(until)) => format!("the node is paused{when}, until {} UTC", moment(until)),
    }
}

fn plan(f: &Figures<'_>) -> Vec<String> {
    let missing = f.0["missing"].as_array().into_iter().flatten();
    std::iter::once(&f.0["answer"]).chain(missing).map(plain).collect()
}

/// A count that is a number, or the sum of an object's counts of entries.
fn total(f: &Figures<'_>, key: &str) -> u64 {
    match &f.0[key] {
        Value::Object(map) => ["files", "dirs", "others"].iter().filter_map(|k| map.get(*k)?.as_u64()).sum(),
        other => other.as_u64().unwrap_or(0),
    }
}

fn backup(f: &Figures<'_>) -> Vec<String> {
    let mut out = vec![
        format!(
            "Files:  {} new, {} changed, {} unmodified",
            f.count("files_new"),
            f.count("files_changed"),
            f.count("files_unmodified")
        ),
        format!(
            "Read {} in {}; new {}, packed {}, sent {}",
            f.bytes("total_bytes_processed"),
            many(f.count("total_files_processed"), "file"),
            f.bytes("data_added"),
            f.bytes("data_added_packed"),
            f.bytes("bytes_sent")
        ),
    ];
    if f.count("errors") > 0 {
        out.push(format!("{} entries could not be read; they are named above", f.count("errors")));
    }
    if f.count("stripes_below_target") > 0 {
        out.push(format!(
            "{} stripes have fewer shards than they should; the next backup completes them",
            f.count("stripes_below_target")
        ));
    }
    if f.count("groups_watched") > 0 {
        let (fewest, most) = (f.count("stewards_fewest"), f.count("stewards_most"));
        let by = if fewest == most { most.to_string() } else { format!("{fewest} to {most}") };
        out.push(format!(
            "{} watched by {by} peers while this machine is away",
            match (f.count("groups_watched"), f.count("groups")) {
                (watched, groups) if watched < groups => format!("{watched} of {groups} groups are"),
                (1, _) => "1 group is".to_owned(),
                (all, _) => format!("{all} groups are"),
            }
        ));
    }
    out.push(match f.id("snapshot_id") {
        _ if f.is("dry_run") => "dry run: nothing was sent".to_owned(),
        Some(id) => format!("snapshot {id} saved in {:.1} s", f.seconds("total_duration")),
        None => "nothing changed: no snapshot was made".to_owned(),
    });
    out
}

fn restore(f: &Figures<'_>) -> Vec<String> {
    let (files, folders, bytes) = (f.count("files_restored"), f.count("dirs_restored"), f.bytes("bytes_restored"));
    let mut out = vec![match f.is("dry_run") {
        true => format!("dry run: would restore {}, {bytes}; nothing was written", many(files, "file")),
        false => {
            format!(
                "Restored {} and {}, {bytes} in {:.1} s",
                many(files, "file"),
                many(folders, "folder"),
                f.seconds("seconds_elapsed")
            )
        }
    }];
    let mut note = |key: &str, text: &str| {
        if f.count(key) > 0 {
            out.push(format!("{} {text}", f.count(key)));
        }
    };
    note("files_skipped", "entries were there already");
    note("owners_kept", "entries belong to you, because only root may give them to their owners");
    note("wrong_shards", "damaged shards were noticed and replaced by others");
    note("files_lost", "files cannot be restored now: too few of their shards are left; they are named above");
    let failed = f.count("errors").saturating_sub(f.count("files_lost"));
    if failed > 0 {
        out.push(format!("{failed} entries could not be written; they are named above"));
    }
    out
}

fn check(f: &Figures<'_>) -> Vec<String> {
    let read = match f.count("stripes_read") {
        0 => "no data read (--read-data reads it)".to_owned(),
        read => format!("{read} read and verified, {}", f.bytes("bytes_fetched")),
    };
    let mut out = vec![format!(
        "{} in {} checked in {:.1} s; {read}",
        many(f.count("stripes"), "stripe"),
        many(f.count("groups"), "group"),
        f.seconds("total_duration")
    )];
    let before = out.len();
    let mut note = |key: &str, text: &str| {
        if f.count(key) > 0 {
            out.push(format!("{} {text}", f.count(key)));
        }
    };
    note("holders_unreachable", "holders did not answer");
    note("shards_missing", "shards are missing");
    note("shards_wrong", "shards are damaged");
    note("stripes_below_target", "stripes have fewer shards than they should; the next backup completes them");
    note("stripes_lost", "stripes are lost: fewer shards are left than are needed");
    note("files_lost", "files are lost with them; they are named above");
    if out.len() == before && f.count("num_errors") == 0 {
        out.push("no errors were found".to_owned());
    }
    out
}

fn audit(f: &Figures<'_>) -> Vec<String> {
    let asked = ["right", "missing", "wrong", "silent"].iter().map(|key| f.count(key)).sum::<u64>();
    // A shard that two holders have is asked for at both.
    let mut out = vec![format!(
        "{} asked for {} of the {} in {}, {} in {:.1} s: {} right",
        many(f.count("holders"), "holder"),
        f.count("asked_shards"),
        many(f.count("shards"), "shard"),
        many(f.count("stripes"), "stripe"),
        many(asked, "question"),
        f.seconds("total_duration"),
        f.count("right")
    )];
    let mut note = |key: &str, text: &str| {
        if f.count(key) > 0 {
            out.push(format!("{} {text}", f.count(key)));
        }
    };
    note("missing", "missing: their holders say so themselves");
    note("wrong", "answered wrongly: the holder signed what is not so, and the proof is kept");
    note("silent", "not answered, so nothing is known of them");
    note("shards_without_holder", "shards have no holder that is known");
    note("unread", "entries cannot be told where they lie; they are named above");
    if f.count("missing") + f.count("wrong") > 0 {
        out.push("`cairn check` counts what is left; the next backup completes it".to_owned());
    }
    if let Some(share) = f.0["found_share"].as_f64() {
        out.push(format!(
            "Had a holder that answered dropped {:.1} % or more of its shards, one would have been found missing with {:.0} %",
            share * 100.0,
            f.seconds("confidence") * 100.0
        ));
    }
    out
}

fn made_tokens(f: &Figures<'_>) -> Vec<String> {
    let mut out = vec![format!(
        "{} for {} shards written to {}, {} fetched",
        many(f.count("tokens"), "token"),
        f.count("shards"),
        plain(&f.0["file"]),
        f.bytes("bytes_fetched")
    )];
    if f.count("failed") > 0 {
        out.push(format!("{} shards could not be had; they are named above", f.count("failed")));
    }
    out.push(
        "Whoever has the file can ask once with each token; it opens nothing. Give it to nobody who holds shards"
            .to_owned(),
    );
    out
}

fn used_tokens(f: &Figures<'_>) -> Vec<String> {
    let mut out = vec![format!("{} used: {} right", many(f.count("tokens"), "token"), f.count("right"))];
    let mut note = |key: &str, text: &str| {
        if f.count(key) > 0 {
            out.push(format!("{} {text}", f.count(key)));
        }
    };
    note("missing", "shards are missing: their holders say so themselves");
    note("mismatch", "digests are wrong: the holder has other bytes, or the token's maker erred");
    note("silent", "tokens were not answered by anybody, so nothing is known of their shards");
    note("used_before", "tokens were used before and not again: the holder may have kept the answer");
    note("left", "tokens are left");
    if let Some(share) = f.0["found_share"].as_f64() {
        out.push(format!(
            "Had {:.1} % or more of the {} been gone, one would have been found with {:.0} %, if whoever made the tokens drew them \
             by lot",
            share * 100.0,
            many(f.count("shards"), "shard"),
            f.seconds("confidence") * 100.0
        ));
    }
    out
}

fn status(f: &Figures<'_>) -> Vec<String> {
    if f.is("locked") {
        return vec!["Vault     locked".to_owned()];
    }
    let Some(vault) = f.id("vault") else {
        return vec!["Vault     none here; `cairn init` makes one, `cairn recover` brings one back".to_owned()];
    };
    let latest = match (f.id("latest_snapshot"), f.0["latest_time"].as_str()) {
        (Some(id), Some(at)) => format!(", the latest is {id} of {} UTC", time(at)),
        _ => String::new(),
    };
    let mut out = vec![format!("Vault     {vault}: {}{latest}", many(f.count("snapshots_count"), "snapshot"))];
    if let Some(margin) = f.0["lowest_margin"].as_i64() {
        out.push(match margin {
            ..0 => "Margin    lost: a group has fewer slots alive than are needed; `cairn check` names the files"
                .to_owned(),
            0 => "Margin    0: the next holder that is lost takes data with it".to_owned(),
            more => format!(
                "Margin    {more}: the weakest of {} can lose {}",
                many(f.count("groups"), "group"),
                many(more.unsigned_abs(), "slot")
            ),
        });
    }
    if f.count("stripes_below_target") > 0 {
        out.push(format!(
            "          {} stripes wait for the next backup to complete them",
            f.count("stripes_below_target")
        ));
    }
    out
}

fn stats(f: &Figures<'_>) -> Vec<String> {
    vec![
        format!(
            "Snapshots {}: {}, {} in all",
            f.count("snapshots_count"),
            many(f.count("total_file_count"), "file"),
            f.bytes("total_size")
        ),
        format!(
            "Kept      {} in {} different chunks, {} compressed (ratio {:.2})",
            f.bytes("total_uncompressed_size"),
            f.count("total_blob_count"),
            f.bytes("stored_size"),
            f.seconds("compression_ratio")
        ),
        format!(
            "Network   {} in {}, {}, {} ({:.2} times what is kept)",
            f.bytes("shard_bytes"),
            many(f.count("shards"), "shard"),
            many(f.count("stripes"), "stripe"),
            many(f.count("groups"), "group"),
            f.seconds("expansion")
        ),
    ]
}

fn recover(f: &Figures<'_>) -> Vec<String> {
    let mut out =
        vec![format!("Recovered: {}, {} fetched", many(f.count("snapshots"), "snapshot"), f.bytes("bytes_fetched"))];
    if f.count("wrong_shards") > 0 {
        out.push(format!("{} damaged shards were noticed and replaced by others", f.count("wrong_shards")));
    }
    out.push("`cairn snapshots` lists them, `cairn restore latest --target DIR` restores".to_owned());
    out
}

/// A line for logs.
pub(super) fn progress_line(p: &Progress) -> String {
    let percent = p.percent_done.map_or_else(String::new, |d| format!(" {:.0} %", d * 100.0));
    format!("{}{percent}: {}", p.phase, progress_text(p))
}

/// What stands beside the bar.
pub(super) fn progress_text(p: &Progress) -> String {
    let mut parts = Vec::new();
    if p.total_files > 0 {
        parts.push(format!("{}/{} files", p.files_done, p.total_files));
    } else if p.files_done > 0 {
        parts.push(format!("{} files", p.files_done));
    }
    if p.total_bytes > 0 {
        parts.push(format!("{} of {}", ByteSize(p.bytes_done), ByteSize(p.total_bytes)));
    } else if p.bytes_done > 0 {
        parts.push(ByteSize(p.bytes_done).to_string());
    }
    if p.elapsed_ms >= 1000 && p.bytes_done > 0 {
        parts.push(format!("{}/s", ByteSize(p.bytes_done.saturating_mul(1000) / p.elapsed_ms)));
    }
    if p.bytes_sent > 0 {
        let way = if ["backup", "commit"].contains(&p.phase.as_str()) { "sent" } else { "fetched" };
        parts.push(format!("{} {way}", ByteSize(p.bytes_sent)));
    }
    parts.join(", ")
}
