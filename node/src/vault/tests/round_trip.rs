//! The good days.

use bytes::Bytes;
use cairn_proto::{CodeParams, SHARD_PAYLOAD};

use super::*;
use crate::{
    ops::{DiffArgs, DumpArgs, FindArgs, LsArgs, SnapshotsArgs},
    vault::stream_input::StreamItem,
};

fn mixed(owner: &Owner) {
    owner.write("empty", b"");
    owner.write("small", b"hello");
    owner.write("deep/er/and/deeper/file", b"down here");
    owner.write("text", "the quick brown fox jumps over the lazy dog\n".repeat(50_000).as_bytes());
    for (i, length) in [SHARD_PAYLOAD, CodeParams::DEFAULT.stripe_payload()].into_iter().enumerate() {
        for delta in [-1isize, 0, 1] {
            let length = length.wrapping_add_signed(delta);
            owner.write(&format!("boundary/{i}-{delta}"), &noise((i as u8) * 3 + (delta + 1) as u8, length));
        }
    }
    let link = owner.source.join("link");
    std::os::unix::fs::symlink("small", link).expect("linked");
    std::fs::hard_link(owner.source.join("small"), owner.source.join("small-too")).expect("linked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mixed_tree_comes_back() {
    let owner = Owner::new(24);
    mixed(&owner);
    let ran = owner.backup().await.expect(ExitCode::Success);
    assert!(ran.errors().is_empty());
    let first = &ran.summary()["placement"]["first_attempt"];
    assert!(first["asked"].as_u64().is_some_and(|asked| asked >= 8) && first["share"] == 1.0, "{first}");
    owner.restore("out").await.expect(ExitCode::Success);
    owner.assert_same("out");
    owner.check(true).await.expect(ExitCode::Success);
}

#[tokio::test(flavor = "multi_thread")]
async fn low_peer_mode_works_and_is_said() {
    let owner = Owner::new(7);
    owner.write("a", &noise(1, 4 << 20));
    let ran = owner.backup().await.expect(ExitCode::Success);
    assert!(ran.events.iter().any(|e| matches!(e, Event::Notice { id, .. } if id == "LOW_PEER_MODE")));
    owner.restore("out").await.expect(ExitCode::Success);
    owner.assert_same("out");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_in_a_large_network() {
    let owner = Owner::new(48);
    owner.write("a", &noise(1, 6 << 20));
    owner.backup().await.expect(ExitCode::Success);
    for slot in [0, 1, 2, 3] {
        let holder = owner.overlay.holders_of_slot(slot)[0];
        owner.overlay.set_manner(&holder, memory_overlay::Manner::Dead);
    }
    owner.restore("out").await.expect(ExitCode::Success);
    owner.assert_same("out");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_backup_sends_only_what_changed() {
    let owner = Owner::new(24);
    owner.write("big", &noise(1, 20 << 20));
    a_tick_later().await;
    owner.backup().await.expect(ExitCode::Success);
    assert!(owner.overlay.take_sent() > 20 << 20);

    let ran = owner.backup().await.expect(ExitCode::Success);
    assert_eq!(ran.summary()["files_unmodified"], 1);
    let sent = owner.overlay.take_sent();
    assert!(sent <= 4 << 20, "an unchanged tree costs one short stripe, not {sent}");

    // The same bytes elsewhere, and forced reading: found by deduplication.
    owner.write("copy", &noise(1, 20 << 20));
    let args = BackupArgs { force: true, ..owner.backup_args() };
    owner.run(Verb::Backup(args)).await.expect(ExitCode::Success);
    let sent = owner.overlay.take_sent();
    assert!(sent <= 4 << 20, "{sent}");

    let args = BackupArgs { skip_if_unchanged: true, ..owner.backup_args() };
    owner.run(Verb::Backup(args)).await.expect(ExitCode::NothingToDo);
    assert_eq!(owner.overlay.take_sent(), 0);
    owner.restore("out").await.expect(ExitCode::Success);
    owner.assert_same("out");
}

/// The clock of a file system has ticks of ten milliseconds, and no call sets a ctime: what was just written has to get a tick old
/// before a backup knows that a later write would show.
async fn a_tick_later() {
    tokio::time::sleep(std::time::Duration::from_millis(25)).await;
}

/// A racily clean file: its times are not older than its reading, so a later write need not change them.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_not_at_rest_is_read_again() {
    let owner = Owner::new(24);
    owner.write("busy", b"one");
    owner.write("calm", b"two");
    let set = |name: &str, at: std::time::SystemTime| {
        let file = std::fs::File::options().write(true).open(owner.source.join(name)).expect("opens");
        file.set_modified(at).expect("set");
    };
    let now = std::time::SystemTime::now();
    let ahead = now + std::time::Duration::from_secs(3600);
    set("busy", ahead);
    set("calm", now - std::time::Duration::new(3600, 1));
    a_tick_later().await;
    owner.backup().await.expect(ExitCode::Success);
    let ran = owner.backup().await.expect(ExitCode::Success);
    let figures = |name: &str| ran.summary()[name].as_u64();
    assert_eq!(
        (figures("files_unmodified"), figures("files_changed"), figures("files_new")),
        (Some(1), Some(1), Some(0))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_sends_nothing() {
    let owner = Owner::new(24);
    owner.write("a", &noise(1, 8 << 20));
    let args = BackupArgs { dry_run: true, ..owner.backup_args() };
    owner.run(Verb::Backup(args)).await.expect(ExitCode::Success);
    assert_eq!(owner.overlay.take_sent(), 0);
    assert!(owner.run(Verb::Snapshots(SnapshotsArgs::default())).await.rows().is_empty());
}

async fn stream(owner: &Owner, items: Vec<StreamItem>) -> Ran {
    let (sender, input) = StreamInput::channel();
    tokio::spawn(async move {
        for item in items {
            let _ = sender.send(item).await;
        }
    });
    let args = BackupArgs { stdin_filename: Some("db/dump.sql".to_owned()), ..BackupArgs::default() };
    owner.run_with(Verb::Backup(args), None, Some(input), CancellationToken::new()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_comes_back_and_a_broken_one_never_counts() {
    let owner = Owner::new(24);
    let dump = "INSERT INTO t VALUES (1, 'some text that compresses');\n".repeat(30_000);
    let dump = [dump.as_bytes(), &noise(5, 3 << 20)].concat();
    let mut items: Vec<_> = dump.chunks(100_000).map(|p| StreamItem::Bytes(Bytes::copy_from_slice(p))).collect();
    stream(&owner, items.clone()).await.expect(ExitCode::StreamCommand);
    items.push(StreamItem::Failed("exit status 3".to_owned()));
    stream(&owner, items.clone()).await.expect(ExitCode::StreamCommand);
    assert!(owner.run(Verb::Snapshots(SnapshotsArgs::default())).await.rows().is_empty());
    items.pop();
    items.push(StreamItem::End);
    stream(&owner, items).await.expect(ExitCode::Success);
    let args = DumpArgs { snapshot: "latest".to_owned(), path: "/db/dump.sql".to_owned() };
    let ran = owner.run(Verb::Dump(args)).await.expect(ExitCode::Success);
    assert!(ran.output == dump);
}

#[tokio::test(flavor = "multi_thread")]
async fn recovery_on_a_blank_folder() {
    let mut owner = Owner::new(24);
    mixed(&owner);
    owner.backup().await.expect(ExitCode::Success);
    owner.write("later", &noise(9, 3 << 20));
    owner.backup().await.expect(ExitCode::Success);
    let before = owner.run(Verb::Snapshots(SnapshotsArgs::default())).await;

    owner.data = owner.dir.path().join("blank");
    owner.recover().await.expect(ExitCode::Success);
    let after = owner.run(Verb::Snapshots(SnapshotsArgs::default())).await;
    assert_eq!(before.rows(), after.rows());
    owner.restore("out").await.expect(ExitCode::Success);
    owner.assert_same("out");

    // The old machine is behind from the first commit of the new one on.
    owner.write("newer", b"x");
    owner.overlay.take_sent();
    owner.backup().await.expect(ExitCode::Success);
    assert!(owner.overlay.take_sent() <= 5 << 20);
    let new_data = std::mem::replace(&mut owner.data, owner.dir.path().join("data"));
    let ran = owner.backup().await;
    assert_eq!(ran.failure().id, "NEWER_HEAD");

    // And the chain of commits recovers again.
    owner.recover().await.expect(ExitCode::Success);
    owner.restore("out2").await.expect(ExitCode::Success);
    owner.assert_same("out2");
    owner.data = new_data;
    owner.restore("out3").await.expect(ExitCode::Success);
    owner.assert_same("out3");
}

#[tokio::test(flavor = "multi_thread")]
async fn listings_tell_what_is_there() {
    let owner = Owner::new(24);
    mixed(&owner);
    owner.backup().await.expect(ExitCode::Success);
    std::fs::remove_file(owner.source.join("text")).expect("removed");
    owner.write("small", b"changed");
    owner.write("new/one", b"1");
    owner.backup().await.expect(ExitCode::Success);

    let ran = owner.run(Verb::Ls(LsArgs { snapshot: "latest".to_owned(), path: None })).await.expect(ExitCode::Success);
    let here = owner.source.join("new/one").to_string_lossy().into_owned();
    assert!(ran.rows().iter().any(|r| r["path"] == here && r["type"] == "file" && r["size"] == 1));
    let inside = LsArgs { snapshot: "latest".to_owned(), path: Some(encode_path(&owner.source.join("new"))) };
    let ran = owner.run(Verb::Ls(inside)).await.expect(ExitCode::Success);
    assert_eq!(ran.rows().len(), 1);
    assert_eq!(ran.rows()[0]["path"], here);

    let ran = owner.run(Verb::Find(FindArgs { patterns: vec!["deep*".to_owned()], snapshot: None })).await;
    assert_eq!(ran.rows().len(), 4, "two folders in two snapshots");

    let list = owner.run(Verb::Snapshots(SnapshotsArgs::default())).await;
    let ids: Vec<String> = list.rows().iter().map(|r| r["id"].as_str().expect("text").to_owned()).collect();
    let ran = owner.run(Verb::Diff(DiffArgs { from: ids[0].clone(), to: "latest".to_owned() })).await;
    let ran = ran.expect(ExitCode::Success);
    let change = |name: &str| {
        let path = owner.source.join(name).to_string_lossy().into_owned();
        ran.rows().iter().find(|r| r["path"] == path).map(|r| r["modifier"].as_str().expect("text").to_owned())
    };
    assert_eq!(change("text").as_deref(), Some("-"));
    assert_eq!(change("small").as_deref(), Some("M"));
    assert_eq!(change("new").as_deref(), Some("+"));
    assert_eq!(change("new/one").as_deref(), Some("+"));
    assert_eq!(change("deep"), None);

    for verb in [Verb::Stats, Verb::Status, Verb::Peers, Verb::DebugPlacement] {
        owner.run(verb).await.expect(ExitCode::Success);
    }
    let nothing = owner.run(Verb::Ls(LsArgs { snapshot: "ffff".to_owned(), path: None })).await;
    assert_eq!(nothing.code(), ExitCode::NotFound);
}

/// A long history of acknowledged stripes whose rows no segment has yet: more than a tail carries.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_index_is_written_in_segments_of_its_own() {
    use crate::vault::catalogue::StripeRecord;
    use cairn_proto::{
        ChunkId,
        index::{RunCodec, RunPlace, RunRow, StripeNo},
    };
    let mut owner = Owner::new(24);
    owner.write("a", &noise(1, 1 << 20));
    let id = |run: u64, at: u32| {
        ChunkId::from_bytes(*blake3::hash(&[run.to_le_bytes(), u64::from(at).to_le_bytes()].concat()).as_bytes())
    };
    {
        let vault = Vault::open(&owner.data, None).expect("opens");
        for no in 1..=80u64 {
            let chunks: Vec<_> = (0..2000).map(|at| (id(no, at), 64)).collect();
            let place = RunPlace {
                stripe: StripeNo(no),
                offset: 0,
                stored_len: 2000 * 64,
                next: None,
                codec: RunCodec::Raw,
                raw_len: 2000 * 64,
            };
            let record =
                StripeRecord { runs: vec![RunRow { place, chunks }], pending: true, ..StripeRecord::default() };
            vault.catalogue.record_stripe(&record).expect("recorded");
        }
        vault
            .catalogue
            .set_counters(crate::vault::catalogue::Counters { next_stripe: 81, next_group: 1, ..Default::default() })
            .expect("set");
        let (_, some, more) = vault.catalogue.pending(1 << 20).expect("read");
        assert!(more && (1..40).contains(&some.len()), "rows come a bounded number at a time: {}", some.len());
    }
    owner.backup().await.expect(ExitCode::Success);
    let vault = Vault::open(&owner.data, None).expect("opens");
    assert!(vault.catalogue.segments().expect("read").len() > 3);
    let (stripes, runs, more) = vault.catalogue.pending(usize::MAX).expect("read");
    assert!(runs.is_empty() && stripes.len() <= 3 && !more, "only the tail's rows wait");
    owner.data = owner.dir.path().join("blank");
    owner.recover().await.expect(ExitCode::Success);
    let vault = Vault::open(&owner.data, None).expect("opens");
    assert!((1..=80).all(|no| vault.catalogue.has_chunk(&id(no, 1999)).expect("read")));
    owner.restore("out").await.expect(ExitCode::Success);
    owner.assert_same("out");
}

#[tokio::test(flavor = "multi_thread")]
async fn verbs_share_the_catalogue() {
    let owner = Owner::new(24);
    owner.write("a", &noise(1, 1 << 20));
    let _held = Vault::open(&owner.data, None).expect("opens");
    owner.backup().await.expect(ExitCode::Success);
    let busy = owner.recover().await.expect(ExitCode::Busy);
    assert_eq!(busy.failure().id, "BUSY");
}
