//! The figures behind quorums and pace, computed: against research/theory.md 5.2 and 5.4, and for draws without replacement.

use cairn_proto::audit::VerdictKind;

use crate::audit::{AUDITS_PER_DAY, panel::quorum};

fn choose(n: u32, k: u32) -> f64 {
    if k > n { 0.0 } else { (0..k).map(|i| f64::from(n - i) / f64::from(i + 1)).product() }
}

/// P(at least `votes` of `seats` are bad) where a share `bad` of all is.
fn binomial(seats: u32, votes: u32, bad: f64) -> f64 {
    let term = |k: u32| choose(seats, k) * bad.powi(k as i32) * (1.0 - bad).powi((seats - k) as i32);
    (votes..=seats).map(term).sum()
}

/// The same where `bad` of `domains` are, and none is drawn twice.
fn drawn(domains: u32, bad: u32, seats: u32, votes: u32) -> f64 {
    let term = |k: u32| choose(bad, k) * choose(domains - bad, seats - k) / choose(domains, seats);
    (votes..=seats).map(term).sum()
}

#[test]
fn the_tables_of_the_theory_are_right() {
    let close = |found: f64, stated: f64| assert!((0.5..2.0).contains(&(found / stated)), "{found} for {stated}");
    // False verdict, blocked verdict.
    for (seats, votes, bad, wrong, blocked) in [
        (7, 5, 0.05, 6e-6, 4e-3),
        (7, 5, 0.10, 2e-4, 3e-2),
        (7, 5, 0.20, 5e-3, 0.15),
        (7, 5, 0.30, 3e-2, 0.35),
        (21, 14, 0.05, 5e-14, 4e-6),
        (21, 14, 0.10, 6e-10, 6e-4),
        (21, 14, 0.20, 5e-6, 4e-2),
        (21, 14, 0.30, 6e-4, 0.28),
    ] {
        close(binomial(seats, votes, bad), wrong);
        close(binomial(seats, seats - votes + 1, bad), blocked);
    }
    let found = |dropped: f64, audits: u32| 1.0 - (1.0 - dropped).powi(audits as i32);
    for (dropped, audits) in [(0.001, 4603), (0.01, 459), (0.05, 90), (0.10, 44)] {
        assert!(found(dropped, audits) >= 0.99 && found(dropped, audits - 1) < 0.99, "{dropped}");
    }
    assert!(found(0.01, AUDITS_PER_DAY) >= 0.99, "a day's audits find one in a hundred");
}

/// What the head of `panel` promises: fewer than a third of the domains cannot exclude where all sit, and rarely where some
/// are drawn.
#[test]
fn fewer_than_a_third_cannot_exclude() {
    let mut worst = 0.0f64;
    for domains in 1..=400u32 {
        let bad = (domains - 1) / 3;
        let Some(q) = quorum(VerdictKind::Exclude, domains as usize) else { continue };
        let (seats, votes) = (q.seats as u32, q.votes as u32);
        let odds = drawn(domains, bad, seats, votes);
        if domains <= 21 || bad < votes {
            assert!(odds == 0.0, "{domains} domains: {odds}");
        }
        worst = worst.max(odds);
    }
    assert!(drawn(63, 20, 21, 14) < 5e-5, "{}", drawn(63, 20, 21, 14));
    assert!(worst < 1.7e-3, "with just under a third of a large network: {worst}");
    // A fifth of the domains, which is a great deal.
    assert!(drawn(100, 20, 21, 14) < 1e-6);
    // A suspicion is cheaper to bring about, and only ever costs a week.
    assert!(drawn(7, 2, 7, 5) == 0.0 && drawn(30, 9, 7, 5) < 0.02);
}
