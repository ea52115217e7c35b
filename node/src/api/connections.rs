//! Who may talk on the control socket, how many at once, and how long a request may take to arrive.
//!
//! The socket is 0600 in a folder that is 0700; the credentials of the other end are the second guard, for a folder that
//! was opened up or a file system that knows no modes. Bounds: [`CONNECTIONS_MAX`] connections, [`PATIENCE`] for a
//! request to arrive, and a connection is served one request after the other. A client that does not read its answer
//! slows its own verb and keeps its connection; everybody who can do that is this very user.

use std::{sync::Arc, time::Duration};

use axum::Router;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// Connections at one time; more wait in the kernel's queue. Twice what may run verbs, so that a status is answered
/// while all of them do.
pub(super) const CONNECTIONS_MAX: usize = 2 * super::VERBS_MAX;
/// How long the head, and then a JSON body, may take to arrive. Clients on this machine need milliseconds.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// Most bytes of a request's head and of what is read ahead.
const BUFFER_MAX: usize = 64 * 1024;
/// Pause after the system could not give a connection (out of descriptors): trying again at once would only burn time.
const BREATH: Duration = Duration::from_millis(100);

/// The bounds, smaller in tests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) connections: usize,
    pub(super) patience: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: CONNECTIONS_MAX, patience: PATIENCE }
    }
}

/// Serves until `shutdown` fires, then gives what is being answered `farewell`; after that connections are dropped.
pub(super) async fn serve(
    listener: UnixListener,
    router: Router,
    limits: Limits,
    shutdown: CancellationToken,
    farewell: Duration,
) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let mut open = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = accept(&listener, &places) => accepted,
        };
        match accepted {
            Ok((stream, place)) => {
                open.spawn(one(stream, place, router.clone(), limits.patience, shutdown.clone()));
            }
            Err(e) => {
                tracing::warn!("the control socket gives no connection: {e}");
                tokio::time::sleep(BREATH).await;
            }
        }
        while open.try_join_next().is_some() {}
    }
    let _ = tokio::time::timeout(farewell, async { while open.join_next().await.is_some() {} }).await;
}

async fn accept(
    listener: &UnixListener,
    places: &Arc<Semaphore>,
) -> std::io::Result<(UnixStream, OwnedSemaphorePermit)> {
    loop {
        let place = Arc::clone(places).acquire_owned().await.map_err(std::io::Error::other)?;
        let (stream, _) = listener.accept().await?;
        let theirs = stream.peer_cred()?.uid();
        if may_talk(theirs, rustix::process::geteuid().as_raw()) {
            return Ok((stream, place));
        }
        tracing::warn!(uid = theirs, "another user was turned away from the control socket");
    }
}

/// The same user, and root, who could anyway.
const fn may_talk(theirs: u32, ours: u32) -> bool {
    theirs == ours || theirs == 0
}

async fn one(
    stream: UnixStream,
    _place: OwnedSemaphorePermit,
    router: Router,
    patience: Duration,
    shutdown: CancellationToken,
) {
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(patience).max_buf_size(BUFFER_MAX);
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(e) = ended {
        // The other end went away or sent no HTTP: its own affair.
        tracing::debug!("a control connection ended: {e}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_user_and_root_may_talk() {
        assert!(may_talk(1000, 1000) && may_talk(0, 1000) && may_talk(0, 0));
        assert!(!may_talk(1001, 1000) && !may_talk(1000, 0));
    }
}
