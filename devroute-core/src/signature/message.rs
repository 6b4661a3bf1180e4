//! Signatures of messages that are no contracts, by the same keys.
//!
//! What is signed is the blob of SSHSIG under a namespace of its own, so that a signature made for one use is none for
//! another: neither for a contract, nor for a commit, nor for a login.

use std::sync::Arc;

use ssh_key::{HashAlg, SshSig};

use super::error::{SignatureError, SignatureErrorKind as Kind};
use super::key::{PublicKey, SIGNATURE_BYTES, SigningKey};
use super::verify::Verifier;

/// What messages of one use are signed under.
///
/// ```
/// use devroute_core::signature::{AuthorizedKeys, Namespace, PrivateKeyFile, SigningKey, Verifier};
///
/// # let pem = include_bytes!("../../tests/vectors/alice");
/// # let public = include_bytes!("../../tests/vectors/alice.pub");
/// const GREETING: Namespace = Namespace::new("greeting@example.com");
/// let PrivateKeyFile::Plain(key) = SigningKey::from_openssh(pem)? else { panic!("encrypted") };
/// let verifier = Verifier::new(AuthorizedKeys::parse(public));
///
/// let signature = key.sign_message(GREETING, b"hello");
/// let id = key.public_key().id();
/// assert_eq!(&*verifier.verify_message(GREETING, &id, b"hello", &signature)?, "alice@laptop");
/// let other = Namespace::new("farewell@example.com");
/// assert!(verifier.verify_message(other, &id, b"hello", &signature).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Namespace(&'static str);

impl Namespace {
    /// The namespace of this name; an empty one signs nothing.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self(name)
    }

    /// The bytes that a key signs for `message`: the blob of SSHSIG (`PROTOCOL.sshsig` of OpenSSH), with sha512. For
    /// keys that another process holds, such as an agent of OpenSSH.
    #[must_use]
    pub fn to_sign(self, message: &[u8]) -> Vec<u8> {
        // It fails for an empty namespace only; then there is nothing that a signature could be good for.
        SshSig::signed_data(self.0, HashAlg::Sha512, message).unwrap_or_default()
    }
}

impl SigningKey {
    /// Signs a message: the 64 bytes of RFC 8032.
    #[must_use]
    pub fn sign_message(&self, namespace: Namespace, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        self.sign(&namespace.to_sign(message))
    }
}

impl PublicKey {
    /// Whether `signature` is this key's over `message`.
    #[must_use]
    pub fn verifies_message(&self, namespace: Namespace, message: &[u8], signature: &[u8]) -> bool {
        let blob = namespace.to_sign(message);
        !blob.is_empty() && self.verifies(&blob, signature)
    }
}

impl Verifier {
    /// Says whose the key with this [id](PublicKey::id) is, where `signature` is its over `message`.
    ///
    /// A message has no time of its own, and is not remembered: that it is new is for the caller to see to.
    ///
    /// # Errors
    ///
    /// When the key is not authorized, or the signature is not its.
    pub fn verify_message(
        &self,
        namespace: Namespace,
        key: &str,
        message: &[u8],
        signature: &[u8],
    ) -> Result<Arc<str>, SignatureError> {
        let keys = self.current();
        let authorized = keys
            .get(key)
            .ok_or(SignatureError::new(Kind::UnknownKey, ""))?;
        if !authorized
            .key
            .verifies_message(namespace, message, signature)
        {
            return Err(SignatureError::new(Kind::Invalid, ""));
        }
        Ok(Arc::clone(&authorized.name))
    }

    /// Whether the key with this [id](PublicKey::id) is authorized now.
    #[must_use]
    pub fn knows(&self, key: &str) -> bool {
        self.current().get(key).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{AuthorizedKeys, PrivateKeyFile};
    use super::*;

    const HERE: Namespace = Namespace::new("here");

    fn alice() -> SigningKey {
        let pem = include_bytes!("../../tests/vectors/alice");
        match SigningKey::from_openssh(pem).unwrap() {
            PrivateKeyFile::Plain(key) => key,
            PrivateKeyFile::Encrypted(_) => panic!("it is not"),
        }
    }

    #[test]
    fn a_signature_is_good_for_one_message_and_one_use() {
        let key = alice();
        let public = key.public_key();
        let signature = key.sign_message(HERE, b"hello");
        assert!(public.verifies_message(HERE, b"hello", &signature));
        assert!(!public.verifies_message(HERE, b"hellO", &signature));
        assert!(!public.verifies_message(Namespace::new("there"), b"hello", &signature));
        assert!(!public.verifies_message(HERE, b"hello", &signature[1..]));
        // The namespace of contracts: one is none for the other.
        let contract = super::super::canonical::signed_data("hello").unwrap();
        assert!(!public.verifies_message(HERE, b"hello", &key.sign(&contract)));
    }

    #[test]
    fn nothing_is_signed_under_no_name() {
        let key = alice();
        let nothing = Namespace::new("");
        assert!(nothing.to_sign(b"hello").is_empty());
        let signature = key.sign_message(nothing, b"hello");
        assert!(
            !key.public_key()
                .verifies_message(nothing, b"hello", &signature)
        );
    }

    #[test]
    fn who_is_not_authorized_any_more_is_nobody() {
        let key = alice();
        let id = key.public_key().id();
        let signature = key.sign_message(HERE, b"hello");
        let verifier = Verifier::new(AuthorizedKeys::parse(include_bytes!(
            "../../tests/vectors/alice.pub"
        )));
        assert!(verifier.knows(&id));
        assert!(
            verifier
                .verify_message(HERE, &id, b"hello", &signature)
                .is_ok()
        );
        verifier.replace_keys(AuthorizedKeys::default());
        assert!(!verifier.knows(&id));
        let error = verifier
            .verify_message(HERE, &id, b"hello", &signature)
            .unwrap_err();
        assert_eq!(error.kind(), Kind::UnknownKey);
    }
}
