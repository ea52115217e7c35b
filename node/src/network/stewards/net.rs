//! What stewardship and vaults see of the stewards' protocol, and of shards that are opened by a pass.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use cairn_core::{
    part::{Credentials, Pass},
    peer_view::{PeerView, PerMille},
    steward::{
        Say,
        wire::{Answer, GroupMap, Questioned, Refusal, Request},
    },
};
use cairn_proto::{
    Domain, GroupId, Mandate, Ordinals, PeerKey, Rights, Slot, Timestamp, audit::Response, message::ControlRequest,
    wire::RefusalCode,
};
use futures::{FutureExt as _, future::BoxFuture};
use tokio::time::Instant;

use crate::{
    audits::answer::Domains,
    network::{NetworkHandle, clock, command::Command, transfer::client::grant},
    overlay::{Challenged, GroupAccess, ShardChallenge, StewardError, TransferError},
    standing::ports::Witness,
    stewardship::ports::{StewardNet, WatchPass},
};

/// First and longest wait between two questions to a busy steward.
const BUSY_WAIT: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

impl StewardNet for NetworkHandle {
    fn me(&self) -> PeerKey {
        self.inner.me
    }

    fn witness(&self) -> Option<&dyn Witness> {
        Some(&self.inner.standings)
    }

    fn convicted(&self) -> Vec<PeerKey> {
        self.inner.standings.convicted()
    }

    fn quota(&self, peer: &PeerKey, since: Timestamp) -> PerMille {
        self.inner.standings.quota(peer, since)
    }

    fn peers(&self) -> BoxFuture<'_, Vec<PeerView>> {
        async move { self.ask(|reply| Command::Peers { reply }).await.unwrap_or_default() }.boxed()
    }

    /// A control question about nothing: no byte of body either way, and no stream when the peer is not connected and cannot be.
    fn probe(&self, peer: PeerKey) -> BoxFuture<'_, Result<(), TransferError>> {
        async move {
            let request = ControlRequest::default();
            let asked = self.ask(|reply| Command::Ask { peer, addresses: Vec::new(), request, reply }).await;
            let answered = asked.map_err(|_| TransferError::ShuttingDown)?;
            answered.map(|_| ()).map_err(|error| TransferError::Unreachable(error.to_string()))
        }
        .boxed()
    }

    fn request(&self, to: PeerKey, request: Request) -> BoxFuture<'_, Result<Answer, TransferError>> {
        async move { self.inner.stewards.ask(to, &request).await }.boxed()
    }

    fn holding(&self, at: PeerKey, pass: WatchPass, slot: Slot) -> BoxFuture<'_, Result<Ordinals, TransferError>> {
        async move {
            if self.inner.standings.is_convicted(&at) {
                // Whatever it says that it has.
                return Err(TransferError::Unreachable("it is proved to have lied".into()));
            }
            let unfit = |_| TransferError::Refused { code: RefusalCode::BadRequest, retry_after_ms: 0 };
            let group = Mandate::open(&pass.mandate).map_err(unfit)?.ticket.id();
            let shown = Pass::encode(&pass.mandate, &pass.changes).map_err(unfit)?;
            let held = self.inner.client.watched(at, group, Bytes::from(shown), slot).await?;
            Ok(Ordinals::from_bytes(held))
        }
        .boxed()
    }

    fn ready(&self) -> BoxFuture<'_, ()> {
        async move {
            if let Some(courtesy) = &self.inner.courtesy {
                courtesy.resumed().await;
            }
        }
        .boxed()
    }

    fn fetch(
        &self,
        from: PeerKey,
        credentials: Arc<Credentials>,
        ordinal: u8,
    ) -> BoxFuture<'_, Result<Bytes, TransferError>> {
        async move { self.inner.client.fetch(from, &credentials, ordinal).await }.boxed()
    }
}

impl Domains for NetworkHandle {
    fn pinned(&self, peer: PeerKey) -> BoxFuture<'_, Option<Domain>> {
        async move { self.ask(|reply| Command::PinnedDomain { peer, reply }).await.ok().flatten() }.boxed()
    }
}

impl NetworkHandle {
    /// Leaves a group's record to a steward.
    pub(in crate::network) async fn register_at(&self, steward: PeerKey, record: Vec<u8>) -> Result<(), StewardError> {
        match self.ask_patiently(steward, Request::Register { record }).await? {
            Answer::Done => Ok(()),
            answer => Err(unexpected(answer)),
        }
    }

    /// Leaves tokens to a steward.
    pub(in crate::network) async fn leave_tokens_at(
        &self,
        steward: PeerKey,
        group: GroupId,
        own: Vec<u8>,
        spare: Option<Vec<u8>>,
    ) -> Result<(), StewardError> {
        let say = Say::Tokens { group, own: Some(own), spare };
        match self.ask_patiently(steward, Request::Say(Box::new(say))).await? {
            Answer::Done => Ok(()),
            answer => Err(unexpected(answer)),
        }
    }

    /// Asks a steward what it knows of a group of ours.
    pub(in crate::network) async fn ask_steward(
        &self,
        steward: PeerKey,
        group: Arc<GroupAccess>,
    ) -> Result<Box<GroupMap>, StewardError> {
        let grant = grant(&group, steward, self.inner.me, Rights::GET, clock());
        match self.ask_patiently(steward, Request::Ask { ticket: group.ticket, grant }).await? {
            Answer::Map(map) => Ok(map),
            answer => Err(unexpected(answer)),
        }
    }

    /// Has a holder show what it has of a shard.
    pub(in crate::network) async fn challenge_at(
        &self,
        at: PeerKey,
        about: ShardChallenge,
    ) -> Result<Challenged, TransferError> {
        let now = clock();
        let challenge = about.seal(at, &self.inner.key, now);
        let grant = about.access.as_ref().map(|access| grant(access, at, self.inner.me, Rights::GET, now));
        let questioned = Questioned { ticket: about.ticket, grant, challenge: challenge.clone() };
        match self.ask_patiently(at, Request::Challenge(Box::new(questioned))).await? {
            Answer::Audit(response) => {
                let read = Response::read(&response).map_err(|error| TransferError::Misbehaved(error.to_string()));
                read.map(|(answer, slices)| Challenged { challenge, answer, slices })
            }
            Answer::Refused(why) => {
                let code = match why {
                    Refusal::Busy => RefusalCode::Busy,
                    Refusal::NotSteward => RefusalCode::NotStorage,
                    Refusal::Old | Refusal::Forged | Refusal::Full => RefusalCode::NotAuthorised,
                };
                Err(TransferError::Refused { code, retry_after_ms: 0 })
            }
            Answer::Done | Answer::Map(_) | Answer::Kept(_) => {
                Err(TransferError::Misbehaved("the answer to something else".into()))
            }
        }
    }

    /// Asks, and again while the steward is busy, within patience.
    async fn ask_patiently(&self, to: PeerKey, request: Request) -> Result<Answer, TransferError> {
        let give_up = Instant::now() + self.inner.stewards.patience().busy;
        let mut pause = BUSY_WAIT.0;
        loop {
            let answer = self.inner.stewards.ask(to, &request).await?;
            if answer != Answer::Refused(Refusal::Busy) || Instant::now() + pause > give_up {
                return Ok(answer);
            }
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(BUSY_WAIT.1);
        }
    }
}

fn unexpected(answer: Answer) -> StewardError {
    match answer {
        Answer::Refused(why) => StewardError::Refused(why),
        Answer::Done => TransferError::Misbehaved("done, where a map was asked for".into()).into(),
        Answer::Map(_) => TransferError::Misbehaved("a map that nobody asked for".into()).into(),
        Answer::Audit(_) | Answer::Kept(_) => TransferError::Misbehaved("the answer to something else".into()).into(),
    }
}
