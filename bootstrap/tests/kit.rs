//! The kit's files parse, and name only verbs, flags, variables and keys that the binary has. The names are listed here
//! again on purpose: this crate does not depend on the binary; `node`'s own tests hold the other end.

use std::collections::BTreeSet;

use cairn_bootstrap::{add_bootstrap, limits};
use cairn_proto::network_file::NetworkFile;
use ed25519_dalek::SigningKey;

const NODE: &str = include_str!("../kit/cairn-node.service");
const BOOTSTRAP: &str = include_str!("../kit/cairn-bootstrap.service");
const COMPOSE: &str = include_str!("../kit/compose.yaml");
const CONFIGS: [&str; 2] = [include_str!("../kit/config.toml"), include_str!("../kit/bootstrap.toml")];
const NETWORK: &str = include_str!("../kit/network.example.toml");

const FLAGS: [&str; 6] = ["--roles", "--listen", "--region", "--domain", "--give", "--config"];
const VARIABLES: [&str; 2] = ["CAIRN_DATA_DIR", "CAIRN_NETWORK"];
const NODE_KEYS: [&str; 7] = ["roles", "listen", "region", "domain", "give", "keep_free", "mdns"];

fn check_command(words: &[&str]) {
    assert_eq!(&words[..3], ["/usr/local/bin/cairn", "node", "run"]);
    for flag in words.iter().filter(|w| w.starts_with('-')) {
        assert!(FLAGS.contains(flag), "{flag}");
    }
}

fn check_unit(text: &str) {
    let mut sections = BTreeSet::new();
    let mut keys = BTreeSet::new();
    for line in text.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
        if let Some(section) = line.strip_prefix('[') {
            sections.insert(section.trim_end_matches(']'));
            continue;
        }
        let (key, value) = line.split_once('=').expect("key=value");
        keys.insert(key);
        match key {
            "ExecStart" => check_command(&value.split(' ').collect::<Vec<_>>()),
            "Environment" => assert!(VARIABLES.contains(&value.split('=').next().expect("name")), "{value}"),
            _ => {}
        }
    }
    assert_eq!(sections, BTreeSet::from(["Unit", "Service", "Install"]));
    for key in ["NoNewPrivileges", "ProtectSystem", "SystemCallFilter", "CapabilityBoundingSet", "MemoryMax"] {
        assert!(keys.contains(key), "{key}");
    }
}

#[test]
fn units_are_hardened_and_call_what_exists() {
    check_unit(NODE);
    check_unit(BOOTSTRAP);
}

#[test]
fn compose_calls_what_exists() {
    let commands: Vec<String> = COMPOSE
        .split("command: [")
        .skip(1)
        .filter_map(|rest| Some(rest.split_once(']')?.0.split_whitespace().collect::<Vec<_>>().join(" ")))
        .collect();
    assert_eq!(commands.len(), 2);
    for command in &commands {
        check_command(&command.split(", ").map(|w| w.trim_matches('"')).collect::<Vec<_>>());
    }
    assert!(!COMPOSE.contains('\t'));
}

#[test]
fn settings_have_known_keys() {
    for text in CONFIGS {
        let table: toml::Table = toml::from_str(text).expect("TOML");
        assert_eq!(table.keys().collect::<Vec<_>>(), ["node", "version"]);
        for key in table["node"].as_table().expect("a section").keys() {
            assert!(NODE_KEYS.contains(&key.as_str()), "{key}");
        }
    }
}

#[test]
fn the_example_network_is_a_network() {
    let peer = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
    let made = NetworkFile::create("example", 16, &SigningKey::from_bytes(&[7; 32])).expect("valid");
    let addresses = [
        format!("/dns4/boot.example.org/tcp/4001/p2p/{peer}"),
        format!("/dns4/boot.example.org/udp/4001/quic-v1/p2p/{peer}"),
    ];
    let made = add_bootstrap(made, &addresses).expect("valid");
    assert_eq!(NetworkFile::parse(NETWORK), Ok(made.clone()), "{}", made.to_toml());
}

#[test]
fn the_readme_states_the_relay_limits() {
    let readme = include_str!("../kit/README.md");
    assert!(readme.contains(&format!("at most {} circuits", limits::RELAY.circuits_max)));
    assert!(readme.contains(&format!("({} MiB)", limits::RELAY.circuit_bytes_max >> 20)));
}
