//! Where peers are: an operator's file goes before their word, at addresses that look public.

use std::{collections::BTreeMap, fs, time::Duration};

use serde_json::Value;

use crate::{
    geoip::{Value as Record, database},
    harness::{below, until_within},
    netns::{World, allowed},
    tree,
};

/// Where the file says that hosts are, by the third number of their address, and what they say.
const HOSTS: [(u8, [&str; 2], Option<&str>); 14] = [
    (2, ["EU", "DE"], Some("EU/DE/BER")),
    (3, ["EU", "FI"], Some("EU/FI")),
    (4, ["EU", "PT"], None),
    (5, ["EU", "DE"], Some("OC/NZ")),
    (6, ["EU", "FI"], Some("SA/BR")),
    (7, ["EU", "PT"], Some("AF/MA")),
    (8, ["NA", "US"], Some("NA/US/VA")),
    (9, ["NA", "US"], Some("NA/US")),
    (10, ["NA", "CA"], Some("NA/CA")),
    (11, ["NA", "CA"], None),
    (12, ["AS", "SG"], Some("AS/SG")),
    (13, ["AS", "SG"], Some("AS/SG")),
    (14, ["AS", "JP"], Some("AS/JP")),
    (15, ["AS", "JP"], None),
];
/// They are all in Europe.
const LIARS: [u8; 3] = [5, 6, 7];
/// Slots that one continent may have of the eight.
const CAP: usize = 3;
/// Fourteen processes, and owners that meet all of them.
const MET_WITHIN: Duration = Duration::from_secs(120);
/// Owners without a file, until one gives more than [`CAP`] slots to Europe: two in five do.
const BLIND_MAX: usize = 24;

fn name(host: u8) -> String {
    format!("host-{host}")
}

fn file() -> Vec<u8> {
    let addresses: Vec<String> = HOSTS.iter().map(|(host, ..)| format!("11.0.{host}.0")).collect();
    let record = |[continent, country]: [&'static str; 2]| {
        let code = |key, code| Record::Map(vec![(key, Record::Text(code))]);
        Record::Map(vec![("continent", code("code", continent)), ("country", code("iso_code", country))])
    };
    let blocks: Vec<(&str, u32, Record)> =
        addresses.iter().zip(HOSTS).map(|(address, (_, place, _))| (address.as_str(), 24, record(place))).collect();
    database("Test-City", &blocks)
}

fn peers(world: &World, owner: &str) -> BTreeMap<String, Value> {
    let rows = world.run("home-b", owner, &["peers", "--json"]).ok().rows("peer");
    let domain = |row: &Value| row["domain"].as_str().expect("a domain").trim_start_matches("op:").to_owned();
    rows.into_iter().map(|row| (domain(&row), row)).collect()
}

/// How many slots of each group are in Europe by the file, whatever anybody says.
fn european(world: &World, owner: &str) -> Vec<usize> {
    let peers = peers(world, owner);
    let in_europe: Vec<String> = HOSTS
        .iter()
        .filter(|(_, [continent, _], _)| *continent == "EU")
        .filter_map(|(host, ..)| Some(peers.get(&name(*host))?["peer"].as_str()?.to_owned()))
        .collect();
    let groups = world.run("home-b", owner, &["status", "--json"]).ok().rows("group");
    let count = |group: &Value| {
        let slots = group["holders"].as_array().expect("slots").iter();
        assert_eq!(group["slots"], 8, "{group}");
        slots.filter(|slot| slot[0].as_str().is_some_and(|peer| in_europe.iter().any(|known| known == peer))).count()
    };
    groups.iter().map(count).collect()
}

#[test]
fn a_false_region_is_set_right_by_a_geoip_file_and_no_continent_gets_too_much() {
    if !allowed() {
        return;
    }
    let mut world = World::new(true);
    world.network(&[]);
    world.address("core", "add", "11.0.1.1/32", "lo");
    let relay = ["--roles", "relay,bootstrap", "--listen", "/ip4/11.0.1.1/tcp/4001"];
    let doors = world.node("core", "relay", &relay, "/p2p/");
    world.network(&doors);
    for (host, _, says) in HOSTS {
        world.address("core", "add", &format!("11.0.{host}.1/32"), "lo");
        let listen = format!("/ip4/11.0.{host}.1/tcp/4001");
        let region = says.map(|region| ["--region", region]);
        let args = [region.as_ref().map_or(&[][..], |region| &region[..]), &["--listen", &listen]].concat();
        world.node_anywhere("core", &name(host), &args, "/p2p/");
    }
    let files = world.path().join("places.mmdb");
    fs::write(&files, file()).unwrap();
    let source = world.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), tree::noise("places", 3_000_000)).unwrap();
    let init = |owner: &str| world.run("home-b", owner, &["init", "--phrase-file", &format!("{owner}.phrase")]).ok();
    let backup = |owner: &str| world.run("home-b", owner, &["backup", "--json", source.to_str().unwrap()]);

    // With the file: what an address says goes before what the peer says, and fills in what it does not say.
    init("reader");
    let settings = format!("[node]\ngeoip = {:?}\n", files.to_str().unwrap());
    fs::write(world.path().join("reader").join("config.toml"), settings).unwrap();
    let known = until_within(MET_WITHIN, "the owner saw everybody at its address", || {
        let known = peers(&world, "reader");
        let seen = |host: u8| known.get(&name(host)).is_some_and(|row| row["subnet_seen"] == true);
        HOSTS.iter().all(|(host, ..)| seen(*host)).then_some(known)
    });
    for (host, [continent, country], says) in HOSTS {
        let row = &known[&name(host)];
        let region = row["region"].as_str().unwrap();
        assert!(region.starts_with(&format!("{continent}/{country}")), "{row}");
        let note = row["note"].as_str().unwrap();
        let (basis, declared) = (row["region_basis"]["basis"].as_str().unwrap(), &row["region_basis"]["declared"]);
        match says {
            Some(says) if LIARS.contains(&host) => {
                assert_eq!((basis, declared), ("overruled", &says.into()), "{row}");
                assert!(note.contains(&format!("its address lies there, though it says {says}")), "{row}");
            }
            says => {
                assert_eq!(basis, if says.is_some() { "declared" } else { "located" }, "{row}");
                assert!(!note.contains("though"), "{row}");
            }
        }
    }
    let listed = world.run("home-b", "reader", &["peers", "--json"]).ok();
    assert_eq!(listed.figure("regions_contradicted"), LIARS.len() as u64);
    let shown = world.run("home-b", "reader", &["peers"]).ok().text();
    assert!(shown.contains("though it says OC/NZ") && shown.contains("EU/DE"), "{shown}");
    let stored = backup("reader");
    assert!(matches!(stored.code, Some(0 | 4)), "{stored:?}");
    let groups = european(&world, "reader");
    assert!(!groups.is_empty() && groups.iter().all(|slots| *slots <= CAP), "{groups:?}");

    // Without one they are believed, and then Europe gets more: that is what the file is for.
    let mut blind = 0;
    until_within(MET_WITHIN, "somebody without a file gives Europe too much", || {
        blind += 1;
        assert!(blind <= BLIND_MAX, "the lie gained nothing");
        let owner = format!("blind-{blind}");
        init(&owner);
        let stored = backup(&owner);
        assert!(matches!(stored.code, Some(0 | 4)), "{stored:?}");
        european(&world, &owner).iter().any(|slots| *slots > CAP).then_some(())
    });
    assert_eq!(peers(&world, "blind-1")[&name(5)]["region"], "OC/NZ", "it says so, and nothing speaks against it");

    let target = world.path().join("target");
    world.run("home-b", "reader", &["restore", "--json", "latest", "--target", target.to_str().unwrap()]).ok();
    tree::assert_same(&tree::describe(&source), &below(&target, &source));
}

#[test]
fn a_file_that_is_no_geoip_database_is_refused() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("places.mmdb"), "something else").unwrap();
    let run = |args: &[&str], geoip: &str| {
        let mut command = crate::harness::cairn(home.path());
        command.args(args).envs((!geoip.is_empty()).then_some(("CAIRN_GEOIP", geoip)));
        crate::harness::Running::spawn(command, std::process::Stdio::null()).finish()
    };
    let made = run(&["network", "new", "--name", "trial", "--puzzle-bits", "1"], "").ok();
    fs::write(home.path().join("network.toml"), made.stdout).unwrap();
    for file in ["places.mmdb", "nowhere.mmdb"] {
        let args = ["node", "run", "--network", "network.toml", "--data-dir", "node", "--no-mdns"];
        let refused = run(&args, file).expect(2);
        assert!(refused.stderr.contains("GeoIP") && refused.stderr.contains(file), "{}", refused.stderr);
    }
}
