//! A network that is too small, and a folder for what it has nobody for.

use std::{fs, path::Path};

use crate::{
    harness::{Lab, Owner, Running, below},
    tree,
};

/// What lies at a provider that is a folder: objects in folders, beside the marker.
fn objects(folder: &Path) -> usize {
    let folders = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    folders.map(|path| fs::read_dir(path).unwrap().count()).sum()
}

fn name_fallback(owner: &Owner, folder: &Path) {
    let text = format!("[[fallback]]\nname = \"nas\"\nkind = \"folder\"\npath = {:?}\n", folder.to_str().unwrap());
    fs::create_dir_all(owner.data_dir()).unwrap();
    fs::write(owner.data_dir().join("config.toml"), text).unwrap();
}

#[test]
fn three_nodes_and_a_folder_carry_a_vault_through_a_fire() {
    let lab = Lab::up(3);
    let owner = Owner::init(&lab);
    let storage = tempfile::tempdir().unwrap();
    let source = owner.place("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("big"), tree::noise("fallback", 3_000_000)).unwrap();
    fs::write(source.join("small"), b"a small file").unwrap();

    let refused = owner.backup(&source);
    assert_ne!(refused.code, Some(0), "three nodes alone are too few");

    name_fallback(&owner, storage.path());
    let stored = owner.backup(&source).stored();
    let told = &stored.summary()["fallback"][0];
    assert_eq!(told["provider"], "nas");
    let there = objects(storage.path());
    assert!(there >= 2 && told["shards"].as_u64() == Some(there as u64), "{told}");
    assert_eq!(&owner.run(["status", "--json"]).ok().summary()["fallback"][0], told);
    owner.run(["check", "--read-data"]).ok();
    let target = owner.place("restored");
    owner.restore("latest", &target).ok();
    tree::assert_same(&tree::describe(&source), &below(&target, &source));
    let wanted = tree::describe(&source);
    owner.burn();

    let blank = Owner::blank(&lab.network_file());
    name_fallback(&blank, storage.path());
    fs::write(blank.place("words"), format!("{}\n", owner.phrase())).unwrap();
    let mut recover = blank.command(["recover", "--json"]);
    recover.env("CAIRN_RECOVERY_PHRASE_FILE", blank.place("words"));
    Running::spawn(recover, std::process::Stdio::null()).finish().ok();
    // Two of three nodes are not needed: what the folder has is as good as theirs.
    lab.kill(&[2]);
    let target = blank.place("restored");
    blank.restore("latest", &target).ok();
    tree::assert_same(&wanted, &below(&target, &source));
}
