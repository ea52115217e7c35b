//! A helper's part: checks an invitation alone, agrees on a session, lends its shard to the chain.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;
use cairn_core::{
    blind::{
        Admitted, EphemeralSecret, Helper, SLICE_SIZE, SLICES, Session, SessionId, fingerprint,
        invite::{Asked, Invite, Invited},
        wire::{ANSWER_MAX, Break, Message, Refusal, SESSION_MESSAGE_MAX},
    },
    erasure::Codec,
};
use cairn_proto::{Action, Ordinals, PeerKey, Slot, Timestamp, order::OrderId, wire::Priority};

use super::{
    Pipe, Shared, entropy,
    links::Expected,
    pipe::{self, Incoming, Outgoing, PipeError},
};
use crate::{courtesy::Courtesy, network::clock, signatures};

/// Stripes of orders that a fingerprint was given for and that still stand: sixteen orders of whole groups. A full list gives no more.
const PRINTS_MAX: usize = 4096;

/// For which stripes of which orders a fingerprint was given, and until when the order stands. Each tells 16 bytes of a shard to the
/// new holder, so one order brings one. Not on disk: a restart within an order's two days gives 16 bytes more.
#[derive(Default)]
pub(super) struct Prints(Mutex<BTreeMap<(OrderId, u8), Timestamp>>);

impl Prints {
    /// Whether one may be given; then it counts as given.
    fn take(&self, order: OrderId, ordinal: u8, expires: Timestamp, now: Timestamp) -> bool {
        let mut given = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        given.retain(|_, expires| now < *expires);
        given.len() < PRINTS_MAX && given.insert((order, ordinal), expires).is_none()
    }
}

/// An invitation that was found good, and how it goes over our line.
struct Agreed {
    invited: Invited,
    class: Priority,
}

impl Shared {
    /// What a new holder wants of us.
    pub(super) async fn invited(&self, from: PeerKey, mut pipe: Pipe, invite: Invite) {
        let answered = match self.helped.take(from) {
            None => Err(Refusal::Busy),
            Some(_place) => match self.check(from, &invite).await {
                Err(why) => Err(why),
                Ok(agreed) => match invite.asked {
                    Asked::Help { attempt } => self.help(&mut pipe, &agreed, attempt).await,
                    Asked::Print { seed } => self.print(&mut pipe, &invite, &agreed.invited, &seed).await,
                },
            },
        };
        if let Err(why) = answered {
            tracing::debug!(peer = %from.short(), ?why, "no help in a rebuild");
            let _ = pipe::send(&mut pipe, &Message::No(why), self.patience.answer).await;
        }
        let _ = futures::AsyncWriteExt::close(&mut pipe).await;
    }

    /// SEP-1: everything that we can know of it, we check ourselves.
    async fn check(&self, from: PeerKey, invite: &Invite) -> Result<Agreed, Refusal> {
        // How urgent it is says a quorum, which is looked at below.
        let said = if invite.credentials.certificate.order.urgent { Priority::Critical } else { Priority::Low };
        if !self.may_begin(Courtesy::up, said) {
            return Err(Refusal::Busy);
        }
        let domain = self.net.pinned_domain(from).await.ok_or(Refusal::Unknown)?;
        let me = self.net.me();
        let order = &invite.credentials.certificate.order;
        // Whether it holds is checked below; until then it only says where to look.
        let Action::Rebuild { helpers, .. } = &order.action else { return Err(Refusal::Unfit) };
        let own = helpers.iter().find(|(_, peer)| *peer == me).map(|(own, _)| *own).ok_or(Refusal::Unfit)?;
        let held = self.keeper.holding(order.group, own).await.map_err(|_| Refusal::NoShard)?;
        let held = Ordinals::from_bytes(held);
        // Nothing of it is here, so no signature is looked at either.
        if held.is_empty() {
            return Err(Refusal::NoShard);
        }
        let (asked, heard) = (invite.clone(), self.heard(invite.credentials.concerned()).await);
        let check = move || Invited::open(&asked, &me, Some(own), (&from, &domain), (&heard, clock()));
        let invited = signatures::in_turn(self.patience.answer / 2, check).await.ok_or(Refusal::Busy)??;
        if !held.contains(invite.ordinal) {
            return Err(Refusal::NoShard);
        }
        let class = self.class_of(order);
        if class != said && !self.may_begin(Courtesy::up, class) {
            return Err(Refusal::Busy);
        }
        Ok(Agreed { invited, class })
    }

    /// Those of them who were heard within a day, as the network says.
    async fn heard(&self, concerned: BTreeSet<PeerKey>) -> BTreeSet<PeerKey> {
        if concerned.is_empty() {
            return concerned;
        }
        let since = Timestamp(clock().0.saturating_sub(self.patience.lost.as_millis() as u64));
        let silent = self.net.silent(concerned.iter().copied().collect(), since).await;
        concerned.difference(&silent).copied().collect()
    }

    /// A part in one session. `Err` says no to the new holder; what breaks later is told in the session's own words.
    async fn help(&self, control: &mut Pipe, agreed: &Agreed, attempt: u16) -> Result<(), Refusal> {
        let invited = &agreed.invited;
        let answer = self.patience.answer;
        let secret = EphemeralSecret::from_entropy(entropy().ok_or(Refusal::Busy)?);
        let offer = invited.frame.offer(attempt, invited.own, secret.public(), &self.key);
        if pipe::send(control, &Message::Key(offer), answer).await.is_err() {
            return Ok(());
        }
        let received = pipe::receive(control, SESSION_MESSAGE_MAX, answer).await;
        let Ok(Message::Session(both)) = received else { return gone(received) };
        let (session, signatures) = *both;
        invited.check(attempt, &session, &signatures)?;
        self.check_colours(invited, &session).await?;
        let (previous, next) = beside(invited, &session);
        let id = session.id();
        let admitted = self.ledger.admit(clock(), session, invited.own).await.map_err(|error| {
            tracing::info!(%error, "a rebuild's session was not let in");
            Refusal::Ledger
        })?;
        let part = self.take_part(control, agreed, (previous, next), id, admitted, secret);
        let ended = part.await;
        // A helper of another's that breaks off again and again uses none of our shard's sessions up.
        self.ledger.over(&id).await;
        ended
    }

    /// From the ledger's yes to the end.
    async fn take_part(
        &self,
        control: &mut Pipe,
        agreed: &Agreed,
        (previous, next): (Option<PeerKey>, PeerKey),
        id: SessionId,
        admitted: Admitted,
        secret: EphemeralSecret,
    ) -> Result<(), Refusal> {
        let answer = self.patience.answer;
        let invited = &agreed.invited;
        let codec = Codec::new(invited.frame.code);
        let mut helper = Helper::new(admitted, &codec, secret).map_err(|_| Refusal::Session)?;
        let expected = previous.map(|previous| self.links.expect(id, previous));
        if pipe::send(control, &Message::Ready, answer).await.is_err() {
            return Ok(());
        }
        let go = pipe::receive(control, ANSWER_MAX, answer).await;
        if !matches!(go, Ok(Message::Go)) {
            return gone(go);
        }
        let run = async {
            let link = async {
                let mut link = self.open(next).await.map_err(|_| Break::Next)?;
                let sent = pipe::send(&mut link, &Message::Link(id), answer).await;
                sent.map(|()| Outgoing::new(link)).map_err(|_| Break::Next)
            };
            // The one before may be at it already: nobody waits for both in turn.
            let (previous, next) = tokio::join!(self.previous(expected), link);
            self.pass_on(&mut helper, &id, agreed, previous?, next?).await
        };
        let word = tokio::select! {
            ran = run => ran.map_or_else(Message::Broken, |()| Message::Done),
            // The new holder has what it wanted, or gave up.
            () = pipe::ended(control) => return Ok(()),
        };
        tracing::debug!(?word, slot = %invited.own, "a part in a rebuild is over");
        let _ = pipe::send(control, &word, answer).await;
        Ok(())
    }

    /// The other helpers have the colours of their slots, as far as we know them.
    async fn check_colours(&self, invited: &Invited, session: &Session) -> Result<(), Refusal> {
        for slot in session.links().iter().map(|link| link.slot) {
            let peer = invited.frame.helper(slot).ok_or(Refusal::Session)?;
            let domain = self.net.pinned_domain(peer).await;
            if domain.is_some_and(|domain| !invited.frame.may_hold(slot, &domain)) {
                return Err(Refusal::Session);
            }
        }
        Ok(())
    }

    /// The link of the one before; the first of the chain has none.
    async fn previous(&self, expected: Option<Expected<'_>>) -> Result<Option<Incoming>, Break> {
        match expected {
            None => Ok(None),
            // It may have to be dialled to, and to dial.
            Some(expected) => {
                let link = expected.within(self.patience.open + self.patience.answer).await;
                link.map(Some).ok_or(Break::Previous)
            }
        }
    }

    /// Every slice as soon as it came; of our own shard no more than that slice is read.
    async fn pass_on(
        &self,
        helper: &mut Helper,
        id: &SessionId,
        agreed: &Agreed,
        mut previous: Option<Incoming>,
        mut next: Outgoing,
    ) -> Result<(), Break> {
        let (mut incoming, mut out) = (vec![0; SLICE_SIZE], vec![0; SLICE_SIZE]);
        let stall = self.patience.stall;
        let Agreed { invited, class } = agreed;
        for slice in 0..SLICES {
            // The first one comes when all before us have found each other.
            let wait = if slice == 0 { self.patience.open + self.patience.answer + stall } else { stall };
            let read = async {
                match &mut previous {
                    Some(previous) => {
                        self.pass_slice(Courtesy::down, *class).await;
                        previous.slice(&mut incoming, wait).await.map_err(|_| Break::Previous)
                    }
                    None => Ok(()),
                }
            };
            let (own, ()) = tokio::try_join!(self.own_slice(invited, slice), read)?;
            let incoming = previous.is_some().then_some(incoming.as_slice());
            helper.pass(slice, incoming, &own, &mut out).map_err(|_| Break::Own)?;
            if slice == 0 && !self.ledger.begun(id).await {
                return Err(Break::Own);
            }
            self.pass_slice(Courtesy::up, *class).await;
            next.slice(&out, stall).await.map_err(|_| Break::Next)?;
        }
        if let Some(previous) = previous {
            previous.finish(stall).await;
        }
        next.finish(stall).await.map_err(|_| Break::Next)
    }

    async fn own_slice(&self, invited: &Invited, slice: usize) -> Result<Bytes, Break> {
        let at = u32::try_from(slice * SLICE_SIZE).map_err(|_| Break::Own)?;
        let read = self.keeper.get(*invited.frame.group(), invited.own, invited.frame.ordinal, at, SLICE_SIZE as u32);
        match tokio::time::timeout(self.patience.stall, read).await {
            Ok(Ok(own)) => Ok(own),
            failed => {
                tracing::warn!(?failed, "our shard could not be read for a rebuild");
                Err(Break::Own)
            }
        }
    }

    /// After a wrong root: the fingerprint of our shard.
    async fn print(&self, pipe: &mut Pipe, invite: &Invite, invited: &Invited, seed: &[u8; 32]) -> Result<(), Refusal> {
        let expires = invite.credentials.certificate.order.expires;
        if !self.prints.take(*invited.frame.order(), invite.ordinal, expires, clock()) {
            return Err(Refusal::Ledger);
        }
        let read = self.keeper.get(*invited.frame.group(), invited.own, invite.ordinal, 0, 0).await;
        let print = read.ok().and_then(|shard| fingerprint(seed, &shard)).ok_or(Refusal::NoShard)?;
        let _ = pipe::send(pipe, &Message::Print(print), self.patience.answer).await;
        Ok(())
    }
}

/// The new holder went away, or said something that has no place here.
fn gone(received: Result<Message, PipeError>) -> Result<(), Refusal> {
    if received.is_ok() { Err(Refusal::Session) } else { Ok(()) }
}

/// Who comes before us, and who after: peers of the order, by the session's order of slots.
fn beside(invited: &Invited, session: &Session) -> (Option<PeerKey>, PeerKey) {
    let frame = &invited.frame;
    let slots: Vec<Slot> = session.links().iter().map(|link| link.slot).collect();
    let at = slots.iter().position(|slot| *slot == invited.own).unwrap_or_default();
    let peer = |at: usize| slots.get(at).and_then(|slot| frame.helper(*slot));
    (at.checked_sub(1).and_then(peer), peer(at + 1).unwrap_or(frame.to))
}
