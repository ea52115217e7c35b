//! One round of a steward: everything that came in meanwhile, what the time asks for, and the disk before anything goes out.
//!
//! Blocking, on a thread of its own: signatures are checked, maps compared, files synced. All that a round changed is written
//! together and before the round's messages leave, so what was signed is on disk before anybody is told.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use cairn_core::{
    liveness::{Outage, Presence},
    peer_view::{PeerView, PerMille},
    steward::{
        Declined, Effect, GroupReport, Inventory, Say, Steward,
        wire::{Answer, Notice, Refusal, Request},
    },
};
use cairn_proto::{Grant, GroupId, GroupRecord, GroupTicket, PeerKey, Rights, Slot, Timestamp};
use rand_chacha::ChaCha20Rng;
use tokio::sync::oneshot;

use super::{
    exchange::{Give, Input, Outcome, Watched},
    files::StateFiles,
    ports::WatchPass,
    probes::{Holding, Silence},
    report::Weather,
};

/// What share of what it offers a newcomer may be given a day, when it is known since then.
pub(super) type Quota = dyn Fn(&PeerKey, Timestamp) -> PerMille + Send + Sync;

/// The steward and what it is kept in.
pub(super) struct Keeper {
    pub(super) steward: Steward,
    pub(super) files: StateFiles,
    pub(super) rng: ChaCha20Rng,
    /// Groups whose state on disk is older than ours: nothing is said of them until it is written.
    pub(super) unsaved: BTreeSet<GroupId>,
    /// Of the timers that beliefs are written down with.
    pub(super) late_ms: u64,
    /// Watched peers that came back, to be asked soon what they have; as few as are watched.
    pub(super) returned: BTreeSet<PeerKey>,
    /// Holdings that changed, or whose holder came back: asked before all others. At most [`HURRIED_MAX`].
    pub(super) hurried: BTreeSet<Holding>,
    /// Who compared a group with us that we do not know, and when that was answered. At most [`STRANGERS_MAX`].
    pub(super) strangers: BTreeMap<PeerKey, Timestamp>,
    /// What our line carries.
    pub(super) upstream: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// What newcomers are held to.
    pub(super) quota: Arc<Quota>,
    /// How long a holder may take to answer.
    pub(super) answer_ms: u64,
}

/// Who asks for an unknown group is answered, by a message of ours to a peer that may not listen, as often as this.
const STRANGER_MS: u64 = 60_000;
/// ... and so many of them within that time.
const STRANGERS_MAX: usize = 64;

/// Newcomers whose share is looked up at a time: as many as an owner counts. Others are held to a newcomer's first.
const GIVEN_MAX: usize = cairn_core::placement::vetting::GIVEN_MAX;

/// More than all holders of all groups; and the rest is asked within the period anyway.
const HURRIED_MAX: usize = 65_536;

/// The file of a group, without the folder.
pub(super) fn group_file(group: &GroupId) -> String {
    format!("{group}.group")
}

/// The file of beliefs.
pub(super) const BELIEFS: &str = "beliefs.watch";

/// The file of peers' places.
pub(super) const PLACES: &str = "places.watch";

/// The file of who may have sent wrong bytes.
pub(super) const SUSPECTS: &str = "suspects.watch";

/// The file of how long repairs took.
pub(super) const REPAIRS: &str = "repairs.watch";

/// Which group something is said of.
fn group_of(say: &Say) -> GroupId {
    match say {
        Say::Propose { order, .. } => order.group,
        Say::Vote { group, .. }
        | Say::Failed { group, .. }
        | Say::Compare { group, .. }
        | Say::Map { group, .. }
        | Say::Tokens { group, .. } => *group,
        Say::Certified { certificate } | Say::Taken { certificate, .. } => certificate.order.group,
        Say::Record { record, .. } => record.group(),
    }
}

/// What was answered, once all is on disk; of which group, when it must be for that answer.
type Pending = (oneshot::Sender<Answer>, Answer, Option<GroupId>);

impl Keeper {
    /// Takes all of it in, looks at what is due, writes, and says what is to go out.
    pub(super) fn round(&mut self, inputs: Vec<Input>, peers: &[PeerView], now: Timestamp) -> Outcome {
        let mut out = Outcome::default();
        let mut pending: Vec<Pending> = Vec::new();
        let mut again = false;
        for input in inputs {
            match input {
                Input::Asked { from, request, answer } => {
                    self.note_return(from, now);
                    let (said, group) = self.asked(from, request, peers, now);
                    // Whoever registers once more what could not be written has it tried once more.
                    again |= group.is_some_and(|group| self.unsaved.contains(&group));
                    pending.push((answer, said, group));
                }
                Input::Heard { peer, at } => {
                    self.note_return(peer, now);
                    self.steward.heard(peer, at);
                }
                Input::Reported { holder, group, slot, has } => self.steward.reported(holder, group, slot, &has, now),
                Input::Declined { auditor, holding: (group, slot, holder) } => {
                    self.steward.audit_declined(&auditor, &group, slot, &holder, now);
                }
                Input::Undelivered { group, order, said_no } => {
                    self.steward.undelivered(group, order, said_no, now, peers);
                }
                Input::Token { holding: (group, slot, holder), answer } => {
                    self.steward.token_answered(holder, group, slot, &answer, now);
                }
                Input::Survey { ask, duties, tokens } => {
                    // Of the few for whom it matters now: it takes a look through who invited whom.
                    let given = peers.iter().filter(|view| view.newcomer && self.steward.has_given(&view.peer));
                    let quota = |view: &PeerView| (view.peer, (self.quota)(&view.peer, view.first_seen));
                    let quotas = given.take(GIVEN_MAX).map(quota).collect();
                    self.steward.set_quotas(quotas);
                    out.watched = Some(self.watched(now));
                    out.ask = self.whom_to_ask(ask, now);
                    out.duties = self.steward.audits_due(now, peers, duties);
                    out.tokens = self.steward.tokens_due(now, tokens, self.answer_ms);
                    again = true;
                }
                Input::Convicted(peers) => self.steward.condemn(peers, now),
                Input::Save => {
                    self.save_beliefs();
                    self.steward.set_upstream((self.upstream)(), now);
                }
                Input::Stand(to) => {
                    let stuck = |report: GroupReport| {
                        let stuck = self.steward.stuck(&report.group, now, peers);
                        (report, stuck)
                    };
                    drop(to.send(self.reports(now).into_iter().map(stuck).collect()));
                }
                // Whoever asked may have gone away.
                Input::Report(to) => drop(to.send(self.reports(now))),
                Input::Suspicion(peer, to) => drop(to.send(self.steward.suspicion(&peer))),
                Input::Repairs(to) => drop(to.send(self.steward.repairs(now))),
                Input::Plan(to) => {
                    let with_plan = |report: GroupReport| {
                        let plan = self.steward.dry_run(&report.group, now, peers);
                        let stuck = self.steward.stuck(&report.group, now, peers);
                        (report, plan, stuck)
                    };
                    let watch = self.steward.watch();
                    let cut_off = watch.outage(now) != Outage::None;
                    let weather = Weather { cut_off, mass_failure: watch.mass_failure(now) };
                    drop(to.send((weather, self.reports(now).into_iter().map(with_plan).collect())));
                }
            }
        }
        self.steward.tick(now, peers, &mut self.rng);
        self.drain(&mut out, again);
        out.suspected = self.steward.newly_suspected();
        self.save_suspects();
        for (to, answer, group) in pending {
            let lost = group.is_some_and(|group| self.unsaved.contains(&group));
            let lost = lost && matches!(answer, Answer::Done);
            let _ = to.send(if lost { Answer::Refused(Refusal::Full) } else { answer });
        }
        out.next = self.steward.next_tick();
        out.cut_off = self.steward.watch().outage(now) != Outage::None;
        out
    }

    fn note_return(&mut self, peer: PeerKey, now: Timestamp) {
        if self.steward.knows(&peer) && self.steward.watch().belief(&peer, now).presence >= Presence::Away {
            self.returned.insert(peer);
        }
    }

    fn watches(&self, group: &GroupId) -> bool {
        self.steward.groups().any(|known| known == *group)
    }

    fn asked(
        &mut self,
        from: PeerKey,
        request: Request,
        peers: &[PeerView],
        now: Timestamp,
    ) -> (Answer, Option<GroupId>) {
        match request {
            Request::Say(say) => {
                // What its sender keeps until somebody has it: done is said when it is on disk.
                let kept =
                    matches!(*say, Say::Taken { .. } | Say::Record { .. } | Say::Tokens { .. }).then(|| group_of(&say));
                (self.told(from, *say, peers, now), kept)
            }
            Request::Register { record } => match GroupRecord::decode(&record) {
                Ok(record) => {
                    let group = record.group();
                    (self.register(from, record, now), Some(group))
                }
                Err(_) => (Answer::Refused(Refusal::Forged), None),
            },
            Request::Ask { ticket, grant } => (self.ask(from, &ticket, &grant, now), None),
            Request::Notice(notice) => self.noticed(from, &notice, now),
            // What it makes us believe is on disk before it is done.
            Request::Findings(findings) if self.steward.found(&from, &findings, now) => {
                (Answer::Done, Some(findings.group))
            }
            // Of an auditor that we did not draw; and the new holder's, the auditor's and the audited holder's, which never come here.
            Request::Findings(_) | Request::Give { .. } | Request::Duty(_) | Request::Challenge(_) => {
                (Answer::Refused(Refusal::NotSteward), None)
            }
        }
    }

    /// A holder's word about itself; a loss is to be on disk before it is taken for noted.
    fn noticed(&mut self, from: PeerKey, notice: &Notice, now: Timestamp) -> (Answer, Option<GroupId>) {
        match notice {
            Notice::Lost { group, slot, ordinals } => {
                let noted = self.steward.lost(from, *group, *slot, ordinals, now);
                (if noted { Answer::Done } else { Answer::Refused(Refusal::NotSteward) }, Some(*group))
            }
            Notice::Leaving { at, groups } => (Answer::Kept(self.steward.leaving(from, *at, groups, now)), None),
            Notice::Staying => {
                self.steward.stays(from, now);
                (Answer::Done, None)
            }
        }
    }

    fn told(&mut self, from: PeerKey, say: Say, peers: &[PeerView], now: Timestamp) -> Answer {
        let group = group_of(&say);
        if !self.watches(&group) {
            match &say {
                Say::Record { .. } if !self.files.has_room() => return Answer::Refused(Refusal::Full),
                // Another steward of a group of which we lost the state, or never got it; but two who both have none would ask
                // each other for ever.
                Say::Compare { generation, .. } if *generation > 0 => {
                    if !self.answers_stranger(from, now) {
                        return Answer::Refused(Refusal::Busy);
                    }
                }
                Say::Record { .. } => {}
                _ => return Answer::Refused(Refusal::NotSteward),
            }
        }
        let taken = match &say {
            Say::Taken { certificate, .. } => certificate.order.action.to().zip(certificate.order.action.slot()),
            _ => None,
        };
        self.steward.told(from, say, now, peers);
        if let Some((holder, slot)) = taken.filter(|(holder, _)| self.steward.knows(holder)) {
            self.hurry((group, slot, holder));
        }
        Answer::Done
    }

    /// Whether somebody who compares a group that we do not know is answered now; then it counts as answered.
    fn answers_stranger(&mut self, from: PeerKey, now: Timestamp) -> bool {
        // A time that is yet to come is of a clock that was set back.
        self.strangers.retain(|_, at| *at <= now && now.ms_since(*at) < STRANGER_MS);
        self.strangers.len() < STRANGERS_MAX && !self.strangers.contains_key(&from) && {
            self.strangers.insert(from, now);
            true
        }
    }

    fn register(&mut self, from: PeerKey, record: GroupRecord, now: Timestamp) -> Answer {
        let group = record.group();
        if !self.watches(&group) && !self.files.has_room() {
            tracing::warn!(group = %group.short(), "no room on the disk to watch another group");
            return Answer::Refused(Refusal::Full);
        }
        let generation = record.mandate.generation;
        let sheets: Vec<u64> = record.sheets.iter().map(|sheet| sheet.generation).collect();
        match self.steward.adopt(record, &[], from, now) {
            Ok(()) => Answer::Done,
            // The very same once more: its owner did not hear our answer.
            Err(Declined::Old)
                if self.steward.map_for_owner(&group).is_some_and(|map| {
                    map.sheets == sheets
                        && cairn_proto::Mandate::open(&map.mandate)
                            .is_ok_and(|mandate| mandate.generation == generation)
                }) =>
            {
                Answer::Done
            }
            Err(why) => Answer::Refused(match why {
                Declined::NotNamed | Declined::WrongColour => Refusal::NotSteward,
                Declined::Full => Refusal::Full,
                Declined::Old => Refusal::Old,
                _ => Refusal::Forged,
            }),
        }
    }

    /// The owner's question: whoever has the group's leave to read, for us and itself.
    fn ask(&self, from: PeerKey, ticket: &GroupTicket, grant: &[u8], now: Timestamp) -> Answer {
        let Ok(grant) = Grant::open(grant, ticket, now) else { return Answer::Refused(Refusal::Forged) };
        if grant.holder != self.steward.me() || grant.bearer != from || !grant.rights.allows(Rights::GET) {
            return Answer::Refused(Refusal::Forged);
        }
        match self.steward.map_for_owner(&ticket.id()) {
            Some(map) => Answer::Map(Box::new(map)),
            None => Answer::Refused(Refusal::NotSteward),
        }
    }

    fn reports(&self, now: Timestamp) -> Vec<GroupReport> {
        self.steward.groups().filter_map(|group| self.steward.report(&group, now)).collect()
    }

    fn watched(&self, now: Timestamp) -> Watched {
        let watch = self.steward.watch();
        let silence = |(peer, often): (PeerKey, bool)| {
            let belief = watch.belief(&peer, now);
            (peer, Silence { ms: belief.silent_ms, often, gone: belief.presence == Presence::Gone })
        };
        self.steward.concerned().into_iter().map(silence).collect()
    }

    fn hurry(&mut self, holding: Holding) {
        if self.hurried.len() < HURRIED_MAX {
            self.hurried.insert(holding);
        }
    }

    /// Those in a hurry first, then those whose turn it is.
    fn whom_to_ask(&mut self, most: usize, now: Timestamp) -> Vec<(Holding, WatchPass)> {
        let returned = std::mem::take(&mut self.returned);
        if !returned.is_empty() {
            for report in self.reports(now) {
                for (slot, holders) in (0u8..).zip(&report.slots) {
                    let Ok(slot) = Slot::new(slot) else { continue };
                    let back = holders.iter().map(|(peer, ..)| *peer).filter(|peer| returned.contains(peer));
                    back.for_each(|peer| self.hurry((report.group, slot, peer)));
                }
            }
        }
        let mut asked: Vec<Holding> = Vec::new();
        while asked.len() < most
            && let Some(holding) = self.hurried.pop_first()
        {
            asked.push(holding);
        }
        let due = self.steward.inventory_due(now, most - asked.len());
        asked.extend(due.into_iter().map(|due| (due.group, due.slot, due.holder)));
        for (group, slot, holder) in &asked {
            self.steward.asked(&Inventory { group: *group, slot: *slot, holder: *holder }, now);
        }
        let mut passes: BTreeMap<GroupId, Option<WatchPass>> = BTreeMap::new();
        let pass = |holding: Holding| {
            let made = passes.entry(holding.0).or_insert_with(|| {
                let (mandate, changes) = self.steward.pass(&holding.0)?;
                Some(WatchPass { mandate: Arc::from(mandate), changes: Arc::from(changes) })
            });
            Some((holding, made.clone()?))
        };
        asked.into_iter().filter_map(pass).collect()
    }

    /// Writes what changed, then gives out what may go out.
    fn drain(&mut self, out: &mut Outcome, again: bool) {
        let mut touched = if again { std::mem::take(&mut self.unsaved) } else { BTreeSet::new() };
        while let Some(effect) = self.steward.poll() {
            match effect {
                Effect::Persist(group) | Effect::Forget(group) => {
                    touched.insert(group);
                }
                Effect::Tell { to, say } => out.tell.push((to, *say)),
                Effect::Give { to, credentials, sheet, previous } => {
                    out.give.push(Give { to, credentials, sheet, previous });
                }
            }
        }
        self.write(touched);
        // What we would say of them could be forgotten by a crash: a vote, above all.
        out.tell.retain(|(_, say)| !self.unsaved.contains(&group_of(say)));
        out.give.retain(|give| !self.unsaved.contains(&give.credentials.certificate.order.group));
        // A token that a crash makes us forget would be asked with twice.
        let steward = &mut self.steward;
        out.tokens.retain(|token| {
            let written = !self.unsaved.contains(&token.group);
            if !written {
                steward.token_unasked(token);
            }
            written
        });
    }

    fn write(&mut self, touched: BTreeSet<GroupId>) {
        let (mut names, mut gone) = (Vec::new(), Vec::new());
        // Made when it is written: states have up to six MiB, and a lost peer touches hundreds.
        let states = touched.into_iter().filter_map(|group| match self.steward.encode_group(&group) {
            Some(state) => {
                names.push(group);
                Some((group_file(&group), state))
            }
            None => {
                gone.push(group_file(&group));
                None
            }
        });
        let written = self.files.write(states);
        for (group, written) in names.into_iter().zip(written) {
            match written {
                Ok(()) => {
                    self.unsaved.remove(&group);
                }
                Err(error) => {
                    tracing::error!(
                        group = %group.short(), %error,
                        "the state of a group cannot be written; this steward is silent about it until it can"
                    );
                    self.unsaved.insert(group);
                }
            }
        }
        if let Err(error) = self.files.remove(&gone) {
            // It is read again at the next start and dropped again at the first look: its mandate is over, or others watch.
            tracing::warn!(%error, "the state of a group that is watched no more cannot be removed");
        }
        let steward = &self.steward;
        self.unsaved.retain(|group| steward.groups().any(|known| known == *group));
    }

    /// Written when it changes: a crash is not to bring a liar back at once.
    fn save_suspects(&mut self) {
        if !self.steward.suspects_changed() {
            return;
        }
        let written = self.files.write([(SUSPECTS.to_owned(), self.steward.encode_suspects())]);
        for error in written.into_iter().filter_map(Result::err) {
            tracing::warn!(%error, "who may have sent wrong bytes cannot be written; a restart forgets it");
        }
    }

    /// Beliefs are written with the step of time that they are counted in, and read with the same only.
    pub(super) fn save_beliefs(&self) {
        let mut body = self.late_ms.to_le_bytes().to_vec();
        body.extend_from_slice(&self.steward.watch().encode());
        let places = self.steward.encode_places();
        let repairs = self.steward.repairs(Timestamp(0)).encode();
        let files = [(BELIEFS.to_owned(), body), (PLACES.to_owned(), places), (REPAIRS.to_owned(), repairs)];
        for error in self.files.write(files).into_iter().filter_map(Result::err) {
            tracing::warn!(%error, "what is believed of peers cannot be written; a restart learns it anew");
        }
    }
}
