//! A source that is a stream. It ends well only when its producer says so: a connection that breaks or a command that
//! fails can never become a snapshot that looks whole.

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

    /// The next item. A producer that is gone without a word counts as failed.
    pub async fn next(&mut self) -> StreamItem {
        self.items.recv().await.unwrap_or_else(|| StreamItem::Failed("the stream broke off before its end".to_owned()))
    }
}
