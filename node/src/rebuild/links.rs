//! Brings the streams between helpers to the sessions that wait for them.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use cairn_core::blind::SessionId;
use cairn_proto::PeerKey;
use tokio::sync::oneshot;

use super::{Pipe, pipe::Incoming};

/// A session, and who comes before us in it.
type Place = (SessionId, PeerKey);

/// Who waits for what; no more than there are sessions here.
#[derive(Default)]
pub(super) struct Links {
    waiting: Mutex<HashMap<Place, oneshot::Sender<Pipe>>>,
}

/// A wait for one link; it ends with this.
pub(super) struct Expected<'a> {
    links: &'a Links,
    place: Place,
    link: oneshot::Receiver<Pipe>,
}

impl Links {
    fn lock(&self) -> MutexGuard<'_, HashMap<Place, oneshot::Sender<Pipe>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on that peer's link of that session is taken, once. A session's id is admitted once only, so nobody else waits
    /// for it.
    pub(super) fn expect(&self, id: SessionId, from: PeerKey) -> Expected<'_> {
        let (sender, link) = oneshot::channel();
        self.lock().insert((id, from), sender);
        Expected { links: self, place: (id, from), link }
    }

    /// Whether a session waits for a link of that peer.
    pub(super) fn expects(&self, from: &PeerKey) -> bool {
        self.lock().keys().any(|(_, expected)| expected == from)
    }

    /// A link came. One that nobody waits for is dropped.
    pub(super) fn hand_over(&self, id: SessionId, from: PeerKey, pipe: Pipe) {
        let waiting = self.lock().remove(&(id, from));
        if waiting.is_none_or(|waiting| waiting.send(pipe).is_err()) {
            tracing::debug!(peer = %from.short(), "a link that no session waits for");
        }
    }
}

impl Expected<'_> {
    /// The link, when it comes in time.
    pub(super) async fn within(mut self, time: Duration) -> Option<Incoming> {
        tokio::time::timeout(time, &mut self.link).await.ok()?.ok().map(Incoming)
    }
}

impl Drop for Expected<'_> {
    fn drop(&mut self) {
        self.links.lock().remove(&self.place);
    }
}
