//! A village: peers of every colour, a group of one of them, and its stewards, who tell each other what the test delivers.

use cairn_proto::{Domain, Powers, SheetRow, mandate::MANDATE_MS_MAX, message::Roles};

use super::*;
use crate::colour::colour;

pub(super) const HOUR: u64 = 3_600_000;
pub(super) const STRIPES: u8 = 20;

/// Peers of every colour, a group with one holder a slot, and its stewards.
pub(super) struct Village {
    pub(super) ticket: GroupTicket,
    pub(super) keys: BTreeMap<PeerKey, SigningKey>,
    pub(super) views: Vec<PeerView>,
    pub(super) stewards: BTreeMap<PeerKey, Steward>,
    pub(super) now: Timestamp,
    pub(super) rng: ChaCha8Rng,
    /// What was given to new holders.
    pub(super) given: Vec<Effect>,
    /// Orders that were given, and by whom they were given again.
    pub(super) orders: BTreeSet<cairn_proto::order::OrderId>,
    pub(super) again: Vec<PeerKey>,
    /// Peers that nobody hears, and that hear nothing.
    pub(super) away: BTreeSet<PeerKey>,
    /// Data shards of each stripe.
    pub(super) used: u8,
    /// Slots that lie in the owner's own storage.
    pub(super) leaning: BTreeSet<u8>,
    /// Whether a new steward begins its work when it gets the record.
    pub(super) enlists: bool,
    /// How long a turn is.
    pub(super) step_ms: u64,
}

pub(super) fn authority() -> SigningKey {
    SigningKey::from_bytes(&[77; 32])
}

/// Who brings records in.
pub(super) fn owner() -> PeerKey {
    PeerKey::from_bytes([250; 32])
}

pub(super) fn slot(at: u8) -> Slot {
    Slot::new(at).expect("valid")
}

impl Village {
    /// Of so many stewards, with the code RS(3,2).
    pub(super) fn new(stewards: usize) -> Self {
        Self::with_stripes(stewards, 3)
    }

    pub(super) fn with_stripes(stewards: usize, used: u8) -> Self {
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
            enlists: false,
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

    pub(super) fn settle(&mut self, i: u8) {
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

    pub(super) fn of_colour(&self, class: usize) -> Vec<PeerKey> {
        self.views.iter().filter(|v| colour(&self.ticket, &v.domain).index() == class).map(|v| v.peer).collect()
    }

    pub(super) fn domain(&self, peer: &PeerKey) -> Domain {
        self.views.iter().find(|view| view.peer == *peer).expect("known").domain.clone()
    }

    /// Whoever is not away.
    pub(super) fn heard(&self) -> BTreeSet<PeerKey> {
        self.keys.keys().filter(|peer| !self.away.contains(peer)).copied().collect()
    }

    /// An order of the stewards of the first mandate.
    pub(super) fn order(&self, nonce: u8, action: Action) -> Order {
        let (_, steward) = self.stewards.iter().next().expect("one");
        let map = steward.map_for_owner(&self.ticket.id()).expect("watched");
        let mut committee = cairn_proto::Committee::of(&Mandate::open(&map.mandate).expect("signed"));
        map.changes.iter().for_each(|change| committee.succeed(change).expect("holds"));
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
    pub(super) fn signs(&mut self, voter: PeerKey, from: PeerKey, order: &Order) -> bool {
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

    pub(super) fn certificate(&self, order: &Order, voters: impl IntoIterator<Item = PeerKey>) -> Certificate {
        let vote = |peer: PeerKey| (peer, order.sign(&self.keys[&peer]).expect("valid"));
        Certificate::new(order.clone(), voters.into_iter().map(vote))
    }

    /// A rebuild of slot 2, which `to` gets.
    pub(super) fn rebuild(&self, to: PeerKey, ordinals: &[u8]) -> Action {
        let helpers = [0, 1, 3].map(|at| (slot(at), self.holder(at))).to_vec();
        Action::Rebuild { slot: slot(2), to, ordinals: ordinals.iter().copied().collect(), helpers }
    }

    /// Whom a repair of the slot chooses, best first, by one of the stewards.
    pub(super) fn ranked(&self, at: u8) -> Vec<PeerKey> {
        let mut avoided = BTreeSet::new();
        let (me, steward) = self.stewards.iter().next().expect("one");
        let group = &steward.groups[&self.ticket.id()];
        let domain = self.domain(me);
        let scene =
            plan::Scene::new((*me, &domain), self.now, &self.views, (&steward.watch, &steward.places), &steward.rhythm);
        avoided.extend(group.holders(slot(at)));
        scene.new_holders(group, slot(at), &avoided)
    }

    pub(super) fn holder(&self, at: u8) -> PeerKey {
        self.of_colour(at.into())[0]
    }

    pub(super) fn record(&self, stewards: &[PeerKey], generation: u64) -> GroupRecord {
        self.record_of(stewards, generation, 1)
    }

    /// Of the first mandate.
    pub(super) fn with_newer_sheets(&self, stewards: &[PeerKey]) -> GroupRecord {
        self.record_of(stewards, 1, 2)
    }

    pub(super) fn record_of(&self, stewards: &[PeerKey], generation: u64, sheets: u64) -> GroupRecord {
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
    pub(super) fn hear(&mut self) {
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
    pub(super) fn turn(&mut self) {
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

    pub(super) fn turns(&mut self, hours: u64) {
        for _ in 0..hours * 15 {
            self.turn();
        }
    }

    /// Delivers what is said until nobody says anything.
    pub(super) fn pump(&mut self) {
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

    pub(super) fn tell(&mut self, from: PeerKey, to: PeerKey, say: Say) {
        let (now, views) = (self.now, self.views.clone());
        if self.away.contains(&from) || self.away.contains(&to) {
            return;
        }
        if self.enlists && matches!(say, Say::Record { .. }) && !self.stewards.contains_key(&to) {
            let budget = Budget::new(Limits::default(), 10 << 20, now);
            let (key, watch) = (self.keys[&to].clone(), Watch::new(Timers::default()));
            let mut new = Steward::new(key, self.domain(&to), Rhythm::default(), watch, budget);
            // It runs for long.
            new.tick(Timestamp(999 * HOUR), &[], &mut self.rng);
            self.stewards.insert(to, new);
        }
        if let Some(steward) = self.stewards.get_mut(&to) {
            steward.told(from, say, now, &views);
        }
    }

    /// The new holder of the oldest order does as told and says so to everybody.
    pub(super) fn carry_out(&mut self) -> Action {
        let Effect::Give { to, credentials, sheet, previous } = self.given.remove(0) else { panic!("only these") };
        let domain = self.domain(&to);
        let task = part::may_take(&credentials, &sheet, &to, &domain, None, (&self.heard(), self.now)).expect("fine");
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

    pub(super) fn report(&self) -> GroupReport {
        let (_, steward) = self.stewards.iter().find(|(peer, _)| !self.away.contains(*peer)).expect("one");
        steward.report(&self.ticket.id(), self.now).expect("watched")
    }
}
