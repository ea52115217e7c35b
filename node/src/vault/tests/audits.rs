//! The owner audits its holders, and a third party does with tokens: honest ones, one that dropped a part, a liar, dead ones.

use std::{path::Path, sync::Mutex};

use cairn_core::{
    audit::{convict, token_file::TokenFile},
    reputation::Observed,
};
use cairn_proto::{PeerKey, audit::Evidence};

use super::*;
use crate::{
    ops::{AuditArgs, AuditTokenArgs},
    standing::ports::Witness,
};
use memory_overlay::Manner;

/// An owner with a vault of ten full stripes and some, all in one group of eight slots.
async fn owner() -> Owner {
    let owner = Owner::new(30);
    owner.write("a", &noise(1, 52 << 20));
    owner.backup().await.expect(ExitCode::Success);
    owner
}

async fn audit(owner: &Owner, args: AuditArgs) -> Ran {
    owner.run(Verb::Audit(args)).await
}

fn most(samples: u32) -> AuditArgs {
    AuditArgs { samples: Some(samples), ..AuditArgs::default() }
}

fn full() -> AuditArgs {
    AuditArgs { full_slots: true, all: true, ..AuditArgs::default() }
}

/// The holder with the most shards.
fn victim(owner: &Owner) -> PeerKey {
    let peers = owner.overlay.peer_keys();
    peers.into_iter().max_by_key(|peer| owner.overlay.count_of(peer)).expect("peers")
}

fn of_holder(ran: &Ran, peer: &PeerKey) -> serde_json::Value {
    let row = ran.rows().into_iter().find(|row| row["peer"] == peer.to_string());
    row.unwrap_or_else(|| panic!("no row for {peer}: {:?}", ran.rows())).clone()
}

fn proofs(owner: &Owner) -> Vec<PathBuf> {
    let folder = std::fs::read_dir(owner.data.join("evidence"));
    folder.into_iter().flatten().map(|entry| entry.expect("readable").path()).collect()
}

#[derive(Default)]
struct Notes(Mutex<(Vec<Sight>, Vec<Evidence>)>);

type Sight = (PeerKey, Observed);

impl Witness for Notes {
    fn saw(&self, peer: PeerKey, seen: Observed) {
        self.0.lock().expect("lock").0.push((peer, seen));
    }

    fn learned(&self, evidence: Evidence) {
        self.0.lock().expect("lock").1.push(evidence);
    }
}

#[tokio::test]
async fn holders_are_asked_and_what_they_lack_is_found() {
    let owner = owner().await;
    let good = audit(&owner, AuditArgs::default()).await.expect(ExitCode::Success);
    let summary = good.summary();
    assert_eq!((&summary["missing"], &summary["wrong"], &summary["silent"]), (&0.into(), &0.into(), &0.into()));
    assert!(summary["right"].as_u64() >= Some(80) && summary["holders"].as_u64() >= Some(8), "{summary}");
    assert!(summary["found_share"].is_f64(), "{summary}");

    // One that dropped every tenth shard and hides it.
    let victim = victim(&owner);
    let (held, dropped) = (owner.overlay.count_of(&victim), owner.overlay.drop_every(&victim, 10));
    assert!(held >= 5 && dropped >= 1, "{held}");
    let found = audit(&owner, full()).await.expect(ExitCode::Damage);
    let row = of_holder(&found, &victim);
    assert_eq!((row["missing"].as_u64(), row["right"].as_u64()), (Some(dropped as u64), Some((held - dropped) as u64)));
    assert_eq!(found.summary()["missing"], dropped);
    assert!(proofs(&owner).is_empty(), "an admission is no lie");

    // One that is silent is that, and nothing worse.
    owner.overlay.set_manner(&victim, Manner::Vanished);
    let silent = audit(&owner, most(5)).await.expect(ExitCode::BelowTarget);
    let row = of_holder(&silent, &victim);
    assert_eq!((row["silent"].as_u64(), row["found_share"].as_f64()), (Some(5), Some(1.0)), "{row}");

    for peer in owner.overlay.peer_keys() {
        owner.overlay.set_manner(&peer, Manner::Vanished);
    }
    let cut_off = audit(&owner, AuditArgs { all: true, ..most(1) }).await.expect(ExitCode::BelowTarget);
    assert!(cut_off.notices().contains(&"NOBODY_ANSWERED"), "{:?}", cut_off.notices());
    assert!(cut_off.summary()["found_share"].is_null());
}

#[tokio::test]
async fn a_wrong_answer_is_kept_as_a_proof_and_told() {
    let owner = owner().await;
    let liar = victim(&owner);
    owner.overlay.set_manner(&liar, Manner::Liar);
    let notes = std::sync::Arc::new(Notes::default());
    let ctx = VaultContext {
        dir: owner.data.clone(),
        overlay: owner.overlay.shared(),
        witness: Some(notes.clone()),
        fallback: Default::default(),
        repairs: Default::default(),
        meeting: None,
    };
    let (events, mut told) = mpsc::channel(10_000);
    let verb = Verb::Audit(AuditArgs { all: true, ..most(3) });
    let ended = run_verb(&ctx, verb, None, None, None, events, CancellationToken::new()).await;
    assert_eq!(ended.expect("ends").code, ExitCode::Damage);
    let mut notices = Vec::new();
    while let Ok(event) = told.try_recv() {
        if let Event::Notice { id, text } = event {
            notices.push((id, text));
        }
    }
    let files = proofs(&owner);
    assert_eq!(files.len(), 3, "{files:?}");
    for file in &files {
        let evidence = Evidence::decode(&std::fs::read(file).expect("readable")).expect("a proof");
        assert_eq!(convict(&evidence).expect("TRUST-1").subject(), &liar);
        let named = |(id, text): &(String, String)| id == "WRONG_ANSWER" && text.contains(&*file.to_string_lossy());
        assert!(notices.iter().any(named), "{notices:?}");
    }
    let (saw, learned) = std::mem::take(&mut *notes.0.lock().expect("lock"));
    assert_eq!(learned.len(), 3);
    assert!(saw.iter().all(|(peer, seen)| *peer != liar && *seen == Observed::Good), "{saw:?}");
    assert!(saw.len() >= 3 * 7);
}

fn token_args(file: &Path, samples: Option<u32>) -> AuditTokenArgs {
    AuditTokenArgs { file: encode_path(file), samples }
}

#[tokio::test]
async fn a_third_party_asks_once_with_each_token_and_sees_no_byte() {
    let owner = owner().await;
    let file = owner.dir.path().join("proof.tokens");
    let make = |samples| AuditArgs { make_token: Some(encode_path(&file)), ..most(samples) };
    let made = audit(&owner, make(12)).await.expect(ExitCode::Success);
    assert_eq!(made.summary()["tokens"], 12);
    audit(&owner, make(12)).await.expect(ExitCode::Refused);
    let read = TokenFile::decode(&std::fs::read(&file).expect("there")).expect("a file of tokens");
    assert!(read.shards >= 80 && read.tokens.iter().all(|p| !p.holders.is_empty()));

    // Somebody without a vault.
    let other = Owner { overlay: owner.overlay.clone(), data: owner.dir.path().join("other"), ..self::blank() };
    owner.overlay.take_fetched();
    let some = other.run(Verb::AuditToken(token_args(&file, Some(5)))).await.expect(ExitCode::Success);
    let figures =
        |ran: &Ran| ["right", "used_before", "left"].map(|key| ran.summary()[key].as_u64().expect("a figure"));
    assert_eq!(figures(&some), [5, 0, 7]);
    let rest = other.run(Verb::AuditToken(token_args(&file, None))).await.expect(ExitCode::Success);
    assert_eq!(figures(&rest), [7, 5, 0]);
    assert_eq!(owner.overlay.take_fetched(), 0, "no byte of a shard");
    let none = other.run(Verb::AuditToken(token_args(&file, None))).await.expect(ExitCode::Refused);
    assert_eq!(none.failure().id, "TOKENS_USED");
    assert!(!other.data.join("vault").exists());

    // All that holders lose or make up is found by the next file's.
    std::fs::remove_file(&file).expect("removed");
    audit(&owner, AuditArgs { all: true, ..make(200) }).await.expect(ExitCode::Success);
    let victim = victim(&owner);
    let dropped = owner.overlay.drop_every(&victim, 3);
    let liar = owner.overlay.peer_keys().into_iter().filter(|peer| *peer != victim);
    let liar = liar.max_by_key(|peer| owner.overlay.count_of(peer)).expect("peers");
    owner.overlay.set_manner(&liar, Manner::Liar);
    let found = other.run(Verb::AuditToken(token_args(&file, None))).await.expect(ExitCode::Damage);
    assert_eq!(found.summary()["missing"], dropped);
    assert_eq!(found.summary()["mismatch"], owner.overlay.count_of(&liar));

    std::fs::write(&file, b"no tokens").expect("written");
    let wrong = other.run(Verb::AuditToken(token_args(&file, None))).await.expect(ExitCode::Failed);
    assert_eq!(wrong.failure().id, "TOKEN_FILE");
}

fn blank() -> Owner {
    let dir = tempfile::tempdir().expect("temp dir");
    let (data, source) = (dir.path().join("data"), dir.path().join("source"));
    Owner {
        overlay: MemoryOverlay::new(0),
        data,
        source,
        phrase: SecretText::new(String::new()),
        dir,
        repairs: Default::default(),
        fallback: Fallbacks::default(),
    }
}
