use proptest::prelude::*;

use super::{
    chain::{loss_rate, loss_within},
    classic::{self, Verdict},
    measured::{Observed, churn_of_departures, departures_of_churn, rate_at_most},
    survival::{binomial, fewer_than, fewer_than_of, shock_loss, unavailable, unrepaired_loss},
    *,
};

const fn shape(k: u8, m: u8, r: u8) -> Shape {
    Shape { k, m, r }
}

/// Equal to the digits that a table shows.
fn near(got: f64, table: f64) -> bool {
    (got / table - 1.0).abs() < 0.06
}

/// To the one digit that a table shows of the very small.
fn of_the_order(got: f64, table: f64) -> bool {
    (0.5..2.0).contains(&(got / table))
}

/// Another way to the same figures: the mean time to loss from the chain's linear equations, by Gaussian elimination, which is
/// good enough while losses are not rare.
fn mean_days_to_loss(n: u32, m: u32, death: f64, repair_days: f64) -> f64 {
    // t[d]: mean time to loss with d slots dead. (out) t[d] = 1 + up t[d+1] + down t[d-1], t[m+1] = 0.
    let size = m as usize + 1;
    let mut rows = vec![vec![0.0; size + 1]; size];
    for (d, row) in rows.iter_mut().enumerate() {
        let (up, down) = (f64::from(n - d as u32) * death, d as f64 / repair_days);
        row[d] = up + down;
        if d + 1 < size {
            row[d + 1] = -up;
        }
        if d > 0 {
            row[d - 1] = -down;
        }
        row[size] = 1.0;
    }
    for pivot in 0..size {
        let (above, below) = rows.split_at_mut(pivot + 1);
        let pivot_row = &above[pivot];
        for row in below {
            let factor = row[pivot] / pivot_row[pivot];
            row.iter_mut().zip(pivot_row).for_each(|(cell, by)| *cell -= factor * by);
        }
    }
    let mut time = vec![0.0; size];
    for d in (0..size).rev() {
        let known: f64 = (d + 1..size).map(|e| rows[d][e] * time[e]).sum();
        time[d] = (rows[d][size] - known) / rows[d][d];
    }
    time[0]
}

/// Table A: a stripe at a random instant.
#[test]
fn instant_availability_is_the_binomial_tail() {
    for (shape, online, table) in [
        (shape(5, 3, 1), 0.5, 6.4e-1),
        (shape(5, 3, 1), 0.7, 1.9e-1),
        (shape(5, 3, 1), 0.9, 5.0e-3),
        (shape(5, 3, 1), 0.99, 6.8e-7),
        (shape(5, 3, 2), 0.7, 3.4e-3),
        (shape(5, 3, 2), 0.95, 2.7e-9),
        (shape(5, 3, 4), 0.5, 8.7e-4),
        (shape(5, 11, 1), 0.9, 1.2e-9),
        (shape(10, 10, 1), 0.9, 7.1e-7),
    ] {
        assert!(near(unavailable(shape, online), table), "{shape} at {online}: {}", unavailable(shape, online));
    }
    assert!(of_the_order(unavailable(shape(29, 51, 1), 0.9), 2e-32), "no digits are lost in the very small");
    assert_eq!(unavailable(shape(5, 3, 1), 1.0), 0.0);
    assert_eq!(unavailable(shape(5, 3, 1), 0.0), 1.0);
}

/// Table B: loss within a year, with repair.
#[test]
fn the_chain_makes_the_table_of_losses() {
    for (churn, days, shape, table) in [
        (0.05, 1.0, shape(5, 3, 1), 8.1e-7),
        (0.05, 7.0, shape(5, 3, 1), 2.5e-4),
        (0.05, 14.0, shape(5, 3, 2), 1.2e-9),
        (0.20, 1.0, shape(5, 3, 1), 2.8e-4),
        (0.20, 3.0, shape(5, 3, 1), 6.4e-3),
        (0.20, 3.0, shape(5, 3, 2), 3.1e-9),
        (0.20, 7.0, shape(5, 3, 1), 6.0e-2),
        (0.20, 7.0, shape(5, 3, 2), 9.2e-7),
        (0.20, 7.0, shape(5, 5, 1), 6.9e-4),
        (0.50, 1.0, shape(5, 3, 2), 1.2e-8),
        (0.50, 7.0, shape(5, 3, 1), 8.8e-1),
        (0.50, 7.0, shape(5, 3, 2), 3.3e-3),
        (0.50, 7.0, shape(5, 5, 1), 1.8e-1),
    ] {
        let loss = loss_within(shape, departures_of_churn(churn), days, YEAR_DAYS);
        assert!(near(loss, table), "{shape}, {churn} a month, {days} days: {loss:e}, not {table:e}");
    }
    for (churn, days, shape, table) in [
        (0.05, 1.0, shape(5, 3, 2), 1e-17),
        (0.05, 1.0, shape(5, 11, 1), 4e-27),
        (0.20, 3.0, shape(5, 3, 3), 1e-15),
        (0.50, 7.0, shape(5, 3, 3), 2e-6),
        (0.50, 7.0, shape(10, 10, 1), 7e-3),
    ] {
        let loss = loss_within(shape, departures_of_churn(churn), days, YEAR_DAYS);
        assert!(of_the_order(loss, table), "{shape}, {churn} a month, {days} days: {loss:e}, not {table:e}");
    }
}

#[test]
fn the_chain_agrees_with_linear_equations_and_with_the_closed_form() {
    for (m, churn, days) in [(3, 0.2, 7.0), (3, 0.5, 3.0), (5, 0.5, 7.0), (1, 0.05, 1.0)] {
        let (shape, death) = (shape(5, m, 1), departures_of_churn(churn));
        let other = mean_days_to_loss(shape.slots(), m.into(), death, days);
        assert!((loss_rate(shape, death, days) * other - 1.0).abs() < 1e-6, "{shape} {churn} {days}");
    }
    // More slots than a byte counts.
    let (large, death) = (shape(240, 30, 1), departures_of_churn(0.5));
    let other = mean_days_to_loss(large.slots(), 30, death, 3.0);
    assert!((loss_rate(large, death, 3.0) * other - 1.0).abs() < 1e-6, "{} and {other}", loss_rate(large, death, 3.0));
    // n λ P[Bin(n - 1, 1 - e^-λθ) >= m]: a death while m others are already missing; good to tens of per cent.
    let (death, days) = (departures_of_churn(0.05), 1.0);
    let missing = -f64::exp_m1(-death * days);
    let closed = 8.0 * death * fewer_than(5, 7, missing);
    let ratio = loss_rate(shape(5, 3, 1), death, days) / closed;
    assert!((0.6..1.6).contains(&ratio), "{ratio}");
    assert_eq!(loss_rate(shape(5, 3, 2), 0.0, 3.0), 0.0, "nobody leaves");
}

#[test]
fn what_no_group_has_is_refused_and_not_reckoned_wrong() {
    let (question, measured) = (Question::new(Sla::Gold, 1 << 40), Measured::assumed(100));
    let ask = |k, m, r| evaluate(shape(k, m, r), &question, &measured);
    for (k, m, r) in [(200, 56, 1), (255, 255, 1), (5, 28, 1), (0, 3, 1), (0, 0, 0), (5, 3, 0), (5, 3, 4), (1, 255, 3)]
    {
        assert_eq!(ask(k, m, r), Err(NoShape(shape(k, m, r))), "RS({k},{m}) x {r}");
    }
    for (k, m, r) in [(5, 3, 1), (5, 27, 1), (1, 31, 1), (1, 0, 1), (5, 3, 3)] {
        let loss = ask(k, m, r).expect("a shape").loss();
        assert!((0.0..=1.0).contains(&loss), "RS({k},{m}) x {r}: {loss}");
    }
    assert!(ask(5, 27, 1).expect("a shape").loss() < ask(5, 3, 1).expect("a shape").loss());
}

/// 2.4: months without repair.
#[test]
fn without_repair_a_backup_lives_for_weeks() {
    for (churn, shape, months, loss) in [
        (0.0066, shape(5, 3, 1), 5.5, 1e-4),
        (0.0066, shape(5, 3, 2), 31.6, 1e-4),
        (0.05, shape(5, 3, 1), 2.5, 1e-2),
        (0.05, shape(5, 3, 2), 4.1, 1e-4),
        (0.05, shape(10, 10, 1), 6.4, 1e-2),
        (0.20, shape(5, 3, 3), 3.1, 1e-2),
    ] {
        let before = unrepaired_loss(shape, departures_of_churn(churn), 0.93 * months * MONTH_DAYS);
        let after = unrepaired_loss(shape, departures_of_churn(churn), 1.07 * months * MONTH_DAYS);
        assert!(before < loss && after > loss, "{shape} at {churn}: {before:e} {after:e}");
    }
}

/// 2.5, and the common shock of 2.6.
#[test]
fn traffic_and_shocks_are_as_in_the_tables() {
    for (churn, shape, table) in [
        (0.05, shape(5, 3, 1), 0.41),
        (0.05, shape(5, 3, 2), 0.16),
        (0.05, shape(5, 3, 3), 0.25),
        (0.20, shape(5, 11, 1), 3.57),
        (0.20, shape(10, 10, 1), 4.46),
        (0.50, shape(5, 3, 2), 2.22),
    ] {
        let measured = Measured { departures_a_day: departures_of_churn(churn), ..Measured::assumed(100) };
        assert!(near(traffic(shape, &measured), table), "{shape} at {churn}");
        let alarms = Measured { false_alarms_a_day: measured.departures_a_day, ..measured };
        assert!(
            (traffic(shape, &alarms) / traffic(shape, &measured) - 2.0).abs() < 1e-9,
            "a false alarm costs the same"
        );
    }
    for (share, shape, table) in [
        (0.05, shape(5, 3, 1), 3.7e-4),
        (0.10, shape(5, 3, 1), 5.0e-3),
        (0.10, shape(5, 3, 2), 6.8e-7),
        (0.20, shape(5, 3, 2), 1.6e-4),
        (0.30, shape(5, 5, 1), 4.7e-2),
    ] {
        assert!(near(shock_loss(shape, share), table), "{shape} when {share} die");
    }
}

/// Table C: the cheapest shape for a terabyte, five data shards, independent losses alone.
#[test]
fn the_solver_finds_the_table_of_answers() {
    let ask = |sla, churn, days, share: f64| {
        let measured = Measured {
            departures_a_day: departures_of_churn(churn),
            repair_days: days,
            online_within: 1.0,
            shocks_a_year: if share > 0.0 { 0.1 } else { 0.0 },
            shock_share: share,
            ..Measured::assumed(1000)
        };
        let solution = solve(&Question::new(sla, 1_000_000_000_000), &measured).expect("feasible");
        assert!(solution.loss() <= sla.miss());
        (solution.shape.m, solution.shape.r)
    };
    use Sla::{Bronze, Gold, Platinum, Silver};
    for (churn, days, answers) in [
        (0.0066, 1.0, [(3, 1), (3, 1), (3, 1), (4, 1)]),
        (0.0066, 7.0, [(4, 1), (4, 1), (4, 1), (5, 1)]),
        (0.05, 1.0, [(4, 1), (4, 1), (5, 1), (5, 1)]),
        (0.05, 3.0, [(5, 1), (5, 1), (6, 1), (6, 1)]),
        (0.05, 7.0, [(6, 1), (6, 1), (7, 1), (8, 1)]),
        (0.20, 1.0, [(2, 2), (3, 2), (3, 2), (3, 2)]),
        (0.20, 7.0, [(4, 2), (4, 2), (5, 2), (5, 2)]),
        (0.50, 3.0, [(5, 2), (5, 2), (6, 2), (6, 2)]),
    ] {
        let found = [Bronze, Silver, Gold, Platinum].map(|sla| ask(sla, churn, days, 0.0));
        assert_eq!(found, answers, "{churn} a month, {days} days");
    }
    assert_eq!(ask(Platinum, 0.05, 1.0, 0.1), (7, 1), "a shock of a tenth");
    assert_eq!(ask(Platinum, 0.05, 1.0, 0.2), (11, 1), "a shock of a fifth");
    assert_eq!(ask(Platinum, 0.20, 1.0, 0.2), (5, 2));
}

#[test]
fn what_cannot_be_kept_says_what_is_missing() {
    let question = Question::new(Sla::Platinum, 1_000_000_000_000);
    let few = solve(&question, &Measured::assumed(12)).expect_err("twelve domains are too few");
    let best = few.best.expect("RS(5,3) x 1 fits twelve domains");
    assert_eq!(best.shape, shape(5, 3, 1));
    let need = few.missing.iter().find_map(|m| match m {
        Missing::Domains { have: 12, need } => Some(*need),
        _ => None,
    });
    let need = need.expect("more domains would do");
    assert!(solve(&question, &Measured::assumed(need)).is_ok() && need > 12);
    let slow = Measured { repair_days: 400.0, ..Measured::assumed(30) };
    let slow = solve(&question, &slow).expect_err("repair takes more than a year");
    assert!(slow.missing.iter().any(|m| matches!(m, Missing::RepairDays { need, .. } if *need < 400.0)), "{slow:?}");
    let tight = Question { traffic_max: Some(0.01), ..question };
    let tight = solve(&tight, &Measured::assumed(200)).expect_err("no traffic allowed");
    assert!(tight.missing.iter().any(|m| matches!(m, Missing::Traffic { need, .. } if *need > 0.01)), "{tight:?}");
    let none = solve(&question, &Measured::assumed(3)).expect_err("three domains hold no stripe");
    assert_eq!(none.best, None);
}

#[test]
fn the_classic_formulas_are_told_for_what_they_are() {
    assert_eq!(classic::copies(Sla::Gold, 0.01), Some(2), "not 5, and not the 3 of careless floating point");
    assert_eq!(classic::copies(Sla::Gold, 0.1), Some(4));
    assert_eq!(classic::copies(Sla::Platinum, 0.1), Some(5));
    assert_eq!(classic::copies(Sla::Gold, 0.0), None);
    assert_eq!(classic::copies(Sla::Gold, 1.0), None);
    assert_eq!(classic::dynamic(5, 0.2, 20), 77, "on twenty peers");
    assert_eq!(classic::dynamic(5, 0.0, 1000), 7);
    assert_eq!(Verdict::of(77, 20, 0.0, 77.0, Sla::Gold, None), Verdict::CannotBePlaced);
    assert_eq!(Verdict::of(2, 20, 0.5, 2.0, Sla::Gold, Some(2.0)), Verdict::TooWeak);
    assert_eq!(Verdict::of(7, 20, 0.0, 7.0, Sla::Gold, Some(3.0)), Verdict::Dearer);
    assert_eq!(Verdict::of(2, 20, 0.0, 2.0, Sla::Gold, Some(3.0)), Verdict::WouldDo);
}

#[test]
fn little_evidence_is_an_upper_bound_far_off() {
    // χ²(0.95; 2)/2 = 2.9957, χ²(0.95; 22)/2 = 16.962, χ²(0.95; 202)/2 = 118.0
    for (events, quantile) in [(0, 2.9957), (10, 16.962), (100, 118.0)] {
        assert!((rate_at_most(events, 1000.0) * 1000.0 / quantile - 1.0).abs() < 1e-3, "{events}");
    }
    assert!((rate_at_most(5000, 1.0) / 5000.0) < 1.03, "much evidence is sharp");
    assert_eq!(rate_at_most(0, 0.0), f64::INFINITY);
    assert!((churn_of_departures(departures_of_churn(0.05)) - 0.05).abs() < 1e-12);
}

/// One that stores, known from one time to another.
pub(super) fn storing_peer(
    i: u8,
    first_seen: cairn_proto::Timestamp,
    last_heard: cairn_proto::Timestamp,
) -> crate::peer_view::PeerView {
    use cairn_proto::{ByteSize, Domain, PROTOCOL_VERSION, PeerKey, Region, message::Roles};
    crate::peer_view::PeerView {
        peer: PeerKey::from_bytes([i; 32]),
        domain: Domain::of_peer(&PeerKey::from_bytes([i; 32])),
        subnet: None,
        subnet_seen: false,
        region: Region::unknown(),
        region_basis: crate::region::Basis::Declared,
        network: None,
        roles: Roles::STORAGE,
        protocol: PROTOCOL_VERSION,
        give: ByteSize(1 << 30),
        free: ByteSize(1 << 30),
        first_seen,
        last_heard,
        reachable: None,
        rtt_ms: None,
        loss: 0,
        reputation: 800,
        newcomer: false,
    }
}

/// Who was away for a week takes nobody for gone; whom everybody else outlived is.
#[test]
fn what_was_seen_of_peers() {
    use cairn_proto::Timestamp;
    const DAY: u64 = 24 * 3600 * 1000;
    let peer = |i: u8, first: u64, last: u64| storing_peer(i, Timestamp(first * DAY), Timestamp(last * DAY));
    let peers = [peer(1, 0, 100), peer(2, 0, 98), peer(3, 50, 60), peer(4, 100, 100)];
    let seen = Observed::of(&peers, Timestamp(100 * DAY));
    assert_eq!(seen, Observed { peer_days: 208.0, departures: 1, known: 2, heard: 1 });
    assert_eq!(Observed::of(&peers, Timestamp(130 * DAY)), seen, "a month switched off");
    assert_eq!(seen.departures_at_most(), None, "too little to tell");
    assert_eq!(seen.online_within_a_day(2), Some(0.25));
    assert_eq!(seen.online_within_a_day(3), None);
    let much = Observed { peer_days: 1000.0, ..Observed::default() };
    assert!(much.departures_at_most().is_some_and(|rate| (rate - 0.003).abs() < 1e-5));
    assert_eq!(Observed::of(&[], Timestamp(0)), Observed::default());
}

#[test]
fn names_of_promises() {
    assert_eq!("Gold".parse(), Ok(Sla::Gold));
    assert_eq!("diamond".parse::<Sla>(), Err(UnknownSla));
    assert!(Sla::ALL.windows(2).all(|pair| pair[0] < pair[1] && pair[0].miss() > pair[1].miss()));
    for sla in Sla::ALL {
        assert_eq!(sla.to_string().parse(), Ok(sla));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// With equal chances both ways to reckon are the same.
    #[test]
    fn poisson_binomial_is_binomial_for_equals(n in 1usize..30, k in 0usize..30, bad in 0.0f64..1.0) {
        let equal = fewer_than_of(k, &vec![bad; n]);
        let binomial = fewer_than(k as u32, n as u32, bad);
        prop_assert!((equal - binomial).abs() < 1e-9, "{equal} {binomial}");
    }

    /// More redundancy, fewer departures and faster repair never lose more.
    #[test]
    fn better_is_never_worse(k in 3u8..6, m in 2u8..5, r in 1u8..3, churn in 0.01f64..0.4, days in 0.2f64..10.0) {
        let loss = |m, r, churn, days| loss_within(shape(k, m, r), departures_of_churn(churn), days, YEAR_DAYS);
        let base = loss(m, r, churn, days) * (1.0 + 1e-9);
        prop_assert!(loss(m + 1, r, churn, days) <= base);
        prop_assert!(loss(m, r + 1, churn, days) <= base);
        prop_assert!(loss(m, r, churn * 0.5, days) <= base);
        prop_assert!(loss(m, r, churn, days * 0.5) <= base);
        prop_assert!((0.0..=1.0).contains(&base.min(1.0)));
    }

    #[test]
    fn binomials_add_up(n in 1u32..40, k in 1u32..40) {
        prop_assume!(k <= n);
        let (sum, whole) = (binomial(n - 1, k - 1) + if k < n { binomial(n - 1, k) } else { 0.0 }, binomial(n, k));
        prop_assert!((sum / whole - 1.0).abs() < 1e-9);
    }
}
