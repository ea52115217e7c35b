use cairn_core::reputation::Reason;
use cairn_proto::{Timestamp, network_file::NetworkFile};
use ed25519_dalek::SigningKey;

use super::*;
use crate::timers::Timers;

/// A millisecond of the figures is fifty microseconds here.
const HURRY: u32 = 20;
const MS: Duration = Duration::from_micros(1000 / HURRY as u64);

fn paces() -> Arc<Paces> {
    let key = SigningKey::from_bytes(&[1; 32]);
    let network = NetworkFile::create("paces", 0, &key).expect("valid");
    let standings = Standings::in_memory(key, network, &Timers::default(), Arc::new(clock), &[0; 32]);
    let Some(paces) = Arc::into_inner(Paces::new(standings, FOLLOWED_APART, CancellationToken::new())) else {
        unreachable!("new")
    };
    Arc::new(Paces { hurry: HURRY, ..paces })
}

fn peer(n: u8) -> PeerKey {
    PeerKey::from_bytes([n; 32])
}

async fn shard_after(time: Duration) -> Result<Bytes, TransferError> {
    tokio::time::sleep(time).await;
    Ok(Bytes::from_static(b"all of it"))
}

async fn read(paces: &Arc<Paces>, n: u8, time: Duration) {
    let flight = paces.begin(peer(n), SHARD_SIZE);
    let question = flight.question();
    let read = async move {
        question.goes_out();
        shard_after(time).await
    };
    flight.watch(read, std::future::ready(true)).await.expect("comes");
}

/// Nothing comes until it is given up.
async fn stuck(paces: &Arc<Paces>, n: u8, time: Duration, is_there: bool) {
    let flight = paces.begin(peer(n), SHARD_SIZE);
    let question = flight.question();
    let read = async move {
        question.goes_out();
        tokio::time::sleep(time).await;
        Err(TransferError::TimedOut)
    };
    assert!(flight.watch(read, std::future::ready(is_there)).await.is_err());
}

/// Prompt and slow shards, once the notes are taken.
async fn seen(paces: &Paces, n: u8) -> (u64, u64) {
    tokio::time::sleep(2000 * MS).await;
    let standing = paces.standings.standing(&peer(n), Timestamp(0));
    let of = |why: &Reason| match why {
        Reason::Pace { prompt, slow, .. } => Some((*prompt, *slow)),
        _ => None,
    };
    standing.why.iter().find_map(of).unwrap_or_default()
}

/// Nobody waits for anything.
fn is_idle(paces: &Paces) -> bool {
    let state = paces.state();
    state.following == 0 && state.under_way.values().all(|asked| asked.live == 0)
}

#[tokio::test]
async fn who_is_dropped_late_is_followed_to_its_end() {
    let paces = paces();
    for n in 2..6 {
        read(&paces, n, 300 * MS).await;
    }
    assert_eq!(seen(&paces, 2).await, (1, 0));
    // Enough came from others meanwhile; nobody waits for this one, and it is seen that it never ends.
    let dropped = tokio::time::timeout(3000 * MS, read(&paces, 1, 600_000 * MS)).await;
    assert!(dropped.is_err());
    assert_eq!(paces.state().following, 1);
    tokio::time::sleep(20_000 * MS).await;
    assert_eq!(seen(&paces, 1).await, (0, 1));
    assert!(is_idle(&paces));
    // Not again so soon, and not who was dropped at once.
    let _ = tokio::time::timeout(3000 * MS, read(&paces, 1, 600_000 * MS)).await;
    let _ = tokio::time::timeout(100 * MS, read(&paces, 7, 600_000 * MS)).await;
    assert!(is_idle(&paces));
    // A home line that needs ten seconds is nothing of the kind.
    let _ = tokio::time::timeout(3000 * MS, read(&paces, 8, 10_000 * MS)).await;
    tokio::time::sleep(20_000 * MS).await;
    assert_eq!(seen(&paces, 8).await, (0, 0));
    for n in 10..20 {
        let _ = tokio::time::timeout(3000 * MS, read(&paces, n, 600_000 * MS)).await;
        assert!(paces.state().following <= FOLLOWED_MAX);
    }
    // It ends with the network.
    paces.shutdown.cancel();
    tokio::time::sleep(2000 * MS).await;
    assert_eq!(paces.state().following, 0);
}

#[tokio::test]
async fn what_a_peer_does_for_us_at_once_is_shared() {
    let paces = paces();
    for n in 2..6 {
        read(&paces, n, 300 * MS).await;
    }
    // Eight shards over one line in 24 s are three seconds each.
    futures::future::join_all((0..8).map(|_| read(&paces, 1, 24_000 * MS))).await;
    let (prompt, slow) = seen(&paces, 1).await;
    assert!(prompt >= 1 && slow == 0, "{prompt} {slow}");
}

/// The worst of all: it takes the question and sends nothing.
#[tokio::test]
async fn who_sends_nothing_and_is_there_is_slow() {
    let paces = paces();
    for n in 2..6 {
        read(&paces, n, 300 * MS).await;
    }
    stuck(&paces, 1, 15_000 * MS, true).await;
    stuck(&paces, 7, 15_000 * MS, false).await;
    assert_eq!((seen(&paces, 1).await, seen(&paces, 7).await), ((0, 1), (0, 0)), "who was switched off is not slow");
    // Once in a while, however often it happens.
    stuck(&paces, 1, 15_000 * MS, true).await;
    assert_eq!(seen(&paces, 1).await, (0, 1));
    // Also when nobody waited for it.
    let dropped = tokio::time::timeout(3000 * MS, stuck(&paces, 8, 15_000 * MS, true)).await;
    assert!(dropped.is_err());
    tokio::time::sleep(15_000 * MS).await;
    assert_eq!(seen(&paces, 8).await, (0, 1));
    assert!(paces.state().following == 0 && paces.state().under_way.is_empty());
}

/// A line with a limit carries what it began, whether anybody wants it or not: that is no fault of what comes after it.
#[tokio::test]
async fn what_was_given_up_is_shared_too() {
    let paces = paces();
    for n in 2..6 {
        read(&paces, n, 300 * MS).await;
    }
    for _ in 0..3 {
        let _ = tokio::time::timeout(MS, read(&paces, 1, 600_000 * MS)).await;
    }
    assert_eq!(paces.state().under_way[&peer(1)].left.len(), 3);
    // Three before it, of ten seconds each, and itself.
    let flight = tokio::time::timeout(3000 * MS, read(&paces, 1, 40_000 * MS)).await;
    assert!(flight.is_err() && paces.state().following == 1);
    tokio::time::sleep(40_000 * MS).await;
    assert_eq!(seen(&paces, 1).await, (0, 0), "neither slow nor prompt");
    assert!(paces.state().under_way.is_empty(), "what was asked before came before");
    // Of one that sends none of them for as long as all four may take, nothing excuses that.
    for _ in 0..3 {
        let _ = tokio::time::timeout(MS, read(&paces, 9, 600_000 * MS)).await;
    }
    let _ = tokio::time::timeout(3000 * MS, read(&paces, 9, 600_000 * MS)).await;
    tokio::time::sleep(80_000 * MS).await;
    assert_eq!(seen(&paces, 9).await, (0, 1));
    for _ in 0..2 * LEFT_MAX {
        let _ = tokio::time::timeout(MS, read(&paces, 10, 600_000 * MS)).await;
    }
    assert_eq!(paces.state().under_way[&peer(10)].left.len(), LEFT_MAX);
    for asked in paces.state().under_way.values_mut() {
        asked.left.iter_mut().for_each(|(_, at)| *at -= LEFT_FOR / HURRY);
    }
    drop(paces.begin(peer(11), SHARD_SIZE));
    assert!(paces.state().under_way.is_empty(), "forgotten");
}

/// A question that the peer did not take: it says that it is busy, and whoever asks waits to ask again for so long.
async fn busy(paces: &Arc<Paces>, n: u8, time: Duration) {
    let flight = paces.begin(peer(n), SHARD_SIZE);
    let question = flight.question();
    let read = async move {
        question.goes_out();
        question.refused();
        tokio::time::sleep(time).await;
        Err(TransferError::Refused { code: RefusalCode::Busy, retry_after_ms: 15 * 60 * 1000 })
    };
    assert!(flight.watch(read, std::future::ready(true)).await.is_err());
}

/// So much later, as far as who is busy goes.
fn later(paces: &Paces, by: Duration) {
    for (since, last) in paces.state().busy.values_mut() {
        (*since, *last) = (*since - by / HURRY, *last - by / HURRY);
    }
}

/// What was refused is not on the line.
#[tokio::test]
async fn what_a_busy_peer_refused_excuses_nothing() {
    let paces = paces();
    for n in 2..6 {
        read(&paces, n, 300 * MS).await;
    }
    for _ in 0..3 {
        let dropped = tokio::time::timeout(3000 * MS, busy(&paces, 1, 600_000 * MS)).await;
        assert!(dropped.is_err());
    }
    assert!(paces.state().following == 0 && paces.state().under_way.is_empty());
    read(&paces, 1, 25_000 * MS).await;
    assert_eq!(seen(&paces, 1).await, (0, 1));
    // Nor does what was asked beside it make it quick, when the peer did not take that.
    let beside: Vec<_> = (0..9).map(|_| paces.begin(peer(7), SHARD_SIZE)).collect();
    for flight in &beside {
        flight.question().goes_out();
        flight.question().refused();
    }
    read(&paces, 7, 25_000 * MS).await;
    assert_eq!(seen(&paces, 7).await, (0, 0), "it may have waited for them, and was not prompt");
    drop(beside);
    assert!(is_idle(&paces));
}

/// One that was found slow has no excuse for the next time by what it was found slow with.
#[tokio::test]
async fn who_is_slow_again_is_slow_again() {
    let paces = paces();
    for n in 2..6 {
        read(&paces, n, 300 * MS).await;
    }
    for days in 1..3 {
        let dropped = tokio::time::timeout(3000 * MS, read(&paces, 1, 40_000 * MS)).await;
        assert!(dropped.is_err() && paces.state().following == 1);
        assert_eq!(seen(&paces, 1).await, (0, days - 1));
        tokio::time::sleep(20_000 * MS).await;
        assert_eq!(seen(&paces, 1).await, (0, days));
        assert!(paces.state().under_way.is_empty(), "nothing is left of it");
        paces.state().followed.clear();
    }
}

#[tokio::test]
async fn who_is_busy_whenever_it_is_asked_is_slow_and_who_is_for_a_moment_is_not() {
    let paces = paces();
    let long = paces.busy_for();
    for n in 2..6 {
        read(&paces, n, 300 * MS).await;
    }
    for _ in 0..50 {
        busy(&paces, 1, MS).await;
    }
    later(&paces, long * 2 / 3);
    busy(&paces, 1, MS).await;
    assert_eq!(seen(&paces, 1).await, (0, 0), "for a moment, and once more");
    later(&paces, long * 2 / 3);
    busy(&paces, 1, MS).await;
    busy(&paces, 1, MS).await;
    assert_eq!(seen(&paces, 1).await, (0, 1), "all the time");
    // Seldom asked.
    for _ in 0..5 {
        busy(&paces, 7, MS).await;
        later(&paces, long);
    }
    assert_eq!(seen(&paces, 7).await, (0, 0));
    // It gave something between.
    for _ in 0..4 {
        busy(&paces, 8, MS).await;
        later(&paces, long * 2 / 3);
        read(&paces, 8, 300 * MS).await;
    }
    assert_eq!(seen(&paces, 8).await, (4, 0));
    // Its line may be full of what we asked it for.
    let _ = tokio::time::timeout(MS, read(&paces, 9, 600_000 * MS)).await;
    busy(&paces, 9, MS).await;
    assert!(paces.state().under_way.contains_key(&peer(9)) && !paces.state().busy.contains_key(&peer(9)));
    // With nobody to compare it to, our line may be what is wrong.
    let alone = self::paces();
    for _ in 0..4 {
        busy(&alone, 1, MS).await;
        later(&alone, long * 2 / 3);
    }
    assert_eq!(seen(&alone, 1).await, (0, 0));
    // A crowd does not grow it, and time empties it.
    for n in 0..2 * REMEMBERED_MAX {
        let mut bytes = [99; 32];
        bytes[..8].copy_from_slice(&(n as u64).to_le_bytes());
        let flight = alone.begin(PeerKey::from_bytes(bytes), SHARD_SIZE);
        flight.question().goes_out();
        flight.question().refused();
        flight.leave();
    }
    assert_eq!(alone.state().busy.len(), REMEMBERED_MAX);
    later(&alone, long);
    busy(&alone, 1, MS).await;
    assert_eq!(alone.state().busy.len(), 1);
}

/// A line with a limit brings two shards one after the other, and not always the first one first.
#[tokio::test]
async fn who_brings_the_second_before_the_first_is_not_slow() {
    let paces = paces();
    for n in 2..6 {
        read(&paces, n, 300 * MS).await;
    }
    // Both are waited for.
    tokio::join!(read(&paces, 1, 22_000 * MS), read(&paces, 1, 11_000 * MS));
    assert_eq!(seen(&paces, 1).await, (0, 0));
    // The first one is not, and followed.
    let both = async { tokio::join!(read(&paces, 7, 22_000 * MS), read(&paces, 7, 600_000 * MS)) };
    assert!(tokio::time::timeout(3000 * MS, both).await.is_err());
    assert_eq!(paces.state().following, 1);
    assert_eq!(paces.state().under_way[&peer(7)].left.len(), 1);
    tokio::time::sleep(22_000 * MS).await;
    assert_eq!((seen(&paces, 7).await, paces.state().following), ((0, 0), 0));
    // One that takes as long for one alone is.
    read(&paces, 8, 22_000 * MS).await;
    assert_eq!(seen(&paces, 8).await, (0, 1));
}
