use std::collections::BTreeSet;

use super::*;

const PHRASE: &str = "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon \
     abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon art";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn the_standard_test_vectors_of_bip39_hold() {
    assert_eq!(MasterSeed::from_phrase(PHRASE).expect("valid").expose(), &[0; 32]);
    assert_eq!(generate([0; 32]).1.as_str(), PHRASE);
    let vote = ["zoo "; 23].concat() + "vote";
    assert_eq!(MasterSeed::from_phrase(&vote).expect("valid").expose(), &[0xff; 32]);
    let dignity = "hamster diagram private dutch cause delay private meat slide toddler razor book happy fancy \
         gospel tennis maple dilemma loan word shrug inflict delay length";
    let entropy = "68a79eaca2324873eacc50cb9c6eca8cc68ea5d936f98787c60c7ebc74e6ce7c";
    assert_eq!(hex(MasterSeed::from_phrase(dignity).expect("valid").expose()), entropy);
}

#[test]
fn a_phrase_is_read_as_people_type_it() {
    let typed = format!("  {}\n", PHRASE.to_uppercase().replace(' ', "\t "));
    assert_eq!(MasterSeed::from_phrase(&typed).expect("valid").expose(), &[0; 32]);
    let (seed, phrase) = generate([0x5a; 32]);
    assert_eq!(MasterSeed::from_phrase(&phrase).expect("valid").expose(), seed.expose());
}

#[test]
fn a_wrong_phrase_says_what_is_wrong() {
    let words: Vec<_> = PHRASE.split(' ').collect();
    assert_eq!(MasterSeed::from_phrase("").expect_err("refused"), PhraseError::WordCount { found: 0 });
    assert_eq!(
        MasterSeed::from_phrase(&words[..12].join(" ")).expect_err("refused"),
        PhraseError::WordCount { found: 12 }
    );
    let twelve = [["abandon"; 11].join(" "), "about".into()].join(" ");
    assert_eq!(MasterSeed::from_phrase(&twelve).expect_err("refused"), PhraseError::WordCount { found: 12 });
    for position in [1, 7, 24] {
        let mut misspelt = words.clone();
        misspelt[position - 1] = "abandom";
        let error = MasterSeed::from_phrase(&misspelt.join(" ")).expect_err("refused");
        assert_eq!(error, PhraseError::UnknownWord { position });
        assert!(!error.to_string().contains("abandom"), "a phrase's words are not printed");
    }
    let mut swapped = words;
    swapped.swap(3, 23);
    assert_eq!(MasterSeed::from_phrase(&swapped.join(" ")).expect_err("refused"), PhraseError::Checksum);
    assert!(MasterSeed::from_phrase(&"é".repeat(100)).is_err());
}

fn keys() -> VaultKeys {
    VaultKeys::derive(&MasterSeed::from_phrase(PHRASE).expect("valid"))
}

/// Frozen: a change here makes every existing vault unreadable.
#[test]
fn known_answers() {
    let keys = keys();
    let epoch = keys.epoch(KeyMode::Paper, 1);
    let shard = epoch.stripe_key(&StripeId::from_bytes([1; 32])).shard_key(Slot::new(2).expect("in range"));
    let found = [
        ("vault key", keys.vault_key().to_string()),
        ("head key", hex(keys.head_key())),
        ("chunk id", keys.chunk_id(b"chunk").to_string()),
        ("snapshot id", keys.snapshot_id(b"record").to_string()),
        ("chunker seed", format!("{:016x}", keys.chunker_seed())),
        ("group 7", hex(&keys.group_authority(7).verifying_key().to_bytes())),
        ("placement 7", hex(&keys.placement_key(7)[..])),
        ("shard key", hex(&shard[..])),
    ];
    let text: String = found.iter().map(|(name, value)| format!("{name} = {value}\n")).collect();
    crate::golden::check("keys.txt", &text);
}

#[test]
fn every_key_differs() {
    let keys = keys();
    let other = VaultKeys::derive(&MasterSeed::from_entropy([1; 32]));
    let mut seen = BTreeSet::new();
    let mut fresh = |key: &[u8]| assert!(seen.insert(key.to_vec()), "a key came twice");
    for vault in [&keys, &other] {
        fresh(vault.signing().as_bytes());
        fresh(vault.head_key());
        fresh(vault.chunk_id(b"same").as_bytes());
        fresh(vault.snapshot_id(b"same").as_bytes());
        for number in 0..3 {
            fresh(vault.group_authority(number).as_bytes());
            fresh(&vault.placement_key(number)[..]);
            let epoch = vault.epoch(KeyMode::Paper, number);
            for stripe in 0..3 {
                let stripe = epoch.stripe_key(&StripeId::from_bytes([stripe; 32]));
                for slot in 0..32 {
                    fresh(&stripe.shard_key(Slot::new(slot).expect("in range"))[..]);
                }
            }
        }
    }
}

#[test]
fn secrets_are_not_printed() {
    let keys = keys();
    let epoch = keys.epoch(KeyMode::Paper, 1);
    let stripe = epoch.stripe_key(&StripeId::from_bytes([1; 32]));
    let seed = MasterSeed::from_entropy([0xab; 32]);
    let all = format!("{keys:?} {epoch:?} {stripe:?} {seed:?}");
    assert_eq!(all, "VaultKeys(..) EpochKeys(..) StripeKey(..) MasterSeed(..)");
}
