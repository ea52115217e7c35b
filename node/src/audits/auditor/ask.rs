//! One challenge: made, asked until its deadline, judged.

use std::{sync::Arc, time::Duration};

use cairn_core::{
    audit::{self, Outcome, schedule::Due},
    steward::wire::{Answer, Questioned, Refusal, Request},
};
use cairn_proto::{
    GroupTicket, PeerKey, ShardRoot, StatementId, Timestamp,
    audit::{self as signed, Challenge, Evidence, Response, SLICES_DEFAULT, SilenceReport, Way},
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
        loop {
            let question = Questioned { ticket, grant: None, challenge: sealed.clone() };
            match self.try_once(due.holder, question).await {
                Ok(Answer::Audit(bytes)) => {
                    (reached, busy) = (true, false);
                    if let Some(asked) = judge(&sealed, &bytes, &root) {
                        return asked;
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

    fn silent(
        &self,
        sealed: &cairn_proto::signed::SignedBytes,
        challenge: &Challenge,
        reached: bool,
        busy: bool,
        now: Timestamp,
    ) -> Asked {
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

/// `None`: it is no answer to this.
fn judge(sealed: &cairn_proto::signed::SignedBytes, bytes: &[u8], root: &ShardRoot) -> Option<Asked> {
    let (answer, slices) = Response::read(bytes).ok()?;
    let id = signed::Answer::id(&answer);
    let seen = match audit::verify(sealed, &answer, &slices, root).ok()? {
        Outcome::Good => Seen::Good,
        Outcome::NotHere(_) => Seen::NotHere,
        Outcome::Wrong(evidence) => Seen::Wrong(Box::new(evidence)),
        // Only tokens give one, and we ask with none.
        Outcome::Mismatch => return None,
    };
    Some((seen, Some(id)))
}
