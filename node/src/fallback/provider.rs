//! One provider: put, get, list, delete, and the marker that says which one it is.

use std::{
    collections::BTreeMap,
    error::Error as StdError,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use cairn_core::fallback::OBJECT_SIZE;
use futures::StreamExt as _;
use object_store::{
    BackoffConfig, ObjectStore, ObjectStoreExt as _, PutPayload, RetryConfig,
    aws::{AmazonS3Builder, S3ConditionalPut},
    http::HttpBuilder,
    local::LocalFileSystem,
    path::Path,
};
use tokio::sync::Semaphore;

use super::{
    FallbackSection,
    http::Line,
    settings::{Access, secret},
};

/// The marker's name. Beside it lie folders only.
const MARKER: &str = "cairn-provider";
/// Bytes of the marker.
const ID: usize = 32;
/// Requests under way at one provider: 8 MiB in memory, and enough for any line.
const AT_ONCE: usize = 8;
/// How long one request may take in all, repetitions and waiting for a turn included.
const LONGEST: Duration = Duration::from_secs(180);
/// How long the marker may take: a provider that is away must not keep a backup from beginning.
const MARKER_TIME: Duration = Duration::from_secs(15);
/// How often a request that a server did not answer well is repeated, and for how long.
const RETRIES: usize = 3;
const RETRY_TIME: Duration = Duration::from_secs(60);
/// Requests in a row that may fail before a verb asks no more: each may cost as long as we are patient.
const FAILURES_IN_A_ROW: u32 = 3;
/// Most entries of a folder that are looked at: a slot of a group has 256 shards, and a server may send anything.
const LISTED_MAX: usize = 1024;
/// Most of a server's own words that are repeated.
const TEXT_MAX: usize = 240;

/// Why a provider did not do as it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProviderError {
    /// The settings, or a file that they name, cannot be used.
    #[error("{0}")]
    Settings(String),
    /// It cannot be reached, or does not answer well.
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    /// It lets us not in.
    #[error("it refuses: {0}; check the credentials and what they allow")]
    Refused(String),
    /// It has no room.
    #[error("it is full: {0}")]
    Full(String),
    /// Its marker is not there any more, or none.
    #[error("{0}")]
    Marker(String),
    /// It failed several times in a row: not asked again in this verb.
    #[error("it failed several times in a row")]
    GivenUp,
}

/// A place for objects.
#[derive(Debug)]
pub struct Provider {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    turns: Semaphore,
    failures: AtomicU32,
}

impl Provider {
    /// Gets ready to ask a provider; asks nothing yet. Blocking: reads secrets and certificates.
    ///
    /// # Errors
    /// [`ProviderError::Settings`].
    pub fn open(section: &FallbackSection) -> Result<Self, ProviderError> {
        let bad = |why: String| ProviderError::Settings(why);
        let said = |e: object_store::Error| bad(short(&e.to_string()));
        let access = section.access().map_err(|e| bad(e.to_string()))?;
        let store: Arc<dyn ObjectStore> = match access {
            // It does not make the folder: a disk that is not mounted is no place for a backup.
            Access::Folder { path } => {
                if !path.is_dir() {
                    return Err(bad(format!("{} is no folder; make it, or mount it", path.display())));
                }
                Arc::new(LocalFileSystem::new_with_prefix(&path).map_err(said)?.with_fsync(true))
            }
            Access::S3 { endpoint, bucket, region, key, secret: file } => {
                let (key, secret) = (secret(&key).map_err(bad)?, secret(&file).map_err(bad)?);
                let line = Line::new(endpoint.starts_with("https://"), None).map_err(bad)?;
                let builder = AmazonS3Builder::new()
                    .with_endpoint(endpoint)
                    .with_bucket_name(bucket)
                    .with_region(region)
                    .with_access_key_id(key.expose())
                    .with_secret_access_key(secret.expose())
                    // An endpoint with http:// was written by its owner; what is sent is sealed, the secret stays here.
                    .with_allow_http(true)
                    .with_virtual_hosted_style_request(false)
                    .with_conditional_put(S3ConditionalPut::Disabled)
                    .with_disable_tagging(true)
                    .with_retry(retries())
                    .with_http_connector(line);
                Arc::new(builder.build().map_err(said)?)
            }
            Access::Webdav { endpoint, login } => {
                let login = login.map(|(user, file)| Ok((user, secret(&file)?))).transpose().map_err(bad)?;
                let login = login.as_ref().map(|(user, password)| (user.as_str(), password));
                let line = Line::new(endpoint.starts_with("https://"), login).map_err(bad)?;
                let builder = HttpBuilder::new().with_url(endpoint).with_retry(retries()).with_http_connector(line);
                Arc::new(builder.build().map_err(said)?)
            }
        };
        let prefix = Path::parse(section.prefix.as_deref().unwrap_or_default()).map_err(|e| bad(e.to_string()))?;
        Ok(Self { store, prefix, turns: Semaphore::new(AT_ONCE), failures: AtomicU32::new(0) })
    }

    fn at(&self, folder: &str, name: &str) -> Path {
        self.prefix.clone().join(folder).join(name)
    }

    /// One request: in its turn, within its time, and not when the last ones all failed.
    async fn request<T>(
        &self,
        longest: Duration,
        work: impl Future<Output = Result<T, object_store::Error>>,
    ) -> Result<T, ProviderError> {
        if self.failures.load(Ordering::Relaxed) >= FAILURES_IN_A_ROW {
            return Err(ProviderError::GivenUp);
        }
        let in_turn = async {
            // The semaphore is never closed.
            let _turn = self.turns.acquire().await;
            work.await
        };
        let done = match tokio::time::timeout(longest, in_turn).await {
            Ok(done) => done.map_err(|e| told(&e)),
            Err(_) => Err(ProviderError::Unreachable("it takes too long".to_owned())),
        };
        match &done {
            Ok(_) => self.failures.store(0, Ordering::Relaxed),
            Err(_) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
            }
        }
        done
    }

    /// Reads an object of at most so many bytes; nothing when there is none. A longer one is cut, so that it is wrong.
    async fn read(&self, at: Path, most: usize, longest: Duration) -> Result<Option<Bytes>, ProviderError> {
        let work = async {
            let mut parts = match self.store.get(&at).await {
                Ok(found) => found.into_stream(),
                Err(object_store::Error::NotFound { .. }) => return Ok(None),
                Err(e) => return Err(e),
            };
            let mut bytes = BytesMut::with_capacity(most);
            while let Some(part) = parts.next().await.transpose()? {
                if bytes.len() + part.len() > most {
                    bytes.clear();
                    break;
                }
                bytes.extend_from_slice(&part);
            }
            Ok(Some(bytes.freeze()))
        };
        self.request(longest, work).await
    }

    /// Which provider this is; nothing when it was never used.
    ///
    /// # Errors
    /// [`ProviderError`]; a marker of another length is one.
    pub async fn id(&self) -> Result<Option<[u8; ID]>, ProviderError> {
        let Some(found) = self.read(self.prefix.clone().join(MARKER), ID, MARKER_TIME).await? else { return Ok(None) };
        let id: Result<[u8; ID], _> = found[..].try_into();
        id.map(Some).map_err(|_| ProviderError::Marker(format!("its marker `{MARKER}` is damaged")))
    }

    /// Makes it a provider: writes a marker of these random bytes and reads back what is there.
    ///
    /// # Errors
    /// [`ProviderError`].
    pub async fn introduce(&self, id: [u8; ID]) -> Result<[u8; ID], ProviderError> {
        let at = self.prefix.clone().join(MARKER);
        let payload = PutPayload::from(id.to_vec());
        self.request(MARKER_TIME, async { self.store.put(&at, payload).await.map(|_| ()) }).await?;
        // Another machine may have done the same: the last one stands for both.
        self.id()
            .await?
            .ok_or_else(|| ProviderError::Marker("what is written there is not there afterwards".to_owned()))
    }

    /// Writes an object; durable there, by its word, when this returns.
    ///
    /// # Errors
    /// [`ProviderError`].
    pub async fn put(&self, folder: &str, name: &str, object: Vec<u8>) -> Result<(), ProviderError> {
        let at = self.at(folder, name);
        let payload = PutPayload::from(object);
        self.request(LONGEST, async { self.store.put(&at, payload).await.map(|_| ()) }).await
    }

    /// Reads an object; nothing when there is none.
    ///
    /// # Errors
    /// [`ProviderError`].
    pub async fn get(&self, folder: &str, name: &str) -> Result<Option<Bytes>, ProviderError> {
        self.read(self.at(folder, name), OBJECT_SIZE, LONGEST).await
    }

    /// Names and sizes of a folder's objects.
    ///
    /// # Errors
    /// [`ProviderError`].
    pub async fn list(&self, folder: &str) -> Result<BTreeMap<String, u64>, ProviderError> {
        let at = self.prefix.clone().join(folder);
        let work = async {
            match self.store.list_with_delimiter(Some(&at)).await {
                Ok(found) => Ok(found.objects),
                Err(object_store::Error::NotFound { .. }) => Ok(Vec::new()),
                Err(e) => Err(e),
            }
        };
        let found = self.request(LONGEST, work).await?;
        let named = found.into_iter().take(LISTED_MAX);
        Ok(named.filter_map(|meta| Some((meta.location.filename()?.to_owned(), meta.size))).collect())
    }

    /// Deletes an object; one that is not there is as good as deleted.
    ///
    /// # Errors
    /// [`ProviderError`].
    pub async fn delete(&self, folder: &str, name: &str) -> Result<(), ProviderError> {
        let at = self.at(folder, name);
        let work = async {
            match self.store.delete(&at).await {
                Err(object_store::Error::NotFound { .. }) => Ok(()),
                done => done,
            }
        };
        self.request(LONGEST, work).await
    }
}

fn retries() -> RetryConfig {
    RetryConfig { backoff: BackoffConfig::default(), max_retries: RETRIES, retry_timeout: RETRY_TIME }
}

/// Codes of S3 servers for "no room": Ceph's and Wasabi's, MinIO's two, and a storage cap at Backblaze.
const FULL: [&str; 4] = ["QuotaExceeded", "StorageFull", "InsufficientStorage", "storage_cap_exceeded"];

/// What went wrong, by what the innermost cause says.
fn told(error: &object_store::Error) -> ProviderError {
    use std::io::ErrorKind;
    let mut text = error.to_string();
    let mut cause: Option<&(dyn StdError + 'static)> = error.source();
    let mut disk = None;
    while let Some(e) = cause {
        if let Some(e) = e.downcast_ref::<std::io::Error>() {
            disk = Some(e.kind());
        }
        text = e.to_string();
        cause = e.source();
    }
    let is_full = FULL.iter().any(|code| text.contains(code));
    let text = short(&text);
    let status = |code: &str| text.contains(&format!("status code: {code}"));
    match (error, disk) {
        // Before what it looks like: some say it with 403.
        _ if is_full || status("507") => ProviderError::Full(text),
        (_, Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded)) => ProviderError::Full(text),
        (_, Some(ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem)) => ProviderError::Refused(text),
        (object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. }, _) => {
            ProviderError::Refused(text)
        }
        _ if status("401") || status("403") => ProviderError::Refused(text),
        _ => ProviderError::Unreachable(text),
    }
}

/// A server's words on one line, of bounded length and without control characters.
fn short(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(TEXT_MAX).collect()
}
