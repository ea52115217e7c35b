//! Rows of the listing verbs as text: columns of fixed width, so that rows can be printed as they come and a listing
//! of a million entries needs no memory.

use cairn_proto::ByteSize;
use serde_json::Value;

/// How a value is written.
#[derive(Clone, Copy)]
enum Form {
    Text,
    Short,
    Bytes,
    Right,
    List,
}

struct Column {
    title: &'static str,
    key: &'static str,
    width: usize,
    form: Form,
}

const fn column(title: &'static str, key: &'static str, width: usize, form: Form) -> Column {
    Column { title, key, width, form }
}

const SNAPSHOT: &[Column] = &[
    column("ID", "short_id", 8, Form::Text),
    column("TIME", "time", 24, Form::Text),
    column("HOST", "hostname", 14, Form::Text),
    column("TAGS", "tags", 12, Form::List),
    column("FILES", "total_files", 8, Form::Right),
    column("SIZE", "total_bytes", 10, Form::Bytes),
    column("PATHS", "paths", 0, Form::List),
];
const PEER: &[Column] = &[
    column("PEER", "peer", 8, Form::Short),
    column("DOMAIN", "domain", 22, Form::Text),
    column("REGION", "region", 14, Form::Text),
    column("ROLES", "roles", 16, Form::List),
    column("GIVES", "give", 10, Form::Bytes),
    column("FREE", "free", 10, Form::Bytes),
    column("RTT MS", "rtt_ms", 6, Form::Right),
    column("REACHABLE", "reachable", 0, Form::Text),
];
const SHARD: &[Column] = &[
    column("GROUP", "group", 8, Form::Short),
    column("SLOT", "slot", 4, Form::Right),
    column("STRIPE", "ordinal", 6, Form::Right),
    column("ROOT", "root", 8, Form::Short),
    column("BYTES", "bytes", 10, Form::Bytes),
    column("LEASE", "lease", 20, Form::Text),
    column("STATE", "state", 0, Form::Text),
];

const CANDIDATE: &[Column] = &[
    column("PEER", "peer", 8, Form::Short),
    column("DOMAIN", "domain", 22, Form::Text),
    column("REGION", "region", 14, Form::Text),
    column("COLOUR", "colour", 6, Form::Right),
    column("RANK", "rank", 4, Form::Right),
    column("VERDICT", "why", 0, Form::Text),
];
const GROUP: &[Column] = &[
    column("GROUP", "group", 5, Form::Right),
    column("CODE", "code", 8, Form::Text),
    column("SLOTS", "slots", 5, Form::Right),
    column("LIVE", "slots_live", 4, Form::Right),
    column("MARGIN", "margin", 6, Form::Right),
    column("STRIPES", "stripes", 7, Form::Right),
    column("SEALED", "sealed", 0, Form::Text),
];

fn columns(kind: &str) -> Option<&'static [Column]> {
    match kind {
        "snapshot" => Some(SNAPSHOT),
        "peer" => Some(PEER),
        "shard" => Some(SHARD),
        "candidate" => Some(CANDIDATE),
        "group" => Some(GROUP),
        _ => None,
    }
}

/// The heading over rows of a kind; `None` for kinds that speak for themselves.
pub(super) fn heading(kind: &str) -> Option<String> {
    let titles = columns(kind)?.iter().map(|c| pad(c.title.to_owned(), c.width, matches!(c.form, Form::Right)));
    Some(titles.collect::<Vec<_>>().join("  ").trim_end().to_owned())
}

/// One row.
pub(super) fn row(kind: &str, row: &Value) -> String {
    match (columns(kind), kind) {
        (Some(columns), _) => {
            let cells = columns.iter().map(|c| {
                let right = matches!(c.form, Form::Right | Form::Bytes);
                pad(cell(&row[c.key], c.form), c.width, right)
            });
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        }
        (None, "node") if row["path"].is_string() => entry(row),
        (None, "node") => block(row).join("\n"),
        (None, "match") => format!("{}  {}", cell(&row["snapshot"], Form::Short), entry(row)),
        (None, "change") => {
            let sign = row["modifier"].as_str().or_else(|| row["change"].as_str()).unwrap_or("?");
            format!("{sign:<4} {}", cell(&row["path"], Form::Text))
        }
        (None, _) => pairs(row),
    }
}

/// A file or folder as `ls -l` would show it.
fn entry(row: &Value) -> String {
    let size = row["size"].as_u64().map_or_else(String::new, |s| ByteSize(s).to_string());
    let path = cell(&row["path"], Form::Text);
    let target = row["linktarget"].as_str().map_or_else(String::new, |t| format!(" -> {t}"));
    match row["permissions"].as_str() {
        Some(mode) => format!("{mode}  {size:>10}  {path}{target}"),
        None => format!("{path}{target}"),
    }
}

/// One line for each key, inner objects by their own keys.
pub(super) fn block(value: &Value) -> Vec<String> {
    let Value::Object(map) = value else { return Vec::new() };
    let mut out = Vec::new();
    for (key, value) in map.iter().filter(|(_, v)| !v.is_null()) {
        match value {
            Value::Object(inner) => out.extend(
                inner.iter().map(|(k, v)| format!("{:<24} {}", format!("{key} {k}").replace('_', " "), named(k, v))),
            ),
            _ => out.push(format!("{:<24} {}", key.replace('_', " "), named(key, value))),
        }
    }
    out
}

/// `key: value` for everything, when nothing better is known.
pub(super) fn pairs(row: &Value) -> String {
    let Value::Object(map) = row else { return cell(row, Form::Text) };
    map.iter()
        .filter(|(_, v)| !v.is_null())
        .map(|(k, v)| format!("{}: {}", k.replace('_', " "), named(k, v)))
        .collect::<Vec<_>>()
        .join(", ")
}

/// A value by its key's unit.
pub(super) fn named(key: &str, value: &Value) -> String {
    let is_bytes = key.ends_with("bytes")
        || key.starts_with("bytes_")
        || ["give", "free", "data_added", "total_size", "stored_size", "total_uncompressed_size"].contains(&key);
    let is_id =
        ["group", "peer", "root", "holder", "snapshot_id", "latest_snapshot", "vault", "network_id"].contains(&key);
    cell(
        value,
        if is_bytes {
            Form::Bytes
        } else if is_id {
            Form::Short
        } else {
            Form::Text
        },
    )
}

fn cell(value: &Value, form: Form) -> String {
    match (value, form) {
        (Value::Null, _) => "-".to_owned(),
        (Value::Number(n), Form::Bytes) => n.as_u64().map_or_else(|| n.to_string(), |b| ByteSize(b).to_string()),
        (Value::String(s), Form::Short) => s.chars().take(8).collect(),
        (Value::String(s), _) => printable(s),
        (Value::Bool(b), _) => if *b { "yes" } else { "no" }.to_owned(),
        (Value::Number(n), _) if n.is_f64() => format!("{:.2}", n.as_f64().unwrap_or(0.0)),
        (Value::Array(items), Form::List) => items.iter().map(|i| cell(i, Form::Text)).collect::<Vec<_>>().join(","),
        (Value::Array(items), _) => {
            format!("[{}]", items.iter().map(|i| cell(i, form)).collect::<Vec<_>>().join(", "))
        }
        (Value::Object(_), _) => format!("({})", pairs(value)),
        (other, _) => other.to_string(),
    }
}

/// Names of files may hold anything; a terminal must not obey it.
fn printable(text: &str) -> String {
    if text.chars().any(char::is_control) { text.escape_default().to_string() } else { text.to_owned() }
}

fn pad(text: String, width: usize, right: bool) -> String {
    if right { format!("{text:>width$}") } else { format!("{text:<width$}") }
}
