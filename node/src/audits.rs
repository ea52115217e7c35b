//! Audits as a node does them; what they are, and what an answer proves, is [`cairn_core::audit`]'s.

pub mod answer;
pub mod auditor;
pub(crate) mod odds;
pub mod tokens;
