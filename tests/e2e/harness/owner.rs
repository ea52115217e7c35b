//! An owner beside the lab: a data folder, a passphrase file, 24 words.

use std::{
    ffi::{OsStr, OsString},
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use serde_json::Value;
use tempfile::TempDir;

use super::{Lab, Output, Running, cairn};

/// An owner: a data folder, a passphrase file, 24 words.
pub struct Owner {
    home: TempDir,
    network: PathBuf,
}

impl Owner {
    /// A blank folder beside a network.
    pub fn blank(network: &Path) -> Self {
        let home = tempfile::Builder::new().prefix("cairn-owner-").tempdir().expect("temp dir");
        fs::write(home.path().join("passphrase"), "correct horse\n").expect("writes");
        Self { home, network: network.to_owned() }
    }

    /// With a vault.
    #[track_caller]
    pub fn init(lab: &Lab) -> Self {
        let owner = Self::blank(&lab.network_file());
        owner.run(["init", "--phrase-file", "phrase"]).ok();
        owner
    }

    pub fn home(&self) -> &Path {
        self.home.path()
    }

    pub fn data_dir(&self) -> PathBuf {
        self.home.path().join("data")
    }

    pub fn phrase(&self) -> String {
        fs::read_to_string(self.home.path().join("phrase")).expect("written by init").trim().to_owned()
    }

    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = cairn(self.home.path());
        command
            .env("CAIRN_DATA_DIR", self.data_dir())
            .env("CAIRN_NETWORK", &self.network)
            .env("CAIRN_PASSPHRASE_FILE", self.home.path().join("passphrase"))
            .args(args);
        command
    }

    #[track_caller]
    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Output {
        Running::spawn(self.command(args), Stdio::null()).finish()
    }

    #[track_caller]
    pub fn backup(&self, path: &Path) -> Output {
        self.run([OsStr::new("backup"), OsStr::new("--json"), path.as_os_str()])
    }

    /// Backs up a stream that comes on stdin.
    #[track_caller]
    pub fn backup_stream(&self, name: &str, bytes: &[u8]) -> Output {
        let command = self.command(["backup", "--json", "--stdin", "--stdin-filename", name]);
        let mut running = Running::spawn(command, Stdio::piped());
        let mut stdin = running.stdin();
        let bytes = bytes.to_vec();
        // A verb that ends early closes the pipe; its code tells why.
        let feeder = thread::spawn(move || drop(stdin.write_all(&bytes)));
        let output = running.finish();
        feeder.join().expect("feeder");
        output
    }

    #[track_caller]
    pub fn restore(&self, snapshot: &str, target: &Path) -> Output {
        let args = [OsStr::new("restore"), OsStr::new("--json"), OsStr::new(snapshot), OsStr::new("--target")];
        self.run(args.into_iter().chain([target.as_os_str()]))
    }

    #[track_caller]
    pub fn dump(&self, snapshot: &str, path: &str) -> Output {
        self.run(["dump", snapshot, path])
    }

    #[track_caller]
    pub fn snapshots(&self) -> Vec<Value> {
        self.run(["snapshots", "--json"]).ok().rows("snapshot")
    }

    /// The machine burns down: nothing is left of the data folder.
    pub fn burn(&self) {
        fs::remove_dir_all(self.data_dir()).expect("was there");
    }

    /// A folder inside the owner's home that does not exist yet.
    pub fn place(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }
}

/// Where a restore puts a path: restic's way, the absolute path below the target.
pub fn below(target: &Path, path: &Path) -> PathBuf {
    let relative: OsString = path.strip_prefix("/").expect("absolute").into();
    target.join(relative)
}
