//! Bytes that lie in several pieces of memory: a stretch of a file runs over several shards, and putting them together would
//! copy every byte of a restore once more.

use std::ops::Range;

use bytes::Bytes;

/// Bytes, one piece behind the other. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Parts(Vec<Bytes>);

impl Parts {
    pub(super) fn push(&mut self, part: Bytes) {
        self.0.push(part);
    }

    pub(super) fn len(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Bytes> {
        self.0.iter()
    }

    /// A stretch of it, without a copy; `None` when it is not all there.
    pub(super) fn slice(&self, range: Range<usize>) -> Option<Self> {
        let mut rest = range.len();
        let mut skip = range.start;
        let mut out = Self::default();
        for part in &self.0 {
            let begin = skip.min(part.len());
            let end = (begin + rest).min(part.len());
            if begin < end {
                out.push(part.slice(begin..end));
            }
            (skip, rest) = (skip - begin, rest - (end - begin));
        }
        (skip == 0 && rest == 0).then_some(out)
    }

    /// In one piece; a copy only when there are several.
    pub(super) fn joined(self) -> Bytes {
        match <[Bytes; 1]>::try_from(self.0) {
            Ok([only]) => only,
            Err(several) => several.concat().into(),
        }
    }
}

impl From<Bytes> for Parts {
    fn from(only: Bytes) -> Self {
        Self(vec![only])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_slice_is_that_of_the_bytes(parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..9), 0..5),
                                        begin in 0usize..40, length in 0usize..40) {
            let whole = parts.concat();
            let parts = Parts(parts.into_iter().map(Bytes::from).collect());
            prop_assert_eq!(parts.len(), whole.len());
            let found = parts.slice(begin..begin + length).map(Parts::joined);
            // An empty stretch just behind the end is there, one further on is not.
            let expected = whole.get(begin..begin + length).map(Bytes::copy_from_slice);
            prop_assert_eq!(found, expected);
            prop_assert_eq!(parts.joined(), whole);
        }
    }
}
