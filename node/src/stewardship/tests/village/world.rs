//! What all peers of the village share, and the network as one of them has it.

use super::*;

/// What all peers share.
pub(crate) struct World {
    pub(crate) ticket: GroupTicket,
    pub(crate) keys: BTreeMap<PeerKey, SigningKey>,
    pub(crate) domains: BTreeMap<PeerKey, Domain>,
    pub(crate) shelves: BTreeMap<PeerKey, Arc<MemShelf>>,
    pub(crate) running: Mutex<BTreeMap<PeerKey, Stewardship>>,
    /// Of holders that speak for themselves.
    pub(crate) holdings: Mutex<BTreeMap<PeerKey, Holdings>>,
    pub(super) now: AtomicU64,
    /// Of stewardships, and of what else a peer runs.
    pub(super) beats: Mutex<BTreeMap<(PeerKey, bool), u64>>,
    pub(super) last_heard: Mutex<BTreeMap<PeerKey, Timestamp>>,
    pub(crate) away: Mutex<BTreeSet<PeerKey>>,
    /// Away, but their owners' clients come in their names: they are heard and probed, and store nothing.
    pub(crate) visiting: Mutex<BTreeSet<PeerKey>>,
    /// Their messages are lost.
    pub(crate) mute: Mutex<BTreeSet<PeerKey>>,
    /// Everything that somebody tried to say.
    pub(crate) said: Mutex<Vec<(PeerKey, PeerKey, Say)>>,
    pub(crate) fetched: Mutex<Vec<(PeerKey, u8)>>,
    /// Shards from this ordinal on do not come.
    pub(crate) stuck_from: AtomicU64,
    /// Say that they have all shards, whatever they have; and sign that to auditors who ask for one, or keep silent.
    pub(crate) liars: Mutex<BTreeMap<PeerKey, Lie>>,
    /// Who audits.
    pub(crate) auditors: Mutex<BTreeMap<PeerKey, Auditor>>,
    /// Whom rebuilds had to leave out; none where no root came out wrong.
    pub(crate) left_out: Mutex<Option<BTreeSet<PeerKey>>>,
    /// Where streams of rebuilds arrive.
    pub(super) arrivals: Mutex<BTreeMap<PeerKey, mpsc::Sender<Arrival>>>,
    /// Called with each message before it is sent.
    pub(crate) spy: Mutex<Option<Spy>>,
}

pub(crate) type Spy = Box<dyn FnMut(&PeerKey, &PeerKey, &Request) + Send>;

/// The network as one peer has it.
pub(super) struct Link {
    pub(super) world: Arc<World>,
    pub(super) me: PeerKey,
    /// It is the stewardship's, not an auditor's: the looks of both are the beats that a test waits for.
    pub(super) beats: bool,
}

impl World {
    pub(crate) fn now(&self) -> Timestamp {
        Timestamp(self.now.load(Ordering::SeqCst))
    }

    pub(super) fn reach(&self, a: &PeerKey, b: &PeerKey) -> Result<(), TransferError> {
        let away = self.away.lock().expect("away");
        if away.contains(a) || away.contains(b) { Err(TransferError::Unreachable("away".into())) } else { Ok(()) }
    }

    pub(super) fn views(&self, me: &PeerKey) -> Vec<PeerView> {
        let mut heard = self.last_heard.lock().expect("heard");
        let view = |(peer, domain): (&PeerKey, &Domain)| {
            let visits = self.visiting.lock().expect("visiting").contains(peer);
            let there = visits || self.reach(me, peer).is_ok();
            let last = heard.entry(*peer).or_insert(Timestamp(0));
            if there {
                *last = self.now();
            }
            PeerView {
                first_seen: Timestamp(0),
                last_heard: *last,
                reachable: Some(there),
                give: cairn_proto::ByteSize(100 << 30),
                free: cairn_proto::ByteSize(90 << 30),
                region: Region::unknown(),
                roles: if visits { Roles::NONE } else { Roles::STORAGE },
                rtt_ms: Some(20),
                reputation: 900,
                ..task::own_view(*peer, domain.clone(), Timestamp(0))
            }
        };
        self.domains.iter().filter(|(peer, _)| *peer != me).map(view).collect()
    }
}

impl StewardNet for Link {
    fn me(&self) -> PeerKey {
        self.me
    }

    fn peers(&self) -> BoxFuture<'_, Vec<PeerView>> {
        let views = self.world.views(&self.me);
        *self.world.beats.lock().expect("beats").entry((self.me, self.beats)).or_default() += 1;
        std::future::ready(views).boxed()
    }

    fn probe(&self, peer: PeerKey) -> BoxFuture<'_, Result<(), TransferError>> {
        let visits = self.world.visiting.lock().expect("visiting").contains(&peer);
        std::future::ready(if visits { Ok(()) } else { self.world.reach(&self.me, &peer) }).boxed()
    }

    fn request(&self, to: PeerKey, request: Request) -> BoxFuture<'_, Result<Answer, TransferError>> {
        async move {
            if let Some(spy) = self.world.spy.lock().expect("spy").as_mut() {
                spy(&self.me, &to, &request);
            }
            if let Request::Say(say) = &request {
                self.world.said.lock().expect("said").push((self.me, to, (**say).clone()));
            }
            self.world.reach(&self.me, &to)?;
            if self.world.mute.lock().expect("mute").contains(&self.me) {
                return Err(TransferError::TimedOut);
            }
            let request = match self.world.audit(self.me, to, request) {
                Ok(answer) => return answer,
                Err(request) => *request,
            };
            let other = self.world.running.lock().expect("running").get(&to).cloned();
            match other {
                Some(other) => Ok(other.handle(self.me, request).await),
                None => Err(TransferError::Unreachable("does not run".into())),
            }
        }
        .boxed()
    }

    fn holding(&self, at: PeerKey, pass: WatchPass, _of: Slot) -> BoxFuture<'_, Result<Ordinals, TransferError>> {
        let answer = self.world.reach(&self.me, &at).map(|()| {
            if self.world.liars.lock().expect("liars").contains_key(&at) {
                return (0..STRIPES).collect();
            }
            if let Some(holdings) = self.world.holdings.lock().expect("holdings").get(&at) {
                let mandate = Mandate::open(&pass.mandate).expect("signed");
                let (stewards, asked) = (mandate.stewards.clone(), Some((self.me, self.world.now())));
                let by = Watchers::new(&mandate, stewards, pass.changes.len(), asked);
                holdings.watched(self.world.ticket.id(), by);
            }
            self.world.shelves[&at].sound()
        });
        std::future::ready(answer).boxed()
    }

    fn fetch(
        &self,
        from: PeerKey,
        credentials: Arc<Credentials>,
        ordinal: u8,
    ) -> BoxFuture<'_, Result<Bytes, TransferError>> {
        async move {
            let world = &self.world;
            world.reach(&self.me, &from)?;
            let refused = TransferError::Refused { code: RefusalCode::NotAuthorised, retry_after_ms: 0 };
            let bearer = (&self.me, &world.domains[&self.me]);
            let served = part::may_serve(&credentials, &from, bearer, (&BTreeSet::new(), world.now()));
            let (at, ordinals) = served.map_err(|_| refused.clone())?;
            if u64::from(ordinal) >= world.stuck_from.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            world.fetched.lock().expect("fetched").push((self.me, ordinal));
            let shards = world.shelves[&from].shards.lock().expect("shelf");
            let found = shards.get(&(at.as_u8(), ordinal)).filter(|_| ordinals.contains(ordinal));
            found.map(|(_, bytes)| bytes.clone()).ok_or(refused)
        }
        .boxed()
    }
}
