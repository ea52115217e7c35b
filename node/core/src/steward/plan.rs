//! What a group needs, as orders that could be given: shown by a dry run, proposed when it is our turn, and looked at again by
//! everybody who is asked to sign. The leaf `chain` chooses a rebuild's helpers.

use std::{
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet},
};

use cairn_proto::{
    Action, Domain, Ordinals, PeerKey, SHARD_SIZE, Slot, Timestamp, mandate::STEWARDS_MAX, wire::Priority,
};

use super::{
    AT_ONCE, Rhythm,
    places::Places,
    suspects::Suspects,
    vetting::Vetting,
    watched::{MISSED_TO_SIGN, Subject, Watched},
};
use crate::{
    assess::{Assessment, GroupState, Need},
    budget::{self, Budget, Weather},
    durability::repairs::RepairTimes,
    liveness::{Class, Outage, Presence, Watch},
    peer_view::{PeerView, PerMille},
    placement::{
        self, GroupRequest, Owner, PlacementPolicy, Strategy, Vacancy,
        clump::{Clump, relieved},
    },
};

mod chain;

use self::chain::burdened;
pub(super) use self::chain::rebuild;

/// Stripes of one order at most: 8 MiB to and from each party, or what the buckets of a [`Budget`] have room for where that is less
/// ([`in_parts`]), and little enough that a large repair is paced by them and not lost as a whole when it fails. The rest follows with further
/// orders, to the same holder.
pub(super) const BATCH: usize = 8;

/// Below it not even a newcomer is taken ([`crate::placement::Thresholds::newcomer_reputation_min`]).
const DISTRUSTED: PerMille = 500;

/// What a steward looks at.
pub(super) struct Scene<'a> {
    pub(super) me: PeerKey,
    domain: &'a Domain,
    pub(super) now: Timestamp,
    /// Everybody known.
    pub(super) peers: &'a [PeerView],
    pub(super) watch: &'a Watch,
    places: &'a Places,
    /// Who may have sent wrong bytes.
    pub(super) suspects: Option<&'a Suspects>,
    /// What newcomers were given.
    pub(super) vetting: Option<&'a Vetting>,
    /// What newcomers may be given now where they are held to that, of the one group that is looked at.
    rooms: OnceCell<BTreeMap<PeerKey, u32>>,
    pub(super) rhythm: &'a Rhythm,
    /// Many fell silent at once: nothing but critical groups.
    pub(super) critical_only: bool,
    /// It is looked at to sign what another proposes.
    pub(super) to_sign: bool,
}

/// One thing that should be ordered.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedRepair {
    /// The action.
    pub action: Action,
    /// How the group stands.
    pub state: GroupState,
    /// Chance that the group lives on as it is.
    pub survival: f64,
    /// How urgent it is.
    pub class: Priority,
    /// Bytes that it moves.
    pub bytes: u64,
    /// Nothing is missing: too many slots stand together, and this one gets a copy elsewhere.
    pub apart: Option<Clump>,
    /// It gives a newcomer more than its quota of the day: the group is critical, and nobody else is there.
    pub beyond_quota: bool,
}

/// What is wanted.
pub(super) enum Wanted {
    /// This can be done about it.
    Repair(Subject, PlannedRepair),
    /// Nobody is there for it, or nothing can be done now.
    InVain(Subject),
    /// It was not asked for.
    Later(Subject),
}

impl<'a> Scene<'a> {
    pub(super) fn new(
        (me, domain): (PeerKey, &'a Domain),
        now: Timestamp,
        peers: &'a [PeerView],
        (watch, places): (&'a Watch, &'a Places),
        rhythm: &'a Rhythm,
    ) -> Self {
        let critical_only = watch.mass_failure(now);
        let (suspects, vetting, rooms) = (None, None, OnceCell::new());
        Self { me, domain, now, peers, watch, places, suspects, vetting, rooms, rhythm, critical_only, to_sign: false }
    }
}

impl Scene<'_> {
    fn presence(&self, peer: &PeerKey) -> Presence {
        if *peer == self.me { Presence::Here } else { self.watch.belief(peer, self.now).presence }
    }

    fn is_here(&self, peer: &PeerKey) -> bool {
        self.presence(peer) == Presence::Here
    }

    /// Whether it said when it leaves: nothing is given to it any more.
    fn leaves(&self, peer: &PeerKey) -> bool {
        self.watch.leaves(peer).is_some()
    }

    /// Those who are here, servers before machines that sleep at night.
    fn here(&self, peers: impl IntoIterator<Item = PeerKey>) -> Vec<PeerKey> {
        let mut here: Vec<PeerKey> = peers.into_iter().filter(|peer| self.is_here(peer)).collect();
        here.sort_by_key(|peer| self.watch.belief(peer, self.now).class == Class::Home);
        here
    }

    /// Peers that we would give nothing to: they are asked for what they have only where nobody else is.
    fn distrusted(&self) -> impl Iterator<Item = PeerKey> + '_ {
        self.peers.iter().filter(|view| view.peer != self.me && view.reputation < DISTRUSTED).map(|view| view.peer)
    }

    /// How little a helper is to be relied on: named by a new holder, one of those of whom one lies, neither.
    fn doubts(&self, peer: &PeerKey) -> u8 {
        self.suspects.map_or(0, |all| 2 * u8::from(all.is_suspect(peer)) + u8::from(all.is_among(peer)))
    }

    /// Who may have sent wrong bytes: whom we give nothing, and ask for nothing where others are there.
    fn suspected(&self) -> BTreeSet<PeerKey> {
        self.suspects.map_or_else(BTreeSet::new, Suspects::all)
    }

    fn policy(&self, group: &Watched) -> PlacementPolicy {
        let mandate = &group.record.mandate;
        let mut policy = PlacementPolicy::new(mandate.ticket.code(), mandate.replicas);
        // Adverts come as often as `late` allows for, and whoever only looks now and then hears of peers no more often.
        policy.thresholds.silence_ms_max = self.watch.timers().late_ms.max(2 * self.rhythm.look_ms);
        policy
    }

    fn request<'a>(
        &self,
        group: &Watched,
        policy: &'a PlacementPolicy,
        avoid: &'a BTreeSet<PeerKey>,
    ) -> GroupRequest<'a> {
        // Who the owner is, a steward does not know; its own domain is of a colour that holds nothing.
        let owner = Owner { peer: self.me, domain: self.domain.clone() };
        let authority = *group.record.mandate.ticket.authority();
        GroupRequest { owner, authority, policy, avoid, now: self.now, owner_key: None }
    }

    /// Peers that may take the slot over, best first (SEP-1: of its colour, and somebody else than everybody who ever had another
    /// slot). Last come those of a domain that has or had the slot with another machine, as far as none of these is here: replicas
    /// of one domain are worth one (SEP-2), but more than none, and a disk that died often comes back empty under another name.
    pub(super) fn new_holders(&self, group: &Watched, slot: Slot, avoid: &BTreeSet<PeerKey>) -> Vec<PeerKey> {
        let policy = self.policy(group);
        let request = self.request(group, &policy, avoid);
        let ticket = &group.record.mandate.ticket;
        let ranked = placement::candidates(self.peers, &request, ticket, Strategy::Deterministic);
        let Some(ranked) = ranked.get(slot.index()) else { return Vec::new() };
        let holders: Vec<Vec<PeerKey>> = group.ever().into_iter().map(|slot| slot.into_iter().collect()).collect();
        let mine: BTreeSet<PeerKey> = holders.get(slot.index()).into_iter().flatten().copied().collect();
        let others: Vec<PeerKey> = ranked.iter().copied().filter(|peer| !mine.contains(peer)).collect();
        let beside = |beside: &BTreeSet<PeerKey>| {
            let vacancy = Vacancy { slot: slot.index(), holders: &holders, beside, failed: avoid };
            placement::replacements(&others, &vacancy, self.peers, &policy)
        };
        let here: BTreeSet<PeerKey> = mine.iter().copied().filter(|peer| self.is_here(peer)).collect();
        let mut ranked: Vec<PeerKey> = beside(&mine).into_iter().map(|r| r.peer).collect();
        if here.len() < mine.len() {
            let again = beside(&here).into_iter().map(|r| r.peer).filter(|peer| !ranked.contains(peer));
            ranked.extend(again.collect::<Vec<_>>());
        }
        ranked.retain(|peer| !self.leaves(peer));
        // Newcomers that may not be given all of it today come after everybody else.
        let wanted = group.wanted(slot).len();
        ranked.sort_by_key(|peer| match self.room(group, peer) {
            Some(0) => 2,
            Some(room) => u8::from((room as usize) < wanted),
            None => 0,
        });
        ranked
    }

    /// Shards that a peer may be given now; `None`: as many as it takes. Only newcomers are held to anything, and only where a group like
    /// this one can stand without them.
    pub(super) fn room(&self, group: &Watched, peer: &PeerKey) -> Option<u32> {
        let rooms = self.rooms.get_or_init(|| {
            let vetting = self.vetting.filter(|_| self.peers.iter().any(|view| view.newcomer) && self.binds(group));
            vetting.map_or_else(BTreeMap::new, |all| all.rooms(self.peers, &group.record.group(), self.now))
        });
        rooms.get(peer).copied()
    }

    fn binds(&self, group: &Watched) -> bool {
        let (policy, none) = (self.policy(group), BTreeSet::new());
        let request = self.request(group, &policy, &none);
        let fits = |view: &&PeerView| placement::eligible(view, &request.owner, &policy, self.now).is_ok();
        let fit: Vec<&PeerView> = self.peers.iter().filter(fits).collect();
        placement::vetting::binds(&fit, &policy)
    }

    /// Where more slots of the group stand than may.
    pub(super) fn clumps(&self, group: &Watched) -> Vec<Clump> {
        group.clumps(self.watch, self.places, self.rhythm, self.now)
    }

    /// Who may take the slot and would take it out of clumps, and out of how many; the most first, then by rank. Newcomers are left out: a copy that
    /// nobody misses is no reason to go over their quota.
    pub(super) fn heirs_apart(&self, group: &Watched, slot: Slot, clumps: &[Clump]) -> Vec<(usize, PeerKey)> {
        let mut avoid = group.avoided(&Subject::Apart, self.now);
        avoid.extend(self.peers.iter().filter(|view| view.newcomer).map(|view| view.peer));
        let place = |peer: &PeerKey| self.places.settled(peer, self.now, self.rhythm.settled_ms);
        let ranked =
            self.new_holders(group, slot, &avoid).into_iter().filter(|peer| self.presence(peer) <= Presence::Late);
        let helps = ranked.map(|peer| (relieved(slot, place(&peer), clumps), peer));
        let mut heirs: Vec<(usize, PeerKey)> = helps.filter(|(helps, _)| *helps > 0).collect();
        heirs.sort_by_key(|(helps, _)| std::cmp::Reverse(*helps));
        heirs
    }

    /// Peers that may become stewards, best first.
    pub(super) fn new_stewards(&self, group: &Watched, avoid: &BTreeSet<PeerKey>) -> Vec<PeerKey> {
        let policy = self.policy(group);
        let request = self.request(group, &policy, avoid);
        // The request leaves out our own domain, where we are the steward already.
        let ranked = placement::stewards(self.peers, &request, &group.record.mandate.ticket);
        let fits = |peer: &PeerKey| !group.committee().stewards().contains(peer) && !self.leaves(peer);
        ranked.into_iter().filter(fits).collect()
    }
}

/// Everything that the group needs now, most urgent first; turns and budgets are not asked.
pub(super) fn needs(group: &Watched, scene: &Scene<'_>) -> Vec<PlannedRepair> {
    let planned = |wanted| match wanted {
        Wanted::Repair(_, planned) => Some(planned),
        Wanted::InVain(_) | Wanted::Later(_) => None,
    };
    wanted(group, scene, &|_| true).into_iter().filter_map(planned).collect()
}

/// The same; what can be done is found out only where `asked`, since that means to rank everybody.
pub(super) fn wanted(group: &Watched, scene: &Scene<'_>, asked: &dyn Fn(&Subject) -> bool) -> Vec<Wanted> {
    let assessment = match scene.to_sign {
        true => group.assess_to_sign(scene.watch, scene.now),
        false => group.assess(scene.watch, scene.now),
    };
    let mut all = Vec::new();
    let mut seen = BTreeSet::new();
    let mut healing = false;
    let critical = budget::priority(&assessment, group.record.group()).class == Priority::Critical;
    let done = |subject: Subject, what: &dyn Fn() -> Option<Action>| {
        if !asked(&subject) {
            return Wanted::Later(subject);
        }
        match what() {
            Some(action) => Wanted::Repair(subject, planned(group, scene, &assessment, action)),
            None => Wanted::InVain(subject),
        }
    };
    // Holders that are here and said that they lost something are healed: that is less than a whole new one. Whoever says that it
    // has what an auditor could not see is not: another takes its place.
    for slot in group.record.mandate.ticket.code().each_slot() {
        for holder in group.holders(slot) {
            let lacks = group.wanted(slot).without(&group.claims(slot, &holder));
            let subject = Subject::Slot(slot.as_u8());
            let able = scene.is_here(&holder)
                && !group.hides(slot, &holder)
                && !scene.leaves(&holder)
                && !group.avoided(&subject, scene.now).contains(&holder)
                && !group.breaks_word(slot, &holder, scene.now, scene.rhythm)
                && (critical || scene.room(group, &holder) != Some(0));
            if !lacks.is_empty() && able && seen.insert(slot) {
                all.push(done(subject, &|| repair(group, scene, slot, Some((holder, lacks)), (true, critical))));
                healing = true;
            }
        }
    }
    for need in &assessment.needs {
        let (slot, may_rebuild) = match need {
            // Somebody who has it is expected back: a copy then costs less than a rebuild now.
            Need::Copy { slot, .. } => (*slot, false),
            Need::Rebuild { slot, .. } => (*slot, true),
            Need::None => continue,
        };
        if !group.wanted(slot).is_empty() && seen.insert(slot) {
            let repair = || repair(group, scene, slot, None, (may_rebuild, critical));
            let heal = || heal_anybody(group, scene, slot, critical);
            all.push(done(Subject::Slot(slot.as_u8()), &|| repair().or_else(heal)));
        }
    }
    let lost_ms = steward_lost_ms(group, scene, critical);
    for old in group.committee().stewards() {
        let belief = scene.watch.belief(old, scene.now);
        // Whoever leaves is replaced while it is here: that costs nothing, and three at once would cost the quorum.
        let silent = belief.silent_ms >= lost_ms;
        let lost = belief.presence >= Presence::Gone || belief.leaving || silent;
        if *old != scene.me && lost {
            let subject = Subject::Steward(*old);
            let none = BTreeSet::new();
            let new = |avoid: &BTreeSet<PeerKey>| scene.new_stewards(group, avoid).first().copied();
            let change = || match new(&group.avoided(&subject, scene.now)).or_else(|| new(&none)) {
                Some(new) => Some(Action::Replace { old: *old, new }),
                None => Some(Action::Retire { old: *old }),
            };
            all.push(done(subject, &change));
        }
    }
    if group.committee().stewards().len() < STEWARDS_MAX {
        let enlist = || scene.new_stewards(group, &BTreeSet::new()).first().map(|new| Action::Enlist { new: *new });
        all.push(done(Subject::Another, &enlist));
    }
    // Nothing of this for a group that fights for its life, and none while somebody is still given what it is to have: perhaps for this.
    let calm = assessment.state < GroupState::Critical && !healing;
    let clumps = if calm { scene.clumps(group) } else { Vec::new() };
    if !group.movable(&clumps, scene.watch, scene.rhythm, scene.now).is_empty() {
        let subject = Subject::Apart;
        all.push(match asked(&subject) {
            false => Wanted::Later(subject),
            true => match move_apart(group, scene, &clumps) {
                Some((action, clump)) => {
                    let planned = planned(group, scene, &assessment, action);
                    let planned = PlannedRepair { class: Priority::Low, apart: Some(clump), ..planned };
                    Wanted::Repair(subject, planned)
                }
                None => Wanted::InVain(subject),
            },
        });
    }
    all
}

/// Silence after which a steward's place is given to another: a day; half a day where a critical group has fewer of them here than an order
/// takes, since nothing can be repaired until then. Who signs sees it a little sooner than who proposes, as with holders.
fn steward_lost_ms(group: &Watched, scene: &Scene<'_>, critical: bool) -> u64 {
    let committee = group.committee();
    let here = committee.stewards().iter().filter(|peer| scene.presence(peer) <= Presence::Late).count();
    match (critical && here < committee.quorum(), scene.to_sign) {
        (true, true) => scene.rhythm.steward_lost_ms / 2 * u64::from(MISSED_TO_SIGN) / 100,
        (true, false) => scene.rhythm.steward_lost_ms / 2,
        (false, _) => scene.rhythm.steward_lost_ms,
    }
}

/// One copy of a slot to somebody who is known to be elsewhere than too many others: of all such copies one that takes the slot out of as
/// many clumps as possible.
fn move_apart(group: &Watched, scene: &Scene<'_>, clumps: &[Clump]) -> Option<(Action, Clump)> {
    let slots = group.movable(clumps, scene.watch, scene.rhythm, scene.now);
    let mut best: Option<(usize, Action, Clump)> = None;
    for slot in slots {
        let Some((helps, to)) = scene.heirs_apart(group, slot, clumps).into_iter().next() else { continue };
        if best.as_ref().is_some_and(|(most, ..)| *most >= helps) {
            continue;
        }
        let place = scene.places.settled(&to, scene.now, scene.rhythm.settled_ms);
        let clump = clumps.iter().find(|clump| clump.slots.contains(&slot) && place.is_off(&clump.ground));
        let mut avoid = group.avoided(&Subject::Apart, scene.now);
        avoid.extend(group.hiders().chain(scene.distrusted()));
        let copy = repair_without(group, scene, slot, Some((to, group.wanted(slot))), (false, false), (&avoid, &avoid));
        if let (Some(action @ Action::Copy { .. }), Some(clump)) = (copy, clump) {
            best = Some((helps, action, clump.clone()));
        }
    }
    best.map(|(_, action, clump)| (action, clump))
}

fn planned(group: &Watched, scene: &Scene<'_>, assessment: &Assessment, action: Action) -> PlannedRepair {
    let bytes = group.cost(&action);
    let class = budget::priority(assessment, group.record.group()).class;
    let room = action.to().filter(|_| action.slot().is_some()).and_then(|to| scene.room(group, &to));
    let beyond_quota = room.is_some_and(|room| (room as usize) < action.ordinals().len());
    let (state, survival) = (assessment.state, assessment.survival);
    PlannedRepair { action, state, survival, class, bytes, apart: None, beyond_quota }
}

/// A holder that lacks something, where nobody else can take the slot: one that let us down lately too, but none that broke its word.
fn heal_anybody(group: &Watched, scene: &Scene<'_>, slot: Slot, critical: bool) -> Option<Action> {
    scene.here(group.holders(slot)).into_iter().find_map(|holder| {
        let lacks = group.wanted(slot).without(&group.claims(slot, &holder));
        let able = !lacks.is_empty()
            && !scene.leaves(&holder)
            && !group.hides(slot, &holder)
            && !group.breaks_word(slot, &holder, scene.now, scene.rhythm);
        if able { repair(group, scene, slot, Some((holder, lacks)), (true, critical)) } else { None }
    })
}

/// How a slot gets its shards, for a new holder or for one that lost some. Whom we leave alone is asked all the same where nobody else is there:
/// the pause after a failure is over when this is asked, and it is longer each time. `critical`: a newcomer may be given more than its quota.
fn repair(
    group: &Watched,
    scene: &Scene<'_>,
    slot: Slot,
    heal: Option<(PeerKey, Ordinals)>,
    how: (bool, bool),
) -> Option<Action> {
    let (mut avoid, none) = (group.avoided(&Subject::Slot(slot.as_u8()), scene.now), BTreeSet::new());
    // Each steward's auditors miss something else of it, so it is no source that a quorum would agree on.
    avoid.extend(group.hiders());
    avoid.extend(scene.distrusted());
    avoid.extend(scene.suspected());
    let repair = |as_holder, as_source| repair_without(group, scene, slot, heal, how, (as_holder, as_source));
    let first = repair(&avoid, &avoid);
    if first.is_some() || avoid.is_empty() {
        return first;
    }
    repair(&none, &avoid).or_else(|| repair(&avoid, &none)).or_else(|| repair(&none, &none))
}

fn repair_without(
    group: &Watched,
    scene: &Scene<'_>,
    slot: Slot,
    heal: Option<(PeerKey, Ordinals)>,
    (may_rebuild, critical): (bool, bool),
    (as_holder, avoid): (&BTreeSet<PeerKey>, &BTreeSet<PeerKey>),
) -> Option<Action> {
    let (to, ordinals) = match heal {
        Some(heal) => heal,
        None => (*scene.new_holders(group, slot, as_holder).first()?, group.wanted(slot)),
    };
    let ordinals = match scene.room(group, &to).filter(|_| !critical) {
        Some(0) => return None,
        Some(room) => ordinals.first(room as usize),
        None => ordinals,
    };
    let sources = scene.here(group.holders(slot).into_iter().filter(|peer| *peer != to && !avoid.contains(peer)));
    // Whoever has most of it: the rest is wanted again afterwards.
    let best = sources.iter().map(|peer| (group.has(slot, peer).and(&ordinals), peer)).rev();
    let best = best.max_by_key(|(has, _)| has.len()).filter(|(has, _)| !has.is_empty());
    // Whoever has it and is not to be relied on is not waited for.
    let may_rebuild = may_rebuild || group.holders(slot).iter().all(|peer| *peer == to || avoid.contains(peer));
    match best {
        Some((has, from)) => Some(Action::Copy { slot, from: *from, to, ordinals: has.first(BATCH) }),
        None if may_rebuild => rebuild(group, scene, slot, to, &ordinals, avoid),
        None => None,
    }
}

/// What is proposed now: wanted, free, our turn, and within the budgets.
pub(super) fn orders(
    group: &mut Watched,
    scene: &Scene<'_>,
    budget: &mut Budget,
    repairs: &mut RepairTimes,
) -> Vec<PlannedRepair> {
    if !matches!(scene.watch.outage(scene.now), Outage::None) {
        return Vec::new();
    }
    let (now, rhythm, me) = (scene.now, scene.rhythm, scene.me);
    let found = group.assess(scene.watch, now);
    group.note_alarm(found.too_few_there, now, rhythm);
    // In an emergency all that a group can lose is repaired at once: one after the other would be an hour each for a large one.
    let at_once = if group.alarm(now) { AT_ONCE.max(group.code().parity()) } else { AT_ONCE };
    // Whose turn it is follows from since when it is wanted, so that is noted for everything first.
    let subjects = |all: &[Wanted]| -> BTreeSet<Subject> {
        let subject = |wanted: &Wanted| match wanted {
            Wanted::Repair(subject, _) | Wanted::InVain(subject) | Wanted::Later(subject) => *subject,
        };
        all.iter().map(subject).collect()
    };
    let open = subjects(&wanted(group, scene, &|_| false));
    group.wanted_now(&open);
    group.note_lacking(&open, scene.watch, now).into_iter().for_each(|took_ms| repairs.note(took_ms));
    // What is missing comes before what only stands wrong, unless there is nobody for it.
    let missing = open.iter().any(|subject| matches!(subject, Subject::Slot(_)) && !group.is_vain(subject));
    let ours: BTreeSet<Subject> = open
        .into_iter()
        .filter(|subject| *subject != Subject::Apart || !missing)
        .filter(|subject| group.is_our_turn(&me, *subject, scene.watch, now, rhythm))
        .collect();
    if ours.is_empty() {
        return Vec::new();
    }
    let mut orders = Vec::new();
    for wanted in wanted(group, scene, &|subject| ours.contains(subject)) {
        let planned = match wanted {
            Wanted::Repair(_, planned) => planned,
            Wanted::InVain(subject) => {
                if let Subject::Slot(slot) = subject {
                    group.note_no_peer(slot, now);
                }
                group.in_vain(subject, now, rhythm);
                continue;
            }
            Wanted::Later(_) => continue,
        };
        let is_slot = planned.action.slot().is_some();
        let planned = in_parts(group, planned, budget);
        let alone = planned.apart.is_none() || group.busy() + orders.len() == 0;
        let room = !is_slot || group.busy() + orders.len() < at_once && alone;
        if !room || !group.affords(&me, planned.bytes) {
            continue;
        }
        let weather = Weather::of(&Outage::None, scene.critical_only);
        let (id, burdened) = (group.record.group(), burdened(group, &planned.action));
        // Each party's share: a helper sends and a new holder receives one shard of each stripe.
        let share = (planned.action.ordinals().len() * SHARD_SIZE) as u64;
        if is_slot && budget.take(now, weather, planned.class, id, &burdened, share).is_err() {
            continue;
        }
        orders.push(planned);
    }
    orders
}

/// As much of it as the budgets ever let through at once: on a slow line the rest follows with further orders, to the same holder.
fn in_parts(group: &Watched, mut planned: PlannedRepair, budget: &Budget) -> PlannedRepair {
    let stripes = (budget.most_at_once(planned.class) / SHARD_SIZE as u64).max(1) as usize;
    if let Action::Copy { ordinals, .. } | Action::Rebuild { ordinals, .. } = &mut planned.action {
        *ordinals = ordinals.first(stripes);
    }
    planned.bytes = group.cost(&planned.action);
    planned
}
