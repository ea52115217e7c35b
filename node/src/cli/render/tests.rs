use serde_json::json;

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

#[test]
fn rows_line_up_under_their_heading() {
    let heading = rows::heading("shard").expect("known");
    let row = rows::row(
        "shard",
        &json!({"group": "a7".repeat(32), "slot": 3, "ordinal": 12, "root": "b8".repeat(32), "bytes": 1_048_576,
                "lease": "2027-01-01T00:00:00Z", "state": "live"}),
    );
    assert_eq!(heading, "GROUP     SLOT  STRIPE  ROOT      BYTES       LEASE                 STATE");
    assert_eq!(row, "a7a7a7a7     3      12  b8b8b8b8     1.0 MiB  2027-01-01T00:00:00Z  live");
}

#[test]
fn names_cannot_command_the_terminal() {
    let text = rows::row("node", &json!({"path": "/a\u{1b}[2Jb", "permissions": "-rw-r--r--", "size": 5}));
    assert_eq!(text, "-rw-r--r--         5 B  /a\\u{1b}[2Jb");
}

#[test]
fn a_backup_ends_with_its_snapshot() {
    let lines =
        summary::lines("backup", &json!({"files_new": 2, "snapshot_id": "0123456789abcdef", "bytes_sent": 1024}));
    assert_eq!(lines.last().map(String::as_str), Some("snapshot 01234567 saved"));
}

#[test]
fn unknown_rows_are_still_readable() {
    assert_eq!(rows::row("news", &json!({"a_b": 1, "free": 2048, "c": null})), "a b: 1, free: 2.0 KiB");
}

#[test]
fn errors_beyond_a_hundred_are_counted_not_printed() {
    assert_eq!(unsaid(0), None);
    assert_eq!(unsaid(ERRORS_SHOWN), None);
    assert_eq!(unsaid(ERRORS_SHOWN + 3).as_deref(), Some("... and 3 more errors (--json lists all)"));
}
