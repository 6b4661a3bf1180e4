//! Verifying, and remembering what was verified.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64ct::{Base64UrlUnpadded, Encoding as _};

use super::authorized_keys::{AuthorizedKey, AuthorizedKeys};
use super::cache::Cache;
use super::error::{SignatureError, SignatureErrorKind as Kind};
use super::key::SIGNATURE_BYTES;
use super::{EXP, KEY, SIG, canonical};
use crate::contract::Contract;

/// Says whether a contract is signed by somebody who is authorized, and still good. Clones share the keys and what
/// was verified.
///
/// A contract that names no service needs no signature: it reroutes nothing. Any other one is refused unless
///
/// 1. it has a `$sig`;
/// 2. `$exp` is not over, with an allowance for [clocks that differ](Self::clock_skew), and not further away than the
///    [longest lifetime](Self::max_lifetime);
/// 3. `$key` names one of the keys;
/// 4. the signature is that key's over the contract.
///
/// Verifying takes tens of microseconds, and a test run sends one contract many times: the last 1024 good ones are
/// remembered, by all their bytes, so that no two are taken for each other, and for as long as the keys stay what
/// they are. What is remembered expires all the same. A contract has at most 8 KiB, so that is 8 MiB at most, and
/// only who is authorized can fill it.
///
/// So are the last 1024 wrong signatures: by the key, the signature and the hash of what would have been signed, some 200
/// bytes each. Whoever sends a wrong one again, spelled anew or not, does not make it be verified again.
/// There is no limit on wrong signatures that differ. It would have to count by the key, since that is all there is to
/// tell who asks, and then whoever knows the id of a key could keep its owner out.
///
/// ```
/// use std::time::{Duration, UNIX_EPOCH};
/// use devroute_core::signature::{AuthorizedKeys, Verifier};
/// use devroute_core::{Contract, SignatureErrorKind};
///
/// let keys = AuthorizedKeys::parse(
///     b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDHz9XpnTjH/7YMFd5nbDPAEuia+xNRj6Jr82WT/lOso alice@laptop",
/// );
/// let verifier = Verifier::new(keys).max_lifetime(Duration::from_secs(8 * 3600));
/// let contract: Contract = r#"{"foo":"192.168.1.12:8001"}"#.parse()?;
///
/// let error = verifier.verify(&contract, UNIX_EPOCH).unwrap_err();
/// assert_eq!(error.kind(), SignatureErrorKind::Missing);
/// assert_eq!(verifier.verify(&Contract::empty(), UNIX_EPOCH), Ok(None));
/// # Ok::<(), devroute_core::ContractError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Verifier {
    state: Arc<RwLock<State>>,
    max_lifetime: Duration,
    clock_skew: Duration,
}

#[derive(Debug)]
struct State {
    keys: Arc<AuthorizedKeys>,
    /// By the bytes of the contract.
    verified: Cache<Verified>,
    /// By key, signature and message.
    refused: Cache<()>,
}

/// What was found out about a contract.
#[derive(Clone, Debug)]
struct Verified {
    /// In unix seconds.
    expires: u64,
    /// Who signed it.
    name: Arc<str>,
}

impl State {
    fn new(keys: AuthorizedKeys) -> Self {
        Self {
            keys: Arc::new(keys),
            verified: Cache::default(),
            refused: Cache::default(),
        }
    }
}

impl Verifier {
    /// The longest lifetime where none is set: 24 hours.
    pub const MAX_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);
    /// The allowance for clocks that differ where none is set: 30 seconds.
    pub const CLOCK_SKEW: Duration = Duration::from_secs(30);

    /// A verifier of contracts that one of `keys` has signed.
    #[must_use]
    pub fn new(keys: AuthorizedKeys) -> Self {
        Self {
            state: Arc::new(RwLock::new(State::new(keys))),
            max_lifetime: Self::MAX_LIFETIME,
            clock_skew: Self::CLOCK_SKEW,
        }
    }

    /// Sets how far away the time of `$exp` may be; [`MAX_LIFETIME`](Self::MAX_LIFETIME) by default.
    #[must_use]
    pub fn max_lifetime(mut self, lifetime: Duration) -> Self {
        self.max_lifetime = lifetime;
        self
    }

    /// Sets by how much the clocks of who signs and who verifies may differ, either way;
    /// [`CLOCK_SKEW`](Self::CLOCK_SKEW) by default.
    #[must_use]
    pub fn clock_skew(mut self, skew: Duration) -> Self {
        self.clock_skew = skew;
        self
    }

    /// Replaces the keys, for all clones: from now on a contract of a key that is gone is refused, also one that was
    /// good a moment ago.
    pub fn replace_keys(&self, keys: AuthorizedKeys) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        *state = State::new(keys);
    }

    /// How many keys there are now.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.current().len()
    }

    /// The keys as they are now.
    pub(super) fn current(&self) -> Arc<AuthorizedKeys> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&state.keys)
    }

    /// Says who has signed `contract`, by the comment of the key or, without one, its fingerprint; nobody has to
    /// where it names no service.
    ///
    /// # Errors
    ///
    /// When it is not signed, not well, not by a key that is authorized, or not good at the time `now`.
    pub fn verify(
        &self,
        contract: &Contract,
        now: SystemTime,
    ) -> Result<Option<Arc<str>>, SignatureError> {
        let bytes = contract.header_value().as_bytes();
        let keys = {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(verified) = state.verified.get(bytes) {
                self.check_time(verified.expires, now)?;
                return Ok(Some(Arc::clone(&verified.name)));
            }
            Arc::clone(&state.keys)
        };
        let Some(verified) = self.verify_anew(contract, &keys, now)? else {
            return Ok(None);
        };
        let name = Arc::clone(&verified.name);
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        // What was verified with keys that have been replaced meanwhile is good for this once only.
        if Arc::ptr_eq(&state.keys, &keys) {
            state.verified.insert(bytes, verified);
        }
        Ok(Some(name))
    }

    fn verify_anew(
        &self,
        contract: &Contract,
        keys: &AuthorizedKeys,
        now: SystemTime,
    ) -> Result<Option<Verified>, SignatureError> {
        if contract.is_empty() {
            return Ok(None);
        }
        let members = contract.members();
        let invalid = |detail| SignatureError::new(Kind::Invalid, detail);
        let Some(signature) = members.get(SIG) else {
            return Err(SignatureError::new(Kind::Missing, ""));
        };
        let mut bytes = [0; SIGNATURE_BYTES];
        let signature = match Base64UrlUnpadded::decode(signature, &mut bytes) {
            Ok(bytes) if bytes.len() == SIGNATURE_BYTES => bytes,
            _ => return Err(invalid("$sig is not the base64url of 64 bytes")),
        };
        let expires = members.get(EXP).and_then(|text| seconds(text));
        let expires = expires.ok_or(invalid("$exp is not a number of unix seconds"))?;
        let id = members.get(KEY).ok_or(invalid("$key is missing"))?;

        self.check_time(expires, now)?;
        let authorized = keys
            .get(id)
            .ok_or(SignatureError::new(Kind::UnknownKey, ""))?;
        let message = canonical::text(&members)
            .as_deref()
            .and_then(canonical::signed_data)
            .ok_or(invalid("a value would need an escape"))?;
        if !self.is_by(authorized, &message, signature) {
            return Err(invalid(""));
        }
        Ok(Some(Verified {
            expires,
            name: Arc::clone(&authorized.name),
        }))
    }

    /// Whether the signature is the key's over the message; that it is not is remembered.
    fn is_by(&self, authorized: &AuthorizedKey, message: &[u8], signature: &[u8]) -> bool {
        // All that the answer depends on, so it stays what it is, whichever keys are authorized.
        let asked = [authorized.key.bytes(), signature, message].concat();
        let known = {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            state.refused.get(&asked).is_some()
        };
        if known {
            return false;
        }
        let good = authorized.key.verifies(message, signature);
        if !good {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            state.refused.insert(&asked, ());
        }
        good
    }

    /// Looks at the time of expiry, in unix seconds.
    fn check_time(&self, expires: u64, now: SystemTime) -> Result<(), SignatureError> {
        // A clock that stands before 1970 is not set at all; then nothing is good.
        let now = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::MAX);
        let expires = Duration::from_secs(expires);
        if now >= expires.saturating_add(self.clock_skew) {
            return Err(SignatureError::new(Kind::Expired, ""));
        }
        let latest = now
            .saturating_add(self.max_lifetime)
            .saturating_add(self.clock_skew);
        if expires > latest {
            return Err(SignatureError::new(Kind::ExpiresTooLate, ""));
        }
        Ok(())
    }
}

/// A number of seconds, spelled in the one way that there is for it.
fn seconds(text: &str) -> Option<u64> {
    let is_number = (1..=12).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_digit())
        && (text == "0" || !text.starts_with('0'));
    if is_number { text.parse().ok() } else { None }
}

/// When a contract ends to be good, by its `$exp`; none where it has none, or one that is no number.
///
/// Whether it is signed at all, and well, only a [`Verifier`] says.
#[must_use]
pub fn expires(contract: &Contract) -> Option<SystemTime> {
    let mut found = None;
    contract.each(&mut |name, value| {
        if name == EXP {
            found = seconds(value);
        }
    });
    UNIX_EPOCH.checked_add(Duration::from_secs(found?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_have_one_spelling() {
        assert_eq!(seconds("1790000000"), Some(1_790_000_000));
        assert_eq!(seconds("0"), Some(0));
        for text in [
            "",
            "01",
            "+1",
            "-1",
            "1.0",
            "1e9",
            " 1",
            "1 ",
            "٣",
            "1000000000000",
        ] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }

    #[test]
    fn a_wrong_signature_is_verified_once_however_it_is_spelled() {
        let keys = || AuthorizedKeys::parse(include_bytes!("../../tests/vectors/alice.pub"));
        let verifier = Verifier::new(keys());
        let remembered = |verifier: &Verifier| {
            let state = verifier.state.read().unwrap();
            (state.verified.len(), state.refused.len())
        };
        let verify = |text: &str, now: u64| {
            let contract: Contract = text.parse().unwrap();
            let now = UNIX_EPOCH + Duration::from_secs(now);
            let verified = verifier.verify(&contract, now);
            verified.map_err(|error| error.kind())
        };
        let good = r#"{"foo":"192.168.1.12:8001","$id":"run-7","bar":"h2c://[fd00::7]:9000","Bar.2":"https://laptop.ts.net:443","$exp":"1790000000","$key":"wMqZAQCJ_YIEtxahfOkUqTvIby-XNMZqJuO5EiQ2M-Q","$sig":"El-0NPTk_KhebcAPRvshwGLqA1eic5dFo4og_H8zO1avd2qD1wqGjQDvB5m6vuri6piQzgDyZvxumxr_mmwECw"}"#;
        let wrong = good.replace("run-7", "run-8");
        let now = 1_789_999_000;
        assert_eq!(verify(&wrong, now), Err(Kind::Invalid));
        assert_eq!(remembered(&verifier), (0, 1));
        for spelling in [
            wrong.clone(),
            wrong.replace(',', " ,\t"),
            wrong.replace("foo", "\\u0066oo"),
        ] {
            assert_eq!(verify(&spelling, now), Err(Kind::Invalid), "{spelling}");
            assert_eq!(remembered(&verifier), (0, 1), "{spelling}");
        }
        // What comes before the signature is looked at first, as if nothing were remembered.
        assert_eq!(verify(&wrong, now + 2000), Err(Kind::Expired));
        assert!(verify(good, now).is_ok());
        assert_eq!(remembered(&verifier), (1, 1));
        // One more that is wrong in another way is another one.
        assert_eq!(
            verify(&wrong.replace("El-0", "El-1"), now),
            Err(Kind::Invalid)
        );
        assert_eq!(
            verify(&wrong.replace("run-8", "run-9"), now),
            Err(Kind::Invalid)
        );
        assert_eq!(remembered(&verifier), (1, 3));
        verifier.replace_keys(keys());
        assert_eq!(remembered(&verifier), (0, 0));
        assert_eq!(verify(&wrong, now), Err(Kind::Invalid));
        assert!(verify(good, now).is_ok());
    }

    #[test]
    fn the_time_is_good_up_to_the_allowance_and_no_longer() {
        let verifier = Verifier::new(AuthorizedKeys::default())
            .max_lifetime(Duration::from_secs(100))
            .clock_skew(Duration::from_secs(30));
        let at = |now: u64| {
            let now = UNIX_EPOCH + Duration::from_secs(now);
            verifier.check_time(1000, now).map_err(|error| error.kind())
        };
        assert_eq!(at(869), Err(Kind::ExpiresTooLate));
        assert_eq!(at(870), Ok(()));
        assert_eq!(at(1029), Ok(()));
        assert_eq!(at(1030), Err(Kind::Expired));
        let unset = UNIX_EPOCH - Duration::from_secs(1);
        assert!(verifier.check_time(1000, unset).is_err());
    }
}
