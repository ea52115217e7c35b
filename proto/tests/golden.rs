//! Frozen bytes of every format: `proto/tests/golden/*.hex`. A file that changes is a change of format and belongs
//! in the changelog. `CAIRN_BLESS=1 cargo test -p cairn-proto --test golden` writes them anew.

use std::{env, fs, path::PathBuf};

use cairn_proto::{
    Action, ByteSize, Certificate, ChunkId, CodeParams, Committee, DecodeError, Domain, Grant, GroupId, GroupRecord,
    GroupTicket, Mandate, NetworkId, Order, PeerKey, Powers, Region, Rights, ShardRoot, SheetRow, Slot, SlotSheet,
    SnapshotId, StatementId, StripeId, Taken, Timestamp, VaultKey,
    audit::{
        Answer, Challenge, Evidence, Found, Loss, Matter, SLICE_SIZE, SilenceReport, Verdict, VerdictKind, Vote, Way,
    },
    head::{FORMAT_VERSION, HeadContent, ProviderRow},
    index::{IndexSegment, RunCodec, RunPlace, RunRow, StripeNo, StripeRow},
    manifest::{EpochRow, GroupRow, Manifest, SnapshotRecord, SourceKind},
    message::{self, Advert, HeadRecord, Held, Receipt, Roles, Word},
    signed::SignedBytes,
    tokens::{Booklet, TokenRow},
    tree::{ContentRef, FileTime, Node, NodeKind, TreeWriter, decode_nodes},
    wire::{FrameHeader, FrameKind, Priority},
};
use ed25519_dalek::SigningKey;
use prost::Message;

/// Compares `found` with the golden file, and what the golden file decodes to with `value`.
fn check<T: PartialEq + std::fmt::Debug>(
    name: &str,
    found: &[u8],
    value: &T,
    decode: impl Fn(&[u8]) -> Result<T, DecodeError>,
) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.hex"));
    let digits: String = found.iter().map(|b| format!("{b:02x}")).collect();
    let lines: Vec<_> = digits.as_bytes().chunks(96).map(|line| String::from_utf8_lossy(line)).collect();
    let text = lines.join("\n") + "\n";
    if env::var_os("CAIRN_BLESS").is_some() {
        fs::write(&path, &text).expect("golden file");
    }
    let frozen = fs::read_to_string(&path).expect("golden file");
    assert_eq!(frozen, text, "{name}: the encoding changed");
    let digits: Vec<u8> = frozen.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16).expect("hex");
    let bytes: Vec<u8> = digits.chunks_exact(2).map(byte).collect();
    assert_eq!(decode(&bytes).as_ref(), Ok(value), "{name}: the golden bytes read differently");
}

fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn signed(bytes: &[u8]) -> Result<SignedBytes, DecodeError> {
    message::decode(bytes, "signed bytes")
}

fn peer(seed: u8) -> PeerKey {
    PeerKey::from_bytes([seed; 32])
}

fn slot(index: u8) -> Slot {
    Slot::new(index).expect("in range")
}

fn file() -> Node {
    Node {
        mode: 0o640,
        uid: 1000,
        gid: 100,
        user: Some("ada".into()),
        group: Some("users".into()),
        mtime: FileTime { secs: 1_700_000_000, nanos: 123_456_789 },
        ctime: FileTime { secs: -1, nanos: 999_999_999 },
        size: 10_000_000,
        inode: 42,
        device_id: 2049,
        links: 2,
        xattrs: vec![(b"user.a".to_vec(), b"1".to_vec()), (b"user.b".to_vec(), vec![])],
        hardlink: Some(42),
        holes: vec![(4096, 8192), (1 << 20, 4096)],
        content: ContentRef { depth: 0, ids: vec![ChunkId::from_bytes([1; 32]), ChunkId::from_bytes([2; 32])] },
        ..Node::new(b"data.bin".to_vec(), NodeKind::File)
    }
}

fn link() -> Node {
    Node { mode: 0o777, link_target: b"../elsewhere".to_vec(), ..Node::new(vec![b'n', 0xff, b'x'], NodeKind::Symlink) }
}

fn stripe_row() -> StripeRow {
    let root = |seed: u8| Some(ShardRoot::from_bytes([seed; 32]));
    StripeRow {
        no: StripeNo(300),
        group: 7,
        ordinal: 255,
        epoch: 1,
        stripe: StripeId::from_bytes([3; 32]),
        used: 2,
        roots: vec![root(10), root(11), None, None, None, root(15), root(16), root(17)],
    }
}

fn place() -> RunPlace {
    RunPlace {
        stripe: StripeNo(300),
        offset: 1_048_000,
        stored_len: 5000,
        next: None,
        codec: RunCodec::Zstd,
        raw_len: 9000,
    }
}

fn spanning() -> RunPlace {
    let next = Some(StripeNo(301));
    RunPlace { offset: 2_000_000, stored_len: 700_000, next, codec: RunCodec::Raw, raw_len: 700_000, ..place() }
}

fn group() -> GroupRow {
    GroupRow {
        number: 7,
        salt: [5; 32],
        code: CodeParams::DEFAULT,
        colours: 9,
        holders: (0..8).map(|i| if i == 3 { vec![peer(30), peer(31)] } else { vec![peer(40 - i)] }).collect(),
        stripes_used: 256,
        sealed: true,
    }
}

fn record() -> SnapshotRecord {
    SnapshotRecord {
        time: Timestamp(1_790_000_000_000),
        hostname: "host".into(),
        username: "ada".into(),
        uid: 1000,
        gid: 100,
        paths: vec![b"/home/ada".to_vec(), vec![b'/', 0xff]],
        tags: vec!["daily".into()],
        source: SourceKind::Files,
        root: ContentRef { depth: 1, ids: vec![ChunkId::from_bytes([9; 32])] },
        total_files: 3,
        total_bytes: 10_000_000,
        data_added: 9000,
        program: "0.1.0".into(),
        parent: Some(SnapshotId::from_bytes([8; 32])),
    }
}

#[test]
fn trees() {
    check("node-file", &file().encode().expect("valid"), &file(), Node::decode);
    check("node-symlink", &link().encode().expect("valid"), &link(), Node::decode);
    let mut writer = TreeWriter::new();
    for node in [file(), link()] {
        assert_eq!(writer.push(&node), Ok(None));
    }
    let chunk = writer.finish().expect("two nodes");
    check("tree-chunk", &chunk, &vec![file(), link()], |bytes| decode_nodes(bytes).collect());
}

#[test]
fn index_segments() {
    let chunks = vec![(ChunkId::from_bytes([1; 32]), 8000), (ChunkId::from_bytes([2; 32]), 1000)];
    let runs = vec![
        RunRow { place: place(), chunks },
        RunRow { place: spanning(), chunks: vec![(ChunkId::from_bytes([3; 32]), 700_000)] },
    ];
    let segment = IndexSegment { stripes: vec![stripe_row()], runs };
    check("index-segment", &segment.encode().expect("valid"), &segment, IndexSegment::decode);
}

#[test]
fn manifests() {
    check("snapshot-record", &record().encode().expect("valid"), &record(), SnapshotRecord::decode);
    let manifest = Manifest {
        groups: vec![group()],
        segments: vec![place(), spanning()],
        snapshots: vec![(SnapshotId::from_bytes([6; 32]), record())],
        next_stripe: StripeNo(302),
        next_group: 8,
        epochs: vec![EpochRow { number: 1, created: Timestamp(1_780_000_000_000) }],
    };
    check("manifest", &manifest.encode().expect("valid"), &manifest, Manifest::decode);
}

#[test]
fn heads() {
    let head = HeadContent {
        format: FORMAT_VERSION,
        sequence: 1000,
        generation: 2,
        created: Timestamp(1_790_000_000_001),
        epoch: 1,
        groups: vec![group()],
        tail: vec![stripe_row()],
        manifest: vec![place()],
        providers: Vec::new(),
    };
    let provider = |id: u8, name: &str| ProviderRow { id: [id; 32], name: name.to_owned() };
    let leaning = HeadContent { providers: vec![provider(1, "nas"), provider(2, "s3.example")], ..head.clone() };
    check("head-content-providers", &leaning.encode().expect("valid"), &leaning, HeadContent::decode);
    check("head-content", &head.encode().expect("valid"), &head, HeadContent::decode);
    let vault = VaultKey::from_bytes(key().verifying_key().to_bytes());
    let record = HeadRecord { vault, generation: 2, sequence: 1000, sealed: vec![0xaa; 60] };
    check("head-record", &record.seal(&key()), &record, HeadRecord::open);
}

#[test]
fn groups_and_grants() {
    let authority = key().verifying_key().to_bytes();
    let ticket = GroupTicket::new(authority, [3; 32], CodeParams::DEFAULT, 9).expect("valid");
    check("group-ticket", &ticket.encode(), &ticket, GroupTicket::decode);
    check("group-id", ticket.id().as_bytes(), &ticket.id(), GroupId::from_slice);
    let grant = Grant {
        group: ticket.id(),
        holder: peer(4),
        bearer: peer(5),
        rights: Rights::OWNER,
        not_before: Timestamp(10),
        expires: Timestamp(20),
    };
    check("grant", &grant.seal(&key()), &grant, |bytes| Grant::open(bytes, &ticket, Timestamp(15)));
}

/// A pass of four links: founder, bearer, peer, peer; and the invitation that it was made with, as text.
#[test]
fn passes() {
    use cairn_proto::{
        network_file::{Admission, NetworkFile},
        pass::{Invitation, LinkKind, Offer, Pass, Presented},
    };
    let network = NetworkFile::create_with("golden", 0, Admission::Invitation, &key()).expect("valid");
    let secret = |seed: u8| SigningKey::from_bytes(&[seed; 32]);
    let public = |seed| secret(seed).verifying_key().to_bytes();
    let at = Timestamp(1_790_000_000_000);
    let offer = |depth| Offer { depth, uses: 0, issued: at, use_by: None, expires: Some(at.plus_ms(1 << 40)) };
    let bearing = Offer { uses: 5, use_by: Some(at.plus_ms(1 << 30)), ..offer(3) };
    let chain = Pass::found(&network, &key(), LinkKind::Bearer, public(8), bearing).expect("valid");
    let invitation = Invitation::new(chain, [8; 32].into()).expect("belong together");
    let text = |bytes: &[u8]| match Presented::parse(std::str::from_utf8(bytes).unwrap_or_default())? {
        Presented::Invitation(read) => Ok(read.to_text().to_string()),
        Presented::Pass(read) => Ok(read.to_text()),
    };
    let line = invitation.to_text().to_string();
    check("invitation-text", line.as_bytes(), &line, text);
    let member = PeerKey::from_bytes(public(9));
    let pass = invitation.accept(&member, at).expect("closed");
    let pass = pass.extend(&secret(9), LinkKind::Peer, public(10), offer(1)).expect("may");
    check("pass", &pass.encode(), &pass, Pass::decode);
    check("pass-text", pass.to_text().as_bytes(), &pass.to_text(), text);
    assert!(pass.verify(&network, at).is_ok());
}

#[test]
fn messages() {
    let me = PeerKey::from_bytes(key().verifying_key().to_bytes());
    let advert = Advert {
        peer: me,
        network: NetworkId::from_bytes([1; 32]),
        sequence: Timestamp(1_790_000_000_000),
        protocol: 1,
        domain: Domain::operator("acme").expect("valid"),
        region: Region::new("EU/DE/FSN").expect("valid"),
        roles: Roles::STORAGE.with(Roles::RELAY),
        give: ByteSize(500_000_000_000),
        free: ByteSize(400_000_000_000),
        version: "0.1.0".into(),
        addresses: vec!["/ip4/203.0.113.7/udp/4321/quic-v1".into()],
        pass: Vec::new(),
    };
    check("advert", &advert.seal(&key()).encode_to_vec(), &advert, |bytes| Advert::open(&signed(bytes)?));
    let invited = Advert { pass: vec![1; 40], ..advert.clone() };
    check("advert-pass", &invited.seal(&key()).encode_to_vec(), &invited, |bytes| Advert::open(&signed(bytes)?));
    let receipt = Receipt {
        holder: me,
        group: GroupId::from_bytes([2; 32]),
        slot: slot(7),
        ordinal: 255,
        root: ShardRoot::from_bytes([3; 32]),
        lease_until: Timestamp(7_000),
        stored_at: Timestamp(6_000),
        held: None,
    };
    check("receipt", &receipt.seal(&key()).encode_to_vec(), &receipt, |bytes| Receipt::open(&signed(bytes)?));
    let rows = [(3, ShardRoot::from_bytes([8; 32]), Timestamp(6_500)), (255, receipt.root, receipt.lease_until)];
    let of_all = Receipt { held: Some(Held::of(&rows)), ..receipt };
    check("receipt-held", &of_all.seal(&key()).encode_to_vec(), &of_all, |bytes| Receipt::open(&signed(bytes)?));
    let header = FrameHeader {
        kind: FrameKind::Put,
        priority: Priority::Normal,
        head_len: 80,
        request: 9,
        payload_len: 1 << 20,
    };
    check("frame-header", &header.encode(), &header, |bytes| {
        let what = "frame header";
        let found = bytes.len();
        FrameHeader::decode(bytes.try_into().map_err(|_| DecodeError::Truncated { what, needed: 16, found })?)
    });
}

#[test]
fn mandates_and_orders() {
    let code = CodeParams::new(1, 1).expect("valid");
    let ticket = GroupTicket::new(key().verifying_key().to_bytes(), [9; 32], code, 3).expect("valid");
    let steward = |seed: u8| SigningKey::from_bytes(&[seed; 32]);
    let key_of = |key: &SigningKey| PeerKey::from_bytes(key.verifying_key().to_bytes());
    let mandate = Mandate {
        ticket,
        generation: 2,
        stewards: vec![key_of(&steward(20)), key_of(&steward(21)), key_of(&steward(22))],
        replicas: 2,
        powers: Powers::COPY.with(Powers::REBUILD),
        monthly_bytes: 1 << 30,
        issued: Timestamp(1_000),
        ends: Timestamp(1_000_000),
    };
    let sealed = mandate.seal(&key()).expect("valid");
    check("mandate", &sealed, &mandate, Mandate::open);
    let sheet = |at: u8| SlotSheet {
        group: ticket.id(),
        slot: slot(at),
        generation: 5,
        holders: vec![peer(at + 30), peer(at + 40)],
        rows: vec![SheetRow { ordinal: 0, used: 1, root: ShardRoot::from_bytes([at + 50; 32]) }],
        leans: false,
    };
    let page = |at| sheet(at).seal(&key()).expect("valid");
    check("slot-sheet", &page(1), &sheet(1), |bytes| SlotSheet::open(bytes, &ticket));
    let leaning = SlotSheet { holders: Vec::new(), leans: true, ..sheet(0) };
    let leaning_page = leaning.seal(&key()).expect("valid");
    check("slot-sheet-leaning", &leaning_page, &leaning, |bytes| SlotSheet::open(bytes, &ticket));
    let token = |n: u8| TokenRow { ordinal: 9 - n, root: [n; 8], nonce: [n + 1; 32], digest: [n + 2; 16] };
    let booklet = Booklet {
        group: ticket.id(),
        steward: Some(peer(6)),
        slots: vec![(slot(0), vec![token(1)]), (slot(1), vec![token(3), token(4)])],
    };
    let sealed_booklet = booklet.seal(&key()).expect("valid");
    check("token-booklet", &sealed_booklet, &booklet, |bytes| Booklet::open(bytes, &ticket));
    let record = GroupRecord::new(sealed, vec![page(0), page(1)]).expect("whole");
    check("group-record", &record.encode(), &record, GroupRecord::decode);
    let with_words = |at: u8, held: bool| {
        let holder = steward(60 + at);
        let mine = SlotSheet { holders: vec![peer(1), key_of(&holder)], ..sheet(at) };
        let SheetRow { ordinal, root, .. } = mine.rows[0];
        let (group, lease_until, stored_at) = (ticket.id(), Timestamp(900_000), Timestamp(900));
        let held = held.then(|| Held::of(&[(ordinal, root, lease_until)]));
        let receipt =
            Receipt { holder: key_of(&holder), group, slot: slot(at), ordinal, root, lease_until, stored_at, held };
        (mine.seal(&key()).expect("valid"), Word::of(&receipt.seal(&holder)).expect("a receipt"))
    };
    let (sheets, words) = [with_words(0, false), with_words(1, true)].into_iter().unzip();
    let record = GroupRecord::new(mandate.seal(&key()).expect("valid"), sheets).expect("whole");
    let record = record.with_words(words).expect("of its shards");
    check("group-record-words", &record.encode(), &record, GroupRecord::decode);
    let ordinals = [0, 9].into_iter().collect();
    let order = |action| Order {
        group: ticket.id(),
        generation: 2,
        committee: *Committee::of(&mandate).id(),
        nonce: [6; 16],
        issued: Timestamp(2_000),
        expires: Timestamp(90_000),
        urgent: false,
        action,
    };
    let copy = order(Action::Copy { slot: slot(1), from: peer(31), to: peer(32), ordinals });
    check("order-copy", &copy.encode().expect("valid"), &copy, Order::decode);
    let helpers = vec![(slot(0), peer(30))];
    let rebuild = order(Action::Rebuild { slot: slot(1), to: peer(32), ordinals, helpers });
    check("order-rebuild", &rebuild.encode().expect("valid"), &rebuild, Order::decode);
    for (name, calm) in [("order-copy-urgent", &copy), ("order-rebuild-urgent", &rebuild)] {
        let urgent = Order { urgent: true, ..calm.clone() };
        check(name, &urgent.encode().expect("valid"), &urgent, Order::decode);
    }
    let replace = order(Action::Replace { old: key_of(&steward(20)), new: peer(33) });
    check("order-replace", &replace.encode().expect("valid"), &replace, Order::decode);
    let votes = [20, 21].map(|seed| (key_of(&steward(seed)), copy.sign(&steward(seed)).expect("valid")));
    let certificate = Certificate::new(copy.clone(), votes);
    check("certificate", &certificate.encode().expect("valid"), &certificate, Certificate::decode);
    let holder = steward(32);
    let taken = Taken {
        order: copy.id().expect("valid"),
        group: ticket.id(),
        slot: slot(1),
        ordinals,
        previous: [0; 32],
        at: Timestamp(3_000),
        holder: key_of(&holder),
    };
    check("taken", &taken.seal(&holder), &taken, Taken::open);
}

#[test]
fn audits() {
    let me = PeerKey::from_bytes(key().verifying_key().to_bytes());
    let challenge = Challenge {
        auditor: me,
        holder: me,
        group: GroupId::from_bytes([2; 32]),
        slot: slot(7),
        ordinal: 255,
        root: ShardRoot::from_bytes([3; 32]),
        nonce: [4; 32],
        way: Way::Slices,
        slices: 4,
        previous: Some(StatementId::from_bytes([5; 32])),
        issued: Timestamp(1_790_000_000_000),
        deadline: Timestamp(1_790_000_060_000),
    };
    let asked = challenge.seal(&key());
    check("audit-challenge", &asked.encode_to_vec(), &challenge, |bytes| Challenge::open(&signed(bytes)?));
    let id = Challenge::id(&asked);
    let answer = |found| Answer { holder: me, challenge: id, previous: None, found };
    let slices = answer(Found::Slices(vec![[6; 32]; 4]));
    check("audit-answer", &slices.seal(&key()).encode_to_vec(), &slices, |bytes| Answer::open(&signed(bytes)?));
    let gone = answer(Found::NotHere(Loss::Damaged));
    check("audit-loss", &gone.seal(&key()).encode_to_vec(), &gone, |bytes| Answer::open(&signed(bytes)?));

    let wrong = Evidence::WrongAnswer {
        challenge: asked.clone(),
        answer: slices.seal(&key()),
        at: 2,
        slice: vec![8; SLICE_SIZE],
    };
    check("evidence-wrong-answer", &wrong.encode(), &wrong, Evidence::decode);
    check("evidence-id", wrong.id().as_bytes(), &wrong.id(), StatementId::from_slice);
    let report = SilenceReport { reporter: me, challenge: id, at: Timestamp(1_790_000_060_001) };
    let silence = Evidence::Silence { challenge: asked, report: report.seal(&key()) };
    check("evidence-silence", &silence.encode(), &silence, Evidence::decode);

    let place = Some((GroupId::from_bytes([2; 32]), slot(7)));
    let matter = Matter { subject: peer(9), kind: VerdictKind::Suspect, round: 77, place };
    let vote =
        Vote { voter: me, matter, against: true, evidence: vec![wrong.id()], issued: Timestamp(1_790_000_070_000) };
    let verdict = Verdict { matter, votes: vec![vote.seal(&key())] };
    check("verdict", &verdict.encode(), &verdict, Verdict::decode);
    check("vote", &vote.seal(&key()).encode_to_vec(), &vote, |bytes| Vote::open(&signed(bytes)?));
}
