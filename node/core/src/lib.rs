//! Cairn's decisions and data transforms, pure: no tokio, no sockets, no files, no clock, no OS randomness.
//!
//! Time comes in as [`cairn_proto::Timestamp`], chance as a seeded generator, the world as values; what should
//! happen comes out as values. The daemon and the simulator drive the same types.

pub mod assess;
pub mod audit;
pub mod blind;
pub mod budget;
pub mod carrier;
pub mod chunking;
pub mod colour;
pub mod courtesy;
pub mod crowd;
pub mod discovery;
pub mod durability;
pub mod erasure;
pub mod fallback;
pub mod gcm;
#[cfg(test)]
mod golden;
pub mod invitations;
pub mod keys;
pub mod liveness;
pub mod pack;
pub mod part;
pub mod peer_view;
pub mod placement;
pub mod region;
pub mod reputation;
pub mod seal;
pub mod shard_buffer;
pub mod steward;
pub mod stripe;
pub mod succession;
