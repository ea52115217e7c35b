//! Nodes in one process, on loopback, with a keeper in memory. Events are waited for with a deadline.

mod absent;
mod answers;
mod cancelled;
mod conduct;
mod courtesy;
mod crowds;
mod discovery;
mod door;
mod heads;
mod hearsay;
mod hostile;
mod nodes;
mod passes;
mod relays;
mod stewards;
mod transfers;
