//! The API over a real socket with a service of the test's own.

use std::{sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use tokio::{io::AsyncWriteExt, sync::mpsc};
use tokio_util::sync::CancellationToken;

use super::{
    NodeStatus,
    client::DaemonClient,
    server::{self, Call, Service},
};
use crate::{
    failure::{ExitCode, Failure},
    ops::{BackupArgs, DumpArgs, Event, Outcome, SecretText, Verb, VerbResult},
    vault::stream_input::{StreamInput, StreamItem},
};

/// Counts what a stream brings, dumps a known text, waits for ever on `check`.
struct Echo {
    ended: mpsc::Sender<&'static str>,
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
                call.cancel.cancelled().await;
                let _ = self.ended.send("cancelled").await;
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
    fn shards(&self) -> BoxFuture<'_, Result<Vec<serde_json::Value>, Failure>> {
        async { Ok(vec![]) }.boxed()
    }
    fn make_vault(&self, passphrase: Option<SecretText>) -> BoxFuture<'_, Result<SecretText, Failure>> {
        async move { Ok(SecretText::new(format!("words {}", passphrase.is_some()))) }.boxed()
    }
}

struct Running {
    client: DaemonClient,
    ended: mpsc::Receiver<&'static str>,
    shutdown: CancellationToken,
    served: tokio::task::JoinHandle<()>,
    _temp: tempfile::TempDir,
}

async fn running() -> Running {
    let temp = tempfile::tempdir().expect("temp dir");
    // Deeper than a socket's path may be long.
    let deep = temp.path().join("a-long-folder-name".repeat(8));
    std::fs::create_dir(&deep).expect("makes");
    let path = deep.join("control.sock");
    let (sender, ended) = mpsc::channel(4);
    let shutdown = CancellationToken::new();
    let socket = server::bind(path.clone()).expect("binds");
    let served = tokio::spawn(server::serve(socket, Arc::new(Echo { ended: sender }), shutdown.clone()));
    let client = DaemonClient::find(&path).await.expect("answers");
    Running { client, ended, shutdown, served, _temp: temp }
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
    tokio::time::timeout(Duration::from_millis(300), r.ended.recv()).await.expect_err("still runs");
    task.abort();
    let ended = tokio::time::timeout(Duration::from_secs(10), r.ended.recv()).await;
    assert_eq!(ended, Ok(Some("cancelled")));
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
    tokio::time::timeout(Duration::from_millis(300), r.ended.recv()).await.expect_err("still runs");
    r.shutdown.cancel();
    assert_eq!(task.await.expect("joins").expect_err("cancelled").code, ExitCode::Interrupted);
    tokio::time::timeout(Duration::from_secs(20), r.served).await.expect("ends").expect("joins");
}
