//! Targets over what owners leave to stewards, what these order, and what they keep of a group.

use std::{collections::BTreeSet, sync::LazyLock};

use cairn_core::{
    budget::{Budget, Limits},
    colour::colour,
    liveness::{Timers, Watch},
    part::{CREDENTIALS_MAX, Credentials, Pass},
    steward::{
        Failure, Happening, Rhythm, Say, Steward, What,
        wire::{Answer, Duty, Findings, GroupMap, Kept, MESSAGE_MAX, Notice, Questioned, Refusal, Request},
    },
};
use cairn_proto::{
    Action, Certificate, CodeParams, Committee, Domain, GroupRecord, GroupTicket, Mandate, Order, PeerKey, Powers,
    ShardRoot, SheetRow, Slot, SlotSheet, Taken, Timestamp, mandate,
    message::{Held, Receipt, Word},
    order,
    signed::SignedBytes,
    tokens::{BOOKLET_MAX, Booklet, TokenRow},
};
use ed25519_dalek::SigningKey;
use rand_core::SeedableRng as _;

use super::{Target, key};

pub(super) fn all() -> Vec<Target> {
    vec![
        Target { name: "mandate", seeds: || vec![sealed_mandate()], run: open_mandate },
        Target { name: "slot-sheet", seeds: || vec![sheet(0), sheet(2), leaning_sheet()], run: open_sheet },
        Target { name: "token-booklet", seeds: || booklets().into(), run: open_booklet },
        Target { name: "group-record", seeds: || vec![record(), record_with_words()], run: open_record },
        Target { name: "order", seeds: order_seeds, run: read_order },
        Target { name: "certificate", seeds: || vec![certificate()], run: read_certificate },
        Target { name: "taken", seeds: || vec![taken()], run: open_taken },
        Target { name: "steward-group", seeds: || STATES.clone(), run: resume },
        Target { name: "steward-places", seeds: || vec![places()], run: resume_places },
        Target { name: "steward-suspects", seeds: || vec![suspects()], run: resume_suspects },
        Target { name: "steward-request", seeds: request_seeds, run: read_request },
        Target { name: "steward-answer", seeds: answer_seeds, run: read_answer },
        Target { name: "credentials", seeds: || vec![credentials().encode().expect("valid")], run: read_credentials },
        Target { name: "steward-pass", seeds: || vec![pass()], run: read_pass },
    ]
}

fn slot(at: u8) -> Slot {
    Slot::new(at).expect("in range")
}

fn peer(key: &SigningKey) -> PeerKey {
    PeerKey::from_bytes(key.verifying_key().to_bytes())
}

fn ticket() -> GroupTicket {
    let code = CodeParams::new(2, 1).expect("valid");
    GroupTicket::new(key().verifying_key().to_bytes(), [3; 32], code, 4).expect("valid")
}

fn sealed_mandate() -> Vec<u8> {
    let mandate = Mandate {
        ticket: ticket(),
        generation: 1,
        stewards: vec![peer(&key())],
        replicas: 1,
        powers: Powers::ALL,
        monthly_bytes: 1 << 30,
        issued: Timestamp(10),
        ends: Timestamp(1_000_000),
    };
    mandate.seal(&key()).expect("valid")
}

fn sheet(at: u8) -> Vec<u8> {
    let rows = vec![SheetRow { ordinal: 3, used: 2, root: ShardRoot::from_bytes([at; 32]) }];
    let holders = vec![PeerKey::from_bytes([at + 1; 32])];
    let sheet = SlotSheet { group: ticket().id(), slot: slot(at), generation: 1, holders, rows, leans: false };
    sheet.seal(&key()).expect("valid")
}

/// Of a slot that lies in its owner's own storage.
fn leaning_sheet() -> Vec<u8> {
    let sheet = SlotSheet::open(&sheet(1), &ticket()).expect("ours");
    SlotSheet { holders: Vec::new(), leans: true, ..sheet }.seal(&key()).expect("valid")
}

fn record() -> Vec<u8> {
    GroupRecord::new(sealed_mandate(), (0..3).map(sheet).collect()).expect("whole").encode()
}

/// What the holder of slot 1, whose key is ours, signed that it took.
fn word() -> Word {
    let (root, lease_until) = (ShardRoot::from_bytes([1; 32]), Timestamp(1 << 40));
    let (group, held) = (ticket().id(), Some(Held::of(&[(3, root, lease_until)])));
    let holder = peer(&key());
    let receipt =
        Receipt { holder, group, slot: slot(1), ordinal: 3, root, lease_until, stored_at: Timestamp(20), held };
    Word::of(&receipt.seal(&key())).expect("a receipt")
}

fn record_with_words() -> Vec<u8> {
    let mut sheets: Vec<Vec<u8>> = (0..3).map(sheet).collect();
    let own = SlotSheet::open(&sheets[1], &ticket()).expect("ours");
    sheets[1] = SlotSheet { holders: vec![peer(&key())], ..own }.seal(&key()).expect("valid");
    let record = GroupRecord::new(sealed_mandate(), sheets).expect("whole");
    record.with_words(vec![word()]).expect("of its shard").encode()
}

fn an_order(action: Action) -> Order {
    let (issued, expires) = (Timestamp(20), Timestamp(1_000));
    let committee = *Committee::of(&Mandate::open(&sealed_mandate()).expect("ours")).id();
    Order { group: ticket().id(), generation: 1, committee, nonce: [5; 16], issued, expires, urgent: false, action }
}

fn copy() -> Order {
    let (from, to) = (PeerKey::from_bytes([1; 32]), PeerKey::from_bytes([2; 32]));
    an_order(Action::Copy { slot: slot(1), from, to, ordinals: [3].into_iter().collect() })
}

fn order_seeds() -> Vec<Vec<u8>> {
    let to = PeerKey::from_bytes([9; 32]);
    let helpers = vec![(slot(0), PeerKey::from_bytes([1; 32])), (slot(2), PeerKey::from_bytes([2; 32]))];
    let rebuild = Action::Rebuild { slot: slot(1), to, ordinals: [3].into_iter().collect(), helpers };
    let replace = Action::Replace { old: peer(&key()), new: to };
    let (retire, enlist) = (Action::Retire { old: peer(&key()) }, Action::Enlist { new: to });
    let changes = [replace, retire, enlist].map(an_order);
    let urgent = [copy(), an_order(rebuild.clone())].map(|order| Order { urgent: true, ..order });
    [copy(), an_order(rebuild)]
        .into_iter()
        .chain(urgent)
        .chain(changes)
        .map(|order| order.encode().expect("valid"))
        .collect()
}

fn certificate() -> Vec<u8> {
    let vote = (peer(&key()), copy().sign(&key()).expect("valid"));
    Certificate::new(copy(), [vote]).encode().expect("valid")
}

fn taken() -> Vec<u8> {
    let taken = Taken {
        order: copy().id().expect("valid"),
        group: ticket().id(),
        slot: slot(1),
        ordinals: [3].into_iter().collect(),
        previous: [0; 32],
        at: Timestamp(30),
        holder: peer(&key()),
    };
    taken.seal(&key())
}

fn open_mandate(bytes: &[u8]) {
    let named = Mandate::named_in(bytes);
    if let Ok(mandate) = Mandate::open(bytes) {
        assert_eq!(named.as_ref(), Ok(&mandate.stewards));
        assert_eq!(bytes, sealed_mandate(), "{mandate:?}");
    }
    assert!(sealed_mandate().len() <= mandate::MANDATE_MAX);
}

fn open_sheet(bytes: &[u8]) {
    if SlotSheet::open(bytes, &ticket()).is_ok() {
        assert!([sheet(0), sheet(2), leaning_sheet()].iter().any(|known| known == bytes));
    }
}

/// For the one steward, and a spare one.
fn booklets() -> [Vec<u8>; 2] {
    let token = |n: u8| TokenRow { ordinal: 3, root: [0; 8], nonce: [n; 32], digest: [n; 16] };
    let of = |steward, first: u8| Booklet {
        group: ticket().id(),
        steward,
        slots: vec![(slot(0), vec![token(first), token(first + 1)]), (slot(2), vec![token(first + 2)])],
    };
    [of(Some(peer(&key())), 1), of(None, 9)].map(|booklet| booklet.seal(&key()).expect("valid"))
}

fn open_booklet(bytes: &[u8]) {
    if Booklet::open(bytes, &ticket()).is_ok() {
        assert!(bytes.len() <= BOOKLET_MAX && booklets().iter().any(|known| known == bytes));
    }
}

fn open_record(bytes: &[u8]) {
    if let Ok(record) = GroupRecord::decode(bytes) {
        assert_eq!(record.encode(), bytes);
        assert_eq!(record.sheets.len(), 3);
        for word in record.words() {
            assert!(word.verified().is_none_or(|receipt| receipt.stored_at == Timestamp(20)));
            let _ = word.receipt.speaks_for(&record.sheets[word.receipt.slot.index()]);
        }
    }
}

fn read_order(bytes: &[u8]) {
    if let Ok(order) = Order::decode(bytes) {
        assert_eq!(order.encode().expect("was read"), bytes);
        assert!(bytes.len() <= order::ORDER_MAX);
    }
}

fn read_certificate(bytes: &[u8]) {
    if let Ok(read) = Certificate::decode(bytes) {
        assert_eq!(read.encode().expect("was read"), bytes);
        let committee = Committee::of(&Mandate::open(&sealed_mandate()).expect("ours"));
        assert!(read.check(&committee).is_err() || read.order == copy());
    }
}

fn open_taken(bytes: &[u8]) {
    if Taken::open(bytes).is_ok() {
        assert_eq!(bytes, taken());
    }
}

fn changes() -> Vec<Certificate> {
    let order = an_order(Action::Enlist { new: PeerKey::from_bytes([9; 32]) });
    let vote = (peer(&key()), order.sign(&key()).expect("valid"));
    vec![Certificate::new(order, [vote])]
}

fn certified() -> Certificate {
    Certificate::decode(&certificate()).expect("ours")
}

fn credentials() -> Credentials {
    Credentials { mandate: sealed_mandate(), changes: changes(), certificate: certified() }
}

fn pass() -> Vec<u8> {
    Pass::encode(&sealed_mandate(), &changes()).expect("valid")
}

fn request_seeds() -> Vec<Vec<u8>> {
    let (group, order, vote) = (ticket().id(), copy().id().expect("valid"), [4; 64]);
    let (changes, entries) = (changes(), vec![(certified(), taken())]);
    let whole = GroupRecord::decode(&record()).expect("ours");
    let say = [
        Say::Propose { order: copy(), vote },
        Say::Vote { group, order, vote },
        Say::Certified { certificate: certified() },
        Say::Taken { certificate: certified(), sealed: taken() },
        Say::Failed { group, order, failure: Failure::Wrong(Some(PeerKey::from_bytes([2; 32]))) },
        Say::Compare { group, generation: 300, digest: [6; 32] },
        Say::Map { group, changes: changes.clone(), past: Vec::new(), entries: entries.clone() },
        Say::Record { record: Box::new(whole), changes, past: Vec::new(), entries },
        Say::Tokens { group, own: Some(booklets()[0].clone()), spare: Some(booklets()[1].clone()) },
    ];
    let others = [
        Request::Give { credentials: Box::new(credentials()), sheet: sheet(0), previous: [9; 32] },
        Request::Register { record: record() },
        Request::Ask { ticket: ticket(), grant: vec![4; 178] },
        Request::Duty(Box::new(duty())),
        Request::Findings(Box::new(findings())),
        Request::Challenge(Box::new(questioned())),
        Request::Notice(Notice::Lost { group, slot: slot(1), ordinals: [3].into_iter().collect() }),
        Request::Notice(Notice::Leaving { at: Timestamp(300), groups: vec![group] }),
        Request::Notice(Notice::Staying),
    ];
    let all = say.map(|say| Request::Say(Box::new(say))).into_iter().chain(others);
    all.map(|request| request.encode().expect("valid")).collect()
}

fn duty() -> Duty {
    let (holder, ordinals, until) = (PeerKey::from_bytes([2; 32]), [0, 200].into_iter().collect(), Timestamp(1000));
    Duty {
        ticket: ticket(),
        sheet: sheet(0),
        holder,
        ordinals,
        auditors: 7,
        until,
        words: vec![taken(), word().encode()],
    }
}

fn findings() -> Findings {
    let (holder, missing) = (PeerKey::from_bytes([2; 32]), [1].into_iter().collect());
    let (shown, proof) = ([7].into_iter().collect(), Some(vec![5; 40]));
    Findings { group: ticket().id(), slot: slot(1), holder, good: 300, silent: 1, missing, shown, proof }
}

fn questioned() -> Questioned {
    let challenge = SignedBytes { body: vec![1; 40], signer: vec![2; 32], signature: vec![3; 64] };
    Questioned { ticket: ticket(), grant: Some(vec![4; 178]), challenge }
}

fn answer_seeds() -> Vec<Vec<u8>> {
    let (holder, order) = (PeerKey::from_bytes([2; 32]), [3; 32]);
    let log = [
        What::Adopted { generation: 300 },
        What::Lacks { slot: 1, holder, shards: 256 },
        What::Ordered { order, slot: 1, to: holder, rebuild: true, shards: 1 },
        What::Repaired { order, slot: 1, holder, shards: 1 },
        What::Failed { order, why: Some(Failure::Missing(holder)) },
        What::Stewards { old: None, new: Some(holder) },
        What::NoPeer { slot: 2 },
    ];
    let log = log.map(|what| Happening { at: Timestamp(1000), what }).to_vec();
    let (mandate, entries) = (sealed_mandate(), vec![(certified(), taken())]);
    let map = GroupMap { mandate, sheets: vec![1, 2, 300], changes: changes(), past: Vec::new(), entries, log };
    let answers = [Answer::Done, Answer::Map(Box::new(map)), Answer::Refused(Refusal::Busy)];
    let answers: Vec<Answer> = answers
        .into_iter()
        .chain([Answer::Audit(vec![6; 60]), Answer::Kept(vec![Kept::Needed, Kept::Elsewhere])])
        .collect();
    answers.iter().map(|answer| answer.encode().expect("valid")).collect()
}

fn read_request(bytes: &[u8]) {
    if let Ok(request) = Request::decode(bytes) {
        assert_eq!(request.encode().expect("was read"), bytes);
        assert!(bytes.len() <= MESSAGE_MAX && request.answer_max() <= MESSAGE_MAX);
    }
}

fn read_answer(bytes: &[u8]) {
    if let Ok(answer) = Answer::decode(bytes) {
        assert_eq!(answer.encode().expect("was read"), bytes);
    }
}

fn read_credentials(bytes: &[u8]) {
    if let Ok(read) = Credentials::decode(bytes) {
        assert!(bytes.len() <= CREDENTIALS_MAX);
        assert_eq!(read.encode().expect("was read"), bytes);
        // Signed by whom it must be, it says what it said.
        assert!(read.check(&BTreeSet::new(), Timestamp(50)).is_err() || read.certificate.order == copy());
    }
}

fn read_pass(bytes: &[u8]) {
    let Ok(read) = Pass::decode(bytes) else { return };
    assert_eq!(Pass::encode(&read.mandate, &read.changes).expect("was read"), bytes);
    if read.may_watch(&peer(&key()), &BTreeSet::new(), Timestamp(50)).is_ok() {
        assert_eq!(read.mandate, sealed_mandate());
    }
    // Nobody's signature lets a stranger in.
    assert!(read.may_watch(&PeerKey::from_bytes([7; 32]), &read.concerned(), Timestamp(50)).is_err());
}

const NOW: Timestamp = Timestamp(500);

/// One of the stewards' colour.
fn own_domain() -> Domain {
    let all = (0..100).map(|at| Domain::operator(&format!("d{at}")).expect("valid"));
    let mut fit = all.filter(|domain| colour(&ticket(), domain).index() == ticket().code().slots());
    fit.next().expect("one of a hundred")
}

fn a_steward() -> Steward {
    let (watch, budget) = (Watch::new(Timers::default()), Budget::new(Limits::default(), 10 << 20, NOW));
    Steward::new(key(), own_domain(), Rhythm::default(), watch, budget)
}

/// One peer: its continent, its network, no subnet.
fn places() -> Vec<u8> {
    [&[1, 1][..], &[7; 32], &[1, 2, b'E', b'U', 5], &[1, 7, 5], &[0]].concat()
}

fn resume_places(bytes: &[u8]) {
    for now in [NOW, Timestamp(0), Timestamp(u64::MAX)] {
        let mut steward = a_steward();
        if steward.resume_places(bytes, now).is_err() {
            continue;
        }
        let kept = steward.encode_places();
        assert!(kept.len() <= bytes.len());
        assert_eq!(a_steward().resume_places(&kept, now), Ok(()));
    }
}

/// One word of a new holder's, and one slot of which it is not known who lies.
fn suspects() -> Vec<u8> {
    let word = [&[1, 1][..], &[7; 32], &[8; 32], &[9; 16], &[3; 32], &[5, 1]].concat();
    let among = [&[1][..], &[4; 32], &[2, 5, 0, 1, 3], &[8; 32], &[1], &[7; 32]].concat();
    [word, among].concat()
}

fn resume_suspects(bytes: &[u8]) {
    for now in [NOW, Timestamp(0), Timestamp(u64::MAX)] {
        let mut steward = a_steward();
        if steward.resume_suspects(bytes, now).is_err() {
            continue;
        }
        let kept = steward.encode_suspects();
        assert!(kept.len() <= bytes.len() + 64);
        assert_eq!(a_steward().resume_suspects(&kept, now), Ok(()));
        let _ =
            (steward.newly_suspected(), steward.suspects_changed(), steward.suspicion(&PeerKey::from_bytes([8; 32])));
    }
}

/// A group that was just taken up; and one that was repaired and has an order under way.
static STATES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let mut steward = a_steward();
    let group = ticket().id();
    steward.adopt(GroupRecord::decode(&record()).expect("ours"), &[], peer(&key()), NOW).expect("named");
    let fresh = steward.encode_group(&group).expect("watched");
    let holder = PeerKey::from_bytes([1; 32]);
    steward.reported(holder, group, slot(0), &cairn_proto::Ordinals::default(), NOW);
    let certified = |nonce: u8, to: PeerKey| {
        let from = PeerKey::from_bytes([9; 32]);
        let action = Action::Copy { slot: slot(1), from, to, ordinals: [3].into_iter().collect() };
        let order = Order { nonce: [nonce; 16], ..an_order(action) };
        let vote = (peer(&key()), order.sign(&key()).expect("valid"));
        Certificate::new(order, [vote])
    };
    let done = certified(1, peer(&key()));
    let sealed = Taken { order: done.order.id().expect("valid"), ..Taken::open(&taken()).expect("ours") }.seal(&key());
    steward.told(peer(&key()), Say::Taken { certificate: done, sealed }, NOW, &[]);
    steward.told(peer(&key()), Say::Certified { certificate: certified(2, holder) }, NOW, &[]);
    let busy = steward.encode_group(&group).expect("watched");
    let [own, spare] = booklets().map(Some);
    steward.told(peer(&key()), Say::Tokens { group, own, spare }, NOW, &[]);
    vec![fresh, busy, steward.encode_group(&group).expect("watched")]
});

/// Whatever is resumed is a state: it can be asked, goes on with any clock, and is written as what it is.
fn resume(bytes: &[u8]) {
    let mut steward = a_steward();
    let Ok(group) = steward.resume(bytes, NOW) else { return };
    assert!(bytes.len() <= Steward::STATE_MAX);
    let first = steward.encode_group(&group).expect("watched");
    // Of a state of before there were tokens, four bytes more: that there are none.
    assert!(first.len() <= bytes.len() + if bytes[0] == 2 { 4 } else { 0 });
    assert_eq!(steward.resume(&first, NOW), Ok(group));
    assert_eq!(steward.encode_group(&group), Some(first));
    assert!(steward.map_for_owner(&group).is_some());
    let mut rng = rand_chacha::ChaCha8Rng::from_seed([1; 32]);
    for now in [NOW, Timestamp(999_999), Timestamp(0), Timestamp(u64::MAX)] {
        let _ = (steward.report(&group, now), steward.inventory_due(now, 100), steward.concerned());
        assert!(steward.audits_due(now, &[], 100).is_empty(), "of nobody");
        let questions = steward.tokens_due(now, 100, 1000);
        questions.iter().for_each(|question| steward.token_unasked(question));
        steward.tick(now, &[], &mut rng);
        while steward.poll().is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The second seed has what there is to damage, or the target attacks nothing.
    #[test]
    fn the_seed_of_a_state_has_entries_orders_and_lacks() {
        let mut steward = a_steward();
        let group = steward.resume(&STATES[1], NOW).expect("ours");
        let report = steward.report(&group, NOW).expect("watched");
        assert_eq!((report.under_way, report.log.len()), (1, 4), "{report:?}");
        assert_eq!(steward.map_for_owner(&group).expect("watched").entries.len(), 1);
        assert_eq!(steward.resume_places(&places(), NOW), Ok(()));
        assert_eq!(steward.encode_places(), places());
    }
}
