//! What is thought, kept and set aside.

use cairn_core::reputation::Reason;
use cairn_proto::{
    CodeParams, GroupTicket, ShardRoot, Slot,
    audit::{Answer, Challenge, Found, Way},
};

use super::*;
use crate::identity::Identity;

mod talk;

pub(super) const DAY: u64 = 24 * 3600 * 1000;
pub(super) const NOW: Timestamp = Timestamp(1000 * DAY);

pub(super) fn network() -> NetworkFile {
    NetworkFile::create("standing", 0, &SigningKey::from_bytes(&[1; 32])).expect("valid")
}

pub(super) fn key(n: u8) -> SigningKey {
    Identity::from_seed(&[n; 32]).signing_key().clone()
}

pub(super) fn peer(n: u8) -> PeerKey {
    PeerKey::from_bytes(key(n).verifying_key().to_bytes())
}

/// Two different answers of one holder to one challenge.
pub(crate) fn lie_of(holder: &SigningKey) -> Evidence {
    let auditor = key(250);
    let key_of = |key: &SigningKey| PeerKey::from_bytes(key.verifying_key().to_bytes());
    let challenge = Challenge {
        auditor: key_of(&auditor),
        holder: key_of(holder),
        group: GroupTicket::new([1; 32], [2; 32], CodeParams::DEFAULT, 9).expect("valid").id(),
        slot: Slot::new(0).expect("valid"),
        ordinal: 0,
        root: ShardRoot::from_bytes([0; 32]),
        nonce: [0; 32],
        way: Way::Slices,
        slices: 1,
        previous: None,
        issued: Timestamp(1),
        deadline: Timestamp(2),
    }
    .seal(&auditor);
    let said = |seed: u8| {
        let found = Found::Slices(vec![[seed; 32]]);
        Answer { holder: key_of(holder), challenge: Challenge::id(&challenge), previous: None, found }.seal(holder)
    };
    Evidence::Equivocation { first: said(1), second: said(2) }
}

fn config(folder: Option<&std::path::Path>) -> StandingsConfig {
    StandingsConfig {
        key: key(1),
        network: network(),
        folder: folder.map(std::path::Path::to_owned),
        timers: Timers::default(),
        clock: Arc::new(|| NOW),
        entropy: [7; 32],
    }
}

#[tokio::test]
async fn a_restart_keeps_convictions_and_figures() {
    let folder = tempfile::tempdir().expect("temp");
    let open = || Standings::open(config(Some(folder.path())));
    let first = open().await.expect("opens");
    first.saw(peer(2), Observed::BadBytes);
    first.learned(lie_of(&key(3)));
    first.close().await;
    let again = open().await.expect("opens");
    assert!(again.is_convicted(&peer(3)) && !again.is_convicted(&peer(2)));
    assert!(again.score(&peer(2), Timestamp(0), false, NOW) < 500, "wrong bytes are not forgotten");
    assert_eq!(again.score(&peer(4), Timestamp(0), false, NOW), 800, "nothing was seen of it");
    let path = again.proof_path(&peer(3)).expect("kept");
    assert_eq!(std::fs::read(&path).expect("there"), lie_of(&key(3)).encode());
    again.close().await;

    // The figures rot: they are set aside, and the proof convicts all the same.
    let figures = folder.path().join("standing/peers.reputation");
    let mut rotten = std::fs::read(&figures).expect("written");
    *rotten.last_mut().expect("some") ^= 1;
    std::fs::write(&figures, rotten).expect("rots");
    let learned = open().await.expect("opens");
    assert!(figures.with_extension("reputation.damaged").exists());
    assert!(learned.is_convicted(&peer(3)));
    assert_eq!(learned.score(&peer(2), Timestamp(0), false, NOW), 800, "learned anew");
    learned.close().await;

    // The proof rots: what was verified when it came stays believed, but the file is handed to nobody.
    let mut rotten = std::fs::read(&path).expect("there");
    rotten[100] ^= 1;
    std::fs::write(&path, rotten).expect("rots");
    let last = open().await.expect("opens");
    assert!(last.is_convicted(&peer(3)) && last.proof_path(&peer(3)).is_none());
    assert!(!path.exists() && path.with_extension("evidence.damaged").exists());
}

/// A verb that ends waits until what it saw last is in the mind and said, and not at all when nothing is to be said.
#[tokio::test]
async fn what_was_just_seen_is_waited_for() {
    let clock: Clock = Arc::new(|| NOW);
    let standings = Standings::in_memory(key(1), network(), &Timers::default(), clock, &[7; 32]);
    let said_within = |ms| tokio::time::timeout(Duration::from_millis(ms), standings.said());
    assert!(futures::FutureExt::now_or_never(standings.said()).is_some(), "nothing is to be said");
    standings.saw(peer(2), Observed::Good);
    assert!(futures::FutureExt::now_or_never(standings.said()).is_none(), "the task has not counted it yet");
    said_within(2000).await.expect("what is well is counted, and not said");
    standings.learned(lie_of(&key(3)));
    said_within(300).await.expect_err("nobody took the proof");
    assert!(standings.next_to_say().is_some());
    said_within(2000).await.expect("it was said");
    assert_eq!(standings.0.under_way.load(Ordering::Acquire), 0);
    standings.close().await;
    // The task is gone.
    standings.saw(peer(2), Observed::Good);
    assert!(!standings.has_word());
}

#[tokio::test]
async fn other_timers_learn_anew_and_keep_proofs() {
    let folder = tempfile::tempdir().expect("temp");
    let first = Standings::open(config(Some(folder.path()))).await.expect("opens");
    first.saw(peer(2), Observed::BadBytes);
    first.learned(lie_of(&key(3)));
    first.close().await;
    let timers = Timers::new(&Default::default(), Some(1e-3)).expect("valid");
    let faster = Standings::open(StandingsConfig { timers, ..config(Some(folder.path())) }).await.expect("opens");
    assert!(faster.is_convicted(&peer(3)));
    assert_eq!(faster.score(&peer(2), Timestamp(0), false, NOW), 800);
}

#[tokio::test]
async fn a_proof_that_proves_nothing_convicts_nobody() {
    let folder = tempfile::tempdir().expect("temp");
    let mind = Standings::open(config(Some(folder.path()))).await.expect("opens");
    let Evidence::Equivocation { first, .. } = lie_of(&key(3)) else { unreachable!("made so") };
    mind.learned(Evidence::Equivocation { first: first.clone(), second: first });
    mind.close().await;
    assert!(mind.convicted().is_empty());
    assert_eq!(std::fs::read_dir(folder.path().join("evidence")).expect("there").count(), 0);
}

#[test]
fn rounds_are_days() {
    let mut mind = Mind::new(key(1), network(), Duration::from_secs(60), &[0; 32]);
    let at = |minutes: u64| Timestamp(1_800_000_000_000 + minutes * 60_000);
    assert_eq!(mind.at(at(3)).ms_since(mind.at(at(0))), 3 * DAY);
    assert_eq!(mind.real(mind.at(at(3))), at(3));
    mind.saw(peer(2), Observed::Good, at(0));
    let standing = mind.standing(&peer(2), at(0), at(90));
    assert!(standing.why.iter().any(|why| matches!(why, Reason::Quota { age_days: 90, quota: 80 })), "{standing:?}");
}
