//! A source that is a stream. It ends well only when its producer says so: a connection that breaks or a command that
//! fails can never become a snapshot that looks whole.

use std::io::{self, Read};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    sync::mpsc,
};

/// Blocks on their way from the producer: 8 x 256 KiB is enough to keep the chunker busy.
const QUEUE: usize = 8;
/// Bytes read at once from a reader.
const BLOCK: usize = 256 * 1024;

/// What a producer sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamItem {
    /// The next bytes; an empty one means nothing.
    Bytes(Bytes),
    /// The stream is complete.
    End,
    /// The stream is broken: why (exit status of the command, error of the reader). No snapshot is made.
    Failed(String),
}

/// The consuming end of a stream source.
#[derive(Debug)]
pub struct StreamInput {
    items: mpsc::Receiver<StreamItem>,
}

impl StreamInput {
    /// A stream whose producer sends items itself. Dropping the sender without [`StreamItem::End`] is a failure.
    #[must_use]
    pub fn channel() -> (mpsc::Sender<StreamItem>, Self) {
        let (sender, items) = mpsc::channel(QUEUE);
        (sender, Self { items })
    }

    /// A stream that is complete when the reader ends. Must be called within a tokio runtime.
    #[must_use]
    pub fn from_reader(mut reader: impl AsyncRead + Send + Unpin + 'static) -> Self {
        let (sender, input) = Self::channel();
        tokio::spawn(async move {
            loop {
                let mut block = bytes::BytesMut::with_capacity(BLOCK);
                let item = match reader.read_buf(&mut block).await {
                    Ok(0) => StreamItem::End,
                    Ok(_) => StreamItem::Bytes(block.freeze()),
                    Err(e) => StreamItem::Failed(e.to_string()),
                };
                let last = !matches!(item, StreamItem::Bytes(_));
                if sender.send(item).await.is_err() || last {
                    return;
                }
            }
        });
        input
    }

    /// The same of a reader that blocks, on a thread of its own: reading through the runtime costs a change of threads for each
    /// 64 KiB that a pipe gives. The thread ends with the reader, or at the first block that nobody takes.
    ///
    /// # Errors
    /// When there is no thread.
    pub fn from_blocking(mut reader: impl Read + Send + 'static) -> io::Result<Self> {
        let (sender, input) = Self::channel();
        let body = move || {
            loop {
                let mut block = Vec::with_capacity(BLOCK);
                let item = match reader.by_ref().take(BLOCK as u64).read_to_end(&mut block) {
                    Ok(0) => StreamItem::End,
                    Ok(_) => StreamItem::Bytes(block.into()),
                    Err(e) => StreamItem::Failed(e.to_string()),
                };
                let last = !matches!(item, StreamItem::Bytes(_));
                if sender.blocking_send(item).is_err() || last {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("cairn-stream".to_owned()).spawn(body)?;
        Ok(input)
    }

    /// The next item. A producer that is gone without a word counts as failed.
    pub async fn next(&mut self) -> StreamItem {
        self.items.recv().await.unwrap_or_else(|| StreamItem::Failed("the stream broke off before its end".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Some bytes, then an error.
    struct Breaks(usize);

    impl Read for Breaks {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0 == 0 {
                return Err(io::Error::other("broken"));
            }
            let now = self.0.min(buffer.len()).min(70_001);
            buffer[..now].fill(7);
            self.0 -= now;
            Ok(now)
        }
    }

    async fn all(mut input: StreamInput) -> (usize, StreamItem) {
        let mut bytes = 0;
        loop {
            match input.next().await {
                StreamItem::Bytes(block) => bytes += block.len(),
                last => return (bytes, last),
            }
        }
    }

    #[tokio::test]
    async fn a_blocking_reader_comes_whole_or_failed() {
        let whole = StreamInput::from_blocking(Breaks(1_000_000).take(900_000)).expect("a thread");
        assert_eq!(all(whole).await, (900_000, StreamItem::End));
        // Half a stream never ends well.
        let broken = StreamInput::from_blocking(Breaks(1_000_000)).expect("a thread");
        assert!(matches!(all(broken).await, (_, StreamItem::Failed(why)) if why == "broken"));
        let empty = StreamInput::from_blocking(io::empty()).expect("a thread");
        assert_eq!(all(empty).await, (0, StreamItem::End));
    }
}
