//! The village's auditors and those who are audited, honest or not.

use cairn_core::{
    audit::{permit, respond},
    reputation::Observed,
    steward::wire::Questioned,
};
use cairn_proto::{
    audit::{self as signed, Challenge, Evidence, Found, Response, SLICE_SIZE},
    message::{Held, Receipt, Word},
};

use super::*;
use crate::{audits::auditor::AuditorConfig, standing::ports::Witness};

/// How a holder that dropped its shards treats auditors; stewards it tells that it has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Lie {
    Admits,
    Hides,
    Signs,
}

impl World {
    /// What auditors and the audited answer; anything else is given back.
    pub(super) fn audit(
        &self,
        from: PeerKey,
        to: PeerKey,
        request: Request,
    ) -> Result<Result<Answer, TransferError>, Box<Request>> {
        match request {
            Request::Duty(duty) => {
                let auditor = self.auditors.lock().expect("auditors").get(&to).cloned();
                Ok(auditor.map_or(Err(TransferError::TimedOut), |auditor| Ok(auditor.duty(from, &duty))))
            }
            Request::Challenge(questioned) => Ok(self.show(from, to, &questioned)),
            other => Err(Box::new(other)),
        }
    }

    /// A holder's answer: what the daemon's answerer does, and what a liar would.
    fn show(&self, from: PeerKey, to: PeerKey, questioned: &Questioned) -> Result<Answer, TransferError> {
        let challenge = Challenge::open(&questioned.challenge).expect("an auditor's");
        let permitted = permit(&challenge, &to, &questioned.ticket, &self.domains[&from], false, self.now());
        if permitted.is_err() {
            return Ok(Answer::Refused(Refusal::Forged));
        }
        let place = (challenge.slot.as_u8(), challenge.ordinal);
        let bytes = self.shelves[&to].shards.lock().expect("shelf").get(&place).map(|(_, bytes)| bytes.clone());
        let lie = self.liars.lock().expect("liars").get(&to).copied();
        let (found, slices) = match (bytes, lie) {
            (None, Some(Lie::Hides)) => return Err(TransferError::TimedOut),
            (None, Some(Lie::Signs)) => {
                let slices = vec![vec![0u8; SLICE_SIZE]; challenge.slices.into()];
                (Found::Slices(slices.iter().map(|slice| *blake3::hash(slice).as_bytes()).collect()), slices)
            }
            (bytes, _) => respond(bytes.as_deref(), &challenge),
        };
        let challenge = Challenge::id(&questioned.challenge);
        let answer = signed::Answer { holder: to, challenge, previous: None, found }.seal(&self.keys[&to]);
        Ok(Answer::Audit(prost::Message::encode_to_vec(&Response { answer: Some(answer), slices })))
    }
}

impl Village {
    /// The owner brings what holders signed for: the newest receipt of each, as `sign` makes it of holder and receipt.
    pub(in super::super) fn with_receipts(mut self, sign: impl Fn(&Self, Receipt) -> Word) -> Self {
        let lease_until = self.world.now().plus_ms(400 * 24 * HOUR);
        let receipts = self.record.sheets.iter().flat_map(|sheet| {
            let rows: Vec<_> = sheet.rows.iter().map(|row| (row.ordinal, row.root, lease_until)).collect();
            let last = sheet.rows[sheet.rows.len() - 1];
            sheet.holders.iter().map(move |holder| Receipt {
                holder: *holder,
                group: sheet.group,
                slot: sheet.slot,
                ordinal: last.ordinal,
                root: last.root,
                lease_until,
                stored_at: Timestamp(lease_until.0 - 400 * 24 * HOUR),
                held: Some(Held::of(&rows)),
            })
        });
        let words = receipts.map(|receipt| sign(&self, receipt)).collect();
        self.record = self.record.clone().with_words(words).expect("of its shards");
        self
    }

    /// As this peer signs it.
    pub(in super::super) fn signed_by(&self, peer: &PeerKey, receipt: Receipt) -> Word {
        let sealed = receipt.seal(&self.world.keys[peer]);
        Word { receipt, signature: sealed.signature.try_into().expect("64 bytes") }
    }

    /// A peer that audits, and takes shards over when it is asked to.
    pub(in super::super) fn audits(&self, peer: PeerKey, witness: &Arc<Opinions>) {
        let (world, auditor) = (Arc::clone(&self.world), Auditor::default());
        let clock = Arc::clone(&world);
        let config = AuditorConfig {
            key: world.keys[&peer].clone(),
            domain: world.domains[&peer].clone(),
            timers: Self::timers(),
            clock: Arc::new(move || clock.now()),
            entropy: *peer.as_bytes(),
            cut_off: Arc::new(|| false),
        };
        let net = Arc::new(Link { world: Arc::clone(&world), me: peer, beats: false });
        auditor.start(config, net, Arc::clone(witness) as Arc<dyn Witness>);
        world.auditors.lock().expect("auditors").insert(peer, auditor);
    }
}

/// What auditors think of holders.
#[derive(Default)]
pub(in super::super) struct Opinions {
    pub(in super::super) saw: Mutex<Vec<(PeerKey, Observed)>>,
    pub(in super::super) learned: Mutex<Vec<Evidence>>,
}

impl Witness for Opinions {
    fn saw(&self, peer: PeerKey, seen: Observed) {
        self.saw.lock().expect("saw").push((peer, seen));
    }

    fn learned(&self, evidence: Evidence) {
        self.learned.lock().expect("learned").push(evidence);
    }
}
