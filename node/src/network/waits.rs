//! How long we wait at most for somebody who may be gone.

use std::time::Duration;

/// The longest waits. What cuts them short when somebody is certainly gone ([`hedge`](super::hedge),
/// [`refusals`](super::refusals), stalled walks) does not depend on them: tests make them so long that only that ends one.
#[derive(Clone, Copy, Debug)]
pub struct Waits {
    /// A dial with its handshake; a peer that takes longer is not worth waiting for.
    pub dial: Duration,
    /// One question: it is small and answered from memory or one disk read.
    pub question: Duration,
    /// One look-up in the DHT, which walks some ten hops.
    pub lookup: Duration,
    /// One walk with all its questions.
    pub walk: Duration,
    /// A head's publication or look-up; those who have not answered by then do not count.
    pub head: Duration,
    /// The DHT, when those who were asked directly are through.
    pub dht: Duration,
    /// Those who have not answered when half have: several round trips around the world, and a dial.
    pub late: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        Self {
            dial: Duration::from_secs(5),
            question: Duration::from_secs(10),
            lookup: Duration::from_secs(20),
            walk: Duration::from_secs(15),
            head: Duration::from_secs(12),
            dht: Duration::from_secs(4),
            late: Duration::from_millis(1500),
        }
    }
}
