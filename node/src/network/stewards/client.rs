//! Asks: one stream for one question. A question may be asked twice; everything on this protocol may come twice.

use cairn_core::steward::wire::{Answer, Refusal, Request};
use cairn_proto::{PeerKey, wire::RefusalCode};
use libp2p::Stream;
use tokio::sync::{Semaphore, mpsc};

use super::{read_length, write};
use crate::{
    network::{
        command::Command,
        streams::{self, Kind, RECONNECT_PAUSE},
        transfer::{
            frame::{self, FrameError, Progress},
            link::ClientPatience,
        },
    },
    overlay::TransferError,
};

/// Questions of ours at once: a steward speaks to a few hundred peers, and a dial to one that is gone takes seconds.
const AT_ONCE: usize = 64;
/// ... and of those whose answer is a map: each may send what we then hold.
const MAPS_AT_ONCE: usize = 4;

/// Asks on the stewards' protocol.
pub(crate) struct StewardClient {
    commands: mpsc::Sender<Command>,
    patience: ClientPatience,
    places: Semaphore,
    maps: Semaphore,
}

impl StewardClient {
    pub(crate) fn new(commands: mpsc::Sender<Command>, patience: ClientPatience) -> Self {
        Self { commands, patience, places: Semaphore::new(AT_ONCE), maps: Semaphore::new(MAPS_AT_ONCE) }
    }

    pub(crate) const fn patience(&self) -> &ClientPatience {
        &self.patience
    }

    /// Asks, and tells the peer book how it went.
    pub(crate) async fn ask(&self, to: PeerKey, request: &Request) -> Result<Answer, TransferError> {
        let closed = |_| TransferError::ShuttingDown;
        let _map = match request {
            Request::Ask { .. } => Some(self.maps.acquire().await.map_err(closed)?),
            _ => None,
        };
        let _place = self.places.acquire().await.map_err(closed)?;
        let unfit = |_| TransferError::Refused { code: RefusalCode::BadRequest, retry_after_ms: 0 };
        let bytes = request.encode().map_err(unfit)?;
        let most = request.answer_max();
        let result = self.until_answered(to, &bytes, most).await;
        // Only a statistic: when the owner of the book is busy it is not worth waiting for.
        let _ = self.commands.try_send(Command::Served { peer: to, served: result.is_ok() });
        result
    }

    /// Once more when the stream broke: of two connections to a peer one is soon closed.
    async fn until_answered(&self, to: PeerKey, question: &[u8], most: usize) -> Result<Answer, TransferError> {
        let mut again = true;
        loop {
            let stream = match streams::open(&self.commands, to, Kind::Stewards, self.patience.open).await {
                // It does not know the protocol.
                Err(TransferError::Refused { .. }) => return Ok(Answer::Refused(Refusal::NotSteward)),
                stream => stream?,
            };
            match self.exchange(stream, question, most).await {
                Ok(answer) => return Ok(answer),
                Err(FrameError::Io(_)) if again => {
                    again = false;
                    tokio::time::sleep(RECONNECT_PAUSE).await;
                }
                Err(FrameError::Io(error)) => return Err(TransferError::Unreachable(error.to_string())),
                Err(FrameError::Malformed(error)) => return Err(TransferError::Misbehaved(error.to_string())),
                Err(FrameError::Stalled) => return Err(TransferError::TimedOut),
            }
        }
    }

    async fn exchange(&self, mut io: Stream, question: &[u8], most: usize) -> Result<Answer, FrameError> {
        let progress = Progress::new();
        let work = async {
            write(&mut io, question, &progress).await?;
            let length = read_length(&mut io, most).await?;
            let bytes = frame::read_bytes(&mut io, length, &progress).await?;
            Ok(Answer::decode(&bytes)?)
        };
        frame::moving(self.patience.request, self.patience.progress, &progress, work).await
    }
}
