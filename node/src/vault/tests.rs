//! The vault over a network in memory.

mod memory_overlay;
