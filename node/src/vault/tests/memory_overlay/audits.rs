//! Holders that are challenged: honest ones, ones that dropped something and hide it, liars.

use cairn_core::audit::{permit, respond};
use cairn_proto::{
    audit::{Answer, Challenge, Found, SLICE_SIZE},
    wire::RefusalCode,
};

use super::{answers::refused, *};
use crate::overlay::{Challenged, ShardChallenge, TransferError};

/// Nobody's domain; whoever asks by a token has no colour that matters.
const STRANGER: &str = "stranger";

impl MemoryOverlay {
    /// The peer drops every n-th shard, and goes on saying that it has it; how many it dropped.
    pub(in crate::vault::tests) fn drop_every(&self, peer: &PeerKey, nth: usize) -> usize {
        let mut world = self.world();
        let peer = world.peers.get_mut(peer).expect("known peer");
        let places: Vec<Place> = peer.shards.keys().copied().step_by(nth).collect();
        for place in &places {
            peer.shards.remove(place);
            peer.dropped.insert(*place);
        }
        places.len()
    }

    /// How many shards a peer has.
    pub(in crate::vault::tests) fn count_of(&self, peer: &PeerKey) -> usize {
        self.world().peers[peer].shards.len()
    }

    pub(super) async fn holder_answers(&self, at: PeerKey, about: ShardChallenge) -> Result<Challenged, TransferError> {
        self.step().await;
        let asker = SigningKey::from_bytes(&[0xee; 32]);
        let sealed = about.seal(at, &asker, now());
        let challenge = Challenge::open(&sealed).expect("our own");
        let stranger = Domain::operator(STRANGER).expect("valid");
        self.access(at, |peer| {
            let reads = about.access.is_some();
            permit(&challenge, &at, &about.ticket, &stranger, reads, now())
                .map_err(|_| refused(RefusalCode::NotAuthorised))?;
            if peer.manner == Manner::Mute {
                return Err(refused(RefusalCode::Busy));
            }
            let place = (challenge.group, challenge.slot.as_u8(), challenge.ordinal);
            let bytes = peer.shards.get(&place).map(|(_, bytes)| &bytes[..]);
            let (mut found, mut slices) = respond(bytes, &challenge);
            if peer.manner == Manner::Liar {
                // It has nothing and hopes for the best.
                slices = vec![vec![7; SLICE_SIZE]; challenge.slices.into()];
                found = match found {
                    Found::Digest(_) => Found::Digest([7; 32]),
                    _ => Found::Slices(slices.iter().map(|slice| *blake3::hash(slice).as_bytes()).collect()),
                };
            }
            let answer = Answer { holder: at, challenge: Challenge::id(&sealed), previous: None, found };
            Ok(Challenged { answer: answer.seal(&peer.key), challenge: sealed.clone(), slices })
        })
    }
}
