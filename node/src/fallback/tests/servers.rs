//! Providers that are real servers: moto's S3 and wsgidav, from PyPI, on free ports of this machine.
//!
//! `scripts/test` installs them and names their folder with `CAIRN_TEST_SERVERS`; then a server that does not start is a failure.
//! Without that, and without `target/tools/servers`, these tests say that they did nothing.

use std::{
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use super::{behaves, *};

/// A server that ends with this.
pub(crate) struct Server {
    child: Child,
    dir: tempfile::TempDir,
    endpoint: String,
    key: String,
    secret: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It ends with its standard input; whoever is stuck is ended by id.
        drop(self.child.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Starts one and waits until it answers; `None` where they are not installed and nobody asked for them.
    pub(crate) fn start(kind: &str) -> Option<Self> {
        Self::with_room(kind, None)
    }

    /// One that has room for so many bytes.
    pub(crate) fn with_room(kind: &str, room: Option<usize>) -> Option<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let asked = std::env::var_os("CAIRN_TEST_SERVERS").map(PathBuf::from);
        let tools = asked.clone().unwrap_or_else(|| root.join("target/tools/servers"));
        if asked.is_none() && !tools.is_dir() {
            eprintln!("NOT RUN: no servers in {}; scripts/test installs them", tools.display());
            return None;
        }
        assert!(tools.is_dir(), "no servers in {}: scripts/test installs them", tools.display());
        let dir = tempfile::tempdir().expect("temp dir");
        let files = dir.path().join("files");
        std::fs::create_dir(&files).expect("made");
        let mut child = Command::new("python3")
            .arg(root.join("scripts/fallback-server.py"))
            .args([kind.as_ref(), files.as_os_str()])
            .args(room.map(|bytes| bytes.to_string()))
            .env("PYTHONPATH", tools)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("python3 starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("read");
        let said: serde_json::Value = serde_json::from_str(&line).expect("the server started");
        let text = |name: &str| said[name].as_str().expect("said").to_owned();
        let endpoint = format!("http://127.0.0.1:{}", said["port"]);
        Some(Self { child, dir, endpoint, key: text("key"), secret: text("secret") })
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("set");
        path
    }

    /// As `[[fallback]]` names it, with another secret or the right one.
    pub(crate) fn section(&self, kind: &str, secret: Option<&str>) -> FallbackSection {
        let secret = self.file("secret", secret.unwrap_or(&self.secret));
        let common = FallbackSection { endpoint: Some(self.endpoint.clone()), ..section(kind) };
        match kind {
            "s3" => FallbackSection {
                bucket: Some("backups".to_owned()),
                prefix: Some("cairn/test".to_owned()),
                access_key_file: Some(self.file("key", &self.key)),
                secret_key_file: Some(secret),
                ..common
            },
            _ => FallbackSection { user: Some(self.key.clone()), password_file: Some(secret), ..common },
        }
    }
}

async fn lets_nobody_else_in(server: &Server, kind: &str) {
    let stranger = Provider::open(&server.section(kind, Some("not-the-secret"))).expect("opens");
    let refused = stranger.id().await.expect_err("refused");
    assert!(matches!(refused, ProviderError::Refused(_)), "{refused:?}");
    let shown = format!("{refused} {refused:?} {stranger:?}");
    assert!(!shown.contains("not-the-secret") && !shown.contains(&server.secret), "{shown}");
    assert!(matches!(stranger.introduce([1; 32]).await, Err(ProviderError::Refused(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_s3_server_does_as_a_provider_should() {
    let Some(server) = Server::start("s3") else { return };
    lets_nobody_else_in(&server, "s3").await;
    behaves(&server.section("s3", None)).await;
    let elsewhere = FallbackSection { bucket: Some("no-such-bucket".to_owned()), ..server.section("s3", None) };
    let missing = Provider::open(&elsewhere).expect("opens");
    assert!(missing.introduce([1; 32]).await.is_err(), "no bucket is made");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_webdav_server_does_as_a_provider_should() {
    let Some(server) = Server::start("webdav") else { return };
    lets_nobody_else_in(&server, "webdav").await;
    behaves(&server.section("webdav", None)).await;
    behaves(&FallbackSection { prefix: Some("deep/er".to_owned()), ..server.section("webdav", None) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_goes_away_is_an_error_in_bounded_time() {
    let Some(server) = Server::start("webdav") else { return };
    let provider = Provider::open(&server.section("webdav", None)).expect("opens");
    provider.introduce([3; 32]).await.expect("there");
    drop(server);
    assert!(matches!(provider.id().await, Err(ProviderError::Unreachable(_))));
}
