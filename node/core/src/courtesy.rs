//! How a node treats others on one line: who goes first, how fast by the hour, and what the line was seen to carry.
//!
//! - [`gate`] shares a limited line out among what waits for it.
//! - [`deference`] holds background work back while restores pass on a line whose speed nobody knows.
//! - [`timetable`] says how fast a line may be used now, and until when.
//! - [`urgent`] says how much of what stewards call urgent goes first.
//! - [`upstream`] is what our line carries, by what really went out.
//!
//! Pure: the time comes in, and nothing here waits.

pub mod deference;
pub mod gate;
pub mod timetable;
pub mod upstream;
pub mod urgent;

pub use crate::budget::WaitMs;

#[cfg(test)]
mod tests;
