//! The keyring: the vault's 32 secret bytes on disk, sealed under a passphrase.
//!
//! `vault/keyring`, 0600, 129 bytes: magic 8 · m KiB u32 LE · t u32 LE · p u32 LE · flags u8 · salt 32 · nonce 12 · zero 16 ·
//! sealed 32 + tag 16. Everything before the sealed bytes is the AAD, so nobody weakens the parameters unnoticed.
//! Without a passphrase the key is derived from an empty one, at the least cost that Argon2 knows: the file's mode is then
//! all that protects it, and flag bit 0 says so.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use aes_gcm::{
    Aes256Gcm, Nonce,
    aead::{Aead as _, KeyInit as _, Payload},
};
use argon2::{Algorithm, Argon2, Params, Version};
use zeroize::{Zeroize as _, Zeroizing};

use crate::ops::SecretText;

const MAGIC: &[u8; 8] = b"CAIRNKR1";
const HEADER: usize = 8 + 12 + 1 + 32 + 12 + 16;
const SIZE: usize = HEADER + 32 + 16;
const NO_PASSPHRASE: u8 = 1;

/// Argon2id memory: OWASP's 46 MiB row (m=46 MiB, t=1, p=1), about 50 ms here; a guess costs an attacker as much.
const MEMORY_KIB: u32 = 46 * 1024;
/// The least that Argon2 takes, for a keyring that has no passphrase: there is nothing to guess, and every verb would wait
/// those 50 ms.
const MEMORY_KIB_OPEN: u32 = 8;
/// Most memory that a keyring file may ask for: a damaged header must not exhaust the machine.
const MEMORY_KIB_MAX: u32 = 1024 * 1024;
/// Most passes that a keyring file may ask for, for the same reason.
const PASSES_MAX: u32 = 64;

/// Why a keyring could not be made or opened.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// There is none: no vault here.
    #[error("there is no vault in this data folder")]
    Missing,
    /// There is one already.
    #[error("this data folder already has a vault")]
    Exists,
    /// The passphrase does not open it (or the file was altered, which looks the same).
    #[error("the passphrase does not open the keyring")]
    WrongPassphrase,
    /// It was made with a passphrase and none was given.
    #[error("the keyring needs a passphrase")]
    PassphraseNeeded,
    /// Not a keyring file.
    #[error("the keyring file is damaged: {0}")]
    Damaged(&'static str),
    /// The disk said no.
    #[error("cannot access the keyring file")]
    Io(#[from] io::Error),
}

fn derive(
    passphrase: &[u8],
    salt: &[u8],
    memory: u32,
    passes: u32,
    lanes: u32,
) -> Result<Zeroizing<[u8; 32]>, KeyringError> {
    let bad = |_| KeyringError::Damaged("its Argon2 parameters are out of range");
    if memory > MEMORY_KIB_MAX || passes > PASSES_MAX || lanes > 16 {
        return Err(KeyringError::Damaged("its Argon2 parameters are out of range"));
    }
    let params = Params::new(memory, passes, lanes, Some(32)).map_err(bad)?;
    let mut key = Zeroizing::new([0u8; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase, salt, key.as_mut_slice())
        .map_err(bad)?;
    Ok(key)
}

/// Writes a new keyring; never over an existing one.
///
/// # Errors
/// [`KeyringError::Exists`], or the disk's.
pub fn create(file: &Path, secret: &[u8; 32], passphrase: Option<&SecretText>) -> Result<(), KeyringError> {
    if file.exists() {
        return Err(KeyringError::Exists);
    }
    let mut header = Vec::with_capacity(SIZE);
    header.extend_from_slice(MAGIC);
    let memory = if passphrase.is_some() { MEMORY_KIB } else { MEMORY_KIB_OPEN };
    for parameter in [memory, 1, 1] {
        header.extend_from_slice(&parameter.to_le_bytes());
    }
    header.push(if passphrase.is_none() { NO_PASSPHRASE } else { 0 });
    let mut random = [0u8; 44];
    getrandom::fill(&mut random).map_err(|e| io::Error::other(e.to_string()))?;
    header.extend_from_slice(&random);
    header.extend_from_slice(&[0; 16]);
    let key = derive(passphrase.map_or("", SecretText::expose).as_bytes(), &random[..32], memory, 1, 1)?;
    let mut nonce = [0u8; 12];
    nonce.copy_from_slice(&random[32..]);
    let sealed = Aes256Gcm::new(&(*key).into())
        .encrypt(&Nonce::from(nonce), Payload { msg: secret, aad: &header })
        .map_err(|_| KeyringError::Damaged("sealing failed"))?;
    header.extend_from_slice(&sealed);

    let temporary = file.with_extension("new");
    let mut out = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    out.write_all(&header)?;
    out.sync_all()?;
    fs::rename(&temporary, file)?;
    if let Some(parent) = file.parent() {
        fs::File::open(parent)?.sync_all()?;
    }
    Ok(())
}

/// Whether a keyring opens only with a passphrase; false when there is none, or it is damaged.
#[must_use]
pub fn needs_passphrase(file: &Path) -> bool {
    fs::read(file).is_ok_and(|b| b.len() == SIZE && &b[..8] == MAGIC && b[20] & NO_PASSPHRASE == 0)
}

/// Opens the keyring and gives the vault's 32 secret bytes.
///
/// # Errors
/// [`KeyringError`] naming which rule failed.
pub fn open(file: &Path, passphrase: Option<&SecretText>) -> Result<Zeroizing<[u8; 32]>, KeyringError> {
    let bytes = fs::read(file).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => KeyringError::Missing,
        _ => e.into(),
    })?;
    if bytes.len() != SIZE || &bytes[..8] != MAGIC {
        return Err(KeyringError::Damaged("wrong length or magic"));
    }
    let number = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let open_to_all = bytes[20] & NO_PASSPHRASE != 0;
    if !open_to_all && passphrase.is_none_or(|p| p.expose().is_empty()) {
        return Err(KeyringError::PassphraseNeeded);
    }
    // A passphrase given for a keyring that has none is ignored: environments often set one for every vault.
    let text = if open_to_all { "" } else { passphrase.map_or("", SecretText::expose) };
    let key = derive(text.as_bytes(), &bytes[21..53], number(8), number(12), number(16))?;
    let mut nonce = [0u8; 12];
    nonce.copy_from_slice(&bytes[53..65]);
    let mut plain = Aes256Gcm::new(&(*key).into())
        .decrypt(&Nonce::from(nonce), Payload { msg: &bytes[HEADER..], aad: &bytes[..HEADER] })
        .map_err(|_| KeyringError::WrongPassphrase)?;
    let mut secret = Zeroizing::new([0u8; 32]);
    secret.copy_from_slice(&plain);
    plain.zeroize();
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(s: &str) -> SecretText {
        SecretText::new(s.to_owned())
    }

    #[test]
    fn only_the_right_passphrase_opens() {
        let dir = tempfile::tempdir().expect("temp dir");
        let file = dir.path().join("keyring");
        assert!(matches!(open(&file, None), Err(KeyringError::Missing)));
        create(&file, &[7; 32], Some(&text("right"))).expect("made");
        assert!(matches!(create(&file, &[8; 32], None), Err(KeyringError::Exists)));
        assert_eq!(*open(&file, Some(&text("right"))).expect("opens"), [7; 32]);
        assert!(matches!(open(&file, Some(&text("wrong"))), Err(KeyringError::WrongPassphrase)));
        assert!(matches!(open(&file, None), Err(KeyringError::PassphraseNeeded)));
    }

    #[test]
    fn a_guess_at_a_passphrase_costs_what_owasp_asks_for() {
        let dir = tempfile::tempdir().expect("temp dir");
        let memory = |passphrase: Option<SecretText>| {
            let file = dir.path().join(if passphrase.is_some() { "guarded" } else { "open" });
            create(&file, &[7; 32], passphrase.as_ref()).expect("made");
            let bytes = fs::read(&file).expect("read");
            assert_eq!(*open(&file, passphrase.as_ref()).expect("opens"), [7; 32]);
            u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]])
        };
        assert_eq!((memory(Some(text("right"))), memory(None)), (46 * 1024, 8));
    }

    #[test]
    fn without_a_passphrase_the_file_is_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().expect("temp dir");
        let file = dir.path().join("keyring");
        create(&file, &[7; 32], None).expect("made");
        assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(*open(&file, None).expect("opens"), [7; 32]);
        assert_eq!(*open(&file, Some(&text("ignored"))).expect("opens"), [7; 32]);
    }

    #[test]
    fn any_flipped_byte_is_noticed() {
        let dir = tempfile::tempdir().expect("temp dir");
        let file = dir.path().join("keyring");
        create(&file, &[7; 32], None).expect("made");
        let good = fs::read(&file).expect("read");
        for at in [0, 8, 12, 16, 20, 21, 53, 65, HEADER, SIZE - 1] {
            let mut bad = good.clone();
            bad[at] ^= 0x40;
            fs::write(&file, &bad).expect("written");
            assert!(open(&file, None).is_err(), "byte {at}");
        }
    }
}
