//! One challenge: made, asked until its deadline, judged.

use std::{sync::Arc, time::Duration};

use cairn_core::{
    audit::{self, Outcome, schedule::Due},
    steward::wire::{Answer, Questioned, Refusal, Request},
};
use cairn_proto::{
    GroupTicket, PeerKey, ShardRoot, StatementId, Timestamp,
    audit::{self as signed, Challenge, Evidence, Response, SLICES_DEFAULT, SilenceReport, Way},
    signed::SignedBytes,
};
use ed25519_dalek::SigningKey;
use tokio::sync::Semaphore;

use super::book::Seen;
use crate::{overlay::TransferError, stewardship::ports::StewardNet, store::Clock};

/// How long one try may take, dialling included.
const TRY: Duration = Duration::from_secs(30);

/// What asking takes.
#[derive(Clone)]
pub(super) struct Asker {
    pub(super) net: Arc<dyn StewardNet>,
    pub(super) key: SigningKey,
    pub(super) clock: Clock,
    /// Challenges on their way at the same time.
    pub(super) lanes: Arc<Semaphore>,
    /// How long an answer counts.
    pub(super) patience_ms: u64,
    /// Between two tries.
    pub(super) pause: Duration,
}

/// What came of it, and the answer's id.
pub(super) type Asked = (Seen, Option<StatementId>);

impl Asker {
    /// Asks for a shard. `previous`: the last answer of this holder that came.
    pub(super) async fn ask(
        &self,
        due: Due,
        ticket: GroupTicket,
        root: ShardRoot,
        nonce: [u8; 32],
        previous: Option<StatementId>,
    ) -> Asked {
        let issued = (self.clock)();
        let challenge = Challenge {
            auditor: PeerKey::from_bytes(self.key.verifying_key().to_bytes()),
            holder: due.holder,
            group: due.target.group,
            slot: due.target.slot,
            ordinal: due.target.ordinal,
            root,
            nonce,
            way: Way::Slices,
            slices: SLICES_DEFAULT,
            previous,
            issued,
            deadline: issued.plus_ms(self.patience_ms),
        };
        let sealed = challenge.seal(&self.key);
        let (mut reached, mut busy) = (false, false);
        // What was signed and cannot be judged, because the slices beside it were others.
        let mut unfit: Option<SignedBytes> = None;
        loop {
            let question = Questioned { ticket, grant: None, challenge: sealed.clone() };
            match self.try_once(due.holder, question).await {
                Ok(Answer::Audit(bytes)) => {
                    (reached, busy) = (true, false);
                    match judge(&sealed, &bytes, &root, unfit.as_ref()) {
                        Judged::Settled(asked) => return asked,
                        Judged::Signed(answer) => drop(unfit.get_or_insert(answer)),
                        Judged::Nothing => {}
                    }
                }
                Ok(answer) => (reached, busy) = (true, answer == Answer::Refused(Refusal::Busy)),
                Err(TransferError::Unreachable(_)) => {}
                Err(TransferError::ShuttingDown) => return (Seen::Blind, None),
                Err(_) => (reached, busy) = (true, false),
            }
            tokio::time::sleep(self.pause).await;
            let now = (self.clock)();
            // A clock that was set back makes nobody wait for ever.
            if now >= challenge.deadline || now < issued {
                break self.silent(&sealed, &challenge, reached, busy, now);
            }
        }
    }

    async fn try_once(&self, holder: PeerKey, question: Questioned) -> Result<Answer, TransferError> {
        let Ok(_lane) = self.lanes.acquire().await else { return Err(TransferError::ShuttingDown) };
        let asked = self.net.request(holder, Request::Challenge(Box::new(question)));
        tokio::time::timeout(TRY, asked).await.unwrap_or(Err(TransferError::TimedOut))
    }

    fn silent(&self, sealed: &SignedBytes, challenge: &Challenge, reached: bool, busy: bool, now: Timestamp) -> Asked {
        if busy {
            return (Seen::Busy, None);
        }
        let complaint = (now >= challenge.deadline).then(|| {
            let report = SilenceReport { reporter: challenge.auditor, challenge: Challenge::id(sealed), at: now };
            Box::new(Evidence::Silence { challenge: sealed.clone(), report: report.seal(&self.key) })
        });
        (Seen::Silent { reached, complaint }, None)
    }
}

/// What an answer is good for.
enum Judged {
    Settled(Asked),
    /// It is signed, and what came beside it is not what was signed.
    Signed(SignedBytes),
    /// It is no answer to this.
    Nothing,
}

/// `before`: what was signed on the same challenge and could not be judged. Who then signs something else has signed two answers to
/// one challenge, which is proof enough, whatever is in them.
fn judge(sealed: &SignedBytes, bytes: &[u8], root: &ShardRoot, before: Option<&SignedBytes>) -> Judged {
    let Ok((answer, slices)) = Response::read(bytes) else { return Judged::Nothing };
    if let Some(first) = before {
        let both = Evidence::Equivocation { first: first.clone(), second: answer.clone() };
        if audit::convict(&both).is_ok() {
            return Judged::Settled((Seen::Wrong(Box::new(both)), Some(signed::Answer::id(&answer))));
        }
    }
    let id = signed::Answer::id(&answer);
    let seen = match audit::verify(sealed, &answer, &slices, root) {
        Ok(Outcome::Good) => Seen::Good,
        Ok(Outcome::NotHere(_)) => Seen::NotHere,
        Ok(Outcome::Wrong(evidence)) => Seen::Wrong(Box::new(evidence)),
        // Only tokens give one, and we ask with none.
        Ok(Outcome::Mismatch) => return Judged::Nothing,
        Err(_) if signed::evidence::pair(sealed, &answer).is_ok() => return Judged::Signed(answer),
        Err(_) => return Judged::Nothing,
    };
    Judged::Settled((seen, Some(id)))
}

#[cfg(test)]
mod tests {
    use cairn_core::audit::{Lie, convict, respond};
    use cairn_proto::{CodeParams, SHARD_SIZE, Slot};

    use super::*;

    fn key(n: u8) -> SigningKey {
        SigningKey::from_bytes(&[n; 32])
    }

    fn of(key: &SigningKey) -> PeerKey {
        PeerKey::from_bytes(key.verifying_key().to_bytes())
    }

    /// Two answers to one challenge prove a lie, also when nothing that came beside them is what was signed; the same answer again, and an
    /// admission after it, do not.
    #[test]
    fn two_answers_to_one_challenge_are_a_proof() {
        let (auditor, holder) = (key(1), key(2));
        let shard = vec![7; SHARD_SIZE];
        let root = ShardRoot::from_bytes(*blake3::hash(&shard).as_bytes());
        let challenge = Challenge {
            auditor: of(&auditor),
            holder: of(&holder),
            group: GroupTicket::new([1; 32], [2; 32], CodeParams::DEFAULT, 9).expect("valid").id(),
            slot: Slot::new(0).expect("valid"),
            ordinal: 0,
            root,
            nonce: [3; 32],
            way: Way::Slices,
            slices: SLICES_DEFAULT,
            previous: None,
            issued: Timestamp(1),
            deadline: Timestamp(2),
        };
        let sealed = challenge.seal(&auditor);
        let said = |found, slices: Vec<Vec<u8>>, by: &SigningKey| {
            let answer = signed::Answer { holder: of(by), challenge: Challenge::id(&sealed), previous: None, found };
            let answer = answer.seal(by);
            (answer.clone(), prost::Message::encode_to_vec(&Response { answer: Some(answer), slices }))
        };
        let junk = |n: u8| signed::Found::Slices(vec![[n; 32]; usize::from(SLICES_DEFAULT)]);
        let (first, bytes) = said(junk(1), Vec::new(), &holder);
        assert!(matches!(judge(&sealed, &bytes, &root, None), Judged::Signed(kept) if kept == first));
        assert!(matches!(judge(&sealed, &bytes, &root, Some(&first)), Judged::Signed(_)), "the same again");
        let (_, bytes) = said(junk(2), Vec::new(), &holder);
        let Judged::Settled((Seen::Wrong(proof), Some(_))) = judge(&sealed, &bytes, &root, Some(&first)) else {
            panic!("two answers")
        };
        let conviction = convict(&proof).expect("a proof");
        assert_eq!((conviction.lie(), *conviction.subject()), (Lie::Equivocation, of(&holder)));
        // Even a right answer is the second of two.
        let (found, slices) = respond(Some(&shard), &challenge);
        let (_, bytes) = said(found, slices, &holder);
        assert!(matches!(judge(&sealed, &bytes, &root, None), Judged::Settled((Seen::Good, _))));
        assert!(matches!(judge(&sealed, &bytes, &root, Some(&first)), Judged::Settled((Seen::Wrong(_), _))));
        let (_, bytes) = said(signed::Found::NotHere(signed::Loss::Gone), Vec::new(), &holder);
        assert!(matches!(judge(&sealed, &bytes, &root, Some(&first)), Judged::Settled((Seen::NotHere, _))));
        let (_, bytes) = said(junk(1), Vec::new(), &key(4));
        assert!(matches!(judge(&sealed, &bytes, &root, None), Judged::Nothing), "another's");
        assert!(matches!(judge(&sealed, b"junk", &root, None), Judged::Nothing));
    }
}
