use cairn_proto::{Domain, network_file::NetworkFile};
use ed25519_dalek::SigningKey;

use super::*;

fn folder() -> (tempfile::TempDir, DataDir) {
    let temp = tempfile::tempdir().expect("temp dir");
    let dir = DataDir::open(&temp.path().join("data")).expect("opens");
    (temp, dir)
}

#[test]
fn the_folder_is_private() {
    let (_temp, dir) = folder();
    let mode = fs::metadata(dir.root()).expect("exists").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn a_second_writer_is_told_who_the_first_is() {
    let (_temp, dir) = folder();
    let lock = dir.lock("node run").expect("free");
    let refused = dir.lock("backup").expect_err("taken");
    assert_eq!(refused.code, ExitCode::Busy);
    assert!(refused.message.contains(&format!("pid {} (node run)", std::process::id())), "{refused}");
    drop(lock);
    dir.lock("backup").expect("free again");
}

#[test]
fn a_domain_is_pinned_for_ever() {
    let (_temp, dir) = folder();
    let acme = Domain::operator("acme").expect("valid");
    let other = Domain::operator("other").expect("valid");
    assert_eq!(dir.domain(None, || other.clone()).expect("a client's"), other, "and a client pins nothing");
    assert_eq!(dir.pin_domain(Some(acme.clone()), || other.clone()).expect("pins"), acme);
    assert_eq!(dir.domain(None, || other.clone()).expect("pinned"), acme);
    assert_eq!(dir.pin_domain(None, || other.clone()).expect("keeps"), acme);
    assert_eq!(dir.pin_domain(Some(other), || acme).expect_err("refused").id, "DOMAIN_PINNED");
}

#[test]
fn the_network_is_copied_in_and_cannot_be_swapped() {
    let (temp, dir) = folder();
    assert_eq!(dir.network(None).expect_err("none yet").id, "NO_NETWORK");
    let key = SigningKey::from_bytes(&[9; 32]);
    let mut home = NetworkFile::create("home", 4, &key).expect("valid");
    let path = temp.path().join("n.toml");
    fs::write(&path, home.to_toml()).expect("writes");
    assert_eq!(dir.network(Some(&path)).expect("copies"), home);
    assert_eq!(dir.network(None).expect("knows"), home);
    home.bootstrap.push("/ip4/192.0.2.1/tcp/1".into());
    fs::write(&path, home.to_toml()).expect("writes");
    assert_eq!(dir.network(Some(&path)).expect("takes new addresses"), home);
    assert_eq!(dir.network(None).expect("kept them"), home);
    fs::write(&path, NetworkFile::create("work", 4, &key).expect("valid").to_toml()).expect("writes");
    assert_eq!(dir.network(Some(&path)).expect_err("another").id, "OTHER_NETWORK");
}
