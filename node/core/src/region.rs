//! Where a peer is taken to be: from what it declares, where its address lies, and what light allows.
//!
//! A declared region is free to choose, and whoever chooses one that nobody else has is preferred for spread. So it is
//! believed only as far as nothing speaks against it: the place of the address under which the peer was seen (from the
//! operator's own GeoIP file) goes before it, and a round trip that is quicker than light leaves no region at all.
//! Only reckons; the files are read by the node.
//!
//! # Invariants
//!
//! - **GEO-1** No region is believed that the least round-trip time rules out. Enforced by [`judge`]; attacked by
//!   `tests::light_is_not_outrun`.
//! - **GEO-2** Where the address lies elsewhere than the declaration says, the address decides. Enforced by [`judge`];
//!   attacked by `tests::the_address_goes_before_the_word`.

use std::fmt;

use cairn_proto::Region;
use serde::Serialize;

/// Light covers this much in a millisecond, there and back: 299.8 km / 2, rounded up. In vacuum, not in fibre (two thirds
/// of it): radio and lasers between satellites are quicker than fibre, and an honest peer must never look impossible.
const KM_A_MS: u32 = 150;

/// The least distance between two continents, in kilometres, less a tenth: between their nearest towns of ten thousand
/// people, smaller islands in the way included, by great circle. Towns' places are GeoNames' (`tests::TOWNS`), countries
/// belong to continents as there; Russia counts as Europe and as Asia, Hawaii as North America and as Oceania. Pairs that
/// are not listed touch, nearly touch, or are said of the same places by different people: nothing is ruled out there.
const LEAST_KM: [(&str, &str, u32); 9] = [
    ("AF", "NA", 3360),
    ("AF", "OC", 3290),
    ("AF", "SA", 1830),
    ("AS", "NA", 1460),
    ("AS", "SA", 6920),
    ("EU", "NA", 1280),
    ("EU", "OC", 3030),
    ("EU", "SA", 3580),
    ("OC", "SA", 1860),
];

/// What is known of where a peer is.
#[derive(Clone, Copy, Debug)]
pub struct Clues<'a> {
    /// What it says.
    pub declared: &'a Region,
    /// Where the address lies that it was seen at.
    pub located: Option<&'a Region>,
    /// The shortest round trip to it that was measured, in whole milliseconds, rounded down.
    pub least_rtt_ms: Option<u32>,
    /// Where we are ourselves; unknown rules nothing out.
    pub here: &'a Region,
}

/// Why a region is believed, or none is: which rule, which figure, which limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "basis", rename_all = "snake_case")]
pub enum Basis {
    /// Nobody says.
    Unsaid,
    /// It says so, and nothing speaks against it.
    Declared,
    /// Its address lies there, and it does not say otherwise.
    Located,
    /// Its address lies there, whatever it says.
    Overruled {
        /// What it says.
        declared: Region,
    },
    /// It answers sooner than light could from there.
    TooQuick {
        /// What it says, or where its address is said to lie.
        claimed: Region,
        /// The shortest round trip, in milliseconds.
        rtt_ms: u32,
        /// What light needs there and back.
        least_ms: u32,
    },
}

impl Basis {
    /// Whether something spoke against what the peer says.
    #[must_use]
    pub const fn is_contradicted(&self) -> bool {
        matches!(self, Self::Overruled { .. } | Self::TooQuick { .. })
    }
}

impl fmt::Display for Basis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsaid => f.write_str("it does not say where it is"),
            Self::Declared => f.write_str("it says so"),
            Self::Located => f.write_str("its address lies there"),
            Self::Overruled { declared } => write!(f, "its address lies there, though it says {declared}"),
            Self::TooQuick { claimed, rtt_ms, least_ms } => {
                write!(f, "not {claimed}: it answers within {rtt_ms} ms, and light takes {least_ms} ms at least")
            }
        }
    }
}

/// Where a peer is taken to be, and why.
#[must_use]
pub fn judge(clues: Clues<'_>) -> (Region, Basis) {
    let (region, basis) = believed(clues.declared, clues.located);
    let least_ms = least_rtt_ms(clues.here, &region);
    match clues.least_rtt_ms {
        // A measured 12 may have been 12.9.
        Some(rtt_ms) if rtt_ms < least_ms => (Region::unknown(), Basis::TooQuick { claimed: region, rtt_ms, least_ms }),
        _ => (region, basis),
    }
}

/// Without a look at the clock.
fn believed(declared: &Region, located: Option<&Region>) -> (Region, Basis) {
    let known = |region: &&Region| !region.as_str().is_empty();
    match (Some(declared).filter(known), located.filter(known)) {
        (None, None) => (Region::unknown(), Basis::Unsaid),
        (Some(declared), None) => (declared.clone(), Basis::Declared),
        (None, Some(located)) => (located.clone(), Basis::Located),
        (Some(declared), Some(located)) if agree(declared, located) => {
            // The same place: whoever says it more precisely.
            if parts(declared).count() >= parts(located).count() {
                (declared.clone(), Basis::Declared)
            } else {
                (located.clone(), Basis::Located)
            }
        }
        (Some(declared), Some(located)) => (located.clone(), Basis::Overruled { declared: declared.clone() }),
    }
}

fn parts(region: &Region) -> impl Iterator<Item = &str> {
    region.as_str().split('/')
}

/// Whether continent and country, as far as both are said, are the same. Zones are names of the operators' own.
#[must_use]
pub fn agree(declared: &Region, located: &Region) -> bool {
    parts(declared).zip(parts(located)).take(2).all(|(a, b)| a.eq_ignore_ascii_case(b))
}

/// The shortest round trip that light allows between two regions, in whole milliseconds; 0 where nothing is ruled out.
#[must_use]
pub fn least_rtt_ms(a: &Region, b: &Region) -> u32 {
    let is = |region: &Region, code: &str| region.continent().eq_ignore_ascii_case(code);
    let between = |(x, y, _): &&(&str, &str, u32)| (is(a, x) && is(b, y)) || (is(a, y) && is(b, x));
    LEAST_KM.iter().find(between).map_or(0, |(_, _, km)| km / KM_A_MS)
}

#[cfg(test)]
mod tests;
