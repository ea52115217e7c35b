//! What comes in on the stewards' protocol, each kind to whom it is for.

use std::sync::{Arc, OnceLock};

use cairn_core::steward::wire::{Answer, Findings, Refusal, Request};
use cairn_proto::{PeerKey, audit::Evidence};
use futures::{FutureExt as _, future::BoxFuture};

use crate::{
    audits::{answer::Answerer, auditor::Auditor},
    standing::ports::Witness,
    stewardship::{Stewardship, ports::StewardService},
};

/// The network has it before those behind it run; until then they are busy.
pub(super) struct Front {
    stewardship: Stewardship,
    answerer: OnceLock<Answerer>,
    auditor: Auditor,
    witness: OnceLock<Arc<dyn Witness>>,
}

impl Front {
    pub(super) fn new(stewardship: Stewardship, auditor: Auditor) -> Self {
        Self { stewardship, answerer: OnceLock::new(), auditor, witness: OnceLock::new() }
    }

    /// From now on proofs that auditors bring are passed on. Once.
    pub(super) fn tells(&self, witness: Arc<dyn Witness>) {
        let _ = self.witness.set(witness);
    }

    /// What an auditor of ours found; a proof convicts at everybody, not only here.
    fn findings(&self, from: PeerKey, findings: Box<Findings>) -> BoxFuture<'_, Answer> {
        let proof = findings.proof.clone();
        async move {
            let answer = self.stewardship.handle(from, Request::Findings(findings)).await;
            // One that we drew: strangers have us check nothing.
            if let (Answer::Done, Some(proof), Some(witness)) = (&answer, proof, self.witness.get())
                && let Ok(evidence) = Evidence::decode(&proof)
            {
                witness.learned(evidence);
            }
            answer
        }
        .boxed()
    }

    /// From now on challenges are answered. Once: a second call does nothing.
    pub(super) fn answers(&self, answerer: Answerer) {
        let _ = self.answerer.set(answerer);
    }
}

impl StewardService for Front {
    fn handle(&self, from: PeerKey, request: Request) -> BoxFuture<'_, Answer> {
        match request {
            Request::Challenge(questioned) => match self.answerer.get() {
                Some(answerer) => answerer.answer(from, *questioned),
                None => std::future::ready(Answer::Refused(Refusal::Busy)).boxed(),
            },
            Request::Duty(duty) => std::future::ready(self.auditor.duty(from, &duty)).boxed(),
            Request::Findings(findings) => self.findings(from, findings),
            request => self.stewardship.handle(from, request),
        }
    }
}
