//! What a table has seen.

use std::sync::atomic::{AtomicU64, Ordering};

use super::IdKind;

/// Why a request of a service got no contract while one was in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Loss {
    /// It has no id.
    NoId,
    /// It has an id, but none that came in with a contract.
    UnknownId,
    /// Its id came in with different contracts, or its ids with one each.
    AmbiguousId,
}

impl Loss {
    /// All of them, in the order of their counters.
    pub const ALL: [Self; 3] = [Self::NoId, Self::UnknownId, Self::AmbiguousId];

    /// A short, stable label for logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoId => "no_id",
            Self::UnknownId => "unknown_id",
            Self::AmbiguousId => "ambiguous_id",
        }
    }
}

/// The numbers of a [`Correlations`](super::Correlations) at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Ids that are remembered now.
    pub entries: u64,
    /// Bytes that they take, about.
    pub bytes: u64,
    /// Requests with a contract that are in flight now.
    pub in_flight: u64,
    /// Ids that were forgotten early, the table being full.
    pub evicted: u64,
    /// Ids that became ambiguous.
    pub ambiguous: u64,
    /// Requests that came without an id and got a `traceparent`.
    pub traceparents_added: u64,
    restored: [u64; IdKind::ALL.len()],
    lost: [u64; Loss::ALL.len()],
}

impl Stats {
    /// Requests whose contract was restored by an id of this kind.
    #[must_use]
    pub fn restored(&self, kind: IdKind) -> u64 {
        self.restored.get(kind as usize).copied().unwrap_or(0)
    }

    /// Requests that got no contract for this reason, while one was in flight.
    #[must_use]
    pub fn lost(&self, loss: Loss) -> u64 {
        self.lost.get(loss as usize).copied().unwrap_or(0)
    }
}

/// What is counted; sizes are the table's.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) in_flight: Counter,
    pub(super) evicted: Counter,
    pub(super) ambiguous: Counter,
    pub(super) traceparents_added: Counter,
    restored: [Counter; IdKind::ALL.len()],
    lost: [Counter; Loss::ALL.len()],
}

impl Counters {
    pub(super) fn restored(&self, kind: IdKind) {
        if let Some(counter) = self.restored.get(kind as usize) {
            counter.add();
        }
    }

    pub(super) fn lost(&self, loss: Loss) {
        if let Some(counter) = self.lost.get(loss as usize) {
            counter.add();
        }
    }

    pub(super) fn stats(&self, entries: usize, bytes: usize) -> Stats {
        Stats {
            entries: entries as u64,
            bytes: bytes as u64,
            in_flight: self.in_flight.get(),
            evicted: self.evicted.get(),
            ambiguous: self.ambiguous.get(),
            traceparents_added: self.traceparents_added.get(),
            restored: std::array::from_fn(|index| self.restored.get(index).map_or(0, Counter::get)),
            lost: std::array::from_fn(|index| self.lost.get(index).map_or(0, Counter::get)),
        }
    }
}

/// A number that threads share and nothing depends on.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn sub(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_follow_the_order_of_the_counters() {
        for (index, kind) in IdKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, index, "{}", kind.as_str());
        }
        for (index, loss) in Loss::ALL.into_iter().enumerate() {
            assert_eq!(loss as usize, index, "{}", loss.as_str());
        }
    }
}
