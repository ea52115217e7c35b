//! Rebuilds between real nodes in one process, on loopback, each with a keeper in memory.
//!
//! Chains that should work wait for ever, however busy the machine is; only a helper that hangs is met with a deadline.

mod chain;
mod disk;
mod gone;
mod liars;
mod lines;
mod measure;
mod refused;
mod spares;
mod taint;
mod village;
