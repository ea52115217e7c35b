//! Cairn: a peer-to-peer backup network. This library is everything that the one binary, `cairn`, does.

pub mod api;
pub mod audits;
#[cfg(test)]
mod cancel_at;
pub mod cli;
pub mod config;
pub mod courtesy;
pub mod daemon;
pub mod data_dir;
pub mod demo;
pub mod failure;
pub mod fallback;
pub mod files;
pub mod geoip;
pub mod holdings;
pub mod identity;
pub mod invitation;
pub mod lab;
pub mod network;
pub mod ops;
pub mod overlay;
pub mod plan;
pub mod rebuild;
mod signatures;
mod sled_folder;
pub mod standing;
pub mod stewardship;
pub mod store;
pub mod telemetry;
pub mod timers;
pub mod vault;
