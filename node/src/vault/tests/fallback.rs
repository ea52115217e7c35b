//! Fallback storage, by folders: when it is used, that it is right, that it ends, and what a bad one costs.

use std::collections::BTreeSet;

use cairn_core::fallback::OBJECT_SIZE;
use cairn_proto::manifest::GroupRow;

use super::{memory_overlay::Manner, *};
use crate::fallback::FallbackSection;

/// A folder that is there, as `[[fallback]]` names it.
fn folder(owner: &Owner, name: &str) -> FallbackSection {
    let path = owner.dir.path().join("storage").join(name);
    std::fs::create_dir_all(&path).expect("made");
    FallbackSection { name: name.to_owned(), kind: "folder".to_owned(), path: Some(path), ..FallbackSection::default() }
}

fn owner(peers: u8, folders: &[&str]) -> Owner {
    let mut owner = Owner::new(peers);
    let sections = folders.iter().map(|name| folder(&owner, name)).collect();
    owner.fallback = Fallbacks::new(sections).expect("valid");
    owner.write("a/file", &noise(1, 3 << 20));
    owner.write("b", b"small");
    owner
}

/// The objects in a provider's folder, each with the folder that it lies in: one for each slot of a group.
fn objects(owner: &Owner, name: &str) -> Vec<(String, PathBuf)> {
    let root = owner.dir.path().join("storage").join(name);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root).expect("readable").map(|entry| entry.expect("readable")) {
        if entry.path().is_dir() {
            let slot = entry.file_name().to_string_lossy().into_owned();
            let inside = std::fs::read_dir(entry.path()).expect("readable").map(|e| e.expect("readable").path());
            found.extend(inside.map(|path| (slot.clone(), path)));
        }
    }
    found
}

fn slots(owner: &Owner, name: &str) -> BTreeSet<String> {
    objects(owner, name).into_iter().map(|(slot, _)| slot).collect()
}

fn groups(owner: &Owner) -> Vec<GroupRow> {
    let vault = Vault::open(&owner.data, None).expect("opens");
    vault.catalogue.groups().collect::<Result<_, _>>().expect("readable")
}

fn texts(ran: &Ran) -> String {
    let notices =
        ran.events.iter().filter_map(|e| if let Event::Notice { text, .. } = e { Some(&text[..]) } else { None });
    notices.collect::<Vec<_>>().join(" ")
}

/// Peers of every colour: of a hundred none lacks one but once in 10^7 times.
fn crowd(owner: &Owner) {
    owner.overlay.add_peers(100..200);
}

#[tokio::test(flavor = "multi_thread")]
async fn three_peers_and_a_folder_make_a_backup_and_the_folder_is_empty_when_peers_came() {
    let owner = owner(3, &["nas"]);
    let ran = owner.backup().await.expect(ExitCode::Success);
    assert!(ran.notices().contains(&"FALLBACK_IN_USE"), "{:?}", ran.notices());
    let told = &ran.summary()["fallback"][0];
    let there = objects(&owner, "nas");
    assert_eq!((told["provider"].as_str(), told["shards"].as_u64()), (Some("nas"), Some(there.len() as u64)));
    assert_eq!(slots(&owner, "nas").len(), 2, "SEP-6: of RS(3,2) two slots, no peer stood back");
    for (_, path) in &there {
        let object = std::fs::read(path).expect("readable");
        assert_eq!(object.len(), OBJECT_SIZE);
    }
    owner.restore("one").await.expect(ExitCode::Success);
    owner.assert_same("one");
    let status = owner.run(Verb::Status).await.expect(ExitCode::Success);
    assert!(status.notices().contains(&"FALLBACK_IN_USE"));
    assert_eq!(status.summary()["fallback"], ran.summary()["fallback"]);
    let lowest = status.summary()["lowest_margin"].as_i64();
    assert_eq!(lowest, Some(2), "a slot that leans is there");
    let checked = owner.check(true).await.expect(ExitCode::Success);
    assert_eq!(checked.summary()["fallback"], ran.summary()["fallback"]);
    // Nothing new, no peer: nothing changes.
    owner.backup().await.expect(ExitCode::Success);
    let before = objects(&owner, "nas").len();

    crowd(&owner);
    let ran = owner.backup().await.expect(ExitCode::Success);
    assert_eq!(ran.summary()["fallback_moved_to_peers"].as_u64(), Some(before as u64));
    assert_eq!(ran.summary()["fallback"], serde_json::json!([]));
    assert!(!ran.notices().contains(&"FALLBACK_IN_USE"));
    assert!(objects(&owner, "nas").is_empty(), "deleted once a head said who has them");
    owner.restore("two").await.expect(ExitCode::Success);
    owner.assert_same("two");
    owner.check(true).await.expect(ExitCode::Success);
    let status = owner.run(Verb::Status).await;
    assert!(!status.notices().contains(&"FALLBACK_IN_USE"));
}

#[tokio::test(flavor = "multi_thread")]
async fn several_providers_share_the_slots_and_too_few_are_an_error_that_counts() {
    let none = owner(2, &[]);
    let ran = none.backup().await.expect(ExitCode::TooFewPeers);
    assert!(!ran.failure().message.contains("fallback"), "{}", ran.failure().message);
    let one = owner(2, &["nas"]);
    let ran = one.backup().await.expect(ExitCode::TooFewPeers);
    assert!(
        ran.failure().message.ends_with("fallback storage can take 2 slots of a group"),
        "{}",
        ran.failure().message
    );
    assert!(objects(&one, "nas").is_empty(), "nothing was put there in vain");

    let two = owner(2, &["nas", "attic"]);
    let ran = two.backup().await.expect(ExitCode::BelowTarget);
    assert_eq!(ran.summary()["head_kept_by"].as_u64(), Some(2), "two peers are too few for a head, for nothing else");
    assert_eq!(ran.summary()["stripes_below_target"].as_u64(), Some(0));
    let (nas, attic) = (slots(&two, "nas").len(), slots(&two, "attic").len());
    assert_eq!((nas.min(attic), nas.max(attic)), (1, 2), "SEP-6, and spread");
    two.restore("there").await.expect(ExitCode::Success);
    two.assert_same("there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blank_machine_needs_the_settings_again_and_says_so() {
    let mut owner = owner(2, &["nas", "attic"]);
    // Two stripes, the second one nearly full too.
    owner.write("a/file", &noise(1, 11 << 19));
    owner.backup().await.expect(ExitCode::BelowTarget);
    let settings = owner.fallback.clone();
    owner.data = owner.dir.path().join("blank");
    owner.fallback = Fallbacks::default();
    let ran = owner.recover().await;
    let mut told = texts(&ran);
    if let Err(failure) = &ran.result {
        // Neither of the two peers has the slot in which the list of everything lies.
        assert!(ran.code() == ExitCode::Lost && failure.hint.contains("[[fallback]]"), "{failure:?}");
        told.push_str(&failure.causes.join(" "));
    }
    for name in ["nas", "attic"] {
        assert!(told.contains(&format!("at fallback storage {name:?}: it is not in the settings")), "{told}");
    }

    owner.fallback = settings;
    owner.recover().await.expect(ExitCode::Success);
    owner.restore("there").await.expect(ExitCode::Success);
    owner.assert_same("there");
    // Known again: without the settings a restore names what it lacks.
    owner.fallback = Fallbacks::default();
    let ran = owner.restore("nowhere").await;
    assert!(ran.notices().contains(&"FALLBACK_MISSING"), "{:?}", ran.notices());
    assert_ne!(ran.code(), ExitCode::Success);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_lies_cuts_or_loses_costs_nothing_and_is_mended() {
    let owner = owner(3, &["nas"]);
    owner.backup().await.expect(ExitCode::Success);
    let there = objects(&owner, "nas");
    assert!(there.len() >= 2);
    for (at, (_, path)) in there.iter().enumerate() {
        let mut object = std::fs::read(path).expect("readable");
        match at % 3 {
            0 => object[5000] ^= 1,
            1 => object.truncate(77),
            _ => {
                std::fs::remove_file(path).expect("removed");
                continue;
            }
        }
        std::fs::write(path, object).expect("written");
    }
    owner.restore("there").await.expect(ExitCode::Success);
    owner.assert_same("there");
    owner.check(true).await.expect(ExitCode::Damage);
    owner.backup().await;
    owner.check(true).await.expect(ExitCode::Success);
    for (_, path) in &there {
        assert_eq!(std::fs::metadata(path).expect("there again").len(), OBJECT_SIZE as u64);
    }
    // And two peers less are no loss now: what lies there is right.
    for peer in owner.overlay.peer_keys().into_iter().take(2) {
        owner.overlay.set_manner(&peer, Manner::Dead);
    }
    owner.restore("again").await.expect(ExitCode::Success);
    owner.assert_same("again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_holders_slot_leans_when_nobody_else_is_of_its_colour_and_never_too_many_do() {
    let owner = owner(5, &["nas"]);
    let ran = owner.backup().await.expect(ExitCode::Success);
    assert!(objects(&owner, "nas").is_empty(), "five peers are enough");
    assert_eq!(ran.summary()["fallback"], serde_json::json!([]));
    let holders: Vec<_> = groups(&owner)[0].holders.iter().map(|held| held[0]).collect();
    for (dead, expected) in [(0, 1), (1, 2)] {
        owner.overlay.set_manner(&holders[dead], Manner::Dead);
        owner.check(false).await;
        owner.backup().await;
        assert_eq!(slots_of_first_group(&owner), expected);
        owner.check(true).await.expect(ExitCode::Success);
    }
    // SEP-6: the third is not taken over, though nobody else is there for it.
    owner.overlay.set_manner(&holders[2], Manner::Dead);
    owner.backup().await;
    assert_eq!(slots_of_first_group(&owner), 2, "SEP-6");
    // Those that came back take theirs again. The provider had two, so it never gets another one of this group.
    owner.overlay.set_manner(&holders[0], Manner::Honest);
    owner.overlay.set_manner(&holders[1], Manner::Honest);
    owner.backup().await;
    owner.backup().await;
    assert_eq!(slots_of_first_group(&owner), 2, "SEP-6: slots that left count");
    owner.restore("there").await.expect(ExitCode::Success);
    owner.assert_same("there");
}

/// Which slots of the first group its stewards are told that lean: all of them the same.
fn said_to_lean(owner: &Owner) -> BTreeSet<usize> {
    let group = super::separation::ticket(owner, &groups(owner)[0]).id();
    let records = owner.overlay.records(group);
    assert!(!records.is_empty(), "somebody watches it");
    let leaning = records.into_iter().map(|(_, record)| {
        let leaning = record.sheets.iter().filter(|sheet| sheet.leans);
        leaning.map(|sheet| sheet.slot.index()).collect::<BTreeSet<usize>>()
    });
    let said: BTreeSet<BTreeSet<usize>> = leaning.collect();
    assert_eq!(said.len(), 1, "{said:?}");
    said.into_iter().next().expect("one")
}

/// SEC-1: they learn that the slot is not lost, and no name or key of where it is.
#[tokio::test(flavor = "multi_thread")]
async fn stewards_are_told_which_slots_lean_and_no_more() {
    let owner = owner(5, &["nas"]);
    owner.backup().await.expect(ExitCode::Success);
    let row = groups(&owner)[0].clone();
    let ticket = super::separation::ticket(&owner, &row);
    let holders: Vec<_> = row.holders.iter().map(|held| held[0]).collect();
    // Stewards come, and nobody of the slots' colours.
    crowd(&owner);
    for slot in ticket.code().each_slot() {
        for peer in owner.overlay.coloured(&ticket, slot).iter().filter(|peer| !holders.contains(peer)) {
            owner.overlay.set_manner(peer, Manner::Dead);
        }
    }
    owner.backup().await;
    assert_eq!(said_to_lean(&owner), [].into());
    owner.overlay.set_manner(&holders[1], Manner::Dead);
    owner.check(false).await;
    owner.backup().await;
    assert_eq!(slots_of_first_group(&owner), 1);
    assert_eq!(said_to_lean(&owner), [1].into());
    for (_, record) in owner.overlay.records(ticket.id()) {
        let named = record.sheets.iter().flat_map(|sheet| &sheet.holders);
        let known: BTreeSet<_> = owner.overlay.peer_keys().into_iter().collect();
        assert!(named.into_iter().all(|holder| known.contains(holder)));
    }
    // It comes back and has its slot again.
    owner.overlay.set_manner(&holders[1], Manner::Honest);
    owner.backup().await;
    owner.backup().await;
    assert_eq!(said_to_lean(&owner), [].into());
}

/// Slots of the first group that ever leaned, by its row.
fn slots_of_first_group(owner: &Owner) -> usize {
    let known: BTreeSet<_> = owner.overlay.peer_keys().into_iter().collect();
    groups(owner)[0].holders.iter().filter(|held| held.iter().any(|holder| !known.contains(holder))).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_cannot_be_used_is_as_if_it_were_not_there() {
    let mut owner = owner(3, &["nas"]);
    let path = owner.dir.path().join("storage/nas");
    std::fs::remove_dir(&path).expect("empty");
    let ran = owner.backup().await.expect(ExitCode::TooFewPeers);
    assert!(ran.notices().contains(&"FALLBACK_UNUSABLE"), "{:?}", ran.notices());
    assert!(!path.exists(), "a disk that is not mounted is not made up");
    // Something else stands where its objects should.
    std::fs::create_dir(&path).expect("made");
    owner.backup().await.expect(ExitCode::Success);
    std::fs::rename(&path, owner.dir.path().join("unplugged")).expect("moved");
    std::fs::create_dir(&path).expect("an empty mount point");
    owner.write("more", &noise(9, 1 << 20));
    let ran = owner.backup().await.expect(ExitCode::TooFewPeers);
    assert!(texts(&ran).contains("If it is a disk, mount it"), "{}", texts(&ran));
    assert!(objects(&owner, "nas").is_empty());
    owner.restore("there").await;
    std::fs::remove_dir(&path).expect("empty");
    std::fs::rename(owner.dir.path().join("unplugged"), &path).expect("plugged in");
    owner.backup().await.expect(ExitCode::Success);
    // The same folder under two names would hold twice as much of a group.
    let again = FallbackSection { name: "twin".to_owned(), ..folder(&owner, "nas") };
    owner.fallback = Fallbacks::new(vec![folder(&owner, "nas"), again]).expect("valid");
    let ran = owner.backup().await;
    assert!(ran.notices().contains(&"FALLBACK_UNUSABLE"));
    assert_eq!(slots(&owner, "nas").len() % 2, 0, "SEP-6: two slots of each group");
}

/// Puts to the provider end in errors in the middle of a run: what is lacking is said, nothing is listed that is not there.
#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_breaks_in_the_middle_of_a_run_loses_nothing() {
    let owner = owner(3, &["nas"]);
    owner.backup().await.expect(ExitCode::Success);
    owner.write("more", &noise(7, 4 << 20));
    // Its marker answers; where slots' folders belong lie files.
    let row = groups(&owner).into_iter().last().expect("a group");
    for (slot, path) in objects(&owner, "nas") {
        std::fs::remove_file(&path).expect("removed");
        let folder = path.parent().expect("a folder");
        if folder.is_dir() && std::fs::read_dir(folder).expect("readable").next().is_none() {
            std::fs::remove_dir(folder).expect("removed");
            std::fs::write(folder, slot).expect("written");
        }
    }
    let ran = owner.backup().await;
    assert!(row.holders.len() == 5 && ran.code() != ExitCode::Success, "{:?}", ran.result);
    owner.restore("there").await.expect(ExitCode::Success);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_reads_what_lies_there() {
    let owner = owner(3, &["nas"]);
    owner.backup().await.expect(ExitCode::Success);
    let audit = || owner.run(Verb::Audit(crate::ops::AuditArgs { full_slots: true, ..Default::default() }));
    let ran = audit().await.expect(ExitCode::Success);
    let at_nas: Vec<_> = ran.rows().into_iter().filter(|row| row["fallback"] == "nas").collect();
    assert_eq!(at_nas.len(), 2);
    assert!(at_nas.iter().all(|row| row["right"].as_u64() > Some(0) && row["wrong"] == 0));
    let (_, path) = objects(&owner, "nas").swap_remove(0);
    let mut object = std::fs::read(&path).expect("readable");
    object[99] ^= 1;
    std::fs::write(path, object).expect("written");
    let ran = audit().await.expect(ExitCode::Damage);
    assert_eq!(ran.summary()["missing"].as_u64(), Some(1), "what does not open is not there");
}

/// The whole way over the real protocols: each kind of server takes the slots that three peers cannot.
#[tokio::test(flavor = "multi_thread")]
async fn real_servers_take_slots_and_give_them_back() {
    for kind in ["s3", "webdav"] {
        let Some(server) = crate::fallback::tests::servers::Server::start(kind) else { return };
        let mut owner = owner(3, &[]);
        owner.fallback = Fallbacks::new(vec![server.section(kind, Some("wrong"))]).expect("valid");
        let ran = owner.backup().await.expect(ExitCode::TooFewPeers);
        assert!(ran.notices().contains(&"FALLBACK_UNUSABLE"), "{:?}", ran.notices());
        owner.fallback = Fallbacks::new(vec![server.section(kind, None)]).expect("valid");
        let ran = owner.backup().await.expect(ExitCode::Success);
        let shards = ran.summary()["fallback"][0]["shards"].as_u64();
        assert!(shards >= Some(2), "{kind}: {shards:?}");
        for peer in owner.overlay.peer_keys().into_iter().take(2) {
            owner.overlay.set_manner(&peer, Manner::Dead);
        }
        owner.restore("there").await.expect(ExitCode::Success);
        owner.assert_same("there");
        for peer in owner.overlay.peer_keys() {
            owner.overlay.set_manner(&peer, Manner::Honest);
        }
        owner.check(true).await.expect(ExitCode::Success);
        crowd(&owner);
        let ran = owner.backup().await.expect(ExitCode::Success);
        assert_eq!(ran.summary()["fallback_deleted"].as_u64(), shards, "{kind}");
        owner.check(true).await.expect(ExitCode::Success);
    }
}

/// A server without room for a single shard: whoever backs up is told that it is full, whatever status it says that with, nothing is listed
/// that is not there, and a folder that is named beside it takes what it cannot.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_server_says_so_and_a_folder_takes_its_place() {
    for kind in ["s3", "webdav"] {
        // Enough for its marker.
        let Some(server) = crate::fallback::tests::servers::Server::with_room(kind, Some(64 << 10)) else { return };
        let mut owner = owner(3, &[]);
        owner.fallback = Fallbacks::new(vec![server.section(kind, None)]).expect("valid");
        let ran = owner.backup().await;
        assert!(!matches!(ran.code(), ExitCode::Success | ExitCode::NothingToDo), "{kind}: {:?}", ran.result);
        let said = format!("{} {:?}", texts(&ran), ran.result);
        assert!(said.contains("it is full") && !said.contains("credentials"), "{kind}: {said}");
        owner.fallback = Fallbacks::new(vec![folder(&owner, "nas")]).expect("valid");
        owner.backup().await.expect(ExitCode::Success);
        assert!(objects(&owner, "nas").len() >= 2);
        owner.restore("there").await.expect(ExitCode::Success);
        owner.assert_same("there");
    }
}
