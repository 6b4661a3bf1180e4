//! How many lines a second the log gets from requests.
//!
//! A rerouted request has a line of its own: it is somebody's test, and not bulk traffic. Whoever sends
//! bulk traffic with a contract, or with half of one, must not fill a disk with it. So there are
//! [`LINES`] lines a second; the next one behind them says how many were left out. Records and counters
//! have everything.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Lines of one second, by all workers together.
pub(crate) const LINES: u64 = 50;

/// Counts the lines of this second.
#[derive(Debug)]
pub(crate) struct LogBudget {
    began: Instant,
    /// The second, in the upper half, and its lines in the lower.
    second: AtomicU64,
    unreported: AtomicU64,
    left_out: AtomicU64,
}

impl LogBudget {
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            second: AtomicU64::new(0),
            unreported: AtomicU64::new(0),
            left_out: AtomicU64::new(0),
        }
    }

    /// Whether there is a line left. Says so where some were left out before it.
    pub(crate) fn take(&self) -> bool {
        if !self.take_at(self.began.elapsed().as_secs()) {
            return false;
        }
        let lines = self.unreported.swap(0, Ordering::Relaxed);
        if lines > 0 {
            tracing::warn!(lines, "lines about requests were left out, being too many");
        }
        true
    }

    fn take_at(&self, second: u64) -> bool {
        const LINE: u64 = u32::MAX as u64;
        let more = |state: u64| {
            let lines = if state >> 32 == second {
                state & LINE
            } else {
                0
            };
            (lines < LINES).then_some(second << 32 | (lines + 1))
        };
        let taken = self
            .second
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .is_ok();
        if !taken {
            self.unreported.fetch_add(1, Ordering::Relaxed);
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
        taken
    }

    /// Lines that were left out so far.
    pub(crate) fn left_out(&self) -> u64 {
        self.left_out.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_second_has_its_lines() {
        let budget = LogBudget::new();
        for second in [0, 1, 7] {
            let taken = (0..3 * LINES).filter(|_| budget.take_at(second)).count() as u64;
            assert_eq!(taken, LINES);
        }
        assert_eq!(budget.left_out(), 3 * 2 * LINES);
    }

    #[test]
    fn what_was_left_out_is_told_once() {
        let budget = LogBudget::new();
        budget.take_at(u64::from(u32::MAX));
        budget.unreported.store(3, Ordering::Relaxed);
        assert!(budget.take());
        assert_eq!(budget.unreported.load(Ordering::Relaxed), 0);
    }
}
