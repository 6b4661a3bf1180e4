//! Nonces: each is this hub's, good for a minute, and good once.
//!
//! To give one out takes no memory, so asking for many does no harm: a nonce says when it was made and proves by a MAC
//! that it was made here. What is remembered is those that were used, until they would be too old anyway; only who has
//! signed with an authorized key gets there, and there is a limit to that, too.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64ct::{Base64UrlUnpadded, Encoding as _};
use ring::hmac;

/// How long a nonce is good: a person may be asked by their agent whether to sign.
const LIFETIME: Duration = Duration::from_secs(120);
/// The most that are remembered as used.
const MAX_USED: usize = 8 * 1024;

const TIME: usize = 8;
const RANDOM: usize = 16;
const TAG: usize = 16;

#[derive(Debug)]
pub(super) struct Nonces {
    key: hmac::Key,
    began: Instant,
    used: Mutex<Used>,
}

/// Two generations, of which each is forgotten as a whole.
#[derive(Debug, Default)]
struct Used {
    since: Duration,
    young: HashSet<Vec<u8>>,
    old: HashSet<Vec<u8>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NonceError {
    /// Not made here, too old, or used.
    Stale,
    /// More than can be remembered were used.
    Full,
}

impl Nonces {
    pub(super) fn new() -> Self {
        let mut key = [0; 32];
        fill(&mut key);
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
            began: Instant::now(),
            used: Mutex::default(),
        }
    }

    pub(super) fn issue(&self) -> String {
        self.issue_at(self.began.elapsed())
    }

    fn issue_at(&self, now: Duration) -> String {
        let mut random = [0; RANDOM];
        fill(&mut random);
        let mut nonce = Vec::with_capacity(TIME + RANDOM + TAG);
        nonce.extend(
            u64::try_from(now.as_millis())
                .unwrap_or(u64::MAX)
                .to_be_bytes(),
        );
        nonce.extend(random);
        let tag = hmac::sign(&self.key, &nonce);
        nonce.extend(tag.as_ref().iter().take(TAG));
        Base64UrlUnpadded::encode_string(&nonce)
    }

    /// Whether it can be used.
    ///
    /// # Errors
    ///
    /// When it is not of this hub, too old, or used.
    pub(super) fn check(&self, nonce: &str) -> Result<(), NonceError> {
        let now = self.began.elapsed();
        let nonce = self.open(nonce, now)?;
        if self.used(now).contains(&nonce) {
            return Err(NonceError::Stale);
        }
        Ok(())
    }

    /// Uses it, once.
    ///
    /// # Errors
    ///
    /// As those of [`check`](Self::check), or when there are too many to remember.
    pub(super) fn use_up(&self, nonce: &str) -> Result<(), NonceError> {
        self.use_up_at(nonce, self.began.elapsed())
    }

    fn use_up_at(&self, nonce: &str, now: Duration) -> Result<(), NonceError> {
        let nonce = self.open(nonce, now)?;
        let mut used = self.used(now);
        if used.contains(&nonce) {
            return Err(NonceError::Stale);
        }
        if used.young.len() + used.old.len() >= MAX_USED {
            return Err(NonceError::Full);
        }
        used.young.insert(nonce);
        Ok(())
    }

    /// The bytes of a nonce that was made here and not long ago.
    fn open(&self, nonce: &str, now: Duration) -> Result<Vec<u8>, NonceError> {
        let mut bytes = [0; TIME + RANDOM + TAG];
        let bytes = match Base64UrlUnpadded::decode(nonce, &mut bytes) {
            Ok(bytes) if bytes.len() == TIME + RANDOM + TAG => bytes,
            _ => return Err(NonceError::Stale),
        };
        let Some((text, tag)) = bytes.split_at_checked(TIME + RANDOM) else {
            return Err(NonceError::Stale);
        };
        let expected = hmac::sign(&self.key, text);
        // Half of a MAC, so `hmac::verify` is not for it. What the time of this comparison tells is at most how to
        // make a nonce, and that is no secret: they are given to whoever asks.
        if !expected.as_ref().starts_with(tag) {
            return Err(NonceError::Stale);
        }
        let made = text
            .first_chunk()
            .map_or(0, |time| u64::from_be_bytes(*time));
        let age = now.checked_sub(Duration::from_millis(made));
        if age.is_none_or(|age| age > LIFETIME) {
            return Err(NonceError::Stale);
        }
        Ok(bytes.to_vec())
    }

    fn used(&self, now: Duration) -> std::sync::MutexGuard<'_, Used> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.forget(now);
        used
    }
}

impl Used {
    fn contains(&self, nonce: &[u8]) -> bool {
        self.young.contains(nonce) || self.old.contains(nonce)
    }

    /// What is in `old` was used before `since`, and made before that.
    fn forget(&mut self, now: Duration) {
        let age = now.saturating_sub(self.since);
        if age <= LIFETIME {
            return;
        }
        self.old = std::mem::take(&mut self.young);
        if age > LIFETIME * 2 {
            self.old.clear();
        }
        self.since = now;
    }
}

/// Fills `bytes` by the system's generator. Without one there is nothing that a process could do safely.
#[allow(
    clippy::expect_used,
    reason = "a key that can be guessed would be worse than no hub"
)]
fn fill(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("the system has a generator of random numbers");
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_nonce_is_good_once_and_for_its_time() {
        let nonces = Nonces::new();
        let nonce = nonces.issue_at(SECOND);
        assert_eq!(nonces.use_up_at(&nonce, SECOND), Ok(()));
        // Also when generations have changed in between.
        for later in [0, 60, 119, 120] {
            let now = SECOND + SECOND * later;
            assert_eq!(nonces.use_up_at(&nonce, now), Err(NonceError::Stale));
        }
        let nonce = nonces.issue_at(SECOND * 500);
        assert_eq!(
            nonces.use_up_at(&nonce, SECOND * 621),
            Err(NonceError::Stale),
            "too old"
        );
        assert_eq!(
            nonces.use_up_at(&nonce, SECOND * 499),
            Err(NonceError::Stale),
            "of the future"
        );
        assert_eq!(nonces.use_up_at(&nonce, SECOND * 620), Ok(()));
    }

    #[test]
    fn a_nonce_of_another_hub_or_a_changed_one_is_stale() {
        let nonces = Nonces::new();
        let nonce = nonces.issue_at(SECOND);
        assert_eq!(
            Nonces::new().use_up_at(&nonce, SECOND),
            Err(NonceError::Stale)
        );
        let mut changed = nonce.clone().into_bytes();
        changed[3] = if changed[3] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        for wrong in [changed.as_str(), "", "AAAA", nonce.split_at(1).1, "~"] {
            assert_eq!(
                nonces.use_up_at(wrong, SECOND),
                Err(NonceError::Stale),
                "{wrong}"
            );
        }
    }

    #[test]
    fn what_is_remembered_is_bounded_and_forgotten() {
        let nonces = Nonces::new();
        for _ in 0..MAX_USED {
            let nonce = nonces.issue_at(SECOND);
            assert_eq!(nonces.use_up_at(&nonce, SECOND), Ok(()));
        }
        let nonce = nonces.issue_at(SECOND);
        assert_eq!(nonces.use_up_at(&nonce, SECOND), Err(NonceError::Full));
        let later = SECOND * 400;
        let nonce = nonces.issue_at(later);
        assert_eq!(nonces.use_up_at(&nonce, later), Ok(()));
        assert_eq!(nonces.used(later).old.len(), 0);
    }
}
