//! Why a contract is refused for its signature.
//!
//! The type is there with and without the feature `signature`, so that whoever turns decisions into answers need
//! not know which it is; only with the feature does anything make one.

use std::error::Error;
use std::fmt;

/// Why a contract is refused for its signature, or for having none (rule 15).
///
/// It holds nothing of the contract, so it may go into a log line or an answer as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignatureError {
    kind: SignatureErrorKind,
    detail: &'static str,
}

/// The kinds of [`SignatureError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SignatureErrorKind {
    /// There is no `$sig`.
    Missing,
    /// The signature is not the key's over this contract, or one of `$exp`, `$key` and `$sig` is not what it has to
    /// be.
    Invalid,
    /// The key that `$key` names is not among the authorized ones.
    UnknownKey,
    /// The time of `$exp` is over.
    Expired,
    /// The time of `$exp` is further away than is allowed.
    ExpiresTooLate,
}

impl SignatureErrorKind {
    /// A stable `snake_case` label, for metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "signature_missing",
            Self::Invalid => "signature_invalid",
            Self::UnknownKey => "unknown_key",
            Self::Expired => "expired",
            Self::ExpiresTooLate => "expires_too_late",
        }
    }
}

impl fmt::Display for SignatureErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl SignatureError {
    #[cfg(feature = "signature")]
    pub(super) const fn new(kind: SignatureErrorKind, detail: &'static str) -> Self {
        Self { kind, detail }
    }

    /// What is wrong.
    #[must_use]
    pub fn kind(&self) -> SignatureErrorKind {
        self.kind
    }

    /// What whoever sent the contract can do about it.
    #[must_use]
    pub fn advice(&self) -> &'static str {
        match self.kind {
            SignatureErrorKind::Missing => {
                "Sign it with an SSH key that is authorized here: `devroute contract ... --sign`."
            }
            SignatureErrorKind::Invalid => {
                "Sign it again, and send it as it was signed: any change after that breaks the signature."
            }
            SignatureErrorKind::UnknownKey => {
                "Have the key added to the authorized keys of this deployment, or sign with one that is there."
            }
            SignatureErrorKind::Expired => "Sign it again: `devroute contract ... --sign`.",
            SignatureErrorKind::ExpiresTooLate => {
                "Sign it for a shorter time: `devroute contract ... --sign --expires 8h`."
            }
        }
    }
}

impl fmt::Display for SignatureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            SignatureErrorKind::Missing => "it is not signed",
            SignatureErrorKind::Invalid => "its signature is not valid",
            SignatureErrorKind::UnknownKey => "it is signed with a key that is not authorized",
            SignatureErrorKind::Expired => "it has expired",
            SignatureErrorKind::ExpiresTooLate => "it expires later than is allowed",
        })?;
        if self.detail.is_empty() {
            return Ok(());
        }
        write!(f, " ({})", self.detail)
    }
}

impl Error for SignatureError {}
