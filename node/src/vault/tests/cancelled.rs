//! DUR-1 under cancellation: a verb is dropped when the network has come to its n-th step, and at its n-th await, for n = 1,
//! 2, ... until it comes to its end first. Whatever it was doing: what was listed stays listed, what was acknowledged stays
//! where it is, nothing is left locked or lying about, and the next run works.
//!
//! Threads run beside the future, so that the n-th place is not quite the same in every run; there are enough of them. A
//! failure names its `SEED`; `CAIRN_SEED=n` runs it alone.

use std::{collections::BTreeSet, time::Duration};

use super::{memory_overlay::Manner, *};
use crate::{cancel_at::CancelAt, ops::SnapshotsArgs};

/// Where a verb is dropped.
#[derive(Clone, Copy, Debug)]
enum At {
    /// When the network has come to its n-th step: a request on its way out, or its answer on its way back.
    Step(u64),
    /// At its n-th await that has to wait, with requests that overtake each other as the round draws.
    Await(u64),
}

/// Rounds 0 and 1 go by steps, the others by awaits; in odd ones three of eight slots are dead.
const ROUNDS: u64 = 4;

/// Every place of every round. A seed is 1000 times the round and n.
struct Places {
    one: bool,
    seed: u64,
    runs: u64,
}

impl Places {
    fn all() -> Self {
        let one = std::env::var("CAIRN_SEED").ok().map(|text| text.parse().expect("CAIRN_SEED is a number"));
        Self { one: one.is_some(), seed: one.unwrap_or(1), runs: 0 }
    }

    const fn round(&self) -> u64 {
        self.seed / 1000
    }

    const fn at(&self) -> At {
        let n = self.seed % 1000;
        if self.round() < 2 { At::Step(n) } else { At::Await(n) }
    }

    /// Whether three slots are dead.
    const fn damaged(&self) -> bool {
        self.round() % 2 == 1
    }

    /// False when there is no further one.
    fn advance(&mut self, ended: bool) -> bool {
        self.runs += 1;
        self.seed = if ended { 1000 * (self.round() + 1) + 1 } else { self.seed + 1 };
        !self.one && self.round() < ROUNDS
    }

    #[track_caller]
    fn assert_enough(&self, least: u64) {
        println!("places={}", self.runs);
        assert!(self.one || self.runs >= least, "{} places are too few", self.runs);
    }
}

impl Owner {
    /// False when the verb was dropped before its end.
    async fn run_until(&self, places: &Places, verb: Verb) -> bool {
        let ctx = VaultContext {
            dir: self.data.clone(),
            overlay: self.overlay.shared(),
            witness: None,
            fallback: Default::default(),
            repairs: Default::default(),
            meeting: None,
        };
        let (events, mut receiver) = mpsc::channel(16);
        let listening = tokio::spawn(async move { while receiver.recv().await.is_some() {} });
        let run = run_verb(&ctx, verb, None, None, None, events, CancellationToken::new());
        let ended = match places.at() {
            At::Await(n) => {
                self.overlay.jitter(places.seed);
                CancelAt::new(n, run).await
            }
            At::Step(n) => tokio::select! {
                biased;
                () = self.overlay.halt_at(n) => None,
                ended = run => Some(ended),
            },
        };
        self.overlay.go_on();
        // All who could say something are gone: threads of the verb too, so that nobody still works on the next one's files.
        let all_gone = tokio::time::timeout(Duration::from_secs(60), listening).await;
        all_gone.unwrap_or_else(|_| panic!("SEED={}: a thread of the verb goes on", places.seed)).expect("listens");
        if let Some(result) = &ended {
            let code = result.as_ref().expect("works").code;
            let short = places.damaged() && code == ExitCode::BelowTarget;
            assert!(short || code == ExitCode::Success, "SEED={}: {result:?}", places.seed);
        }
        ended.is_some()
    }

    /// Three of eight slots do not answer.
    fn lose_three(&self) {
        for holder in (0..3).flat_map(|slot| self.overlay.holders_of_slot(slot)).collect::<Vec<_>>() {
            self.overlay.set_manner(&holder, Manner::Dead);
        }
    }

    async fn listed(&self) -> BTreeSet<String> {
        let ran = self.run(Verb::Snapshots(SnapshotsArgs::default())).await.expect(ExitCode::Success);
        ran.rows().iter().map(|row| row["id"].as_str().expect("an id").to_owned()).collect()
    }

    /// Names in the data folder but for the catalogue's own files.
    fn files(&self) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        let mut waiting = vec![self.data.clone()];
        while let Some(folder) = waiting.pop() {
            for entry in std::fs::read_dir(&folder).expect("readable") {
                let path = entry.expect("entry").path();
                if path.is_dir() && !path.ends_with("catalogue") {
                    waiting.push(path.clone());
                }
                found.insert(path);
            }
        }
        found
    }
}

/// The same owner and network from here on apart.
fn fork(base: &Owner) -> Owner {
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("temp dir");
    let data = dir.path().join("data");
    copy(&base.data, &data);
    Owner {
        overlay: base.overlay.fork(),
        data,
        source: base.source.clone(),
        phrase: base.phrase.clone(),
        dir,
        repairs: Default::default(),
        fallback: base.fallback.clone(),
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("made");
    for entry in std::fs::read_dir(from).expect("readable") {
        let entry = entry.expect("entry");
        let target = to.join(entry.file_name());
        match entry.file_type().expect("a kind").is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).expect("copied")),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_may_be_dropped_at_any_await() {
    let base = Owner::new(24);
    base.write("first", &noise(1, 300_000));
    base.backup().await.expect(ExitCode::Success);
    base.write("second", &noise(2, 200_000));
    let (files, before, shards) = (base.files().len(), base.listed().await, base.overlay.shard_count());
    let (mut places, mut closing) = (Places::all(), std::collections::VecDeque::new());
    loop {
        let (n, owner) = (places.seed, fork(&base));
        if places.damaged() {
            owner.lose_three();
        }
        // The catalogue stays open, but for some runs.
        let open = (n % 8 != 0).then(|| Vault::open(&owner.data, None).expect("opens"));
        let ended = owner.run_until(&places, Verb::Backup(owner.backup_args())).await;
        // The last places lie behind the commit: then the snapshot is there, though nobody was told.
        let now = owner.listed().await;
        assert!(now.is_superset(&before), "SEED={n} DUR-1: {before:?} became {now:?}");
        assert!(now.len() <= before.len() + 1, "SEED={n} DUR-1: {now:?}");
        assert!(!ended || now.len() == before.len() + 1, "SEED={n}: it ended well and is not listed");
        assert!(owner.overlay.shard_count() >= shards, "SEED={n}: an acknowledged shard is gone");
        assert_eq!(owner.files().len(), files, "SEED={n}: {:?}", owner.files());
        let code = owner.backup().await.code();
        let short = places.damaged() && code == ExitCode::BelowTarget;
        assert!(short || code == ExitCode::Success, "SEED={n}: {code:?}");
        if n % 4 == 0 {
            owner.restore("out").await.expect(ExitCode::Success);
            owner.assert_same("out");
        }
        if !places.damaged() && n % 8 == 0 {
            let ran = owner.check(true).await.expect(ExitCode::Success);
            assert_eq!(ran.summary()["shards_wrong"], 0, "SEED={n}");
        }
        // sled takes half a second to close: beside the next runs, a few at once.
        closing.push_back(std::thread::spawn(move || drop((open, owner))));
        if closing.len() > 8 {
            closing.pop_front().into_iter().for_each(|thread| thread.join().expect("closes"));
        }
        if !places.advance(ended) {
            break;
        }
    }
    closing.into_iter().for_each(|thread| thread.join().expect("closes"));
    places.assert_enough(40);
}

/// Names that a restore gives its files until they are whole.
fn unfinished(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut found = Vec::new();
    for path in entries.map(|e| e.expect("entry").path()) {
        if path.is_dir() {
            found.extend(unfinished(&path));
        } else if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".cairn-restore-")) {
            found.push(path);
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_may_be_dropped_at_any_await() {
    const FILES: u8 = 8;
    let owner = Owner::new(24);
    let path = |at: u8| format!("folder-{}/file-{at}", at % 2);
    for at in 0..FILES {
        owner.write(&path(at), &noise(at, 900_000));
    }
    owner.backup().await.expect(ExitCode::Success);
    let damaged = fork(&owner);
    damaged.lose_three();
    let _open = [&owner, &damaged].map(|o| Vault::open(&o.data, None).expect("opens"));
    let mut places = Places::all();
    loop {
        let n = places.seed;
        let owner = if places.damaged() { &damaged } else { &owner };
        let name = format!("out-{n}");
        let target = owner.dir.path().join(&name);
        let args =
            RestoreArgs { snapshot: "latest".to_owned(), target: encode_path(&target), ..RestoreArgs::default() };
        let ended = owner.run_until(&places, Verb::Restore(args)).await;
        assert_eq!(unfinished(&target), Vec::<PathBuf>::new(), "SEED={n}");
        // Each file is whole or not there.
        for at in 0..FILES {
            match std::fs::read(owner.restored(&name).join(path(at))) {
                Ok(bytes) => assert!(bytes == noise(at, 900_000), "SEED={n}: {} is cut or wrong", path(at)),
                Err(e) => assert!(!ended && e.kind() == std::io::ErrorKind::NotFound, "SEED={n}: {}: {e}", path(at)),
            }
        }
        // The next one goes on in the same folder.
        owner.restore(&name).await.expect(ExitCode::Success);
        owner.assert_same(&name);
        std::fs::remove_dir_all(target).expect("removed");
        if !places.advance(ended) {
            break;
        }
    }
    places.assert_enough(15);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_may_be_dropped_at_any_await() {
    let mut owner = Owner::new(24);
    owner.write("a", &noise(1, 300_000));
    owner.backup().await.expect(ExitCode::Success);
    let listed = owner.listed().await;
    let mut places = Places::all();
    loop {
        let n = places.seed;
        if places.damaged() {
            owner.lose_three();
        }
        owner.data = owner.dir.path().join(format!("blank-{n}"));
        let ended = owner.run_until(&places, Verb::Recover(RecoverArgs { phrase: owner.phrase.clone() })).await;
        if !ended {
            // It left nothing, or a vault; the words bring it back either way.
            owner.recover().await.expect(ExitCode::Success);
        }
        assert_eq!(owner.listed().await, listed, "SEED={n}");
        std::fs::remove_dir_all(&owner.data).expect("removed");
        // One round of awaits is enough: there are few, and each run opens two catalogues.
        if !places.advance(ended) || places.round() > 2 {
            break;
        }
    }
    places.assert_enough(6);
}
