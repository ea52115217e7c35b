//! A slot whose colour nobody but its holder has, end to end in memory: stewards ask it with the owner's tokens.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, atomic::Ordering},
};

use cairn_core::{
    audit::digests,
    steward::{
        Say,
        wire::{Answer, Request},
    },
};
use cairn_proto::{
    PeerKey,
    audit::{Challenge, Way},
    tokens::{Booklet, TOKEN_LEAVES, TokenRow},
};

use super::village::{Lie, STRIPES, Village, authority, slot};

/// The slot that one domain alone may hold.
const LONELY: u8 = 2;
/// Tokens of each steward.
const TOKENS: usize = 12;

/// Stewards with tokens, all others of slot 2's colour away since ever; and its holder.
async fn lonely() -> (Village, PeerKey, Vec<PeerKey>) {
    let mut village = Village::new(1);
    let mut of_two = village.of_colour(LONELY.into());
    let others = of_two.split_off(1);
    village.world.away.lock().expect("away").extend(&others);
    for peer in village.stewards.clone() {
        village.start(peer).await;
    }
    let record = village.record.encode();
    let owner = village.holder(0, 0);
    for steward in village.stewards.clone() {
        let answer = village.handle(steward, owner, Request::Register { record: record.clone() }).await;
        assert_eq!(answer, Answer::Done);
        let say = Say::Tokens { group: village.world.ticket.id(), own: Some(booklet(&village, steward)), spare: None };
        assert_eq!(village.handle(steward, owner, Request::Say(Box::new(say))).await, Answer::Done);
    }
    (village, of_two[0], others)
}

/// What the owner makes of the shards while it has them.
fn booklet(village: &Village, steward: PeerKey) -> Vec<u8> {
    let shards = village.world.shelves[&village.holder(LONELY, 0)].shards.lock().expect("shelf").clone();
    let row = |i: usize| {
        let ordinal = i as u8 % STRIPES;
        let (root, bytes) = &shards[&(LONELY, ordinal)];
        let nonce = *blake3::keyed_hash(steward.as_bytes(), &i.to_le_bytes()).as_bytes();
        let digest = digests(bytes, root, [nonce], TOKEN_LEAVES).expect("a shard")[0];
        let mut row = TokenRow { ordinal, root: [0; 8], nonce, digest: [0; 16] };
        row.root.copy_from_slice(&root.as_bytes()[..8]);
        row.digest.copy_from_slice(&digest[..16]);
        row
    };
    let mut rows: Vec<TokenRow> = (0..TOKENS).map(row).collect();
    rows.sort_by_key(|row| row.nonce);
    let booklet =
        Booklet { group: village.world.ticket.id(), steward: Some(steward), slots: vec![(slot(LONELY), rows)] };
    booklet.seal(&authority()).expect("valid")
}

/// Stewards that doubt somebody of the slot, and those that used a token.
async fn opinions(village: &Village) -> (usize, usize) {
    let (mut doubt, mut used) = (0, 0);
    for steward in &village.stewards {
        let running = village.world.running.lock().expect("running")[steward].clone();
        let status = running.report().await;
        doubt += usize::from(!status[0].not_shown.is_empty());
        used += usize::from(status[0].by_tokens.iter().any(|tokens| tokens.used > 0));
    }
    (doubt, used)
}

async fn is_found_out(lie: Lie) {
    let (mut village, cheat, others) = lonely().await;
    village.world.liars.lock().expect("liars").insert(cheat, lie);
    village.world.shelves[&cheat].shards.lock().expect("shelf").clear();
    village.until("five of seven see it", async |v| opinions(v).await.0 >= 5).await;
    for peer in &others {
        village.start(*peer).await;
    }
    village.world.away.lock().expect("away").clear();
    village.until("somebody else has the slot", async |v| v.heir().is_some()).await;
    assert!(village.heir().is_some_and(|heir| heir != cheat));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_signs_what_it_has_not_got_is_replaced_though_nobody_can_audit_it() {
    is_found_out(Lie::Signs).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_admits_to_tokens_what_it_keeps_from_stewards_is_replaced() {
    is_found_out(Lie::Admits).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_honest_holder_is_asked_with_tokens_that_are_on_disk_as_used_and_is_believed() {
    let (village, holder, _) = lonely().await;
    let file = format!("{}.group", village.world.ticket.id());
    let folders: Vec<_> = village.stewards.iter().map(|peer| (*peer, village.folder(peer).join(&file))).collect();
    let nonces: Arc<Mutex<BTreeSet<[u8; 32]>>> = Arc::default();
    let faults: Arc<Mutex<Vec<&str>>> = Arc::default();
    let (noted, wrong) = (Arc::clone(&nonces), Arc::clone(&faults));
    *village.world.spy.lock().expect("spy") = Some(Box::new(move |from, to, request| {
        let Request::Challenge(questioned) = request else { return };
        let asked = Challenge::open(&questioned.challenge).expect("a steward's");
        let fault = |what| wrong.lock().expect("faults").push(what);
        if (asked.way, *to, asked.slot) != (Way::Digest, holder, slot(LONELY)) {
            fault("another question");
        }
        if !noted.lock().expect("nonces").insert(asked.nonce) {
            fault("asked with twice");
        }
        let (_, path) = folders.iter().find(|(peer, _)| peer == from).expect("a steward");
        let state = std::fs::read(path).expect("registered is durable");
        let at = state.windows(32).position(|part| part == asked.nonce).expect("a token of its own");
        // Behind the nonce: sixteen bytes of digest, then whether it was used.
        if state[at + 48] != 1 {
            fault("not on disk as used");
        }
    }));
    village.until("all have asked", async |v| opinions(v).await.1 == 7).await;
    // Until all are used, and longer.
    for _ in 0..720 {
        village.step().await;
    }
    assert_eq!(opinions(&village).await.0, 0, "nobody doubts it");
    assert!(nonces.lock().expect("nonces").len() >= 7 * 5, "{}", nonces.lock().expect("nonces").len());
    assert_eq!(*faults.lock().expect("faults"), Vec::<&str>::new());
    let running = village.world.running.lock().expect("running")[&village.stewards[0]].clone();
    let status = running.report().await.remove(0);
    let tokens = status.by_tokens.first().expect("some are left");
    assert_eq!((tokens.slot, tokens.used + tokens.left, &status.not_audited[..]), (LONELY, TOKENS, &[][..]));
    assert!(tokens.text.ends_with("are left") && status.audited == "yes", "{status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_asked_with_a_token_that_cannot_be_written_down() {
    let (village, ..) = lonely().await;
    for steward in &village.stewards {
        village.disks[steward].full.store(true, Ordering::SeqCst);
    }
    let asked: Arc<Mutex<usize>> = Arc::default();
    let count = Arc::clone(&asked);
    *village.world.spy.lock().expect("spy") = Some(Box::new(move |_, _, request| {
        *count.lock().expect("count") += usize::from(matches!(request, Request::Challenge(_)));
    }));
    for _ in 0..4 * 120 {
        village.step().await;
    }
    assert_eq!(*asked.lock().expect("count"), 0, "four hours");
    for steward in &village.stewards {
        village.disks[steward].full.store(false, Ordering::SeqCst);
    }
    village.until("all ask", async |_| *asked.lock().expect("count") >= 7).await;
    assert_eq!(opinions(&village).await.0, 0);
}
