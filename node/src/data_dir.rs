//! The data folder: where everything of one node or owner lies, who may write to it, and which volume it is.
//!
//! ```text
//! lock           flock of the one writer; says who (pid, what for)
//! identity.key   Ed25519 seed, 0600
//! network.toml   the network, copied in at first use
//! domain         own domain, pinned at first start
//! control.sock   the daemon's API, 0600
//! config.toml    optional settings
//! store/         shards held for others
//! stewardship/   groups watched for others, orders under way
//! vault/         keyring, catalogue, its mark; made as vault.new/ and moved
//! ```
//!
//! The folder is 0700 and belongs to whoever runs us. The lock is advisory and dies with its process, so that a
//! killed node never leaves a lock behind that somebody must remove by hand.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use cairn_proto::{
    Domain,
    network_file::{NETWORK_FILE_MAX, NetworkFile},
};

use crate::failure::{ExitCode, Failure};

#[cfg(test)]
mod tests;

/// A data folder that exists and is ours alone.
#[derive(Clone, Debug)]
pub struct DataDir {
    root: PathBuf,
}

/// The right to write to a data folder; given back when dropped or when the process dies.
#[derive(Debug)]
pub struct WriterLock {
    file: File,
}

impl Drop for WriterLock {
    fn drop(&mut self) {
        // Closing releases the lock; emptying first keeps a stale pid from being read later. Failure harms nobody.
        let _ = self.file.set_len(0);
    }
}

impl DataDir {
    /// The folder when there is one; makes nothing.
    ///
    /// # Errors
    /// As for [`DataDir::open`].
    pub fn find(root: &Path) -> Result<Option<Self>, Failure> {
        if root.exists() { Self::open(root).map(Some) } else { Ok(None) }
    }

    /// Opens the folder, made with mode 0700 when it is missing.
    ///
    /// # Errors
    /// It cannot be made, or is not a folder.
    pub fn open(root: &Path) -> Result<Self, Failure> {
        let failed = |e: std::io::Error| {
            Failure::new(ExitCode::Failed, "DATA_DIR", format!("cannot use the data folder {}", root.display()))
                .caused_by(&e)
                .with_hint("name another one with --data-dir or CAIRN_DATA_DIR")
        };
        if !root.exists() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(failed)?;
        }
        // Absolute, because a verb may run elsewhere than where the folder was named (a daemon, a child).
        let root = fs::canonicalize(root).map_err(failed)?;
        let meta = fs::metadata(&root).map_err(failed)?;
        if !meta.is_dir() {
            return Err(failed(std::io::Error::from(std::io::ErrorKind::NotADirectory)));
        }
        if meta.permissions().mode() & 0o077 != 0 {
            // A folder that somebody made beforehand: close it as far as we may; not being its owner is no failure.
            let _ = fs::set_permissions(&root, fs::Permissions::from_mode(0o700));
        }
        Ok(Self { root })
    }

    /// The folder itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The daemon's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.root.join("control.sock")
    }

    /// The key file.
    #[must_use]
    pub fn identity(&self) -> PathBuf {
        self.root.join("identity.key")
    }

    /// Shards held for others.
    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.root.join("store")
    }

    /// Groups watched for absent owners.
    #[must_use]
    pub fn stewardship(&self) -> PathBuf {
        self.root.join("stewardship")
    }

    /// What a holder knows of who watches what it holds, and its plan to leave.
    #[must_use]
    pub fn holdings(&self) -> PathBuf {
        self.root.join("holdings")
    }

    /// Whether a vault was made or recovered here.
    #[must_use]
    pub fn has_vault(&self) -> bool {
        self.root.join("vault").join("keyring").exists()
    }

    /// Takes the right to write; `purpose` is told to whoever comes second.
    ///
    /// # Errors
    /// [`ExitCode::Busy`] with who holds it.
    pub fn lock(&self, purpose: &str) -> Result<WriterLock, Failure> {
        let path = self.root.join("lock");
        let failed = |e: std::io::Error| {
            Failure::new(ExitCode::Failed, "DATA_DIR", format!("cannot lock {}", path.display())).caused_by(&e)
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                // At most one line that we wrote ourselves; a longer file is not ours.
                let _ = (&mut file).take(256).read_to_string(&mut holder);
                let holder = holder.trim();
                let holder = if holder.is_empty() { "another process" } else { holder };
                return Err(Failure::new(
                    ExitCode::Busy,
                    "BUSY",
                    format!("the data folder {} is in use by {holder}", self.root.display()),
                )
                .with_hint("wait for it to end, or use another --data-dir")
                .retryable());
            }
            Err(e) => return Err(failed(e.into())),
        }
        let written = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "pid {} ({purpose})", std::process::id()));
        written.map_err(failed)?;
        Ok(WriterLock { file })
    }

    /// The network of this folder. An explicit file is copied in at first use and must name the same network
    /// afterwards; its bootstrap addresses are taken over, since they may change.
    ///
    /// # Errors
    /// No network is known, the file is wrong, or it names another network.
    pub fn network(&self, explicit: Option<&Path>) -> Result<NetworkFile, Failure> {
        let own = self.root.join("network.toml");
        let known = if own.exists() { Some(read_network(&own)?) } else { None };
        let given = explicit.map(read_network).transpose()?;
        match (known, given) {
            (None, None) => Err(no_network()),
            (Some(known), None) => Ok(known),
            (Some(known), Some(given)) if known.id != given.id => Err(Failure::new(
                ExitCode::Failed,
                "OTHER_NETWORK",
                format!(
                    "this data folder belongs to network {} ({}), not to {} ({})",
                    known.name,
                    known.id.short(),
                    given.name,
                    given.id.short()
                ),
            )
            .with_hint("use another --data-dir for another network")),
            (Some(known), Some(given)) if known == given => Ok(known),
            (_, Some(given)) => {
                write_private(&own, given.to_toml().as_bytes())?;
                Ok(given)
            }
        }
    }

    /// The own domain: pinned by the first call that names or computes one, for ever. Colours are computed from it,
    /// so a node that could change it could choose its slots (SEP-1).
    ///
    /// # Errors
    /// Another one is pinned than the one asked for.
    pub fn pin_domain(&self, asked: Option<Domain>, fallback: impl FnOnce() -> Domain) -> Result<Domain, Failure> {
        let domain = self.domain(asked, fallback)?;
        let path = self.root.join("domain");
        if !path.exists() {
            write_private(&path, format!("{domain}\n").as_bytes())?;
        }
        Ok(domain)
    }

    /// The pinned domain, else the one asked for, else the fallback; nothing is pinned. For clients: they hold no
    /// shards, and an owner who backs up today may still name a domain when the folder becomes a node tomorrow.
    ///
    /// # Errors
    /// Another one is pinned than the one asked for.
    pub fn domain(&self, asked: Option<Domain>, fallback: impl FnOnce() -> Domain) -> Result<Domain, Failure> {
        let path = self.root.join("domain");
        let pinned = match fs::read_to_string(&path) {
            Ok(text) => Some(Domain::new(text.trim()).map_err(|e| {
                Failure::new(ExitCode::Failed, "DOMAIN", format!("{} is damaged", path.display())).caused_by(&e)
            })?),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) => {
                return Err(
                    Failure::new(ExitCode::Failed, "DOMAIN", format!("cannot read {}", path.display())).caused_by(&e)
                );
            }
        };
        match (pinned, asked) {
            (Some(pinned), Some(asked)) if pinned != asked => Err(Failure::new(
                ExitCode::Failed,
                "DOMAIN_PINNED",
                format!("this node's domain is {pinned} and cannot become {asked}"),
            )
            .with_hint(
                "peers compute from the domain which one slot of a group this node may hold; \
                 start with an empty data folder to use another domain",
            )),
            (Some(pinned), _) => Ok(pinned),
            (None, asked) => Ok(asked.unwrap_or_else(fallback)),
        }
    }
}

/// Nobody said which network.
pub(crate) fn no_network() -> Failure {
    Failure::new(ExitCode::NotFound, "NO_NETWORK", "no network file is known here")
        .with_hint("name one with --network FILE or CAIRN_NETWORK; `cairn network new` makes one")
}

/// Reads and checks a network file.
///
/// # Errors
/// It cannot be read or is not a valid network file.
pub fn read_network(path: &Path) -> Result<NetworkFile, Failure> {
    let wrong = || {
        Failure::new(ExitCode::Failed, "NETWORK_FILE", format!("cannot use the network file {}", path.display()))
            .with_hint(
                "`cairn network new --name NAME > network.toml` makes one; ask whoever runs the network for theirs",
            )
    };
    let mut text = String::new();
    File::open(path)
        .and_then(|f| f.take(NETWORK_FILE_MAX as u64 + 1).read_to_string(&mut text))
        .map_err(|e| wrong().caused_by(&e))?;
    NetworkFile::parse(&text).map_err(|e| wrong().caused_by(&e))
}

/// Writes a small file whole or not at all, mode 0600.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let failed = |e: &(dyn std::error::Error + 'static)| {
        Failure::new(ExitCode::Failed, "DATA_DIR", format!("cannot write {}", path.display())).caused_by(e)
    };
    // The parent of a bare name is the empty path, which no call takes for the folder that we are in.
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(|e| failed(&e))?;
    file.write_all(bytes).and_then(|()| file.as_file().sync_all()).map_err(|e| failed(&e))?;
    file.persist(path).map_err(|e| failed(&e.error))?;
    // The rename itself must survive a power cut, too.
    File::open(folder).and_then(|d| d.sync_all()).map_err(|e| failed(&e))
}
