//! What a sample tells of the whole.

/// How sure one is that a loss of [`found_share`] would have been found.
pub(crate) const CONFIDENCE: f64 = 0.95;

/// The least share of `all` shards of which, had they been missing, a sample of `asked` different ones would have met one with
/// [`CONFIDENCE`]. 1 when nothing was asked.
pub(crate) fn found_share(all: u64, asked: u64) -> f64 {
    if asked == 0 || all == 0 {
        return 1.0;
    }
    // Chance that none of `missing` is in the sample; each further one finds a place outside it that is not taken.
    let (mut missing, mut unseen) = (0u64, 1.0);
    while unseen > 1.0 - CONFIDENCE && missing < all {
        unseen *= (all - asked.min(all)).saturating_sub(missing) as f64 / (all - missing) as f64;
        missing += 1;
    }
    missing as f64 / all as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_are_those_of_the_table() {
        assert!((found_share(1_000_000, 20) - 0.139).abs() < 0.001, "as without an end: 1 - 0.05^(1/20)");
        assert!((found_share(1_000_000, 299) - 0.01).abs() < 0.0002);
        assert_eq!(found_share(10, 10), 0.1, "all were asked for: one that is missing is found");
        assert_eq!(found_share(10, 12), 0.1);
        assert_eq!((found_share(10, 0), found_share(0, 0)), (1.0, 1.0));
        // Of 10, one asked for: 9 missing are met with 90 %, so all 10.
        assert_eq!(found_share(10, 1), 1.0);
        assert!(found_share(1000, 20) < found_share(1_000_000, 20));
    }
}
