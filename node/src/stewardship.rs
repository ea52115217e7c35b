//! Life without the owner: this node's work as a steward, and the parts that stewards give it as a holder.
//!
//! The decisions are [`cairn_core::steward`]'s and [`cairn_core::part`]'s; here they are driven.

pub mod ports;
