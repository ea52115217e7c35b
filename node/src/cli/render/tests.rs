use serde_json::{Value, json};

use super::*;
use crate::failure::ExitCode;

fn example() -> Failure {
    let cause = std::io::Error::other("connection refused");
    Failure::new(ExitCode::TooFewPeers, "TOO_FEW_PEERS", "3 more peers are needed")
        .caused_by(&cause)
        .with_hint("run more nodes")
        .retryable()
}

#[test]
fn failures_say_what_why_and_what_to_do() {
    assert_eq!(
        failure_text(&example(), false),
        "error: 3 more peers are needed\ncaused by: connection refused\nhint: run more nodes"
    );
    assert_eq!(failure_text(&Failure::new(ExitCode::Failed, "X", "it broke"), false), "error: it broke");
}

#[test]
fn failures_as_json_are_one_exit_error_object() {
    assert_eq!(
        failure_text(&example(), true),
        "{\"message_type\":\"exit_error\",\"code\":13,\"id\":\"TOO_FEW_PEERS\",\"message\":\"3 more peers are needed\",\
         \"causes\":[\"connection refused\"],\"hint\":\"run more nodes\",\"retryable\":true}"
    );
}

fn one_row(kind: &str, value: &Value) -> String {
    rows::row(kind, value, false).join("\n")
}

#[test]
fn rows_line_up_under_their_heading() {
    let heading = table::heading("shard").expect("known");
    let row = one_row(
        "shard",
        &json!({"group": "a7".repeat(32), "slot": 3, "ordinal": 12, "root": "b8".repeat(32), "bytes": 1_048_576,
                "lease": "2027-01-01T00:00:00Z", "state": "live"}),
    );
    assert_eq!(heading, "GROUP     SLOT  STRIPE  ROOT         BYTES  LEASE (UTC)          STATE");
    assert_eq!(row, "a7a7a7a7     3      12  b8b8b8b8   1.0 MiB  2027-01-01 00:00:00  live");
}

/// The widest that real rows get; a snapshot's paths and an address run on by nature.
#[test]
fn tables_fit_eighty_columns() {
    let key = "a7".repeat(32);
    let who = json!({"peer": key, "domain": "id:6c137796c925243e545db2882d9e2f16", "region": "EU/DE/NUREMBERG-3"});
    let with = |more: Value| {
        let mut row = who.clone();
        more.as_object().expect("object").iter().for_each(|(k, v)| row[k] = v.clone());
        row
    };
    let rows = [
        ("peer", with(json!({"free": 1023 * (1u64 << 30), "rtt_ms": 1234, "reachable": true, "roles": ["storage"]}))),
        ("candidate", with(json!({"colour": 255, "rank": 1000, "why": "replacement 10 of slot 7"}))),
        (
            "group",
            json!({"group": 12345, "code": "RS(5,3)", "slots": 8, "slots_live": 8, "margin": -5, "stripes": 256,
            "sealed": true}),
        ),
        (
            "watched_group",
            json!({"group": "12345678", "state": "critical", "live_slots": 20, "slots": 20, "margin": -10,
            "stewards_here": 7, "quorum": 7, "audited": "partly", "last": []}),
        ),
        (
            "planned_repair",
            json!({"group": "12345678", "action": "rebuild", "slot": 19, "to": "12345678", "bytes": 1023 * (1u64 << 20),
            "priority": "critical", "survival": 1.0, "waits_for": null}),
        ),
        (
            "shard",
            json!({"group": key, "slot": 7, "ordinal": 255, "root": key, "bytes": 1_048_576,
            "lease": "2027-01-01T00:00:00Z", "state": "damaged"}),
        ),
        (
            "snapshot",
            json!({"short_id": "12345678", "time": "2026-11-21T04:41:57.804Z", "hostname": "a-host-with-a-name",
            "tags": ["daily"], "total_files": 9_999_999, "total_bytes": 1023 * (1u64 << 30), "paths": []}),
        ),
    ];
    for (kind, row) in rows {
        let text = one_row(kind, &row);
        assert!(text.chars().count() <= 80, "{kind}: {} columns: {text}", text.chars().count());
        assert!(table::heading(kind).is_some_and(|h| h.chars().count() <= 80));
    }
}

#[test]
fn names_cannot_command_the_terminal() {
    let node = json!({"path": "/a\u{1b}[2Jb", "permissions": "-rw-r--r--", "size": 5, "user": "\u{1b}x", "gid": 7,
        "mtime": "2026-11-21T04:41:57.804Z", "link_target": "\u{7}"});
    assert_eq!(one_row("node", &node), "/a\\u{1b}[2Jb");
    assert_eq!(
        rows::row("node", &node, true),
        ["-rw-r--r--  \\u{1b}x  7               5 B  2026-11-21 04:41:57  /a\\u{1b}[2Jb -> \\u{7}"]
    );
    // Errors name files, too; a name may also turn the line around.
    let failed = Failure::new(ExitCode::Failed, "X", "cannot read a\u{1b}[2J\u{202e}b").with_hint("one\ntwo");
    assert_eq!(failure_text(&failed, false), "error: cannot read a\\u{1b}[2J\\u{202e}b\nhint: one\ntwo");
    for kind in ["snapshot", "peer", "candidate", "change", "match", "this_node", "other"] {
        let evil = json!({"hostname": "\u{1b}", "domain": "\u{1b}", "path": "\u{1b}", "tags": ["\u{1b}"], "x": "\u{1b}",
            "why": "\u{1b}", "modifier": "+", "addresses": ["\u{1b}"], "network": "\u{1b}", "region": "\u{1b}"});
        assert!(!one_row(kind, &evil).contains('\u{1b}'), "{kind}");
    }
}

#[test]
fn a_backup_ends_with_its_snapshot() {
    let lines =
        summary::lines("backup", &json!({"files_new": 2, "snapshot_id": "0123456789abcdef", "bytes_sent": 1024}));
    assert_eq!(lines.last().map(String::as_str), Some("snapshot 01234567 saved in 0.0 s"));
}

#[test]
fn a_dry_run_says_that_it_was_one() {
    let text =
        summary::lines("restore", &json!({"files_restored": 3, "bytes_restored": 1024, "dry_run": true})).join("");
    assert!(text.contains("would restore 3 files") && text.contains("nothing was written"), "{text}");
}

#[test]
fn a_check_that_found_something_never_says_no_errors() {
    let clean = summary::lines("check", &json!({"stripes": 3, "num_errors": 0})).join("\n");
    assert!(clean.ends_with("no errors were found"), "{clean}");
    for key in ["shards_missing", "shards_wrong", "stripes_lost", "files_lost", "holders_unreachable", "num_errors"] {
        let text = summary::lines("check", &json!({"stripes": 3, key: 1})).join("\n");
        assert!(!text.contains("no errors"), "{key}: {text}");
    }
}

#[test]
fn listings_of_nothing_say_so() {
    assert_eq!(summary::nothing("snapshots", &json!({"snapshots": 0})), Some("no snapshots"));
    assert_eq!(summary::nothing("snapshots", &json!({"snapshots": 1})), None);
    assert_eq!(summary::nothing("find", &json!({"matches": 0})), Some("nothing matches"));
}

#[test]
fn unknown_rows_are_still_readable() {
    assert_eq!(one_row("news", &json!({"a_b": 1, "free": 2048, "c": null})), "a b: 1, free: 2.0 KiB");
}

/// What parses restic's output finds the same keys at the same depth.
#[test]
fn json_lines_are_shaped_as_restics() {
    let parse = |event: &Event| serde_json::from_str::<Value>(&json::line(event)).expect("JSON");
    let summary =
        parse(&Event::Summary { verb: "backup".into(), summary: json!({"files_new": 1, "snapshot_id": "ab"}) });
    assert_eq!(summary, json!({"message_type": "summary", "verb": "backup", "files_new": 1, "snapshot_id": "ab"}));
    let row =
        parse(&Event::Row { kind: "change".into(), row: json!({"path": "/a", "modifier": "+", "message_type": "x"}) });
    assert_eq!(row, json!({"message_type": "change", "path": "/a", "modifier": "+"}));
    let progress = Progress { bytes_done: 7, elapsed_ms: 2500, current: Some("/f".into()), ..Progress::default() };
    let status = parse(&Event::Status(progress));
    assert_eq!((&status["seconds_elapsed"], &status["current_files"]), (&json!(2), &json!(["/f"])));
    assert!(status.get("percent_done").is_none(), "what is not known is not there");
    let error = parse(&Event::Error(crate::ops::ItemError {
        item: "/f".into(),
        during: "scan".into(),
        message: "denied".into(),
    }));
    assert_eq!((&error["error"]["message"], &error["item"]), (&json!("denied"), &json!("/f")));
}

#[test]
fn errors_beyond_a_hundred_are_counted_not_printed() {
    assert_eq!(unsaid(0), None);
    assert_eq!(unsaid(ERRORS_SHOWN), None);
    assert_eq!(unsaid(ERRORS_SHOWN + 3).as_deref(), Some("... and 3 more errors (--json lists all)"));
}

#[test]
fn what_stewards_did_is_a_sentence() {
    let row = json!({"group": 3, "time": "2026-11-20T03:12:44Z", "text": "slot 3: 12 shards copied to 1a2b3c4d"});
    let text = rows::row("happening", &row, false).join("\n");
    assert!(
        text.starts_with("2026-11-20") && text.ends_with("group 3: slot 3: 12 shards copied to 1a2b3c4d"),
        "{text}"
    );
    let watched = |watched: u64, groups: u64, fewest: u64| {
        let summary =
            json!({"groups_watched": watched, "groups": groups, "stewards_fewest": fewest, "stewards_most": 7});
        summary::lines("backup", &summary).join("\n")
    };
    assert!(watched(4, 4, 5).contains("4 groups are watched by 5 to 7 peers"), "{}", watched(4, 4, 5));
    assert!(watched(1, 4, 7).contains("1 of 4 groups are watched by 7 peers"), "{}", watched(1, 4, 7));
    assert!(!watched(0, 4, 0).contains("watched"), "a notice says that");
}
