//! A lab of real nodes, an owner beside it, and processes that always end.

mod lab;
mod owner;
mod process;

pub use lab::{Lab, Permit, StoredShard, Stores};
pub use owner::{Owner, below};
pub use process::{EVENT_TIME_MAX, Output, Running, cairn, until, until_within};
