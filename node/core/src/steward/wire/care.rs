//! What keeps holders honest, on the stewards' protocol: who audits whom, what auditors ask and found, what holders say of
//! themselves before anybody asks.

use cairn_proto::{
    DecodeError, GroupId, GroupTicket, Ordinals, PeerKey, Slot, Timestamp,
    audit::{RESPONSE_MAX, STATEMENT_MAX, evidence::EVIDENCE_MAX},
    group::TICKET_SIZE,
    layout::{Reader, at_most, put_bytes, put_number, put_option},
    mandate::SHEET_MAX,
    signed::SignedBytes,
};

/// Most groups that one notice names.
pub const NOTICE_GROUPS_MAX: usize = 256;
/// Most words of its holder that a duty brings: a slot of 256 stripes, eight at a time.
pub const WORDS_MAX: usize = 32;
/// Most bytes of one: 236 of what a repair gave it, 291 of an owner's receipt.
const WORD_MAX: usize = 320;
/// Most bytes of an answer to a challenge: [`super::Answer::Audit`].
pub(super) const AUDIT_ANSWER_MAX: usize = 8 + RESPONSE_MAX;
/// Most bytes of an answer to a notice: [`super::Answer::Kept`].
pub(super) const KEPT_ANSWER_MAX: usize = 8 + NOTICE_GROUPS_MAX;

/// A steward has a peer of a slot's colour audit one of its holders for a while. The auditor needs no trust in who sends it: what
/// it asks for is the owner's own sheet, and the holder shows it nothing but what its colour may see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Duty {
    /// What defines the group.
    pub ticket: GroupTicket,
    /// The slot's sheet ([`cairn_proto::SlotSheet`]), as the owner sealed it.
    pub sheet: Vec<u8>,
    /// Who is to be asked. Sheets name the owner's holders; repairs bring others.
    pub holder: PeerKey,
    /// What of the slot it is to have.
    pub ordinals: Ordinals,
    /// How many auditors share this holder's audits, this one included.
    pub auditors: u8,
    /// Until when.
    pub until: Timestamp,
    /// The holder's own signed words that it took some of that, at most [`WORDS_MAX`]: of what repairs gave it ([`cairn_proto::Taken`]), and of
    /// what the owner did ([`cairn_proto::message::Receipt`]), both sealed. Nobody else's word makes a missing shard count against its name; what
    /// these say, [`crate::steward::words::signed_for`] tells.
    pub words: Vec<Vec<u8>>,
}

/// What an auditor found since it last said so, for the steward that had it audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Findings {
    /// Of this group ...
    pub group: GroupId,
    /// ... and slot ...
    pub slot: Slot,
    /// ... at this holder.
    pub holder: PeerKey,
    /// Right answers.
    pub good: u32,
    /// Challenges that were not answered in time.
    pub silent: u32,
    /// Shards that it is short of: it said so itself, or kept silent about them for a day while it answered for others.
    pub missing: Ordinals,
    /// Shards that it showed.
    pub shown: Ordinals,
    /// A proof that it lied ([`cairn_proto::audit::Evidence`], encoded), when there is one.
    pub proof: Option<Vec<u8>>,
}

/// A challenge for a holder: the signed [`cairn_proto::audit::Challenge`].
#[derive(Clone, Debug, PartialEq)]
pub struct Questioned {
    /// What defines the group.
    pub ticket: GroupTicket,
    /// The group's leave to read, from its owner; nobody else has one.
    pub grant: Option<Vec<u8>>,
    /// The challenge, as it was signed.
    pub challenge: SignedBytes,
}

/// What a holder says of itself to a group's stewards, before anybody asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// These shards of its slot are gone, or damaged: it would like to have them again.
    Lost {
        /// The group.
        group: GroupId,
        /// Its slot.
        slot: Slot,
        /// Which.
        ordinals: Ordinals,
    },
    /// It will be gone for good from this time on. Until then it serves what it has. Said again, it tells how far the others are
    /// ([`super::Answer::Kept`]).
    Leaving {
        /// From when on.
        at: Timestamp,
        /// Groups of which it holds something; at most [`NOTICE_GROUPS_MAX`], in ascending order.
        groups: Vec<GroupId>,
    },
    /// It stays after all.
    Staying,
}

/// What a steward answers to who leaves, for one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kept {
    /// It is no steward of that group.
    Unknown,
    /// Something of it would be lost: nobody else has it yet.
    Needed,
    /// Others have all of it.
    Elsewhere,
}

const DUTY: &str = "audit duty";
const NOTICE: &str = "holder's notice";

impl Duty {
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.ticket.encode());
        put_bytes(out, &self.sheet);
        out.extend_from_slice(self.holder.as_bytes());
        out.extend_from_slice(self.ordinals.as_bytes());
        out.push(self.auditors);
        put_number(out, self.until.0);
        // None is what duties had that knew of no words.
        if !self.words.is_empty() {
            put_number(out, self.words.len() as u64);
            self.words.iter().for_each(|word| put_bytes(out, word));
        }
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let duty = Self {
            ticket: GroupTicket::decode(r.raw(TICKET_SIZE)?)?,
            sheet: r.bytes(SHEET_MAX)?.to_vec(),
            holder: PeerKey::from_bytes(r.array()?),
            ordinals: Ordinals::from_bytes(r.array()?),
            auditors: r.byte()?,
            until: Timestamp(r.u64()?),
            words: if r.is_empty() { Vec::new() } else { words(r)? },
        };
        if duty.auditors == 0 {
            return Err(DecodeError::Invalid { what: DUTY, why: "nobody shares it" });
        }
        Ok(duty)
    }
}

fn words(r: &mut Reader<'_>) -> Result<Vec<Vec<u8>>, DecodeError> {
    let count = r.count(WORDS_MAX, 1)?;
    if count == 0 {
        return Err(DecodeError::Invalid { what: DUTY, why: "says twice that it brings no words" });
    }
    (0..count).map(|_| Ok(r.bytes(WORD_MAX)?.to_vec())).collect()
}

impl Findings {
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.group.as_bytes());
        out.push(self.slot.as_u8());
        out.extend_from_slice(self.holder.as_bytes());
        put_number(out, self.good.into());
        put_number(out, self.silent.into());
        out.extend_from_slice(self.missing.as_bytes());
        out.extend_from_slice(self.shown.as_bytes());
        put_option(out, self.proof.as_ref(), |out, proof| put_bytes(out, proof));
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            group: GroupId::from_bytes(r.array()?),
            slot: Slot::new(r.byte()?)?,
            holder: PeerKey::from_bytes(r.array()?),
            good: r.u32()?,
            silent: r.u32()?,
            missing: Ordinals::from_bytes(r.array()?),
            shown: Ordinals::from_bytes(r.array()?),
            proof: r.option(|r| Ok(r.bytes(EVIDENCE_MAX)?.to_vec()))?,
        })
    }
}

impl Questioned {
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.ticket.encode());
        put_option(out, self.grant.as_ref(), |out, grant| put_bytes(out, grant));
        let SignedBytes { body, signer, signature } = &self.challenge;
        [body, signer, signature].into_iter().for_each(|part| put_bytes(out, part));
    }

    pub(super) fn read(r: &mut Reader<'_>, grant_max: usize) -> Result<Self, DecodeError> {
        Ok(Self {
            ticket: GroupTicket::decode(r.raw(TICKET_SIZE)?)?,
            grant: r.option(|r| Ok(r.bytes(grant_max)?.to_vec()))?,
            challenge: SignedBytes {
                body: r.bytes(STATEMENT_MAX)?.to_vec(),
                signer: r.bytes(32)?.to_vec(),
                signature: r.bytes(64)?.to_vec(),
            },
        })
    }
}

impl Notice {
    pub(super) fn put(&self, out: &mut Vec<u8>) -> Result<(), DecodeError> {
        match self {
            Self::Lost { group, slot, ordinals } => {
                out.push(1);
                out.extend_from_slice(group.as_bytes());
                out.push(slot.as_u8());
                out.extend_from_slice(ordinals.as_bytes());
            }
            Self::Leaving { at, groups } => {
                at_most(NOTICE, NOTICE_GROUPS_MAX, groups.len())?;
                ascending(groups)?;
                out.push(2);
                put_number(out, at.0);
                put_number(out, groups.len() as u64);
                groups.iter().for_each(|group| out.extend_from_slice(group.as_bytes()));
            }
            Self::Staying => out.push(3),
        }
        Ok(())
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match r.byte()? {
            1 => Self::Lost {
                group: GroupId::from_bytes(r.array()?),
                slot: Slot::new(r.byte()?)?,
                ordinals: Ordinals::from_bytes(r.array()?),
            },
            2 => {
                let at = Timestamp(r.u64()?);
                let count = r.count(NOTICE_GROUPS_MAX, 32)?;
                let groups = (0..count).map(|_| r.array().map(GroupId::from_bytes)).collect::<Result<Vec<_>, _>>()?;
                ascending(&groups)?;
                Self::Leaving { at, groups }
            }
            3 => Self::Staying,
            _ => return Err(r.invalid("unknown notice")),
        })
    }

    /// Groups that it asks about.
    pub(super) const fn asked(&self) -> usize {
        match self {
            Self::Leaving { groups, .. } => groups.len(),
            Self::Lost { .. } | Self::Staying => 0,
        }
    }
}

/// Each once, in one order: one notice has one encoding.
fn ascending(groups: &[GroupId]) -> Result<(), DecodeError> {
    if groups.is_sorted_by(|a, b| a < b) {
        Ok(())
    } else {
        Err(DecodeError::Invalid { what: NOTICE, why: "groups are not in ascending order" })
    }
}

impl Kept {
    const ALL: [Self; 3] = [Self::Unknown, Self::Needed, Self::Elsewhere];

    pub(super) const fn code(self) -> u8 {
        match self {
            Self::Unknown => 0,
            Self::Needed => 1,
            Self::Elsewhere => 2,
        }
    }

    pub(super) fn of(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kept| kept.code() == code)
    }
}
