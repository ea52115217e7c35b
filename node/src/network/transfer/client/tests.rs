use super::*;
use cairn_proto::{CodeParams, GroupTicket, ShardRoot};
use ed25519_dalek::SigningKey;

#[test]
fn a_false_receipt_counts_for_nothing() {
    let (holder, other) = (SigningKey::from_bytes(&[1; 32]), SigningKey::from_bytes(&[2; 32]));
    let key = |k: &SigningKey| PeerKey::from_bytes(k.verifying_key().to_bytes());
    let authority = SigningKey::from_bytes(&[3; 32]);
    let ticket = GroupTicket::new(authority.verifying_key().to_bytes(), [4; 32], CodeParams::DEFAULT, 9);
    let group = Arc::new(GroupAccess { ticket: ticket.expect("valid"), authority });
    let slot = Slot::new(3).expect("small");
    let put = ShardPut {
        address: ShardAddress { group: group.clone(), slot, ordinal: 7 },
        root: ShardRoot::from_bytes([5; 32]),
        lease_until: Timestamp(1000),
        bytes: Bytes::new(),
    };
    let right = Receipt {
        holder: key(&holder),
        group: group.ticket.id(),
        slot,
        ordinal: 7,
        root: put.root,
        lease_until: Timestamp(1000),
        stored_at: Timestamp(1),
        held: None,
    };
    let told = |receipt: Receipt, by: &SigningKey| kept(&receipt.seal(by).encode_to_vec(), key(&holder), &put);
    assert!(told(right, &holder).is_ok());
    let false_ones = [
        Receipt { holder: key(&other), ..right },
        Receipt { group: cairn_proto::GroupId::from_bytes([9; 32]), ..right },
        Receipt { slot: Slot::new(4).expect("small"), ..right },
        Receipt { ordinal: 8, ..right },
        Receipt { root: ShardRoot::from_bytes([6; 32]), ..right },
        Receipt { lease_until: Timestamp(999), ..right },
    ];
    for receipt in false_ones {
        let by = if receipt.holder == right.holder { &holder } else { &other };
        assert!(matches!(told(receipt, by), Err(TransferError::Misbehaved(_))), "{receipt:?}");
    }
    // Another's signature, a flipped bit anywhere, a cut, junk.
    assert!(matches!(told(right, &other), Err(TransferError::Misbehaved(_))));
    let good = right.seal(&holder).encode_to_vec();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        let told = kept(&bad, key(&holder), &put);
        assert!(matches!(told, Err(TransferError::Misbehaved(_))), "byte {at}: {told:?}");
        assert!(kept(&good[..at], key(&holder), &put).is_err(), "cut at {at}");
    }
}
