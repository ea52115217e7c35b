//! What the data folder keeps, and what may be offered.

use super::*;
use crate::identity::Identity;

const NOW: Timestamp = Timestamp(1_800_000_000_000);
const DAY: u64 = 24 * 3600 * 1000;

fn founder() -> SigningKey {
    SigningKey::from_bytes(&[1; 32])
}

fn network() -> NetworkFile {
    NetworkFile::create_with("club", 0, Admission::Invitation, &founder()).expect("valid")
}

fn node(seed: u8) -> Identity {
    Identity::from_seed(&[seed; 32])
}

const TERMS: Terms = Terms { peer: None, depth: None, uses: 1, use_within: Some(7 * DAY), lasts: None };

fn offered(inviter: &Inviter, terms: &Terms, seed: u8) -> Result<SecretText, Failure> {
    let made = invite(&network(), inviter, terms, Zeroizing::new([seed; 32]), NOW)?;
    Ok(SecretText::new(made.to_text().to_string()))
}

fn settled(root: &Path, me: &Identity, given: Option<&SecretText>, now: Timestamp) -> Result<Option<Pass>, Failure> {
    settle(root, &network(), &me.peer(), given, now)
}

#[test]
fn an_invitation_becomes_a_pass_once_and_is_kept() {
    let folder = tempfile::tempdir().expect("folder");
    let (root, me) = (folder.path(), node(2));
    let none = settled(root, &me, None, NOW).expect_err("not invited");
    assert_eq!((none.code, none.id.as_str()), (ExitCode::Refused, "NOT_INVITED"));
    assert!(none.hint.contains("cairn network invite"));

    let text = offered(&Inviter::Founder(founder()), &TERMS, 50).expect("offered");
    let pass = settled(root, &me, Some(&text), NOW).expect("settled").expect("a pass");
    assert_eq!(settled(root, &me, None, NOW).expect("kept"), Some(pass.clone()));
    let later = NOW.plus_ms(30 * DAY);
    assert_eq!(
        settled(root, &me, Some(&text), later).expect("given again"),
        Some(pass.clone()),
        "the same, long after"
    );
    let secret = &text.expose()["cairn-invite-".len()..][..51];
    assert!(!std::fs::read_to_string(root.join(PASS_FILE)).expect("kept").contains(secret), "the secret is not");

    let thief = tempfile::tempdir().expect("folder");
    std::fs::copy(root.join(PASS_FILE), thief.path().join(PASS_FILE)).expect("stolen");
    let stolen = settled(thief.path(), &node(3), None, NOW).expect_err("refused");
    assert!(stolen.id == "NOT_INVITED" && stolen.causes[0].contains("another peer"), "{stolen:?}");
    let late = settled(thief.path(), &node(3), Some(&text), later).expect_err("refused");
    assert_eq!(late.code, ExitCode::Refused);
}

#[test]
fn what_cannot_be_used_is_said_and_changes_nothing() {
    let folder = tempfile::tempdir().expect("folder");
    let (root, me) = (folder.path(), node(2));
    let good = offered(&Inviter::Founder(founder()), &TERMS, 50).expect("offered");
    let pass = settled(root, &me, Some(&good), NOW).expect("settled");
    let stranger = SigningKey::from_bytes(&[9; 32]);
    let other = NetworkFile::create_with("other", 0, Admission::Invitation, &stranger).expect("valid");
    let foreign = invite(&other, &Inviter::Founder(stranger), &TERMS, Zeroizing::new([51; 32]), NOW).expect("there");
    let for_another = offered(&Inviter::Founder(founder()), &Terms { peer: Some(node(7).peer()), ..TERMS }, 52);
    let mut slip = good.expose().to_owned();
    slip.replace_range(30..31, if &slip[30..31] == "a" { "b" } else { "a" });
    for (text, hint) in [
        (slip, "copy all of it"),
        ("hello".to_owned(), "copy all of it"),
        (foreign.to_text().to_string(), "another network"),
        (for_another.expect("offered").expose().to_owned(), "for one peer"),
    ] {
        let refused = settled(root, &me, Some(&SecretText::new(text)), NOW).expect_err("refused");
        assert_eq!(refused.code, ExitCode::Refused);
        assert!(refused.hint.contains(hint), "{refused:?}");
    }
    assert_eq!(settled(root, &me, None, NOW).expect("kept"), pass, "what was good stays");
    std::fs::write(root.join(PASS_FILE), "nonsense").expect("written");
    assert_eq!(settled(root, &me, None, NOW).expect_err("damaged").id, "PASS");
}

#[test]
fn members_invite_as_deep_as_their_pass_goes() {
    let mut inviter = Inviter::Founder(founder());
    let mut depths = Vec::new();
    for seed in 2..6 {
        let text = offered(&inviter, &TERMS, 50 + seed).expect("may");
        let folder = tempfile::tempdir().expect("folder");
        let pass = settled(folder.path(), &node(seed), Some(&text), NOW).expect("settled").expect("a pass");
        depths.push(pass.depth());
        inviter = Inviter::Member(node(seed).signing_key().clone(), Box::new(pass));
    }
    assert_eq!(depths, [3, 2, 1, 0]);
    let last = offered(&inviter, &TERMS, 60).expect_err("the last may not");
    assert_eq!((last.code, last.id.as_str()), (ExitCode::Refused, "MAY_NOT_INVITE"));
    let wrong = offered(&Inviter::Founder(SigningKey::from_bytes(&[9; 32])), &TERMS, 60).expect_err("not the founder");
    assert!(wrong.message.contains("founder"), "{wrong:?}");
    let open = NetworkFile::create("open", 0, &founder()).expect("valid");
    let needless = invite(&open, &Inviter::Founder(founder()), &TERMS, Zeroizing::new([1; 32]), NOW);
    assert_eq!(needless.err().map(|e| e.code), Some(ExitCode::NothingToDo));
}
