//! The bootstrap and relay roles of Cairn as a library: what they bear ([`limits`]), how their network file is put
//! together ([`network_file`], [`address`]), and the operator's kit (`kit/`, checked by `tests/kit.rs`).
//!
//! No sockets here: the node's swarm runs the roles, this crate says within what limits.

pub mod address;
pub mod limits;
pub mod network_file;

pub use address::{AddressError, check_address};
pub use network_file::{AssembleError, add_bootstrap};
