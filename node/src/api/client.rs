//! The CLI's side of the control API.

use std::{path::Path, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{Method, Request, Response, StatusCode, body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    net::UnixStream,
    sync::mpsc,
};

use super::{
    FinalLine, Line, NewVault, NewVaultAnswer, REQUEST_MAX, VerbRequest,
    frames::{Frame, FrameReader, LineReader},
    secret::SecretBytes,
    server::{self, Call},
};
use crate::{
    failure::{ExitCode, Failure},
    ops::{SecretText, VerbResult},
    vault::stream_input::{StreamInput, StreamItem},
};

/// How long a daemon may take to say that it is there. A busy one needs milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

type AnyBody = BoxBody<Bytes, std::convert::Infallible>;

/// A daemon that answers.
#[derive(Clone, Debug)]
pub struct DaemonClient {
    socket: std::path::PathBuf,
}

impl DaemonClient {
    /// The daemon of a data folder; `None` when nobody listens there, or does not answer in time. Whoever then goes for
    /// the folder's lock is told which process has it.
    pub async fn find(socket: &Path) -> Option<Self> {
        Self::find_within(socket, PATIENCE).await
    }

    pub(super) async fn find_within(socket: &Path, patience: Duration) -> Option<Self> {
        let client = Self { socket: socket.to_owned() };
        let asked = tokio::time::timeout(patience, client.send(get("/v1/healthz").ok()?)).await;
        let (_connection, answer) = asked.ok()?.ok()?;
        (answer.status() == StatusCode::OK).then_some(client)
    }

    /// A JSON document.
    ///
    /// # Errors
    /// The daemon's failure, or that it does not answer.
    pub async fn get_json<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let (_connection, answer) = self.send(get(path)?).await?;
        read_json(answer).await
    }

    /// Makes the daemon's vault; its recovery phrase.
    ///
    /// # Errors
    /// The daemon's failure.
    pub async fn make_vault(&self, passphrase: Option<SecretText>) -> Result<SecretText, Failure> {
        let body = SecretBytes::json(&NewVault { passphrase }).map_err(|e| broken(&e))?;
        let (_connection, answer) = self.send(post("/v1/vault", whole(body))?).await?;
        Ok(read_json::<NewVaultAnswer>(answer).await?.phrase)
    }

    /// Runs a verb there. Dropping the future, or `cancel`, closes the connection, and the daemon ends the verb.
    ///
    /// # Errors
    /// The verb's failure, or that the daemon went away.
    pub async fn run(&self, call: Call) -> VerbResult {
        let Call { verb, passphrase, input, output, events, cancel } = call;
        let request = SecretBytes::json(&VerbRequest { request: verb, passphrase }).map_err(|e| broken(&e))?;
        if request.len() > REQUEST_MAX {
            return Err(server::too_long());
        }
        let work = async {
            let (path, body) = match (input, &output) {
                (Some(input), _) => ("/v1/streams", upload(request, input)),
                (None, Some(_)) => ("/v1/dump", whole(request)),
                (None, None) => ("/v1/verbs", whole(request)),
            };
            let (_connection, answer) = self.send(post(path, body)?).await?;
            if answer.status() != StatusCode::OK {
                return Err(read_json::<serde_json::Value>(answer).await.err().unwrap_or_else(gone));
            }
            match output {
                Some(output) => read_frames(answer, output, &events).await,
                None => read_lines(answer, &events).await,
            }
        };
        tokio::select! {
            result = work => result,
            () = cancel.cancelled() => Err(Failure::new(ExitCode::Interrupted, "INTERRUPTED", "interrupted")),
        }
    }

    async fn send(&self, request: Request<AnyBody>) -> Result<(Connection, Response<Incoming>), Failure> {
        let (short, _folder) = super::socket_path(&self.socket).map_err(|e| broken(&e))?;
        let stream = UnixStream::connect(short).await.map_err(|e| broken(&e))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| broken(&e))?;
        let connection = Connection(tokio::spawn(async move {
            // Its end is seen by whoever reads the answer.
            let _ = connection.await;
        }));
        let answer = sender.send_request(request).await.map_err(|e| broken(&e))?;
        Ok((connection, answer))
    }
}

/// The task that drives a connection; it ends with us, so that the daemon notices that we are gone.
struct Connection(tokio::task::JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn get(path: &str) -> Result<Request<AnyBody>, Failure> {
    request(Method::GET, path, whole(SecretBytes::default()))
}

fn post(path: &str, body: AnyBody) -> Result<Request<AnyBody>, Failure> {
    request(Method::POST, path, body)
}

fn request(method: Method, path: &str, body: AnyBody) -> Result<Request<AnyBody>, Failure> {
    Request::builder()
        .method(method)
        .uri(path)
        .header("host", "cairn")
        .header("content-type", "application/json")
        .body(body)
        .map_err(|e| broken(&e))
}

fn whole(bytes: SecretBytes) -> AnyBody {
    Full::new(Bytes::from(bytes)).boxed()
}

/// A body that sends the request, then the stream as it comes, then how the stream ended.
fn upload(request: SecretBytes, input: StreamInput) -> AnyBody {
    enum Next {
        Request(SecretBytes, StreamInput),
        Stream(StreamInput),
        Done,
    }
    let frames = futures::stream::unfold(Next::Request(request, input), |state| async move {
        let (frame, next) = match state {
            Next::Request(json, input) => (Frame::Request(json), Next::Stream(input)),
            Next::Stream(mut input) => match input.next().await {
                StreamItem::Bytes(bytes) => (Frame::Data(bytes), Next::Stream(input)),
                StreamItem::End => (Frame::End, Next::Done),
                StreamItem::Failed(why) => (Frame::Failed(why), Next::Done),
            },
            Next::Done => return None,
        };
        Some((Ok(hyper::body::Frame::data(frame.encode())), next))
    });
    BodyExt::boxed(StreamBody::new(SyncStream(std::sync::Mutex::new(Box::pin(frames)))))
}

/// `BoxBody` wants `Sync`; the stream is polled by one task only, so the lock is never contended.
struct SyncStream<S>(std::sync::Mutex<std::pin::Pin<Box<S>>>);

impl<S: futures::Stream> futures::Stream for SyncStream<S> {
    type Item = S::Item;

    fn poll_next(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        match self.get_mut().0.get_mut() {
            Ok(stream) => stream.as_mut().poll_next(cx),
            Err(_poisoned) => std::task::Poll::Ready(None),
        }
    }
}

async fn read_json<T: serde::de::DeserializeOwned>(answer: Response<Incoming>) -> Result<T, Failure> {
    let status = answer.status();
    let body = answer.into_body().collect().await.map_err(|e| broken(&e))?.to_bytes();
    if status == StatusCode::OK {
        return serde_json::from_slice(&body).map_err(|e| broken(&e));
    }
    match serde_json::from_slice(&body) {
        Ok(FinalLine::ExitError(failure)) => Err(failure),
        _ => Err(Failure::new(ExitCode::Failed, "DAEMON", format!("the daemon answered {status}"))),
    }
}

async fn read_lines(answer: Response<Incoming>, events: &mpsc::Sender<crate::ops::Event>) -> VerbResult {
    let mut body = answer.into_body();
    let mut reader = LineReader::default();
    loop {
        while let Some(line) = reader.next_line().map_err(|e| broken(&e))? {
            match serde_json::from_slice(&line).map_err(|e| broken(&e))? {
                Line::Final(last) => return last.into(),
                // Nobody listens any more: the verb still runs to its end.
                Line::Event(event) => drop(events.send(event).await),
            }
        }
        match next_piece(&mut body).await? {
            Some(piece) => reader.push(&piece),
            None => return Err(gone()),
        }
    }
}

async fn read_frames(
    answer: Response<Incoming>,
    mut output: Box<dyn AsyncWrite + Send + Unpin>,
    events: &mpsc::Sender<crate::ops::Event>,
) -> VerbResult {
    let mut body = answer.into_body();
    let mut reader = FrameReader::default();
    loop {
        while let Some(frame) = reader.next_frame().map_err(|e| broken(&e))? {
            match frame {
                Frame::Data(bytes) => output
                    .write_all(&bytes)
                    .await
                    .map_err(|e| Failure::new(ExitCode::Failed, "OUTPUT", "cannot write the output").caused_by(&e))?,
                Frame::Event(json) => {
                    let event = serde_json::from_slice(&json).map_err(|e| broken(&e))?;
                    drop(events.send(event).await);
                }
                Frame::Outcome(json) => {
                    output.flush().await.map_err(|e| broken(&e))?;
                    let last: FinalLine = serde_json::from_slice(&json).map_err(|e| broken(&e))?;
                    return last.into();
                }
                Frame::Request(_) | Frame::End | Frame::Failed(_) => return Err(gone()),
            }
        }
        match next_piece(&mut body).await? {
            Some(piece) => reader.push(&piece),
            None => return Err(gone()),
        }
    }
}

async fn next_piece(body: &mut Incoming) -> Result<Option<Bytes>, Failure> {
    loop {
        match body.frame().await {
            None => return Ok(None),
            Some(Err(e)) => return Err(broken(&e)),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

fn broken(error: &(dyn std::error::Error + 'static)) -> Failure {
    gone().caused_by(error)
}

fn gone() -> Failure {
    Failure::new(ExitCode::Failed, "DAEMON", "the daemon of this data folder broke off")
        .with_hint("see its log; the verb can be run again")
        .retryable()
}
