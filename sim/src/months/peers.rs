//! Who takes part: servers that are nearly always there, homes that sleep, and what each of them keeps.

use std::collections::{BTreeMap, BTreeSet};

use cairn_core::{
    budget::{Budget, Limits},
    liveness::Watch,
    peer_view::PeerView,
    steward::{Rhythm, Steward},
};
use cairn_proto::{
    Action, ByteSize, DecodeError, Domain, GroupId, PROTOCOL_VERSION, PeerKey, Region, Slot, Timestamp, message::Roles,
};
use ed25519_dalek::SigningKey;

use super::{ROUND_MS, TIMERS, UPSTREAM, hostile::Malice, vetting::NEW_MS};
use crate::world::{Dice, HOUR, key, operator};

/// One peer, its steward's half included.
pub(super) struct Member {
    pub(super) key: PeerKey,
    pub(super) identity: SigningKey,
    pub(super) domain: Domain,
    region: Region,
    pub(super) server: bool,
    /// It sleeps about eight hours a day, and is no server.
    pub(super) sleeps: bool,
    /// It is not back before, whatever it does at other times.
    pub(super) silent_until: Timestamp,
    pub(super) joined: Timestamp,
    pub(super) up: bool,
    pub(super) departed: bool,
    pub(super) last_up: Timestamp,
    pub(super) steward: Steward,
    /// What it is up to, when it is a bad steward.
    pub(super) malice: Option<Box<Malice>>,
    /// What it wrote of its groups, and of liveness.
    pub(super) disk: BTreeMap<GroupId, Vec<u8>>,
    pub(super) watched: Vec<u8>,
    /// The slot of each group that it ever accepted.
    pub(super) ledger: BTreeMap<GroupId, Slot>,
    pub(super) shards: BTreeMap<(GroupId, Slot, u8), Vec<u8>>,
    /// Where it lost something.
    pub(super) rotten: BTreeSet<(GroupId, Slot)>,
    /// When it said that it leaves.
    pub(super) leaves: Option<Timestamp>,
    /// It keeps nothing, and answers as if it did; what it had when it began.
    pub(super) cheats: bool,
    pub(super) dropped: BTreeSet<(GroupId, Slot)>,
    /// What it offers while it is a newcomer, when that is less than later.
    pub(super) offers: Option<ByteSize>,
}

impl Member {
    /// `since`: when it joined.
    pub(super) fn draw(i: u32, since: Timestamp, dice: &mut Dice, now: Timestamp) -> Self {
        let identity = SigningKey::from_bytes(&key("member", i));
        let region = ["EU/DE", "EU/FR", "NA/US", "AS/JP"][dice.below(4) as usize];
        let domain = operator(&format!("h{i}"));
        Self {
            key: PeerKey::from_bytes(identity.verifying_key().to_bytes()),
            steward: steward(&identity, &domain, Watch::new(TIMERS), now),
            domain,
            region: Region::new(region).unwrap_or_else(|_| Region::unknown()),
            server: dice.per_mille(500),
            sleeps: false,
            silent_until: Timestamp(0),
            joined: since,
            up: true,
            departed: false,
            last_up: since,
            malice: None,
            disk: BTreeMap::new(),
            watched: Vec::new(),
            identity,
            ledger: BTreeMap::new(),
            shards: BTreeMap::new(),
            rotten: BTreeSet::new(),
            leaves: None,
            cheats: false,
            dropped: BTreeSet::new(),
            offers: None,
        }
    }

    /// How long it stays as it is: a server is away for an hour or two every ten days, a home for a night.
    pub(super) fn next_change(&self, dice: &mut Dice) -> u64 {
        if self.sleeps {
            // Give or take an hour.
            let base = if self.up { 15 } else { 7 };
            return base * HOUR + dice.around_hours(1);
        }
        match (self.server, self.up) {
            (true, true) => dice.around_hours(240),
            (true, false) => dice.around_hours(1),
            (false, true) => dice.around_hours(16),
            (false, false) => dice.around_hours(8),
        }
    }

    pub(super) fn depart(&mut self) {
        self.departed = true;
        self.up = false;
        self.shards.clear();
        self.rotten.clear();
    }

    /// Makes the state of a group durable.
    pub(super) fn write(&mut self, group: GroupId) {
        match self.steward.encode_group(&group) {
            Some(bytes) => drop(self.disk.insert(group, bytes)),
            None => drop(self.disk.remove(&group)),
        }
    }

    /// Forgets everything but what it wrote.
    pub(super) fn restart(&mut self, now: Timestamp) -> Result<(), DecodeError> {
        let watch = match &self.watched[..] {
            [] => Watch::new(TIMERS),
            bytes => Watch::decode(bytes, TIMERS)?,
        };
        self.steward = steward(&self.identity, &self.domain, watch, now);
        self.disk.values().try_for_each(|bytes| self.steward.resume(bytes, now).map(drop))
    }

    pub(super) fn view(&self, now: Timestamp, heard: bool) -> PeerView {
        let newcomer = now.ms_since(self.joined) < NEW_MS;
        let give = self.offers.filter(|_| newcomer).unwrap_or(ByteSize(100 << 30));
        PeerView {
            peer: self.key,
            domain: self.domain.clone(),
            subnet: None,
            subnet_seen: false,
            region: self.region.clone(),
            region_basis: cairn_core::region::Basis::Declared,
            network: None,
            roles: Roles::STORAGE,
            protocol: PROTOCOL_VERSION,
            give,
            free: ByteSize(give.0 / 10 * 9),
            first_seen: self.joined,
            last_heard: if heard { now } else { self.last_up },
            reachable: Some(heard),
            rtt_ms: Some(40),
            loss: 0,
            reputation: if newcomer { 500 } else { 900 },
            newcomer,
        }
    }
}

fn steward(identity: &SigningKey, domain: &Domain, watch: Watch, now: Timestamp) -> Steward {
    let rhythm = Rhythm { look_ms: ROUND_MS, turn_ms: ROUND_MS, ..Rhythm::default() };
    Steward::new(identity.clone(), domain.clone(), rhythm, watch, Budget::new(Limits::default(), UPSTREAM, now))
}

/// For the log.
pub(super) fn told(action: &Action) -> String {
    match action {
        Action::Copy { slot, from, to, ordinals } => {
            format!("copy of slot {slot}, {} stripes, {} to {}", ordinals.len(), from.short(), to.short())
        }
        Action::Rebuild { slot, to, ordinals, helpers } => {
            format!("rebuild of slot {slot}, {} stripes, {} helpers, to {}", ordinals.len(), helpers.len(), to.short())
        }
        _ => format!("{:?}", action.stewards()),
    }
}
