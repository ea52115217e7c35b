//! Events as restic prints them: one object a line with a `message_type`, the figures beside it and not below
//! it, so that what parses restic's output parses ours.
//!
//! | event | object |
//! |---|---|
//! | progress | `status` with restic's `seconds_elapsed`, `percent_done`, `total_files`, `files_done`, `current_files` .. |
//! | an entry failed | `error` with `item`, `during`, `message` and restic's `error.message` |
//! | a notice | `notice` with `id`, `text` |
//! | a row | its kind (`snapshot`, `node`, `match`, `change`, `peer`, `shard`, `candidate`, `group` ..) with its keys |
//! | the end | `summary` with `verb` and its keys |
//!
//! The control API sends the same events with rows and figures one level deeper.

use serde_json::{Map, Value, json};

use crate::ops::Event;

/// One event as a line.
pub(super) fn line(event: &Event) -> String {
    match event {
        Event::Row { kind, row } => object(kind, row),
        Event::Summary { verb, summary } => summary_line(verb, summary),
        Event::Status(p) => {
            let mut value = serde_json::to_value(p).unwrap_or_default();
            value["seconds_elapsed"] = json!(p.elapsed_ms / 1000);
            value["current_files"] = json!(p.current.iter().collect::<Vec<_>>());
            object("status", &value)
        }
        Event::Error(e) => {
            let mut value = serde_json::to_value(e).unwrap_or_default();
            value["error"] = json!({ "message": e.message });
            object("error", &value)
        }
        Event::Notice { id, text } => object("notice", &json!({ "id": id, "text": text })),
    }
}

/// The end of a verb.
pub(crate) fn summary_line(verb: &str, summary: &Value) -> String {
    let mut map = Map::new();
    map.insert("message_type".to_owned(), "summary".into());
    map.insert("verb".to_owned(), verb.into());
    extend(&mut map, summary);
    Value::Object(map).to_string()
}

/// An object of a type with the keys of another; what is unknown (`null`) is left out of progress only, rows keep it.
pub(crate) fn object(message_type: &str, value: &Value) -> String {
    let mut map = Map::new();
    map.insert("message_type".to_owned(), message_type.into());
    extend(&mut map, value);
    if message_type == "status" {
        map.retain(|_, v| !v.is_null());
    }
    Value::Object(map).to_string()
}

fn extend(map: &mut Map<String, Value>, value: &Value) {
    match value {
        Value::Object(inner) => {
            for (key, value) in inner {
                // Ours stand: a row cannot call itself something else.
                map.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
        other => drop(map.insert("value".to_owned(), other.clone())),
    }
}
