//! Tiny databases for tests, written by hand: <https://maxmind.github.io/MaxMind-DB/>, with 24-bit records.

use std::net::{IpAddr, Ipv6Addr};

/// A value of the data section.
pub(crate) enum Value {
    Text(&'static str),
    Number(u32),
    List(Vec<Value>),
    Map(Vec<(&'static str, Value)>),
}

use Value::{List, Map, Number, Text};

/// Continents and countries of a few blocks.
pub(crate) fn regions() -> Vec<u8> {
    let country = |continent, code| {
        Map(vec![("continent", Map(vec![("code", Text(continent))])), ("country", Map(vec![("iso_code", Text(code))]))])
    };
    let california = Map(vec![
        ("continent", Map(vec![("code", Text("NA"))])),
        ("country", Map(vec![("iso_code", Text("US"))])),
        ("subdivisions", List(vec![Map(vec![("iso_code", Text("CA"))])])),
    ]);
    database(
        "Test-City",
        &[
            ("8.0.0.0", 8, california),
            ("9.0.0.0", 8, country("EU", "DE")),
            ("12.0.0.0", 8, country("EU", "no label")),
            ("2a01:4f8::", 32, country("EU", "DE")),
        ],
    )
}

/// Networks of a few blocks.
pub(crate) fn networks() -> Vec<u8> {
    let network = |number| Map(vec![("autonomous_system_number", Number(number))]);
    database("Test-ASN", &[("8.0.0.0", 8, network(15169)), ("2a01:4f8::", 32, network(24940))])
}

/// A database of these blocks, which must not overlap.
pub(crate) fn database(kind: &'static str, blocks: &[(&str, u32, Value)]) -> Vec<u8> {
    /// Where a branch leads.
    #[derive(Clone, Copy)]
    enum To {
        Nothing,
        Node(usize),
        Data(usize),
    }
    let mut nodes = vec![[To::Nothing; 2]];
    let mut data = Vec::new();
    for (address, prefix, value) in blocks {
        let (bits, prefix) = match address.parse::<IpAddr>().expect("an address") {
            IpAddr::V4(v4) => (u128::from(u32::from(v4)), prefix + 96),
            IpAddr::V6(v6) => (u128::from_be_bytes(Ipv6Addr::octets(&v6)), *prefix),
        };
        let mut at = 0;
        for depth in 0..prefix {
            let side = (bits >> (127 - depth) & 1) as usize;
            at = match nodes[at][side] {
                _ if depth + 1 == prefix => {
                    nodes[at][side] = To::Data(data.len());
                    break;
                }
                To::Node(next) => next,
                _ => {
                    nodes.push([To::Nothing; 2]);
                    let next = nodes.len() - 1;
                    nodes[at][side] = To::Node(next);
                    next
                }
            };
        }
        encode(value, &mut data);
    }
    let mut out = Vec::new();
    for to in nodes.iter().flatten() {
        let record = match to {
            To::Nothing => nodes.len(),
            To::Node(next) => *next,
            To::Data(offset) => nodes.len() + 16 + offset,
        };
        out.extend(&(record as u32).to_be_bytes()[1..]);
    }
    out.extend([0; 16]);
    out.extend(data);
    out.extend(b"\xab\xcd\xefMaxMind.com");
    let metadata: [(&str, u8, u32); 6] = [
        ("node_count", 6, nodes.len() as u32),
        ("record_size", 5, 24),
        ("ip_version", 5, 6),
        ("binary_format_major_version", 5, 2),
        ("binary_format_minor_version", 5, 0),
        ("build_epoch", 9, 1_800_000_000),
    ];
    out.push(7 << 5 | 9);
    for (key, kind, value) in metadata {
        encode(&Text(key), &mut out);
        number(kind, value, &mut out);
    }
    for (key, value) in [("database_type", Text(kind)), ("languages", List(vec![])), ("description", Map(vec![]))] {
        encode(&Text(key), &mut out);
        encode(&value, &mut out);
    }
    out
}

/// Control byte (type, length), then the bytes. No length here is above 28.
fn encode(value: &Value, out: &mut Vec<u8>) {
    match value {
        Text(text) => {
            out.push(2 << 5 | text.len() as u8);
            out.extend(text.as_bytes());
        }
        Number(value) => number(6, *value, out),
        List(values) => {
            // An extended type: 11 - 7.
            out.extend([values.len() as u8, 4]);
            values.iter().for_each(|value| encode(value, out));
        }
        Map(pairs) => {
            out.push(7 << 5 | pairs.len() as u8);
            for (key, value) in pairs {
                encode(&Text(key), out);
                encode(value, out);
            }
        }
    }
}

fn number(kind: u8, value: u32, out: &mut Vec<u8>) {
    let bytes = value.to_be_bytes();
    let short = &bytes[value.leading_zeros() as usize / 8..];
    match kind {
        ..=7 => out.push(kind << 5 | short.len() as u8),
        _ => out.extend([short.len() as u8, kind - 7]),
    }
    out.extend(short);
}
