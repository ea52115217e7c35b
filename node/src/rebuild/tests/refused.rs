//! What a helper does not help with. Each case is an invitation or a session that is taken, but for one thing.

use std::{sync::Arc, time::Duration};

use cairn_core::{
    blind::{
        EphemeralKey, EphemeralSecret, Order as Agreement, Session,
        invite::{Asked, Frame, Invite, Offer},
        wire::{MESSAGE_MAX, Message, Refusal},
    },
    erasure::Codec,
    part::Credentials,
};
use cairn_proto::{Action, Certificate, CodeParams, PeerKey, ShardRoot, SheetRow, Slot, SlotSheet, Timestamp};
use ed25519_dalek::SigningKey;

use super::{
    super::{Pipe, RebuildNet, pipe},
    village::{DEADLINE, Node, Plan, Village, authority, domain_of, slot, start_node},
};
use crate::network::{
    NetworkHandle, clock,
    keeper::{ShardKeeper as _, memory::MemoryKeeper},
};

const HELP: Asked = Asked::Help { attempt: 0 };

/// 3+2; the last slot is lost, the stripe has two data shards, three helpers are named.
async fn village() -> Village {
    Village::start(Plan::new(CodeParams::LOW_PEER, 4, &[0, 1, 3], &[2])).await
}

fn invite(village: &Village, credentials: Credentials) -> Invite {
    Invite { credentials, sheet: village.sealed_sheet(), ordinal: 0, asked: HELP }
}

/// What a helper says to an invitation, when it knows whom it speaks to.
async fn asked(by: &NetworkHandle, helper: PeerKey, invite: &Invite) -> (Pipe, Message) {
    let ask = async {
        loop {
            let mut pipe = RebuildNet::open(by, helper).await.expect("reached");
            pipe::send(&mut pipe, &Message::Invite(Box::new(invite.clone())), DEADLINE).await.expect("sent");
            match pipe::receive(&mut pipe, MESSAGE_MAX, DEADLINE).await.expect("answered") {
                Message::No(Refusal::Unknown | Refusal::Busy) => tokio::time::sleep(Duration::from_millis(50)).await,
                answer => return (pipe, answer),
            }
        }
    };
    tokio::time::timeout(DEADLINE, ask).await.expect("in time")
}

async fn answer(by: &NetworkHandle, helper: PeerKey, invite: &Invite) -> Message {
    asked(by, helper, invite).await.1
}

const UNFIT: Message = Message::No(Refusal::Unfit);

#[tokio::test(flavor = "multi_thread")]
async fn wrong_orders_and_wrong_bearers() {
    let village = village().await;
    let (helper, to) = (village.nodes[&0].peer, village.new_holder());
    let good = invite(&village, village.credentials());
    assert!(matches!(answer(&to.handle, helper, &good).await, Message::Key(_)), "nothing stands against it");

    // Of the right colour, and not whom the order names.
    let keeper = Arc::new(MemoryKeeper::default());
    let door: Vec<String> =
        to.handle.dial_addresses().await.expect("running").iter().map(ToString::to_string).collect();
    let (twin, _) = start_node(99, &domain_of(&village.ticket, village.lost), &keeper, &door).await;
    assert_eq!(answer(&twin, helper, &good).await, UNFIT, "not named");

    // Named, and of another colour: a whole quorum is not enough.
    let fourth = &village.nodes[&3];
    let helpers = village.helpers[..2].to_vec();
    let action = |to: PeerKey| Action::Rebuild {
        slot: village.lost,
        to,
        ordinals: [0].into_iter().collect(),
        helpers: helpers.clone(),
    };
    let order = |to: PeerKey, issued: Timestamp| invite(&village, village.order(action(to), issued));
    assert_eq!(answer(&fourth.handle, helper, &order(fourth.peer, clock())).await, UNFIT, "SEP-1: another colour");
    assert!(matches!(answer(&to.handle, helper, &order(to.peer, clock())).await, Message::Key(_)), "the colour it was");

    let before = Timestamp(clock().0 - 2 * 3_600_000);
    assert_eq!(answer(&to.handle, helper, &order(to.peer, before)).await, UNFIT, "expired");
    assert_eq!(answer(&to.handle, fourth.peer, &order(to.peer, clock())).await, UNFIT, "it is no helper of this order");

    let mut unsigned = good.clone();
    unsigned.credentials.certificate = Certificate::new(good.credentials.certificate.order.clone(), []);
    assert_eq!(answer(&to.handle, helper, &unsigned).await, UNFIT, "no quorum");
    assert_eq!(answer(&to.handle, helper, &Invite { ordinal: 1, ..good.clone() }).await, UNFIT, "not ordered");
}

/// With another `used` the sum is somebody else's shard.
#[tokio::test(flavor = "multi_thread")]
async fn wrong_sheets_and_missing_shards() {
    let village = village().await;
    let (helper, to) = (village.nodes[&0].peer, village.new_holder());
    let good = invite(&village, village.credentials());
    let one = SheetRow { used: 1, ..village.sheet.rows[0] };
    let lied = SlotSheet { rows: vec![one], ..village.sheet.clone() };
    let forged = lied.seal(&SigningKey::from_bytes(&[66; 32])).expect("valid");
    assert_eq!(answer(&to.handle, helper, &Invite { sheet: forged, ..good.clone() }).await, UNFIT, "not the owner's");
    let other = SlotSheet { slot: slot(3), ..village.sheet.clone() }.seal(&authority()).expect("valid");
    assert_eq!(answer(&to.handle, helper, &Invite { sheet: other, ..good.clone() }).await, UNFIT, "of another slot");

    let print = Invite { asked: Asked::Print { seed: [1; 32] }, ..good.clone() };
    assert!(matches!(answer(&to.handle, helper, &print).await, Message::Print(_)));
    assert_eq!(answer(&to.handle, helper, &print).await, Message::No(Refusal::Ledger), "one for each order");

    village.nodes[&0].keeper.delete(village.ticket.id(), slot(0), 0).await.expect("was there");
    assert_eq!(answer(&to.handle, helper, &good).await, Message::No(Refusal::NoShard));
}

/// What the new holder of an order needs to plan sessions by hand.
struct Liar<'a> {
    village: &'a Village,
    frame: Frame,
    invite: Invite,
}

impl<'a> Liar<'a> {
    fn new(village: &'a Village, credentials: Credentials, used: u8) -> Self {
        let row = SheetRow { ordinal: 0, used, root: ShardRoot::from_bytes([0; 32]) };
        let frame = Frame::new(&credentials, &village.ticket, &row).expect("an order");
        Self { village, frame, invite: invite(village, credentials) }
    }

    fn to(&self) -> &Node {
        self.village.new_holder()
    }

    /// The honest key of a helper, with the stream that waits for the session.
    async fn key(&self, of: usize) -> (Pipe, Offer) {
        let (pipe, answer) = asked(&self.to().handle, self.village.nodes[&of].peer, &self.invite).await;
        let Message::Key(offer) = answer else { panic!("{answer:?}") };
        (pipe, offer)
    }

    fn session(&self, tag: u8, keys: &[(Slot, EphemeralKey)]) -> Session {
        let order = Agreement {
            group: self.village.ticket.id(),
            ordinal: 0,
            used: self.frame.used,
            lost: self.village.lost,
            attempt: 0,
            nonce: [tag; 32],
            new_holder: secret(tag).public(),
            helpers: keys.to_vec(),
        };
        Session::plan(&Codec::new(self.village.ticket.code()), order).expect("a session")
    }
}

fn secret(tag: u8) -> EphemeralSecret {
    EphemeralSecret::from_entropy([tag; 32])
}

async fn told(mut pipe: Pipe, session: &Session, offers: &[&Offer]) -> Message {
    let signatures = offers.iter().map(|offer| offer.signature).collect();
    let message = Message::Session(Box::new((session.clone(), signatures)));
    pipe::send(&mut pipe, &message, DEADLINE).await.expect("sent");
    pipe::receive(&mut pipe, MESSAGE_MAX, DEADLINE).await.expect("answered")
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_sessions() {
    let village = village().await;
    let liar = Liar::new(&village, village.credentials(), 2);
    let (zero, one) = (slot(0), slot(1));
    let no = Message::No(Refusal::Session);

    // SEP-1: the new holder makes the other's key itself, and could take every mask off.
    let (pipe, own) = liar.key(0).await;
    let made = liar.frame.offer(0, one, secret(9).public(), &liar.to().key);
    let session = liar.session(1, &[(zero, own.key), (one, made.key)]);
    assert_eq!(told(pipe, &session, &[&own, &made]).await, no, "a key that its helper did not sign");

    // A true key of the other's, for another attempt.
    let (pipe, own) = liar.key(0).await;
    let stale = liar.frame.offer(1, one, secret(9).public(), &village.nodes[&1].key);
    let session = liar.session(2, &[(zero, own.key), (one, stale.key)]);
    assert_eq!(told(pipe, &session, &[&own, &stale]).await, no, "a key of another attempt");

    // Only one data shard, it says: the sum would be a multiple of what slot 0 has.
    let alone = Liar::new(&village, village.credentials(), 1);
    let (pipe, own) = alone.key(0).await;
    let session = alone.session(3, &[(zero, own.key)]);
    assert_eq!(told(pipe, &session, &[&own]).await, no, "SEP-1: another number of data shards than the owner's");

    // As it should be; and a second time, with our part in it signed, but used up.
    let (pipe, own) = liar.key(0).await;
    let (_other, theirs) = liar.key(1).await;
    let session = liar.session(4, &[(zero, own.key), (one, theirs.key)]);
    assert_eq!(told(pipe, &session, &[&own, &theirs]).await, Message::Ready);
    let (again, _) = liar.key(0).await;
    assert_eq!(told(again, &session, &[&own, &theirs]).await, Message::No(Refusal::Ledger), "replayed");

    // Its key of a session before, in another session.
    let (again, fresh) = liar.key(1).await;
    let mixed = liar.session(5, &[(zero, own.key), (one, fresh.key)]);
    assert_eq!(told(again, &mixed, &[&own, &fresh]).await, Message::Ready, "slot 1 has not met these keys");
    let (again, _) = liar.key(0).await;
    assert_eq!(told(again, &mixed, &[&own, &fresh]).await, Message::No(Refusal::Ledger), "slot 0 has");
}

/// A quorum of liars names somebody as holder of a slot that cannot be: there to take masks off.
#[tokio::test(flavor = "multi_thread")]
async fn a_puppet_among_the_helpers() {
    let village = village().await;
    let puppet = &village.nodes[&3];
    let helpers = vec![village.helpers[0], (slot(1), puppet.peer)];
    let to = village.new_holder().peer;
    let action = Action::Rebuild { slot: village.lost, to, ordinals: [0].into_iter().collect(), helpers };
    let liar = Liar::new(&village, village.order(action, clock()), 2);
    let (pipe, own) = liar.key(0).await;
    let made = liar.frame.offer(0, slot(1), secret(9).public(), &puppet.key);
    let session = liar.session(1, &[(slot(0), own.key), (slot(1), made.key)]);
    assert_eq!(told(pipe, &session, &[&own, &made]).await, Message::No(Refusal::Session));
}
