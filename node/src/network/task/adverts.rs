//! What we say of ourselves, when, and which adverts of others we hand on.

use std::time::Duration;

use cairn_proto::{
    ByteSize, PROTOCOL_VERSION, PeerKey, Region, Timestamp,
    message::{ADVERTS_PER_ANSWER_MAX, Advert, CONTROL_MAX, ControlRequest, Roles, control_request::Ask},
    signed::SignedBytes,
};
use libp2p::Multiaddr;
use rand_core::Rng as _;
use tokio::time::Instant;

use super::NetworkTask;
use crate::network::{addresses, clock};

/// An advert goes out this soon after a change, so that ten changes make one advert.
pub(super) const ANNOUNCE_SOON: Duration = Duration::from_millis(500);

/// The shortest time between two adverts of a node that says itself so often: two seconds of ten minutes, and in proportion where that
/// is less. Peers ignore what comes in half of it.
pub(crate) fn apart(every: Duration) -> Duration {
    (every / 300).min(Duration::from_secs(2))
}

impl NetworkTask {
    pub(super) fn announce_within(&mut self, time: Duration) {
        let at = Instant::now() + time;
        let at = self.state.announced.map_or(at, |last| at.max(last + apart(self.announce_every)));
        self.state.announce_at = self.state.announce_at.min(at);
    }

    /// Where we may be dialled, for adverts.
    fn own_addresses(&self) -> Vec<Multiaddr> {
        let external = self.swarm.external_addresses().cloned();
        let mut all: Vec<Multiaddr> = external.collect();
        all.extend(self.state.listening.iter().cloned());
        addresses::choose(all, self.portrait.lan.allow_private)
    }

    /// Where we are: what the operator says, else where our public addresses lie.
    fn own_region(&self) -> Region {
        let me = &self.portrait;
        if !me.region.is_unknown() {
            return me.region.clone();
        }
        let located = |address: &Multiaddr| me.geoip.region(&addresses::subnet(address)?);
        self.own_addresses().iter().find_map(located).unwrap_or_else(Region::unknown)
    }

    fn is_paused(&self) -> bool {
        self.courtesy.as_ref().is_some_and(|courtesy| courtesy.paused_ms().is_some())
    }

    /// Gossips our advert; owners, who offer nothing, stay silent, unless others may take them for the holder that they were.
    pub(super) fn announce(&mut self, now: Timestamp) {
        self.state.announce_at = Instant::now() + self.announce_every;
        let me = &self.portrait;
        let region = self.own_region();
        self.book.stand_in(region.clone());
        if me.roles == Roles::NONE && !me.known_to_store {
            return;
        }
        let sequence = now.max(self.state.last_sequence.plus_ms(1));
        let space = self.keeper.as_ref().map(|keeper| keeper.space());
        let advert = Advert {
            peer: me.identity.peer(),
            network: me.network.id,
            sequence,
            protocol: PROTOCOL_VERSION,
            domain: me.domain.clone(),
            region,
            roles: me.roles,
            give: space.map_or(me.give, |s| s.give),
            // Nobody plans with a node that takes nothing.
            free: space.filter(|_| !self.is_paused()).map_or(ByteSize(0), |s| s.free),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            addresses: self.own_addresses().iter().map(ToString::to_string).collect(),
            pass: me.pass.clone(),
        };
        let signed = advert.seal(me.identity.signing_key());
        let bytes = prost::Message::encode_to_vec(&signed);
        self.state.last_sequence = sequence;
        self.state.my_advert = Some(signed);
        let topic = self.protocols.adverts.clone();
        match self.swarm.behaviour_mut().gossip.publish(topic, bytes) {
            Ok(_) => {
                self.state.announced = Some(Instant::now());
                self.state.unheard = false;
            }
            Err(error) => {
                self.state.unheard = true;
                // Normal while alone: whoever connects asks for adverts anyway.
                tracing::debug!(%error, "our advert was not gossiped");
                if !self.state.connected.is_empty() {
                    // Nobody listened.
                    self.announce_within(apart(self.announce_every));
                }
            }
        }
    }

    /// Adverts for somebody who asks: our own, then a part of the book that differs from time to time.
    pub(super) fn some_adverts(&mut self, wanted: u32) -> Vec<SignedBytes> {
        let limit = (wanted as usize).min(ADVERTS_PER_ANSWER_MAX);
        if self.state.my_advert.is_none() {
            self.announce(clock());
        }
        let mut adverts: Vec<SignedBytes> = self.state.my_advert.iter().take(limit).cloned().collect();
        let mut from = [0u8; 32];
        self.rng.fill_bytes(&mut from);
        adverts.extend(self.book.sample(&PeerKey::from_bytes(from), limit - adverts.len()));
        within_answer(adverts)
    }
}

/// Asks for so many adverts; the first is that of whoever is asked.
pub(super) fn adverts_please(wanted: u32) -> ControlRequest {
    ControlRequest { ask: Some(Ask::Adverts(wanted)) }
}

/// As many of them as one answer carries in bytes.
fn within_answer(mut adverts: Vec<SignedBytes>) -> Vec<SignedBytes> {
    let mut size = 0;
    adverts.retain(|advert| {
        // With its own tag and length.
        size += prost::Message::encoded_len(advert) + 8;
        size <= CONTROL_MAX
    });
    adverts
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_proto::message::ControlAnswer;

    #[test]
    fn an_answer_is_never_longer_than_its_asker_reads() {
        let advert = |body| SignedBytes { body: vec![7; body], signer: vec![8; 32], signature: vec![9; 64] };
        let legal = within_answer(vec![advert(cairn_proto::message::ADVERT_MAX); ADVERTS_PER_ANSWER_MAX]);
        assert_eq!(legal.len(), ADVERTS_PER_ANSWER_MAX);
        let long = within_answer(vec![advert(8 * 1024); ADVERTS_PER_ANSWER_MAX]);
        let answer = ControlAnswer { adverts: long, ..ControlAnswer::default() };
        assert!(!answer.adverts.is_empty() && prost::Message::encoded_len(&answer) <= CONTROL_MAX);
    }
}
