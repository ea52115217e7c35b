//! What comes in on the stewards' protocol, each kind to whom it is for.

use std::sync::OnceLock;

use cairn_core::steward::wire::{Answer, Refusal, Request};
use cairn_proto::PeerKey;
use futures::{FutureExt as _, future::BoxFuture};

use crate::{
    audits::answer::Answerer,
    stewardship::{Stewardship, ports::StewardService},
};

/// The network has it before those behind it run; until then they are busy.
pub(super) struct Front {
    stewardship: Stewardship,
    answerer: OnceLock<Answerer>,
}

impl Front {
    pub(super) fn new(stewardship: Stewardship) -> Self {
        Self { stewardship, answerer: OnceLock::new() }
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
            request => self.stewardship.handle(from, request),
        }
    }
}
