//! What a holder acknowledged, it has; what it has, it cannot read.

use std::fs;

use crate::{
    harness::{Lab, Owner, below},
    tree,
};

#[test]
fn acknowledged_shards_survive_the_kill_of_their_holders() {
    let lab = Lab::up(10);
    let owner = Owner::init(&lab);
    let source = owner.place("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), tree::noise("durable", 9_000_000)).unwrap();
    owner.backup(&source).ok();
    let before = lab.stores();

    let everybody: Vec<_> = lab.nodes().collect();
    lab.kill(&everybody);
    assert_ne!(owner.restore("latest", &owner.place("nobody")).code, Some(0));
    lab.start(&everybody);
    let after = lab.stores();
    for node in lab.nodes() {
        let (mut was, mut is) = (before.0[&node].clone(), after.0[&node].clone());
        was.sort();
        is.sort();
        assert_eq!(was, is, "node {node}");
    }
    let target = owner.place("restored");
    owner.restore("latest", &target).ok();
    tree::assert_same(&tree::describe(&source), &below(&target, &source));

    // A damaged log: the node starts, the damage is found, no wrong byte comes out.
    let victim = everybody.iter().copied().max_by_key(|n| before.0[n].len()).expect("ten nodes");
    lab.stop(&[victim]);
    for entry in fs::read_dir(lab.node_dir(victim).join("store/segments")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        // In the middle itself may be the space between two shards.
        let inside = bytes.len() / 2 + 100_000;
        if let Some(byte) = bytes.get_mut(inside) {
            *byte ^= 0x10;
        }
        fs::write(&path, bytes).unwrap();
    }
    lab.start(&[victim]);
    let target = owner.place("restored-despite-damage");
    owner.restore("latest", &target).ok();
    tree::assert_same(&tree::describe(&source), &below(&target, &source));
    owner.run(["check", "--read-data"]).expect(5);
}

#[test]
fn holders_keep_only_ciphertext() {
    let lab = Lab::shared();
    let owner = Owner::init(&lab);
    let source = owner.place("source-with-a-telling-name");
    fs::create_dir(&source).unwrap();
    let secret = b"the quick brown secret that no holder may ever see";
    let mut bytes = tree::noise("incompressible around it", 200_000);
    bytes.extend_from_slice(secret);
    bytes.extend_from_slice(&tree::noise("and behind", 200_000));
    fs::write(source.join("diary-of-ada.txt"), &bytes).unwrap();
    fs::write(source.join("plain.txt"), secret.repeat(100)).unwrap();
    owner.run(["backup", source.to_str().unwrap(), "--tag", "tag-that-tells", "--host", "host-that-tells"]).stored();

    let needles: [&[u8]; 6] =
        [secret, b"diary-of-ada", b"telling-name", b"tag-that-tells", b"host-that-tells", &bytes[1000..1032]];
    let mut waiting: Vec<_> = lab.nodes().map(|n| lab.node_dir(n)).collect();
    let mut looked_at = 0;
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            waiting.extend(fs::read_dir(&path).unwrap().filter_map(|e| Some(e.ok()?.path())));
        } else if let Ok(content) = fs::read(&path) {
            looked_at += content.len();
            for needle in needles {
                let found = memmem(&content, needle);
                assert!(!found, "SEC-1: {} has {:?}", path.display(), String::from_utf8_lossy(needle));
            }
        }
    }
    assert!(looked_at > 4 << 20, "the stores were looked at: {looked_at} bytes");
}

fn memmem(haystack: &[u8], needle: &[u8]) -> bool {
    let first = needle[0];
    let mut at = 0;
    while let Some(step) = haystack[at..].iter().position(|b| *b == first) {
        at += step;
        if haystack[at..].starts_with(needle) {
            return true;
        }
        at += 1;
    }
    false
}
