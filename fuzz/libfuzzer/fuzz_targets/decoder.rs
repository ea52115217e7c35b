//! One libFuzzer binary for each decoder: its name in `Cargo.toml` says which.
#![no_main]

use std::sync::LazyLock;

use cairn_fuzz::targets::{self, Target};

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    targets::by_name(env!("CARGO_BIN_NAME")).unwrap_or_else(|| panic!("no target is called {}", env!("CARGO_BIN_NAME")))
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| (TARGET.run)(data));
