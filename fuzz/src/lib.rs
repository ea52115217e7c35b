//! Hostile bytes for every decoder.
//!
//! [`targets::all`] lists one target per decoder: a name, a few valid inputs to start from, and a function that takes
//! any bytes and panics when a promise is broken (a panic inside the decoder, an allocation over its limit, a value
//! that does not encode to what it was read from). [`mutate`] makes inputs from the valid ones, deterministically from
//! a seed, so that stable Rust suffices and a failure can be found again. A coverage-guided fuzzer can call the same
//! functions: a libFuzzer target is `fuzz_target!(|data: &[u8]| (targets::by_name("grant").run)(data))`.

pub mod mutate;
pub mod targets;
