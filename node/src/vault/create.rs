//! A new vault, all at once: it is made beside its place and moved there in one step, so that whatever ends this leaves either
//! no vault or a whole one. What an attempt that died left over is removed by the next.

use std::{fs, io, os::unix::fs::DirBuilderExt as _, path::Path};

use cairn_core::keys::MasterSeed;
use cairn_proto::manifest::EpochRow;

use super::{Vault, catalogue::Catalogue, failures, keyring, keyring::KeyringError, now, vault_dir};
use crate::{
    failure::{ExitCode, Failure},
    ops::SecretText,
};

/// What has been done when the process may die.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Leftovers are gone.
    Cleared,
    /// The new folder is there, empty.
    Folder,
    /// It has a catalogue.
    Catalogue,
    /// And a keyring: all that belongs to a vault.
    Keyring,
    /// It is in its place.
    Moved,
}

/// Makes a vault's folder. `reached` is told of each step and may end the work there, as a death would (tests do).
pub(super) fn create(
    data_dir: &Path,
    seed: &MasterSeed,
    passphrase: Option<&SecretText>,
    reached: &mut dyn FnMut(Step) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let failed =
        |e: io::Error| Failure::new(ExitCode::Failed, "VAULT_DIR", "cannot make the vault's folder").caused_by(&e);
    let (place, fresh) = (vault_dir(data_dir), data_dir.join("vault.new"));
    refuse_existing(&place)?;
    for leftover in [&place, &fresh] {
        match fs::remove_dir_all(leftover) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
            _ => {}
        }
    }
    reached(Step::Cleared)?;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&fresh).map_err(failed)?;
    reached(Step::Folder)?;
    let catalogue = fresh.join("catalogue");
    {
        let vault = Vault::with_seed(&fresh, seed)?;
        vault.set_epochs(&[EpochRow { number: 1, created: now() }])?;
        vault.catalogue.flush().map_err(failures::catalogue)?;
    }
    Catalogue::wait_closed(&catalogue).map_err(failures::catalogue)?;
    reached(Step::Catalogue)?;
    keyring::create(&fresh.join("keyring"), seed.expose(), passphrase).map_err(failures::keyring)?;
    reached(Step::Keyring)?;
    let sync = |dir: &Path| fs::File::open(dir)?.sync_all();
    sync(&catalogue).and_then(|()| sync(&fresh)).map_err(failed)?;
    fs::rename(&fresh, &place).and_then(|()| sync(data_dir)).map_err(failed)?;
    reached(Step::Moved)
}

/// Only a folder that nothing can be recovered from gives way.
fn refuse_existing(place: &Path) -> Result<(), Failure> {
    if place.join("keyring").exists() {
        return Err(failures::keyring(KeyringError::Exists));
    }
    if ["catalogue", "catalogue.old"].iter().any(|name| place.join(name).exists()) {
        return Err(Failure::new(
            ExitCode::Refused,
            "VAULT_UNFINISHED",
            "this data folder has a vault's catalogue without its keyring",
        )
        .with_hint("a recovery ended half-way: run `cairn recover` again, or remove the folder `vault`"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_core::keys::generate;

    /// Dies at each step in turn, and then makes a vault in what is left.
    #[test]
    fn whatever_ends_it_leaves_no_vault_or_a_whole_one() {
        for last in [Step::Cleared, Step::Folder, Step::Catalogue, Step::Keyring, Step::Moved] {
            let dir = tempfile::tempdir().expect("temp dir");
            let (seed, _) = generate([7; 32]);
            let died = create(dir.path(), &seed, None, &mut |step| {
                if step == last { Err(Failure::new(ExitCode::Failed, "DIED", "killed here")) } else { Ok(()) }
            });
            assert_eq!(died.expect_err("dies").id, "DIED");
            if last == Step::Moved {
                Vault::open(dir.path(), None).expect("a whole vault");
                let again = Vault::init(dir.path(), None).expect_err("there is one");
                assert_eq!(again.id, "VAULT_EXISTS");
                continue;
            }
            let none = Vault::open(dir.path(), None).expect_err("no vault");
            assert_eq!(none.id, "NO_VAULT", "{last:?}");
            let (vault, _) = Vault::init(dir.path(), None).expect("made in what was left");
            drop(vault);
            Vault::open(dir.path(), None).expect("a whole vault");
            assert!(!dir.path().join("vault.new").exists());
        }
    }

    #[test]
    fn what_could_be_recovered_is_not_removed() {
        let dir = tempfile::tempdir().expect("temp dir");
        fs::create_dir_all(dir.path().join("vault/catalogue.new")).expect("made");
        drop(Vault::init(dir.path(), None).expect("a recovery that came to nothing is no reason"));
        fs::remove_file(dir.path().join("vault/keyring")).expect("removed");
        assert_eq!(Vault::init(dir.path(), None).expect_err("refused").id, "VAULT_UNFINISHED");
        assert!(dir.path().join("vault/catalogue").is_dir());
    }
}
