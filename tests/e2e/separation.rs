//! SEP-1: no peer ever receives two slots of a group, not even from somebody who wants it to.

use std::fs;

use cairn_proto::{Domain, SHARD_SIZE, network_file::NetworkFile, wire::RefusalCode};

use crate::{
    harness::{Lab, Owner},
    hostile::{Answer, Group, Hostile},
    tree,
};

fn domain_of(lab: &Lab, node: usize) -> Domain {
    let text = fs::read_to_string(lab.node_dir(node).join("domain")).expect("pinned at first start");
    Domain::new(text.trim()).expect("a domain")
}

pub fn network_of(lab: &Lab) -> NetworkFile {
    NetworkFile::parse(&fs::read_to_string(lab.network_file()).unwrap()).expect("a network file")
}

pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

#[test]
fn no_peer_ever_held_two_slots_of_a_group() {
    let lab = Lab::shared();
    // Several owners, several runs: many groups over the same twelve peers.
    for _ in 0..3 {
        let owner = Owner::init(&lab);
        for run in 0..3 {
            let name = format!("{run}-{}", owner.home().display());
            owner.backup_stream("stream", &tree::noise(&name, 6_000_000)).stored();
        }
    }
    let stores = lab.stores();
    stores.assert_separated();
    let groups = stores.groups();
    assert!(groups.len() >= 3, "{} groups", groups.len());
    for (group, slots) in &groups {
        for (slot, nodes) in slots {
            assert_eq!(nodes.len(), 1, "slot {slot} of group {group} is at {nodes:?}");
        }
    }
}

#[test]
fn a_hostile_client_is_refused_a_second_slot() {
    let lab = Lab::up(2);
    let (network, address) = (network_of(&lab), lab.tcp_address(1));
    let domain = domain_of(&lab, 1);
    let group = Group::with_colour(&domain, |colour| colour < 8);
    let shard = tree::noise("shard", SHARD_SIZE);

    let mine = block_on(async {
        let mut client = Hostile::connect(&network, &address).await;
        client.open(&group).await;
        let mine = group.slot_of(&domain).expect("a colour below eight is a slot");
        for slot in group.ticket.code().each_slot() {
            let answer = client.put(&group, slot, 7, &shard).await;
            if slot == mine {
                assert!(matches!(answer, Answer::Stored(_)), "its own slot: {answer:?}");
            } else {
                assert_eq!(answer, Answer::Refused(RefusalCode::WrongColour), "slot {slot}");
            }
        }
        mine
    });

    // Stewards' colour: not a slot at all.
    block_on(async {
        let theirs = Group::with_colour(&domain, |colour| colour == 8);
        let mut client = Hostile::connect(&network, &address).await;
        client.open(&theirs).await;
        for slot in theirs.ticket.code().each_slot() {
            assert_eq!(client.put(&theirs, slot, 0, &shard).await, Answer::Refused(RefusalCode::WrongColour));
        }
    });

    // The second guard: even a node whose own domain was changed behind its back, so that its colour is another one
    // now, remembers which slot of the group it once accepted.
    lab.stop(&[1]);
    let other = (0..)
        .map(|n| Domain::operator(&format!("other-{n}")).expect("valid"))
        .find(|d| group.slot_of(d).is_some_and(|slot| slot != mine))
        .expect("endless");
    fs::write(lab.node_dir(1).join("domain"), format!("{other}\n")).unwrap();
    rewrite_lab_domain(&lab, &other);
    lab.start(&[1]);
    let address = lab.tcp_address(1);
    block_on(async {
        let mut client = Hostile::connect(&network, &address).await;
        client.open(&group).await;
        let shopped = group.slot_of(&other).expect("chosen so");
        assert_eq!(client.put(&group, shopped, 9, &shard).await, Answer::Refused(RefusalCode::LedgerConflict));
        assert_eq!(client.put(&group, mine, 9, &shard).await, Answer::Refused(RefusalCode::WrongColour));
    });
    let stores = lab.stores();
    stores.assert_separated();
    assert_eq!(stores.0[&1].len(), 1, "one shard got in, its own: {:?}", stores.0[&1]);
}

/// The lab starts its nodes with the domain that it gave them; the tampering has to reach that too.
fn rewrite_lab_domain(lab: &Lab, domain: &Domain) {
    let path = lab.network_file().with_file_name("lab.json");
    let Ok(text) = fs::read_to_string(&path) else { return };
    let name = domain.as_str().strip_prefix("op:").expect("an operator's");
    fs::write(&path, text.replace("\"lab-01\"", &format!("\"{name}\""))).unwrap();
}

#[test]
fn junk_on_the_shard_protocol_closes_the_stream_and_harms_nobody() {
    let lab = Lab::shared();
    let (network, address) = (network_of(&lab), lab.tcp_address(3));
    block_on(async {
        let mut huge = vec![2u8, 2, 0, 0, 1, 0, 0, 0];
        huge.extend_from_slice(&u32::MAX.to_le_bytes());
        huge.extend_from_slice(&[0; 4]);
        for junk in
            [b"GET / HTTP/1.1\r\nHost: cairn\r\n\r\n".to_vec(), huge, vec![0xff; 4096], tree::noise("junk", 100_000)]
        {
            let mut client = Hostile::connect(&network, &address).await;
            assert!(client.junk(&junk).await, "the holder closes the stream");
        }
    });
    let owner = Owner::init(&lab);
    owner.backup_stream("after", b"still serving").stored();
    assert_eq!(owner.dump("latest", "after").ok().stdout, b"still serving");
}
