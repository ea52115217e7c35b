//! Cairn: a peer-to-peer backup network. This library is everything that the one binary, `cairn`, does.

pub mod failure;
pub mod ops;
pub mod overlay;
pub mod store;
