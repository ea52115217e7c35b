//! A connection's handlers, polled only when somebody woke them.
//!
//! libp2p polls a connection's handlers and asks them for all of their protocols whenever anything happens on the connection. While
//! shards go over it that is each few dozen KiB, and nearly always nothing has happened to the handlers: with twenty protocols it was a
//! twentieth of a backup's processor time. Their waker tells: who was not woken, and was told nothing, has nothing to say; and names a
//! protocol that it did not name before only after one of these.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use futures::{FutureExt as _, future::BoxFuture, task::AtomicWaker};
use libp2p::{
    Stream, StreamProtocol,
    core::upgrade::{InboundUpgrade, UpgradeInfo},
    swarm::{
        ConnectionHandler, ConnectionHandlerEvent, SubstreamProtocol,
        handler::{
            ConnectionEvent, FullyNegotiatedInbound, InboundUpgradeSend, ListenUpgradeError, UpgradeInfoSend as _,
        },
    },
};

/// What wakes the handlers, and with them the connection.
#[derive(Default)]
struct Alarm {
    rung: AtomicBool,
    connection: AtomicWaker,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        self.connection.wake();
    }
}

/// A handler that is polled when it was woken or told something.
pub(crate) struct Woken<H: ConnectionHandler> {
    inner: Arc<Mutex<Inner<H>>>,
    alarm: Arc<Alarm>,
    /// Rings the alarm.
    waker: Waker,
}

struct Inner<H> {
    handler: H,
    /// What it listened to when it was asked last; `None` when that may have changed.
    listens: Option<(Arc<[StreamProtocol]>, Duration)>,
}

impl<H: ConnectionHandler> Inner<H> {
    fn listens(&mut self) -> (Arc<[StreamProtocol]>, Duration) {
        let ask = || {
            let listened = self.handler.listen_protocol();
            // A name that is none could not be negotiated either.
            let names = listened.upgrade().protocol_info();
            let names =
                names.filter_map(|name| StreamProtocol::try_from_owned(name.as_ref().to_owned()).ok()).collect();
            (names, *listened.timeout())
        };
        self.listens.get_or_insert_with(ask).clone()
    }
}

impl<H: ConnectionHandler> Woken<H> {
    pub(crate) fn new(handler: H) -> Self {
        let alarm = Arc::new(Alarm { rung: AtomicBool::new(true), connection: AtomicWaker::new() });
        let waker = Waker::from(alarm.clone());
        Self { inner: Arc::new(Mutex::new(Inner { handler, listens: None })), alarm, waker }
    }

    fn inner(&self) -> MutexGuard<'_, Inner<H>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The handler, about to be told something: it may have something to say afterwards.
    fn told(&self) -> MutexGuard<'_, Inner<H>> {
        self.alarm.rung.store(true, Ordering::Release);
        let mut inner = self.inner();
        inner.listens = None;
        inner
    }
}

/// What a handler listens to: its protocols' names at hand, and its upgrade made when a stream has come.
pub(crate) struct Listen<H> {
    names: Arc<[StreamProtocol]>,
    inner: Arc<Mutex<Inner<H>>>,
}

/// The names of what is listened to, one after the other.
pub(crate) struct Names {
    names: Arc<[StreamProtocol]>,
    next: usize,
}

impl Iterator for Names {
    type Item = StreamProtocol;

    fn next(&mut self) -> Option<StreamProtocol> {
        let name = self.names.get(self.next)?;
        self.next += 1;
        Some(name.clone())
    }
}

impl<H: ConnectionHandler> UpgradeInfo for Listen<H> {
    type Info = StreamProtocol;
    type InfoIter = Names;

    fn protocol_info(&self) -> Names {
        Names { names: self.names.clone(), next: 0 }
    }
}

type Upgrade<H> = <H as ConnectionHandler>::InboundProtocol;
type Info<H> = <H as ConnectionHandler>::InboundOpenInfo;

impl<H: ConnectionHandler> InboundUpgrade<Stream> for Listen<H> {
    type Output = (<Upgrade<H> as InboundUpgradeSend>::Output, Info<H>);
    /// `None`: it does not listen to this any more.
    type Error = Option<(<Upgrade<H> as InboundUpgradeSend>::Error, Info<H>)>;
    type Future = BoxFuture<'static, Result<Self::Output, Self::Error>>;

    fn upgrade_inbound(self, stream: Stream, name: StreamProtocol) -> Self::Future {
        let listened = self.inner.lock().unwrap_or_else(PoisonError::into_inner).handler.listen_protocol();
        let (upgrade, info) = listened.into_upgrade();
        let Some(wanted) = upgrade.protocol_info().find(|known| known.as_ref() == name.as_ref()) else {
            return futures::future::ready(Err(None)).boxed();
        };
        let upgraded = upgrade.upgrade_inbound(stream, wanted);
        upgraded
            .map(|done| match done {
                Ok(output) => Ok((output, info)),
                Err(error) => Err(Some((error, info))),
            })
            .boxed()
    }
}

impl<H: ConnectionHandler> ConnectionHandler for Woken<H> {
    type FromBehaviour = H::FromBehaviour;
    type ToBehaviour = H::ToBehaviour;
    type InboundProtocol = Listen<H>;
    type OutboundProtocol = H::OutboundProtocol;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = H::OutboundOpenInfo;

    fn listen_protocol(&self) -> SubstreamProtocol<Listen<H>> {
        let (names, timeout) = self.inner().listens();
        SubstreamProtocol::new(Listen { names, inner: self.inner.clone() }, ()).with_timeout(timeout)
    }

    fn connection_keep_alive(&self) -> bool {
        self.inner().handler.connection_keep_alive()
    }

    fn on_behaviour_event(&mut self, event: H::FromBehaviour) {
        self.told().handler.on_behaviour_event(event);
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<H::OutboundProtocol, H::OutboundOpenInfo, H::ToBehaviour>> {
        // First whom to wake, then whether somebody rang: nothing falls between.
        self.alarm.connection.register(cx.waker());
        if !self.alarm.rung.swap(false, Ordering::AcqRel) {
            return Poll::Pending;
        }
        let mut inner = self.inner();
        inner.listens = None;
        let polled = inner.handler.poll(&mut Context::from_waker(&self.waker));
        drop(inner);
        if polled.is_ready() {
            // It may have more.
            self.alarm.rung.store(true, Ordering::Release);
        }
        polled
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Option<H::ToBehaviour>> {
        self.inner().handler.poll_close(cx)
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Listen<H>, H::OutboundProtocol, (), H::OutboundOpenInfo>,
    ) {
        let event = match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol: (protocol, info), .. }) => {
                ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, info })
            }
            ConnectionEvent::ListenUpgradeError(ListenUpgradeError { error: Some((error, info)), .. }) => {
                ConnectionEvent::ListenUpgradeError(ListenUpgradeError { info, error })
            }
            ConnectionEvent::FullyNegotiatedOutbound(negotiated) => {
                ConnectionEvent::FullyNegotiatedOutbound(negotiated)
            }
            ConnectionEvent::DialUpgradeError(failed) => ConnectionEvent::DialUpgradeError(failed),
            ConnectionEvent::AddressChange(change) => ConnectionEvent::AddressChange(change),
            ConnectionEvent::LocalProtocolsChange(change) => ConnectionEvent::LocalProtocolsChange(change),
            ConnectionEvent::RemoteProtocolsChange(change) => ConnectionEvent::RemoteProtocolsChange(change),
            _ => return,
        };
        self.told().handler.on_connection_event(event);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use either::Either;
    use libp2p::{
        core::upgrade::{DeniedUpgrade, ReadyUpgrade},
        swarm::handler::SendWrapper,
    };

    use super::*;

    /// Says what it was told, and listens from the first word on.
    #[derive(Default)]
    struct Parrot {
        words: Vec<u8>,
        listens: bool,
        waker: Option<Waker>,
        polls: usize,
        asked: AtomicUsize,
    }

    const NAME: StreamProtocol = StreamProtocol::new("/parrot/1");

    impl ConnectionHandler for Parrot {
        type FromBehaviour = u8;
        type ToBehaviour = u8;
        type InboundProtocol = Either<SendWrapper<ReadyUpgrade<StreamProtocol>>, SendWrapper<DeniedUpgrade>>;
        type OutboundProtocol = DeniedUpgrade;
        type InboundOpenInfo = ();
        type OutboundOpenInfo = ();

        fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let upgrade = match self.listens {
                true => Either::Left(SendWrapper(ReadyUpgrade::new(NAME))),
                false => Either::Right(SendWrapper(DeniedUpgrade)),
            };
            SubstreamProtocol::new(upgrade, ()).with_timeout(Duration::from_secs(3))
        }

        fn on_behaviour_event(&mut self, word: u8) {
            self.words.push(word);
            self.listens = true;
        }

        fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<DeniedUpgrade, (), u8>> {
            self.polls += 1;
            self.waker = Some(cx.waker().clone());
            self.words.pop().map_or(Poll::Pending, |word| Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(word)))
        }

        fn on_connection_event(&mut self, _: ConnectionEvent<'_, Self::InboundProtocol, DeniedUpgrade>) {}
    }

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn it_is_polled_when_it_was_woken_or_told_something_and_else_not() {
        let (mut woken, count) = (Woken::new(Parrot::default()), Arc::new(Count::default()));
        let waker = Waker::from(count.clone());
        let mut cx = Context::from_waker(&waker);
        let said = |polled| match polled {
            Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(word)) => Some(word),
            _ => None,
        };
        for _ in 0..3 {
            assert_eq!(said(woken.poll(&mut cx)), None);
        }
        assert_eq!(woken.inner().handler.polls, 1, "the first time, and not for nothing");
        woken.on_behaviour_event(1);
        woken.on_behaviour_event(2);
        assert_eq!([(); 3].map(|()| said(woken.poll(&mut cx))), [Some(2), Some(1), None], "until it has no more");
        assert_eq!((said(woken.poll(&mut cx)), woken.inner().handler.polls), (None, 4));
        // A timer or a stream of its own.
        assert_eq!(count.0.load(Ordering::Relaxed), 0);
        let of_its_own = woken.inner().handler.waker.clone().expect("it was polled");
        of_its_own.wake();
        assert_eq!(count.0.load(Ordering::Relaxed), 1, "the connection is woken with it");
        assert_eq!((said(woken.poll(&mut cx)), woken.inner().handler.polls), (None, 5));
        assert_eq!((said(woken.poll(&mut cx)), woken.inner().handler.polls), (None, 5));
    }

    #[test]
    fn names_are_asked_for_again_when_they_may_be_others() {
        let mut woken = Woken::new(Parrot::default());
        let mut cx = Context::from_waker(Waker::noop());
        let names = |woken: &Woken<Parrot>| {
            let listened = woken.listen_protocol();
            assert_eq!(*listened.timeout(), Duration::from_secs(3));
            UpgradeInfo::protocol_info(listened.upgrade()).collect::<Vec<_>>()
        };
        let asked = |woken: &Woken<Parrot>| woken.inner().handler.asked.load(Ordering::Relaxed);
        assert_eq!((names(&woken), names(&woken), asked(&woken)), (vec![], vec![], 1));
        woken.on_behaviour_event(1);
        assert_eq!((names(&woken), names(&woken), asked(&woken)), (vec![NAME], vec![NAME], 2));
        // What it does when it is polled may change them too.
        assert!(woken.poll(&mut cx).is_ready());
        assert!(woken.poll(&mut cx).is_pending());
        assert_eq!((names(&woken), asked(&woken)), (vec![NAME], 3));
        assert!(woken.poll(&mut cx).is_pending());
        assert_eq!((names(&woken), asked(&woken)), (vec![NAME], 3));
    }
}
