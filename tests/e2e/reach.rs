//! Being reached: behind real NAT, through a relay, directly after hole punching, on a LAN, on changing interfaces.

use std::fs;

use crate::{
    harness::{below, until},
    netns::{World, allowed},
    tree,
};

const EVERYWHERE: [&str; 4] = ["--listen", "/ip4/0.0.0.0/tcp/0", "--listen", "/ip4/0.0.0.0/udp/0/quic-v1"];

const HOLDERS: u8 = 9;
/// So few that two of each stripe's slots are behind the router.
const PUBLIC: u8 = 3;

/// A relay and some holders that anybody reaches, and others behind router a, nine together: a group among so few has five
/// slots, any three of which are enough.
fn homes_and_hosts(public: u8, hole_punching: bool) -> World {
    let hidden = usize::from(HOLDERS - public);
    let mut world = World::new(hole_punching);
    world.network(&[]);
    let host = |world: &mut World, n: u8, name: &str, roles: &str| {
        world.address("core", "add", &format!("11.0.{n}.1/32"), "lo");
        let (tcp, quic) = (format!("/ip4/11.0.{n}.1/tcp/4001"), format!("/ip4/11.0.{n}.1/udp/4001/quic-v1"));
        world.node("core", name, &["--roles", roles, "--listen", &tcp, "--listen", &quic], "/quic-v1/p2p/")
    };
    let doors = host(&mut world, 1, "relay", "relay,bootstrap");
    world.network(&doors);
    for n in 2..2 + public {
        host(&mut world, n, &format!("public-{n}"), "storage");
    }
    for n in 0..hidden {
        world.node("home-a", &format!("hidden-{n}"), &EVERYWHERE, "listening");
    }
    for n in 0..hidden {
        // AutoNAT found that nobody gets in, and a relay was asked.
        until("a circuit for each node behind the router", || {
            world.addresses("home-a", &format!("hidden-{n}")).iter().any(|a| a.contains("/p2p-circuit")).then_some(())
        });
    }
    world
}

#[test]
fn a_backup_and_its_restore_pass_two_routers_through_a_relay() {
    if !allowed() {
        return;
    }
    let mut world = homes_and_hosts(PUBLIC, false);
    world.run("home-b", "owner", &["init", "--phrase-file", "phrase"]).ok();
    let source = world.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), tree::noise("two routers", 6_000_000)).unwrap();
    let source_text = source.to_str().unwrap().to_owned();
    until("nine holders known to the owner", || {
        (world.run("home-b", "owner", &["peers", "--json"]).ok().figure("storage") == 9).then_some(())
    });
    let backup = world.run("home-b", "owner", &["backup", "--json", &source_text]);
    assert!(matches!(backup.code, Some(0 | 4)), "{backup:?}");
    let hidden: usize = (0..HOLDERS - PUBLIC).map(|n| world.shards("home-a", &format!("hidden-{n}"))).sum();
    assert!(hidden >= 4, "{hidden} shards behind the router");

    // Of the three that anybody reaches one stays: three slots take two from behind the router.
    for n in 3..2 + PUBLIC {
        world.kill(&format!("public-{n}"));
    }
    let target = world.path().join("target");
    world.run("home-b", "owner", &["restore", "--json", "latest", "--target", target.to_str().unwrap()]).ok();
    tree::assert_same(&tree::describe(&source), &below(&target, &source));
}

#[test]
fn a_hole_is_punched_through_two_routers() {
    if !allowed() {
        return;
    }
    // Whoever is met behind the router shares its subnet with the others there, so that they take one slot together (SEP-3):
    // the other four must find places elsewhere.
    let world = homes_and_hosts(5, true);
    world.run("home-b", "owner", &["init", "--phrase-file", "phrase"]).ok();
    let source = world.path().join("source");
    fs::create_dir(&source).unwrap();
    let mut rounds = 0;
    until("a shard that went from router to router", || {
        rounds += 1;
        fs::write(source.join("file"), tree::noise(&format!("round {rounds}"), 6_000_000)).unwrap();
        let backup = world.run("home-b", "owner", &["backup", "--json", source.to_str().unwrap()]);
        assert!(matches!(backup.code, Some(0 | 4)), "{backup:?}");
        (world.bytes_between_routers() > 1_048_576).then_some(())
    });
}

#[test]
fn a_forwarded_port_is_found_out() {
    if !allowed() {
        return;
    }
    let mut world = World::new(true);
    world.network(&[]);
    world.address("core", "add", "11.0.1.1/32", "lo");
    let doors =
        world.node("core", "door", &["--roles", "storage,bootstrap", "--listen", "/ip4/11.0.1.1/tcp/4001"], "/p2p/");
    world.network(&doors);
    world.node("home-b", "forwarded", &["--listen", "/ip4/0.0.0.0/tcp/4001"], "/p2p/");
    until("the router's address in the node's status", || {
        world.addresses("home-b", "forwarded").iter().any(|a| a.starts_with("/ip4/13.0.0.2/tcp/4001/")).then_some(())
    });
}

#[test]
fn a_closed_firewall_before_a_public_address_is_found_out_and_a_relay_carries() {
    if !allowed() {
        return;
    }
    let mut world = World::new(true);
    world.network(&[]);
    world.address("core", "add", "11.0.1.1/32", "lo");
    let relay = ["--roles", "relay,bootstrap", "--listen", "/ip4/11.0.1.1/tcp/4001"];
    let doors = world.node("core", "relay", &relay, "/p2p/");
    world.network(&doors);
    // The router's own address is as public as any, and nobody gets in who was not spoken to.
    let listen = ["--listen", "/ip4/12.0.0.2/tcp/4002", "--listen", "/ip4/12.0.0.2/udp/4002/quic-v1"];
    world.node("router-a", "closed", &listen, "/quic-v1/p2p/");
    until("a circuit beside the closed address", || {
        let all = world.addresses("router-a", "closed");
        assert!(all.iter().any(|a| a.starts_with("/ip4/12.0.0.2/tcp/4002/")), "{all:?}");
        all.iter().any(|a| a.contains("/p2p-circuit")).then_some(())
    });
}

#[test]
fn neighbours_find_each_other_without_a_door() {
    if !allowed() {
        return;
    }
    let mut world = World::new(true);
    world.network(&[]);
    world.node("home-a", "first", &EVERYWHERE, "/p2p/");
    world.node("router-a", "second", &["--listen", "/ip4/10.0.0.1/tcp/0"], "/p2p/");
    until("two neighbours that know each other", || {
        let known = |place: &str, name: &str| world.run(place, name, &["peers", "--json"]).ok().figure("storage");
        (known("home-a", "first") == 1 && known("router-a", "second") == 1).then_some(())
    });
}

#[test]
fn addresses_follow_the_interfaces() {
    if !allowed() {
        return;
    }
    let mut world = World::new(true);
    world.network(&[]);
    for n in 1..=3 {
        world.address("home-a", "add", &format!("10.0.{n}.2/24"), "eth0");
    }
    let listening = world.node("home-a", "node", &EVERYWHERE, "127.0.0.1/udp/");
    for ip in ["127.0.0.1", "10.0.0.2", "10.0.1.2", "10.0.2.2", "10.0.3.2"] {
        for transport in ["tcp", "udp"] {
            let start = format!("/ip4/{ip}/{transport}/");
            assert!(listening.iter().any(|a| a.starts_with(&start)), "{start} is missing in {listening:?}");
        }
    }
    let has = |ip: &str| world.addresses("home-a", "node").iter().any(|a| a.contains(&format!("/ip4/{ip}/")));
    world.address("home-a", "add", "10.0.9.2/24", "eth0");
    until("the new address in the status", || has("10.0.9.2").then_some(()));
    world.address("home-a", "del", "10.0.1.2/24", "eth0");
    until("the old address gone from the status", || (!has("10.0.1.2")).then_some(()));
}
