//! What a backup leaves to stewards for slots that few could audit: tokens that honest holders answer, one steward's each.

use std::collections::BTreeSet;

use cairn_core::audit::{Outcome, verify_digest_by};
use cairn_proto::{
    GroupId, GroupTicket, PeerKey, ShardRoot,
    audit::Way,
    manifest::GroupRow,
    tokens::{Booklet, TOKEN_LEAVES},
};

use super::{
    memory_overlay::{Manner, stewards::LeftTokens},
    *,
};
use crate::{
    overlay::{Overlay as _, ShardChallenge},
    vault::{catalogue::Catalogue, groups::access_of, stewards::tokens::Prepared},
};

/// So few that a colour has two or three peers.
const PEERS: u8 = 24;

fn catalogue(owner: &Owner) -> Catalogue {
    Vault::open(&owner.data, None).expect("opens").catalogue
}

fn groups(owner: &Owner) -> Vec<(GroupRow, GroupTicket)> {
    let vault = Vault::open(&owner.data, None).expect("opens");
    let rows = vault.catalogue.groups().map(|row| row.expect("readable")).filter(|row| row.stripes_used > 0);
    rows.map(|row| (row.clone(), access_of(&vault.keys, &row).expect("ours").ticket)).collect()
}

/// What each steward was left last, opened.
fn left(owner: &Owner, ticket: &GroupTicket) -> Vec<(PeerKey, Booklet, Option<Booklet>)> {
    let open = |sealed: &[u8]| Booklet::open(sealed, ticket).expect("the owner's");
    let all = owner.overlay.tokens(ticket.id());
    let last = |peer: &PeerKey| all.iter().rev().find(|(to, ..)| to == peer).expect("left");
    let peers: BTreeSet<PeerKey> = all.iter().map(|(peer, ..)| *peer).collect();
    peers.iter().map(last).map(|(peer, own, spare)| (*peer, open(own), spare.as_deref().map(open))).collect()
}

fn nonces(booklet: &Booklet) -> BTreeSet<[u8; 32]> {
    booklet.slots.iter().flat_map(|(_, rows)| rows.iter().map(|row| row.nonce)).collect()
}

fn disjoint(left: &[(PeerKey, Booklet, Option<Booklet>)]) {
    let mut seen = BTreeSet::new();
    for (_, own, spare) in left {
        for booklet in [Some(own), spare.as_ref()].into_iter().flatten() {
            for nonce in nonces(booklet) {
                assert!(seen.insert(nonce), "two stewards with the same token");
            }
        }
    }
}

/// What the holder of the n-th token's shard makes of it.
async fn asked(owner: &Owner, row: &GroupRow, ticket: &GroupTicket, booklet: &Booklet, nth: usize) -> Outcome {
    let (slot, tokens) = &booklet.slots[nth % booklet.slots.len()];
    let token = tokens[nth % tokens.len()];
    let stripes: Vec<_> = catalogue(owner).stripes().collect::<Result<_, _>>().expect("readable");
    let stripe = stripes.iter().find(|stripe| stripe.group == row.number && stripe.ordinal == token.ordinal);
    let root: ShardRoot = *stripe.expect("listed").root(*slot).expect("real");
    assert!(token.is_of(&root));
    let about = ShardChallenge {
        ticket: *ticket,
        access: None,
        slot: *slot,
        ordinal: token.ordinal,
        root,
        nonce: token.nonce,
        way: Way::Digest,
        leaves: TOKEN_LEAVES,
        previous: None,
    };
    let got = owner.overlay.challenge(row.holders[slot.index()][0], about).await.expect("answers");
    verify_digest_by(&got.challenge, &got.answer, &token.digest).expect("an answer")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stewards_are_left_is_what_honest_holders_answer() {
    let owner = Owner::new(PEERS);
    owner.write("a", &noise(1, 9 << 20));
    owner.backup().await.expect(ExitCode::Success);
    let groups = groups(&owner);
    let (mut tokens, mut spares) = (0, 0);
    for (row, ticket) in &groups {
        let records = owner.overlay.records(ticket.id());
        let left = left(&owner, ticket);
        assert_eq!(left.len(), records.len(), "every steward has some");
        disjoint(&left);
        for (steward, own, spare) in &left {
            assert_eq!(own.steward, Some(*steward));
            assert!(spare.as_ref().is_none_or(|spare| spare.steward.is_none()));
            assert_eq!(asked(&owner, row, ticket, own, tokens).await, Outcome::Good);
            tokens += nonces(own).len();
            if let Some(spare) = spare {
                assert_eq!(asked(&owner, row, ticket, spare, tokens).await, Outcome::Good);
                spares += 1;
            }
        }
    }
    assert!(tokens > 0 && spares > 0, "{tokens} {spares}");
    // A holder that guesses is wrong; one that dropped it says so.
    let (row, ticket) = &groups[0];
    let (_, own, _) = &left(&owner, ticket)[0];
    let holder = row.holders[own.slots[0].0.index()][0];
    owner.overlay.set_manner(&holder, Manner::Liar);
    assert_eq!(asked(&owner, row, ticket, own, 0).await, Outcome::Mismatch);
    owner.overlay.set_manner(&holder, Manner::Honest);
    owner.overlay.drop_every(&holder, 1);
    assert!(matches!(asked(&owner, row, ticket, own, 0).await, Outcome::NotHere(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_later_is_brought_to_the_same_seats_and_nothing_twice() {
    let owner = Owner::new(PEERS);
    owner.write("a", &noise(1, 2 << 20));
    owner.backup().await.expect(ExitCode::Success);
    let (row, ticket) = groups(&owner).remove(0);
    let (id, before) = (ticket.id(), left(&owner, &ticket));
    let sent = owner.overlay.tokens(id).len();
    let args = BackupArgs { skip_if_unchanged: true, ..owner.backup_args() };
    owner.run(Verb::Backup(args)).await.expect(ExitCode::NothingToDo);
    assert_eq!(owner.overlay.tokens(id).len(), sent, "nothing changed");
    // As if a stripe had come that the lot chose, one of 32: sixteen tokens of it, one for each seat.
    let first = catalogue(&owner).tokens(row.number).expect("readable").remove(0);
    let drawn = Prepared { ordinal: 200, digests: vec![[7; 16]; 16], ..first };
    catalogue(&owner).set_tokens(row.number, 200, &[drawn]).expect("kept");
    owner.write("b", &noise(2, 30 << 20));
    owner.backup().await.expect(ExitCode::Success);
    let after = left(&owner, &ticket);
    assert!(owner.overlay.tokens(id).len() > sent);
    disjoint(&after);
    for ((steward, old, _), (same, new, _)) in before.iter().zip(&after) {
        assert_eq!(steward, same);
        assert!(nonces(new).len() > nonces(old).len() && nonces(new).is_superset(&nonces(old)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seat_has_one_steward_for_as_long_as_the_group_lives() {
    let owner = Owner::new(PEERS);
    owner.write("a", &noise(1, 2 << 20));
    owner.backup().await.expect(ExitCode::Success);
    let (row, ticket) = groups(&owner).remove(0);
    let before = left(&owner, &ticket);
    // As if one that is no steward any more had had the first seat, and all that went with it.
    let mut seats = catalogue(&owner).seats(row.number).expect("readable");
    let (came, count) = (seats[0].steward, seats.len());
    assert!(before.iter().all(|(peer, ..)| seats.iter().any(|seat| seat.steward == *peer)));
    seats[0].steward = PeerKey::from_bytes([9; 32]);
    catalogue(&owner).set_seats(row.number, &seats).expect("written");
    owner.write("b", &noise(2, 30 << 20));
    owner.backup().await.expect(ExitCode::Success);
    let after = left(&owner, &ticket);
    let of = |left: &[(PeerKey, Booklet, Option<Booklet>)]| {
        let (_, own, spare) = left.iter().find(|(peer, ..)| *peer == came).expect("left");
        (nonces(own), spare.as_ref().map(nonces).unwrap_or_default())
    };
    let ((old, old_spare), (new, _)) = (of(&before), of(&after));
    assert!(!new.is_empty() && new.is_disjoint(&old) && new.is_disjoint(&old_spare), "those are another's");
    disjoint(&after);
    let seats = catalogue(&owner).seats(row.number).expect("readable");
    assert_eq!((seats.len(), seats[count].steward), (count + 1, came));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_network_needs_none_and_a_lost_catalogue_brings_no_token_twice() {
    let owner = Owner::new(180);
    owner.write("a", &noise(1, 2 << 20));
    owner.backup().await.expect(ExitCode::Success);
    let ids: Vec<GroupId> = groups(&owner).iter().map(|(_, ticket)| ticket.id()).collect();
    assert!(ids.iter().all(|id| owner.overlay.tokens(*id).is_empty()), "twenty of each colour");
    // On another machine, which knows nothing of what was given.
    let owner = Owner::new(PEERS);
    owner.write("a", &noise(1, 2 << 20));
    owner.backup().await.expect(ExitCode::Success);
    let (_, ticket) = groups(&owner).remove(0);
    let sent = owner.overlay.tokens(ticket.id());
    let all = |sent: &[LeftTokens]| -> BTreeSet<[u8; 32]> {
        let booklets = sent.iter().flat_map(|(_, own, spare)| [Some(own), spare.as_ref()]).flatten();
        booklets.flat_map(|sealed| nonces(&Booklet::open(sealed, &ticket).expect("the owner's"))).collect()
    };
    std::fs::remove_dir_all(&owner.data).expect("gone");
    owner.recover().await.expect(ExitCode::Success);
    owner.write("b", &noise(3, 30 << 20));
    owner.backup().await.expect(ExitCode::Success);
    let later = owner.overlay.tokens(ticket.id()).split_off(sent.len());
    assert!(all(&later).is_disjoint(&all(&sent)), "somebody else may have used them");
}
