//! Single values as text.

use cairn_proto::ByteSize;
use serde_json::Value;

/// A value without knowledge of its unit.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(s) => printable(s),
        Value::Bool(b) => if *b { "yes" } else { "no" }.to_owned(),
        Value::Number(n) if n.is_f64() => format!("{:.2}", n.as_f64().unwrap_or(0.0)),
        Value::Array(items) if items.is_empty() => "-".to_owned(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        Value::Object(_) => format!("({})", pairs(value)),
        Value::Number(n) => n.to_string(),
    }
}

/// `key: value` for everything, when nothing better is known.
pub(super) fn pairs(row: &Value) -> String {
    let Value::Object(map) = row else { return plain(row) };
    let pair = |(key, value): (&String, &Value)| format!("{}: {}", key.replace('_', " "), named(key, value));
    map.iter().filter(|(_, v)| !v.is_null()).map(pair).collect::<Vec<_>>().join(", ")
}

/// One line for each key of an object.
pub(super) fn block(value: &Value) -> Vec<String> {
    let Value::Object(map) = value else { return Vec::new() };
    let line = |(key, value): (&String, &Value)| format!("{:<24} {}", key.replace('_', " "), named(key, value));
    map.iter().filter(|(_, v)| !v.is_null()).map(line).collect()
}

/// A value by its key's unit.
fn named(key: &str, value: &Value) -> String {
    let is_bytes = key.ends_with("bytes") || key.starts_with("bytes_") || ["give", "free"].contains(&key);
    match value {
        Value::Number(n) if is_bytes => n.as_u64().map_or_else(|| n.to_string(), |b| ByteSize(b).to_string()),
        Value::String(id) if ["group", "peer", "root", "holder", "vault"].contains(&key) => short_id(id),
        _ => plain(value),
    }
}

/// Names of files may hold anything; a terminal must not obey it, nor show it backwards.
pub(super) fn printable(text: &str) -> String {
    escape(text, |c| c.is_control())
}

/// As [`printable`] for sentences, whose own line breaks stay.
pub(super) fn printable_lines(text: &str) -> String {
    escape(text, |c| c.is_control() && c != '\n')
}

fn escape(text: &str, control: impl Fn(char) -> bool) -> String {
    let turns_around = |c| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if !text.chars().any(|c| control(c) || turns_around(c)) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if control(c) || turns_around(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// The beginning of an id, as people type it.
pub(super) fn short_id(id: &str) -> String {
    id.chars().take(8).collect()
}

/// `2026-11-21T04:41:57.804Z` as `2026-11-21 04:41:57`; anything else as it is.
pub(super) fn time(text: &str) -> String {
    match text.split_once('T') {
        Some((day, clock)) if clock.len() >= 8 && clock.is_char_boundary(8) => format!("{day} {}", &clock[..8]),
        _ => printable(text),
    }
}

/// A time in milliseconds since 1970, to the second.
pub(super) fn moment(ms: u64) -> String {
    let told = i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    told.map_or_else(|| "?".to_owned(), |told| told.strftime("%Y-%m-%d %H:%M:%S").to_string())
}
