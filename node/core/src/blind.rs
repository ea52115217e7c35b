//! Blinded pipelined rebuild: a lost shard comes back from k others, and nobody sees a byte of a slot not their own.
//!
//! `lost = c_1 S_1 + ... + c_k S_k` over GF(2^8). The k helpers form a chain. Each adds its own product to the sum that
//! comes in, and the masks that it shares with every other party, the new holder included; then it passes the sum on. The
//! masks of two helpers come twice and cancel; those with the new holder remain, and it removes them. The reasons stand
//! in `node/docs/adr/0017-blinded-rebuild.md`.
//!
//! ```text
//! steward: Session::plan ──► every party: SessionLedger::admit ──► Helper::new, NewHolder::new
//! first helper ── 16 slices of 64 KiB ──► helper ──► ... ──► new holder ──► finish: the root decides
//! after a wrong root: fingerprint + locate, then a Search
//! ```
//!
//! Sans-IO: orders, certificates, streams and time-outs are the caller's, and so are fresh entropy and the time.
//!
//! # Invariants
//!
//! - **SEP-1** No party, nor any number of them that leaves one helper out, learns anything of another party's shard; with
//!   the new holder among them they learn the rebuilt shard, which is its own. Enforced by [`Helper`] adding a mask for each
//!   pair, by [`EphemeralSecret`] being used up by one session, and by [`SessionLedger::admit`]; attacked by
//!   `tests::taint`, where every coalition's view is reduced by Gaussian elimination.
//! - **DUR-3** A rebuilt shard is byte-identical to the lost one. Enforced by [`NewHolder::finish`], the only way to its
//!   bytes; attacked by `tests::cancel`.
//! - **TRUST-1** [`locate`] and [`Search`] give suspicion, never proof: what they assume is said there.

use cairn_proto::{CodeParams, SHARD_SIZE, ShardRoot, Slot};

mod broken;
mod chain;
mod fingerprint;
pub mod invite;
mod ledger;
mod masks;
mod search;
mod session;
#[cfg(test)]
mod tests;
pub mod wire;

pub use broken::{Word, stopped_at};
pub use chain::{Helper, NewHolder};
pub use fingerprint::{FINGERPRINT_SIZE, Fingerprint, Located, fingerprint, locate};
pub use ledger::{ABANDONED_MAX, Admitted, LEDGER_MAX, LedgerRefusal, SESSIONS_MAX, SessionLedger, WINDOW_MS};
pub use masks::{EphemeralKey, EphemeralSecret};
pub use search::{RUNS_OF_ORDER, RUNS_OF_STRIPE, Search, Verdict};
pub use session::{Link, Order, SESSION_SIZE_MAX, Session, SessionId};

use crate::erasure::ErasureError;

/// Bytes that pass from party to party at a time: small against a shard, so that the chain works in parallel, large against
/// a frame's header.
pub const SLICE_SIZE: usize = 65_536;

/// Slices of a shard.
pub const SLICES: usize = SHARD_SIZE / SLICE_SIZE;

/// Stripes of one order that a new holder rebuilds at a time.
pub const STRIPES_AT_ONCE: usize = 2;

/// Why a party stops. Nothing here depends on the content of a shard, but for [`BlindError::WrongRoot`], which only the new
/// holder can see.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlindError {
    /// The session has another public key for us than our secret's.
    #[error("the session names another key for slot {slot} than the one made for it")]
    NotOurKey {
        /// Our slot.
        slot: Slot,
    },
    /// Two parties of an order have one key.
    #[error("the key of slot {slot} is another party's too")]
    KeyTwice {
        /// The later of the two.
        slot: Slot,
    },
    /// The slot has another part in this session.
    #[error("slot {slot} has no such part in this session")]
    NoPart {
        /// The slot.
        slot: Slot,
    },
    /// A party's key is a point of low order: what it would share with us is known to all.
    #[error("the key of slot {slot} gives a secret that everybody knows")]
    WeakKey {
        /// Whose key.
        slot: Slot,
    },
    /// The group's code is another one.
    #[error("the session is for {session}, the group's code is {ours}")]
    OtherCode {
        /// What the session says.
        session: CodeParams,
        /// What the group's ticket says.
        ours: CodeParams,
    },
    /// The sum would not be the lost shard: perhaps somebody's own, unmasked.
    #[error("the session's coefficients do not make the lost shard")]
    Coefficients,
    /// The session's slots are no rebuild in this code.
    #[error(transparent)]
    Erasure(#[from] ErasureError),
    /// A slice came twice, too late or too early.
    #[error("slice {found} came where {expected} is due")]
    Slice {
        /// Which one is due; [`SLICES`] when all were there.
        expected: usize,
        /// Which one came.
        found: usize,
    },
    /// Not a slice.
    #[error("a slice has {SLICE_SIZE} bytes, this one has {found}")]
    Length {
        /// Bytes found.
        found: usize,
    },
    /// Only the first helper begins the sum, and it alone.
    #[error("a sum came in for the first of the chain, or none for another one")]
    Incoming,
    /// The shard is not whole yet.
    #[error("{taken} of {SLICES} slices were there")]
    Incomplete {
        /// Slices taken.
        taken: usize,
    },
    /// Somebody's slice was wrong; the bytes are gone.
    #[error("the rebuilt shard has another root than the lost one: a party sent wrong bytes")]
    WrongRoot {
        /// The root in the owner-signed record.
        expected: ShardRoot,
        /// The root of what came.
        found: ShardRoot,
    },
}
