//! Rows of the listing verbs as text: tables, or lines of their own kind.

use cairn_proto::ByteSize;
use serde_json::Value;

use super::{
    table,
    values::{moment, pairs, plain, printable, short_id, time},
};

/// One row; mostly one line. `long` is `ls -l`.
pub(super) fn row(kind: &str, row: &Value, long: bool) -> Vec<String> {
    if let Some(line) = table::row(kind, row) {
        return std::iter::once(line).chain(below(kind, row)).collect();
    }
    match kind {
        "node" => vec![entry(row, long)],
        "match" => vec![format!("{}  {}", short_id(row["snapshot"].as_str().unwrap_or("-")), entry(row, long))],
        "change" => vec![format!("{:<4} {}", row["modifier"].as_str().unwrap_or("?"), plain(&row["path"]))],
        "this_node" => this_node(row),
        "watching" => vec![format!(
            "Watching {} groups for absent owners, {} of them healthy, {} with all slots audited",
            plain(&row["groups"]),
            plain(&row["healthy"]),
            plain(&row["audited"])
        )],
        "auditing" => vec![format!(
            "Auditing {} shards at {} holders: {} right answers in the last day, {} unanswered, {} missing",
            plain(&row["shards"]),
            plain(&row["holders"]),
            plain(&row["good"]),
            plain(&row["silent"]),
            plain(&row["missing"])
        )],
        "leave" => leave(row),
        "health" => {
            vec![format!("{:<6} {:<9} {}", plain(&row["verdict"]), plain(&row["about"]), plain(&row["text"]))]
        }
        "happening" => vec![format!(
            "{}  group {}: {}",
            time(row["time"].as_str().unwrap_or("-")),
            plain(&row["group"]),
            plain(&row["text"])
        )],
        _ => vec![pairs(row)],
    }
}

/// What is said of a row below it.
fn below(kind: &str, row: &Value) -> Vec<String> {
    let said = match kind {
        "watched_group" => {
            let of = |key: &str| row[key].as_array().cloned().unwrap_or_default();
            let leans = of("leaning")
                .into_iter()
                .map(|slot| Value::from(format!("slot {slot} lies in its owner's fallback storage")));
            let tokens = of("by_tokens").into_iter().map(|tokens| tokens["text"].clone());
            [of("too_close"), of("suspected"), leans.collect(), tokens.collect()].concat()
        }
        "planned_repair" => vec![row["why"].clone()],
        _ => Vec::new(),
    };
    said.iter().filter_map(Value::as_str).map(|text| format!("          {}", printable(text))).collect()
}

/// How a departure goes.
fn leave(row: &Value) -> Vec<String> {
    let figure = |key: &str| plain(&row[key]);
    let bytes = |key: &str| ByteSize(row[key].as_u64().unwrap_or(0)).to_string();
    let state = match row["state"].as_str() {
        Some("none") => "no departure is planned".to_owned(),
        Some("staying") => "the departure was called off, the stewards are being told".to_owned(),
        Some("done") => "nothing is lost by going".to_owned(),
        _ => format!("gone for good from {}", time(row["time"].as_str().unwrap_or("-"))),
    };
    let mut out = vec![
        format!("Plan      {state}"),
        format!("Holds     {} shards of {} groups, {}", figure("shards"), figure("groups"), bytes("bytes")),
        format!(
            "Stewards  {}; in {} groups a majority of them knows of the departure",
            figure("stewards"),
            figure("groups_told")
        ),
        format!(
            "Elsewhere {} groups; {} groups with {} shards are still needed here",
            figure("groups_elsewhere"),
            figure("groups_needed"),
            figure("shards_needed")
        ),
    ];
    if row["groups_unwatched"].as_u64().unwrap_or(0) > 0 {
        out.push(format!(
            "Unwatched {} groups with {} shards: no steward of them is known, so nobody moves them; only their owners do",
            figure("groups_unwatched"),
            figure("shards_unwatched")
        ));
    }
    if row["rebuild_bytes"].as_u64().unwrap_or(0) > 0 {
        out.push(format!("Cost      {} for the others to rebuild if it went now", bytes("rebuild_bytes")));
    }
    out
}

/// A file or folder: its path, or what `ls -l` would show.
fn entry(row: &Value, long: bool) -> String {
    let path = plain(&row["path"]);
    if !long {
        return path;
    }
    let owner =
        |name: &str, id: &str| row[name].as_str().filter(|n| !n.is_empty()).map_or_else(|| plain(&row[id]), printable);
    let size = ByteSize(row["size"].as_u64().unwrap_or(0)).to_string();
    let target = row["link_target"].as_str().map_or_else(String::new, |t| format!(" -> {}", printable(t)));
    format!(
        "{}  {:<8} {:<8} {size:>10}  {}  {path}{target}",
        row["permissions"].as_str().unwrap_or("?"),
        owner("user", "uid"),
        owner("group", "gid"),
        time(row["mtime"].as_str().unwrap_or("-")),
    )
}

/// How the node uses its line.
fn line(courtesy: &Value) -> Vec<String> {
    if !courtesy.is_object() {
        return Vec::new();
    }
    let rate = |bytes: u64| format!("{}/s", ByteSize(bytes));
    let limit = |key: &str| courtesy[key].as_u64().map_or_else(|| "no limit".to_owned(), rate);
    let until = match courtesy["changes_in_minutes"].as_u64() {
        Some(minutes) if minutes >= 120 => format!(", for {} h {} min more", minutes / 60, minutes % 60),
        Some(minutes) => format!(", for {minutes} min more"),
        None => String::new(),
    };
    let why = match courtesy["timetable_row"].as_u64() {
        Some(row) => format!(" (row {} of the timetable)", row + 1),
        None => String::new(),
    };
    let carries = courtesy["upstream"].as_u64().map_or_else(String::new, rate);
    let how = if courtesy["upstream_measured"] == true { "measured" } else { "assumed" };
    let mut out = vec![format!(
        "Line      up {}, down {}{why}{until}; it carries {carries} up ({how})",
        limit("limit_up"),
        limit("limit_down")
    )];
    if courtesy["paused"] == true {
        let until = courtesy["paused_until"].as_u64();
        let until = until.map_or_else(|| "`cairn node resume`".to_owned(), |until| format!("{} UTC", moment(until)));
        out.push(format!(
            "Paused    until {until}: it serves nobody and takes no part; own backups and restores go on"
        ));
    }
    out
}

/// What `cairn status` says of the node itself.
fn this_node(row: &Value) -> Vec<String> {
    let id = |key: &str| short_id(row[key].as_str().unwrap_or("-"));
    let runs = match row["daemon"].as_bool() {
        Some(true) => format!("runs as process {}", plain(&row["pid"])),
        _ => "no daemon runs on this data folder".to_owned(),
    };
    let mut out = vec![
        format!("Node      {}, cairn {}; {runs}", id("peer"), plain(&row["version"])),
        format!(
            "Network   {} ({}): {} peers known, {} of them store",
            plain(&row["network"]),
            id("network_id"),
            plain(&row["peers"]),
            plain(&row["storage_peers"])
        ),
        format!(
            "Domain    {}{}",
            plain(&row["domain"]),
            row["region"]
                .as_str()
                .filter(|r| !r.is_empty())
                .map_or_else(String::new, |r| format!(", region {}", printable(r)))
        ),
    ];
    if row["roles"].as_array().is_some_and(|roles| !roles.is_empty()) {
        out.push(format!("Roles     {}", plain(&row["roles"])));
    }
    for (at, address) in row["addresses"].as_array().into_iter().flatten().enumerate() {
        out.push(format!("{:<9} {}", if at == 0 { "Listens" } else { "" }, plain(address)));
    }
    let store = &row["store"];
    if store.is_object() {
        let bytes = |key: &str| ByteSize(store[key].as_u64().unwrap_or(0)).to_string();
        out.push(format!(
            "Store     {} shards, {} of {} given; {} free, {} in the trash, {} on the disk",
            plain(&store["shards"]),
            bytes("live_bytes"),
            bytes("pledged_bytes"),
            bytes("free_bytes"),
            bytes("trash_bytes"),
            bytes("disk_bytes")
        ));
    }
    out.extend(line(&row["courtesy"]));
    out
}
