//! One target per decoder: valid inputs to start from, and what must hold for any bytes.

mod audits;
mod edges;
mod formats;
mod passes;
mod states;
mod stewards;

use std::path::Path;

use cairn_proto::{
    ByteSize, CodeParams, Domain, Grant, GroupId, GroupTicket, NetworkId, PeerKey, Region, Rights, ShardRoot, Slot,
    Timestamp, VaultKey,
    message::{
        self, Advert, ControlAnswer, ControlRequest, HeadRecord, Held, ProofsWanted, Receipt, Roles, Word,
        control_request::Ask,
    },
    network_file::NetworkFile,
    signed::SignedBytes,
    wire,
};
use ed25519_dalek::SigningKey;
use prost::Message as _;

/// A decoder under attack.
pub struct Target {
    /// For the command line and the log.
    pub name: &'static str,
    /// Valid encodings, to be mutated.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Takes any bytes; panics when a promise is broken.
    pub run: fn(&[u8]),
}

/// Every target.
#[must_use]
pub fn all() -> Vec<Target> {
    let mut all = vec![
        Target { name: "frame-header", seeds: frame_seeds, run: frame_header },
        Target { name: "frame-head", seeds: frame_head_seeds, run: frame_head },
        Target { name: "signed-bytes", seeds: signed_seeds, run: signed_bytes },
        Target { name: "head-record", seeds: head_record_seeds, run: head_record },
        Target { name: "control", seeds: control_seeds, run: control },
        Target { name: "group-ticket", seeds: || vec![ticket().encode().to_vec()], run: group_ticket },
        Target { name: "grant", seeds: || vec![grant().seal(&key()).to_vec()], run: grant_bytes },
        Target { name: "network-file", seeds: network_file_seeds, run: network_file },
        Target { name: "path-text", seeds: || vec![b"/a%20b%FF%00%zz%".to_vec()], run: path_text },
        Target { name: "texts", seeds: text_seeds, run: texts },
    ];
    all.extend(formats::all());
    all.extend(passes::all());
    all.extend(edges::all());
    all.extend(stewards::all());
    all.extend(audits::all());
    all.extend(states::all());
    all
}

/// The target of that name.
#[must_use]
pub fn by_name(name: &str) -> Option<Target> {
    all().into_iter().find(|t| t.name == name)
}

fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn ticket() -> GroupTicket {
    GroupTicket::new(key().verifying_key().to_bytes(), [3; 32], CodeParams::DEFAULT, 9).expect("valid")
}

fn grant() -> Grant {
    Grant {
        group: ticket().id(),
        holder: PeerKey::from_bytes([4; 32]),
        bearer: PeerKey::from_bytes([5; 32]),
        rights: Rights::OWNER,
        not_before: Timestamp(10),
        expires: Timestamp(1 << 50),
    }
}

fn advert() -> SignedBytes {
    let me = PeerKey::from_bytes(key().verifying_key().to_bytes());
    let advert = Advert {
        peer: me,
        network: NetworkId::from_bytes([1; 32]),
        sequence: Timestamp(5),
        protocol: 1,
        domain: Domain::of_peer(&me),
        region: Region::new("EU/DE/FSN").expect("valid"),
        roles: Roles::STORAGE,
        give: ByteSize(1 << 40),
        free: ByteSize(1 << 39),
        version: "0.1.0".into(),
        addresses: vec!["/ip4/127.0.0.1/tcp/1".into(); 4],
        pass: Vec::new(),
    };
    advert.seal(&key())
}

fn receipt() -> SignedBytes {
    Receipt {
        holder: PeerKey::from_bytes(key().verifying_key().to_bytes()),
        group: ticket().id(),
        slot: Slot::new(3).expect("valid"),
        ordinal: 9,
        root: ShardRoot::from_bytes([6; 32]),
        lease_until: Timestamp(1 << 41),
        stored_at: Timestamp(1 << 40),
        held: Some(Held::of(&[(9, ShardRoot::from_bytes([6; 32]), Timestamp(1 << 41))])),
    }
    .seal(&key())
}

fn head() -> Vec<u8> {
    let vault = VaultKey::from_bytes(key().verifying_key().to_bytes());
    HeadRecord { vault, generation: 1, sequence: 4, sealed: vec![9; 700] }.seal(&key())
}

fn frame_seeds() -> Vec<Vec<u8>> {
    use wire::{FrameKind, Priority};
    [FrameKind::Open, FrameKind::Put, FrameKind::Data, FrameKind::Cancel, FrameKind::OpenOrder]
        .into_iter()
        .map(|kind| {
            let payload_len = if kind == FrameKind::Put { 1 << 20 } else { 0 };
            wire::FrameHeader { kind, priority: Priority::High, head_len: 250, request: 8, payload_len }
                .encode()
                .to_vec()
        })
        .collect()
}

fn frame_header(bytes: &[u8]) {
    let Some(first) = bytes.first_chunk::<{ wire::FRAME_HEADER_SIZE }>() else { return };
    if let Ok(header) = wire::FrameHeader::decode(first) {
        assert_eq!(header.encode(), *first);
        assert!(usize::from(header.head_len) <= wire::FRAME_HEAD_MAX);
        assert!(header.payload_len as usize <= header.kind.payload_max());
    }
}

fn frame_head_seeds() -> Vec<Vec<u8>> {
    let group = ticket().id().as_bytes().to_vec();
    vec![
        wire::OpenGroup { ticket: ticket().encode().to_vec(), grant: grant().seal(&key()).to_vec() }.encode_to_vec(),
        wire::PutShard { group: group.clone(), slot: 1, ordinal: 2, root: vec![3; 32], lease_until: 4 }.encode_to_vec(),
        wire::GetShard { group: group.clone(), slot: 1, ordinal: 2, offset: 3, length: 4 }.encode_to_vec(),
        wire::HasShards { group: group.clone(), slot: 1 }.encode_to_vec(),
        wire::HasAnswer { ordinals: vec![255; 32] }.encode_to_vec(),
        wire::DeleteShard { group, slot: 1, ordinal: 2 }.encode_to_vec(),
        wire::Refused { code: 2, retry_after_ms: 100 }.encode_to_vec(),
    ]
}

fn frame_head(bytes: &[u8]) {
    if bytes.len() > wire::FRAME_HEAD_MAX {
        return; // The frame header's check comes first.
    }
    if let Ok(open) = message::decode::<wire::OpenGroup>(bytes, "open") {
        group_ticket(&open.ticket);
        grant_bytes(&open.grant);
    }
    if let Ok(put) = message::decode::<wire::PutShard>(bytes, "put") {
        let _ = (GroupId::from_slice(&put.group), message::slot(put.slot), message::ordinal(put.ordinal));
        let _ = ShardRoot::from_slice(&put.root);
    }
    let _ = message::decode::<wire::GetShard>(bytes, "get");
    let _ = message::decode::<wire::HasShards>(bytes, "has");
    let _ = message::decode::<wire::HasAnswer>(bytes, "holding");
    let _ = message::decode::<wire::DeleteShard>(bytes, "delete");
    if let Ok(refused) = message::decode::<wire::Refused>(bytes, "refused") {
        let _ = refused.code();
    }
}

fn signed_seeds() -> Vec<Vec<u8>> {
    vec![advert().encode_to_vec(), receipt().encode_to_vec()]
}

fn signed_bytes(bytes: &[u8]) {
    let Ok(signed) = message::decode::<SignedBytes>(bytes, "signed") else { return };
    if let Ok(opened) = Advert::open(&signed) {
        assert!(opened.addresses.len() <= message::ADVERT_ADDRESSES_MAX);
        assert!(!opened.version.contains(char::is_control));
        // Nobody but the key's owner makes a statement: only the seed's own body may pass.
        assert_eq!(signed.body, advert().body);
    }
    if Receipt::open(&signed).is_ok() {
        assert_eq!(signed.body, receipt().body);
    }
    if let Ok(word) = Word::of(&signed) {
        assert_eq!(word.signed(), signed);
        assert!(word.verified().is_none() || signed.body == receipt().body);
    }
    // The bodies themselves, as a hostile signer would send them.
    let _ = Advert::open(&SignedBytes::sign("cairn advert v1", signed.body.clone(), &key()));
    let _ = Receipt::open(&SignedBytes::sign("cairn receipt v1", signed.body, &key()));
}

fn head_record_seeds() -> Vec<Vec<u8>> {
    vec![head()]
}

fn head_record(bytes: &[u8]) {
    if let Ok(record) = HeadRecord::open(bytes) {
        assert!(bytes.len() <= message::HEAD_RECORD_MAX);
        assert_eq!((record.generation, record.sequence), (1, 4));
    }
}

fn control_seeds() -> Vec<Vec<u8>> {
    vec![
        ControlRequest { ask: Some(Ask::Adverts(9)) }.encode_to_vec(),
        ControlRequest { ask: Some(Ask::KeepHead(head())) }.encode_to_vec(),
        ControlRequest { ask: Some(Ask::FindHead(vec![1; 32])) }.encode_to_vec(),
        ControlRequest { ask: Some(Ask::Proofs(ProofsWanted { digest: vec![1; 32], after: vec![2; 32] })) }
            .encode_to_vec(),
        ControlAnswer {
            adverts: vec![advert(); 3],
            head: head(),
            granted: true,
            retry_after_ms: 5,
            proofs: vec![vec![1; 9]],
        }
        .encode_to_vec(),
    ]
}

fn control(bytes: &[u8]) {
    if bytes.len() > message::CONTROL_MAX {
        return;
    }
    if let Ok(ControlRequest { ask: Some(Ask::KeepHead(head)) }) = message::decode(bytes, "control") {
        head_record(&head);
    }
    if let Ok(answer) = message::decode::<ControlAnswer>(bytes, "control") {
        answer.adverts.iter().take(message::ADVERTS_PER_ANSWER_MAX).for_each(|a| {
            let _ = Advert::open(a);
        });
        head_record(&answer.head);
    }
}

fn group_ticket(bytes: &[u8]) {
    if let Ok(ticket) = GroupTicket::decode(bytes) {
        assert_eq!(ticket.encode(), bytes);
        assert!(usize::from(ticket.colours()) > ticket.code().slots());
    }
}

fn grant_bytes(bytes: &[u8]) {
    if Grant::open(bytes, &ticket(), Timestamp(20)).is_ok() {
        assert_eq!(bytes, grant().seal(&key()));
    }
}

fn network_file_seeds() -> Vec<Vec<u8>> {
    let mut file = NetworkFile::create("home", 8, &key()).expect("valid");
    file.bootstrap.push("/ip4/127.0.0.1/tcp/4001".into());
    vec![file.to_toml().into_bytes()]
}

fn network_file(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(file) = NetworkFile::parse(text) {
        assert_eq!(NetworkFile::parse(&file.to_toml()), Ok(file));
    }
}

fn path_text(bytes: &[u8]) {
    use std::os::unix::ffi::OsStrExt;
    let path = Path::new(std::ffi::OsStr::from_bytes(bytes));
    assert_eq!(cairn::ops::decode_path(&cairn::ops::encode_path(path)), path);
    if let Ok(text) = std::str::from_utf8(bytes) {
        let decoded = cairn::ops::decode_path(text);
        assert!(decoded.as_os_str().len() <= text.len());
    }
}

fn text_seeds() -> Vec<Vec<u8>> {
    ["op:some-name", "v4:10.0.0", "EU/DE/FSN", "1.5 GiB", "500GB", "v6:2001:db8:0"]
        .map(|t| t.as_bytes().to_vec())
        .to_vec()
}

fn texts(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(domain) = Domain::new(text) {
        assert_eq!(domain.as_str(), text);
    }
    if let Ok(region) = Region::new(text) {
        let _ = region.continent();
    }
    let _ = text.parse::<ByteSize>();
    let _ = text.parse::<PeerKey>();
}

#[cfg(test)]
mod tests {
    use super::all;

    /// libFuzzer's binaries are named in a manifest that nothing here builds.
    #[test]
    fn every_target_has_a_binary_for_libfuzzer() {
        let manifest = include_str!("../libfuzzer/Cargo.toml");
        let binaries: Vec<&str> = manifest
            .split("[[bin]]")
            .skip(1)
            .filter_map(|bin| bin.split("name = \"").nth(1)?.split('"').next())
            .collect();
        let targets: Vec<&str> = all().iter().map(|t| t.name).collect();
        assert_eq!(binaries, targets);
    }

    /// A seed that its own decoder refuses attacks nothing; each must at least be taken without a panic.
    #[test]
    fn every_target_takes_its_own_seeds() {
        for target in all() {
            let seeds = (target.seeds)();
            assert!(!seeds.is_empty(), "{}", target.name);
            seeds.iter().for_each(|seed| (target.run)(seed));
        }
    }
}
