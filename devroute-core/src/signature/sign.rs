//! Signing: with a key at hand, or in two steps where another process holds it.

use std::error::Error;
use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use base64ct::{Base64UrlUnpadded, Encoding as _};

use super::key::{PublicKey, SIGNATURE_BYTES, SigningKey};
use super::{EXP, KEY, SIG, canonical};
use crate::contract::{Contract, Spelling};

/// Why something cannot be signed, or signed with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SigningError {
    message: &'static str,
}

impl SigningError {
    pub(super) const fn new(message: &'static str) -> Self {
        Self { message }
    }
}

impl fmt::Display for SigningError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message)
    }
}

impl Error for SigningError {}

/// A contract that lacks nothing but its signature.
///
/// For keys that another process holds, an agent of OpenSSH for example: it signs [`message`](Self::message), and
/// [`finish`](Self::finish) puts that in. With a key at hand [`SigningKey::sign_contract`] does both.
#[derive(Clone, Debug)]
pub struct ToSign {
    contract: Contract,
    key: PublicKey,
    message: Vec<u8>,
}

impl ToSign {
    /// Prepares `contract` to be signed with `key`, and to be good until `expires`, in whole seconds.
    ///
    /// A signature that it has already is replaced.
    ///
    /// # Errors
    ///
    /// When a value of the contract cannot be written without a JSON escape (only those of reserved names can be such),
    /// when it has no room for the three members, or when `expires` is before 1970.
    pub fn new(
        contract: &Contract,
        key: &PublicKey,
        expires: SystemTime,
    ) -> Result<Self, SigningError> {
        let Ok(expires) = expires.duration_since(UNIX_EPOCH) else {
            return Err(SigningError::new("the time of expiry is before 1970"));
        };
        let (expires, id) = (expires.as_secs().to_string(), key.id());
        let contract = respelled(contract, &[(EXP, &expires), (KEY, &id)])?;
        let message = canonical::text(&contract.members())
            .as_deref()
            .and_then(canonical::signed_data)
            .ok_or(SigningError::new(
                "a value has a character that JSON or a header field needs an escape for",
            ))?;
        Ok(Self {
            contract,
            key: key.clone(),
            message,
        })
    }

    /// What is to be signed: the blob of SSHSIG.
    #[must_use]
    pub fn message(&self) -> &[u8] {
        &self.message
    }

    /// The contract with `signature`, the 64 bytes of RFC 8032.
    ///
    /// # Errors
    ///
    /// When it is not the key's signature of the message, or the contract has no room for it.
    pub fn finish(self, signature: &[u8]) -> Result<Contract, SigningError> {
        if !self.key.verifies(&self.message, signature) {
            return Err(SigningError::new(
                "the signature that was made is not the key's",
            ));
        }
        respelled(
            &self.contract,
            &[(SIG, &Base64UrlUnpadded::encode_string(signature))],
        )
    }
}

impl SigningKey {
    /// Signs `contract`, to be good until `expires`, in whole seconds.
    ///
    /// # Errors
    ///
    /// As those of [`ToSign::new`].
    pub fn sign_contract(
        &self,
        contract: &Contract,
        expires: SystemTime,
    ) -> Result<Contract, SigningError> {
        let to_sign = ToSign::new(contract, self.public_key(), expires)?;
        let signature: [u8; SIGNATURE_BYTES] = self.sign(&to_sign.message);
        to_sign.finish(&signature)
    }
}

/// The contract in the order of its text, without a signature, and with `added` at its end.
fn respelled(contract: &Contract, added: &[(&str, &str)]) -> Result<Contract, SigningError> {
    let mut spelled = Spelling::default();
    contract.each(&mut |name, value| {
        if name != SIG && added.iter().all(|(new, _)| *new != name) {
            spelled.push(name, value);
        }
    });
    for (name, value) in added {
        spelled.push(name, value);
    }
    match Contract::parse(spelled.finish().as_bytes()) {
        Ok(contract) => Ok(contract),
        Err(_too_large) => Err(SigningError::new(
            "the contract has no room for a signature",
        )),
    }
}
