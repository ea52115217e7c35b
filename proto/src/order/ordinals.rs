//! Which stripes of a group are meant.

/// Stripes of a group, as a set: bit `o % 8` of byte `o / 8` for ordinal `o`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, PartialOrd, Ord)]
pub struct Ordinals([u8; 32]);

impl Ordinals {
    /// From 32 bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Adds one.
    pub const fn insert(&mut self, ordinal: u8) {
        self.0[ordinal as usize / 8] |= 1 << (ordinal % 8);
    }

    /// Whether it is there.
    #[must_use]
    pub const fn contains(&self, ordinal: u8) -> bool {
        self.0[ordinal as usize / 8] & (1 << (ordinal % 8)) != 0
    }

    /// All, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u8> + '_ {
        (0..=u8::MAX).filter(|ordinal| self.contains(*ordinal))
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.iter().map(|byte| byte.count_ones() as usize).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0 == [0; 32]
    }

    /// The lowest so many.
    #[must_use]
    pub fn first(&self, most: usize) -> Self {
        self.iter().take(most).collect()
    }

    /// Those in both.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self(std::array::from_fn(|at| self.0[at] & other.0[at]))
    }

    /// Those in one or the other.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        Self(std::array::from_fn(|at| self.0[at] | other.0[at]))
    }

    /// Those that the other has not.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        Self(std::array::from_fn(|at| self.0[at] & !other.0[at]))
    }
}

impl FromIterator<u8> for Ordinals {
    fn from_iter<I: IntoIterator<Item = u8>>(ordinals: I) -> Self {
        let mut set = Self::default();
        ordinals.into_iter().for_each(|ordinal| set.insert(ordinal));
        set
    }
}
