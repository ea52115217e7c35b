//! The tables of the listing verbs: columns of fixed width, so that rows can be printed as they come and a listing of a
//! million entries needs no memory. Together with the gaps they fit 80 columns; only the last one runs on.

use cairn_proto::ByteSize;
use serde_json::Value;

use super::values::{plain, printable, short_id, time};

/// How a cell is written.
#[derive(Clone, Copy)]
enum Form {
    Text,
    /// As text, cut to the column with an ellipsis: JSON has the whole of it.
    Cut,
    Id,
    Time,
    Bytes,
    Right,
    List,
    /// Round-trip time, or that the peer cannot be reached.
    Reach,
    /// The first of a list.
    First,
    /// A chance, in hundredths.
    Percent,
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

const PEER: Column = column("PEER", "peer", 8, Form::Id);
const DOMAIN: Column = column("DOMAIN", "domain", 16, Form::Cut);
const REGION: Column = column("REGION", "region", 12, Form::Cut);
const GROUP: Column = column("GROUP", "group", 8, Form::Id);

const SNAPSHOTS: &[Column] = &[
    column("ID", "short_id", 8, Form::Text),
    column("TIME (UTC)", "time", 19, Form::Time),
    column("HOST", "hostname", 12, Form::Cut),
    column("TAGS", "tags", 6, Form::List),
    column("FILES", "total_files", 7, Form::Right),
    column("SIZE", "total_bytes", 10, Form::Bytes),
    column("PATHS", "paths", 0, Form::List),
];
const PEERS: &[Column] = &[
    PEER,
    DOMAIN,
    REGION,
    column("FREE", "free", 10, Form::Bytes),
    column("RTT", "rtt_ms", 7, Form::Reach),
    column("ROLES", "roles", 7, Form::List),
    column("STANDING", "note", 0, Form::Text),
];
const CANDIDATES: &[Column] = &[
    PEER,
    DOMAIN,
    REGION,
    column("COLOUR", "colour", 6, Form::Right),
    column("RANK", "rank", 4, Form::Right),
    column("VERDICT", "why", 0, Form::Text),
];
const SHARDS: &[Column] = &[
    GROUP,
    column("SLOT", "slot", 4, Form::Right),
    column("STRIPE", "ordinal", 6, Form::Right),
    column("ROOT", "root", 8, Form::Id),
    column("BYTES", "bytes", 8, Form::Bytes),
    column("LEASE (UTC)", "lease", 19, Form::Time),
    column("STATE", "state", 0, Form::Text),
];
const GROUPS: &[Column] = &[
    column("GROUP", "group", 5, Form::Right),
    column("CODE", "code", 8, Form::Text),
    column("SLOTS", "slots", 5, Form::Right),
    column("LIVE", "slots_live", 4, Form::Right),
    column("MARGIN", "margin", 6, Form::Right),
    column("STRIPES", "stripes", 7, Form::Right),
    column("FULL", "sealed", 0, Form::Text),
];
const WATCHED_GROUPS: &[Column] = &[
    GROUP,
    column("STATE", "state", 8, Form::Text),
    column("LIVE", "live_slots", 4, Form::Right),
    column("SLOTS", "slots", 5, Form::Right),
    column("MARGIN", "margin", 6, Form::Right),
    column("STEWARDS", "stewards_here", 8, Form::Right),
    column("QUORUM", "quorum", 6, Form::Right),
    column("AUDITED", "audited", 7, Form::Text),
    column("LAST", "last", 0, Form::First),
];
const PLANNED_REPAIRS: &[Column] = &[
    GROUP,
    column("ACTION", "action", 7, Form::Text),
    column("SLOT", "slot", 4, Form::Right),
    column("TO", "to", 8, Form::Id),
    column("BYTES", "bytes", 8, Form::Bytes),
    column("PRIORITY", "priority", 8, Form::Text),
    column("SURVIVES", "survival", 8, Form::Percent),
    column("WAITS FOR", "waits_for", 0, Form::Text),
];
const AUDITED_HOLDERS: &[Column] = &[
    column("HOLDER", "peer", 8, Form::Id),
    column("SHARDS", "shards", 7, Form::Right),
    column("RIGHT", "right", 7, Form::Right),
    column("MISSING", "missing", 7, Form::Right),
    column("WRONG", "wrong", 5, Form::Right),
    column("SILENT", "silent", 6, Form::Right),
    column("A LOSS FOUND FROM", "found_share", 17, Form::Percent),
];
const LAB_NODES: &[Column] = &[
    column("NODE", "index", 4, Form::Right),
    column("PID", "pid", 7, Form::Right),
    column("STATE", "state", 5, Form::Text),
    column("REGION", "region", 12, Form::Cut),
    column("ADDRESS", "addresses", 0, Form::First),
];
const PLANS: &[Column] = &[
    column("CODE", "shape", 12, Form::Text),
    column("PEERS", "peers", 5, Form::Right),
    column("STORED", "expansion", 6, Form::Right),
    column("TRAFFIC", "traffic_a_month", 7, Form::Right),
    column("LOSS/YEAR", "loss_text", 9, Form::Right),
    column("LATE", "late_text", 8, Form::Right),
    column("VERDICT", "verdict", 0, Form::Text),
];
const PLAN_FIGURES: &[Column] = &[
    column("RECKONED WITH", "figure", 20, Form::Text),
    column("VALUE", "value", 10, Form::Right),
    column("FROM", "from", 8, Form::Text),
    column("", "note", 0, Form::Text),
];
const PLAN_CLASSICS: &[Column] = &[
    column("OFTEN QUOTED, NOT FOLLOWED", "formula", 44, Form::Text),
    column("COPIES", "copies", 6, Form::Right),
    column("VERDICT", "verdict", 0, Form::Text),
];

fn columns(kind: &str) -> Option<&'static [Column]> {
    Some(match kind {
        "snapshot" => SNAPSHOTS,
        "peer" => PEERS,
        "shard" => SHARDS,
        "candidate" => CANDIDATES,
        "group" => GROUPS,
        "watched_group" => WATCHED_GROUPS,
        "planned_repair" => PLANNED_REPAIRS,
        "audited_holder" => AUDITED_HOLDERS,
        "lab_node" => LAB_NODES,
        "plan" => PLANS,
        "plan_figure" => PLAN_FIGURES,
        "plan_classic" => PLAN_CLASSICS,
        _ => return None,
    })
}

/// The heading over rows of a kind; `None` for kinds that are no table.
pub(super) fn heading(kind: &str) -> Option<String> {
    Some(line(columns(kind)?, |c| c.title.to_owned()))
}

/// One row; `None` for kinds that are no table.
pub(super) fn row(kind: &str, row: &Value) -> Option<String> {
    Some(line(columns(kind)?, |c| cell(row, c)))
}

fn line(columns: &[Column], text: impl Fn(&Column) -> String) -> String {
    let pad = |c: &Column| {
        let (text, width) = (text(c), c.width);
        match c.form {
            Form::Right | Form::Bytes | Form::Reach | Form::Percent => format!("{text:>width$}"),
            _ => format!("{text:<width$}"),
        }
    };
    columns.iter().map(pad).collect::<Vec<_>>().join("  ").trim_end().to_owned()
}

fn cell(row: &Value, column: &Column) -> String {
    let value = &row[column.key];
    match (column.form, value) {
        (Form::Reach, _) if row["reachable"] == false => "gone".to_owned(),
        (Form::Reach, Value::Number(ms)) => format!("{ms} ms"),
        (_, Value::Null) => "-".to_owned(),
        (Form::Bytes, Value::Number(n)) => n.as_u64().map_or_else(|| n.to_string(), |b| ByteSize(b).to_string()),
        (Form::Percent, Value::Number(n)) => {
            n.as_f64().map_or_else(|| n.to_string(), |share| format!("{:.3} %", share * 100.0))
        }
        (Form::Id, Value::String(id)) => short_id(id),
        (Form::Time, Value::String(text)) => time(text),
        (Form::Cut, Value::String(text)) => cut(&printable(text), column.width),
        (Form::List, Value::Array(items)) => items.iter().map(plain).collect::<Vec<_>>().join(","),
        (Form::First, Value::Array(items)) => items.first().map_or_else(|| "-".to_owned(), plain),
        (_, value) => plain(value),
    }
}

fn cut(text: &str, width: usize) -> String {
    if text.is_empty() {
        return "-".to_owned();
    }
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(std::iter::once('…')).collect()
}
