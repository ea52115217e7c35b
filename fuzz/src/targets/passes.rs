//! Targets over passes and invitations, which strangers show at the door and people paste.

use cairn_proto::{
    Timestamp,
    network_file::{Admission, NetworkFile},
    pass::{Invitation, LinkKind, Offer, PASS_MAX, Pass, PassError, Presented},
};
use ed25519_dalek::SigningKey;

use super::Target;

pub(super) fn all() -> Vec<Target> {
    vec![
        Target { name: "pass", seeds: || passes().iter().map(Pass::encode).collect(), run: pass },
        Target { name: "invitation-text", seeds: text_seeds, run: text },
    ]
}

const AT: Timestamp = Timestamp(1_790_000_000_000);

fn secret(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn public(seed: u8) -> [u8; 32] {
    secret(seed).verifying_key().to_bytes()
}

fn network() -> NetworkFile {
    NetworkFile::create_with("fuzz", 0, Admission::Invitation, &secret(1)).expect("valid")
}

fn invitation() -> Invitation {
    let offer = Offer { depth: 3, uses: 4, issued: AT, use_by: Some(AT.plus_ms(9)), expires: None };
    let chain = Pass::found(&network(), &secret(1), LinkKind::Bearer, public(2), offer).expect("valid");
    Invitation::new(chain, [2; 32].into()).expect("belong together")
}

fn passes() -> Vec<Pass> {
    let one = invitation().accept(&cairn_proto::PeerKey::from_bytes(public(3)), AT).expect("closed");
    let offer = Offer { depth: 1, uses: 0, issued: AT, use_by: None, expires: Some(AT.plus_ms(99)) };
    let two = one.extend(&secret(3), LinkKind::Peer, public(4), offer).expect("may");
    vec![one, two]
}

fn pass(bytes: &[u8]) {
    let Ok(pass) = Pass::decode(bytes) else { return };
    assert!(bytes.len() <= PASS_MAX && pass.encode() == bytes, "one encoding for each pass");
    let known = passes().contains(&pass);
    match pass.verify(&network(), AT) {
        Ok(member) => assert!(known && member.inviters().len() <= 8, "nobody guesses a signature"),
        Err(error) => assert!(!known || error == PassError::Expired, "{error}"),
    }
}

fn text_seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = passes().iter().map(|pass| pass.to_text().into_bytes()).collect();
    seeds.push(invitation().to_text().as_bytes().to_vec());
    seeds
}

fn text(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let again = match Presented::parse(text) {
        Ok(Presented::Pass(pass)) => pass.to_text(),
        Ok(Presented::Invitation(invitation)) => invitation.to_text().to_string(),
        Err(_) => return,
    };
    let plain: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    assert_eq!(plain.to_ascii_lowercase(), again, "one text for each");
}
