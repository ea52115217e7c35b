//! How a vault's groups are watched, and what the user should know of it.

use std::collections::BTreeMap;

use cairn_proto::{Timestamp, mandate::quorum, manifest::GroupRow};

use crate::vault::catalogue::watch::Registration;

/// How the vault's groups are watched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::vault) struct Watched {
    /// Groups with something in them.
    pub(in crate::vault) groups: usize,
    /// Those of which a quorum of stewards confirmed everything.
    pub(in crate::vault) watched: usize,
    /// Those for which the network has no steward.
    pub(in crate::vault) without: usize,
    /// Stewards that confirmed, of the watched group that has the fewest, and the most.
    pub(in crate::vault) fewest: usize,
    pub(in crate::vault) most: usize,
}

impl Watched {
    /// What the user should know, if anything.
    pub(in crate::vault) fn notice(&self) -> Option<String> {
        let Self { groups, watched, without, .. } = *self;
        if watched == groups {
            return None;
        }
        Some(if without == groups {
            "nobody watches over this backup while this machine is away: that takes peers that hold nothing of a group, and this \
             network has none. Nothing is lost by it; a check or a backup now and then repairs what holders lose"
                .to_owned()
        } else {
            format!(
                "{} of {groups} groups are not watched yet: too few of the peers that should do so have confirmed. Nobody repairs \
                 them while this machine is away; the next backup asks again",
                groups - watched
            )
        })
    }
}

/// How the groups are watched, by what is on record.
pub(super) fn standing(rows: &BTreeMap<u32, GroupRow>, registrations: &BTreeMap<u32, Registration>) -> Watched {
    let mut all = Watched { groups: rows.len(), ..Watched::default() };
    for number in rows.keys() {
        let known = registrations.get(number).filter(|known| !known.stewards.is_empty());
        let Some(known) = known else {
            // One that is put off has stewards, or had.
            all.without += usize::from(registrations.get(number).is_none_or(|known| known.put_off == Timestamp(0)));
            continue;
        };
        let confirmed = known.confirmed();
        if confirmed >= quorum(known.stewards.len()) {
            all.fewest = if all.watched == 0 { confirmed } else { all.fewest.min(confirmed) };
            all.most = all.most.max(confirmed);
            all.watched += 1;
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use cairn_proto::{CodeParams, PeerKey};

    use super::*;
    use crate::vault::catalogue::watch::Confirmed;

    #[test]
    fn what_is_not_watched_is_said_in_words_that_fit() {
        let row = |number| GroupRow {
            number,
            salt: [3; 32],
            code: CodeParams::DEFAULT,
            colours: 9,
            holders: vec![Vec::new(); 8],
            stripes_used: 1,
            sealed: false,
        };
        let rows: BTreeMap<u32, GroupRow> = (1..=3).map(|number| (number, row(number))).collect();
        let left = |confirmed: u8| {
            let one = |at: u8| Confirmed {
                steward: PeerKey::from_bytes([at; 32]),
                sheets: if at < confirmed { 5 } else { 4 },
                at: Timestamp(1),
                silent_since: Timestamp(0),
            };
            let stewards = (0..7).map(one).collect();
            Registration { sheets: 5, stewards, ..Registration::default() }
        };
        let stands = |confirmed: &[u8]| standing(&rows, &(1..).zip(confirmed.iter().map(|n| left(*n))).collect());
        let none = stands(&[]);
        assert_eq!((none.groups, none.watched, none.without), (3, 0, 3));
        assert!(none.notice().is_some_and(|text| text.contains("this network has none")), "{:?}", none.notice());
        let some = stands(&[7, 4, 5]);
        assert_eq!((some.watched, some.without, some.fewest, some.most), (2, 0, 5, 7), "four of seven are no quorum");
        assert!(some.notice().is_some_and(|text| text.starts_with("1 of 3 groups")), "{:?}", some.notice());
        assert_eq!(stands(&[7, 6, 5]).notice(), None);
    }
}
