//! Black-box tests of the real binary: real processes, real files, real sockets, a cleared environment.
//!
//! They show the wiring and the promises, not the logic (unit and property tests beside the code do that). Every wait
//! has a deadline and waits for something that happens; no test sleeps and hopes. One lab runs at a time, because two
//! cores are what CI has; tests that harm no node share one.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, missing_docs, unreachable_pub)]

/// Files in MaxMind's format, as the unit tests write them.
#[allow(dead_code)]
#[path = "../../node/src/geoip/fixture.rs"]
mod geoip;
mod harness;
mod hostile;
mod netns;
mod rogue;
mod tree;

mod audits;
mod cheats;
mod daemon;
mod demo;
mod departure;
mod durability;
mod fallback;
mod interruption;
mod invitations;
mod junk;
mod loss;
mod manners;
mod places;
mod reach;
mod recovery;
mod refusals;
mod round_trip;
mod separation;
mod slow;
mod streams;
mod succession;
mod surface;
