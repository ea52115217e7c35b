//! `[[fallback]]` in the settings, checked before anything is done with it.

use std::{
    io::Read as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use cairn_proto::head::{PROVIDER_NAME_MAX, ProviderRow};
use serde::Deserialize;
use zeroize::Zeroize as _;

use super::PROVIDERS_MAX;
use crate::ops::SecretText;

/// Most bytes of a file with a secret.
const SECRET_MAX: u64 = 4096;

/// Keys of one `[[fallback]]`, as the settings' own check knows them.
pub const KEYS: [&str; 11] = [
    "fallback.name",
    "fallback.kind",
    "fallback.path",
    "fallback.endpoint",
    "fallback.bucket",
    "fallback.region",
    "fallback.prefix",
    "fallback.access_key_file",
    "fallback.secret_key_file",
    "fallback.user",
    "fallback.password_file",
];

/// One provider.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FallbackSection {
    /// How its owner calls it.
    pub name: String,
    /// `folder`, `s3` or `webdav`.
    pub kind: String,
    /// A folder that is there already.
    pub path: Option<PathBuf>,
    /// Where the server is: an address with `https://`, or `http://` where that is no danger.
    pub endpoint: Option<String>,
    /// The bucket.
    pub bucket: Option<String>,
    /// The bucket's region; `us-east-1` for servers that have none.
    pub region: Option<String>,
    /// What all names begin with, so that other things can lie beside.
    pub prefix: Option<String>,
    /// File with the access key's id.
    pub access_key_file: Option<PathBuf>,
    /// File with the access key's secret.
    pub secret_key_file: Option<PathBuf>,
    /// Who logs in at a WebDAV server.
    pub user: Option<String>,
    /// File with that user's password.
    pub password_file: Option<PathBuf>,
}

/// What is wrong with a provider's settings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// More providers than are allowed.
    #[error("{found} providers of fallback storage are named, {PROVIDERS_MAX} are allowed")]
    TooMany {
        /// How many.
        found: usize,
    },
    /// Two of one name.
    #[error("two providers of fallback storage are called {name:?}")]
    Twice {
        /// The name.
        name: String,
    },
    /// The name is none.
    #[error("{0:?} cannot be the name of a provider: 1 to {PROVIDER_NAME_MAX} letters, digits, `-`, `_`, `.`")]
    Name(String),
    /// The kind is none.
    #[error("fallback storage {name:?} is of kind {kind:?}; there are \"folder\", \"s3\" and \"webdav\"")]
    Kind {
        /// Which provider.
        name: String,
        /// What it says.
        kind: String,
    },
    /// Something is missing.
    #[error("fallback storage {name:?} needs `{key}`")]
    Missing {
        /// Which provider.
        name: String,
        /// What.
        key: &'static str,
    },
    /// Something has no meaning there.
    #[error("`{key}` means nothing for fallback storage {name:?}, which is a {kind}")]
    Needless {
        /// Which provider.
        name: String,
        /// What.
        key: &'static str,
        /// Of which kind it is.
        kind: &'static str,
    },
    /// Something has a value that cannot be used.
    #[error("`{key}` of fallback storage {name:?} cannot be used: {why}")]
    Value {
        /// Which provider.
        name: String,
        /// What.
        key: &'static str,
        /// Why not.
        why: String,
    },
}

/// What a provider is reached by.
#[derive(Debug)]
pub(super) enum Access {
    Folder { path: PathBuf },
    S3 { endpoint: String, bucket: String, region: String, key: PathBuf, secret: PathBuf },
    Webdav { endpoint: String, login: Option<(String, PathBuf)> },
}

impl FallbackSection {
    /// Whether it can be used as far as its text tells.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), SettingsError> {
        if !ProviderRow::may_be_named(&self.name) {
            return Err(SettingsError::Name(self.name.clone()));
        }
        if let Some(prefix) = &self.prefix
            && object_store::path::Path::parse(prefix).is_err()
        {
            return Err(self.value("prefix", "write names with `/` between them, without `.` and `..`"));
        }
        self.access().map(|_| ())
    }

    fn value(&self, key: &'static str, why: &str) -> SettingsError {
        SettingsError::Value { name: self.name.clone(), key, why: why.to_owned() }
    }

    fn needs<T: Clone>(&self, value: &Option<T>, key: &'static str) -> Result<T, SettingsError> {
        value.clone().ok_or_else(|| SettingsError::Missing { name: self.name.clone(), key })
    }

    /// Which keys are given that belong to another kind.
    fn only(&self, kind: &'static str, allowed: &[&'static str]) -> Result<(), SettingsError> {
        let given = [
            ("path", self.path.is_some()),
            ("endpoint", self.endpoint.is_some()),
            ("bucket", self.bucket.is_some()),
            ("region", self.region.is_some()),
            ("access_key_file", self.access_key_file.is_some()),
            ("secret_key_file", self.secret_key_file.is_some()),
            ("user", self.user.is_some()),
            ("password_file", self.password_file.is_some()),
        ];
        match given.iter().find(|(key, given)| *given && !allowed.contains(key)) {
            Some((key, _)) => Err(SettingsError::Needless { name: self.name.clone(), key, kind }),
            None => Ok(()),
        }
    }

    pub(super) fn access(&self) -> Result<Access, SettingsError> {
        match self.kind.as_str() {
            "folder" => {
                self.only("folder", &["path"])?;
                let path = self.needs(&self.path, "path")?;
                if !path.is_absolute() {
                    return Err(self.value("path", "write it from the root, since verbs run in any folder"));
                }
                Ok(Access::Folder { path })
            }
            "s3" => {
                self.only("bucket", &["endpoint", "bucket", "region", "access_key_file", "secret_key_file"])?;
                let endpoint = self.endpoint()?;
                Ok(Access::S3 {
                    endpoint: endpoint.trim_end_matches('/').to_owned(),
                    bucket: self.needs(&self.bucket, "bucket")?,
                    region: self.region.clone().unwrap_or_else(|| "us-east-1".to_owned()),
                    key: self.needs(&self.access_key_file, "access_key_file")?,
                    secret: self.needs(&self.secret_key_file, "secret_key_file")?,
                })
            }
            "webdav" => {
                self.only("WebDAV server", &["endpoint", "user", "password_file"])?;
                let endpoint = self.endpoint()?;
                let login = match (&self.user, &self.password_file) {
                    (None, None) => None,
                    (user, file) => Some((self.needs(user, "user")?, self.needs(file, "password_file")?)),
                };
                if login.is_some() && endpoint.starts_with("http://") && !is_loopback(&endpoint) {
                    return Err(self.value("endpoint", "a password would cross the network in the clear: use https://"));
                }
                Ok(Access::Webdav { endpoint, login })
            }
            kind => Err(SettingsError::Kind { name: self.name.clone(), kind: kind.to_owned() }),
        }
    }

    fn endpoint(&self) -> Result<String, SettingsError> {
        let endpoint = self.needs(&self.endpoint, "endpoint")?;
        let uri: ::http::Uri =
            endpoint.parse().map_err(|_| self.value("endpoint", "write an address as https://host:port"))?;
        let Some(authority) = uri.authority().filter(|_| matches!(uri.scheme_str(), Some("https" | "http"))) else {
            return Err(self.value("endpoint", "write an address as https://host:port"));
        };
        if authority.as_str().contains('@') {
            return Err(self.value("endpoint", "a secret does not belong into it: name its file"));
        }
        Ok(endpoint)
    }
}

fn is_loopback(endpoint: &str) -> bool {
    let host = endpoint.parse::<::http::Uri>().ok().and_then(|uri| uri.host().map(ToOwned::to_owned));
    let host = host.unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// Reads a secret: the file's text without the white space around it. Nobody else may be able to read it.
pub(super) fn secret(path: &Path) -> Result<SecretText, String> {
    let failed = |e: std::io::Error| format!("{}: {e}", path.display());
    let mut file = std::fs::File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.mode();
    if mode & 0o077 != 0 {
        return Err(format!("{} can be read by others: `chmod 600` it", path.display()));
    }
    // Of its full size from the start: a text that grows leaves copies behind.
    let mut text = String::with_capacity(SECRET_MAX as usize + 1);
    (&mut file).take(SECRET_MAX).read_to_string(&mut text).map_err(failed)?;
    let trimmed = SecretText::new(text.trim().to_owned());
    text.zeroize();
    if trimmed.expose().is_empty() {
        return Err(format!("{} is empty", path.display()));
    }
    Ok(trimmed)
}
