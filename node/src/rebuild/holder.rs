//! The new holder's part: invites, plans the session, takes the sum at the chain's end, and believes nothing but the root.

use bytes::Bytes;
use cairn_core::{
    blind::{
        BlindError, EphemeralSecret, NewHolder, Order, RUNS_OF_STRIPE, SLICE_SIZE, SLICES, Session, SessionId, Word,
        invite::{Frame, Offer},
        stopped_at,
        wire::{ANSWER_MAX, Message},
    },
    erasure::Codec,
    part::{Credentials, Task},
    steward::message::Failure,
};
use cairn_proto::{PeerKey, ShardRoot, Slot, wire::Priority};
use futures::{
    FutureExt as _, StreamExt as _,
    future::{BoxFuture, try_join_all},
    stream::FuturesUnordered,
};
use tokio::time::Instant;

use super::{
    Pipe, Shared, entropy,
    links::Expected,
    pipe,
    team::{Gathered, Member, Team},
};
use crate::{courtesy::Courtesy, network::clock};

/// One shard to be rebuilt.
pub(super) struct Job<'a> {
    pub(super) credentials: &'a Credentials,
    pub(super) sheet: &'a [u8],
    pub(super) frame: Frame,
    pub(super) root: ShardRoot,
    pub(super) class: Priority,
}

/// How an attempt ended without the shard.
pub(super) enum Stop {
    /// All sent everything, and the sum has another root.
    WrongRoot,
    /// It did not come so far.
    Failed(Failure),
}

/// What came of an attempt.
pub(super) struct Ran {
    /// Who took part, or was to.
    pub(super) helpers: Vec<Slot>,
    /// Who did not answer.
    pub(super) absent: Vec<Slot>,
    /// Who was too late to be needed.
    pub(super) slow: Vec<Slot>,
    pub(super) ended: Result<Bytes, Stop>,
}

impl Shared {
    pub(super) async fn rebuild(&self, credentials: &Credentials, task: &Task, ordinal: u8) -> Result<Bytes, Failure> {
        let order = &credentials.certificate.order;
        let beside = async { if order.urgent { self.urgent.acquire().await } else { std::future::pending().await } };
        let turn = tokio::select! {
            turn = self.in_flight.acquire() => turn,
            turn = beside => turn,
        };
        let Ok(_turn) = turn else { return Err(Failure::Refused) };
        let row = task.rows.iter().find(|row| row.ordinal == ordinal).ok_or(Failure::Refused)?;
        let frame = Frame::new(credentials, &task.part.mandate.ticket, row);
        let frame = frame.filter(|frame| frame.to == self.net.me() && frame.lost == task.slot);
        let class = self.class_of(order);
        let job = Job { credentials, sheet: &task.sheet, frame: frame.ok_or(Failure::Refused)?, root: row.root, class };
        let known = self.known_of(&job.frame, order.expires).await;
        let mut broke: Vec<Slot> = Vec::new();
        for attempt in 0..=RUNS_OF_STRIPE {
            // While another stripe searches, what it finds is waited for.
            let team = known.lock().await.team(&job, &broke);
            let ran = self.attempt(&job, &team, attempt).await;
            let missing = match ran.ended {
                Ok(shard) => {
                    // Who searches meanwhile goes on with the helpers that it has.
                    if let Ok(mut known) = known.try_lock() {
                        known.put_last(&ran.slow);
                        known.put_last(&ran.absent);
                    }
                    return Ok(shard);
                }
                Err(Stop::WrongRoot) => {
                    return self.find_liar(&job, &known, (ran.helpers, &ran.absent), attempt).await;
                }
                Err(Stop::Failed(failure @ Failure::Missing(peer))) => {
                    broke.extend(job.frame.slot_of(&peer));
                    failure
                }
                Err(Stop::Failed(failure)) => return Err(failure),
            };
            broke.extend(&ran.absent);
            let mut known = known.lock().await;
            known.put_last(&ran.slow);
            known.put_last(&broke);
            // With others, in another session: whoever is left of this one forgets its secret.
            if attempt == RUNS_OF_STRIPE || !known.may_replace(&broke) {
                return Err(missing);
            }
            tracing::info!(?missing, "a rebuild of a shard begins again without who broke off");
        }
        Err(Failure::Refused)
    }

    /// One session: with the first of the team, or whoever answers in their place.
    pub(super) async fn attempt(&self, job: &Job<'_>, team: &Team, attempt: u16) -> Ran {
        let Gathered { members, absent, slow } = self.gather(job, team, attempt).await;
        let (helpers, ended) = if members.len() < team.first.len() {
            let missing = absent.first().map_or(Failure::Refused, |(_, peer)| Failure::Missing(*peer));
            (team.first.iter().map(|(slot, _)| *slot).collect(), Err(Stop::Failed(missing)))
        } else {
            let helpers = members.iter().map(|((slot, _), ..)| *slot).collect();
            (helpers, self.session(job, members, attempt).await)
        };
        Ran { helpers, absent: absent.iter().map(|(slot, _)| *slot).collect(), slow, ended }
    }

    /// One session with these helpers, in this order.
    async fn session(&self, job: &Job<'_>, members: Vec<(Member, Pipe, Offer)>, attempt: u16) -> Result<Bytes, Stop> {
        let refused = || Stop::Failed(Failure::Refused);
        let frame = &job.frame;
        let (secret, nonce) = (entropy().ok_or_else(refused)?, entropy().ok_or_else(refused)?);
        let secret = EphemeralSecret::from_entropy(secret);
        let (mut helpers, mut controls, mut keys, mut signatures) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (member, control, offer) in members {
            helpers.push(member);
            controls.push(control);
            keys.push((member.0, offer.key));
            signatures.push(offer.signature);
        }
        let codec = Codec::new(frame.code);
        // Whose key makes a session impossible did not do its part.
        let at_fault = |error: BlindError| match error {
            BlindError::KeyTwice { slot } | BlindError::WeakKey { slot } => {
                Stop::Failed(frame.helper(slot).map_or(Failure::Refused, Failure::Missing))
            }
            _ => refused(),
        };
        let order = Order {
            group: *frame.group(),
            ordinal: frame.ordinal,
            used: frame.used,
            lost: frame.lost,
            attempt,
            nonce,
            new_holder: secret.public(),
            helpers: keys,
        };
        let session = Session::plan(&codec, order).map_err(at_fault)?;
        let admitted = self.ledger.admit(clock(), session.clone(), frame.lost).await.map_err(|error| {
            tracing::info!(%error, "a rebuild's session was not let in");
            refused()
        })?;
        let id = session.id();
        let message = Message::Session(Box::new((session, signatures)));
        let run = async {
            let holder = NewHolder::new(admitted, &codec, secret, job.root).map_err(at_fault)?;
            self.until_whole(holder, (id, job.class), &helpers, controls, &message).await
        };
        let ended = run.await;
        self.ledger.over(&id).await;
        ended
    }

    /// From the ledger's yes to the shard.
    async fn until_whole(
        &self,
        mut holder: NewHolder,
        (id, class): (SessionId, Priority),
        helpers: &[(Slot, PeerKey)],
        mut controls: Vec<Pipe>,
        message: &Message,
    ) -> Result<Bytes, Stop> {
        let refused = || Stop::Failed(Failure::Refused);
        let last = helpers.last().map(|(_, peer)| *peer).ok_or_else(refused)?;
        let expected = self.links.expect(id, last);
        let each = controls.iter_mut().zip(helpers);
        try_join_all(each.map(|(control, (_, peer))| self.agree(control, *peer, message))).await?;
        let each = controls.iter_mut().zip(helpers);
        try_join_all(each.map(|(control, (_, peer))| async {
            let sent = pipe::send(control, &Message::Go, self.patience.answer).await;
            sent.map_err(|_| Stop::Failed(Failure::Missing(*peer)))
        }))
        .await?;
        let mut words = Words::new(controls);
        let whole = tokio::select! {
            biased;
            whole = self.take(&mut holder, (&id, class), expected) => whole,
            // Somebody stopped, so nothing more will come.
            () = words.until_one_stops() => false,
        };
        if !whole {
            let at = words.verdict(Instant::now() + 2 * self.patience.stall).await;
            let peer = helpers.get(at).map_or(last, |(_, peer)| *peer);
            return Err(Stop::Failed(Failure::Missing(peer)));
        }
        match holder.finish() {
            Ok(shard) => Ok(shard.freeze()),
            Err(error) => {
                tracing::warn!(%error, "a rebuild came out wrong");
                Err(Stop::WrongRoot)
            }
        }
    }

    /// Tells a helper the session; it is in its ledger then.
    async fn agree(&self, control: &mut Pipe, peer: PeerKey, session: &Message) -> Result<(), Stop> {
        let answer = self.patience.answer;
        let ready = match pipe::send(control, session, answer).await {
            Ok(()) => pipe::receive(control, ANSWER_MAX, answer).await,
            Err(error) => Err(error),
        };
        if matches!(ready, Ok(Message::Ready)) {
            return Ok(());
        }
        tracing::info!(peer = %peer.short(), ?ready, "a helper does not agree to a session");
        Err(Stop::Failed(Failure::Missing(peer)))
    }

    /// Takes all slices; whether they came.
    async fn take(&self, holder: &mut NewHolder, (id, class): (&SessionId, Priority), expected: Expected<'_>) -> bool {
        let patience = self.patience;
        let Some(mut link) = expected.within(patience.open + patience.answer).await else { return false };
        let mut incoming = vec![0; SLICE_SIZE];
        for slice in 0..SLICES {
            let first = if slice == 0 { patience.open + patience.answer } else { std::time::Duration::ZERO };
            self.pass_slice(Courtesy::down, class).await;
            let came = link.slice(&mut incoming, first + patience.stall).await;
            let begins = came.is_ok() && slice == 0;
            if came.is_err() || begins && !self.ledger.begun(id).await || holder.take(slice, &incoming).is_err() {
                return false;
            }
        }
        link.finish(patience.answer).await;
        true
    }
}

/// What the helpers say when their part is over. Dropping it ends the session everywhere.
struct Words {
    coming: FuturesUnordered<BoxFuture<'static, (usize, Word)>>,
    said: Vec<Option<Word>>,
}

impl Words {
    fn new(controls: Vec<Pipe>) -> Self {
        let said = vec![None; controls.len()];
        let each = controls.into_iter().enumerate().map(|(at, mut control)| {
            async move {
                // As long as the session: whoever waits has a deadline.
                let word = pipe::receive(&mut control, ANSWER_MAX, std::time::Duration::MAX).await;
                let word = match word {
                    Ok(Message::Done) => Word::Done,
                    Ok(Message::Broken(at)) => Word::Broken(at),
                    _ => Word::Gone,
                };
                (at, word)
            }
            .boxed()
        });
        Self { coming: each.collect(), said }
    }

    async fn until_one_stops(&mut self) {
        while let Some((at, word)) = self.coming.next().await {
            self.said[at] = Some(word);
            if word != Word::Done {
                return;
            }
        }
        std::future::pending().await
    }

    /// Which helper it stopped at, waiting for as many words as that takes.
    async fn verdict(mut self, until: Instant) -> usize {
        loop {
            let missing = match stopped_at(&self.said) {
                Ok(at) => return at,
                Err(missing) => missing,
            };
            match tokio::time::timeout_at(until, self.coming.next()).await {
                Ok(Some((at, word))) => self.said[at] = Some(word),
                Ok(None) | Err(_) => return missing,
            }
        }
    }
}
