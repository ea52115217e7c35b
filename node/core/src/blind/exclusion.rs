//! Exclusion runs: rebuilds that leave some survivors out in turn, until one has the right root.
//!
//! With s survivors of whom a rebuild needs k, each run leaves s - k out, and ceil(s / (s - k)) runs leave everybody out once:
//! 4 for the seven survivors of 5+3. If one survivor lies, the run without it succeeds.

use std::collections::BTreeSet;

use cairn_proto::Slot;

/// Nobody can be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{survivors} survivors of whom a rebuild needs {needed}: nobody can be left out to find who lies")]
pub struct TooFewToExclude {
    /// Different slots at hand.
    pub survivors: usize,
    /// Helpers of a rebuild.
    pub needed: usize,
}

/// The helper sets of the runs, each with `needed` helpers in the order of `survivors` (virtual slots are no survivors, and
/// `needed` does not count them). Run them one after the other until one succeeds, each in a session of its own.
///
/// # Errors
/// [`TooFewToExclude`].
pub fn exclusion_runs(survivors: &[Slot], needed: usize) -> Result<Vec<Vec<Slot>>, TooFewToExclude> {
    let mut all: Vec<Slot> = Vec::with_capacity(survivors.len());
    for slot in survivors {
        if !all.contains(slot) {
            all.push(*slot);
        }
    }
    let spare = all.len().saturating_sub(needed);
    if needed == 0 || spare == 0 {
        return Err(TooFewToExclude { survivors: all.len(), needed });
    }
    let runs = all.chunks(spare).map(|chunk| {
        // The last may be short: then it leaves out some of the first once more.
        let again = all.iter().take(spare - chunk.len());
        let out: BTreeSet<&Slot> = chunk.iter().chain(again).collect();
        all.iter().filter(|slot| !out.contains(slot)).copied().collect()
    });
    Ok(runs.collect())
}

/// A run that is over: the root was right, or wrong. Runs that broke off for other reasons say nothing and are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Who helped.
    pub helpers: Vec<Slot>,
    /// Whether the root was right.
    pub succeeded: bool,
}

/// Whom the runs point at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Blame {
    /// No run failed.
    Nobody,
    /// One of these, if one helper lies whenever it helps.
    OneOf(BTreeSet<Slot>),
    /// No single helper explains it: there are several, one that does not always lie, or the new holder says that right
    /// bytes are wrong.
    NotOneHelper,
}

/// Who was in every run that failed and in none that succeeded.
///
/// Who lies in some runs only can make it point at somebody else: suspicion, not proof (TRUST-1).
#[must_use]
pub fn blame(runs: &[Run]) -> Blame {
    let mut failed = runs.iter().filter(|run| !run.succeeded);
    let Some(first) = failed.next() else {
        return Blame::Nobody;
    };
    let mut suspects: BTreeSet<Slot> = first.helpers.iter().copied().collect();
    failed.for_each(|run| suspects.retain(|slot| run.helpers.contains(slot)));
    runs.iter().filter(|run| run.succeeded).for_each(|run| suspects.retain(|slot| !run.helpers.contains(slot)));
    if suspects.is_empty() { Blame::NotOneHelper } else { Blame::OneOf(suspects) }
}

/// One more run, with half of the suspects and for the rest survivors above suspicion: whether it succeeds says which half
/// it is. `None` when there is one suspect only, or too few others.
#[must_use]
pub fn separating_run(survivors: &[Slot], suspects: &BTreeSet<Slot>, needed: usize) -> Option<Vec<Slot>> {
    let half = (suspects.len() / 2).min(needed);
    if half == 0 {
        return None;
    }
    let others: BTreeSet<Slot> = survivors.iter().copied().filter(|slot| !suspects.contains(slot)).collect();
    let run: Vec<Slot> = suspects.iter().take(half).chain(others.iter().take(needed - half)).copied().collect();
    (run.len() == needed).then_some(run)
}
