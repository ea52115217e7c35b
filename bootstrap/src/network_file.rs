//! Puts bootstrap addresses into a network file. The signature covers the network's id only, so anyone may do this to
//! their own copy; a wrong address costs a failed dial and nothing else.

use cairn_proto::network_file::{BOOTSTRAP_MAX, NetworkFile};

use crate::address::{AddressError, check_address};

/// Why addresses could not be added.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AssembleError {
    /// One of them is not an address.
    #[error("bootstrap address '{address}': {why}")]
    Address {
        /// The text, cut to 80 characters.
        address: String,
        /// What is wrong.
        why: AddressError,
    },
    /// The file would hold too many.
    #[error("{found} bootstrap addresses, at most {BOOTSTRAP_MAX} are allowed")]
    TooMany {
        /// How many there would be.
        found: usize,
    },
}

/// The file with these addresses added at the end, each once.
///
/// # Errors
/// [`AssembleError`]; the file is then as it was.
pub fn add_bootstrap<S: AsRef<str>>(mut file: NetworkFile, addresses: &[S]) -> Result<NetworkFile, AssembleError> {
    for address in addresses.iter().map(AsRef::as_ref) {
        check_address(address)
            .map_err(|why| AssembleError::Address { address: address.chars().take(80).collect(), why })?;
        if !file.bootstrap.iter().any(|a| a == address) {
            file.bootstrap.push(address.to_owned());
        }
    }
    if file.bootstrap.len() > BOOTSTRAP_MAX {
        return Err(AssembleError::TooMany { found: file.bootstrap.len() });
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::SigningKey;

    const PEER: &str = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";

    fn file() -> NetworkFile {
        NetworkFile::create("home", 8, &SigningKey::from_bytes(&[5; 32])).expect("valid")
    }

    #[test]
    fn addresses_are_added_once_and_the_file_still_reads() {
        let address = format!("/ip4/203.0.113.7/tcp/4001/p2p/{PEER}");
        let made = add_bootstrap(file(), &[&address, &address]).expect("valid");
        assert_eq!(made.bootstrap, [address]);
        assert_eq!(NetworkFile::parse(&made.to_toml()), Ok(made));
    }

    #[test]
    fn bad_ones_and_too_many_are_refused() {
        let error = add_bootstrap(file(), &["/ip4/203.0.113.7/tcp/4001"]).expect_err("no peer id");
        assert!(error.to_string().starts_with("bootstrap address '/ip4/203.0.113.7/tcp/4001': write it as"), "{error}");
        let many: Vec<String> = (1..=65).map(|p| format!("/ip4/203.0.113.7/tcp/{p}/p2p/{PEER}")).collect();
        assert_eq!(add_bootstrap(file(), &many), Err(AssembleError::TooMany { found: 65 }));
    }
}
