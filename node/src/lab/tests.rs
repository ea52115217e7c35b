use ed25519_dalek::SigningKey;

use super::*;

#[test]
fn a_lab_is_remembered() {
    let temp = tempfile::tempdir().expect("temp dir");
    let dir = temp.path().join("lab");
    assert_eq!(Lab::open(&dir).expect_err("none").code, ExitCode::NotFound);
    let network = NetworkFile::create("lab", 0, &SigningKey::from_bytes(&[1; 32])).expect("valid");
    let plan = Plan { nodes: 3, regions: vec!["EU/DE/FSN".into(), "NA/US/ASH".into()], give: ByteSize(1 << 30) };
    let made = Lab::make(&dir, &network, &plan).expect("makes");
    let lab = Lab::open(&dir).expect("opens");
    assert_eq!(lab.file, made.file);
    let states = lab.status();
    assert_eq!(states.len(), 3);
    assert!(states.iter().all(|n| n.state == NodeState::Down && n.pid.is_none()));
    assert_eq!(states[2].region, "EU/DE/FSN");
    assert!(states[1].data_dir.ends_with("node-01"));
    assert_eq!(lab.check(&[0, 3]).expect_err("no node 3").id, "NO_NODE");
}
