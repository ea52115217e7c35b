//! How a backup ends: a snapshot, if there is something new, and the commit that lists it.

use cairn_proto::{
    SnapshotId, Timestamp,
    manifest::{EpochRow, SnapshotRecord, SourceKind},
    tree::ContentRef,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::ScanResult;
use crate::{
    failure::Failure,
    ops::{BackupArgs, Event, Progress, decode_path},
    vault::{
        Vault,
        catalogue::{CatalogueError, Counters, Meta},
        commit::Commit,
        failures,
        reader::Reader,
        session::Session,
        sources::Scanned,
        tree_walk,
    },
};

/// What came of a run.
pub(super) struct Done {
    pub(super) scanned: Scanned,
    pub(super) snapshot: Option<SnapshotId>,
    pub(super) unchanged: bool,
    pub(super) head_kept_by: Option<usize>,
    /// Known when a commit counted them.
    pub(super) stripes_lost: Option<usize>,
}

/// Makes a snapshot of what was scanned and stored, unless there is nothing new or it was only asked what would be.
#[allow(clippy::too_many_arguments, reason = "the run's loose ends come together here")]
pub(super) async fn finish(
    vault: &Vault,
    session: &Session,
    args: &BackupArgs,
    sending: Result<(), Failure>,
    scanned: ScanResult,
    events: &mpsc::Sender<Event>,
    cancel: &CancellationToken,
    counters: Counters,
    now: Timestamp,
) -> Result<Done, Failure> {
    let (mut ingest, scanned) = scanned;
    sending?;
    let (scanned, late) = scanned.map_err(|e| failures::source(&e, cancel))?;
    if cancel.is_cancelled() {
        return Err(failures::interrupted());
    }
    let mine = |record: &SnapshotRecord| record.hostname == hostname(args) && record.paths == source_paths(args);
    let mut snapshots = vault.catalogue.snapshots().map_err(failures::catalogue)?;
    snapshots.retain(|(_, record)| mine(record));
    let parent = snapshots.into_iter().max_by_key(|(_, record)| record.time);
    let unchanged = match &parent {
        Some((_, parent)) if args.skip_if_unchanged => is_unchanged(vault, session, args, parent, &scanned).await,
        _ => false,
    };
    // Where a repair put shards stands in no head yet, what lay in lost stripes was stored anew, or one of them has a part of
    // the index: a head is due all the same.
    let knows_losses = ingest.knows_losses();
    let due = |vault: &Vault| -> Result<bool, CatalogueError> {
        Ok(vault.catalogue.meta(Meta::Moved)?.is_some() || knows_losses || vault.catalogue.index_is_lost()?)
    };
    if args.dry_run || unchanged && !due(vault).map_err(failures::catalogue)? {
        return Ok(Done { scanned, snapshot: None, unchanged, head_kept_by: None, stripes_lost: None });
    }
    let record = SnapshotRecord {
        root: scanned.root.clone(),
        total_files: scanned.total_files,
        total_bytes: scanned.total_bytes,
        data_added: ingest.bytes_added(),
        parent: parent.map(|(id, _)| id),
        ..record(args, now)
    };
    let encoded = record.encode().map_err(|e| failures::bug("SNAPSHOT", &e))?;
    let id = vault.keys.snapshot_id(&encoded);
    let snapshots = if unchanged { Vec::new() } else { vec![(id, record)] };
    let _ = events.try_send(Event::Status(Progress { phase: "commit".to_owned(), ..Progress::default() }));
    let epochs: Vec<EpochRow> = vault.epochs()?;
    let commit = Commit { session, ingest: &mut ingest, snapshots, counters, epochs, now };
    let committed = tokio::select! {
        biased;
        () = cancel.cancelled() => return Err(failures::interrupted()),
        done = commit.run() => done.map_err(|e| failures::commit(&e))?,
    };
    // A check may have found more lost meanwhile: then nobody knows whether these are whole.
    if vault.catalogue.lost().map_err(failures::catalogue)?.is_subset(ingest.lost()) {
        vault.catalogue.set_files(&late).map_err(failures::catalogue)?;
    }
    Ok(Done {
        scanned,
        snapshot: (!unchanged).then_some(id),
        unchanged,
        head_kept_by: Some(committed.head_kept_by),
        stripes_lost: Some(committed.stripes_lost),
    })
}

/// Whether the sources are as the parent has them. The folders above them do not count: their times change with their
/// other entries.
async fn is_unchanged(
    vault: &Vault,
    session: &Session,
    args: &BackupArgs,
    parent: &SnapshotRecord,
    scanned: &Scanned,
) -> bool {
    if parent.root == scanned.root {
        return true;
    }
    if scanned.errors > 0 || args.paths.is_empty() || scanned.tops.len() != args.paths.len() {
        return false;
    }
    let reader = Reader::new(vault.keys.clone(), session.overlay.clone(), Some(vault.catalogue.clone()));
    for (path, node) in &scanned.tops {
        use std::os::unix::ffi::OsStrExt as _;
        let before = tree_walk::find(&reader, &parent.root, path.as_os_str().as_bytes()).await;
        if !matches!(before, Ok(Some(before)) if before == *node) {
            return false;
        }
    }
    true
}

/// The snapshot's record, without what only the scan can tell.
pub(super) fn record(args: &BackupArgs, now: Timestamp) -> SnapshotRecord {
    SnapshotRecord {
        time: now,
        hostname: hostname(args),
        username: username(),
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        paths: source_paths(args),
        tags: args.tags.clone(),
        source: if args.stdin_filename.is_some() { SourceKind::Stream } else { SourceKind::Files },
        root: ContentRef::empty(),
        total_files: 0,
        total_bytes: 0,
        data_added: 0,
        program: format!("cairn {}", env!("CARGO_PKG_VERSION")),
        parent: None,
    }
}

fn hostname(args: &BackupArgs) -> String {
    args.host.clone().unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned())
}

fn source_paths(args: &BackupArgs) -> Vec<Vec<u8>> {
    use std::os::unix::ffi::OsStringExt as _;
    match &args.stdin_filename {
        Some(name) => vec![name.as_bytes().to_vec()],
        None => args.paths.iter().map(|p| decode_path(p).into_os_string().into_vec()).collect(),
    }
}

fn username() -> String {
    let owners = crate::files::meta::Owners::load();
    let uid = rustix::process::getuid().as_raw();
    owners.user(uid).unwrap_or_else(|| uid.to_string())
}
