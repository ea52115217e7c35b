//! Who helps in a session: the order's helpers, best first, and a spare one in the place of each that does not answer.
//!
//! An order names all who are there, so one that died since costs neither the stripe nor the order. It is noticed where it costs least,
//! at the invitation: there is no session yet, and those who answered wait. Who answers nothing is not waited for any longer than
//! [`Patience::spare`](super::Patience::spare), then spare ones are invited beside it and whoever answers first is taken.
//!
//! # Invariants
//!
//! - **SEP-1** Whoever takes another's place does so before there is a session, or in another session, whose keys and nonce are all
//!   new: no masks serve two sets of helpers. Enforced by [`Shared::attempt`](super::Shared::attempt), which draws them for each attempt, and by
//!   the helpers' ledgers; attacked by `tests::spares`.

use cairn_core::blind::{
    invite::{Asked, Invite, Offer},
    wire::{ANSWER_MAX, Message},
};
use cairn_proto::{PeerKey, Slot};
use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::time::Instant;

use super::{Pipe, Shared, holder::Job, pipe};

/// Between two questions to a helper that said that it is busy, or does not know us yet.
const AGAIN: std::time::Duration = std::time::Duration::from_millis(500);

/// A helper, and the slot that it has.
pub(super) type Member = (Slot, PeerKey);

/// Whom to ask for a session.
pub(super) struct Team {
    /// As many as it takes, in the chain's order.
    pub(super) first: Vec<Member>,
    /// Who takes the place of one that does not answer, best first.
    pub(super) spare: Vec<Member>,
}

/// Who answered.
pub(super) struct Gathered {
    /// In the chain's order: as many as it takes, or too few.
    pub(super) members: Vec<(Member, Pipe, Offer)>,
    /// Who said no, or nothing.
    pub(super) absent: Vec<Member>,
    /// Who had said nothing when there were enough.
    pub(super) slow: Vec<Slot>,
}

impl Shared {
    /// Invites them, until as many answered as it takes or no more than too few can. Whoever was invited in vain hears that its stream
    /// ends.
    pub(super) async fn gather(&self, job: &Job<'_>, team: &Team, attempt: u16) -> Gathered {
        let needed = team.first.len();
        let all: Vec<Member> = team.first.iter().chain(&team.spare).copied().collect();
        let invite = |at: usize| {
            let (slot, peer) = all[at];
            async move { (at, self.invite(job, slot, peer, attempt).await) }
        };
        let mut asked: FuturesUnordered<_> = (0..needed).map(&invite).collect();
        let mut next = needed..all.len();
        let mut open: Vec<usize> = (0..needed).collect();
        let mut came: Vec<(usize, Pipe, Offer)> = Vec::new();
        let mut absent = Vec::new();
        let beside = tokio::time::sleep(self.patience.spare);
        tokio::pin!(beside);
        let mut waited = false;
        while came.len() < needed && came.len() + open.len() >= needed {
            tokio::select! {
                Some((at, answer)) = asked.next() => {
                    open.retain(|other| *other != at);
                    match answer {
                        Some((pipe, offer)) => came.push((at, pipe, offer)),
                        None => {
                            absent.push(all[at]);
                            if let Some(at) = next.next() {
                                open.push(at);
                                asked.push(invite(at));
                            }
                        }
                    }
                }
                () = &mut beside, if !waited => {
                    waited = true;
                    for at in next.by_ref().take(needed - came.len()) {
                        open.push(at);
                        asked.push(invite(at));
                    }
                }
            }
        }
        came.sort_by_key(|(at, ..)| *at);
        let enough = came.len() == needed;
        let slow = open.into_iter().filter(|_| enough).map(|at| all[at].0).collect();
        let members = came.into_iter().map(|(at, pipe, offer)| (all[at], pipe, offer)).collect();
        Gathered { members, absent, slow }
    }

    /// A helper's stream and key, and again while it says that it cannot just now.
    async fn invite(&self, job: &Job<'_>, slot: Slot, peer: PeerKey, attempt: u16) -> Option<(Pipe, Offer)> {
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
}
