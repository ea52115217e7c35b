//! Opening a group under an order or a mandate: the core's checks, in an order that makes hostile input cheap.
//!
//! What names somebody else is refused before a signature is looked at. The rest may cost some eight hundred signatures (all changes of
//! stewards that there may be, with seven votes each: a fifth of a second on a busy machine; half a millisecond without a change), so
//! it runs in turn with all others of the kind ([`signatures`]), and a stream waits for its own check.

use std::{collections::BTreeSet, time::Duration};

use cairn_core::part::{Credentials, Pass, Unfit, may_serve};
use cairn_proto::{
    Action, Domain, GroupTicket, Ordinals, PeerKey, Slot, Timestamp,
    wire::{FrameKind, RefusalCode},
};
use tokio::sync::{mpsc, oneshot};

use crate::{holdings::Watchers, network::command::Command, signatures};

/// What a pass opens.
#[derive(Clone, Debug)]
pub(super) enum Passed {
    /// These shards, to be read.
    Order { ticket: GroupTicket, slot: Slot, ordinals: Ordinals, until: Timestamp, urgent: bool },
    /// The list of what is there; and who asks for such lists of this group.
    Watch { ticket: GroupTicket, until: Timestamp, watchers: Box<Watchers> },
}

impl Passed {
    pub(super) const fn ticket(&self) -> &GroupTicket {
        match self {
            Self::Order { ticket, .. } | Self::Watch { ticket, .. } => ticket,
        }
    }
}

/// Who checks passes.
pub(super) struct Checks {
    /// To the peer book. Weak: a stream must not keep a node alive that nobody has a handle of.
    commands: mpsc::WeakSender<Command>,
    wait: Duration,
    steward_lost: Duration,
}

impl Checks {
    /// `wait`: for a turn, and then `Busy` is said. `steward_lost`: silence after which a steward's place goes to another.
    pub(super) fn new(commands: mpsc::WeakSender<Command>, wait: Duration, steward_lost: Duration) -> Self {
        Self { commands, wait, steward_lost }
    }

    /// What these bytes open for `bearer` at `me`.
    pub(super) async fn open(
        &self,
        kind: FrameKind,
        bytes: &[u8],
        me: PeerKey,
        bearer: PeerKey,
        now: Timestamp,
    ) -> Result<Passed, RefusalCode> {
        if kind == FrameKind::OpenWatch {
            let pass = Pass::decode(bytes).map_err(|_| RefusalCode::BadRequest)?;
            let heard = self.heard(pass.concerned(), now).await;
            return self.in_turn(move || watch(&pass, &bearer, &heard, now)).await;
        }
        let credentials = Credentials::decode(bytes).map_err(|_| RefusalCode::BadRequest)?;
        let named = match &credentials.certificate.order.action {
            Action::Copy { from, to, .. } => *from == me && *to == bearer,
            _ => false,
        };
        if !named || !credentials.certificate.stands_at(now) {
            return Err(RefusalCode::NotAuthorised);
        }
        let domain = self.pinned_domain(bearer).await.ok_or(RefusalCode::UnknownBearer)?;
        let heard = self.heard(credentials.concerned(), now).await;
        self.in_turn(move || order(&credentials, &me, (&bearer, &domain), (&heard, now))).await
    }

    /// Those of them whom our peer book heard within a day.
    async fn heard(&self, concerned: BTreeSet<PeerKey>, now: Timestamp) -> BTreeSet<PeerKey> {
        let commands = if concerned.is_empty() { None } else { self.commands.upgrade() };
        let Some(commands) = commands else { return BTreeSet::new() };
        let (reply, answer) = oneshot::channel();
        let asked = commands.send(Command::Peers { reply }).await;
        drop(commands);
        let known = if asked.is_ok() { answer.await.unwrap_or_default() } else { Vec::new() };
        let lost_ms = u64::try_from(self.steward_lost.as_millis()).unwrap_or(u64::MAX);
        let lately = known.iter().filter(|view| view.at_work_within(lost_ms, now));
        lately.map(|view| view.peer).filter(|peer| concerned.contains(peer)).collect()
    }

    /// Runs a check when it is its turn.
    async fn in_turn<C>(&self, check: C) -> Result<Passed, RefusalCode>
    where
        C: FnOnce() -> Result<Passed, RefusalCode> + Send + 'static,
    {
        signatures::in_turn(self.wait, check).await.unwrap_or(Err(RefusalCode::Busy))
    }

    /// As our peer book knows it; what the peer says of itself now changes nothing (BOOK-1).
    async fn pinned_domain(&self, peer: PeerKey) -> Option<Domain> {
        let (reply, answer) = oneshot::channel();
        let commands = self.commands.upgrade()?;
        commands.send(Command::PinnedDomain { peer, reply }).await.ok()?;
        drop(commands);
        answer.await.ok()?
    }
}

fn refusal(unfit: &Unfit) -> RefusalCode {
    match unfit {
        Unfit::WrongColour { .. } => RefusalCode::WrongColour,
        _ => RefusalCode::NotAuthorised,
    }
}

fn order(
    credentials: &Credentials,
    me: &PeerKey,
    bearer: (&PeerKey, &Domain),
    at: (&BTreeSet<PeerKey>, Timestamp),
) -> Result<Passed, RefusalCode> {
    let (slot, ordinals) = may_serve(credentials, me, bearer, at).map_err(|unfit| refusal(&unfit))?;
    // It was opened a moment ago, and its ticket is what names the group.
    let ticket = cairn_proto::Mandate::open(&credentials.mandate).map_err(|_| RefusalCode::NotAuthorised)?.ticket;
    let order = &credentials.certificate.order;
    Ok(Passed::Order { ticket, slot, ordinals, until: order.expires, urgent: order.urgent })
}

fn watch(pass: &Pass, bearer: &PeerKey, heard: &BTreeSet<PeerKey>, now: Timestamp) -> Result<Passed, RefusalCode> {
    let (mandate, stewards) = pass.may_watch(bearer, heard, now).map_err(|unfit| refusal(&unfit))?;
    let watchers = Watchers::new(&mandate, stewards, pass.changes.len(), Some((*bearer, now)));
    Ok(Passed::Watch { ticket: mandate.ticket, until: mandate.ends, watchers: Box::new(watchers) })
}
