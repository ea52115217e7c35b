//! Cairn: a peer-to-peer backup network. This library is everything that the one binary, `cairn`, does.

pub mod api;
pub mod config;
pub mod data_dir;
pub mod failure;
pub mod files;
pub mod identity;
pub mod network;
pub mod ops;
pub mod overlay;
pub mod telemetry;
pub mod vault;
pub mod cli;
pub mod daemon;
pub mod demo;
pub mod lab;
pub mod store;
