//! Who gets a full row's slot, who does not, and what refusing costs us.

use std::collections::BTreeSet;

use cairn_proto::{
    GroupId, PeerKey, Slot,
    manifest::{GroupRow, HOLDERS_MAX},
};

use super::{memory_overlay::Manner, *};
use crate::vault::{
    backup::open_session,
    catalogue::{Catalogue, holders::Former},
    groups::access_of,
    leaning::Storage,
    shortfall,
};

fn catalogue(owner: &Owner) -> Catalogue {
    Vault::open(&owner.data, None).expect("opens").catalogue
}

/// A slot of a group whose holder sleeps, with more peers that could take it.
struct Scene {
    owner: Owner,
    group: u32,
    id: GroupId,
    slot: u8,
    sleeper: PeerKey,
    spare: Vec<PeerKey>,
}

impl Scene {
    /// The slot's row is full: its holder, and three that nobody knows.
    async fn new() -> Self {
        let owner = Owner::new(31);
        owner.write("a", &noise(1, 30 << 20));
        owner.backup().await.expect(ExitCode::Success);
        let rows = catalogue(&owner).groups().collect::<Result<Vec<_>, _>>().expect("readable");
        let mut row = rows.into_iter().max_by_key(|row| row.stripes_used).expect("a group");
        let keys = Vault::open(&owner.data, None).expect("opens").keys;
        let ticket = access_of(&keys, &row).expect("valid").ticket;
        let in_row = |row: &GroupRow, peer: &PeerKey| row.holders.iter().flatten().any(|holder| holder == peer);
        let spare = |slot: u8| {
            let mut found = owner.overlay.coloured(&ticket, Slot::new(slot).expect("a slot"));
            found.retain(|peer| !in_row(&row, peer));
            found
        };
        let (spare, slot) = (0..8).map(|slot| (spare(slot), slot)).max_by_key(|(found, _)| found.len()).expect("slots");
        assert!(spare.len() >= 2, "23 peers more than slots are not one for each colour and the rest in the ninth");
        let holders = &mut row.holders[usize::from(slot)];
        let sleeper = holders[0];
        holders.truncate(1);
        holders.extend((1..HOLDERS_MAX as u8).map(|at| PeerKey::from_bytes([0xd0 + at; 32])));
        row.sealed = true;
        catalogue(&owner).set_group(&row).expect("written");
        let scene = Self { owner, group: row.number, id: ticket.id(), slot, sleeper, spare };
        assert!(scene.ordinals().len() >= 2, "one stripe alone would prove nothing");
        scene
    }

    /// The stripes of the group that have this slot.
    fn ordinals(&self) -> Vec<u8> {
        let rows = catalogue(&self.owner).stripes().collect::<Result<Vec<_>, _>>().expect("readable");
        let mine = rows.into_iter().filter(|s| s.group == self.group && s.roots[usize::from(self.slot)].is_some());
        mine.map(|s| s.ordinal).collect()
    }

    /// A newcomer has these from an earlier run.
    fn give_before(&self, peer: PeerKey, ordinals: &[u8]) {
        self.owner.overlay.copy_shards(&self.sleeper, &peer, self.id, self.slot, ordinals);
        let mut formers = catalogue(&self.owner).formers().expect("readable").remove(&self.group).unwrap_or_default();
        formers.push(Former { slot: self.slot, peer, subnet: None });
        catalogue(&self.owner).set_formers(self.group, &formers).expect("written");
    }

    fn holders(&self) -> Vec<PeerKey> {
        let row = catalogue(&self.owner).group(self.group).expect("readable").expect("there");
        row.holders[usize::from(self.slot)].clone()
    }

    fn remembered(&self) -> usize {
        let formers = catalogue(&self.owner).formers().expect("readable").remove(&self.group).unwrap_or_default();
        formers.iter().filter(|former| former.slot == self.slot).count()
    }

    /// The stripes of the group that lack this slot.
    fn lacking(&self) -> usize {
        let open = catalogue(&self.owner);
        let of_group = |no| open.stripe(no).expect("readable").expect("there").group == self.group;
        let short = open.short().expect("readable");
        short.iter().filter(|(no, slots)| of_group(*no) && slots.iter().any(|s| s & 0x7f == self.slot)).count()
    }

    async fn repair(&self) {
        let args = BackupArgs { skip_if_unchanged: true, ..self.owner.backup_args() };
        self.owner.run(Verb::Backup(args)).await.result.expect("it runs");
    }

    fn all_spare(&self, manner: Manner) {
        self.spare.iter().for_each(|peer| self.owner.overlay.set_manner(peer, manner));
    }
}

/// Each waits for what the other has.
#[tokio::test(flavor = "multi_thread")]
async fn two_newcomers_with_parts_do_not_block_a_slot() {
    // Which of the two is the heir is not said, so each is once the one that takes no more.
    for (manner, at) in [(Manner::Honest, 0), (Manner::Full, 0), (Manner::Full, 1), (Manner::Vanished, 0)] {
        let scene = Scene::new().await;
        scene.owner.overlay.set_manner(&scene.sleeper, Manner::Dead);
        let ordinals = scene.ordinals();
        scene.give_before(scene.spare[0], &ordinals[..1]);
        scene.give_before(scene.spare[1], &ordinals[1..2]);
        scene.owner.overlay.set_manner(&scene.spare[at], manner);
        scene.repair().await;
        assert_eq!(scene.lacking(), 0, "{manner:?}");
        assert!(!scene.holders().contains(&scene.spare[at]) || manner == Manner::Honest);
        assert!(scene.holders().iter().any(|peer| scene.spare.contains(peer)));
        scene.owner.overlay.assert_separated();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomers_word_alone_takes_nobodys_place() {
    let scene = Scene::new().await;
    scene.owner.overlay.set_manner(&scene.sleeper, Manner::Dead);
    scene.all_spare(Manner::Full);
    scene.give_before(scene.spare[0], &scene.ordinals());
    // It says to have everything.
    scene.owner.overlay.set_manner(&scene.spare[0], Manner::Liar);
    scene.repair().await;
    assert!(!scene.holders().contains(&scene.spare[0]));
    scene.owner.overlay.set_manner(&scene.spare[0], Manner::Full);
    scene.repair().await;
    assert!(scene.holders().contains(&scene.spare[0]), "what it has can be read: it is asked for no more");
    assert_eq!(scene.lacking(), 0);
}

/// The slot's row has room, and what it has is lost.
async fn nobody_takes_it(manner: Manner) -> Scene {
    let scene = Scene::new().await;
    let mut row = catalogue(&scene.owner).group(scene.group).expect("readable").expect("there");
    row.holders[usize::from(scene.slot)].truncate(1);
    catalogue(&scene.owner).set_group(&row).expect("written");
    scene.owner.overlay.lose_shards(&scene.sleeper);
    scene.owner.overlay.set_manner(&scene.sleeper, Manner::Full);
    scene.all_spare(manner);
    scene.owner.overlay.take_offers(scene.id, scene.slot);
    scene.repair().await;
    assert!(scene.lacking() >= 2, "nobody took it");
    scene
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_there_is_neither_remembered_nor_offered_anything() {
    let scene = nobody_takes_it(Manner::Vanished).await;
    assert_eq!(scene.remembered(), 0);
    let offers = scene.owner.overlay.take_offers(scene.id, scene.slot);
    assert!(scene.spare.iter().all(|peer| !offers.contains_key(peer)), "{offers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_refuses_is_asked_once_in_a_run() {
    let scene = nobody_takes_it(Manner::Full).await;
    let offers = scene.owner.overlay.take_offers(scene.id, scene.slot);
    assert!(offers.values().all(|times| *times == 1), "{offers:?}");
    assert!(offers.contains_key(&scene.sleeper), "a holder may take it again");
    let spare: BTreeSet<_> = scene.spare.iter().collect();
    assert_eq!(offers.keys().filter(|peer| spare.contains(peer)).count(), 2, "few newcomers in one run");
    assert_eq!(scene.remembered(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn completing_ends_when_its_time_is_over() {
    let scene = nobody_takes_it(Manner::Full).await;
    scene.all_spare(Manner::Honest);
    let short = catalogue(&scene.owner).short().expect("readable");
    let vault = Vault::open(&scene.owner.data, None).expect("opens");
    let overlay = scene.owner.overlay.shared();
    let counters = vault.check_network_head(&overlay).await.expect("a head");
    let (events, _listener) = mpsc::channel(1024);
    let cancel = CancellationToken::new();
    let session =
        open_session(&vault, (overlay, &Storage::default()), crate::vault::now(), counters, None, &events, &cancel)
            .await
            .expect("opens");
    assert_eq!(shortfall::complete(&session, &cancel, std::time::Duration::ZERO).await, 0);
    assert_eq!(vault.catalogue.short().expect("readable"), short, "what is left stays noted");
    assert!(shortfall::complete(&session, &cancel, shortfall::TIME).await >= 2);
}

/// It says that it has the shard and takes it again, but gives it to nobody.
#[tokio::test(flavor = "multi_thread")]
async fn who_refuses_to_be_read_does_not_clear_the_note() {
    let scene = Scene::new().await;
    let mut row = catalogue(&scene.owner).group(scene.group).expect("readable").expect("there");
    row.holders[usize::from(scene.slot)].truncate(1);
    catalogue(&scene.owner).set_group(&row).expect("written");
    scene.owner.overlay.set_manner(&scene.sleeper, Manner::Liar);
    scene.owner.check(true).await.expect(ExitCode::Damage);
    scene.owner.overlay.set_manner(&scene.sleeper, Manner::Mute);
    scene.all_spare(Manner::Full);
    scene.repair().await;
    assert!(scene.lacking() >= 2, "a put alone clears nothing");
    scene.all_spare(Manner::Honest);
    scene.repair().await;
    assert_eq!(scene.lacking(), 0);
    assert!(scene.holders().iter().any(|peer| scene.spare.contains(peer)), "somebody else has it");
}
