//! The vault over a network in memory.

mod audits;
mod bad_days;
mod cancelled;
mod chunk_index;
mod damage;
mod fallback;
mod healing;
mod heirs;
mod learning;
mod long_contents;
mod losses;
mod memory_overlay;
mod pieces;
mod receipts;
mod registering;
mod replicas;
mod round_trip;
mod separation;
mod tokens;
mod verdicts;
mod vetting;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use cairn_core::{
    durability::repairs::RepairFigures,
    keys::VaultKeys,
    peer_view::PeerView,
    placement::{self, PlacementPolicy},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    failure::{ExitCode, Failure},
    fallback::Fallbacks,
    ops::{
        BackupArgs, CheckArgs, Event, ItemError, RecoverArgs, RestoreArgs, SecretText, Verb, VerbResult, encode_path,
    },
};
use memory_overlay::MemoryOverlay;

use super::{
    Vault,
    groups::{Groups, Use},
    stream_input::StreamInput,
    verbs::{VaultContext, run_verb},
};

/// What a verb gave.
struct Ran {
    result: VerbResult,
    events: Vec<Event>,
    output: Vec<u8>,
}

impl Ran {
    #[track_caller]
    fn code(&self) -> ExitCode {
        match &self.result {
            Ok(outcome) => outcome.code,
            Err(failure) => failure.code,
        }
    }

    #[track_caller]
    fn expect(self, code: ExitCode) -> Self {
        assert_eq!(self.code(), code, "{:?} {:?}", self.result, self.errors());
        self
    }

    #[track_caller]
    fn failure(&self) -> &Failure {
        self.result.as_ref().expect_err("a failure")
    }

    fn errors(&self) -> Vec<&ItemError> {
        self.events.iter().filter_map(|e| if let Event::Error(item) = e { Some(item) } else { None }).collect()
    }

    fn rows(&self) -> Vec<&serde_json::Value> {
        self.events.iter().filter_map(|e| if let Event::Row { row, .. } = e { Some(row) } else { None }).collect()
    }

    /// Names of what the user should know.
    fn notices(&self) -> Vec<&str> {
        self.events.iter().filter_map(|e| if let Event::Notice { id, .. } = e { Some(&id[..]) } else { None }).collect()
    }

    #[track_caller]
    fn summary(&self) -> &serde_json::Value {
        let found =
            self.events.iter().find_map(|e| if let Event::Summary { summary, .. } = e { Some(summary) } else { None });
        found.expect("a summary")
    }
}

/// An owner with a data folder, sources and a network.
struct Owner {
    overlay: MemoryOverlay,
    dir: tempfile::TempDir,
    data: PathBuf,
    source: PathBuf,
    phrase: SecretText,
    fallback: Fallbacks,
    repairs: RepairFigures,
}

impl Owner {
    fn new(peers: u8) -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        let (data, source) = (dir.path().join("data"), dir.path().join("source"));
        std::fs::create_dir_all(&source).expect("made");
        let (_, phrase) = Vault::init(&data, None).expect("a vault");
        let (fallback, repairs) = Default::default();
        Self { overlay: MemoryOverlay::new(peers), dir, data, source, phrase, fallback, repairs }
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.source.join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        std::fs::write(path, bytes).expect("written");
    }

    async fn run(&self, verb: Verb) -> Ran {
        self.run_with(verb, None, None, CancellationToken::new()).await
    }

    async fn run_with(
        &self,
        verb: Verb,
        passphrase: Option<SecretText>,
        input: Option<StreamInput>,
        cancel: CancellationToken,
    ) -> Ran {
        let ctx = VaultContext {
            dir: self.data.clone(),
            overlay: self.overlay.shared(),
            witness: None,
            fallback: self.fallback.clone(),
            repairs: self.repairs,
            meeting: None,
        };
        let (sender, mut receiver) = mpsc::channel(16);
        let listening = tokio::spawn(async move {
            let mut events = Vec::new();
            while let Some(event) = receiver.recv().await {
                events.push(event);
            }
            events
        });
        let mut output = std::io::Cursor::new(Vec::new());
        let result = run_verb(&ctx, verb, passphrase, input, Some(&mut output), sender, cancel).await;
        Ran { result, events: listening.await.expect("listens"), output: output.into_inner() }
    }

    fn backup_args(&self) -> BackupArgs {
        BackupArgs { paths: vec![encode_path(&self.source)], ..BackupArgs::default() }
    }

    async fn backup(&self) -> Ran {
        self.run(Verb::Backup(self.backup_args())).await
    }

    async fn restore(&self, to: &str) -> Ran {
        let target = encode_path(&self.dir.path().join(to));
        let args = RestoreArgs { snapshot: "latest".to_owned(), target, ..RestoreArgs::default() };
        self.run(Verb::Restore(args)).await
    }

    async fn recover(&self) -> Ran {
        self.run(Verb::Recover(RecoverArgs { phrase: self.phrase.clone() })).await
    }

    async fn check(&self, read_data: bool) -> Ran {
        self.run(Verb::Check(CheckArgs { read_data, read_data_subset: None })).await
    }

    /// Where the source lies below a restore's target.
    fn restored(&self, to: &str) -> PathBuf {
        self.dir.path().join(to).join(self.source.strip_prefix("/").expect("absolute"))
    }

    #[track_caller]
    fn assert_same(&self, to: &str) {
        assert_equal_folders(&self.source, &self.restored(to));
        self.overlay.assert_separated();
    }
}

#[track_caller]
fn assert_equal_folders(a: &Path, b: &Path) {
    let differences = crate::files::compare::compare(a, b, crate::files::compare::CompareOptions::FULL);
    let differences = differences.expect("comparable");
    assert!(differences.is_empty(), "{differences:#?}");
}

/// Bytes that do not compress and do not repeat.
/// The groups of a run that has none yet.
fn groups_of(keys: Arc<VaultKeys>, me: placement::Owner, peers: Vec<PeerView>, next: u32) -> Groups {
    let policy = PlacementPolicy::for_network(&peers);
    Groups::new(keys, me, peers, super::now(), Vec::new(), next, policy, Use::default())
}

fn noise(seed: u8, length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    let mut reader = blake3::Hasher::new().update(&[seed]).finalize_xof();
    reader.fill(&mut out);
    out
}

/// What packs chunks for a vault, without a backup around it.
fn ingest(vault: &Vault, out: crate::vault::ingest::Out) -> crate::vault::ingest::Ingest {
    crate::vault::ingest::Ingest::new(
        vault.keys.clone(),
        vault.catalogue.clone(),
        cairn_proto::CodeParams::new(5, 3).expect("valid"),
        cairn_core::chunking::ChunkProfile::Files,
        cairn_core::pack::StripeNumbers::from_next(cairn_proto::index::StripeNo(1)),
        out,
        std::sync::Arc::default(),
    )
    .expect("an ingest")
}
