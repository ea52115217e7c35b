//! Rebuilds as nodes do them, over streams in memory, beside stewards whose time is the test's.

use futures::StreamExt as _;
use tokio_util::compat::TokioAsyncReadCompatExt as _;

use super::*;
use crate::{
    network::keeper::{ShardKeeper as _, memory::MemoryKeeper},
    rebuild::{Patience, Pipe, RebuildNet, Setup, ledger::Ledger},
};

/// Bytes of a stream that wait for their reader.
const PIPE: usize = 256 * 1024;

/// The streams that one peer opens.
struct Streams {
    world: Arc<World>,
    me: PeerKey,
}

impl RebuildNet for Streams {
    fn me(&self) -> PeerKey {
        self.me
    }

    fn open(&self, to: PeerKey) -> BoxFuture<'_, Result<Pipe, TransferError>> {
        async move {
            self.world.reach(&self.me, &to)?;
            let there = self.world.arrivals.lock().expect("arrivals").get(&to).cloned();
            let there = there.ok_or(TransferError::Unreachable("does not run".into()))?;
            let (ours, theirs) = tokio::io::duplex(PIPE);
            let arrival = Arrival { from: self.me, pipe: Box::new(theirs.compat()) };
            there.send(arrival).await.map_err(|_| TransferError::ShuttingDown)?;
            Ok(Box::new(ours.compat()) as Pipe)
        }
        .boxed()
    }

    fn pinned_domain(&self, peer: PeerKey) -> BoxFuture<'_, Option<Domain>> {
        std::future::ready(self.world.domains.get(&peer).cloned()).boxed()
    }
}

impl Village {
    /// From now on whoever starts and may take slot 2 rebuilds as nodes do, from holders that help as nodes do.
    pub(in super::super) async fn rebuild_over_streams(&mut self) {
        let holders = (0..5).map(|at| self.holder(at, 0));
        let peers: BTreeSet<PeerKey> = holders.chain(self.of_colour(2)).collect();
        for peer in peers {
            let keeper = Arc::new(MemoryKeeper::default());
            let shards = self.world.shelves[&peer].shards.lock().expect("shelf").clone();
            for ((at, ordinal), (root, bytes)) in shards {
                let lease_until = self.record.mandate.ends;
                let group = self.world.ticket.id();
                let shard = NewShard { group, slot: slot(at), ordinal, root, lease_until, bytes: bytes.into() };
                keeper.put(shard).await.expect("stored");
            }
            let (arrivals, arriving) = mpsc::channel(64);
            self.world.arrivals.lock().expect("arrivals").insert(peer, arrivals);
            let rebuild = Rebuild::new(Setup {
                net: Arc::new(Streams { world: Arc::clone(&self.world), me: peer }),
                keeper,
                key: self.world.keys[&peer].clone(),
                ledger: Ledger::in_memory(),
                // Nobody is given up because this machine is busy.
                patience: Patience {
                    open: PATIENCE,
                    first: PATIENCE,
                    answer: PATIENCE,
                    stall: PATIENCE,
                    busy: PATIENCE,
                    spare: PATIENCE,
                    silent: PATIENCE,
                    lost: PATIENCE,
                },
            });
            let arriving = futures::stream::unfold(arriving, |mut arriving| async move {
                let arrival = arriving.recv().await?;
                Some((arrival, arriving))
            });
            tokio::spawn(rebuild.clone().serve(arriving.boxed(), CancellationToken::new()));
            self.rebuilds.insert(peer, rebuild);
        }
    }
}
