//! The bootstrap and relay roles of Cairn as a library: what they bear, how their network file is put together, and
//! the operator's kit (`kit/`). No sockets here: the node's swarm runs the roles, this crate says how.

pub mod limits;
