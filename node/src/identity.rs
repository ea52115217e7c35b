//! The node's identity: an Ed25519 key whose public half solves the network's static puzzle.
//!
//! The seed lies in `identity.key` of the data folder, as 64 hex digits, readable by its owner only. It is never
//! logged and is wiped from memory when dropped. Losing it loses the peer's standing, not an owner's data.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use cairn_proto::{
    PeerKey,
    network_file::{NetworkFile, solves_puzzle},
};
use ed25519_dalek::SigningKey;
use rand_core::CryptoRng;
use zeroize::Zeroizing;

/// File name in the data folder.
pub const IDENTITY_FILE: &str = "identity.key";

/// A node's key pair. Signs adverts, receipts and the transport's handshake.
#[derive(Clone)]
pub struct Identity {
    key: SigningKey,
    peer: PeerKey,
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file could not be read or written.
    #[error("cannot use {IDENTITY_FILE}")]
    Io(#[from] io::Error),
    /// Others may read the file.
    #[error("{IDENTITY_FILE} can be read by others (mode {mode:o}); chmod it to 600")]
    Exposed {
        /// Permission bits found.
        mode: u32,
    },
    /// Not 64 hex digits.
    #[error("{IDENTITY_FILE} is damaged: not 64 hexadecimal digits")]
    Damaged,
    /// The key does not solve this network's puzzle: it was made for another network.
    #[error("{IDENTITY_FILE} belongs to another network: its key does not solve the puzzle of {network}")]
    OtherNetwork {
        /// Name of the network.
        network: String,
    },
}

impl Identity {
    /// Takes a seed as it is, without a look at any puzzle.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let key = SigningKey::from_bytes(seed);
        let peer = PeerKey::from_bytes(key.verifying_key().to_bytes());
        Self { key, peer }
    }

    /// Draws keys until one solves the network's puzzle: 2^bits draws of some 20 microseconds on average.
    pub fn generate(network: &NetworkFile, rng: &mut impl CryptoRng) -> Self {
        let mut seed = Zeroizing::new([0u8; 32]);
        loop {
            rng.fill_bytes(seed.as_mut());
            let identity = Self::from_seed(&seed);
            if identity.solves(network) {
                return identity;
            }
        }
    }

    /// Reads `identity.key` in the data folder, or finds and writes a new one. Blocking, and slow when it must
    /// find one.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn load_or_create(
        data_dir: &Path,
        network: &NetworkFile,
        rng: &mut impl CryptoRng,
    ) -> Result<Self, IdentityError> {
        match Self::load(data_dir, network) {
            Err(IdentityError::Io(e)) if e.kind() == io::ErrorKind::NotFound => {
                let identity = Self::generate(network, rng);
                identity.write(&data_dir.join(IDENTITY_FILE))?;
                Ok(identity)
            }
            loaded => loaded,
        }
    }

    /// Reads `identity.key` in the data folder.
    ///
    /// # Errors
    /// [`IdentityError`]; [`io::ErrorKind::NotFound`] when there is none.
    pub fn load(data_dir: &Path, network: &NetworkFile) -> Result<Self, IdentityError> {
        let path = data_dir.join(IDENTITY_FILE);
        let mode = fs::metadata(&path)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(IdentityError::Exposed { mode });
        }
        let text = Zeroizing::new(fs::read_to_string(&path)?);
        let identity = Self::from_seed(&*parse_seed(text.trim()).ok_or(IdentityError::Damaged)?);
        if !identity.solves(network) {
            return Err(IdentityError::OtherNetwork { network: network.name.clone() });
        }
        Ok(identity)
    }

    /// Writes beside and renames, so that a crash leaves a whole file or none.
    fn write(&self, path: &Path) -> io::Result<()> {
        let text = Zeroizing::new(self.key.as_bytes().iter().map(|b| format!("{b:02x}")).collect::<String>());
        let beside = path.with_extension("key.new");
        match fs::remove_file(&beside) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        if let Some(folder) = path.parent() {
            fs::File::open(folder)?.sync_all()?;
        }
        Ok(())
    }

    /// Whether the network admits this key.
    #[must_use]
    pub fn solves(&self, network: &NetworkFile) -> bool {
        solves_puzzle(&network.id, &self.peer, network.puzzle_bits)
    }

    /// The public half.
    #[must_use]
    pub const fn peer(&self) -> PeerKey {
        self.peer
    }

    /// What statements are signed with.
    #[must_use]
    pub const fn signing_key(&self) -> &SigningKey {
        &self.key
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({})", self.peer.short())
    }
}

pub(crate) fn parse_seed(text: &str) -> Option<Zeroizing<[u8; 32]>> {
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut seed = Zeroizing::new([0u8; 32]);
    for (i, byte) in seed.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(seed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_core::SeedableRng as _;

    fn network(bits: u8) -> NetworkFile {
        NetworkFile::create("test", bits, &SigningKey::from_bytes(&[1; 32])).expect("valid")
    }

    #[test]
    fn the_file_is_private_stable_and_checked() {
        let folder = tempfile::tempdir().expect("folder");
        let mut rng = rand_chacha::ChaCha20Rng::seed_from_u64(1);
        let network = network(6);
        let first = Identity::load_or_create(folder.path(), &network, &mut rng).expect("made");
        assert!(first.solves(&network));
        let again = Identity::load_or_create(folder.path(), &network, &mut rng).expect("read");
        assert_eq!(first.peer(), again.peer());

        let path = folder.path().join(IDENTITY_FILE);
        let set = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        set(0o644);
        assert!(matches!(
            Identity::load_or_create(folder.path(), &network, &mut rng),
            Err(IdentityError::Exposed { mode: 0o644 })
        ));
        set(0o600);
        fs::write(&path, "nonsense").expect("write");
        assert!(matches!(Identity::load_or_create(folder.path(), &network, &mut rng), Err(IdentityError::Damaged)));
    }

    #[test]
    fn a_key_of_another_network_is_refused() {
        let folder = tempfile::tempdir().expect("folder");
        let mut rng = rand_chacha::ChaCha20Rng::seed_from_u64(2);
        Identity::load_or_create(folder.path(), &network(0), &mut rng).expect("made");
        assert!(matches!(
            Identity::load_or_create(folder.path(), &network(20), &mut rng),
            Err(IdentityError::OtherNetwork { .. })
        ));
    }
}
