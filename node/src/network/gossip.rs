//! Gossip of adverts, and what a peer loses that spoils it.
//!
//! A message goes on only after the book has taken it (`NetworkTask::gossiped`). Who brings what cannot be
//! honest (a wrong signature, no puzzle, another network) loses score; who brings what is merely old or too much does
//! not, because an honest peer may. The scores are gossipsub's own (its v1.1 specification), with weights for a topic
//! on which every peer speaks every ten minutes. What tells of peers' conduct has a topic of its own with the same weights
//! (`task::conduct`): what proves nothing there costs as much.
//!
//! # Invariants
//!
//! - **NET-4** A peer that brings three invalid adverts within the hour is heard no more, and everybody else's
//!   adverts still arrive. Enforced by the weights below; attacked by
//!   `network::tests::crowds::who_spoils_gossip_is_heard_no_more`.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use libp2p::{
    gossipsub::{
        self, MessageAuthenticity, MessageId, PeerScoreParams, PeerScoreThresholds, TopicScoreParams, ValidationMode,
        WhitelistSubscriptionFilter, score_parameter_decay,
    },
    identity,
};

use super::{LanMode, NetworkError, behaviour::Protocols};

pub(crate) type Behaviour = gossipsub::Behaviour<gossipsub::IdentityTransform, WhitelistSubscriptionFilter>;

const HOUR: Duration = Duration::from_secs(3600);
/// One invalid advert costs this, two four times as much, three nine times. Nothing that a peer may earn (below 11)
/// makes up for one.
const INVALID: f64 = -20.0;
/// From the second invalid advert on we send the peer no gossip, and publish nothing through it.
const QUIET: f64 = -40.0;
const MUTE: f64 = -60.0;
/// From the third on whatever it sends is dropped unread.
pub(crate) const GRAYLIST: f64 = -120.0;
const _: () = assert!(4.0 * INVALID > GRAYLIST, "two may be an accident");
/// The score of a peer that is proved to have lied: nothing makes up for it.
pub(crate) const OUTSIDE: f64 = 100.0 * GRAYLIST;
/// Adverts that we ask one peer for within a heartbeat, of those that it says it has: sixty thousand peers say a hundred a second.
const ASKED_MAX: usize = 512;
/// How long a peer may take to send what we asked for. It is penalised for each message that it does not, and a bootstrap node
/// at which a hundred newcomers knock takes seconds.
const PROMISED: Duration = Duration::from_secs(5);
/// For how many heartbeats, of a second each, a message is named to those who may lack it: longer than one of them may take ([`PROMISED`]), or
/// who promises and does not send could keep it from them. With eight an idle node sent a tenth more.
const NAMED_FOR: u8 = 6;
/// To how many peers outside the mesh it is named in each of these heartbeats, chosen anew each time. libp2p's six were a quarter of
/// what an idle node sends; three are still eighteen in all.
const NAMED_TO: usize = 3;
/// How long a message is kept for those who ask for it, and may wait to be sent, in heartbeats and in seconds: longer than it is
/// named, or a slow line makes a liar of us.
const KEPT_FOR: u8 = 15;
/// Messages that a peer may be late with and lose nothing: its line may have been cut, and four thousand peers say so many adverts
/// while they are named. From three times as many within minutes on it is not heard for a while.
const LATE: f64 = 64.0;
const LATE_WEIGHT: f64 = (GRAYLIST - 20.0) / (2.0 * LATE * 2.0 * LATE);
/// Peers at one public address that are nothing strange: a house behind a NAT, or those that reach us through one
/// relay. Half of what may connect from a whole /24 ([`super::origins`]).
const ONE_ADDRESS_MAX: f64 = 16.0;
/// How long a peer that left is remembered: long enough that to come again is no way out, short enough that a flood
/// of identities costs a few megabytes.
const REMEMBERED: Duration = Duration::from_secs(600);

pub(crate) fn behaviour(
    protocols: &Protocols,
    keys: &identity::Keypair,
    lan: &LanMode,
) -> Result<Behaviour, NetworkError> {
    let setup = |e: String| NetworkError::Setup(format!("gossipsub: {e}"));
    let config = gossipsub::ConfigBuilder::default()
        .protocol_id_prefix(protocols.gossip_prefix.clone())
        .validation_mode(ValidationMode::Strict)
        .validate_messages()
        .message_id_fn(message_ids(protocols.evidence.hash()))
        // No limit of our own on what is sent at once: libp2p measures with it whatever waits in a stream's buffer, so that one of
        // the size of an advert breaks the stream when a dozen come together. An advert's size is checked when it is opened.
        .flood_publish(false)
        .max_control_messages_sent(ASKED_MAX)
        .iwant_followup_time(PROMISED)
        .history_gossip(NAMED_FOR.into())
        .gossip_lazy(NAMED_TO)
        .history_length(KEPT_FOR.into())
        .forward_queue_duration(Duration::from_secs(KEPT_FOR.into()))
        .publish_queue_duration(Duration::from_secs(KEPT_FOR.into()))
        .heartbeat_initial_delay(Duration::from_secs(1))
        .build()
        .map_err(|e| setup(e.to_string()))?;
    let filter = WhitelistSubscriptionFilter([protocols.adverts.hash(), protocols.evidence.hash()].into());
    let author = MessageAuthenticity::Signed(keys.clone());
    let mut gossip =
        Behaviour::new_with_subscription_filter(author, config, filter).map_err(|e| setup(e.to_string()))?;
    gossip.with_peer_score(scores(protocols, lan), thresholds()).map_err(setup)?;
    for topic in [&protocols.adverts, &protocols.evidence] {
        gossip.subscribe(topic).map_err(|e| setup(e.to_string()))?;
    }
    Ok(gossip)
}

/// What tells of a peer's conduct is signed within and the same whoever brings it: by content alone.
fn message_ids(evidence: gossipsub::TopicHash) -> impl Fn(&gossipsub::Message) -> MessageId + Send + Sync + 'static {
    move |message| {
        if message.topic == evidence {
            return MessageId::new(&blake3::hash(&message.data).as_bytes()[..20]);
        }
        message_id(message)
    }
}

/// By author and content. With libp2p's author and number one statement could be sent for ever anew; by content alone
/// whoever sends somebody else's advert as a message of its own takes the true one's id, and both are dropped.
fn message_id(message: &gossipsub::Message) -> MessageId {
    let author = message.source.map(|peer| peer.to_bytes()).unwrap_or_default();
    let mut hash = blake3::Hasher::new();
    hash.update(&(author.len() as u64).to_le_bytes()).update(&author).update(&message.data);
    MessageId::new(&hash.finalize().as_bytes()[..20])
}

fn thresholds() -> PeerScoreThresholds {
    PeerScoreThresholds {
        gossip_threshold: QUIET,
        publish_threshold: MUTE,
        graylist_threshold: GRAYLIST,
        // Nobody is believed who names other peers; adverts do that, signed.
        accept_px_threshold: 1000.0,
        opportunistic_graft_threshold: 1.0,
    }
}

fn scores(protocols: &Protocols, lan: &LanMode) -> PeerScoreParams {
    let topic = TopicScoreParams {
        topic_weight: 1.0,
        // A little for staying (1 after ten minutes, no more) and for news that it brought first (at most 10).
        time_in_mesh_weight: 0.05,
        time_in_mesh_quantum: Duration::from_secs(30),
        time_in_mesh_cap: 20.0,
        first_message_deliveries_weight: 0.2,
        first_message_deliveries_decay: score_parameter_decay(HOUR),
        first_message_deliveries_cap: 50.0,
        // The topic is quiet in a small network: who forwards little may have nothing to forward.
        mesh_message_deliveries_weight: 0.0,
        mesh_failure_penalty_weight: 0.0,
        invalid_message_deliveries_weight: INVALID,
        invalid_message_deliveries_decay: score_parameter_decay(HOUR),
        ..TopicScoreParams::default()
    };
    PeerScoreParams {
        topics: HashMap::from([(protocols.adverts.hash(), topic.clone()), (protocols.evidence.hash(), topic)]),
        topic_score_cap: 11.0,
        // Set for liars only.
        app_specific_weight: 1.0,
        // Where everybody has a private address, many share one.
        ip_colocation_factor_weight: if lan.allow_private { 0.0 } else { -5.0 },
        ip_colocation_factor_threshold: ONE_ADDRESS_MAX,
        ip_colocation_factor_whitelist: [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()].into(),
        // Broken promises, each message of a late answer by itself, and grafts out of turn, which cost an answer each.
        behaviour_penalty_weight: LATE_WEIGHT,
        behaviour_penalty_threshold: LATE,
        behaviour_penalty_decay: score_parameter_decay(Duration::from_secs(600)),
        retain_score: REMEMBERED,
        // A peer whose queue is full is slow, which is no crime: what it misses it asks for.
        slow_peer_weight: 0.0,
        ..PeerScoreParams::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_proto::network_file::NetworkFile;
    use ed25519_dalek::SigningKey;
    use futures::StreamExt as _;
    use libp2p::swarm::SwarmEvent;

    #[test]
    fn weights_are_consistent() {
        let network = NetworkFile::create("scores", 0, &SigningKey::from_bytes(&[1; 32])).expect("valid");
        let protocols = Protocols::of(&network).expect("valid");
        for allow_private in [false, true] {
            let params = scores(&protocols, &LanMode { mdns: false, allow_private });
            assert_eq!(params.validate(), Ok(()));
            let topic = &params.topics[&protocols.adverts.hash()];
            let best = topic.time_in_mesh_weight * topic.time_in_mesh_cap
                + topic.first_message_deliveries_weight * topic.first_message_deliveries_cap;
            assert!(best + INVALID < 0.0, "one invalid advert costs the place in the mesh, whatever was earned");
            assert!(best + 4.0 * INVALID < MUTE && best + 9.0 * INVALID < GRAYLIST, "NET-4");
            let late = |times: f64| {
                let excess = (times * LATE - params.behaviour_penalty_threshold).max(0.0);
                params.behaviour_penalty_weight * excess * excess
            };
            assert!(late(1.0) >= 0.0, "one late answer is no offence");
            assert!(
                late(2.0) > QUIET && late(3.0) + best < GRAYLIST,
                "who never sends what it names is not listened to"
            );
            let crowd = params.ip_colocation_factor_weight * (2.0f64 * ONE_ADDRESS_MAX - ONE_ADDRESS_MAX).powi(2);
            assert_eq!(crowd < GRAYLIST, !allow_private, "a full /24 at one address, unless addresses are private");
        }
        assert_eq!(thresholds().validate(), Ok(()));
    }

    #[test]
    fn an_adverts_bytes_sent_by_another_do_not_take_its_place() {
        let message = |source: libp2p::PeerId, sequence_number| gossipsub::Message {
            source: Some(source),
            data: vec![1, 2, 3],
            sequence_number: Some(sequence_number),
            topic: gossipsub::TopicHash::from_raw("t"),
        };
        let (author, thief) = (libp2p::PeerId::random(), libp2p::PeerId::random());
        assert_ne!(message_id(&message(author, 1)), message_id(&message(thief, 1)));
        assert_eq!(message_id(&message(author, 1)), message_id(&message(author, 2)), "sent anew it is no news");
    }

    /// Of a burst nothing is lost: it comes to the other end's buffer at once, many times as large as one advert.
    #[tokio::test]
    async fn many_adverts_may_come_together() {
        const MANY: usize = 60;
        let network = NetworkFile::create("burst", 0, &SigningKey::from_bytes(&[1; 32])).expect("valid");
        let protocols = Protocols::of(&network).expect("valid");
        let speaker = || {
            libp2p::SwarmBuilder::with_new_identity()
                .with_tokio()
                .with_tcp(Default::default(), libp2p::noise::Config::new, libp2p::yamux::Config::default)
                .expect("TCP")
                .with_behaviour(|keys| {
                    let lan = LanMode { mdns: false, allow_private: true };
                    super::behaviour(&protocols, keys, &lan).map_err(Into::into)
                })
                .expect("built")
                .with_swarm_config(|c| c.with_idle_connection_timeout(HOUR))
                .build()
        };
        let (mut from, mut to) = (speaker(), speaker());
        from.listen_on("/ip4/127.0.0.1/tcp/0".parse().expect("valid")).expect("listens");
        let talk = async {
            let address = loop {
                if let SwarmEvent::NewListenAddr { address, .. } = from.select_next_some().await {
                    break address;
                }
            };
            to.dial(address).expect("dials");
            let (mut said, mut heard) = (false, std::collections::BTreeSet::new());
            while heard.len() < MANY {
                tokio::select! {
                    _ = from.select_next_some() => {}
                    event = to.select_next_some() => match event {
                        SwarmEvent::Behaviour(gossipsub::Event::Message { message, .. }) => { heard.insert(message.data); }
                        SwarmEvent::ConnectionClosed { .. } => unreachable!("the connection stays"),
                        _ => {}
                    },
                }
                if !said && from.behaviour().all_mesh_peers().next().is_some() {
                    said = true;
                    for i in 0..MANY {
                        let advert = [i as u8; 700].to_vec();
                        from.behaviour_mut().publish(protocols.adverts.clone(), advert).expect("published");
                    }
                    // All of it on its way before the other end looks.
                    let drive = async {
                        loop {
                            from.select_next_some().await;
                        }
                    };
                    let _: Result<(), _> = tokio::time::timeout(Duration::from_millis(300), drive).await;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(60), talk).await.expect("all of them come");
    }
}
