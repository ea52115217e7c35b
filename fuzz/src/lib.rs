//! Hostile bytes for every decoder.
//!
//! [`targets::all`] lists one target per decoder: a name, a few valid inputs to start from, and a function that takes
//! any bytes and panics when a promise is broken (a panic inside the decoder, an allocation over its limit, a value
//! that does not encode to what it was read from). [`mutate`] makes inputs from the valid ones, deterministically from
//! a seed, so that stable Rust suffices and a failure can be found again. libFuzzer can call the same functions:
//! `fuzz/libfuzzer` has a binary for each, outside of the workspace, since it needs a nightly toolchain.
//!
//! Without a target, on purpose: what a node reads back from its own disk under a checksum or as a cache (sled rows, which
//! are rebuilt; `lab.json`), the keyring (its header is bounded, and each try costs the key derivation), and multiaddrs
//! (libp2p's own parser).

pub mod mutate;
pub mod targets;
