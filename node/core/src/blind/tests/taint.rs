//! SEP-1 by algebra: what a coalition can compute from everything that it gets.
//!
//! Every message is a row of coefficients over symbols: one for each mask, one for each real data shard. Rows come from
//! [`Part`], which the parties are made from too; `real_messages_are_these_rows` holds them against real bytes. What a
//! coalition learns is what its messages, its own shards and its own masks span, cut with the space that has no mask in it:
//! Gaussian elimination with the masks' columns first leaves just that.

use std::collections::BTreeSet;

use proptest::prelude::*;
use reed_solomon_erasure::galois_8::{div, mul};

use super::*;
use crate::blind::masks::{Masks, Pair, Part};

type Row = Vec<u8>;
/// What a party adds, by a protocol: the real one is [`Part::of`].
type Protocol = fn(&Session, Slot) -> Part;

fn pairwise(session: &Session, slot: Slot) -> Part {
    Part::of(session, slot).expect("a party")
}

/// The seed idea of others: one mask, from the new holder to the first of the chain.
fn one_mask(session: &Session, slot: Slot) -> Part {
    let only = Pair::new(session.links()[0].slot, session.lost());
    let coefficient = pairwise(session, slot).coefficient;
    Part { coefficient, pairs: Some(only).filter(|pair| pair.has(slot)).into_iter().collect() }
}

fn no_mask(session: &Session, slot: Slot) -> Part {
    Part { pairs: Vec::new(), ..pairwise(session, slot) }
}

/// Reduced row echelon form, without rows of zeros.
fn reduce(mut rows: Vec<Row>) -> Vec<Row> {
    let width = rows.first().map_or(0, Vec::len);
    let mut done = 0;
    for column in 0..width {
        let Some(found) = (done..rows.len()).find(|row| rows[*row][column] != 0) else { continue };
        rows.swap(done, found);
        let factor = div(1, rows[done][column]);
        rows[done].iter_mut().for_each(|c| *c = mul(*c, factor));
        let pivot = rows[done].clone();
        for (at, row) in rows.iter_mut().enumerate() {
            let factor = row[column];
            if at != done && factor != 0 {
                row.iter_mut().zip(&pivot).for_each(|(c, p)| *c ^= mul(factor, *p));
            }
        }
        done += 1;
    }
    rows.truncate(done);
    rows
}

fn pivot(row: &Row) -> usize {
    row.iter().position(|c| *c != 0).unwrap_or(row.len())
}

/// What sessions that may share masks are told in: sessions with one `run` number have the masks in common.
pub(super) struct Symbols<'a> {
    codec: &'a Codec,
    used: usize,
    masks: Vec<(u8, Pair)>,
    sessions: Vec<(u8, &'a Session)>,
    protocol: Protocol,
}

impl<'a> Symbols<'a> {
    pub(super) fn new(codec: &'a Codec, sessions: &[(u8, &'a Session)]) -> Self {
        let mut masks = BTreeSet::new();
        for (run, session) in sessions {
            let parties: Vec<Slot> = session.parties().map(|(slot, _)| slot).collect();
            for (at, one) in parties.iter().enumerate() {
                masks.extend(parties[..at].iter().map(|other| (*run, Pair::new(*one, *other))));
            }
        }
        let used = sessions[0].1.used().into();
        let (masks, sessions) = (masks.into_iter().collect(), sessions.to_vec());
        Self { codec, used, masks, sessions, protocol: pairwise }
    }

    fn under(self, protocol: Protocol) -> Self {
        Self { protocol, ..self }
    }

    fn shard(&self, slot: Slot) -> Row {
        let mut row = vec![0; self.masks.len()];
        row.extend_from_slice(&self.codec.row(slot)[..self.used]);
        row
    }

    fn mask(&self, run: u8, pair: Pair) -> Row {
        let mut row = vec![0; self.masks.len() + self.used];
        row[self.masks.iter().position(|mask| *mask == (run, pair)).expect("a mask of the session")] = 1;
        row
    }

    /// What each helper sends on: the sum of the parts so far.
    fn messages(&self, run: u8, session: &Session) -> Vec<Row> {
        let mut sum = vec![0; self.masks.len() + self.used];
        let links = session.links().iter().map(|link| {
            let part = (self.protocol)(session, link.slot);
            let coefficient = part.coefficient.expect("a helper");
            let masks = part.pairs.iter().map(|pair| (1, self.mask(run, *pair)));
            for (factor, row) in masks.chain([(coefficient, self.shard(link.slot))]) {
                sum.iter_mut().zip(row).for_each(|(s, c)| *s ^= mul(factor, c));
            }
            sum.clone()
        });
        links.collect()
    }

    /// All messages that one of them sends or receives, the masks that they know, and their shards.
    fn view(&self, coalition: &BTreeSet<Slot>) -> Vec<Row> {
        let mut view: Vec<Row> = self.own(coalition);
        for (run, session) in &self.sessions {
            let stations: Vec<Slot> = session.parties().map(|(slot, _)| slot).collect();
            for (hop, message) in stations.windows(2).zip(self.messages(*run, session)) {
                if hop.iter().any(|slot| coalition.contains(slot)) {
                    view.push(message);
                }
            }
        }
        let known = self.masks.iter().filter(|(_, pair)| coalition.iter().any(|slot| pair.has(*slot)));
        view.extend(known.map(|(run, pair)| self.mask(*run, *pair)));
        view
    }

    /// The shards that they have before.
    fn own(&self, coalition: &BTreeSet<Slot>) -> Vec<Row> {
        let new = |slot: &Slot| self.sessions.iter().any(|(_, session)| session.lost() == *slot);
        coalition.iter().filter(|slot| !new(slot)).map(|slot| self.shard(*slot)).collect()
    }

    /// The shards that they may know afterwards: with the new holder among them, its own too.
    fn allowed(&self, coalition: &BTreeSet<Slot>) -> Vec<Row> {
        coalition.iter().map(|slot| self.shard(*slot)).collect()
    }

    /// What the coalition learns beyond what it may: `None` when it is exactly that. The new holder's shard must come
    /// out too, or the proof would be of a protocol that does nothing.
    pub(super) fn leak(&self, coalition: &BTreeSet<Slot>) -> Option<Vec<Row>> {
        let learned: Vec<Row> =
            reduce(self.view(coalition)).into_iter().filter(|row| pivot(row) >= self.masks.len()).collect();
        let allowed = reduce(self.allowed(coalition));
        let both = reduce([learned.clone(), allowed.clone()].concat());
        assert_eq!(both.len(), learned.len(), "the shards that they may know are among what they learn");
        (both.len() > allowed.len()).then_some(learned)
    }
}

pub(super) fn coalition(members: &[usize]) -> BTreeSet<Slot> {
    slots(members).into_iter().collect()
}

/// Every coalition of every session of 5+3, short stripes too: helpers alone learn nothing, with the new holder just the
/// lost shard.
#[test]
fn no_coalition_of_5_3_learns_a_foreign_shard() {
    let codec = Codec::new(CodeParams::DEFAULT);
    let mut tried = 0;
    for used in 1..=5 {
        for lost in real(&codec, used) {
            let others: Vec<Slot> = real(&codec, used).into_iter().filter(|slot| *slot != lost).collect();
            for mut helpers in choices(&others, used) {
                helpers.rotate_left(tried % used);
                let session = fake(&codec, used, lost, &helpers);
                let symbols = Symbols::new(&codec, &[(0, &session)]);
                let parties: Vec<Slot> = session.parties().map(|(slot, _)| slot).collect();
                for size in 1..=parties.len() {
                    for members in choices(&parties, size) {
                        tried += 1;
                        let leak = symbols.leak(&members.iter().copied().collect());
                        assert_eq!(leak, None, "lost {lost} by {helpers:?}: {members:?}");
                    }
                }
            }
        }
    }
    assert!(tried > 168 * 63, "{tried}");
}

/// Every pair of parties, and coalitions of chance, in sessions of chance of 10+10.
#[test]
fn no_pair_of_10_10_learns_a_foreign_shard() {
    const SEED: u64 = 0x5eed_7a17;
    println!("SEED={SEED:#x}");
    let mut chance = ChaCha8Rng::seed_from_u64(SEED);
    let codec = Codec::new(CodeParams::new(10, 10).expect("valid"));
    for used in [10, 10, 10, 10, 7] {
        let mut helpers = sample(&real(&codec, used), used + 1, &mut chance);
        let lost = helpers.pop().expect("one more");
        let session = fake(&codec, used, lost, &helpers);
        let symbols = Symbols::new(&codec, &[(0, &session)]);
        let parties: Vec<Slot> = session.parties().map(|(slot, _)| slot).collect();
        let mut coalitions = choices(&parties, 1);
        coalitions.extend(choices(&parties, 2));
        for _ in 0..40 {
            let size = 3 + chance.next_u32() as usize % (parties.len() - 3);
            coalitions.push(sample(&parties, size, &mut chance));
        }
        for members in coalitions {
            assert_eq!(
                symbols.leak(&members.iter().copied().collect()),
                None,
                "lost {lost} by {helpers:?}: {members:?}"
            );
        }
    }
}

/// The test can fail: without masks a single helper learns its predecessor's shard; with one mask only, whoever stand on both
/// sides of a helper do, and the second of the chain with the new holder.
#[test]
fn weaker_protocols_fail_the_same_test() {
    let codec = Codec::new(CodeParams::DEFAULT);
    let session = fake(&codec, 5, slot(7), &slots(&[0, 1, 2, 3, 4]));
    let symbols = |protocol| Symbols::new(&codec, &[(0, &session)]).under(protocol);
    let bare = symbols(no_mask);
    assert!(bare.leak(&coalition(&[1])).is_some(), "the second sees c S_0");
    assert_eq!(bare.leak(&coalition(&[0])), None, "the first sees nothing at all");

    let single = symbols(one_mask);
    for party in [0, 1, 2, 3, 4, 7] {
        assert_eq!(single.leak(&coalition(&[party])), None, "{party} alone");
    }
    for (one, other, between) in [(0, 2, 1), (1, 3, 2), (2, 4, 3), (3, 7, 4), (1, 7, 0)] {
        let learned = single.leak(&coalition(&[one, other])).expect("leaks");
        let with = reduce([learned.clone(), vec![single.shard(slot(between))]].concat());
        assert_eq!(with.len(), learned.len(), "{one} and {other} learn the shard of {between}");
        assert_eq!(symbols(pairwise).leak(&coalition(&[one, other])), None);
    }
    for helper in [2, 3] {
        assert!(single.leak(&coalition(&[helper, 7])).is_some(), "a prefix sum, for {helper} and the new holder");
    }
}

/// One mask left out, between two helpers with another one between them, and all others together see a shard.
#[test]
fn one_mask_less_is_noticed() {
    fn without_2_3(session: &Session, slot: Slot) -> Part {
        let mut part = pairwise(session, slot);
        part.pairs.retain(|pair| *pair != Pair::new(super::slot(2), super::slot(3)));
        part
    }
    let codec = Codec::new(CodeParams::DEFAULT);
    let session = fake(&codec, 5, slot(7), &slots(&[0, 2, 1, 3, 4]));
    let symbols = Symbols::new(&codec, &[(0, &session)]).under(without_2_3);
    assert!(symbols.leak(&coalition(&[0, 1, 4, 7])).is_some(), "all but the two, one of them between the two");
    assert_eq!(Symbols::new(&codec, &[(0, &session)]).leak(&coalition(&[0, 1, 4, 7])), None);
}

/// A session whose keys nobody has: for algebra only.
fn fake(codec: &Codec, used: usize, lost: Slot, helpers: &[Slot]) -> Session {
    let key = |slot: Slot| EphemeralKey::from_bytes([slot.as_u8() + 1; 32]).expect("canonical");
    let order = Order {
        group: cairn_proto::GroupId::from_bytes([0; 32]),
        ordinal: 0,
        used: used as u8,
        lost,
        attempt: 0,
        nonce: [0; 32],
        new_holder: key(lost),
        helpers: helpers.iter().map(|slot| (*slot, key(*slot))).collect(),
    };
    Session::plan(codec, order).expect("a session")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    /// For any other value of the foreign shards there are masks that give the coalition the very same view: solved for, and
    /// put in.
    #[test]
    fn every_other_world_looks_the_same(
        data in 1u8..11, parity in 1u8..11, short in 0usize..10, seed: u64, size in 1usize..6,
    ) {
        let codec = Codec::new(CodeParams::new(data, parity)?);
        let used = usize::from(data) - short % usize::from(data);
        let mut chance = ChaCha8Rng::seed_from_u64(seed);
        let mut helpers = sample(&real(&codec, used), used + 1, &mut chance);
        let lost = helpers.pop().expect("one more");
        let session = fake(&codec, used, lost, &helpers);
        let symbols = Symbols::new(&codec, &[(0, &session)]);
        let parties: Vec<Slot> = session.parties().map(|(slot, _)| slot).collect();
        let members: BTreeSet<Slot> = sample(&parties, size.min(parties.len()), &mut chance).into_iter().collect();

        // Another stripe with the same shards where the coalition may know them.
        let known: Vec<Row> =
            reduce(symbols.allowed(&members).into_iter().map(|row| row[symbols.masks.len()..].to_vec()).collect());
        let mut change = vec![0; used];
        let free: Vec<usize> = (0..used).filter(|c| known.iter().all(|row| pivot(row) != *c)).collect();
        free.iter().for_each(|c| change[*c] = (chance.next_u32() % 255 + 1) as u8);
        for row in &known {
            change[pivot(row)] = free.iter().fold(0, |sum, c| sum ^ mul(row[*c], change[*c]));
        }
        prop_assert!(free.is_empty() == (known.len() == used));

        // Masks that only others know, so that no message changes.
        let hidden: Vec<usize> = (0..symbols.masks.len())
            .filter(|at| members.iter().all(|slot| !symbols.masks[*at].1.has(*slot)))
            .collect();
        let view = symbols.view(&members);
        let product = |row: &Row| {
            row[symbols.masks.len()..].iter().zip(&change).fold(0, |sum, (a, b)| sum ^ mul(*a, *b))
        };
        let equations = view.iter().map(|row| {
            hidden.iter().map(|at| row[*at]).chain([product(row)]).collect::<Row>()
        });
        let solved = reduce(equations.collect());
        let mut world = vec![0; symbols.masks.len()];
        for row in &solved {
            prop_assert!(pivot(row) < hidden.len(), "no masks hide this world from {:?}", members);
            world[hidden[pivot(row)]] = row[hidden.len()];
        }
        world.extend_from_slice(&change);
        for row in &view {
            prop_assert_eq!(row.iter().zip(&world).fold(0, |sum, (a, b)| sum ^ mul(*a, *b)), 0);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    /// What the parties really send is what the rows say, with the masks and shards put in.
    #[test]
    fn real_messages_are_these_rows(used in 1usize..6, seed: u64) {
        let stripe = Stripe::new(CodeParams::DEFAULT, used, SLICE_SIZE);
        let mut helpers = sample(&stripe.real(), used + 1, &mut ChaCha8Rng::seed_from_u64(seed));
        let lost = helpers.pop().expect("one more");
        let session = plan(&stripe.codec, used, lost, &helpers, seed);
        let symbols = Symbols::new(&stripe.codec, &[(0, &session)]);
        let mut values = vec![vec![0; SLICE_SIZE]; symbols.masks.len()];
        for (party, _) in session.parties() {
            let masks = Masks::agree(&session, &session.id(), party, &secret(seed, party)).expect("agrees");
            for (seed, pair) in masks.seeds().iter().zip(pairwise(&session, party).pairs) {
                let mut mask = vec![0; SLICE_SIZE];
                seed.mask(0, &mut mask);
                let value = &mut values[symbols.masks.iter().position(|(_, other)| *other == pair).expect("a mask")];
                prop_assert!(value.iter().all(|byte| *byte == 0) || *value == mask, "both have the same mask");
                *value = mask;
            }
        }
        values.extend((0..used).map(|index| stripe.shard(slot(index)).to_vec()));
        let mut parties = Parties::new(&stripe.codec, &session, seed, ShardRoot::from_bytes([0; 32]));
        let sent = parties.run(&stripe, 0, |_, _| {});
        for (row, message) in symbols.messages(0, &session).iter().zip(sent) {
            let mut expected = vec![0; SLICE_SIZE];
            for (coefficient, value) in row.iter().zip(&values) {
                reed_solomon_erasure::galois_8::mul_slice_xor(*coefficient, value, &mut expected);
            }
            prop_assert!(expected == message);
        }
    }
}
