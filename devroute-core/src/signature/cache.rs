//! What was found out by verifying, so that it is done once for the same bytes.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// How many are remembered.
const CAPACITY: usize = 1024;

/// The last findings, each by all the bytes that it was found out about.
///
/// The oldest goes first, used or not: to know which was used last, every request would have to write.
#[derive(Debug)]
pub(super) struct Cache<V> {
    // Copies of their own: the bytes of a field are a piece of what was read from a connection, and would keep all of
    // that in memory.
    found: HashMap<Arc<[u8]>, V>,
    order: VecDeque<Arc<[u8]>>,
}

impl<V> Default for Cache<V> {
    fn default() -> Self {
        Self {
            found: HashMap::new(),
            order: VecDeque::new(),
        }
    }
}

impl<V> Cache<V> {
    pub(super) fn get(&self, bytes: &[u8]) -> Option<&V> {
        self.found.get(bytes)
    }

    pub(super) fn insert(&mut self, bytes: &[u8], found: V) {
        if self.found.contains_key(bytes) {
            // Two requests came with it at once.
            return;
        }
        while self.order.len() >= CAPACITY {
            if let Some(oldest) = self.order.pop_front() {
                self.found.remove(&oldest);
            }
        }
        let bytes: Arc<[u8]> = bytes.into();
        self.order.push_back(Arc::clone(&bytes));
        self.found.insert(bytes, found);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.found.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded_and_the_oldest_goes_first() {
        let mut cache = Cache::default();
        for number in 0..=CAPACITY {
            for _twice in 0..2 {
                cache.insert(number.to_string().as_bytes(), number);
            }
        }
        assert!(cache.get(b"0").is_none());
        assert_eq!(cache.get(b"1"), Some(&1));
        assert!(cache.get(CAPACITY.to_string().as_bytes()).is_some());
        assert_eq!((cache.found.len(), cache.order.len()), (CAPACITY, CAPACITY));
        assert!(cache.get(b"").is_none() && cache.get(b"10 ").is_none());
    }

    #[test]
    fn all_bytes_count() {
        let mut cache = Cache::default();
        let long = vec![b'x'; 8192];
        cache.insert(&long, 7);
        assert_eq!(cache.get(&long), Some(&7));
        assert!(cache.get(&long[1..]).is_none() && cache.get(&long[..4096]).is_none());
        for place in 0..long.len() {
            let mut other = long.clone();
            other[place] = b'y';
            assert!(cache.get(&other).is_none(), "{place}");
        }
    }
}
