//! What stewards say to each other, and new holders to them.

mod codec;

pub(super) use codec::{put_changes, put_entries, put_past, read_changes, read_entries, read_past};

use cairn_proto::{Certificate, GroupId, GroupRecord, Order, PeerKey, order::OrderId};

/// A message. Its sender is whom the transport authenticated; everything else in it is checked.
#[derive(Clone, Debug, PartialEq)]
pub enum Say {
    /// Sign this if you see it the same way; my own signature is with it.
    Propose {
        /// The order.
        order: Order,
        /// The proposer's signature.
        vote: [u8; 64],
    },
    /// I see it the same way.
    Vote {
        /// The group.
        group: GroupId,
        /// Which order.
        order: OrderId,
        /// The signature.
        vote: [u8; 64],
    },
    /// It is ordered.
    Certified {
        /// The order and its signatures.
        certificate: Certificate,
    },
    /// A new holder has what it was given; anybody may pass it on.
    Taken {
        /// Under this order.
        certificate: Certificate,
        /// The holder's [`cairn_proto::Taken`], sealed.
        sealed: Vec<u8>,
    },
    /// A new holder cannot have it.
    Failed {
        /// The group.
        group: GroupId,
        /// Which order.
        order: OrderId,
        /// Why.
        failure: Failure,
    },
    /// Is your map the same as mine?
    Compare {
        /// The group.
        group: GroupId,
        /// Which mandate I have.
        generation: u64,
        /// Of stewards and entries.
        digest: [u8; 32],
    },
    /// Mine is this.
    Map {
        /// The group.
        group: GroupId,
        /// Stewards that were replaced, in that order.
        changes: Vec<Certificate>,
        /// Older mandates that some of the entries rest on.
        past: Vec<Past>,
        /// Orders that were carried out, with the holders' word.
        entries: Vec<(Certificate, Vec<u8>)>,
    },
    /// All that a new steward needs.
    Record {
        /// What the owner left.
        record: Box<GroupRecord>,
        /// As in [`Say::Map`].
        changes: Vec<Certificate>,
        /// As in [`Say::Map`].
        past: Vec<Past>,
        /// As in [`Say::Map`].
        entries: Vec<(Certificate, Vec<u8>)>,
    },
    /// Tokens to ask holders with: from the owner, or from a steward that kept them for its successors.
    Tokens {
        /// The group.
        group: GroupId,
        /// [`cairn_proto::tokens::Booklet`], sealed: to be used.
        own: Option<Vec<u8>>,
        /// Another one, not to be used but to be given to one steward whom the others put in.
        spare: Option<Vec<u8>>,
    },
}

/// A mandate that the owner has replaced since, with its changes of stewards: what older entries of a map are checked by.
#[derive(Clone, Debug, PartialEq)]
pub struct Past {
    /// As it was signed.
    pub mandate: Vec<u8>,
    /// Under it, in order.
    pub changes: Vec<Certificate>,
}

/// Most older mandates that are kept of a group: an owner who renews every three months has entries of a year.
pub const PAST_MAX: usize = 4;

/// Why an order could not be carried out, by the new holder's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The new holder cannot take it: no room, another colour by its own reckoning, another slot held.
    Refused,
    /// This peer, whom the order names, could not be reached or did not have its part.
    Missing(PeerKey),
    /// What came of it had the wrong root. This peer sent it, where that is known.
    Wrong(Option<PeerKey>),
}
