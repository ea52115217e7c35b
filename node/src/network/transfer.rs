//! Moving shards: frames on long streams, the requester's side and the holder's.
//!
//! One stream for writes and one for reads to each peer in use, opened by the requester and kept, because a fresh
//! yamux stream starts with a 256 KiB window and pays some five round trips for a shard (ADR 0002). Streams are
//! driven by their own tasks, never by the Swarm's.

pub(crate) mod client;
pub(crate) mod frame;
pub(crate) mod link;
pub(crate) mod server;
pub(crate) mod workers;
