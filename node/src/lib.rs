//! Cairn: a peer-to-peer backup network. This library is everything that the one binary, `cairn`, does.

pub mod failure;
pub mod identity;
pub mod network;
pub mod ops;
pub mod overlay;
