//! SIGINT and SIGTERM: the first asks the verb to end cleanly, the second ends the process at once.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::failure::{ExitCode, Failure};

/// Which signal came, if one did.
pub(super) struct Signals(Arc<AtomicU8>);

/// Watches until the process ends.
pub(super) fn watch(cancel: CancellationToken) -> Signals {
    let seen = Arc::new(AtomicU8::new(0));
    let store = Arc::clone(&seen);
    tokio::spawn(async move {
        let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
        else {
            // Without handlers the kernel's defaults stay: the process dies, which is safe at any moment.
            return;
        };
        loop {
            let code = tokio::select! {
                Some(()) = interrupt.recv() => ExitCode::Interrupted,
                Some(()) = terminate.recv() => ExitCode::Terminated,
                else => return,
            };
            if store.swap(code.into(), Ordering::SeqCst) != 0 {
                std::process::exit(u8::from(code).into());
            }
            cancel.cancel();
        }
    });
    Signals(seen)
}

impl Signals {
    /// A verb that gave up because of a signal ends with that signal's code.
    pub(super) fn translate(&self, result: Result<ExitCode, Failure>) -> Result<ExitCode, Failure> {
        let terminated = self.0.load(Ordering::SeqCst) == u8::from(ExitCode::Terminated);
        match result {
            Err(mut failure) if failure.code == ExitCode::Interrupted && terminated => {
                failure.code = ExitCode::Terminated;
                Err(failure)
            }
            other => other,
        }
    }
}
