//! Who cheats ends up outside, and anybody can see why; who is slandered stays in.
//!
//! The honest are real processes. The cheats run inside the test ([`crate::rogue`]), because the program itself cannot be made to lie.

use std::{collections::BTreeSet, fs, path::PathBuf, process::Stdio, time::Duration};

use cairn::{network::keeper::ShardKeeper as _, timers::Timers};
use cairn_proto::PeerKey;
use serde_json::Value;

use crate::{
    departure::without_heir,
    harness::{Lab, Owner, Running, below, cairn, until, until_within},
    rogue::{Audited, Crier, Rogue, advert, identity, now},
    tree,
};

/// A day is half a minute.
const SCALE: &str = "0.0003";
/// What is asked for four times, ten seconds each, with pauses between them that are seven eighths of a round of audits, which is twenty seconds
/// here; and then ordered: some seventy seconds by the nodes' own clocks. A quarter of it as it runs alone.
const DROPPED_WITHIN: Duration = Duration::from_secs(300);
/// Owners that back up until a group of one of them has the cheat in it, and beside it one more peer of its colour: every third
/// group or so, so none of so many in one run of a hundred thousand.
const OWNERS_MAX: usize = 30;

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// The round that hurried nodes count by, as they reckon it.
fn round() -> u64 {
    let timers = Timers::new(&Default::default(), SCALE.parse().ok()).unwrap();
    now().0 / timers.round.as_millis() as u64
}

/// What a node of the lab says of a peer; none while it does not know it.
pub fn explained(lab: &Lab, node: usize, peer: &PeerKey) -> Option<Value> {
    let told = lab.on_node(node, &["peers", "--explain", &peer.to_string(), "--json"]);
    (told.code == Some(0)).then(|| told.summary())
}

pub fn lines(told: &Value) -> String {
    let lines = told["lines"].as_array().expect("lines");
    lines.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("\n")
}

/// Waits until a node of the lab knows that a peer lied, and gives what it says of it.
#[track_caller]
fn outside(lab: &Lab, node: usize, peer: &PeerKey) -> Value {
    until("it is outside", || explained(lab, node, peer).filter(|told| told["convicted"] == true))
}

/// The file that a node keeps against a peer proves it on a machine that was never anywhere, and no changed copy of it does.
#[track_caller]
fn proves(told: &Value, peer: &PeerKey, did: &str) {
    let kept = PathBuf::from(told["evidence"].as_str().expect("a file"));
    assert_eq!((&told["score"], &told["eligible"]), (&0.into(), &false.into()), "{told}");
    let said = lines(told);
    assert!(said.contains(did) && said.contains("cairn peers --verify"), "{said}");
    let blank = tempfile::tempdir().unwrap();
    let verify = |bytes: &[u8]| {
        fs::write(blank.path().join("file.evidence"), bytes).unwrap();
        let mut command = cairn(blank.path());
        command.args(["peers", "--verify", "file.evidence", "--json"]);
        Running::spawn(command, Stdio::null()).finish()
    };
    // It is written within a moment of the verdict.
    let bytes = until("the proof is a file", || fs::read(&kept).ok());
    let checked = verify(&bytes).ok().summary();
    assert_eq!((&checked["proves"], checked["subject"].as_str()), (&true.into(), Some(peer.to_string().as_str())));
    for at in [8, bytes.len() / 2, bytes.len() - 8] {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        let changed = verify(&changed).expect(1).summary();
        assert_eq!((&changed["proves"], &changed["kind"]), (&false.into(), &"nothing".into()));
    }
    assert_eq!(fs::read_dir(blank.path()).unwrap().count(), 1, "nothing but the file was there or came to be");
}

/// One that took shards signs slices of something else when its owner audits it.
#[test]
fn who_signs_wrong_slices_is_outside_everywhere() {
    let lab = Lab::hurried(9, SCALE);
    let runtime = runtime();
    let cheat = runtime.block_on(Rogue::join(&lab, "wrong slices", "cheat", Audited::Lies, SCALE));
    let liar = cheat.peer();
    // Who is in a group is drawn for each: one of a few owners has it in its first.
    let (owner, source) = until("it was given something", || {
        let owner = Owner::init(&lab);
        let source = owner.place("source");
        fs::create_dir(&source).unwrap();
        fs::write(source.join("file"), tree::noise("cheat", 3_000_000)).unwrap();
        owner.backup(&source).stored();
        (cheat.keeper.count() > 0).then_some((owner, source))
    });
    until("everybody knows it", || lab.nodes().all(|node| explained(&lab, node, &liar).is_some()).then_some(()));
    assert!(explained(&lab, 0, &liar).unwrap()["convicted"] == false);

    let found = owner.run(["audit", "--all", "--full-slots", "--json"]).expect(5);
    assert!(found.figure("wrong") > 0, "{}", found.text());
    // The owner's next word is enough for all to hear of it, whoever they are.
    owner.run(["peers", "--json"]).ok();
    let told: Vec<Value> = lab.nodes().map(|node| outside(&lab, node, &liar)).collect();
    for told in [&told[0], &told[lab.nodes().len() - 1]] {
        proves(told, &liar, "signed an answer that is not of the shard");
    }
    // Nobody keeps a connection to it, and it knocks in vain.
    until("everybody hung up", || (cheat.handle.readiness().connected == 0).then_some(()));
    let door = lab.tcp_address(0).parse().unwrap();
    runtime.block_on(cheat.handle.dial(door)).unwrap();
    until("its knocking is in vain", || (cheat.handle.readiness().connected == 0).then_some(()));
    let listed = lab.on_node(3, &["peers", "--json"]).ok().rows("peer");
    let note = listed.iter().find(|row| row["peer"] == liar.to_string().as_str()).map(|row| row["note"].clone());
    assert!(note.is_none_or(|note| note == "outside: proved to have lied"), "{listed:?}");

    // It gets nothing any more, also from somebody who comes after all this; and nothing is lost.
    let before = cheat.keeper.count();
    let late = Owner::init(&lab);
    late.backup_stream("late", &tree::noise("late", 6_000_000)).stored();
    assert_eq!(cheat.keeper.count(), before);
    let told = late.run(["peers", "--explain", &liar.to_string(), "--json"]).ok().summary();
    assert_eq!(told["convicted"], true, "{told}");
    let target = owner.place("target");
    owner.restore("latest", &target).ok();
    tree::assert_same(&tree::describe(&source), &below(&target, &source));
}

/// One that took shards and signed for them drops most of a slot and keeps silent about them when it is asked. The owner is away: who audits
/// for the stewards finds it, says what it signed for and did not show, and the stewards have somebody else take the slot.
#[test]
fn who_drops_what_it_signed_for_is_outside_and_somebody_takes_its_place() {
    // Rounds of audits as short as they can be; whoever is known for six seconds may audit.
    let lab = Lab::timed(14, SCALE, "audit = 1\nregistered = 20000\n");
    let runtime = runtime();
    let cheat = runtime.block_on(Rogue::join(&lab, "dropper", "dropper", Audited::Drops, SCALE));
    let dropper = cheat.peer();
    // Who is in a group, and who else has the colour of its slot, is drawn for each: one of a few owners has it audited by peers.
    let mut owners = Vec::new();
    let (group, slot) = until_within(DROPPED_WITHIN, "somebody audits it", || {
        if owners.len() < OWNERS_MAX {
            let owner = Owner::init(&lab);
            let source = owner.place("source");
            fs::create_dir(&source).unwrap();
            fs::write(source.join("file"), tree::noise(&format!("dropper {}", owners.len()), 12_000_000)).unwrap();
            owner.backup(&source).stored();
            // Its group is among those that the cheat has something of now.
            owners.push((owner, source, cheat.keeper.offered()));
        }
        cheat.audited().into_iter().find(|(group, slot)| cheat.keeper.rows(*group, *slot).len() > 1)
    });
    for node in lab.nodes() {
        let told = explained(&lab, node, &dropper).expect("known");
        assert!(told["eligible"] == true && told["owing"].is_null(), "so far it showed everything: {told}");
    }
    let (id, short, slot) = (group.to_string(), group.short(), slot.as_u8());
    let have = |dropped: &BTreeSet<u8>| -> BTreeSet<usize> {
        let stores = lab.stores();
        stores.assert_separated();
        let has = |node: &usize, ordinal: &u8| {
            let same = |of: u64, at: u64| of == u64::from(*ordinal) && at == u64::from(slot);
            stores.0[node].iter().any(|shard| shard.group == id && same(shard.ordinal, shard.slot))
        };
        lab.nodes().filter(|node| dropped.iter().all(|ordinal| has(node, ordinal))).collect()
    };
    let dropped = runtime.block_on(cheat.drops(group));
    assert!(!dropped.is_empty());
    let before = have(&dropped);

    let told = until_within(DROPPED_WITHIN, "an auditor holds against it all that it dropped", || {
        lab.nodes().find_map(|node| {
            let told = explained(&lab, node, &dropper)?;
            let shards = Some(dropped.len() as u64);
            let all = |owing: &Value| owing["slot"] == slot && owing["shards"].as_u64() == shards;
            let owes = told["owing"].as_array()?.iter().any(all);
            (owes && told["eligible"] == false).then_some(told)
        })
    });
    let (said, n) = (lines(&told), dropped.len());
    let shards = if n == 1 { "1 shard".to_owned() } else { format!("{n} shards") };
    let signed = format!("did not show {shards} of slot {slot} of group {short}: it signed for {n}, and showed ");
    assert!(said.contains(&signed) && said.contains("not eligible"), "{said}");
    assert_eq!(told["convicted"], false, "silence is no proof");

    // Nobody but the stewards gives anything to anybody now, and so many of them as it takes doubt it.
    let place = (short, u64::from(slot));
    let rows = || {
        let all = lab.nodes().flat_map(|node| lab.on_node(node, &["status", "--json"]).rows("watched_group"));
        all.filter(|row| row["group"] == place.0.as_str()).collect::<Vec<Value>>()
    };
    let doubts = |row: &Value| {
        let named = format!("{} of slot {slot}: ", dropper.short());
        let mut names = row["not_shown"].as_array().expect("a list").iter().filter_map(Value::as_str);
        names.any(|name| name.starts_with(&named))
    };
    until_within(DROPPED_WITHIN, "the stewards know that it was not shown", || {
        let rows = rows();
        let quorum = rows.iter().filter_map(|row| row["quorum"].as_u64()).max()?;
        (rows.iter().filter(|row| doubts(row)).count() as u64 >= quorum).then_some(())
    });
    until_within(DROPPED_WITHIN, "somebody else takes the slot, or the stewards say that nobody can", || {
        let taken = have(&dropped).difference(&before).next().is_some();
        (taken || without_heir(&lab).contains(&place)).then_some(())
    });
    let of_group = |(.., offered): &&(Owner, PathBuf, BTreeSet<_>)| offered.iter().any(|(of, _)| *of == group);
    let (owner, source, _) = owners.iter().find(of_group).expect("somebody's group");
    let target = owner.place("target");
    owner.restore("latest", &target).ok();
    tree::assert_same(&tree::describe(source), &below(&target, source));
}

/// One that votes against a peer before some and for it before others has signed both.
#[test]
fn who_says_two_things_is_outside_everywhere() {
    let lab = Lab::hurried(8, SCALE);
    let victim = peer_of(&lab, 5);
    let runtime = runtime();
    let mut crier = runtime.block_on(Crier::connect(&lab, 0, "two things"));
    let cheat = identity(crier.network(), "two things");
    let liar = cheat.peer();
    let said = advert(crier.network(), &cheat, "two-tongued");
    runtime.block_on(crier.advertise(&said));
    until("everybody knows it", || {
        runtime.block_on(crier.listen(Duration::from_millis(20)));
        lab.nodes().all(|node| explained(&lab, node, &liar).is_some()).then_some(())
    });
    let told = until("it says both, in one round", || {
        let round = round();
        for against in [true, false] {
            runtime.block_on(crier.vote(&cheat, victim, against, round));
        }
        explained(&lab, 1, &liar).filter(|told| told["convicted"] == true)
    });
    proves(&told, &liar, "signed two words that cannot both be true");
    proves(&outside(&lab, 7, &liar), &liar, "signed two words that cannot both be true");
    for node in lab.nodes() {
        outside(&lab, node, &liar);
        let told = explained(&lab, node, &victim);
        assert!(
            told.is_none_or(|told| told["eligible"] == true && told["convicted"] == false),
            "the other is unharmed"
        );
    }
}

/// The key of a lab's node.
pub fn peer_of(lab: &Lab, node: usize) -> PeerKey {
    let address = lab.tcp_address(node);
    let id: libp2p::PeerId = address.rsplit('/').next().unwrap().parse().expect("the address ends with the peer id");
    let bytes = id.to_bytes();
    PeerKey::from_slice(&bytes[bytes.len() - 32..]).expect("32 bytes")
}

/// Six identities of two domains complain of an honest peer and vote to exclude it, as nodes do that believe it.
#[test]
fn who_is_slandered_by_few_domains_stays_in() {
    let lab = Lab::hurried(8, SCALE);
    let victim = peer_of(&lab, 5);
    let runtime = runtime();
    let liars: Vec<Rogue> = (0..6)
        .map(|n| {
            let domain = format!("slander{}", n % 2);
            runtime.block_on(Rogue::join(&lab, &format!("slander {n}"), &domain, Audited::Hides, SCALE))
        })
        .collect();
    // Newcomers have no voice: it takes a round until anybody listens.
    let heard = |node: usize| {
        until("what they say is heard, and why it counts for nothing", || {
            liars.iter().for_each(|liar| liar.slanders(&victim));
            let told = explained(&lab, node, &victim)?;
            assert!(told["eligible"] == true && told["convicted"] == false, "{told}");
            let said = lines(&told);
            let both = told["voted"]["domains"] == 2 && said.contains("2 of ") && said.contains("domains complain");
            // The honest ones are newcomers too at first: then nobody's voice is heard, and nothing is weighed.
            let weighed = told["voted"]["of"].as_u64() >= Some(7) && said.contains("which takes 0.000");
            (both && weighed).then_some((told, said))
        })
    };
    for node in [1, 7] {
        let (told, said) = heard(node);
        assert!(said.contains("and nothing follows"), "{said}");
        assert!(told["score"].as_u64() >= Some(500), "{told}");
    }
    // Its own house still stands: it is given shards. Whether an owner's groups choose it is their salts' doing, so there are several owners.
    until("it is given shards", || {
        let owner = Owner::init(&lab);
        owner.backup_stream("file", &tree::noise("slander", 3_000_000)).stored();
        (!lab.store_of(5).is_empty()).then_some(())
    });
    for node in lab.nodes().filter(|node| *node != 5) {
        let told = explained(&lab, node, &victim).expect("known");
        assert!(told["eligible"] == true, "{told}");
    }
}

/// A hundred identities of one operator offer a terabyte each and vote together: they count as one.
#[test]
fn a_hundred_identities_are_one_domain() {
    let lab = Lab::hurried(9, SCALE);
    let victim = peer_of(&lab, 4);
    let runtime = runtime();
    let mut crier = runtime.block_on(Crier::connect(&lab, 0, "crowd"));
    let crowd: Vec<_> = (0..100).map(|n| identity(crier.network(), &format!("crowd {n}"))).collect();
    let address = lab.tcp_address(0);
    for (n, one) in crowd.iter().enumerate() {
        let said = advert(crier.network(), one, "crowd");
        runtime.block_on(async {
            let mut this = Crier::dial(crier.network().clone(), &address, &format!("crowd {n}")).await;
            this.advertise(&said).await;
            this.listen(Duration::from_millis(20)).await;
        });
    }
    let known = |node: usize| {
        let rows = lab.on_node(node, &["peers", "--json"]).ok().rows("peer");
        rows.iter().filter(|row| row["domain"] == "op:crowd").count()
    };
    until("all of them are known", || {
        runtime.block_on(crier.listen(Duration::from_millis(20)));
        (known(1) == 100 && known(8) == 100).then_some(())
    });
    // In votes they are one voice.
    // A hundred signed votes a look, and one line that brings them.
    let told = until_within(Duration::from_secs(240), "all of them voted", || {
        let round = round();
        for one in &crowd {
            runtime.block_on(crier.vote(one, victim, true, round));
        }
        let told = explained(&lab, 8, &victim)?;
        assert!(told["eligible"] == true, "{told}");
        (told["voted"]["peers"].as_u64() >= Some(100)).then_some(told)
    });
    assert_eq!(told["voted"]["domains"], 1, "{told}");
    // In placement they are one place: none of them is there, and every shard finds its own peer all the same.
    let owner = Owner::init(&lab);
    let source = owner.place("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), tree::noise("crowd", 8_000_000)).unwrap();
    owner.backup(&source).stored();
    let names: Vec<String> = crowd.iter().map(|one| one.peer().to_string()).collect();
    let groups = owner.run(["status", "--json"]).ok().rows("group");
    assert!(!groups.is_empty());
    for group in &groups {
        let slots = group["holders"].as_array().expect("slots");
        let holders = slots.iter().flat_map(|slot| slot.as_array().expect("holders").clone());
        let of_crowd = holders.filter(|peer| names.iter().any(|name| *peer == name.as_str())).count();
        assert!(of_crowd <= 1, "{of_crowd} of one domain hold slots of {group}");
    }
    lab.stores().assert_separated();
    let target = owner.place("target");
    owner.restore("latest", &target).ok();
    tree::assert_same(&tree::describe(&source), &below(&target, &source));
}
