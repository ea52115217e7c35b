//! Writes the book's file in the background, one write at a time: of two at once the older might come last.

use std::{io, path::PathBuf};

use tokio::task::JoinHandle;

use super::write_file;

/// The last write, which may be under way.
#[derive(Debug, Default)]
pub(crate) struct BookWriter {
    writing: Option<JoinHandle<()>>,
}

impl BookWriter {
    /// Writes what is new, unless a write is under way: then it stays new until the next call.
    pub(crate) fn begin(&mut self, folder: PathBuf, unwritten: impl FnOnce() -> Option<Vec<u8>>) {
        self.begin_with(unwritten, move |bytes| write_file(&folder, bytes));
    }

    fn begin_with(
        &mut self,
        unwritten: impl FnOnce() -> Option<Vec<u8>>,
        write: impl FnOnce(&[u8]) -> io::Result<()> + Send + 'static,
    ) {
        if self.writing.as_ref().is_some_and(|writing| !writing.is_finished()) {
            return;
        }
        let Some(bytes) = unwritten() else { return };
        self.writing = Some(tokio::task::spawn_blocking(move || {
            if let Err(error) = write(&bytes) {
                tracing::warn!(%error, "cannot write the peer book");
            }
        }));
    }

    /// Waits for the write that is under way, then writes what is new and waits for that.
    pub(crate) async fn finish(mut self, folder: PathBuf, unwritten: impl FnOnce() -> Option<Vec<u8>>) {
        self.ended().await;
        self.begin(folder, unwritten);
        self.ended().await;
    }

    async fn ended(&mut self) {
        if let Some(writing) = self.writing.take() {
            // It tells its own failure.
            let _ = writing.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::read_file;
    use super::*;
    use std::sync::mpsc;

    #[tokio::test]
    async fn an_older_book_never_comes_last() {
        let folder = tempfile::tempdir().expect("folder");
        let mut writer = BookWriter::default();
        let (go, wait) = mpsc::sync_channel::<()>(1);
        let path = folder.path().to_path_buf();
        let slow = path.clone();
        let first = move |bytes: &[u8]| {
            // Ends with the sender.
            let _ = wait.recv();
            write_file(&slow, bytes)
        };
        writer.begin_with(|| Some(b"older".to_vec()), first);
        let taken = std::cell::Cell::new(false);
        let second = || {
            taken.set(true);
            Some(b"newer".to_vec())
        };
        writer.begin(path.clone(), second);
        assert!(!taken.get(), "one write is under way, what is new stays new");
        assert_eq!(read_file(&path).expect("reads"), None);

        drop(go);
        writer.finish(path.clone(), second).await;
        assert_eq!(read_file(&path).expect("reads"), Some(b"newer".to_vec()));
    }
}
