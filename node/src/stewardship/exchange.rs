//! What goes into a steward's round, and what comes out of it.

use std::collections::{BTreeMap, BTreeSet};

use cairn_core::{
    durability::repairs::RepairTimes,
    part::Credentials,
    steward::{
        GroupReport, PlannedRepair, Say, Stuck, Suspicion, TokenAnswer, TokenQuestion,
        wire::{Answer, Duty, Request},
    },
};
use cairn_proto::{GroupId, Ordinals, PeerKey, Slot, Timestamp, order::OrderId};
use tokio::sync::oneshot;

use super::{
    ports::WatchPass,
    probes::{Holding, Silence},
    report::Weather,
};

/// What comes in.
pub(super) enum Input {
    /// A peer asks or says something; never [`Request::Give`].
    Asked { from: PeerKey, request: Request, answer: oneshot::Sender<Answer> },
    /// A sign of life.
    Heard { peer: PeerKey, at: Timestamp },
    /// A holder said what it has.
    Reported { holder: PeerKey, group: GroupId, slot: Slot, has: Ordinals },
    /// Who is watched, to plan probes by, up to so many holders who are to be asked what they have, so many auditors to be given
    /// duties, and so many questions with tokens; also the time to try again what could not be written.
    Survey { ask: usize, duties: usize, tokens: usize },
    /// What came of a question with a token.
    Token { holding: Holding, answer: TokenAnswer },
    /// An auditor that was drawn would not do it.
    Declined { auditor: PeerKey, holding: Holding },
    /// An order of ours could not be brought to its new holder, or that said no.
    Undelivered { group: GroupId, order: OrderId, said_no: bool },
    /// Who is proved to have lied: all of them.
    Convicted(BTreeSet<PeerKey>),
    /// Write down what is believed of peers.
    Save,
    /// How the groups stand.
    Report(oneshot::Sender<Vec<GroupReport>>),
    /// The same, with what cannot be repaired now.
    Stand(oneshot::Sender<Vec<(GroupReport, Vec<Stuck>)>>),
    /// How long repairs took.
    Repairs(oneshot::Sender<RepairTimes>),
    /// What is held against a peer for wrong bytes.
    Suspicion(PeerKey, oneshot::Sender<Option<Suspicion>>),
    /// What would be ordered.
    Plan(oneshot::Sender<Plans>),
}

/// What goes on around us, and each group with what would be ordered for it.
pub(super) type Plans = (Weather, Vec<(GroupReport, Vec<PlannedRepair>, Vec<Stuck>)>);

/// An order for a new holder, with all that it takes.
pub(super) struct Give {
    pub(super) to: PeerKey,
    pub(super) credentials: Box<Credentials>,
    pub(super) sheet: Vec<u8>,
    pub(super) previous: [u8; 32],
}

/// Everybody who is watched.
pub(super) type Watched = BTreeMap<PeerKey, Silence>;

/// What a round leads to.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) tell: Vec<(PeerKey, Say)>,
    pub(super) give: Vec<Give>,
    pub(super) watched: Option<Watched>,
    /// Holders to be asked now what they have.
    pub(super) ask: Vec<(Holding, WatchPass)>,
    /// Auditors to be given duties.
    pub(super) duties: Vec<(PeerKey, Duty)>,
    /// Peers of whom several new holders say that they sent wrong bytes.
    pub(super) suspected: Vec<PeerKey>,
    /// Holders to be asked with tokens.
    pub(super) tokens: Vec<TokenQuestion>,
    /// Whether we may be cut off ourselves.
    pub(super) cut_off: bool,
    /// When there is something to do next.
    pub(super) next: Option<Timestamp>,
}
