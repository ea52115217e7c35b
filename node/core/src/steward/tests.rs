//! A committee of stewards in one process, every message by hand.

use cairn_proto::{
    CodeParams, Domain, GroupTicket, Mandate, Powers, Region, ShardRoot, SheetRow, SlotSheet, Taken,
    mandate::{MANDATE_MS_MAX, is_real},
    message::Roles,
};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng as _;

mod apart;
mod audits;
mod condemned;
mod forks;
mod given_up;
mod hiccups;
mod hostile;
mod leaning;
mod notice;
mod restart;
mod small;
mod suspects;
mod times;
mod tokens;
mod turns;
mod urgent;
mod vetting;
mod words;

use super::*;
use crate::{
    budget::Limits,
    colour::colour,
    liveness::{Presence, Timers},
    part::{self, Unfit},
};

const HOUR: u64 = 3_600_000;
const STRIPES: u8 = 20;

/// Peers of every colour, a group with one holder a slot, and its stewards.
struct Village {
    ticket: GroupTicket,
    keys: BTreeMap<PeerKey, SigningKey>,
    views: Vec<PeerView>,
    stewards: BTreeMap<PeerKey, Steward>,
    now: Timestamp,
    rng: ChaCha8Rng,
    /// What was given to new holders.
    given: Vec<Effect>,
    /// Orders that were given, and by whom they were given again.
    orders: BTreeSet<cairn_proto::order::OrderId>,
    again: Vec<PeerKey>,
    /// Peers that nobody hears, and that hear nothing.
    away: BTreeSet<PeerKey>,
    /// Data shards of each stripe.
    used: u8,
    /// Slots that lie in the owner's own storage.
    leaning: BTreeSet<u8>,
    /// How long a turn is.
    step_ms: u64,
}

fn authority() -> SigningKey {
    SigningKey::from_bytes(&[77; 32])
}

/// Who brings records in.
fn owner() -> PeerKey {
    PeerKey::from_bytes([250; 32])
}

fn slot(at: u8) -> Slot {
    Slot::new(at).expect("valid")
}

impl Village {
    /// Of so many stewards, with the code RS(3,2).
    fn new(stewards: usize) -> Self {
        Self::with_stripes(stewards, 3)
    }

    fn with_stripes(stewards: usize, used: u8) -> Self {
        let now = Timestamp(1_000 * HOUR);
        let public = authority().verifying_key().to_bytes();
        let ticket = GroupTicket::new(public, [5; 32], CodeParams::LOW_PEER, 6).expect("valid");
        let mut village = Self {
            ticket,
            keys: BTreeMap::new(),
            views: Vec::new(),
            stewards: BTreeMap::new(),
            now,
            rng: ChaCha8Rng::seed_from_u64(7),
            given: Vec::new(),
            orders: BTreeSet::new(),
            again: Vec::new(),
            away: BTreeSet::new(),
            used,
            leaning: BTreeSet::new(),
            step_ms: 4 * 60_000,
        };
        for i in 0..140u8 {
            village.settle(i);
        }
        let chosen: Vec<PeerKey> = village.of_colour(5).into_iter().take(stewards).collect();
        let record = village.record(&chosen, 1);
        for peer in chosen {
            let budget = Budget::new(Limits::default(), 10 << 20, now);
            let key = village.keys[&peer].clone();
            let watch = Watch::new(Timers::default());
            let mut steward = Steward::new(key, village.domain(&peer), Rhythm::default(), watch, budget);
            steward.adopt(record.clone(), &[], owner(), now).expect("named");
            village.stewards.insert(peer, steward);
        }
        village.hear();
        village
    }

    fn settle(&mut self, i: u8) {
        let key = SigningKey::from_bytes(&[i + 1; 32]);
        let peer = PeerKey::from_bytes(key.verifying_key().to_bytes());
        self.keys.insert(peer, key);
        self.views.push(PeerView {
            peer,
            domain: Domain::operator(&format!("d{i}")).expect("valid"),
            subnet: None,
            subnet_seen: false,
            region: Region::unknown(),
            region_basis: crate::region::Basis::Declared,
            network: None,
            roles: Roles::STORAGE,
            protocol: cairn_proto::PROTOCOL_VERSION,
            give: cairn_proto::ByteSize(100 << 30),
            free: cairn_proto::ByteSize(90 << 30),
            first_seen: Timestamp(0),
            last_heard: self.now,
            reachable: Some(true),
            rtt_ms: Some(20),
            loss: 0,
            reputation: 900,
            newcomer: false,
        });
    }

    fn of_colour(&self, class: usize) -> Vec<PeerKey> {
        self.views.iter().filter(|v| colour(&self.ticket, &v.domain).index() == class).map(|v| v.peer).collect()
    }

    fn domain(&self, peer: &PeerKey) -> Domain {
        self.views.iter().find(|view| view.peer == *peer).expect("known").domain.clone()
    }

    /// An order of the stewards of the first mandate.
    fn order(&self, nonce: u8, action: Action) -> Order {
        let (_, steward) = self.stewards.iter().next().expect("one");
        let map = steward.map_for_owner(&self.ticket.id()).expect("watched");
        let mut committee = cairn_proto::Committee::of(&Mandate::open(&map.mandate).expect("signed"));
        map.changes.iter().for_each(|change| committee.change(change).expect("holds"));
        Order {
            group: self.ticket.id(),
            generation: committee.mandate().generation,
            committee: *committee.id(),
            nonce: [nonce; 16],
            issued: self.now,
            expires: self.now.plus_ms(HOUR),
            urgent: false,
            action,
        }
    }

    /// Whether a steward signs what another one proposes.
    fn signs(&mut self, voter: PeerKey, from: PeerKey, order: &Order) -> bool {
        let vote = order.sign(&self.keys[&from]).expect("valid");
        let (views, now) = (self.views.clone(), self.now);
        let steward = self.stewards.get_mut(&voter).expect("there");
        steward.told(from, Say::Propose { order: order.clone(), vote }, now, &views);
        let mut signed = false;
        while let Some(effect) = steward.poll() {
            signed |= matches!(&effect, Effect::Tell { say, .. } if matches!(**say, Say::Vote { .. }));
        }
        signed
    }

    fn certificate(&self, order: &Order, voters: impl IntoIterator<Item = PeerKey>) -> Certificate {
        let vote = |peer: PeerKey| (peer, order.sign(&self.keys[&peer]).expect("valid"));
        Certificate::new(order.clone(), voters.into_iter().map(vote))
    }

    /// A rebuild of slot 2, which `to` gets.
    fn rebuild(&self, to: PeerKey, ordinals: &[u8]) -> Action {
        let helpers = [0, 1, 3].map(|at| (slot(at), self.holder(at))).to_vec();
        Action::Rebuild { slot: slot(2), to, ordinals: ordinals.iter().copied().collect(), helpers }
    }

    /// Whom a repair of the slot chooses, best first, by one of the stewards.
    fn ranked(&self, at: u8) -> Vec<PeerKey> {
        let mut avoided = BTreeSet::new();
        let (me, steward) = self.stewards.iter().next().expect("one");
        let group = &steward.groups[&self.ticket.id()];
        let domain = self.domain(me);
        let scene =
            plan::Scene::new((*me, &domain), self.now, &self.views, (&steward.watch, &steward.places), &steward.rhythm);
        avoided.extend(group.holders(slot(at)));
        scene.new_holders(group, slot(at), &avoided)
    }

    fn holder(&self, at: u8) -> PeerKey {
        self.of_colour(at.into())[0]
    }

    fn record(&self, stewards: &[PeerKey], generation: u64) -> GroupRecord {
        self.record_of(stewards, generation, 1)
    }

    /// Of the first mandate.
    fn with_newer_sheets(&self, stewards: &[PeerKey]) -> GroupRecord {
        self.record_of(stewards, 1, 2)
    }

    fn record_of(&self, stewards: &[PeerKey], generation: u64, sheets: u64) -> GroupRecord {
        let mandate = Mandate {
            ticket: self.ticket,
            generation,
            stewards: stewards.to_vec(),
            replicas: 1,
            powers: Powers::ALL,
            monthly_bytes: 1 << 30,
            issued: Timestamp(self.now.0 - HOUR),
            ends: Timestamp(self.now.0 - HOUR).plus_ms(MANDATE_MS_MAX),
        };
        let sheet = |at: u8| {
            let root = |ordinal: u8| ShardRoot::from_bytes([at * 32 + ordinal; 32]);
            let real = |_: &u8| is_real(CodeParams::LOW_PEER, self.used, slot(at));
            let rows = (0..STRIPES).filter(real);
            let rows = rows.map(|ordinal| SheetRow { ordinal, used: self.used, root: root(ordinal) }).collect();
            let leans = self.leaning.contains(&at);
            let holders = if leans { Vec::new() } else { vec![self.holder(at)] };
            SlotSheet { group: self.ticket.id(), slot: slot(at), generation: sheets, holders, rows, leans }
                .seal(&authority())
                .expect("valid")
        };
        GroupRecord::new(mandate.seal(&authority()).expect("valid"), (0..5).map(sheet).collect()).expect("whole")
    }

    /// Everybody who is there is heard by every steward who is.
    fn hear(&mut self) {
        let now = self.now;
        for view in &mut self.views {
            if !self.away.contains(&view.peer) {
                view.last_heard = now;
            }
            view.reachable = Some(!self.away.contains(&view.peer));
        }
        for (_, steward) in self.stewards.iter_mut().filter(|(peer, _)| !self.away.contains(*peer)) {
            for view in self.views.iter().filter(|view| !self.away.contains(&view.peer)) {
                steward.heard(view.peer, now);
            }
        }
    }

    /// Some minutes pass, and everybody looks; messages arrive at once.
    fn turn(&mut self) {
        self.now = self.now.plus_ms(self.step_ms);
        self.hear();
        let peers: Vec<PeerKey> = self.stewards.keys().copied().filter(|peer| !self.away.contains(peer)).collect();
        for peer in peers {
            // Nobody is told of itself.
            let (now, mut views) = (self.now, self.views.clone());
            views.retain(|view| view.peer != peer);
            if let Some(steward) = self.stewards.get_mut(&peer) {
                steward.tick(now, &views, &mut self.rng);
            }
            self.pump();
        }
    }

    fn turns(&mut self, hours: u64) {
        for _ in 0..hours * 15 {
            self.turn();
        }
    }

    /// Delivers what is said until nobody says anything.
    fn pump(&mut self) {
        for _ in 0..1000 {
            let mut said = Vec::new();
            for (from, steward) in &mut self.stewards {
                while let Some(effect) = steward.poll() {
                    match effect {
                        Effect::Tell { to, say } => said.push((*from, to, *say)),
                        Effect::Give { ref credentials, .. } => {
                            if self.orders.insert(credentials.certificate.order.id().expect("valid")) {
                                self.given.push(effect);
                            } else {
                                self.again.push(*from);
                            }
                        }
                        Effect::Persist(_) | Effect::Forget(_) => {}
                    }
                }
            }
            if said.is_empty() {
                return;
            }
            for (from, to, say) in said {
                self.tell(from, to, say);
            }
        }
    }

    fn tell(&mut self, from: PeerKey, to: PeerKey, say: Say) {
        let (now, views) = (self.now, self.views.clone());
        if self.away.contains(&from) || self.away.contains(&to) {
            return;
        }
        if let Some(steward) = self.stewards.get_mut(&to) {
            steward.told(from, say, now, &views);
        }
    }

    /// The new holder of the oldest order does as told and says so to everybody.
    fn carry_out(&mut self) -> Action {
        let Effect::Give { to, credentials, sheet, previous } = self.given.remove(0) else { panic!("only these") };
        let domain = self.domain(&to);
        let task = part::may_take(&credentials, &sheet, &to, &domain, None, self.now).expect("fine");
        let taken = Taken {
            order: credentials.certificate.order.id().expect("valid"),
            group: self.ticket.id(),
            slot: task.slot,
            ordinals: task.rows.iter().map(|row| row.ordinal).collect(),
            previous,
            at: self.now,
            holder: to,
        };
        let sealed = taken.seal(&self.keys[&to]);
        for steward in task.part.stewards {
            let certificate = credentials.certificate.clone();
            self.tell(to, steward, Say::Taken { certificate, sealed: sealed.clone() });
        }
        self.pump();
        credentials.certificate.order.action.clone()
    }

    fn report(&self) -> GroupReport {
        let (_, steward) = self.stewards.iter().find(|(peer, _)| !self.away.contains(*peer)).expect("one");
        steward.report(&self.ticket.id(), self.now).expect("watched")
    }
}

#[test]
fn a_lost_slot_is_rebuilt_in_batches_by_one_new_holder() {
    let mut village = Village::new(7);
    village.turns(1);
    assert!(village.given.is_empty(), "nothing is wrong");
    let lost = village.holder(2);
    village.away.insert(lost);
    (0..14).for_each(|_| village.turn());
    assert!(village.given.is_empty(), "a machine may be silent for an hour");
    let mut stripes = 0;
    let mut new = BTreeSet::new();
    for _ in 0..STRIPES {
        for _ in 0..24 * 15 * 8 {
            if village.given.is_empty() && stripes < STRIPES.into() {
                village.turn();
            }
        }
        if village.given.is_empty() {
            break;
        }
        match village.carry_out() {
            Action::Rebuild { slot: at, to, ordinals, helpers } => {
                assert_eq!((at, helpers.len()), (slot(2), 4), "three, and one in case that somebody lies");
                assert!(ordinals.len() <= 8, "8 MiB to each at once: {}", ordinals.len());
                stripes += ordinals.len();
                new.insert(to);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((stripes, new.len()), (STRIPES.into(), 1));
    assert!(new.iter().all(|peer| village.of_colour(2).contains(peer)));
    village.turns(2);
    assert!(village.given.is_empty(), "and that was all");
    let repaired = village.report().log.iter().filter(|entry| matches!(entry.what, What::Repaired { .. })).count();
    assert!(repaired >= 3);
    // Whoever is only missed is not lost: an emergency's spare copy says nothing of how long repairs take.
    for steward in village.stewards.values() {
        let seen = steward.repairs(village.now).figures();
        assert_eq!((seen.repairs, seen.open), (0, 0), "{seen:?}");
    }
    // Who was lost comes back, and counts again.
    village.away.clear();
    village.turns(1);
    assert_eq!(village.report().slots[2].len(), 2);
}

#[test]
fn a_quorum_it_takes() {
    let mut village = Village::new(7);
    let lost = village.holder(1);
    village.away.insert(lost);
    let few: Vec<PeerKey> = village.stewards.keys().copied().take(3).collect();
    village.turns(24 * 7);
    village.given.clear();
    // Four of seven are there, and want it: not enough for shards. They put others in the places of those who are lost.
    village.away.extend(few.iter().copied());
    for _ in 0..3 * 15 {
        village.turn();
        assert!(village.given.is_empty());
    }
    village.turns(24);
    let stewards = village.report().stewards;
    assert!(few.iter().all(|gone| stewards.iter().all(|(peer, _)| peer != gone)), "replaced: {stewards:?}");
}

#[test]
fn one_order_at_a_time_and_none_while_all_the_others_are_silent() {
    let mut village = Village::new(7);
    village.turns(2);
    let me = *village.stewards.keys().next().expect("one");
    // It hears nobody any more.
    village.away.extend(village.keys.keys().copied().filter(|peer| *peer != me));
    village.turns(24 * 9);
    assert!(village.given.is_empty(), "whoever is cut off orders nothing");
    let report = village.report();
    assert!(report.log.iter().all(|entry| !matches!(entry.what, What::Ordered { .. } | What::Stewards { .. })));
}

#[test]
fn no_vote_for_a_peer_of_another_colour() {
    let mut village = Village::new(4);
    village.away.insert(village.holder(2));
    village.turns(24 * 8);
    village.given.clear();
    village.turns(7);
    let (liar, victim) =
        (*village.stewards.keys().next().expect("one"), *village.stewards.keys().last().expect("four"));
    let ask = |village: &mut Village, nonce: u8, to: PeerKey| {
        let order = village.order(nonce, village.rebuild(to, &[0]));
        village.signs(victim, liar, &order)
    };
    let other_colour = village.of_colour(4)[1];
    let of_stewards = village.of_colour(5)[7];
    let holder = village.holder(4);
    assert!(!ask(&mut village, 1, other_colour));
    assert!(!ask(&mut village, 2, of_stewards));
    assert!(!ask(&mut village, 3, holder));
    let right = village.ranked(2)[0];
    assert!(ask(&mut village, 4, right), "and for the right one it signs");
    assert!(!ask(&mut village, 5, right), "once");
}

/// SEP-1 at the receiver: all stewards lie together.
#[test]
fn a_quorum_of_liars_gets_nobody_to_take_another_slot() {
    let village = Village::new(7);
    let to = village.of_colour(4)[1];
    let copy = Action::Copy { slot: slot(2), from: village.holder(2), to, ordinals: [0].into_iter().collect() };
    let order = village.order(9, copy);
    let votes = village.stewards.keys().map(|peer| (*peer, order.sign(&village.keys[peer]).expect("valid")));
    let certificate = Certificate::new(order.clone(), votes);
    let record = village.stewards.values().next().expect("seven").groups[&village.ticket.id()].record.clone();
    let credentials = Credentials {
        mandate: record.sealed_mandate().to_vec(),
        changes: Vec::new(),
        certificate: certificate.clone(),
    };
    let sheet = record.sealed_sheet(slot(2)).expect("there");
    let domain = |peer: PeerKey| village.domain(&peer);
    let take = |held, now| part::may_take(&credentials, sheet, &to, &domain(to), held, now);
    assert_eq!(take(None, village.now), Err(Unfit::WrongColour { slot: slot(2) }));
    // One of the right colour takes it, unless it once had another slot, or the time is over, or it is not named.
    let right = village.of_colour(2)[1];
    let mine = |held, now| part::may_take(&credentials, sheet, &to, &domain(right), held, now);
    assert!(mine(None, village.now).is_ok() && mine(Some(slot(2)), village.now).is_ok());
    assert_eq!(mine(Some(slot(4)), village.now), Err(Unfit::OtherSlot { held: slot(4) }));
    assert_eq!(mine(None, village.now.plus_ms(HOUR)), Err(Unfit::Expired));
    assert_eq!(part::may_take(&credentials, sheet, &right, &domain(right), None, village.now), Err(Unfit::NotNamed));
    let other_sheet = record.sealed_sheet(slot(3)).expect("there");
    let wrong = part::may_take(&credentials, other_sheet, &to, &domain(right), None, village.now);
    assert_eq!(wrong, Err(Unfit::NoRoots));
    // The source hands it to nobody else, and nobody else hands out anything.
    let from = village.holder(2);
    let serve = |me: &PeerKey, to: &PeerKey, of| part::may_serve(&credentials, me, (to, &domain(of)), village.now);
    assert!(serve(&from, &to, right).is_ok());
    assert_eq!(serve(&from, &to, to), Err(Unfit::WrongColour { slot: slot(2) }));
    assert_eq!(serve(&from, &right, right), Err(Unfit::NotNamed));
    assert_eq!(serve(&to, &from, right), Err(Unfit::NotNamed));
    assert!(part::may_help(&credentials, &from, Some(slot(2)), &domain(right), village.now).is_err());
    // Four of seven are no quorum.
    let few = village.stewards.keys().take(4).map(|peer| (*peer, order.sign(&village.keys[peer]).expect("valid")));
    let forged = Credentials { certificate: Certificate::new(order.clone(), few), ..credentials.clone() };
    assert!(matches!(part::may_take(&forged, sheet, &to, &domain(right), None, village.now), Err(Unfit::Forged(_))));
}

#[test]
fn what_a_holder_says_it_lacks_is_healed_at_that_holder() {
    let mut village = Village::new(5);
    village.turns(1);
    let holder = village.holder(3);
    let has: Ordinals = (0..STRIPES).filter(|ordinal| *ordinal != 4).collect();
    let (group, now) = (village.ticket.id(), village.now);
    for steward in village.stewards.values_mut() {
        steward.reported(holder, group, slot(3), &has, now);
    }
    while village.given.is_empty() {
        village.turn();
    }
    match village.carry_out() {
        Action::Rebuild { slot: at, to, ordinals, .. } => {
            assert_eq!((at, to, ordinals.iter().collect::<Vec<_>>()), (slot(3), holder, vec![4]));
        }
        other => panic!("{other:?}"),
    }
    village.turns(1);
    assert!(village.given.is_empty());
    assert_eq!(village.report().assessment.live_slots, 5);
    // Of a stranger nobody believes that it lacks anything.
    let stranger = village.of_colour(3)[5];
    let now = village.now;
    for steward in village.stewards.values_mut() {
        steward.reported(stranger, group, slot(3), &Ordinals::default(), now);
    }
    assert!(village.report().log.iter().all(|e| !matches!(e.what, What::Lacks { holder, .. } if holder == stranger)));
}

#[test]
fn records_are_taken_up_by_those_whom_they_name() {
    let mut village = Village::new(3);
    let stewards: Vec<PeerKey> = village.stewards.keys().copied().collect();
    let (now, old) = (village.now, village.record(&stewards, 1));
    let newer = village.record(&stewards, 2);
    let others = village.record(&[village.of_colour(5)[7]], 3);
    let steward = village.stewards.get_mut(&stewards[0]).expect("there");
    assert_eq!(steward.adopt(old, &[], owner(), now), Err(Declined::Old));
    assert_eq!(steward.adopt(newer.clone(), &[], owner(), now), Ok(()));
    assert_eq!(steward.adopt(others.clone(), &[], owner(), now), Err(Declined::NotNamed));
    assert_eq!(steward.groups().count(), 0, "the owner chose others");
    assert_eq!(steward.adopt(newer.clone(), &[], owner(), now), Ok(()));
    assert_eq!(steward.adopt(newer.clone(), &[], owner(), newer.mandate.ends), Err(Declined::Expired));
    // At the end of the mandate it lets go.
    let views = village.views.clone();
    steward.tick(newer.mandate.ends, &views, &mut village.rng);
    assert_eq!(steward.groups().count(), 0);
    let presence = steward.watch().belief(&stewards[1], now).presence;
    assert!(presence <= Presence::Late);
}
