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
/// ... and of those whose answer is a map: as many as a verb asks at once, so that those who answer nothing do not keep it from
/// asking others. Each may send what we then hold: 32 MiB.
const MAPS_AT_ONCE: usize = crate::overlay::MAPS_AT_ONCE;

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
        let answered = self.until_answered(to, &bytes, most);
        let result = match request {
            // From here on it is the steward that takes the time; before, it was others.
            Request::Ask { .. } => {
                tokio::time::timeout(self.patience.map, answered).await.unwrap_or(Err(TransferError::TimedOut))
            }
            _ => answered.await,
        };
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

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use cairn_proto::{CodeParams, GroupTicket};
    use ed25519_dalek::SigningKey;

    use super::*;

    /// Only so that a test that fails ends.
    const LONG: Duration = Duration::from_secs(300);

    fn question() -> Request {
        let key = SigningKey::from_bytes(&[3; 32]).verifying_key().to_bytes();
        let ticket = GroupTicket::new(key, [1; 32], CodeParams::DEFAULT, 9).expect("valid");
        Request::Ask { ticket, grant: vec![0; 64] }
    }

    fn client(map: Duration) -> (Arc<StewardClient>, mpsc::Receiver<Command>) {
        let (commands, asked) = mpsc::channel(4 * AT_ONCE);
        let patience = ClientPatience { open: LONG, map, ..ClientPatience::default() };
        (Arc::new(StewardClient::new(commands, patience)), asked)
    }

    fn ask(client: &Arc<StewardClient>, at: u8) -> tokio::task::JoinHandle<Result<Answer, TransferError>> {
        let client = client.clone();
        tokio::spawn(async move { client.ask(PeerKey::from_bytes([at; 32]), &question()).await })
    }

    /// Who is dialled next. Nobody answers.
    async fn dialled(asked: &mut mpsc::Receiver<Command>, held: &mut Vec<Command>) -> PeerKey {
        loop {
            let command = tokio::time::timeout(LONG / 5, asked.recv()).await.expect("somebody is").expect("open");
            if let Command::OpenStream { peer, .. } = &command {
                let peer = *peer;
                held.push(command);
                return peer;
            }
        }
    }

    #[tokio::test]
    async fn stewards_that_hang_keep_no_verb_from_asking_the_others() {
        let (client, mut asked) = client(LONG);
        let (mut held, mut reached) = (Vec::new(), std::collections::BTreeSet::new());
        let running: Vec<_> = (0..crate::overlay::MAPS_AT_ONCE as u8).map(|at| ask(&client, at)).collect();
        while reached.len() < crate::overlay::MAPS_AT_ONCE {
            reached.insert(dialled(&mut asked, &mut held).await);
        }
        running.iter().for_each(tokio::task::JoinHandle::abort);
    }

    #[tokio::test]
    async fn who_is_said_not_to_have_answered_was_asked() {
        let (client, mut asked) = client(Duration::from_millis(20));
        let (mut held, mut reached) = (Vec::new(), std::collections::BTreeSet::new());
        let running: Vec<_> = (0..3 * MAPS_AT_ONCE as u8).map(|at| ask(&client, at)).collect();
        while reached.len() < running.len() {
            reached.insert(dialled(&mut asked, &mut held).await);
        }
        for one in running {
            assert_eq!(one.await.expect("ends"), Err(TransferError::TimedOut));
        }
    }
}
