//! One connection's handlers, asleep until both ends have shown their passes.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use cairn_proto::{PeerKey, pass::PASS_MAX};
use either::Either;
use futures::{
    AsyncReadExt as _, AsyncWriteExt as _, FutureExt as _,
    future::{self, BoxFuture},
};
use libp2p::{
    Stream, StreamProtocol,
    core::upgrade::ReadyUpgrade,
    swarm::{
        ConnectionHandler, ConnectionHandlerEvent, StreamUpgradeError, SubstreamProtocol,
        handler::{
            ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound, ListenUpgradeError,
            SendWrapper,
        },
    },
};
use tokio::time::{Sleep, sleep};

use super::{PROBATION, Verdict};
use crate::network::{clock, invitations::Invitations};

/// The one protocol at the gate; everything else.
type PassUpgrade = SendWrapper<ReadyUpgrade<StreamProtocol>>;
type Inbound<H> = Either<PassUpgrade, SendWrapper<<H as ConnectionHandler>::InboundProtocol>>;
type Outbound<H> = Either<PassUpgrade, SendWrapper<<H as ConnectionHandler>::OutboundProtocol>>;
type InboundInfo<H> = Either<(), <H as ConnectionHandler>::InboundOpenInfo>;
type OutboundInfo<H> = Either<(), <H as ConnectionHandler>::OutboundOpenInfo>;

/// What a gate tells the door, once.
#[derive(Debug)]
pub(crate) enum News {
    /// Both let each other in.
    Open,
    /// We do not let the peer in.
    Refused(Verdict),
    /// The peer does not let us in.
    TurnedAway(Verdict),
}

/// A handler behind a gate.
pub(crate) struct Gated<H> {
    inner: H,
    /// None: it is open.
    gate: Option<Box<Gate>>,
}

/// What came, and where the verdict goes.
type Shown = (Stream, Vec<u8>);

struct Gate {
    peer: PeerKey,
    invitations: Invitations,
    protocol: StreamProtocol,
    /// Whether our stream was asked for.
    asked: bool,
    showing: Option<BoxFuture<'static, io::Result<Verdict>>>,
    looking: Option<BoxFuture<'static, io::Result<Shown>>>,
    answering: Option<BoxFuture<'static, io::Result<()>>>,
    /// Our verdict on them, and theirs on us.
    ours: Option<Verdict>,
    theirs: Option<Verdict>,
    until: Pin<Box<Sleep>>,
    /// The end was told; nothing more comes.
    over: bool,
}

/// Shows a pass; the verdict. An empty one says that we have none.
async fn show(mut stream: Stream, pass: Vec<u8>) -> io::Result<Verdict> {
    let length = u16::try_from(pass.len()).unwrap_or(0);
    stream.write_all(&length.to_le_bytes()).await?;
    stream.write_all(&pass[..usize::from(length)]).await?;
    stream.flush().await?;
    let mut verdict = [0];
    stream.read_exact(&mut verdict).await?;
    let _ = stream.close().await;
    Ok(Verdict::from_byte(verdict[0]))
}

/// Looks at theirs: no more bytes than a pass has.
async fn look(mut stream: Stream) -> io::Result<Shown> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).await?;
    let length = usize::from(u16::from_le_bytes(length));
    if length > PASS_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut pass = vec![0; length];
    stream.read_exact(&mut pass).await?;
    Ok((stream, pass))
}

async fn answer(mut stream: Stream, verdict: Verdict) -> io::Result<()> {
    stream.write_all(&[verdict as u8]).await?;
    stream.close().await?;
    if verdict != Verdict::Admitted {
        // QUIC loses with a connection what was not read: until it is, this one stands, and no longer than its probation.
        let _ = stream.read_exact(&mut [0]).await;
    }
    Ok(())
}

impl Gate {
    /// One step on; what to tell, or `None` when it waits.
    fn poll(&mut self, cx: &mut Context<'_>) -> Option<News> {
        if self.over {
            return None;
        }
        let news = self.step(cx);
        self.over = news.is_some();
        news
    }

    fn step(&mut self, cx: &mut Context<'_>) -> Option<News> {
        if let Some(Poll::Ready(shown)) = self.showing.as_mut().map(|showing| showing.poll_unpin(cx)) {
            self.showing = None;
            self.theirs = Some(shown.unwrap_or(Verdict::Late));
        }
        if let Some(Poll::Ready(looked)) = self.looking.as_mut().map(|looking| looking.poll_unpin(cx)) {
            self.looking = None;
            match looked {
                Ok((stream, pass)) => {
                    let judged = self.invitations.admit(&self.peer, &pass, clock());
                    let verdict = Verdict::of(&pass, &judged);
                    // From here on who was admitted is answered: it may begin as soon as it reads so.
                    self.ours = Some(verdict);
                    self.answering = Some(answer(stream, verdict).boxed());
                }
                Err(_) => self.ours = Some(Verdict::False),
            }
        }
        if let Some(Poll::Ready(_)) = self.answering.as_mut().map(|answering| answering.poll_unpin(cx)) {
            self.answering = None;
        }
        let late = self.until.poll_unpin(cx).is_ready();
        match (self.ours, self.theirs) {
            (ours, _) if late => {
                Some(News::Refused(ours.filter(|ours| *ours != Verdict::Admitted).unwrap_or(Verdict::Late)))
            }
            // They must hear it first.
            _ if self.answering.is_some() => None,
            (Some(Verdict::Admitted), Some(Verdict::Admitted)) => Some(News::Open),
            (Some(ours), _) if ours != Verdict::Admitted => Some(News::Refused(ours)),
            // Nothing more will come of it. A stream that failed says less: they may still show theirs.
            (_, Some(theirs)) if !matches!(theirs, Verdict::Admitted | Verdict::Late) => Some(News::TurnedAway(theirs)),
            (Some(_), Some(Verdict::Late)) => Some(News::TurnedAway(Verdict::Late)),
            _ => None,
        }
    }
}

impl<H: ConnectionHandler> Gated<H> {
    pub(super) fn open(inner: H) -> Self {
        Self { inner, gate: None }
    }

    pub(super) fn shut(inner: H, peer: PeerKey, invitations: Invitations, protocol: StreamProtocol) -> Self {
        let gate = Gate {
            peer,
            invitations,
            protocol,
            asked: false,
            showing: None,
            looking: None,
            answering: None,
            ours: None,
            theirs: None,
            until: Box::pin(sleep(PROBATION)),
            over: false,
        };
        Self { inner, gate: Some(Box::new(gate)) }
    }

    /// The gate, while the other side has not been let in.
    fn closed(&self) -> Option<&Gate> {
        self.gate.as_deref().filter(|gate| gate.ours != Some(Verdict::Admitted))
    }
}

impl<H: ConnectionHandler> ConnectionHandler for Gated<H> {
    type FromBehaviour = H::FromBehaviour;
    type ToBehaviour = Either<News, H::ToBehaviour>;
    type InboundProtocol = Inbound<H>;
    type OutboundProtocol = Outbound<H>;
    type InboundOpenInfo = InboundInfo<H>;
    type OutboundOpenInfo = OutboundInfo<H>;

    fn listen_protocol(&self) -> SubstreamProtocol<Inbound<H>, InboundInfo<H>> {
        match self.closed() {
            Some(gate) => {
                let pass = SendWrapper(ReadyUpgrade::new(gate.protocol.clone()));
                SubstreamProtocol::new(Either::Left(pass), Either::Left(()))
            }
            None => {
                let inner = self.inner.listen_protocol();
                inner.map_upgrade(|upgrade| Either::Right(SendWrapper(upgrade))).map_info(Either::Right)
            }
        }
    }

    fn connection_keep_alive(&self) -> bool {
        self.gate.is_some() || self.inner.connection_keep_alive()
    }

    fn on_behaviour_event(&mut self, event: H::FromBehaviour) {
        self.inner.on_behaviour_event(event);
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Outbound<H>, OutboundInfo<H>, Self::ToBehaviour>> {
        if let Some(gate) = &mut self.gate {
            if !gate.asked {
                gate.asked = true;
                let pass = SendWrapper(ReadyUpgrade::new(gate.protocol.clone()));
                let protocol = SubstreamProtocol::new(Either::Left(pass), Either::Left(()));
                return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
            }
            let Some(news) = gate.poll(cx) else { return Poll::Pending };
            if matches!(news, News::Open) {
                self.gate = None;
            }
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(Either::Left(news)));
        }
        self.inner.poll(cx).map(|event| {
            event
                .map_protocol(|upgrade| Either::Right(SendWrapper(upgrade)))
                .map_outbound_open_info(Either::Right)
                .map_custom(Either::Right)
        })
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Option<Self::ToBehaviour>> {
        self.inner.poll_close(cx).map(|event| event.map(Either::Right))
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Inbound<H>, Outbound<H>, InboundInfo<H>, OutboundInfo<H>>,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, info }) => {
                match (protocol, info) {
                    (future::Either::Left(stream), _) => self.shown(stream),
                    (future::Either::Right(protocol), Either::Right(info)) => {
                        let negotiated = FullyNegotiatedInbound { protocol, info };
                        self.inner.on_connection_event(ConnectionEvent::FullyNegotiatedInbound(negotiated));
                    }
                    (future::Either::Right(_), Either::Left(())) => {}
                }
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol, info }) => {
                match (protocol, info) {
                    (future::Either::Left(stream), _) => {
                        if let Some(gate) = &mut self.gate {
                            gate.showing = Some(show(stream, gate.invitations.own().to_vec()).boxed());
                        }
                    }
                    (future::Either::Right(protocol), Either::Right(info)) => {
                        let negotiated = FullyNegotiatedOutbound { protocol, info };
                        self.inner.on_connection_event(ConnectionEvent::FullyNegotiatedOutbound(negotiated));
                    }
                    (future::Either::Right(_), Either::Left(())) => {}
                }
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }) => match info {
                Either::Left(()) => {
                    if let Some(gate) = &mut self.gate {
                        gate.theirs = Some(Verdict::Late);
                    }
                }
                Either::Right(info) => {
                    let error = match error {
                        StreamUpgradeError::Timeout | StreamUpgradeError::Apply(Either::Left(_)) => {
                            StreamUpgradeError::Timeout
                        }
                        StreamUpgradeError::Apply(Either::Right(error)) => StreamUpgradeError::Apply(error),
                        StreamUpgradeError::NegotiationFailed => StreamUpgradeError::NegotiationFailed,
                        StreamUpgradeError::Io(error) => StreamUpgradeError::Io(error),
                    };
                    let failed = DialUpgradeError { info, error };
                    self.inner.on_connection_event(ConnectionEvent::DialUpgradeError(failed));
                }
            },
            ConnectionEvent::ListenUpgradeError(ListenUpgradeError { info, error }) => {
                if let (Either::Right(info), Either::Right(error)) = (info, error) {
                    let failed = ListenUpgradeError { info, error };
                    self.inner.on_connection_event(ConnectionEvent::ListenUpgradeError(failed));
                }
            }
            ConnectionEvent::AddressChange(change) => {
                self.inner.on_connection_event(ConnectionEvent::AddressChange(change));
            }
            ConnectionEvent::LocalProtocolsChange(change) => {
                self.inner.on_connection_event(ConnectionEvent::LocalProtocolsChange(change));
            }
            ConnectionEvent::RemoteProtocolsChange(change) => {
                self.inner.on_connection_event(ConnectionEvent::RemoteProtocolsChange(change));
            }
            _ => {}
        }
    }
}

impl<H> Gated<H> {
    /// A stream on which theirs is shown: one, and no other after it.
    fn shown(&mut self, stream: Stream) {
        if let Some(gate) = self.gate.as_mut().filter(|gate| gate.looking.is_none() && gate.ours.is_none()) {
            gate.looking = Some(look(stream).boxed());
        }
    }
}
