//! The third party: has holders show by tokens that they keep shards, without a vault, without a key of its owner, without a byte.
//!
//! Each token is good for one question: the holder that answered may keep the answer and drop the shard. Which were used stands in
//! `FILE.used` beside the file, a line each, the first eight bytes of BLAKE3 of the token's nonce in hex; it is written before the
//! holder is asked, so a crash burns a token rather than have it asked twice.

use std::{
    collections::BTreeSet,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use cairn_core::{
    audit::{
        Outcome as Judged,
        token_file::{Prepared, TOKEN_FILE_MAX, TOKENS_MAX, TokenFile},
        verify_digest,
    },
    reputation::Observed,
};
use cairn_proto::audit::Way;
use futures::StreamExt as _;
use serde_json::json;
use tokio::sync::mpsc;

use super::odds;
use crate::{
    failure::{ExitCode, Failure},
    ops::{AuditTokenArgs, Event, Outcome, Progress, VerbResult, decode_path},
    overlay::{Overlay, OverlayError, ShardChallenge, TransferError},
    standing::ports::Witness,
};

/// Tokens that are marked as used and then asked with, before the next: what an interruption may burn.
const AT_ONCE: usize = 16;
/// Bytes of a line of `FILE.used`.
const LINE: usize = 17;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Came {
    Right,
    Missing,
    Mismatch,
    Silent,
}

/// Uses tokens of a file.
///
/// # Errors
/// The file cannot be used, or all of its tokens were.
pub async fn audit(
    overlay: Arc<dyn Overlay>,
    witness: Option<Arc<dyn Witness>>,
    args: AuditTokenArgs,
    events: &mpsc::Sender<Event>,
) -> VerbResult {
    let started = Instant::now();
    let path = decode_path(&args.file);
    let there = path.clone();
    let (file, used) = blocking(move || Ok((read(&there)?, Used::open(&there)?))).await?;
    let total = file.tokens.len();
    let fresh: Vec<Prepared> = file.tokens.into_iter().filter(|p| !used.known.contains(&name(p))).collect();
    let used_before = total - fresh.len();
    let most = args.samples.map_or(usize::MAX, |n| n as usize);
    if fresh.is_empty() || most == 0 {
        let text = match most {
            0 => "no samples show nothing; ask for at least one".to_owned(),
            _ => format!("all {total} tokens of {} were used", path.display()),
        };
        return Err(Failure::new(ExitCode::Refused, "TOKENS_USED", text)
            .with_hint("whoever has the vault makes new ones with `cairn audit --make-token`"));
    }
    let left = fresh.len().saturating_sub(most);
    let mut fresh = fresh;
    fresh.truncate(most);
    let (planned, mut counts, mut done) = (fresh.len(), [0u64; 4], 0usize);
    let mut used = used;
    for batch in fresh.chunks(AT_ONCE) {
        let names: Vec<String> = batch.iter().map(name).collect();
        used = blocking(move || {
            used.mark(&names)?;
            Ok(used)
        })
        .await?;
        let questions = batch.iter().map(|prepared| ask(&overlay, witness.as_ref(), prepared)).collect::<Vec<_>>();
        let mut answers = futures::stream::iter(questions).buffer_unordered(AT_ONCE);
        while let Some(came) = answers.next().await {
            let (prepared, came) = came?;
            counts[came as usize] += 1;
            done += 1;
            if came != Came::Right {
                let (group, slot) = (prepared.ticket.id(), prepared.slot.index());
                let what = match came {
                    Came::Right | Came::Missing => "missing",
                    Came::Mismatch => "wrong",
                    Came::Silent => "silent",
                };
                let row = json!({
                    "group": group, "slot": slot, "ordinal": prepared.ordinal, "found": what, "holders": prepared.holders,
                });
                let _ = events.send(Event::Row { kind: "token".to_owned(), row }).await;
            }
            let progress = Progress {
                phase: "audit".to_owned(),
                percent_done: Some(done as f64 / planned as f64),
                elapsed_ms: started.elapsed().as_millis() as u64,
                ..Progress::default()
            };
            let _ = events.try_send(Event::Status(progress));
        }
    }
    let [right, missing, mismatch, silent] = counts;
    let answered = right + missing + mismatch;
    let summary = json!({
        "tokens": planned,
        "right": right,
        "missing": missing,
        "mismatch": mismatch,
        "silent": silent,
        "used_before": used_before,
        "left": left,
        "made": file.made,
        "shards": file.shards,
        "confidence": odds::CONFIDENCE,
        "found_share": (answered > 0).then(|| odds::found_share(file.shards, answered)),
        "total_duration": started.elapsed().as_secs_f64(),
    });
    let _ = events.send(Event::Summary { verb: "audit-token".to_owned(), summary }).await;
    let code = match () {
        () if missing + mismatch > 0 => ExitCode::Damage,
        () if silent > 0 => ExitCode::BelowTarget,
        () => ExitCode::Success,
    };
    Ok(Outcome { code })
}

/// Asks the holders of a token one after the other until one is right; else what the most telling of them said.
async fn ask<'a>(
    overlay: &Arc<dyn Overlay>,
    witness: Option<&Arc<dyn Witness>>,
    prepared: &'a Prepared,
) -> Result<(&'a Prepared, Came), Failure> {
    let Prepared { ticket, slot, ordinal, root, holders, token } = prepared;
    let mut worst = Came::Silent;
    for holder in holders {
        let about = ShardChallenge {
            ticket: *ticket,
            access: None,
            slot: *slot,
            ordinal: *ordinal,
            root: *root,
            nonce: token.nonce,
            way: Way::Digest,
            leaves: token.leaves,
            previous: None,
        };
        let judged = match overlay.challenge(*holder, about).await {
            Ok(got) => verify_digest(&got.challenge, &got.answer, token, root).ok(),
            Err(TransferError::ShuttingDown) => {
                let error = OverlayError::ShuttingDown;
                return Err(
                    Failure::new(ExitCode::Failed, "SHUTTING_DOWN", "this node is going down").caused_by(&error)
                );
            }
            Err(error) => {
                tracing::debug!(peer = %holder.short(), %error, "a token was not answered");
                None
            }
        };
        let (came, seen) = match judged {
            Some(Judged::Good) => (Came::Right, Observed::Good),
            Some(Judged::NotHere(_)) => (Came::Missing, Observed::NotHere),
            // The holder need not be wrong: whoever made the token may be.
            Some(Judged::Mismatch | Judged::Wrong(_)) => (Came::Mismatch, Observed::Alive),
            None => (Came::Silent, Observed::Silent),
        };
        if let Some(witness) = witness {
            witness.saw(*holder, seen);
        }
        match came {
            Came::Right => return Ok((prepared, came)),
            Came::Silent => {}
            Came::Missing | Came::Mismatch if worst != Came::Mismatch => worst = came,
            Came::Missing | Came::Mismatch => {}
        }
    }
    Ok((prepared, worst))
}

/// What a token goes by.
fn name(prepared: &Prepared) -> String {
    let hash = blake3::hash(&prepared.token.nonce);
    hash.to_hex()[..LINE - 1].to_owned()
}

fn read(path: &Path) -> Result<TokenFile, Failure> {
    let failed = |e: &(dyn std::error::Error + 'static)| {
        Failure::new(ExitCode::Failed, "TOKEN_FILE", format!("cannot use {}", path.display())).caused_by(e)
    };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|e| failed(&e))?;
    file.take(TOKEN_FILE_MAX as u64 + 1).read_to_end(&mut bytes).map_err(|e| failed(&e))?;
    TokenFile::decode(&bytes).map_err(|e| failed(&e))
}

/// `FILE.used`.
struct Used {
    path: PathBuf,
    known: BTreeSet<String>,
    file: std::fs::File,
}

impl Used {
    /// Reads it, made when missing. A line that a crash cut short counts as none: nobody was asked before it was whole.
    fn open(tokens: &Path) -> Result<Self, Failure> {
        let mut path = tokens.as_os_str().to_owned();
        path.push(".used");
        let path = PathBuf::from(path);
        let open = || -> io::Result<_> {
            let mut file = std::fs::OpenOptions::new().read(true).append(true).create(true).open(&path)?;
            // Two runs of one file would ask with the same tokens.
            file.try_lock().map_err(io::Error::from)?;
            let mut bytes = Vec::new();
            (&mut file).take((TOKENS_MAX * LINE * 2) as u64).read_to_end(&mut bytes)?;
            let torn = bytes.last().is_some_and(|byte| *byte != b'\n');
            if torn {
                file.write_all(b"\n")?;
            }
            let text = String::from_utf8_lossy(&bytes);
            Ok((text.lines().map(str::to_owned).collect(), file))
        };
        let (known, file) = open().map_err(|e| cannot_mark(&path, &e))?;
        Ok(Self { path, known, file })
    }

    fn mark(&mut self, names: &[String]) -> Result<(), Failure> {
        let lines: String = names.iter().map(|name| format!("{name}\n")).collect();
        let written = self.file.write_all(lines.as_bytes()).and_then(|()| self.file.sync_data());
        written.map_err(|e| cannot_mark(&self.path, &e))?;
        self.known.extend(names.iter().cloned());
        Ok(())
    }
}

fn cannot_mark(path: &Path, error: &io::Error) -> Failure {
    Failure::new(
        ExitCode::Failed,
        "TOKENS_NOT_MARKED",
        format!("cannot note which tokens were used in {}", path.display()),
    )
    .caused_by(error)
    .with_hint("a token that was used twice shows nothing, so nobody was asked")
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Failure> + Send + 'static) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| Failure::new(ExitCode::Failed, "WORKER", "a worker thread died").caused_by(&e))?
}
