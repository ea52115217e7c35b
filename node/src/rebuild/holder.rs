//! The new holder's part: invites, plans the session, takes the sum at the chain's end, and believes nothing but the root.

use bytes::Bytes;
use cairn_core::{
    blind::{
        BlindError, EphemeralSecret, NewHolder, Order, SLICE_SIZE, SLICES, Session, SessionId, Word,
        invite::{Asked, Frame, Invite, Offer},
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
    future::{BoxFuture, join_all, try_join_all},
    stream::FuturesUnordered,
};
use tokio::time::Instant;

use super::{Pipe, Shared, entropy, links::Expected, pipe, wrong::chain};
use crate::{courtesy::Courtesy, network::clock};

/// Between two questions to a helper that said that it is busy, or does not know us yet.
const AGAIN: std::time::Duration = std::time::Duration::from_millis(500);

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

/// A helper that was invited: its stream, and its key.
type Invited = (Pipe, Offer);

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
        let known = self.searches.of(&job.frame, order.expires);
        // While another stripe searches, what it finds is waited for.
        let helpers = known.lock().await.best();
        match self.attempt(&job, &chain(&job, &helpers), 0).await {
            Ok(shard) => Ok(shard),
            Err(Stop::Failed(failure)) => Err(failure),
            Err(Stop::WrongRoot) => self.find_liar(&job, &known, helpers).await,
        }
    }

    /// One session with these helpers, in this order.
    pub(super) async fn attempt(
        &self,
        job: &Job<'_>,
        helpers: &[(Slot, PeerKey)],
        attempt: u16,
    ) -> Result<Bytes, Stop> {
        let refused = || Stop::Failed(Failure::Refused);
        let frame = &job.frame;
        let (secret, nonce) = (entropy().ok_or_else(refused)?, entropy().ok_or_else(refused)?);
        let secret = EphemeralSecret::from_entropy(secret);
        let invitations = helpers.iter().map(|(slot, peer)| self.invite(job, *slot, *peer, attempt));
        let (mut controls, mut keys, mut signatures) = (Vec::new(), Vec::new(), Vec::new());
        for ((slot, peer), invited) in helpers.iter().zip(join_all(invitations).await) {
            let (control, offer) = invited.ok_or(Stop::Failed(Failure::Missing(*peer)))?;
            controls.push(control);
            keys.push((*slot, offer.key));
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
            self.until_whole(holder, (id, job.class), helpers, controls, &message).await
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

    /// A helper's stream and key, and again while it says that it cannot just now.
    async fn invite(&self, job: &Job<'_>, slot: Slot, peer: PeerKey, attempt: u16) -> Option<Invited> {
        let give_up = Instant::now() + self.patience.busy;
        loop {
            let (pipe, answer) = self.ask(job, peer, Asked::Help { attempt }).await?;
            match answer {
                Message::Key(offer) if job.frame.is_offered(attempt, slot, &offer.key, &offer.signature) => {
                    return Some((pipe, offer));
                }
                Message::No(why) if why.passes() && Instant::now() + AGAIN < give_up => {
                    tokio::time::sleep(AGAIN).await;
                }
                answer => {
                    tracing::info!(peer = %peer.short(), ?answer, "a helper does not help");
                    return None;
                }
            }
        }
    }

    /// Sends an invitation on a fresh stream and takes the answer.
    pub(super) async fn ask(&self, job: &Job<'_>, peer: PeerKey, asked: Asked) -> Option<(Pipe, Message)> {
        let (credentials, sheet) = (job.credentials.clone(), job.sheet.to_vec());
        let invite = Invite { credentials, sheet, ordinal: job.frame.ordinal, asked };
        let answer = async {
            let mut pipe = self.open(peer).await.map_err(|error| error.to_string())?;
            let sent = pipe::send(&mut pipe, &Message::Invite(Box::new(invite)), self.patience.answer).await;
            sent.map_err(|error| error.to_string())?;
            let answer = pipe::receive(&mut pipe, ANSWER_MAX, self.patience.answer).await;
            Ok::<_, String>((pipe, answer.map_err(|error| error.to_string())?))
        };
        let answer = answer.await;
        answer.map_err(|why| tracing::info!(peer = %peer.short(), why, "a helper gave no answer")).ok()
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
