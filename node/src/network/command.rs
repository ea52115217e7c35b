//! What the rest of the node asks of the task that owns the Swarm.

use cairn_core::peer_view::PeerView;
use cairn_proto::{
    Domain, PeerKey,
    message::{ControlAnswer, ControlRequest},
};
use libp2p::{Multiaddr, PeerId};
use tokio::sync::{mpsc, oneshot};

use super::streams::{InboundStream, Kind, OpenReply};

/// Why a control question got no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AskError {
    /// The key is no valid peer, or it cannot be reached, or does not speak our protocol.
    #[error("cannot ask the peer: {0}")]
    Unreachable(String),
    /// Too many questions are open at once.
    #[error("too many questions are open")]
    Overloaded,
}

/// A request to the owner of the Swarm. Dropped replies are fine: the asker has gone.
#[derive(Debug)]
pub(crate) enum Command {
    /// Connect if need be and open a stream.
    OpenStream { peer: PeerKey, kind: Kind, reply: OpenReply },
    /// Connect if need be: it will be asked soon.
    Reach { peer: PeerKey },
    /// From now on, streams of rebuilds that peers open go there.
    AcceptRebuilds { streams: mpsc::Sender<InboundStream> },
    /// The domain that is pinned for a peer. One that is connected and unknown is asked for its advert.
    PinnedDomain { peer: PeerKey, reply: oneshot::Sender<Option<Domain>> },
    /// Ask a peer on the control protocol.
    Ask {
        /// Whom.
        peer: PeerKey,
        /// Where it may be, beside what the book says.
        addresses: Vec<Multiaddr>,
        /// What.
        request: ControlRequest,
        /// The answer.
        reply: oneshot::Sender<Result<ControlAnswer, AskError>>,
    },
    /// Walk the DHT towards a place; answers the peers found there.
    Closest { target: PeerId, reply: oneshot::Sender<Vec<(PeerKey, Vec<Multiaddr>)>> },
    /// Everyone in the peer book.
    Peers { reply: oneshot::Sender<Vec<PeerView>> },
    /// Put a head record into the DHT; answers when everyone near was told. Who took it is not told: Kademlia's
    /// answer comes before the head is durable.
    PutRecord { key: [u8; 32], value: Vec<u8>, reply: oneshot::Sender<()> },
    /// Look a head record up in the DHT; answers every version found.
    GetRecord { key: [u8; 32], reply: oneshot::Sender<Vec<Vec<u8>>> },
    /// A transfer with a peer worked or did not.
    Served { peer: PeerKey, served: bool },
    /// Where we listen.
    ListenAddresses { reply: oneshot::Sender<Vec<Multiaddr>> },
    /// Dial an address.
    Dial { address: Multiaddr },
    /// Say again what we are, now.
    Announce,
    /// What gossip thinks of a peer.
    #[cfg(test)]
    Score { peer: PeerKey, reply: oneshot::Sender<Option<f64>> },
}
