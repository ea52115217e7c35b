//! How long rebuilds take, against plain transfers over the same streams. Run by hand:
//!
//! `cargo test --release -p cairn --lib rebuild::tests::measure -- --ignored --nocapture`
//!
//! All nodes are on this machine. Lines delay what is said by a fixed time each way and let in so many bytes a second; connections
//! stand, and what opening a stream costs below our own words is not delayed. Decoding is not in the plain rebuild's time.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use cairn_proto::{CodeParams, SHARD_SIZE};
use futures::{
    AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _,
    future::{join_all, try_join_all},
};
use tokio::time::Instant;

use super::{
    super::{Arrival, IN_FLIGHT, Pipe, RebuildNet},
    lines::{Kind, Lines, Slow},
    village::{Node, Plan, Village},
};

const STRIPES: u8 = 8;
const ROUNDS: usize = 3;

/// The best of some rounds, in ms.
async fn best<F: Future<Output = ()>>(mut work: impl FnMut() -> F) -> f64 {
    let mut best = f64::MAX;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        work().await;
        best = best.min(start.elapsed().as_secs_f64() * 1000.0);
    }
    best
}

/// From now on a helper answers every stream with a shard.
async fn serve_plainly(node: &Node) {
    let (me, kind) = (node.peer, node.kind.clone());
    let mut arrivals = node.handle.rebuild_arrivals().await.expect("running");
    tokio::spawn(async move {
        while let Some(Arrival { from, pipe }) = arrivals.next().await {
            let mut pipe: Pipe = kind.wrap(me, from, pipe, false);
            tokio::spawn(async move {
                pipe.read_exact(&mut [0]).await?;
                pipe.write_all(&vec![7; SHARD_SIZE]).await?;
                pipe.close().await
            });
        }
    });
}

async fn fetch(lines: &Lines, from: &Node) -> std::io::Result<()> {
    let mut pipe = lines.open(from.peer).await.map_err(std::io::Error::other)?;
    pipe.write_all(&[1]).await?;
    pipe.flush().await?;
    pipe.read_exact(&mut vec![0; SHARD_SIZE]).await
}

#[ignore = "a measurement, not a test"]
#[tokio::test(flavor = "multi_thread")]
async fn measure() {
    println!("delay ms  Mbit/s in  one shard  k shards  rebuild of 1  rebuild of 8 (each)  k shards x 8 (each)");
    for rate in [None, Some(20_000_000 / 8)] {
        for delay in [0, 5, 50] {
            let mut plan = Plan::new(CodeParams::DEFAULT, 0, &[7, 2, 5, 1, 6], &[5; STRIPES as usize]);
            plan.lines = Box::new(move |_| {
                let free = Arc::new(Mutex::new(Instant::now()));
                Kind { slow: Some(Slow { delay: Duration::from_millis(delay), rate, free }), ..Kind::default() }
            });
            let village = Village::start(plan).await;
            let one = best(|| async { assert!(village.rebuild(0).await.is_ok()) }).await;
            let all = (1..STRIPES).chain([0]);
            let eight = best(|| async {
                let rebuilt = join_all(all.clone().map(|ordinal| village.rebuild(ordinal))).await;
                assert!(rebuilt.iter().all(Result::is_ok));
            })
            .await;
            let to = village.new_holder();
            let helpers: Vec<&Node> = village.nodes.values().filter(|node| node.peer != to.peer).collect();
            for node in &helpers {
                serve_plainly(node).await;
            }
            let lines = Lines { handle: to.handle.clone(), kind: to.kind.clone() };
            let shard = best(|| async { fetch(&lines, helpers[0]).await.expect("fetched") }).await;
            let all_helpers = || helpers.iter().map(|helper| fetch(&lines, helper));
            let k = best(|| async { drop(try_join_all(all_helpers()).await.expect("fetched")) }).await;
            let k_by_eight = best(|| async {
                // As many stripes at a time as rebuilds.
                for _ in 0..usize::from(STRIPES) / IN_FLIGHT {
                    try_join_all((0..IN_FLIGHT).flat_map(|_| all_helpers())).await.expect("fetched");
                }
            })
            .await;
            let line = rate.map_or_else(|| "any".to_owned(), |rate| (rate * 8 / 1_000_000).to_string());
            println!(
                "{delay:8}  {line:>9}  {shard:9.0}  {k:8.0}  {one:12.0}  {:19.0}  {:19.0}",
                eight / f64::from(STRIPES),
                k_by_eight / f64::from(STRIPES)
            );
        }
    }
}
