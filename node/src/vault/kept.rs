//! The newest of what was made, each made once.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    sync::Arc,
};

use tokio::sync::OnceCell;

/// The newest `limit` entries, each filled once.
pub(super) struct Kept<K, V> {
    limit: usize,
    order: VecDeque<K>,
    cells: HashMap<K, Arc<OnceCell<V>>>,
}

impl<K: Copy + Eq + Hash, V> Kept<K, V> {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, order: VecDeque::new(), cells: HashMap::new() }
    }

    /// What was made, when it was.
    pub(super) fn made(&self, key: &K) -> Option<V>
    where
        V: Clone,
    {
        self.cells.get(key)?.get().cloned()
    }

    /// The entry's place, filled or not: whoever wants it fills it, the others wait for that.
    pub(super) fn cell(&mut self, key: K) -> Arc<OnceCell<V>> {
        if let Some(cell) = self.cells.get(&key) {
            let cell = cell.clone();
            if self.order.back() != Some(&key) {
                self.order.retain(|k| *k != key);
                self.order.push_back(key);
            }
            return cell;
        }
        // What is on its way stays, or whoever asks next would fetch it a second time: somebody else has its place then. What
        // nobody fills, or failed to, does not.
        while self.order.len() >= self.limit {
            let over =
                |key: &K| self.cells.get(key).is_none_or(|cell| cell.initialized() || Arc::strong_count(cell) == 1);
            let Some(old) = self.order.iter().position(over).and_then(|at| self.order.remove(at)) else { break };
            self.cells.remove(&old);
        }
        let cell = Arc::new(OnceCell::new());
        self.order.push_back(key);
        self.cells.insert(key, cell.clone());
        cell
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_stay_and_so_does_what_is_on_its_way() {
        let mut kept: Kept<u8, u8> = Kept::new(3);
        let under_way = kept.cell(0);
        for key in 1..=3 {
            kept.cell(key).set(key).expect("empty");
        }
        assert_eq!((kept.made(&0), kept.made(&1), kept.made(&2), kept.made(&3)), (None, None, Some(2), Some(3)));
        under_way.set(0).expect("empty");
        assert_eq!(kept.made(&0), Some(0), "the others had to wait for it");
        drop(under_way);
        // Looked at again: newer than what came later.
        assert!(kept.cell(2).initialized());
        kept.cell(4).set(4).expect("empty");
        assert_eq!((kept.made(&0), kept.made(&2), kept.made(&3)), (None, Some(2), Some(3)));
        // Places that nobody fills, as of stripes that need no rebuilding, drive out what was made, but do not pile up.
        for key in 10..100 {
            kept.cell(key);
        }
        assert!(kept.order.len() == 3 && kept.cells.len() == 3);
    }
}
