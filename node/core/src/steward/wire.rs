//! What travels on the stewards' protocol: between stewards, from them to new holders, from owners to them.

pub mod care;
mod codec;

pub use care::{Duty, Findings, Kept, Notice, Questioned};
pub use codec::{MESSAGE_MAX, SHORT_ANSWER_MAX};

use cairn_proto::{Certificate, GroupTicket};

use super::{
    log::Happening,
    message::{Past, Say},
};
use crate::part::Credentials;

/// A question or an order. Its sender is whom the transport authenticated.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// Between stewards, and from a new holder to them.
    Say(Box<Say>),
    /// A steward gives a new holder its order.
    Give {
        /// The order, and all that it takes to check it.
        credentials: Box<Credentials>,
        /// Its slot's sheet, sealed.
        sheet: Vec<u8>,
        /// Hash of the slot's newest map entry.
        previous: [u8; 32],
    },
    /// An owner leaves a group to a steward: [`cairn_proto::GroupRecord::encode`].
    Register {
        /// The record.
        record: Vec<u8>,
    },
    /// An owner asks what became of a group.
    Ask {
        /// What defines the group.
        ticket: GroupTicket,
        /// The group's leave ([`cairn_proto::Grant`], sealed) for the asker, at this steward, to read.
        grant: Vec<u8>,
    },
    /// A steward has a peer audit a holder.
    Duty(Box<Duty>),
    /// An auditor tells its steward what it found.
    Findings(Box<Findings>),
    /// An auditor, or the owner, has a holder show what it keeps.
    Challenge(Box<Questioned>),
    /// A holder tells a steward what it should know.
    Notice(Notice),
}

/// What is answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Taken note of; durable where that matters.
    Done,
    /// What a steward knows of a group.
    Map(Box<GroupMap>),
    /// A holder's answer to a challenge: [`cairn_proto::audit::Response`], encoded.
    Audit(Vec<u8>),
    /// How far the others are, for each group that a leaving holder named.
    Kept(Vec<Kept>),
    /// No.
    Refused(Refusal),
}

/// Why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Ask again later.
    Busy,
    /// This peer is no steward of the group, or stewards nothing.
    NotSteward,
    /// It has something newer.
    Old,
    /// What was sent does not hold.
    Forged,
    /// No room for another group.
    Full,
}

/// What a steward knows of a group, for its owner.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupMap {
    /// The mandate that it goes by, as it was signed.
    pub mandate: Vec<u8>,
    /// The sheets' generations, by slot: what of the owner's latest word arrived.
    pub sheets: Vec<u64>,
    /// Changes of stewards, in order.
    pub changes: Vec<Certificate>,
    /// Older mandates that some of the entries rest on.
    pub past: Vec<Past>,
    /// Repairs that were carried out: the order and the new holder's sealed word.
    pub entries: Vec<(Certificate, Vec<u8>)>,
    /// What happened, in the order in which this steward learned of it.
    pub log: Vec<Happening>,
}
