//! Do the holders still have what they were given? Random leaves of shards at each of them, checked by the roots that the owner knows.
//!
//! A challenge moves some 7 KiB and not a shard, so much more can be asked for than could be read. A holder that hashes what it has
//! finds damage anywhere in a shard and admits it; from one that does not, the leaves show what a lie would have to be lucky for. What
//! a sample tells is said with it ([`odds`](crate::audits)). Changes nothing: the next check and backup act on what they find themselves.
//!
//! - **TRUST-1** A wrong answer is kept as the holder signed it and proves itself to everybody. Attacked by `tests::audits`.

mod targets;
mod tokens;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use cairn_core::{
    audit::{Outcome as Judged, verify},
    reputation::Observed,
};
use cairn_proto::{
    PeerKey, StatementId,
    audit::{Answer, Evidence, SLICES_DEFAULT, Way},
};
use futures::StreamExt as _;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng as _, SeedableRng as _};
use serde_json::json;
use tokio::sync::mpsc;

use super::{Vault, failures, reader::Reader};
use crate::{
    audits::odds,
    failure::{ExitCode, Failure},
    ops::{AuditArgs, Event, Outcome, Progress, VerbResult},
    overlay::{Overlay, OverlayError, ShardChallenge, TransferError},
    standing::ports::Witness,
};
use targets::{Beat, Target};

pub(super) use tokens::make_token;

/// Shards asked for at each holder when nobody says how many: of one that dropped 14 in a hundred, one is found missing with 95 %.
const SAMPLES: u32 = 20;
/// Holders asked at once, and questions to each: a holder serves four of one peer.
const HOLDERS: usize = 16;
const QUESTIONS: usize = 2;
/// A holder that answered nothing so often is away, and is not asked for the rest.
const AWAY_AFTER: u64 = 2;

/// How the audits of one holder went.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    right: u64,
    missing: u64,
    wrong: u64,
    silent: u64,
}

impl Tally {
    const fn answered(&self) -> u64 {
        self.right + self.missing + self.wrong
    }
}

/// What one challenge came to.
enum Came {
    Right,
    Missing,
    Wrong(Evidence),
    Silent,
}

/// What an audit works with.
struct Auditor<'a> {
    overlay: &'a Arc<dyn Overlay>,
    witness: Option<&'a Arc<dyn Witness>>,
    rng: Mutex<ChaCha20Rng>,
    /// Where proofs are kept.
    folder: PathBuf,
    events: &'a mpsc::Sender<Event>,
    started: Instant,
    planned: u64,
    done: AtomicU64,
}

/// Fresh random bytes, or why there are none.
fn random() -> Result<ChaCha20Rng, Failure> {
    let mut seed = [0u8; 32];
    getrandom::fill(&mut seed).map_err(|e| Failure::new(ExitCode::Failed, "RANDOM", e.to_string()))?;
    Ok(ChaCha20Rng::from_seed(seed))
}

/// Runs an audit. `dir`: the data folder.
pub(super) async fn audit(
    vault: &Vault,
    overlay: Arc<dyn Overlay>,
    witness: Option<Arc<dyn Witness>>,
    dir: &Path,
    args: AuditArgs,
    events: &mpsc::Sender<Event>,
) -> VerbResult {
    let started = Instant::now();
    let samples = match (args.full_slots, args.samples.unwrap_or(SAMPLES)) {
        (true, _) => u64::MAX,
        (false, 0) => {
            return Err(Failure::new(ExitCode::Usage, "USAGE", "no samples show nothing; ask for at least one"));
        }
        (false, samples) => samples.into(),
    };
    let reader = Reader::new(vault.keys.clone(), overlay.clone(), Some(vault.catalogue.clone()));
    let mut rng = random()?;
    let chosen = targets::choose(vault, &reader, &overlay, args.snapshot.as_deref(), args.all, events).await?;
    let beats = chosen.beats(vault, samples, &mut rng)?;
    let auditor = Auditor {
        overlay: &overlay,
        witness: witness.as_ref(),
        rng: Mutex::new(rng),
        folder: dir.join("evidence"),
        events,
        started,
        planned: beats.by_holder.values().map(|beat| beat.chosen.len() as u64).sum(),
        done: AtomicU64::new(0),
    };
    let (mut all, mut shares, mut proofs) = (Tally::default(), Vec::new(), 0u64);
    let (holders, asked_shards) = (beats.by_holder.len(), beats.asked_shards());
    let mut answering = 0u64;
    let asking = beats.by_holder.into_iter().map(|(holder, beat)| auditor.ask(holder, beat)).collect::<Vec<_>>();
    let mut asking = futures::stream::iter(asking).buffer_unordered(HOLDERS);
    while let Some(ended) = asking.next().await {
        let (holder, shards, tally, evidence) = ended?;
        for (id, path) in &evidence {
            proofs += 1;
            let text = format!("{} answered wrongly; the proof is kept in {}", holder.short(), path.display());
            let _ = events.send(Event::Notice { id: "WRONG_ANSWER".to_owned(), text }).await;
            tracing::warn!(evidence = %id, "a holder answered an audit wrongly");
        }
        let share = odds::found_share(shards, tally.answered());
        if tally.answered() > 0 {
            answering += 1;
            shares.push(share);
        }
        let row = json!({
            "peer": holder, "fallback": overlay.fallback_of(&holder), "shards": shards, "right": tally.right, "missing": tally.missing,
            "wrong": tally.wrong, "silent": tally.silent, "found_share": share,
        });
        let _ = events.send(Event::Row { kind: "audited_holder".to_owned(), row }).await;
        all.right += tally.right;
        all.missing += tally.missing;
        all.wrong += tally.wrong;
        all.silent += tally.silent;
    }
    drop(asking);
    if answering == 0 && holders > 0 {
        let text = "nobody answered: this machine may be cut off itself".to_owned();
        let _ = events.send(Event::Notice { id: "NOBODY_ANSWERED".to_owned(), text }).await;
    }
    let summary = json!({
        "snapshot": chosen.snapshot,
        "stripes": chosen.stripes,
        "unread": chosen.unread,
        "holders": holders,
        "holders_answering": answering,
        "shards": beats.shards,
        "asked_shards": asked_shards,
        "shards_without_holder": beats.without_holder,
        "right": all.right,
        "missing": all.missing,
        "wrong": all.wrong,
        "silent": all.silent,
        "confidence": odds::CONFIDENCE,
        "found_share": shares.iter().copied().reduce(f64::max),
        "evidence": proofs,
        "total_duration": started.elapsed().as_secs_f64(),
    });
    let _ = events.send(Event::Summary { verb: "audit".to_owned(), summary }).await;
    let code = match () {
        () if all.missing + all.wrong + beats.without_holder > 0 => ExitCode::Damage,
        () if all.silent + chosen.unread > 0 => ExitCode::BelowTarget,
        () => ExitCode::Success,
    };
    Ok(Outcome { code })
}

/// A holder, of how many shards its sample was, how it went, and the proofs that were kept.
type Audited = (PeerKey, u64, Tally, Vec<(StatementId, PathBuf)>);

impl Auditor<'_> {
    fn progress(&self) {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        let progress = Progress {
            phase: "audit".to_owned(),
            percent_done: Some(done as f64 / self.planned.max(1) as f64),
            elapsed_ms: self.started.elapsed().as_millis() as u64,
            ..Progress::default()
        };
        let _ = self.events.try_send(Event::Status(progress));
    }

    async fn ask(&self, holder: PeerKey, beat: Beat) -> Result<Audited, Failure> {
        let (shards, chosen) = (beat.shards(), beat.chosen);
        let count = chosen.len() as u64;
        let (mut tally, mut kept) = (Tally::default(), Vec::new());
        let previous = Mutex::new(None);
        {
            let questions = futures::stream::iter(chosen).map(|target| self.challenge(holder, target, &previous));
            let mut answers = questions.buffered(QUESTIONS);
            while let Some(came) = answers.next().await {
                self.progress();
                match came? {
                    Came::Right => tally.right += 1,
                    Came::Missing => tally.missing += 1,
                    Came::Silent => tally.silent += 1,
                    Came::Wrong(evidence) => {
                        tally.wrong += 1;
                        kept.push(self.keep(&evidence).await?);
                        if let Some(witness) = self.witness {
                            witness.learned(evidence);
                        }
                    }
                }
                if tally.answered() == 0 && tally.silent >= AWAY_AFTER {
                    break;
                }
            }
        }
        // What was not asked for any more was not answered either.
        tally.silent = count - tally.answered();
        Ok((holder, shards, tally, kept))
    }

    fn nonce(&self) -> [u8; 32] {
        let mut nonce = [0u8; 32];
        self.rng.lock().unwrap_or_else(PoisonError::into_inner).fill_bytes(&mut nonce);
        nonce
    }

    /// Silence is asked again once, with another nonce: a stream that broke is no loss.
    async fn challenge(
        &self,
        holder: PeerKey,
        target: Target,
        previous: &Mutex<Option<StatementId>>,
    ) -> Result<Came, Failure> {
        let mut came = Came::Silent;
        for _ in 0..2 {
            let last = *previous.lock().unwrap_or_else(PoisonError::into_inner);
            came = self.once(holder, &target, last, previous).await?;
            if !matches!(came, Came::Silent) {
                break;
            }
        }
        let seen = match &came {
            Came::Right => Observed::Good,
            Came::Missing => Observed::NotHere,
            Came::Silent => Observed::Silent,
            // Its proof says more.
            Came::Wrong(_) => return Ok(came),
        };
        if let Some(witness) = self.witness.filter(|_| self.overlay.fallback_of(&holder).is_none()) {
            witness.saw(holder, seen);
        }
        Ok(came)
    }

    async fn once(
        &self,
        holder: PeerKey,
        target: &Target,
        last: Option<StatementId>,
        previous: &Mutex<Option<StatementId>>,
    ) -> Result<Came, Failure> {
        let about = ShardChallenge {
            ticket: target.access.ticket,
            access: Some(target.access.clone()),
            slot: target.slot,
            ordinal: target.ordinal,
            root: target.root,
            nonce: self.nonce(),
            way: Way::Slices,
            leaves: SLICES_DEFAULT,
            previous: last,
        };
        let got = match self.overlay.challenge(holder, about).await {
            Ok(got) => got,
            Err(TransferError::ShuttingDown) => return Err(failures::overlay(OverlayError::ShuttingDown)),
            Err(error) => {
                tracing::debug!(peer = %holder.short(), %error, "a challenge was not answered");
                return Ok(Came::Silent);
            }
        };
        match verify(&got.challenge, &got.answer, &got.slices, &target.root) {
            Ok(judged) => {
                *previous.lock().unwrap_or_else(PoisonError::into_inner) = Some(Answer::id(&got.answer));
                Ok(match judged {
                    Judged::Good => Came::Right,
                    Judged::NotHere(_) => Came::Missing,
                    Judged::Wrong(evidence) => Came::Wrong(evidence),
                    Judged::Mismatch => Came::Silent,
                })
            }
            // No answer to this challenge at all: it counts as silence.
            Err(error) => {
                tracing::debug!(peer = %holder.short(), %error, "what came is no answer");
                Ok(Came::Silent)
            }
        }
    }

    /// Keeps a proof as a file, under its own name.
    async fn keep(&self, evidence: &Evidence) -> Result<(StatementId, PathBuf), Failure> {
        let (id, bytes) = (evidence.id(), evidence.encode());
        let (folder, path) = (self.folder.clone(), self.folder.join(format!("{id}.evidence")));
        let there = path.clone();
        let written = tokio::task::spawn_blocking(move || write_new(&folder, &there, &bytes)).await;
        written.map_err(|e| failures::bug("EVIDENCE", &e))?.map_err(|e| cannot_write(&path, &e))?;
        Ok((id, path))
    }
}

/// Writes a file that is whole or not there; one that is there already stays.
fn write_new(folder: &Path, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write as _;
    std::fs::create_dir_all(folder)?;
    let mut file = tempfile::Builder::new().prefix(".cairn-").tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(path) {
        Err(e) if e.error.kind() != std::io::ErrorKind::AlreadyExists => Err(e.error),
        _ => Ok(()),
    }
}

fn cannot_write(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(ExitCode::Failed, "OUTPUT", format!("cannot write {}", path.display())).caused_by(error)
}
