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
        // What is on its way stays, or whoever asks next would fetch it a second time.
        while self.order.len() >= self.limit {
            let filled = |key: &K| self.cells.get(key).is_none_or(|cell| cell.initialized());
            let Some(old) = self.order.iter().position(filled).and_then(|at| self.order.remove(at)) else { break };
            self.cells.remove(&old);
        }
        let cell = Arc::new(OnceCell::new());
        self.order.push_back(key);
        self.cells.insert(key, cell.clone());
        cell
    }
}
