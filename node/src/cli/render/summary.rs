//! The end of a verb and its progress as sentences.

use cairn_proto::ByteSize;
use serde_json::Value;

use super::rows;
use crate::ops::Progress;

/// What is printed when a verb is done.
pub(super) fn lines(verb: &str, summary: &Value) -> Vec<String> {
    let number = |key: &str| summary[key].as_u64();
    let bytes = |key: &str| number(key).map_or_else(|| "-".to_owned(), |b| ByteSize(b).to_string());
    match verb {
        "backup" => {
            let count = |key: &str| number(key).unwrap_or(0);
            let mut out = vec![
                format!(
                    "Files:  {} new, {} changed, {} unmodified",
                    count("files_new"),
                    count("files_changed"),
                    count("files_unmodified")
                ),
                format!(
                    "Read {} in {} files; new {}, packed {}, sent {}",
                    bytes("total_bytes_processed"),
                    count("total_files_processed"),
                    bytes("data_added"),
                    bytes("data_added_packed"),
                    bytes("bytes_sent")
                ),
            ];
            match summary["snapshot_id"].as_str() {
                Some(id) if summary["dry_run"].as_bool() != Some(true) => {
                    out.push(format!("snapshot {} saved", id.chars().take(8).collect::<String>()));
                }
                _ if summary["dry_run"].as_bool() == Some(true) => out.push("dry run: nothing was sent".into()),
                _ => out.push("no snapshot was made".into()),
            }
            out
        }
        // The rows were the answer.
        "snapshots" | "ls" | "find" | "dump" => Vec::new(),
        "peers" => vec![format!(
            "{} peers, {} of them store",
            rows::pairs(&summary["peers"]),
            rows::pairs(&summary["storage"])
        )],
        "debug-store" => vec![format!("{} shards, {}", rows::pairs(&summary["shards"]), bytes("bytes"))],
        "restore" => {
            let count = |key: &str| number(key).unwrap_or(0);
            let seconds = summary["seconds_elapsed"].as_f64().unwrap_or(0.0);
            let mut out = vec![format!(
                "Restored {} files and {} folders, {} in {seconds:.1} s",
                count("files_restored"),
                count("dirs_restored"),
                bytes("bytes_restored")
            )];
            if count("files_skipped") > 0 {
                out.push(format!("{} files were there already", count("files_skipped")));
            }
            if count("wrong_shards") > 0 {
                out.push(format!("{} damaged shards were noticed and replaced by others", count("wrong_shards")));
            }
            if count("files_lost") > 0 {
                out.push(format!(
                    "{} files cannot be restored now: too few of their shards are left",
                    count("files_lost")
                ));
            }
            out
        }
        _ => rows::block(summary),
    }
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
    if p.bytes_sent > 0 {
        parts.push(format!("{} sent", ByteSize(p.bytes_sent)));
    }
    if p.elapsed_ms >= 1000 && p.bytes_done > 0 {
        parts.push(format!("{}/s", ByteSize(p.bytes_done.saturating_mul(1000) / p.elapsed_ms)));
    }
    parts.join(", ")
}
