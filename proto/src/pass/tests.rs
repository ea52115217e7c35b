//! Chains that hold and chains that do not.

use proptest::prelude::*;

use super::*;
use crate::network_file::Admission;

const NOW: Timestamp = Timestamp(1_800_000_000_000);
const DAY: u64 = 24 * 3600 * 1000;

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn public(seed: u8) -> [u8; 32] {
    key(seed).verifying_key().to_bytes()
}

fn network() -> NetworkFile {
    NetworkFile::create_with("club", 0, Admission::Invitation, &key(1)).expect("valid")
}

fn offer(depth: u8) -> Offer {
    Offer { depth, uses: 0, issued: NOW, use_by: None, expires: None }
}

fn bearer(depth: u8, uses: u8) -> Offer {
    Offer { uses, ..offer(depth) }
}

fn founded(seed: u8, depth: u8) -> Pass {
    Pass::found(&network(), &key(1), LinkKind::Peer, public(seed), offer(depth)).expect("valid")
}

fn invitation(depth: u8) -> Invitation {
    let chain = Pass::found(&network(), &key(1), LinkKind::Bearer, public(50), bearer(depth, 2)).expect("valid");
    Invitation::new(chain, Zeroizing::new([50; 32])).expect("belong together")
}

#[test]
fn a_member_lets_others_in_as_deep_as_it_may() {
    let pass = founded(2, 2);
    let member = pass.verify(&network(), NOW).expect("holds");
    assert_eq!((member.peer, member.depth, member.inviters()), (PeerKey::from_bytes(public(2)), 2, vec![]));
    let third = pass.extend(&key(2), LinkKind::Peer, public(3), offer(1)).expect("may");
    let fourth = third.extend(&key(3), LinkKind::Peer, public(4), offer(0)).expect("may");
    let member = fourth.verify(&network(), NOW).expect("holds");
    assert_eq!(member.inviters(), vec![PeerKey::from_bytes(public(3)), PeerKey::from_bytes(public(2))]);
    assert_eq!(member.branch(), PeerKey::from_bytes(public(2)));
    assert_eq!(fourth.extend(&key(4), LinkKind::Peer, public(5), offer(0)), Err(PassError::TooDeep));
    assert_eq!(pass.extend(&key(2), LinkKind::Peer, public(3), offer(2)), Err(PassError::TooDeep));
    assert_eq!(pass.extend(&key(9), LinkKind::Peer, public(3), offer(0)), Err(PassError::Forged), "not its own pass");
}

/// What honest code would not make.
fn forced(pass: &Pass, by: &SigningKey, kind: LinkKind, invitee: [u8; 32], offer: Offer) -> Pass {
    let mut links = pass.links.clone();
    links.push(Link::sign(&pass.network, kind, invitee, offer, by));
    Pass { network: pass.network, links }
}

#[test]
fn what_nobody_may_say_is_refused() {
    let pass = founded(2, 2);
    let refused = |pass: &Pass| pass.verify(&network(), NOW).expect_err("refused");
    assert_eq!(refused(&forced(&pass, &key(2), LinkKind::Peer, public(3), offer(2))), PassError::TooDeep);
    assert_eq!(refused(&forced(&pass, &key(9), LinkKind::Peer, public(3), offer(1))), PassError::Forged);
    assert_eq!(refused(&forced(&pass, &key(2), LinkKind::Peer, public(2), offer(1))), PassError::Circle);
    assert_eq!(refused(&forced(&pass, &key(2), LinkKind::Peer, public(1), offer(1))), PassError::Circle);
    let open = forced(&pass, &key(2), LinkKind::Bearer, public(50), bearer(1, 1));
    assert_eq!(refused(&open), PassError::Open);
    let twice = forced(&open, &key(50), LinkKind::Bearer, public(51), bearer(1, 1));
    assert_eq!(refused(&forced(&twice, &key(51), LinkKind::Peer, public(3), offer(1))), PassError::Open);
    assert_eq!(refused(&forced(&open, &key(50), LinkKind::Peer, public(3), offer(2))), PassError::TooDeep);
    let foreign = NetworkFile::create_with("club2", 0, Admission::Invitation, &key(1)).expect("valid");
    assert_eq!(pass.verify(&foreign, NOW), Err(PassError::OtherNetwork));
    let renamed = Pass { network: foreign.id, ..pass.clone() };
    assert_eq!(renamed.verify(&foreign, NOW), Err(PassError::Forged), "the network is signed");
    let other = Pass::found(&network(), &key(9), LinkKind::Peer, public(2), offer(0));
    assert_eq!(other, Err(PassError::Forged), "only the founder founds");
}

#[test]
fn times_bind() {
    let with = |change: fn(&mut Offer)| {
        let mut offer = offer(3);
        change(&mut offer);
        Pass::found(&network(), &key(1), LinkKind::Peer, public(2), offer).expect("valid")
    };
    let lasting = with(|o| o.expires = Some(NOW.plus_ms(DAY)));
    assert_eq!(lasting.verify(&network(), NOW).expect("holds").expires, Some(NOW.plus_ms(DAY)));
    assert_eq!(lasting.verify(&network(), NOW.plus_ms(DAY)), Err(PassError::Expired));
    let below = lasting.extend(&key(2), LinkKind::Peer, public(3), offer(0)).expect("may");
    assert_eq!(below.verify(&network(), NOW.plus_ms(DAY)), Err(PassError::Expired), "and all below it");
    assert_eq!(with(|o| o.issued = NOW.plus_ms(DAY)).verify(&network(), NOW), Err(PassError::Ahead));

    let late = Offer { use_by: Some(NOW.plus_ms(DAY)), ..bearer(0, 1) };
    let chain = Pass::found(&network(), &key(1), LinkKind::Bearer, public(50), late).expect("valid");
    let invitation = Invitation::new(chain, Zeroizing::new([50; 32])).expect("belong together");
    let me = PeerKey::from_bytes(public(3));
    let (early, late) = (NOW, NOW.plus_ms(2 * DAY));
    assert!(invitation.verify(&network(), early).is_ok());
    assert_eq!(invitation.verify(&network(), late), Err(PassError::UsedLate));
    let pass = invitation.accept(&me, early).expect("closed");
    assert!(pass.verify(&network(), late).is_ok(), "who came in time stays");
    assert_eq!(invitation.accept(&me, late).expect("closed").verify(&network(), late), Err(PassError::UsedLate));
}

#[test]
fn a_bearer_closes_the_chain_and_passes_it_on() {
    let mut pass = invitation(3).accept(&PeerKey::from_bytes(public(10)), NOW).expect("closed");
    for (member, bearing, depth) in [(10u8, 61u8, 2u8), (11, 62, 1), (12, 63, 0)] {
        let chain = pass.extend(&key(member), LinkKind::Bearer, public(bearing), bearer(depth, 1)).expect("may");
        let invitation = Invitation::new(chain, Zeroizing::new([bearing; 32])).expect("belong together");
        pass = invitation.accept(&PeerKey::from_bytes(public(member + 1)), NOW).expect("closed");
    }
    assert_eq!((pass.room(), pass.encode().len()), (0, PASS_MAX), "four invitations fill a pass");
    let member = pass.verify(&network(), NOW).expect("holds");
    assert_eq!(member.branch(), PeerKey::from_bytes(public(50)), "the bearer's key: all whom it let in are one branch");
    assert_eq!(member.inviters().len(), 3);
    let ninth = forced(&pass, &key(13), LinkKind::Peer, public(14), offer(0));
    assert!(Pass::decode(&ninth.encode()).is_err(), "nine links are no pass");
}

#[test]
fn texts_are_read_as_they_were_written_and_slips_are_noticed() {
    let invitation = invitation(3);
    let text = invitation.to_text();
    assert!(text.len() <= TEXT_MAX && text.starts_with("cairn-invite-"));
    let (first, rest) = text.split_at(40);
    let Presented::Invitation(read) =
        Presented::parse(&format!(" {}\n{rest} ", first.to_uppercase())).expect("as mails have it")
    else {
        unreachable!("an invitation")
    };
    assert_eq!(*read.to_text(), *text);
    assert!(!format!("{read:?}").contains(&text[20..60]), "the secret is not shown");
    for at in "cairn-invite-".len()..text.len() {
        let mut slip = text.as_bytes().to_vec();
        slip[at] = if slip[at] == b'a' { b'b' } else { b'a' };
        assert!(Presented::parse(std::str::from_utf8(&slip).expect("ASCII")).is_err(), "character {at}");
    }
    assert!(Presented::parse(&text[..text.len() - 1]).is_err());
    let pass = founded(2, 1);
    assert!(matches!(Presented::parse(&pass.to_text()), Ok(Presented::Pass(read)) if read == pass));
    for wrong in ["", "cairn-invite-", "cairn-pass-a", "hello"] {
        assert!(Presented::parse(wrong).is_err(), "{wrong}");
    }
    assert!(Presented::parse(&"a".repeat(3 * TEXT_MAX)).is_err());
    assert!(Invitation::new(pass, Zeroizing::new([2; 32])).is_err(), "a peer's link has no bearer");
}

#[test]
fn every_bit_counts() {
    let pass = founded(2, 2).extend(&key(2), LinkKind::Peer, public(3), offer(1)).expect("may");
    let bytes = pass.encode();
    assert_eq!(Pass::decode(&bytes), Ok(pass));
    for at in 0..bytes.len() * 8 {
        let mut bad = bytes.clone();
        bad[at / 8] ^= 1 << (at % 8);
        let read = Pass::decode(&bad).map_err(PassError::from).and_then(|pass| pass.verify(&network(), NOW));
        assert!(read.is_err(), "bit {at}");
    }
}

proptest! {
    #[test]
    fn any_bytes_decode_to_what_encodes_to_them_or_are_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..PASS_MAX + 8), links in 0u8..10) {
        if bytes.len() > 2 {
            (bytes[0], bytes[1]) = (VERSION, links);
            bytes.truncate(HEAD + usize::from(links) * LINK);
            let at = |link: usize| HEAD + link * LINK;
            for link in 0..usize::from(links) {
                if let Some([kind, depth, uses]) = bytes.get_mut(at(link)..at(link) + 3) {
                    (*kind, *depth, *uses) = (*kind & 1, *depth & 7, *uses % 65);
                }
            }
        }
        if let Ok(pass) = Pass::decode(&bytes) {
            prop_assert_eq!(pass.encode(), bytes);
            prop_assert!(pass.verify(&network(), NOW).is_err(), "nobody guesses a signature");
        }
    }

    #[test]
    fn any_text_is_read_or_refused(text in "(cairn-(invite|pass)-)?[a-z2-7]{0,400}") {
        prop_assert!(Presented::parse(&text).is_err());
    }
}
