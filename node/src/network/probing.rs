//! AutoNAT's client, made to ask again: libp2p's asks about an address once in its life and keeps to what it heard.
//!
//! There is no way to have it forget, so it is replaced ([`Probing::forget`]). The new one is told which connections stand, since libp2p's
//! takes the end of one that it does not know for a bug. Which of them lead to peers that judge is told only once for each, so it asks
//! by connections that are made from then on.

use std::{
    collections::HashMap,
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId,
    autonat::v2::client::{Behaviour, Event},
    core::{ConnectedPoint, Endpoint, transport::PortUse},
    swarm::{
        ConnectionClosed, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NewExternalAddrCandidate,
        THandler, THandlerInEvent, THandlerOutEvent, ToSwarm, behaviour::ConnectionEstablished,
    },
};

/// The client, and what its successor must know.
#[derive(Default)]
pub(crate) struct Probing {
    client: Behaviour,
    /// All that stand; the connection limits bound them.
    connections: HashMap<ConnectionId, (PeerId, ConnectedPoint)>,
}

impl Probing {
    /// Has somebody find out whether this address leads here, unless that was found out since the last [`Probing::forget`].
    pub(crate) fn ask_about(&mut self, address: &Multiaddr) {
        let candidate = NewExternalAddrCandidate { addr: address };
        self.client.on_swarm_event(FromSwarm::NewExternalAddrCandidate(candidate));
    }

    /// Forgets what was found out: each address is asked about again.
    pub(crate) fn forget(&mut self) {
        let mut client: Behaviour = Behaviour::default();
        for (connection, (peer, endpoint)) in &self.connections {
            client.on_swarm_event(FromSwarm::ConnectionEstablished(ConnectionEstablished {
                peer_id: *peer,
                connection_id: *connection,
                endpoint,
                failed_addresses: &[],
                other_established: 0,
            }));
        }
        self.client = client;
    }
}

impl NetworkBehaviour for Probing {
    type ConnectionHandler = THandler<Behaviour>;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.client.handle_established_inbound_connection(connection, peer, local, remote)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.client.handle_established_outbound_connection(connection, peer, address, role, port)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match &event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished { peer_id, connection_id, endpoint, .. }) => {
                self.connections.insert(*connection_id, (*peer_id, (*endpoint).clone()));
            }
            FromSwarm::ConnectionClosed(ConnectionClosed { connection_id, .. }) => {
                self.connections.remove(connection_id);
            }
            _ => {}
        }
        self.client.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, connection: ConnectionId, event: THandlerOutEvent<Self>) {
        self.client.on_connection_handler_event(peer, connection, event);
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.client.poll(context)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::StreamExt as _;
    use libp2p::{
        Swarm, SwarmBuilder, autonat,
        core::transport::ListenerId,
        identify, noise,
        swarm::{
            SwarmEvent,
            dial_opts::{DialOpts, PeerCondition},
        },
        tcp, yamux,
    };

    use super::*;

    /// libp2p looks every five seconds; so long takes only what never happens, however busy the machine is.
    const DEADLINE: Duration = Duration::from_secs(180);

    #[derive(NetworkBehaviour)]
    struct Asking {
        identify: identify::Behaviour,
        probing: Probing,
    }

    #[derive(NetworkBehaviour)]
    struct Judging {
        identify: identify::Behaviour,
        server: autonat::v2::server::Behaviour,
    }

    fn identify(key: &libp2p::identity::Keypair) -> identify::Behaviour {
        identify::Behaviour::new(identify::Config::new("/test".to_owned(), key.public()))
    }

    fn swarm<B: NetworkBehaviour>(behaviour: impl FnOnce(&libp2p::identity::Keypair) -> B) -> Swarm<B> {
        SwarmBuilder::with_new_identity()
            .with_tokio()
            .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
            .expect("TCP")
            .with_behaviour(behaviour)
            .expect("built")
            .with_swarm_config(|c| c.with_idle_connection_timeout(DEADLINE))
            .build()
    }

    /// Runs both until this is said.
    async fn until<T>(
        asking: &mut Swarm<Asking>,
        judging: &mut Swarm<Judging>,
        mut said: impl FnMut(SwarmEvent<AskingEvent>) -> Option<T>,
    ) -> T {
        let found = async {
            loop {
                tokio::select! {
                    event = asking.select_next_some() => if let Some(found) = said(event) { return found },
                    _ = judging.select_next_some() => {}
                }
            }
        };
        tokio::time::timeout(DEADLINE, found).await.expect("in time")
    }

    async fn listening<B: NetworkBehaviour>(swarm: &mut Swarm<B>) -> (ListenerId, Multiaddr) {
        let listener = swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().expect("address")).expect("listens");
        loop {
            if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
                return (listener, address);
            }
        }
    }

    /// An address that led here and does so no more is found out, though it was found good; and connections from before may end.
    #[tokio::test]
    async fn what_was_forgotten_is_asked_about_again() {
        let mut judging =
            swarm(|key| Judging { identify: identify(key), server: autonat::v2::server::Behaviour::default() });
        let mut asking = swarm(|key| Asking { identify: identify(key), probing: Probing::default() });
        let (judge, (_, door)) = (*judging.local_peer_id(), listening(&mut judging).await);
        let (listener, address) = listening(&mut asking).await;
        let dial = || {
            let dial = DialOpts::peer_id(judge).condition(PeerCondition::Always).addresses(vec![door.clone()]);
            dial.allocate_new_port().build()
        };
        asking.behaviour_mut().probing.ask_about(&address);
        asking.dial(dial()).expect("dials");
        until(&mut asking, &mut judging, |event| match event {
            SwarmEvent::ExternalAddrConfirmed { address: confirmed } => (confirmed == address).then_some(()),
            _ => None,
        })
        .await;

        assert!(asking.remove_listener(listener), "it leads nowhere from now on");
        asking.behaviour_mut().probing.forget();
        asking.behaviour_mut().probing.ask_about(&address);
        // Who is connected already does not say again that it judges.
        asking.dial(dial()).expect("dials");
        until(&mut asking, &mut judging, |event| match event {
            SwarmEvent::Behaviour(AskingEvent::Probing(Event { tested_addr, result, .. })) => {
                (tested_addr == address && result.is_err()).then_some(())
            }
            _ => None,
        })
        .await;

        asking.disconnect_peer_id(judge).expect("connected");
        until(&mut asking, &mut judging, |event| match event {
            SwarmEvent::ConnectionClosed { num_established, .. } => (num_established == 0).then_some(()),
            _ => None,
        })
        .await;
        assert!(asking.behaviour().probing.connections.is_empty());
    }
}
