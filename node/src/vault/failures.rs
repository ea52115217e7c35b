//! What went wrong inside, as a person or a program is told: exit code, name, sentence, causes, hint.

use tokio_util::sync::CancellationToken;

use super::{
    catalogue::CatalogueError, commit::CommitError, groups::PlaceError, ingest::IngestError, keyring::KeyringError,
    reader::ReadError, session::StoreError, sources::SourceError,
};
use crate::{
    failure::{ExitCode, Failure},
    overlay::{OverlayError, TransferError},
};
use cairn_core::placement::PlacementError;
use cairn_proto::wire::RefusalCode;

pub(super) fn interrupted() -> Failure {
    Failure::new(ExitCode::Interrupted, "INTERRUPTED", "interrupted; what was acknowledged is kept for the next run")
        .retryable()
}

pub(super) fn restore_interrupted() -> Failure {
    Failure::new(ExitCode::Interrupted, "INTERRUPTED", "interrupted; the files that are complete stay in the target")
        .with_hint("the same command goes on where this one ended")
        .retryable()
}

/// A restore that filled its disk.
pub(super) fn target_full(files: u64) -> Failure {
    let text = format!("the disk of the target is full: {files} files were restored, the rest was not");
    Failure::new(ExitCode::NoSpace, "TARGET_FULL", text)
        .with_hint("make room, or take a part with --include, and run the same command again: what is complete stays")
        .retryable()
}

/// A verb that only reads.
pub(super) fn reading_interrupted() -> Failure {
    Failure::new(ExitCode::Interrupted, "INTERRUPTED", "interrupted; nothing was changed").retryable()
}

pub(super) fn pattern(error: &crate::files::filter::FilterError) -> Failure {
    let mut failure = Failure::new(ExitCode::Usage, "USAGE", error.to_string())
        .with_hint("patterns are globs: `*`, `?`, `[a-z]`, `{a,b}`; `\\[` means the character itself");
    failure.causes.extend(std::error::Error::source(error).map(ToString::to_string));
    failure
}

pub(super) fn bug(id: &str, error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::new(ExitCode::Failed, id, "an internal step failed").caused_by(error)
}

/// Name of the failure that a rebuilt catalogue mends.
pub(super) const CATALOGUE_DAMAGED: &str = "CATALOGUE_DAMAGED";

pub(super) fn catalogue(error: CatalogueError) -> Failure {
    let id = if matches!(error, CatalogueError::Damaged(_)) { CATALOGUE_DAMAGED } else { "CATALOGUE" };
    let failure = Failure::new(ExitCode::Failed, id, "the local catalogue cannot be used").caused_by(&error);
    match error {
        CatalogueError::Database(_) => failure.with_hint("check the disk; `cairn recover` rebuilds the catalogue"),
        CatalogueError::Damaged(_) => failure.with_hint(
            "the next backup or check rebuilds it from the network; so does `cairn recover` with the recovery phrase",
        ),
        CatalogueError::OtherVault => {
            failure.with_hint("`cairn recover` rebuilds it from the network with the recovery phrase")
        }
    }
}

pub(super) fn keyring(error: KeyringError) -> Failure {
    let text = error.to_string();
    match error {
        KeyringError::Missing => Failure::new(ExitCode::NotFound, "NO_VAULT", text)
            .with_hint("`cairn init` makes a vault, `cairn recover` brings one back from its recovery phrase"),
        KeyringError::Exists => {
            Failure::new(ExitCode::Refused, "VAULT_EXISTS", text).with_hint("use another data folder for another vault")
        }
        KeyringError::WrongPassphrase | KeyringError::PassphraseNeeded => {
            Failure::new(ExitCode::WrongSecret, "WRONG_SECRET", text)
                .with_hint("give the passphrase of this vault; without it the recovery phrase still opens the vault")
        }
        KeyringError::Damaged(_) => Failure::new(ExitCode::Failed, "KEYRING_DAMAGED", text)
            .with_hint("move the vault folder away and run `cairn recover` with the recovery phrase"),
        KeyringError::Io(_) => Failure::new(ExitCode::Failed, "KEYRING", text).caused_by(&error),
    }
}

pub(super) fn overlay(error: OverlayError) -> Failure {
    match error {
        OverlayError::NoPeers(_) => Failure::new(ExitCode::TooFewPeers, "NO_PEERS", error.to_string())
            .with_hint("check the network file and that its bootstrap addresses can be reached")
            .retryable(),
        OverlayError::ShuttingDown => {
            Failure::new(ExitCode::Terminated, "SHUTTING_DOWN", error.to_string()).retryable()
        }
    }
}

fn place(error: &PlaceError) -> Failure {
    match error {
        PlaceError::Placement(e @ PlacementError::TooFewPeers { .. }) => {
            Failure::new(ExitCode::TooFewPeers, "TOO_FEW_PEERS", e.to_string()).with_hint(e.advice()).retryable()
        }
        PlaceError::Placement(e @ PlacementError::Policy(_)) => {
            Failure::new(ExitCode::Failed, "POLICY", e.to_string()).with_hint(e.advice())
        }
        PlaceError::Leaning { error: e, .. } => {
            let hint = format!("{}, or name another provider of fallback storage in `[[fallback]]`", e.advice());
            Failure::new(ExitCode::TooFewPeers, "TOO_FEW_PEERS", error.to_string()).with_hint(hint).retryable()
        }
        other => bug("PLACEMENT", other),
    }
}

pub(super) fn store(error: &StoreError) -> Failure {
    match error {
        StoreError::Place(e) => place(e),
        StoreError::Catalogue(e) => catalogue(e.clone()),
        StoreError::NotAcknowledged { last, .. } => {
            let full = matches!(last, TransferError::Refused { code: RefusalCode::NoSpace, .. });
            let (code, id) = match full {
                true => (ExitCode::NoSpace, "NO_SPACE"),
                false => (ExitCode::TooFewPeers, "TOO_FEW_PEERS"),
            };
            Failure::new(code, id, error.to_string())
                .with_hint("what was acknowledged is kept; run the backup again when more peers are there")
                .retryable()
        }
        StoreError::ShuttingDown => overlay(OverlayError::ShuttingDown),
        other => bug("STORE", other),
    }
}

fn ingest(error: &IngestError) -> Failure {
    match error {
        IngestError::Stopped => interrupted(),
        IngestError::Catalogue(e) => catalogue(e.clone()),
        other => bug("PACK", other),
    }
}

pub(super) fn source(error: &SourceError, cancel: &CancellationToken) -> Failure {
    match error {
        _ if cancel.is_cancelled() => interrupted(),
        SourceError::Ingest(e) => ingest(e),
        SourceError::Stream(_) => {
            Failure::new(ExitCode::StreamCommand, "STREAM_FAILED", error.to_string()).with_hint("no snapshot was made")
        }
        SourceError::Walk(_) | SourceError::Name(_) => Failure::new(ExitCode::Usage, "USAGE", error.to_string()),
    }
}

pub(super) fn commit(error: &CommitError) -> Failure {
    match error {
        CommitError::Store(e) => store(e),
        CommitError::Ingest(e) => ingest(e),
        CommitError::Catalogue(e) => catalogue(e.clone()),
        CommitError::Overlay(e) => overlay(e.clone()),
        CommitError::HeadNotKept => Failure::new(ExitCode::TooFewPeers, "HEAD_NOT_KEPT", error.to_string())
            .with_hint("the data is stored and will not be sent again; run the backup again")
            .retryable(),
        other => bug("COMMIT", other),
    }
}

pub(super) fn read(error: &ReadError) -> Failure {
    match error {
        ReadError::Lost { .. } => Failure::new(ExitCode::Lost, "LOST", error.to_string())
            .with_hint("it may come back with the peers that hold it; `cairn check` tells what else is affected")
            .retryable(),
        ReadError::Catalogue(e) => catalogue(e.clone()),
        other => Failure::new(ExitCode::Failed, "READ", other.to_string())
            .with_hint("`cairn recover` rebuilds the catalogue; if it persists, this snapshot is damaged"),
    }
}
