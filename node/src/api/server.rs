//! The server's side of the control API.

use std::{os::unix::fs::PermissionsExt, path::PathBuf, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::{Body, BodyDataStream},
    extract::{DefaultBodyLimit, Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use cairn_proto::GroupId;
use futures::{StreamExt, future::BoxFuture};
use tokio::{
    io::{AsyncReadExt, AsyncWrite},
    net::UnixListener,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    FinalLine, NewVault, NewVaultAnswer, NodeStatus, REQUEST_MAX, VERBS_MAX, VerbRequest,
    connections::{self, Limits},
    frames::{Frame, FrameReader, LINE_MAX},
    listing,
    secret::SecretBytes,
};
use crate::{
    failure::{ExitCode, Failure},
    ops::{Event, SecretText, Verb, VerbResult},
    vault::stream_input::{StreamInput, StreamItem},
};

/// Events on their way to a client. A client that reads slowly slows its own verb, nobody else's.
const EVENTS: usize = 256;
/// Shards in one part of a list: some hundred kilobytes as JSON.
pub const SHARDS_PAGE: usize = 1024;
/// Pieces of an answer on their way to the socket.
const PIECES: usize = 8;
/// How often a quiet answer says that it is alive; a client that is gone is noticed by it at the latest.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How long open connections, and then running verbs, may take to end when the node goes down.
const FAREWELL: Duration = Duration::from_secs(10);

/// A verb with all that goes in and out of it.
pub struct Call {
    /// What to do.
    pub verb: Verb,
    /// What opens the vault.
    pub passphrase: Option<SecretText>,
    /// The stream of a stream backup.
    pub input: Option<StreamInput>,
    /// Where the bytes of a dump go.
    pub output: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// What happens meanwhile.
    pub events: mpsc::Sender<Event>,
    /// Ends the verb soon.
    pub cancel: CancellationToken,
}

/// A place in the list of shards: after this stripe of this group.
pub type ShardPlace = (GroupId, u8);

/// A part of the list of shards.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ShardPage {
    /// At most [`SHARDS_PAGE`].
    pub rows: Vec<serde_json::Value>,
    /// Where the next part begins; none when this was the last.
    pub next: Option<ShardPlace>,
}

/// What the API serves: the daemon's node, or a test's.
pub trait Service: Send + Sync + 'static {
    /// Runs a verb to its end.
    fn run(&self, call: Call) -> BoxFuture<'_, VerbResult>;
    /// What the node says of itself.
    fn status(&self) -> BoxFuture<'_, Result<NodeStatus, Failure>>;
    /// Peers known.
    fn peers(&self) -> BoxFuture<'_, Result<Vec<serde_json::Value>, Failure>>;
    /// Shards held, from a place on. What is stored or goes meanwhile may be missed or listed still.
    fn shards(&self, after: Option<ShardPlace>) -> BoxFuture<'_, Result<ShardPage, Failure>>;
    /// Makes the vault; the answer is its recovery phrase.
    fn make_vault(&self, passphrase: Option<SecretText>) -> BoxFuture<'_, Result<SecretText, Failure>>;
}

#[derive(Clone)]
struct Api {
    service: Arc<dyn Service>,
    permits: Arc<Semaphore>,
    shutdown: CancellationToken,
    /// For a request to arrive.
    patience: Duration,
}

/// A bound socket; its file is removed when dropped.
pub struct Socket {
    listener: Option<UnixListener>,
    path: PathBuf,
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Left behind it would only cost the next client one refused connection.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Binds the socket, mode 0600. The caller holds the data folder's lock, so a file that is there is a dead one's.
///
/// # Errors
/// It cannot be bound.
pub fn bind(path: PathBuf) -> Result<Socket, Failure> {
    let failed = |e: std::io::Error| {
        Failure::new(ExitCode::Failed, "CONTROL_SOCKET", format!("cannot open the control socket {}", path.display()))
            .caused_by(&e)
    };
    if path.exists() {
        std::fs::remove_file(&path).map_err(failed)?;
    }
    let (short, _folder) = super::socket_path(&path).map_err(failed)?;
    let listener = UnixListener::bind(&short).map_err(failed)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(Socket { listener: Some(listener), path: path.clone() })
}

/// Serves until `shutdown` fires; verbs that run then are cancelled and waited for.
pub async fn serve(socket: Socket, service: Arc<dyn Service>, shutdown: CancellationToken) {
    serve_within(socket, service, shutdown, Limits::default()).await;
}

pub(super) async fn serve_within(
    mut socket: Socket,
    service: Arc<dyn Service>,
    shutdown: CancellationToken,
    limits: Limits,
) {
    let Some(listener) = socket.listener.take() else { return };
    let permits = Arc::new(Semaphore::new(VERBS_MAX));
    let api = Api { service, permits: Arc::clone(&permits), shutdown: shutdown.clone(), patience: limits.patience };
    // A client that keeps its connection open must not keep the node from going down.
    connections::serve(listener, router(api), limits, shutdown, FAREWELL).await;
    // Verbs hold a permit each until they are really over.
    let _ = tokio::time::timeout(FAREWELL, permits.acquire_many_owned(VERBS_MAX as u32)).await;
}

fn router(api: Api) -> Router {
    Router::new()
        .route("/v1/healthz", get(async || Json(serde_json::json!({ "ok": true }))))
        .route("/v1/status", get(async |State(api): State<Api>| answer(api.service.status().await)))
        .route("/v1/peers", get(async |State(api): State<Api>| answer(api.service.peers().await)))
        .route("/v1/store", get(async |State(api): State<Api>| listing::shards(api.service).await))
        .route("/v1/vault", post(make_vault))
        .route("/v1/verbs", post(verbs))
        .route("/v1/streams", post(streams))
        .route("/v1/dump", post(dump))
        // The one way in for bodies is `json_body`, which has its own limit; streams have none by nature.
        .layer(DefaultBodyLimit::disable())
        .with_state(api)
}

fn answer<T: serde::Serialize>(result: Result<T, Failure>) -> Response {
    match result {
        Ok(value) => Json(value).into_response(),
        Err(failure) => refuse(failure),
    }
}

/// The failure as JSON, with the HTTP status that comes nearest to its code.
pub(super) fn refuse(failure: Failure) -> Response {
    let status = match failure.code {
        ExitCode::Usage => StatusCode::BAD_REQUEST,
        ExitCode::NotFound => StatusCode::NOT_FOUND,
        ExitCode::Busy => StatusCode::CONFLICT,
        ExitCode::WrongSecret => StatusCode::FORBIDDEN,
        ExitCode::TooFewPeers => StatusCode::SERVICE_UNAVAILABLE,
        ExitCode::NoSpace => StatusCode::INSUFFICIENT_STORAGE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, Json(FinalLine::ExitError(failure))).into_response()
}

fn bad(text: &str) -> Failure {
    Failure::new(ExitCode::Usage, "BAD_REQUEST", text)
}

fn parse<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(|e| bad("the request is not what is asked for here").caused_by(&e))
}

/// A whole JSON body: at most [`REQUEST_MAX`] bytes, and it must arrive in time.
async fn json_body<T: serde::de::DeserializeOwned>(api: &Api, request: Request) -> Result<T, Failure> {
    let body = whole_body(request.into_body().into_data_stream());
    let body = tokio::time::timeout(api.patience, body).await.map_err(|_| bad("the request did not arrive in time"))?;
    parse(&body?)
}

/// The rest of a body that is too long is read and dropped, within bounds: who still writes when its connection is closed
/// sees a broken pipe instead of the answer.
async fn whole_body(mut body: BodyDataStream) -> Result<SecretBytes, Failure> {
    let (mut bytes, mut seen) = (SecretBytes::default(), 0);
    while let Some(piece) = body.next().await {
        let piece = piece.map_err(|e| bad("the request broke off").caused_by(&e))?;
        seen += piece.len();
        if seen <= REQUEST_MAX {
            bytes.push(&piece);
        } else if seen > LINE_MAX {
            break;
        } else {
            bytes = SecretBytes::default();
        }
    }
    if seen > REQUEST_MAX { Err(too_long()) } else { Ok(bytes) }
}

/// What a request over [`REQUEST_MAX`] is told, by the server and by a client that sees it first.
pub(super) fn too_long() -> Failure {
    bad(&format!("the request is over {REQUEST_MAX} bytes"))
}

async fn make_vault(State(api): State<Api>, request: Request) -> Response {
    let new: NewVault = match json_body(&api, request).await {
        Ok(new) => new,
        Err(failure) => return refuse(failure),
    };
    match api.service.make_vault(new.passphrase).await {
        // Our own type with text keys always serialises.
        Ok(phrase) => {
            let json = SecretBytes::json(&NewVaultAnswer { phrase }).unwrap_or_default();
            ([(header::CONTENT_TYPE, "application/json")], Bytes::from(json)).into_response()
        }
        Err(failure) => refuse(failure),
    }
}

/// How the pieces of an answer look: lines or frames.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Lines,
    Frames,
}

impl Shape {
    fn event(self, event: &Event) -> Bytes {
        self.piece(serde_json::to_vec(event), Frame::Event)
    }

    fn outcome(self, result: VerbResult) -> Bytes {
        self.piece(serde_json::to_vec(&FinalLine::from(result)), Frame::Outcome)
    }

    fn piece(self, json: Result<Vec<u8>, serde_json::Error>, frame: impl Fn(Bytes) -> Frame) -> Bytes {
        // Our own types with text keys always serialise; an empty line is skipped by every reader.
        let mut json = json.unwrap_or_default();
        match self {
            Self::Lines => {
                json.push(b'\n');
                json.into()
            }
            Self::Frames => frame(json.into()).encode(),
        }
    }

    fn heartbeat(self) -> Bytes {
        match self {
            Self::Lines => Bytes::from_static(b"\n"),
            Self::Frames => Frame::Data(Bytes::new()).encode(),
        }
    }
}

async fn verbs(State(api): State<Api>, request: Request) -> Response {
    match json_body(&api, request).await {
        Ok(request) => start(&api, request, None, Shape::Lines),
        Err(failure) => refuse(failure),
    }
}

async fn dump(State(api): State<Api>, request: Request) -> Response {
    match json_body(&api, request).await {
        Ok(request) => start(&api, request, None, Shape::Frames),
        Err(failure) => refuse(failure),
    }
}

async fn streams(State(api): State<Api>, request: Request) -> Response {
    let mut body = request.into_body().into_data_stream();
    let mut reader = FrameReader::default();
    let first = tokio::time::timeout(api.patience, first_frame(&mut body, &mut reader)).await;
    let first = first.unwrap_or_else(|_| Err(bad("the request did not arrive in time")));
    match first {
        Ok(first) => {
            let (sender, input) = StreamInput::channel();
            tokio::spawn(pump(body, reader, sender));
            start(&api, first, Some(input), Shape::Lines)
        }
        Err(failure) => refuse(failure),
    }
}

async fn first_frame(body: &mut BodyDataStream, reader: &mut FrameReader) -> Result<VerbRequest, Failure> {
    loop {
        match reader.next_frame().map_err(|e| bad("bad frames").caused_by(&e))? {
            Some(Frame::Request(json)) if json.len() <= REQUEST_MAX => return parse(&json),
            Some(_) => return Err(bad("the first frame must be the request")),
            None => match body.next().await {
                Some(Ok(piece)) => reader.push(&piece),
                _ => return Err(bad("the request ended too early")),
            },
        }
    }
}

/// Passes an uploaded stream on. Whatever is not a clean end is a failure of the stream.
async fn pump(mut body: BodyDataStream, mut reader: FrameReader, sender: mpsc::Sender<StreamItem>) {
    loop {
        let item = match reader.next_frame() {
            Ok(Some(Frame::Data(bytes))) => StreamItem::Bytes(bytes),
            Ok(Some(Frame::End)) => StreamItem::End,
            Ok(Some(Frame::Failed(why))) => StreamItem::Failed(why),
            Ok(Some(_)) => StreamItem::Failed("a frame that does not belong into a stream".into()),
            Err(e) => StreamItem::Failed(e.to_string()),
            Ok(None) => match body.next().await {
                Some(Ok(piece)) => {
                    reader.push(&piece);
                    continue;
                }
                Some(Err(e)) => StreamItem::Failed(format!("the stream broke off: {e}")),
                None => StreamItem::Failed("the stream broke off before its end".into()),
            },
        };
        let last = !matches!(item, StreamItem::Bytes(_));
        if sender.send(item).await.is_err() || last {
            return;
        }
    }
}

/// Starts the verb in a task of its own and answers with its events as they come.
fn start(api: &Api, request: VerbRequest, input: Option<StreamInput>, shape: Shape) -> Response {
    let Ok(permit) = Arc::clone(&api.permits).try_acquire_owned() else {
        return refuse(
            Failure::new(ExitCode::Busy, "BUSY", format!("{VERBS_MAX} verbs are running already")).retryable(),
        );
    };
    let (pieces, received) = mpsc::channel::<Bytes>(PIECES);
    let cancel = api.shutdown.child_token();
    let guard = cancel.clone().drop_guard();
    tokio::spawn(run(Arc::clone(&api.service), request, input, shape, pieces, cancel, permit));
    let kind = if shape == Shape::Lines { "application/x-ndjson" } else { "application/octet-stream" };
    ([(header::CONTENT_TYPE, kind)], Body::from_stream(answer_stream(received, guard, shape))).into_response()
}

/// The answer's body. It owns the guard: when the client goes away, hyper drops the body and the verb is cancelled.
fn answer_stream(
    received: mpsc::Receiver<Bytes>,
    guard: DropGuard,
    shape: Shape,
) -> impl futures::Stream<Item = Result<Bytes, std::convert::Infallible>> {
    futures::stream::unfold((received, guard), move |(mut received, guard)| async move {
        let piece = match tokio::time::timeout(HEARTBEAT, received.recv()).await {
            Ok(piece) => piece?,
            Err(_) => shape.heartbeat(),
        };
        Some((Ok(piece), (received, guard)))
    })
}

async fn run(
    service: Arc<dyn Service>,
    request: VerbRequest,
    input: Option<StreamInput>,
    shape: Shape,
    pieces: mpsc::Sender<Bytes>,
    cancel: CancellationToken,
    permit: OwnedSemaphorePermit,
) {
    let (events, mut happened) = mpsc::channel(EVENTS);
    let event_pieces = pieces.clone();
    let forward_events = async move {
        while let Some(event) = happened.recv().await {
            // A client that is gone cancels through the guard; keep draining so that the verb can end.
            let _ = event_pieces.send(shape.event(&event)).await;
        }
    };
    let (output, forward_output) = match shape {
        Shape::Lines => (None, None),
        Shape::Frames => {
            let (write, read) = tokio::io::duplex(256 * 1024);
            let write: Box<dyn AsyncWrite + Send + Unpin> = Box::new(write);
            (Some(write), Some(forward(read, pieces.clone())))
        }
    };
    let call = Call { verb: request.request, passphrase: request.passphrase, input, output, events, cancel };
    let forward_output = async {
        if let Some(forward) = forward_output {
            forward.await;
        }
    };
    let (result, (), ()) = tokio::join!(service.run(call), forward_events, forward_output);
    let _ = pieces.send(shape.outcome(result)).await;
    drop(permit);
}

async fn forward(mut read: tokio::io::DuplexStream, pieces: mpsc::Sender<Bytes>) {
    loop {
        let mut block = bytes::BytesMut::with_capacity(256 * 1024);
        match read.read_buf(&mut block).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                if pieces.send(Frame::Data(block.freeze()).encode()).await.is_err() {
                    return;
                }
            }
        }
    }
}
