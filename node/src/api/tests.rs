//! The API over a real socket with a service of the test's own.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use cairn_proto::GroupId;
use futures::{FutureExt, future::BoxFuture};
use tokio::{io::AsyncWriteExt, sync::mpsc};
use tokio_util::sync::CancellationToken;

use super::{
    NodeStatus, REQUEST_MAX, VERBS_MAX,
    client::DaemonClient,
    connections::Limits,
    server::{self, Call, Service, ShardPage, ShardPlace},
};
use crate::{
    failure::{ExitCode, Failure},
    ops::{BackupArgs, DumpArgs, Event, Outcome, SecretText, Verb, VerbResult},
    vault::stream_input::{StreamInput, StreamItem},
};

/// For what must happen: so long that only what never happens takes longer, however busy the machine is.
const DEADLINE: Duration = Duration::from_secs(180);

/// Counts what a stream brings, dumps a known text, waits for ever on `check`, has more shards than anybody reads.
struct Echo {
    told: mpsc::Sender<&'static str>,
    pages: Arc<AtomicUsize>,
}

impl Echo {
    async fn answer(&self, mut call: Call) -> VerbResult {
        match call.verb {
            Verb::Backup(_) => {
                let mut input = call.input.take().expect("a stream");
                let mut bytes = 0;
                loop {
                    match input.next().await {
                        StreamItem::Bytes(b) => bytes += b.len(),
                        StreamItem::End => break,
                        StreamItem::Failed(why) => return Err(Failure::new(ExitCode::StreamCommand, "STREAM", why)),
                    }
                }
                let summary = serde_json::json!({ "bytes": bytes });
                let _ = call.events.send(Event::Summary { verb: "backup".into(), summary }).await;
                Ok(Outcome { code: ExitCode::Success })
            }
            Verb::Dump(_) => {
                let mut output = call.output.take().expect("an output");
                for _ in 0..1000 {
                    output.write_all(&[7; 1000]).await.expect("writes");
                }
                output.flush().await.expect("flushes");
                Ok(Outcome { code: ExitCode::Partial })
            }
            Verb::Check(_) => {
                let _ = self.told.send("begun").await;
                call.cancel.cancelled().await;
                let _ = self.told.send("cancelled").await;
                Err(Failure::new(ExitCode::Interrupted, "INTERRUPTED", "interrupted"))
            }
            _ => Err(Failure::new(ExitCode::NotFound, "NO_VAULT", "no vault").with_hint("make one")),
        }
    }
}

impl Service for Echo {
    fn run(&self, call: Call) -> BoxFuture<'_, VerbResult> {
        self.answer(call).boxed()
    }
    fn status(&self) -> BoxFuture<'_, Result<NodeStatus, Failure>> {
        async { Err(Failure::new(ExitCode::NoSpace, "FULL", "full")) }.boxed()
    }
    fn peers(&self) -> BoxFuture<'_, Result<Vec<serde_json::Value>, Failure>> {
        async { Ok(vec![serde_json::json!(1)]) }.boxed()
    }
    fn shards(&self, after: Option<ShardPlace>) -> BoxFuture<'_, Result<ShardPage, Failure>> {
        let page = after.map_or(0, |(_, ordinal)| ordinal + 1);
        self.pages.fetch_add(1, Ordering::Relaxed);
        let next = (page < u8::MAX).then_some((GroupId::from_bytes([7; 32]), page));
        async move { Ok(ShardPage { rows: vec![page.into(), "x".repeat(1 << 16).into()], next }) }.boxed()
    }
    fn make_vault(&self, passphrase: Option<SecretText>) -> BoxFuture<'_, Result<SecretText, Failure>> {
        async move { Ok(SecretText::new(format!("words {}", passphrase.is_some()))) }.boxed()
    }
}

struct Running {
    client: DaemonClient,
    told: mpsc::Receiver<&'static str>,
    pages: Arc<AtomicUsize>,
    shutdown: CancellationToken,
    served: tokio::task::JoinHandle<()>,
    path: std::path::PathBuf,
    _temp: tempfile::TempDir,
}

impl Running {
    /// The next thing that the service tells.
    async fn told(&mut self) -> &'static str {
        tokio::time::timeout(DEADLINE, self.told.recv()).await.expect("in time").expect("runs")
    }

    /// Asks for what is always answered, until it is: a hasty server may hang up on a client that the machine kept waiting.
    async fn is_served(&self) {
        let served = async {
            while self.client.get_json::<Vec<u8>>("/v1/peers").await != Ok(vec![1]) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(DEADLINE, served).await.expect("others are served");
    }
}

async fn running() -> Running {
    running_within(Limits::default()).await
}

async fn running_within(limits: Limits) -> Running {
    let temp = tempfile::tempdir().expect("temp dir");
    // Deeper than a socket's path may be long.
    let deep = temp.path().join("a-long-folder-name".repeat(8));
    std::fs::create_dir(&deep).expect("makes");
    let path = deep.join("control.sock");
    // Two of each verb that may run.
    let (sender, told) = mpsc::channel(2 * VERBS_MAX);
    let pages = Arc::new(AtomicUsize::new(0));
    let shutdown = CancellationToken::new();
    let socket = server::bind(path.clone()).expect("binds");
    let served = tokio::spawn(server::serve_within(
        socket,
        Arc::new(Echo { told: sender, pages: pages.clone() }),
        shutdown.clone(),
        limits,
    ));
    let found = async {
        loop {
            if let Some(client) = DaemonClient::find_within(&path, DEADLINE).await {
                return client;
            }
        }
    };
    let client = tokio::time::timeout(DEADLINE, found).await.expect("answers");
    Running { client, told, pages, shutdown, served, path, _temp: temp }
}

fn call(verb: Verb) -> (Call, mpsc::Receiver<Event>) {
    let (events, received) = mpsc::channel(16);
    let call = Call { verb, passphrase: None, input: None, output: None, events, cancel: CancellationToken::new() };
    (call, received)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_goes_up_and_its_end_counts() {
    let r = running().await;
    let (mut good, mut events) = call(Verb::Backup(BackupArgs::default()));
    good.input = Some(StreamInput::from_reader(&[5u8; 3_000_000][..]));
    assert_eq!(r.client.run(good).await, Ok(Outcome { code: ExitCode::Success }));
    match events.recv().await {
        Some(Event::Summary { summary, .. }) => assert_eq!(summary["bytes"], 3_000_000),
        other => panic!("{other:?}"),
    }

    let (mut failing, _events) = call(Verb::Backup(BackupArgs::default()));
    let (sender, input) = StreamInput::channel();
    failing.input = Some(input);
    sender.send(StreamItem::Bytes(bytes::Bytes::from_static(b"half"))).await.expect("sends");
    sender.send(StreamItem::Failed("pg_dump ended with 1".into())).await.expect("sends");
    let failure = r.client.run(failing).await.expect_err("fails");
    assert_eq!((failure.code, failure.message.as_str()), (ExitCode::StreamCommand, "pg_dump ended with 1"));

    let (mut broken, _events) = call(Verb::Backup(BackupArgs::default()));
    let (sender, input) = StreamInput::channel();
    broken.input = Some(input);
    drop(sender);
    assert_eq!(r.client.run(broken).await.expect_err("fails").code, ExitCode::StreamCommand);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dump_comes_down_whole_with_its_code() {
    let r = running().await;
    let (mut dump, _events) = call(Verb::Dump(DumpArgs { snapshot: "latest".into(), path: "/f".into() }));
    let (write, mut read) = tokio::io::duplex(4096);
    dump.output = Some(Box::new(write));
    let reader = tokio::spawn(async move {
        let mut all = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut read, &mut all).await.map(|_| all)
    });
    assert_eq!(r.client.run(dump).await, Ok(Outcome { code: ExitCode::Partial }));
    assert_eq!(reader.await.expect("joins").expect("reads"), vec![7; 1_000_000]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_away_cancels_its_verb() {
    let mut r = running().await;
    let (check, _events) = call(Verb::Check(crate::ops::CheckArgs::default()));
    let client = r.client.clone();
    let task = tokio::spawn(async move { client.run(check).await });
    assert_eq!(r.told().await, "begun");
    task.abort();
    assert_eq!(r.told().await, "cancelled");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_arrive_as_they_were_made() {
    let r = running().await;
    let (verb, _events) = call(Verb::Stats);
    let failure = r.client.run(verb).await.expect_err("no vault");
    assert_eq!((failure.id.as_str(), failure.hint.as_str()), ("NO_VAULT", "make one"));
    let failure = r.client.get_json::<NodeStatus>("/v1/status").await.expect_err("full");
    assert_eq!(failure.code, ExitCode::NoSpace);
    assert_eq!(r.client.get_json::<Vec<u8>>("/v1/peers").await, Ok(vec![1]));
    let phrase = r.client.make_vault(Some(SecretText::new("x".into()))).await.expect("makes");
    assert_eq!(phrase.expose(), "words true");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_cancels_what_runs_and_ends() {
    let mut r = running().await;
    let (check, _events) = call(Verb::Check(crate::ops::CheckArgs::default()));
    let client = r.client.clone();
    let task = tokio::spawn(async move { client.run(check).await });
    assert_eq!(r.told().await, "begun");
    r.shutdown.cancel();
    assert_eq!(task.await.expect("joins").expect_err("cancelled").code, ExitCode::Interrupted);
    tokio::time::timeout(DEADLINE, r.served).await.expect("ends").expect("joins");
}

/// What a program that is no client of ours says, and all that it is answered until the connection ends or, when the
/// answer says so, stays open. Nothing, when the server has shut it out before it said or read all.
async fn raw(path: &std::path::Path, bytes: &[u8]) -> String {
    let (short, _folder) = super::socket_path(path).expect("fits");
    let mut stream = tokio::net::UnixStream::connect(short).await.expect("connects");
    let mut said = Vec::new();
    let talk = async {
        stream.write_all(bytes).await?;
        tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut said).await
    };
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset};
    match tokio::time::timeout(DEADLINE, talk).await.expect("the server ends it") {
        Ok(_) => String::from_utf8_lossy(&said).into_owned(),
        Err(e) if matches!(e.kind(), BrokenPipe | ConnectionReset) => String::new(),
        Err(e) => panic!("{e}"),
    }
}

fn post(path: &str, length: usize, body: &str) -> Vec<u8> {
    format!("POST {path} HTTP/1.1\r\nhost: cairn\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}").into()
}

const HASTY: Limits = Limits { connections: 4, patience: Duration::from_millis(300) };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_socket_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let r = running().await;
    let mode = std::fs::metadata(&r.path).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_over_the_limit_is_refused() {
    let r = running().await;
    let exclude = vec!["x".repeat(1 << 20); 5];
    let (verb, _events) = call(Verb::Backup(BackupArgs { exclude: exclude.clone(), ..BackupArgs::default() }));
    let failure = r.client.run(verb).await.expect_err("too long");
    assert_eq!((failure.code, failure.id.as_str()), (ExitCode::Usage, "BAD_REQUEST"), "{failure:?}");
    assert!(failure.message.contains(&REQUEST_MAX.to_string()));
    // The same as the first frame of a stream.
    let (mut verb, _events) = call(Verb::Backup(BackupArgs { exclude, ..BackupArgs::default() }));
    verb.input = Some(StreamInput::from_reader(&b"data"[..]));
    assert_eq!(r.client.run(verb).await.expect_err("too long").id, "BAD_REQUEST");
    // A client that does not look first writes to the end and is then told.
    let body = "x".repeat(REQUEST_MAX + 1);
    let said = raw(&r.path, &post("/v1/verbs", body.len(), &body)).await;
    assert!(said.starts_with("HTTP/1.1 400") && said.contains(&REQUEST_MAX.to_string()), "{said}");
    assert_eq!(r.client.get_json::<Vec<u8>>("/v1/peers").await, Ok(vec![1]), "others are served");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verbs_over_the_limit_are_told_to_come_back() {
    let mut r = running().await;
    let mut waiting = Vec::new();
    for _ in 0..VERBS_MAX {
        let (check, events) = call(Verb::Check(crate::ops::CheckArgs::default()));
        let client = r.client.clone();
        waiting.push((tokio::spawn(async move { client.run(check).await }), events));
    }
    for _ in 0..VERBS_MAX {
        assert_eq!(r.told().await, "begun");
    }
    let (verb, _events) = call(Verb::Stats);
    let failure = r.client.run(verb).await.expect_err("all places are taken");
    assert_eq!(failure.id, "BUSY");
    assert!(failure.code == ExitCode::Busy && failure.retryable, "{failure:?}");
    assert_eq!(r.client.get_json::<Vec<u8>>("/v1/peers").await, Ok(vec![1]), "a look is still answered");
    waiting.pop().expect("thirty-two of them").0.abort();
    assert_eq!(r.told().await, "cancelled");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_and_silent_clients_lose_their_connection_and_nobody_else_does() {
    let r = running_within(HASTY).await;
    // Half a head; a head without its body; a stream without its first frame.
    assert_eq!(raw(&r.path, b"GET /v1/heal").await, "");
    for half in [post("/v1/verbs", 100, "{\"request\":"), post("/v1/streams", 100, "\0\u{5}\0\0")] {
        // On a busy machine the head itself may come too late.
        let answered = async {
            loop {
                let said = raw(&r.path, &half).await;
                if !said.is_empty() {
                    return said;
                }
            }
        };
        let said = tokio::time::timeout(DEADLINE, answered).await.expect("answered");
        assert!(said.starts_with("HTTP/1.1 400") && said.contains("in time"), "{said}");
    }
    // As many silent ones as there are places: the next client waits for their end and is served.
    let (short, _folder) = super::socket_path(&r.path).expect("fits");
    let mut silent = Vec::new();
    for _ in 0..HASTY.connections {
        silent.push(tokio::net::UnixStream::connect(&short).await.expect("connects"));
    }
    r.is_served().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_is_answered_and_harms_nobody() {
    let r = running().await;
    for body in [
        "",
        "{}",
        "[]",
        "{\"request\":{\"verb\":\"frob\"}}",
        "{\"request\":{\"verb\":\"stats\"},\"x\":1}",
        "\u{0}\u{1}",
    ] {
        let said = raw(&r.path, &post("/v1/verbs", body.len(), body)).await;
        assert!(said.starts_with("HTTP/1.1 400") && said.contains("BAD_REQUEST"), "{body}: {said}");
    }
    let said = raw(&r.path, b"\x16\x03\x01nonsense\r\n\r\n").await;
    assert!(said.is_empty() || said.starts_with("HTTP/1.1 400"), "{said}");
    let long = [b"GET /v1/healthz HTTP/1.1\r\nx: ".to_vec(), vec![b'a'; 1 << 20], b"\r\n\r\n".to_vec()].concat();
    let (short, _folder) = super::socket_path(&r.path).expect("fits");
    let mut stream = tokio::net::UnixStream::connect(short).await.expect("connects");
    // It may be closed while it is still writing; either way the head is not taken.
    let _ = stream.write_all(&long).await;
    assert_eq!(r.client.get_json::<Vec<u8>>("/v1/peers").await, Ok(vec![1]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_of_shards_is_made_as_fast_as_it_is_read() {
    let r = running().await;
    let (short, _folder) = super::socket_path(&r.path).expect("fits");
    let mut stream = tokio::net::UnixStream::connect(short).await.expect("connects");
    stream.write_all(b"GET /v1/store HTTP/1.1\r\nhost: cairn\r\nconnection: close\r\n\r\n").await.expect("writes");
    let mut first = [0; 1];
    tokio::io::AsyncReadExt::read_exact(&mut stream, &mut first).await.expect("begins");
    // Others are served meanwhile, with time enough to make many more.
    for _ in 0..20 {
        r.is_served().await;
    }
    let made = r.pages.load(Ordering::Relaxed);
    assert!((1..=32).contains(&made), "{made} parts of 64 KiB for a client that does not read");
    drop(stream);

    let all = r.client.get_json::<Vec<serde_json::Value>>("/v1/store").await.expect("a list");
    let numbers: Vec<u64> = all.iter().filter_map(serde_json::Value::as_u64).collect();
    assert_eq!(numbers, (0..=255).collect::<Vec<u64>>());
    assert_eq!(all.len(), 512);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_is_silent_is_nobodys_daemon() {
    let temp = tempfile::tempdir().expect("temp dir");
    let path = temp.path().join("control.sock");
    // The kernel takes connections; nobody answers them.
    let _silent = tokio::net::UnixListener::bind(&path).expect("binds");
    let found = DaemonClient::find_within(&path, Duration::from_millis(100));
    assert!(tokio::time::timeout(DEADLINE, found).await.expect("gives up").is_none());
    let nowhere = temp.path().join("nobody.sock");
    let nobody = DaemonClient::find(&nowhere);
    assert!(tokio::time::timeout(DEADLINE, nobody).await.expect("at once").is_none());
}
