//! How long to wait before the next attempt.

use std::time::Duration;

/// Waits that double, up to a longest one, each shortened at random by up to its half: many laptops lose one hub at the
/// same moment, and must not come back at the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Backoff {
    /// The first wait, before it is shortened.
    pub first: Duration,
    /// The longest one.
    pub longest: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(500),
            longest: Duration::from_secs(30),
        }
    }
}

impl Backoff {
    /// The wait after so many attempts in a row that have failed.
    #[must_use]
    pub fn after(self, failed: u32) -> Duration {
        let mut random = [0; 2];
        // Without a generator it is never shortened.
        let _ = getrandom::fill(&mut random);
        self.shortened(failed, u16::from_be_bytes(random))
    }

    fn shortened(self, failed: u32, random: u16) -> Duration {
        let full = self
            .first
            .saturating_mul(2_u32.saturating_pow(failed.min(16)))
            .min(self.longest);
        full - full / 2 * u32::from(random) / u32::from(u16::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_have_an_end() {
        let backoff = Backoff::default();
        for (failed, milliseconds) in [(0, 500), (1, 1000), (5, 16_000), (6, 30_000), (99, 30_000)]
        {
            let longest = Duration::from_millis(milliseconds);
            assert_eq!(backoff.shortened(failed, 0), longest);
            assert_eq!(backoff.shortened(failed, u16::MAX), longest / 2);
            let wait = backoff.after(failed);
            assert!(longest / 2 <= wait && wait <= longest, "{wait:?}");
        }
    }
}
