//! Where peers stand, and since when: a place counts once a peer has been there for [`super::Rhythm::settled_ms`].
//!
//! An address that comes and goes, or an advert that says something else every hour, moves nothing: who is on the way is nowhere, and
//! of whoever is nowhere nothing follows ([`crate::placement::clump`]). What is not said or not seen any more stays as it was, as
//! long as nothing speaks against it.
//!
//! Kept across a restart, or a steward that sleeps at night would never see anybody settle.
//!
//! Layout: version u8 = 1 · count · each: peer 32 · option of (text · since) for the continent · option of (number · since) for the
//! network · option of (text · since) for the subnet, numbers in minimal LEB128, by ascending peer.

use std::collections::BTreeMap;

use cairn_proto::{
    DecodeError, Domain, PeerKey, Region, Timestamp,
    layout::{Reader, at_most, put_bytes, put_number, put_option},
};

use crate::{peer_view::PeerView, placement::clump::Place};

const WHAT: &str = "peers' places";
const VERSION: u8 = 1;
/// Peers whose place is noted: more than a peer book holds; some 5 MiB. Whoever comes later waits for room.
pub(super) const PLACES_MAX: usize = 32_768;
/// Most bytes of a continent or a subnet's name.
const TEXT_MAX: usize = 128;
/// Most bytes of all places.
pub(super) const ENCODED_MAX: usize = 16 + PLACES_MAX * (32 + 3 + 2 * (TEXT_MAX + 2) + 5 + 3 * 10);

/// Something and since when it is so.
type Since<T> = Option<(T, Timestamp)>;

#[derive(Clone, Debug, Default, PartialEq)]
struct Noted {
    continent: Since<String>,
    network: Since<u32>,
    subnet: Since<Domain>,
}

/// Where everybody is.
#[derive(Clone, Debug, Default)]
pub(super) struct Places {
    noted: BTreeMap<PeerKey, Noted>,
    /// When that was noted last.
    at: Option<Timestamp>,
}

fn note<T: PartialEq>(known: &mut Since<T>, now: Timestamp, value: Option<T>) {
    if let Some(value) = value
        && known.as_ref().is_none_or(|(old, _)| *old != value)
    {
        *known = Some((value, now));
    }
}

impl Places {
    /// Takes note of where everybody is now, at most once in `every_ms`; forgets who is not known any more, unless it is `kept`.
    pub(super) fn note(&mut self, peers: &[PeerView], kept: impl Fn(&PeerKey) -> bool, now: Timestamp, every_ms: u64) {
        if self.at.is_some_and(|at| at <= now && now.ms_since(at) < every_ms) {
            return;
        }
        self.at = Some(now);
        let mut before = std::mem::take(&mut self.noted);
        for view in peers {
            if self.noted.len() >= PLACES_MAX {
                break;
            }
            let mut noted = before.remove(&view.peer).unwrap_or_default();
            if view.region.is_unknown() && view.region_basis.is_contradicted() {
                noted.continent = None;
            }
            let continent = (!view.region.is_unknown()).then(|| view.region.continent());
            if continent != noted.continent.as_ref().map(|(own, _)| own.as_str()) {
                note(&mut noted.continent, now, continent.map(str::to_owned));
            }
            note(&mut noted.network, now, view.network);
            if view.subnet.as_ref() != noted.subnet.as_ref().map(|(own, _)| own) {
                note(&mut noted.subnet, now, view.subnet.clone());
            }
            self.noted.insert(view.peer, noted);
        }
        let room = PLACES_MAX.saturating_sub(self.noted.len());
        self.noted.extend(before.into_iter().filter(|(peer, _)| kept(peer)).take(room));
    }

    /// Where a peer has been for so long at least.
    pub(super) fn settled(&self, peer: &PeerKey, now: Timestamp, settled_ms: u64) -> Place<'_> {
        let Some(noted) = self.noted.get(peer) else { return Place::default() };
        let long = |since: &Timestamp| now.ms_since(*since) >= settled_ms;
        Place {
            continent: noted.continent.as_ref().filter(|(_, since)| long(since)).map(|(own, _)| own.as_str()),
            network: noted.network.filter(|(_, since)| long(since)).map(|(own, _)| own),
            subnet: noted.subnet.as_ref().filter(|(_, since)| long(since)).map(|(own, _)| own),
        }
    }

    /// After the clock went back: nobody came later than now.
    pub(super) fn clamp(&mut self, now: Timestamp) {
        self.at = self.at.filter(|at| *at <= now);
        for noted in self.noted.values_mut() {
            let ends = [
                noted.continent.as_mut().map(|(_, since)| since),
                noted.network.as_mut().map(|(_, since)| since),
                noted.subnet.as_mut().map(|(_, since)| since),
            ];
            ends.into_iter().flatten().for_each(|since| *since = (*since).min(now));
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        put_number(&mut out, self.noted.len() as u64);
        let text = |out: &mut Vec<u8>, (text, since): (&str, Timestamp)| {
            put_bytes(out, text.as_bytes());
            put_number(out, since.0);
        };
        for (peer, noted) in &self.noted {
            out.extend_from_slice(peer.as_bytes());
            put_option(&mut out, noted.continent.as_ref().map(|(own, since)| (own.as_str(), *since)), text);
            put_option(&mut out, noted.network, |out, (network, since)| {
                put_number(out, network.into());
                put_number(out, since.0);
            });
            put_option(&mut out, noted.subnet.as_ref().map(|(own, since)| (own.as_str(), *since)), text);
        }
        out
    }

    /// Reads what [`Places::encode`] gave, and nothing else.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        at_most(WHAT, ENCODED_MAX, bytes.len())?;
        let mut r = Reader::new(WHAT, bytes);
        r.version(VERSION)?;
        let count = r.count(PLACES_MAX, 35)?;
        let mut noted: BTreeMap<PeerKey, Noted> = BTreeMap::new();
        for _ in 0..count {
            let peer = r.array().map(PeerKey::from_bytes)?;
            if noted.last_key_value().is_some_and(|(last, _)| *last >= peer) {
                return Err(r.invalid("keys out of order"));
            }
            let continent = r.option(|r| Ok((r.text(TEXT_MAX)?, Timestamp(r.u64()?))))?;
            if let Some((continent, _)) = &continent {
                let whole = Region::new(continent.as_str())?;
                if whole.is_unknown() || whole.continent() != continent {
                    return Err(r.invalid("a continent that is none"));
                }
            }
            let network = r.option(|r| Ok((r.u32()?, Timestamp(r.u64()?))))?;
            let subnet = r.option(|r| Ok((Domain::new(r.text(TEXT_MAX)?)?, Timestamp(r.u64()?))))?;
            noted.insert(peer, Noted { continent, network, subnet });
        }
        r.finish()?;
        Ok(Self { noted, at: None })
    }
}
