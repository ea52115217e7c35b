//! The owner's side: keys, catalogue, backup, restore, check, recovery. Everything against
//! [`crate::overlay::Overlay`], nothing about how the network does it.
//!
//! # Invariants
//!
//! - **DUR-1** A head is published only when every stripe that it reaches is acknowledged, and a snapshot is listed only
//!   when the head that names it was kept by at least one peer.
//! - **DUR-2** No wrong byte is ever returned: shards are checked against their root, chunks against their keyed id.
//! - **SEC-1** Names, sizes and chunk boundaries never leave this module in the clear.

pub mod keyring;
pub mod stream_input;
pub mod verbs;
