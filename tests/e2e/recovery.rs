//! The machine is gone; 24 words are left.

use std::{
    fs,
    time::{Duration, Instant},
};

use crate::{
    harness::{Lab, Owner, below},
    tree,
};

/// "At once": a wrong secret must not cost a walk through the network or a time-out.
const AT_ONCE: Duration = Duration::from_secs(15);

#[test]
fn twenty_four_words_bring_everything_back() {
    let lab = Lab::shared();
    let owner = Owner::init(&lab);
    let source = owner.place("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("big"), tree::noise("recover", 7_000_000)).unwrap();
    fs::write(source.join("small"), b"first version").unwrap();
    owner.backup(&source).stored();
    let first = tree::describe(&source);
    fs::write(source.join("small"), b"second version").unwrap();
    owner.backup(&source).stored();
    owner.backup_stream("stream", b"a stream").stored();
    let listed = owner.snapshots();
    owner.burn();

    let blank = Owner::blank(&lab.network_file());
    fs::write(blank.place("words"), format!("{}\n", owner.phrase())).unwrap();
    let mut recover = blank.command(["recover", "--json"]);
    recover.env("CAIRN_RECOVERY_PHRASE_FILE", blank.place("words"));
    crate::harness::Running::spawn(recover, std::process::Stdio::null()).finish().ok().json();
    assert_eq!(blank.snapshots(), listed, "every snapshot is listed as before");

    let id = |n: usize| listed[n]["id"].as_str().unwrap().to_owned();
    let target = blank.place("first");
    blank.restore(&id(0), &target).ok();
    tree::assert_same(&first, &below(&target, &source));
    let target = blank.place("second");
    blank.restore(&id(1), &target).ok();
    tree::assert_same(&tree::describe(&source), &below(&target, &source));
    assert_eq!(blank.dump("latest", "stream").ok().stdout, b"a stream");

    // Life goes on: the recovered vault backs up without sending again what the network has.
    let again = blank.backup(&source).stored();
    assert!(again.figure("data_added") < 1_000_000, "{}", again.summary());
    assert_eq!(blank.snapshots().len(), 4);
    lab.stores().assert_separated();
}

#[test]
fn a_wrong_phrase_or_passphrase_ends_at_once() {
    let lab = Lab::shared();
    let owner = Owner::init(&lab);
    fs::write(owner.place("file"), b"x").unwrap();
    owner.backup(&owner.place("file")).stored();

    let begun = Instant::now();
    fs::write(owner.place("passphrase"), "battery staple\n").unwrap();
    let refused = owner.run(["snapshots", "--json"]).expect(12);
    assert_eq!(refused.exit_error()["code"], 12);
    owner.run(["backup", owner.place("file").to_str().unwrap()]).expect(12);
    assert!(begun.elapsed() < AT_ONCE, "a wrong passphrase took {:?}", begun.elapsed());

    let recover = |words: &str| {
        let blank = Owner::blank(&lab.network_file());
        fs::write(blank.place("words"), words).unwrap();
        let mut command = blank.command(["recover", "--json"]);
        command.env("CAIRN_RECOVERY_PHRASE_FILE", blank.place("words"));
        crate::harness::Running::spawn(command, std::process::Stdio::null()).finish()
    };
    let phrase = owner.phrase();
    let swapped = {
        let mut words: Vec<_> = phrase.split(' ').collect();
        words[0] = if words[0] == "abandon" { "zoo" } else { "abandon" };
        words.join(" ")
    };
    let begun = Instant::now();
    for wrong in [swapped.as_str(), "twenty four words these are not", "", &phrase[..phrase.len() - 4]] {
        let refused = recover(wrong).expect(12);
        assert_eq!(refused.exit_error()["code"], 12, "{wrong:?}");
        assert!(!refused.stderr.contains(&phrase), "no phrase is ever printed in an error");
    }
    assert!(begun.elapsed() < AT_ONCE, "wrong phrases took {:?}", begun.elapsed());
    // A right phrase of another vault: well-formed, but nobody knows its head.
    let stranger = format!("{}art", "abandon ".repeat(23));
    recover(&stranger).expect(12);
}
