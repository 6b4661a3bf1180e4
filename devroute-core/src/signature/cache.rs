//! Contracts that were found good, so that a test run pays for its signature once.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// How many are remembered.
const CAPACITY: usize = 1024;

/// What was found out about a contract.
#[derive(Clone, Debug)]
pub(super) struct Verified {
    /// In unix seconds.
    pub(super) expires: u64,
    /// Who signed it.
    pub(super) name: Arc<str>,
}

/// The last contracts that were found good, by all their bytes.
///
/// The oldest goes first, used or not: to know which was used last, every request would have to write.
#[derive(Debug, Default)]
pub(super) struct Cache {
    // Copies of their own: the bytes of a field are a piece of what was read from a connection, and would keep all of
    // that in memory.
    verified: HashMap<Arc<[u8]>, Verified>,
    order: VecDeque<Arc<[u8]>>,
}

impl Cache {
    pub(super) fn get(&self, contract: &[u8]) -> Option<&Verified> {
        self.verified.get(contract)
    }

    pub(super) fn insert(&mut self, contract: &[u8], verified: Verified) {
        if self.verified.contains_key(contract) {
            // Two requests came with it at once.
            return;
        }
        while self.order.len() >= CAPACITY {
            if let Some(oldest) = self.order.pop_front() {
                self.verified.remove(&oldest);
            }
        }
        let contract: Arc<[u8]> = contract.into();
        self.order.push_back(Arc::clone(&contract));
        self.verified.insert(contract, verified);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded_and_the_oldest_goes_first() {
        let mut cache = Cache::default();
        let verified = || Verified {
            expires: 0,
            name: "alice".into(),
        };
        for number in 0..=CAPACITY {
            for _twice in 0..2 {
                cache.insert(number.to_string().as_bytes(), verified());
            }
        }
        assert!(cache.get(b"0").is_none());
        assert!(cache.get(b"1").is_some());
        assert!(cache.get(CAPACITY.to_string().as_bytes()).is_some());
        assert_eq!(
            (cache.verified.len(), cache.order.len()),
            (CAPACITY, CAPACITY)
        );
        assert!(cache.get(b"").is_none() && cache.get(b"10 ").is_none());
    }

    #[test]
    fn all_bytes_count() {
        let mut cache = Cache::default();
        let long = vec![b'x'; 8192];
        cache.insert(
            &long,
            Verified {
                expires: 7,
                name: "alice".into(),
            },
        );
        assert_eq!(cache.get(&long).map(|found| found.expires), Some(7));
        assert!(cache.get(&long[1..]).is_none() && cache.get(&long[..4096]).is_none());
        for place in 0..long.len() {
            let mut other = long.clone();
            other[place] = b'y';
            assert!(cache.get(&other).is_none(), "{place}");
        }
    }
}
