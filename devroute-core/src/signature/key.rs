//! Ed25519 keys in the formats of OpenSSH.

use std::fmt;

use base64ct::{Base64UrlUnpadded, Encoding as _};
use ring::signature::{ED25519, Ed25519KeyPair, UnparsedPublicKey};
use ssh_key::public::{Ed25519PublicKey, KeyData};
use ssh_key::{Algorithm, HashAlg};

use super::sign::SigningError;

/// The bytes of a signature of Ed25519.
pub(super) const SIGNATURE_BYTES: usize = 64;

/// A public key of Ed25519, and the comment that names whose it is.
///
/// ```
/// use devroute_core::signature::PublicKey;
///
/// let line = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDHz9XpnTjH/7YMFd5nbDPAEuia+xNRj6Jr82WT/lOso alice@laptop";
/// let key = PublicKey::from_openssh(line)?;
/// assert_eq!(key.comment(), "alice@laptop");
/// // What `ssh-keygen -l` prints, and the same as it stands in `$key`.
/// assert!(key.fingerprint().starts_with("SHA256:"));
/// assert_eq!(key.id().len(), 43);
/// # Ok::<(), devroute_core::signature::SigningError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    bytes: [u8; 32],
    comment: String,
}

impl PublicKey {
    /// Reads one line of OpenSSH: `ssh-ed25519`, the key in base64, and what follows as the comment.
    ///
    /// # Errors
    ///
    /// When it is not such a line, or the key is of another type.
    pub fn from_openssh(line: &str) -> Result<Self, SigningError> {
        let mut rest = line.trim();
        let mut token = || {
            let (token, behind) = rest.split_once([' ', '\t']).unwrap_or((rest, ""));
            rest = behind.trim_start_matches([' ', '\t']);
            token
        };
        let (kind, base64) = (token(), token());
        if kind != Algorithm::Ed25519.as_str() {
            return Err(SigningError::new(NOT_ED25519));
        }
        // Only these two, because a comment may hold anything.
        match ssh_key::PublicKey::from_openssh(&format!("{kind} {base64}")) {
            Ok(key) => Self::of(key.key_data(), rest),
            Err(_malformed) => Err(SigningError::new("not a key in the format of OpenSSH")),
        }
    }

    /// Reads the key as agents of OpenSSH send it (RFC 8709 section 4).
    ///
    /// # Errors
    ///
    /// When it is not a key, or one of another type.
    pub fn from_blob(blob: &[u8], comment: &str) -> Result<Self, SigningError> {
        match ssh_key::PublicKey::from_bytes(blob) {
            Ok(key) => Self::of(key.key_data(), comment),
            Err(_malformed) => Err(SigningError::new("not a key in the format of OpenSSH")),
        }
    }

    fn of(key: &KeyData, comment: &str) -> Result<Self, SigningError> {
        let key = key.ed25519().ok_or(SigningError::new(NOT_ED25519))?;
        // It ends up in logs.
        let printable = |c: char| {
            if c.is_control() {
                char::REPLACEMENT_CHARACTER
            } else {
                c
            }
        };
        let comment: String = comment
            .trim()
            .chars()
            .take(MAX_COMMENT)
            .map(printable)
            .collect();
        Ok(Self {
            bytes: key.0,
            comment: comment.trim_end().to_owned(),
        })
    }

    /// The key as agents of OpenSSH expect it (RFC 8709 section 4).
    #[must_use]
    pub fn to_blob(&self) -> Vec<u8> {
        // An encoder can only fail for want of memory.
        self.to_ssh().to_bytes().unwrap_or_default()
    }

    /// What `$key` says: the SHA-256 of the key in base64url, 43 characters.
    #[must_use]
    pub fn id(&self) -> String {
        let hash = self.to_ssh().fingerprint(HashAlg::Sha256);
        Base64UrlUnpadded::encode_string(hash.as_bytes())
    }

    /// The same as `ssh-keygen -l` prints it: `SHA256:` and base64.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        self.to_ssh().fingerprint(HashAlg::Sha256).to_string()
    }

    /// The comment, which by convention names who has the key; control characters are replaced.
    #[must_use]
    pub fn comment(&self) -> &str {
        &self.comment
    }

    /// The comment, or where there is none the fingerprint.
    #[must_use]
    pub fn name(&self) -> String {
        if self.comment.is_empty() {
            return self.fingerprint();
        }
        self.comment.clone()
    }

    /// Whether `signature` is this key's over `message`.
    ///
    /// All of it is public, so the time that it takes tells nothing.
    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.bytes)
            .verify(message, signature)
            .is_ok()
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn to_ssh(&self) -> ssh_key::PublicKey {
        ssh_key::PublicKey::from(KeyData::Ed25519(Ed25519PublicKey(self.bytes)))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublicKey")
            .field("fingerprint", &self.fingerprint())
            .field("comment", &self.comment)
            .finish()
    }
}

const NOT_ED25519: &str = "only keys of the type ssh-ed25519 sign contracts";
const MAX_COMMENT: usize = 128;

/// A private key of Ed25519 that is not encrypted.
///
/// Signing takes the same time whatever the key is.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

/// What a file of a private key holds.
#[derive(Debug)]
#[non_exhaustive]
pub enum PrivateKeyFile {
    /// A key to sign with.
    Plain(SigningKey),
    /// A key that is encrypted, so that only an agent that holds it can sign; this is its public half.
    Encrypted(PublicKey),
}

impl SigningKey {
    /// Reads the text of a private key, as `ssh-keygen -t ed25519` writes it.
    ///
    /// # Errors
    ///
    /// When it is no private key in the format of OpenSSH, or one of another type.
    pub fn from_openssh(pem: &[u8]) -> Result<PrivateKeyFile, SigningError> {
        let key = ssh_key::PrivateKey::from_openssh(pem).map_err(|error| match error {
            ssh_key::Error::AlgorithmUnknown | ssh_key::Error::AlgorithmUnsupported { .. } => {
                SigningError::new(NOT_ED25519)
            }
            _ => SigningError::new("not a private key in the format of OpenSSH"),
        })?;
        let public = PublicKey::of(key.public_key().key_data(), key.comment())?;
        if key.is_encrypted() {
            return Ok(PrivateKeyFile::Encrypted(public));
        }
        let pair = key.key_data().ed25519().and_then(|pair| {
            // It checks that the halves belong together: a signature by halves that do not gives the key away.
            Ed25519KeyPair::from_seed_and_public_key(pair.private.as_ref(), &public.bytes).ok()
        });
        match pair {
            Some(pair) => Ok(PrivateKeyFile::Plain(Self { pair, public })),
            None => Err(SigningError::new(
                "the two halves of the key do not belong together",
            )),
        }
    }

    /// The public half.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        &self.public
    }

    pub(super) fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        let mut bytes = [0; SIGNATURE_BYTES];
        let signature = self.pair.sign(message);
        for (byte, signed) in bytes.iter_mut().zip(signature.as_ref()) {
            *byte = *signed;
        }
        bytes
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey")
            .field("public", &self.public)
            .finish_non_exhaustive()
    }
}
