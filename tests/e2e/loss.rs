//! Holders vanish.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use crate::{
    harness::{Lab, Owner, below},
    tree,
};

const FILES: usize = 14;

fn name(n: usize) -> String {
    format!("file-{n:02}")
}

fn fill(source: &Path, names: std::ops::Range<usize>) {
    for n in names {
        fs::write(source.join(name(n)), tree::noise(&name(n), 4_000_000)).unwrap();
    }
}

/// Nodes that hold slots of a stripe and are not down, one a slot.
fn alive(slots: &BTreeMap<u64, Vec<usize>>, down: &BTreeSet<usize>) -> Vec<usize> {
    slots.values().filter_map(|nodes| nodes.iter().find(|n| !down.contains(n)).copied()).collect()
}

#[test]
fn three_dead_holders_lose_nothing_and_a_fourth_only_what_it_names() {
    let lab = Lab::up(14);
    let owner = Owner::init(&lab);
    let source = owner.place("source");
    fs::create_dir(&source).unwrap();
    fill(&source, 0..FILES);
    owner.backup(&source).ok();
    let old = lab.stores();
    old.assert_separated();
    let old_groups = old.groups();

    // Three of eight slots of a group, found as anybody can find them: in the holders' own stores.
    let (victim, slots) = old_groups.iter().max_by_key(|(_, slots)| slots.len()).expect("groups");
    assert_eq!(slots.len(), 8, "group {victim}: {slots:?}");
    let mut down: BTreeSet<usize> = slots.values().take(3).map(|nodes| nodes[0]).collect();
    lab.kill(&down.iter().copied().collect::<Vec<_>>());

    let target = owner.place("with-three-dead");
    owner.restore("latest", &target).ok();
    tree::assert_same(&tree::describe(&source), &below(&target, &source));

    // A new backup goes elsewhere and is whole; what it brings rewrites the folder's listing too.
    fill(&source, FILES..FILES + 4);
    let second = owner.backup(&source);
    // What lies at the dead holders is short until peers of their colours take it, and the backup says so.
    let short = second.figure("stripes_below_target");
    assert_eq!(second.figure("stripes_unreadable"), 0);
    let second = second.expect(if short > 0 { 4 } else { 0 });
    assert!(second.figure("files_new") == 4 && second.figure("errors") == 0);
    let mut new = lab.stores();
    new.assert_separated();
    for node in &down {
        assert_eq!(new.0[node], old.0[node], "a dead node got nothing");
    }
    let fresh: BTreeMap<_, _> = new.groups().into_iter().filter(|(id, _)| !old_groups.contains_key(id)).collect();
    assert!(!fresh.is_empty(), "groups with dead holders take no new stripes");
    for (id, slots) in &fresh {
        assert!(slots.len() >= 4, "group {id} has too few slots: {slots:?}");
        assert!(slots.values().flatten().all(|n| !down.contains(n)));
    }

    // More holders of a full stripe of that group die, those included that took its shards meanwhile, until fewer than five
    // of its slots are left.
    let stripes = new.stripes();
    let (old_stripes, fresh): (Vec<_>, Vec<_>) = stripes.iter().partition(|((id, _), _)| old_groups.contains_key(id));
    let (_, slots) = old_stripes.iter().find(|((id, _), slots)| id == victim && slots.len() == 8).expect("full stripe");
    while let holders = alive(slots, &down)
        && holders.len() > 4
    {
        let harm = |node: &usize| {
            let mut then = down.clone();
            then.insert(*node);
            let broken = |(_, slots): &&(&_, &BTreeMap<u64, Vec<usize>>)| alive(slots, &then).len() + 3 < slots.len();
            (fresh.iter().filter(broken).count(), old_stripes.iter().filter(broken).count())
        };
        let next = holders.into_iter().min_by_key(harm).expect("somebody is alive");
        lab.kill(&[next]);
        down.insert(next);
    }
    let before = tree::describe(&source);
    let target = owner.place("with-four-dead");
    let lost = owner.restore("latest", &target).expect(6);
    let named = lost.failed_items();
    assert!(!named.is_empty(), "the lost files are named: {}", lost.text());
    let is_named = |n: usize| named.iter().any(|item| item.contains(&name(n)));
    for n in 0..FILES + 4 {
        let restored = below(&target, &source).join(name(n));
        if is_named(n) {
            assert!(n < FILES, "{} lies in groups that are whole", name(n));
            // Not there, or nothing of it: never a file that looks whole and is not.
            assert!(!restored.exists(), "{} is lost and was written all the same", name(n));
        } else {
            let bytes =
                fs::read(&restored).unwrap_or_else(|e| panic!("{} is neither restored nor named: {e}", name(n)));
            assert!(bytes == tree::noise(&name(n), 4_000_000), "{}: a wrong byte", name(n));
        }
    }
    assert!((0..FILES).any(is_named), "a group below five slots loses something");
    assert!((0..FILES + 4).any(|n| !is_named(n)), "other groups restore");

    // `check` says the same. When the holders come back, so does everything.
    owner.run(["check", "--json"]).expect(6);
    lab.start(&down.iter().copied().collect::<Vec<_>>());
    let target = owner.place("all-back");
    owner.restore("latest", &target).ok();
    tree::assert_same(&before, &below(&target, &source));
    new = lab.stores();
    new.assert_separated();
}

/// Holders whose pledge is used up take no more, say so, and the backup goes elsewhere.
#[test]
fn full_holders_are_passed_over() {
    const FULL: [usize; 3] = [2, 5, 9];
    const PLEDGE: u64 = 4 << 20;
    let lab = Lab::up(14);
    lab.stop(&FULL);
    let path = lab.network_file().with_file_name("lab.json");
    let mut file: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    for node in FULL {
        file["nodes"][node]["give"] = PLEDGE.into();
    }
    fs::write(&path, file.to_string()).unwrap();
    lab.start(&FULL);
    let owner = Owner::init(&lab);
    let source = owner.place("source");
    fs::create_dir(&source).unwrap();
    fill(&source, 0..FILES);
    let backup = owner.backup(&source);
    let code = if backup.figure("stripes_below_target") > 0 { 4 } else { 0 };
    backup.expect(code);
    let stores = lab.stores();
    for node in FULL {
        assert!(stores.0[&node].len() <= (PLEDGE >> 20) as usize, "node {node} holds {}", stores.0[&node].len());
    }
    stores.assert_separated();
    let target = owner.place("target");
    owner.restore("latest", &target).ok();
    tree::assert_same(&tree::describe(&source), &below(&target, &source));
}
