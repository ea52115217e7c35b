//! A refused TCP dial ends the QUIC dial to the same host early; and on a LAN QUIC lets TCP go first.
//!
//! Nothing answers a QUIC packet to a dead port (libp2p does not heed ICMP), so a dial to a peer that is gone would always
//! take the whole handshake time-out, and everything that asks many peers would wait for it. A refusal of the peer's
//! TCP port says within a round trip that its host is there and its node is not. QUIC still gets a few of those round
//! trips: somebody's firewall may refuse TCP alone.
//!
//! Peers that are connected through a relay are spared: their NAT refuses TCP as a part of hole punching, while QUIC
//! needs its time to get through.

use std::{
    collections::{HashSet, VecDeque},
    error::Error,
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures::{FutureExt as _, future::BoxFuture};
use libp2p::{
    Multiaddr, PeerId, Transport,
    core::transport::{DialOpts, ListenerId, TransportError, TransportEvent},
};
use tokio::{sync::broadcast, time::Instant};

use super::addresses;

/// Refusals that a dial may miss before it falls back to its own time-out; dials look at once.
const WAITING_MAX: usize = 256;
/// A refusal counts for dials that begin this much later: those of one set of addresses begin one after the other, each when its
/// address is resolved, and a refusal by the same machine comes before the next has begun.
const REMEMBERED: Duration = Duration::from_millis(250);
/// Refusals that are remembered so long; who is refused more often within it waits for its own time-out.
const REMEMBERED_MAX: usize = 64;
/// Round trips, as long as the refusal took, that QUIC still gets: a handshake takes one or two.
const ROUND_TRIPS: u32 = 4;
/// Least and most of it: work for a busy processor, and a packet that got lost.
const GRACE: (Duration, Duration) = (Duration::from_millis(300), Duration::from_secs(2));

/// On a LAN, where the processor is the limit, QUIC waits this long for TCP, which costs half as much a byte (ADR 0008): with
/// every processor busy a handshake takes some hundred milliseconds, and the connection stays for the whole transfer.
/// On the Internet it goes first, as libp2p has it: its packets open the way through NATs, and the line is the limit.
const HEAD_START: Duration = Duration::from_millis(500);

/// A peer at one of its hosts.
type Place = (PeerId, IpAddr);

/// What the transports tell each other.
pub(crate) struct Refusals {
    told: broadcast::Sender<(Place, Duration)>,
    /// The latest, with when they were told; at most [`REMEMBERED_MAX`].
    recent: Mutex<VecDeque<(Instant, Place, Duration)>>,
    /// Peers connected through a relay; bounded as connections are.
    spared: Mutex<HashSet<PeerId>>,
}

impl Refusals {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { told: broadcast::channel(WAITING_MAX).0, recent: Mutex::default(), spared: Mutex::default() })
    }

    /// Whether a refusal says nothing about this peer.
    pub(crate) fn spare(&self, peer: PeerId, spared: bool) {
        let mut all = self.spared.lock().unwrap_or_else(PoisonError::into_inner);
        if spared {
            all.insert(peer);
        } else {
            all.remove(&peer);
        }
    }

    fn is_spared(&self, peer: &PeerId) -> bool {
        self.spared.lock().unwrap_or_else(PoisonError::into_inner).contains(peer)
    }

    fn tell(&self, place: Place, took: Duration) {
        if !self.is_spared(&place.0) {
            let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
            if recent.len() >= REMEMBERED_MAX {
                recent.pop_front();
            }
            recent.push_back((Instant::now(), place, took));
            drop(recent);
            // Nobody may be listening.
            let _ = self.told.send((place, took));
        }
    }

    /// What a dial that begins now will hear of a place.
    fn listen(&self, place: Place) -> Listener {
        // First the future, then the past: nothing falls between.
        let told = self.told.subscribe();
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let known = recent.iter().rev().find(|(at, refused, _)| *refused == place && at.elapsed() < REMEMBERED);
        let known = known.filter(|_| !self.is_spared(&place.0));
        Listener { told, place, known: known.map(|(.., took)| *took) }
    }
}

/// Waits for a place to refuse.
struct Listener {
    told: broadcast::Receiver<(Place, Duration)>,
    place: Place,
    /// It did a moment ago, and this long that took.
    known: Option<Duration>,
}

impl Listener {
    /// Ends when the place has refused and the grace after it is over.
    async fn given_up(self) {
        let took = self.refused().await;
        tokio::time::sleep((took * ROUND_TRIPS).clamp(GRACE.0, GRACE.1)).await;
    }

    /// Ends when the place has refused; how long that took.
    async fn refused(mut self) -> Duration {
        if let Some(took) = self.known {
            return took;
        }
        loop {
            match self.told.recv().await {
                Ok((refused, took)) if refused == self.place => return took,
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return std::future::pending().await,
            }
        }
    }
}

/// What a transport does about refusals.
enum Part<E> {
    /// Tells of the errors that are refusals.
    Tells(fn(&E) -> bool),
    /// Gives up with this error.
    Heeds(fn() -> E),
}

/// A transport that takes part.
pub(crate) struct Heedful<T: Transport> {
    inner: T,
    part: Part<T::Error>,
    refusals: Arc<Refusals>,
}

impl<T: Transport> Heedful<T> {
    /// The one that is refused.
    pub(crate) fn telling(inner: T, refusals: &Arc<Refusals>, is_refusal: fn(&T::Error) -> bool) -> Self {
        Self { inner, part: Part::Tells(is_refusal), refusals: refusals.clone() }
    }

    /// The one that waits in vain.
    pub(crate) fn heeding(inner: T, refusals: &Arc<Refusals>, given_up: fn() -> T::Error) -> Self {
        Self { inner, part: Part::Heeds(given_up), refusals: refusals.clone() }
    }
}

impl<T> Transport for Heedful<T>
where
    T: Transport + Unpin,
    T::Dial: Send + 'static,
    T::Output: Send,
    T::Error: Error + Send + 'static,
{
    type Output = T::Output;
    type Error = T::Error;
    type ListenerUpgrade = T::ListenerUpgrade;
    type Dial = BoxFuture<'static, Result<T::Output, T::Error>>;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<T::Error>> {
        self.inner.listen_on(id, address)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(&mut self, address: Multiaddr, opts: DialOpts) -> Result<Self::Dial, TransportError<T::Error>> {
        let place = addresses::split_peer(address.clone()).1.zip(addresses::ip(&address));
        let whole = address.clone();
        let dial = self.inner.dial(address, opts)?;
        // Who punches a hole dials as a listener.
        let Some(place) = place.filter(|_| !opts.role.is_listener()) else { return Ok(dial.boxed()) };
        let refusals = self.refusals.clone();
        Ok(match self.part {
            Part::Tells(is_refusal) => async move {
                let begun = Instant::now();
                let dialled = dial.await;
                if dialled.as_ref().is_err_and(is_refusal) {
                    refusals.tell(place, begun.elapsed());
                }
                dialled
            }
            .boxed(),
            Part::Heeds(given_up) => {
                let (told, told_too) = (refusals.listen(place), refusals.listen(place));
                let wait = match place {
                    (peer, _) if refusals.is_spared(&peer) => Duration::ZERO,
                    _ if addresses::is_usable(&whole, false) => Duration::ZERO,
                    _ => HEAD_START,
                };
                let dial = async move {
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        _ = told_too.refused() => {}
                    }
                    dial.await
                };
                async move {
                    tokio::select! {
                        biased;
                        dialled = dial => dialled,
                        () = told.given_up() => Err(given_up()),
                    }
                }
                .boxed()
            }
        })
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
        Pin::new(&mut self.inner).poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use libp2p::core::{Endpoint, transport::PortUse};
    use tokio::time::timeout;

    use super::*;

    /// Longer than the longest grace by far, however busy the machine is.
    const DEADLINE: Duration = Duration::from_secs(120);

    /// A transport whose dials all end like this, or never.
    struct Fake(Option<io::ErrorKind>);

    impl Transport for Fake {
        type Output = ();
        type Error = io::Error;
        type ListenerUpgrade = std::future::Pending<io::Result<()>>;
        type Dial = BoxFuture<'static, io::Result<()>>;

        fn listen_on(&mut self, _: ListenerId, address: Multiaddr) -> Result<(), TransportError<io::Error>> {
            Err(TransportError::MultiaddrNotSupported(address))
        }

        fn remove_listener(&mut self, _: ListenerId) -> bool {
            false
        }

        fn dial(&mut self, _: Multiaddr, _: DialOpts) -> Result<Self::Dial, TransportError<io::Error>> {
            Ok(match self.0 {
                Some(kind) => std::future::ready(Err(kind.into())).boxed(),
                None => std::future::pending().boxed(),
            })
        }

        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
            Poll::Pending
        }
    }

    /// How a QUIC dial that nobody answers ends within `patience` when a TCP dial to this place ends like this.
    async fn quic_dial(
        refusals: &Arc<Refusals>,
        peer: PeerId,
        (place, at, how): (&str, PeerId, io::ErrorKind),
        patience: Duration,
    ) -> Option<io::ErrorKind> {
        quic_dial_in_turn(refusals, peer, (place, at, how), patience, false).await
    }

    /// The same, when it begins only after the TCP dial has ended.
    async fn quic_dial_in_turn(
        refusals: &Arc<Refusals>,
        peer: PeerId,
        (place, at, how): (&str, PeerId, io::ErrorKind),
        patience: Duration,
        afterwards: bool,
    ) -> Option<io::ErrorKind> {
        let opts = DialOpts { role: Endpoint::Dialer, port_use: PortUse::New };
        let parse = |text: &str, peer| text.parse::<Multiaddr>().expect("address").with_p2p(peer).expect("none yet");
        let mut quic = Heedful::heeding(Fake(None), refusals, || io::ErrorKind::TimedOut.into());
        let mut quic = || quic.dial(parse("/ip4/127.0.0.1/udp/1/quic-v1", peer), opts).expect("dials");
        let early = (!afterwards).then(&mut quic);
        let is_refusal = |e: &io::Error| e.kind() == io::ErrorKind::ConnectionRefused;
        let mut tcp = Heedful::telling(Fake(Some(how)), refusals, is_refusal);
        assert!(tcp.dial(parse(place, at), opts).expect("dials").await.is_err());
        let quic = early.unwrap_or_else(quic);
        timeout(patience, quic).await.ok().map(|dialled| dialled.expect_err("nobody answers").kind())
    }

    #[tokio::test]
    async fn a_refusal_ends_the_quic_dial_to_the_same_place_and_no_other() {
        use io::ErrorKind::{ConnectionRefused, TimedOut};
        let refusals = Refusals::new();
        let (peer, other) = (PeerId::random(), PeerId::random());
        let here = ("/ip4/127.0.0.1/tcp/1", peer, ConnectionRefused);
        assert_eq!(quic_dial(&refusals, peer, here, DEADLINE).await, Some(TimedOut));
        let a_little_longer = 2 * GRACE.0;
        for elsewhere in [
            ("/ip4/127.0.0.1/tcp/1", other, ConnectionRefused),
            ("/ip4/127.0.0.2/tcp/1", peer, ConnectionRefused),
            ("/ip4/127.0.0.1/tcp/1", peer, TimedOut),
        ] {
            assert_eq!(quic_dial(&refusals, peer, elsewhere, a_little_longer).await, None, "{elsewhere:?}");
        }
        let late = quic_dial_in_turn(&refusals, peer, here, DEADLINE, true).await;
        assert_eq!(late, Some(TimedOut), "a refusal is remembered for those that begin a moment later");
        refusals.spare(peer, true);
        let spared = quic_dial(&refusals, peer, here, a_little_longer).await;
        assert_eq!(spared, None, "its NAT refuses while a hole is punched");
    }
}
