//! Peer keys and libp2p peer ids: two spellings of one Ed25519 public key.

use cairn_proto::PeerKey;
use libp2p::{PeerId, identity};

use crate::identity::Identity;

/// An Ed25519 peer id is an identity multihash over a protobuf key: these six bytes, then the key.
const PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// The peer's key, when it is an Ed25519 one (no other kind is admitted).
pub(crate) fn peer_key(id: &PeerId) -> Option<PeerKey> {
    let bytes = id.to_bytes();
    let key = bytes.strip_prefix(PREFIX.as_slice())?;
    PeerKey::from_slice(key).ok()
}

/// The libp2p id of a key; `None` for bytes that are no point on the curve.
pub(crate) fn peer_id(key: &PeerKey) -> Option<PeerId> {
    let key = identity::ed25519::PublicKey::try_from_bytes(key.as_bytes()).ok()?;
    Some(identity::PublicKey::from(key).to_peer_id())
}

/// The transport's key pair; `None` cannot happen for 32 bytes, but libp2p says `Result`.
pub(crate) fn transport_keys(identity: &Identity) -> Option<identity::Keypair> {
    identity::Keypair::ed25519_from_bytes(identity.signing_key().to_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_agree() {
        let me = Identity::from_seed(&[3; 32]);
        let id = peer_id(&me.peer()).expect("on the curve");
        assert_eq!(peer_key(&id), Some(me.peer()));
        assert_eq!(transport_keys(&me).expect("valid").public().to_peer_id(), id);
        assert_eq!(peer_key(&PeerId::random()), None);
    }
}
