use clap::{CommandFactory, Parser};

use super::Cli;

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_verb_has_an_example() {
    fn check(command: &clap::Command, path: &str) {
        let path = format!("{path} {}", command.get_name());
        if command.get_subcommands().next().is_none() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.starts_with("Example"), "{path}: {help}");
        }
        for sub in command.get_subcommands().filter(|c| c.get_name() != "help") {
            check(sub, &path);
        }
    }
    check(&Cli::command(), "");
}

/// Help is wrapped where the terminal ends, at 100 columns at most: an example fits into them, and a paragraph has no line ends of its own.
#[test]
fn help_breaks_no_line_twice() {
    fn check(command: &clap::Command, path: &str) {
        let path = format!("{path} {}", command.get_name());
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let is_text = |line: &str| !line.is_empty() && !line.starts_with(' ') && !line.ends_with(':');
        let lines: Vec<&str> = help.lines().collect();
        for line in lines.iter().filter(|line| line.starts_with(' ')) {
            assert!(line.chars().count() <= 100, "{path}: {line}");
        }
        for pair in lines.windows(2) {
            assert!(!is_text(pair[0]) || !is_text(pair[1]), "{path}: {pair:?}");
        }
        for sub in command.get_subcommands().filter(|c| c.get_name() != "help") {
            check(sub, &path);
        }
    }
    check(&Cli::command(), "");
}

#[test]
fn command_lines_of_the_contract_parse() {
    for text in [
        "network new --name n --puzzle-bits 4",
        "network new --name n --admission invitation --founder-key-file f",
        "network invite --founder-key f --uses 3 --expires 2d --depth 0",
        "network invite --lasts 30d --for 0101010101010101010101010101010101010101010101010101010101010101",
        "node run --network n --invitation @f",
        "node run --roles storage,relay,bootstrap --listen /ip4/127.0.0.1/tcp/0 --region EU/DE/FSN --domain d --give 10GB",
        "init --phrase-file f",
        "backup a b --exclude *.o --exclude-file x --exclude-caches --one-file-system --tag a,b --host h --dry-run --force \
         --skip-if-unchanged",
        "backup --stdin --stdin-filename n",
        "backup --stdin-from-command -- pg_dump -Fp --jobs 2 shop",
        "backup --stdin-filename n --stdin-from-command -- pg_dump -Fp shop",
        "snapshots --json",
        "ls latest /a",
        "ls -l latest",
        "find *.sql",
        "find -l -s latest *.sql",
        "diff a b",
        "dump latest /a",
        "restore latest --target d --include a --exclude b --overwrite if-newer --verify",
        "check --read-data",
        "check --read-data-subset 10%",
        "stats",
        "status",
        "peers",
        "peers --explain 1a2b --json",
        "peers --verify f",
        "repair --dry-run --json",
        "node leave --in 24h",
        "node leave --now --yes",
        "node leave --cancel",
        "node health --json",
        "node run --region EU/DE --geoip city.mmdb --geoip-asn asn.mmdb",
        "plan --sla gold --size 500GB --churn 20% --repair-time 36h --online 95% --shock 10% --domains 64",
        "backup a --limit-up 2MiB/s --limit-download 512",
        "restore latest --target t --limit-down 500kB/s",
        "node pause",
        "node pause --for 90m",
        "node resume",
        "recover",
        "debug store --json",
        "debug placement --explain",
        "lab up --nodes 12 --dir d",
        "lab status --dir d --json",
        "lab kill --dir d 1 2",
        "lab stop --dir d 1",
        "lab start --dir d 1",
        "lab down --dir d",
        "demo",
        "demo /etc --nodes 24 --keep",
        "version",
        "completions bash",
        "--data-dir d --json snapshots",
    ] {
        let words = std::iter::once("cairn").chain(text.split_whitespace());
        assert!(Cli::try_parse_from(words).is_ok(), "{text}");
    }
}

#[test]
fn contradictions_are_usage_errors() {
    for text in [
        "backup",
        "backup a --stdin",
        "backup --stdin-filename n a",
        "check --read-data --read-data-subset 1/2",
        "frob",
        "peers --explain 1a2b --verify f",
        "node pause --for 2",
        "node pause --for 0s",
        "node pause --for 2y",
        "node resume --for 2h",
        "network new --name n --admission friends",
        "network invite --uses 0",
        "network invite --depth 8",
        "network invite --for 0101",
        "network invite --uses 2 --for 0101010101010101010101010101010101010101010101010101010101010101",
    ] {
        let words = std::iter::once("cairn").chain(text.split_whitespace());
        assert!(Cli::try_parse_from(words).is_err(), "{text}");
    }
}

#[test]
fn json_is_seen_in_a_line_that_cannot_be_parsed() {
    let asked = |text: &str| super::json_is_asked_for(text.split(' ').map(Into::into));
    assert!(asked("cairn frob --json"));
    assert!(!asked("cairn backup --stdin-from-command -- mysqlsh --json"));
    let error = Cli::try_parse_from(["cairn", "restore", "latest", "--json"]).expect_err("no target");
    let failure = super::usage(&error);
    assert_eq!(failure.code, super::ExitCode::Usage);
    assert!(failure.message.contains("--target <DIR>") && !failure.message.contains("Usage"), "{}", failure.message);
    assert!(!failure.hint.is_empty());
}
