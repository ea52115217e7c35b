//! Which region and which network an address belongs to, from files that the operator gives (MaxMind's format).
//!
//! Cairn brings no such file and asks nobody: without one there is nothing here, and what peers declare is believed as far
//! as light allows ([`cairn_core::region`]). Lookups are by /24 and /48, because that is what is remembered of a peer.
//! What the files hold is not trusted: a record that does not read is none.

use std::{
    io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use cairn_proto::{Domain, Region};
use maxminddb::{LookupResult, MaxMindDbError, PathElement, Reader};

#[cfg(test)]
pub(crate) mod fixture;

/// Most bytes of a file, which is kept in memory: ten times a city file of today.
const FILE_MAX: u64 = 1 << 30;

/// The operator's files, open.
#[derive(Default)]
pub struct GeoIp {
    regions: Option<Reader<Vec<u8>>>,
    networks: Option<Reader<Vec<u8>>>,
}

impl std::fmt::Debug for GeoIp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = |file: &Option<Reader<Vec<u8>>>| file.as_ref().map(|r| r.metadata().database_type.clone());
        f.debug_struct("GeoIp").field("regions", &kind(&self.regions)).field("networks", &kind(&self.networks)).finish()
    }
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GeoIpError {
    /// It cannot be read.
    #[error("cannot read {}", .0.display())]
    Read(PathBuf, #[source] io::Error),
    /// It is too long.
    #[error("{} has {found} bytes, {FILE_MAX} at most", .path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Its bytes.
        found: u64,
    },
    /// It is not of the format.
    #[error("{} is no GeoIP database", .0.display())]
    Format(PathBuf, #[source] MaxMindDbError),
}

impl GeoIp {
    /// Opens what was named: a country or city file, and one of autonomous systems. Blocking.
    ///
    /// # Errors
    /// A file cannot be read, or is something else.
    pub fn open(regions: Option<&Path>, networks: Option<&Path>) -> Result<Self, GeoIpError> {
        Ok(Self { regions: regions.map(read).transpose()?, networks: networks.map(read).transpose()? })
    }

    #[cfg(test)]
    pub(crate) fn of(regions: Vec<u8>, networks: Vec<u8>) -> Self {
        let reader = |bytes| Some(Reader::from_source(bytes).expect("a database"));
        Self { regions: reader(regions), networks: reader(networks) }
    }

    /// Continent, country and first subdivision of a /24 or /48, as far as the file says.
    #[must_use]
    pub fn region(&self, subnet: &Domain) -> Option<Region> {
        let found = found(self.regions.as_ref()?, subnet)?;
        let text = |path: &[PathElement<'_>]| found.decode_path::<String>(path).ok().flatten();
        let mut region = Region::new(text(&["continent".into(), "code".into()])?).ok()?;
        let finer = [
            &["country".into(), "iso_code".into()][..],
            &["subdivisions".into(), PathElement::Index(0), "iso_code".into()],
        ];
        for path in finer {
            let Some(next) = text(path).and_then(|part| Region::new(format!("{region}/{part}")).ok()) else { break };
            region = next;
        }
        Some(region).filter(|region| !region.is_unknown())
    }

    /// The autonomous system that announces a /24 or /48.
    #[must_use]
    pub fn network(&self, subnet: &Domain) -> Option<u32> {
        let found = found(self.networks.as_ref()?, subnet)?;
        found.decode_path(&["autonomous_system_number".into()]).ok().flatten()
    }
}

fn read(path: &Path) -> Result<Reader<Vec<u8>>, GeoIpError> {
    let failed = |e| GeoIpError::Read(path.to_owned(), e);
    let file = std::fs::File::open(path).map_err(failed)?;
    let found = file.metadata().map_err(failed)?.len();
    if found > FILE_MAX {
        return Err(GeoIpError::TooLong { path: path.to_owned(), found });
    }
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, FILE_MAX), &mut bytes).map_err(failed)?;
    Reader::from_source(bytes).map_err(|e| GeoIpError::Format(path.to_owned(), e))
}

fn found<'a>(file: &'a Reader<Vec<u8>>, subnet: &Domain) -> Option<LookupResult<'a, Vec<u8>>> {
    let address: IpAddr = subnet.first_address()?;
    file.lookup(address).ok().filter(LookupResult::has_data)
}

#[cfg(test)]
mod tests {
    use super::{fixture::*, *};

    fn subnet(address: &str) -> Domain {
        Domain::of_address(address.parse().expect("an address")).expect("public")
    }

    #[test]
    fn a_file_tells_region_and_network() {
        let files = GeoIp::of(regions(), networks());
        let said = |address: &str| {
            let subnet = subnet(address);
            (files.region(&subnet).map(|r| r.to_string()), files.network(&subnet))
        };
        assert_eq!(said("8.1.2.3"), (Some("NA/US/CA".into()), Some(15169)));
        assert_eq!(said("9.1.2.3"), (Some("EU/DE".into()), None));
        assert_eq!(said("10.1.2.3".replace("10", "11").as_str()), (None, None), "not in the file");
        assert_eq!(said("2a01:4f8::7"), (Some("EU/DE".into()), Some(24940)));
        assert_eq!(said("12.0.0.1"), (Some("EU".into()), None), "a country that is no label is left out");
        assert_eq!(GeoIp::default().region(&subnet("8.8.8.8")), None);
        assert_eq!(files.region(&Domain::operator("acme").expect("valid")), None);
    }

    #[test]
    fn what_is_no_database_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("x.mmdb");
        assert!(matches!(GeoIp::open(Some(&path), None), Err(GeoIpError::Read(..))));
        std::fs::write(&path, b"something else").expect("written");
        let error = GeoIp::open(Some(&path), None).expect_err("no database");
        assert!(matches!(error, GeoIpError::Format(..)) && error.to_string().ends_with("is no GeoIP database"));
        std::fs::write(&path, regions()).expect("written");
        assert!(GeoIp::open(Some(&path), Some(&path)).expect("a database").region(&subnet("8.1.1.1")).is_some());
    }

    /// A file that was damaged says nothing or something, and never more.
    #[test]
    fn damage_is_survived() {
        let whole = regions();
        for at in 0..whole.len() {
            for bits in [0xff, 0x01, 0x80] {
                let mut bytes = whole.clone();
                bytes[at] ^= bits;
                if let Ok(reader) = Reader::from_source(bytes) {
                    let files = GeoIp { regions: Some(reader), networks: None };
                    for address in ["8.1.2.3", "12.0.0.1", "2a01:4f8::7"] {
                        let _ = files.region(&subnet(address));
                    }
                }
            }
        }
    }
}
