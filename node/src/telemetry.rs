//! Logging: to stderr, quiet by default, JSON when asked. `CAIRN_LOG` takes a full filter, as `RUST_LOG` would.

use tracing_subscriber::{EnvFilter, fmt};

/// How much is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verbosity {
    /// `-v` given so many times.
    pub verbose: u8,
    /// `-q`.
    pub quiet: bool,
    /// One JSON object a line.
    pub json: bool,
}

/// Starts logging. A second call in one process (tests) changes nothing.
pub fn start(verbosity: Verbosity) {
    let filter = std::env::var("CAIRN_LOG").ok().and_then(|text| EnvFilter::try_new(text).ok());
    let filter = filter.unwrap_or_else(|| EnvFilter::new(default_filter(verbosity)));
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // An error means that a subscriber is set already, which is what we want.
    let _ =
        if verbosity.json { builder.json().try_init() } else { builder.with_target(false).with_ansi(false).try_init() };
}

/// Our own levels first; libraries only speak up when they fail, or when somebody really asks.
fn default_filter(verbosity: Verbosity) -> &'static str {
    match (verbosity.quiet, verbosity.verbose) {
        (true, _) => "off,cairn=error",
        (false, 0) => "off,cairn=warn",
        (false, 1) => "off,cairn=info",
        (false, 2) => "warn,cairn=debug",
        (false, _) => "info,cairn=trace,libp2p=debug",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_is_a_valid_filter() {
        for verbose in 0..4 {
            for quiet in [false, true] {
                let text = default_filter(Verbosity { verbose, quiet, json: false });
                assert!(EnvFilter::try_new(text).is_ok(), "{text}");
            }
        }
    }
}
