//! Opens sled's folders: waits for a lock that is on its way out, and turns sled's panics into errors.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

/// How often, and after what pause, a folder is tried that is still locked: sled lets go of it a little after the last
/// handle is gone.
pub(crate) const LOCK_TRIES: u32 = 40;
pub(crate) const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// Why a folder was not opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// sled says why.
    #[error(transparent)]
    Sled(#[from] sled::Error),
    /// sled panicked, as it does on some kinds of damage.
    #[error("the database cannot make sense of itself")]
    Panicked,
}

/// Opens a folder. Blocking, two seconds at most while it is locked: whoever calls has made sure that no other process has it, so it is a
/// handle of this one that is on its way out.
///
/// # Errors
/// sled cannot open it, or panics over it.
pub(crate) fn open(config: &sled::Config) -> Result<sled::Db, OpenError> {
    let mut tries = 0;
    loop {
        match catch_unwind(AssertUnwindSafe(|| config.open())).map_err(|_| OpenError::Panicked)? {
            Err(sled::Error::Io(e)) if tries < LOCK_TRIES && e.to_string().contains("lock") => {
                tries += 1;
                std::thread::sleep(LOCK_PAUSE);
            }
            other => return Ok(other?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_goes_away_is_waited_for() {
        let dir = tempfile::tempdir().expect("made");
        let config = sled::Config::new().path(dir.path()).cache_capacity(1 << 20);
        let first = open(&config).expect("opens");
        let gone = std::thread::spawn(move || {
            std::thread::sleep(LOCK_PAUSE);
            drop(first);
        });
        open(&config).expect("opens once the first is gone");
        gone.join().expect("ended");
    }

    #[test]
    fn one_that_stays_is_an_error() {
        let dir = tempfile::tempdir().expect("made");
        let config = sled::Config::new().path(dir.path()).cache_capacity(1 << 20);
        let first = open(&config).expect("opens");
        assert!(matches!(open(&config), Err(OpenError::Sled(sled::Error::Io(_)))));
        drop(first);
    }
}
