//! Signatures: who made a contract, and until when it is good (rule 15).
//!
//! A signature rides inside the contract, in three members that a peer which knows nothing of them ignores: `$exp`
//! is when it ends, `$key` which key made it, `$sig` the signature. Keys are those that developers have: Ed25519 keys
//! of OpenSSH, in files or in an agent. Who is authorized is an [`AuthorizedKeys`] file, as for sshd.
//!
//! | to | use |
//! |---|---|
//! | refuse what is not signed | [`Verifier`], with [`Selector::verifier`](crate::Selector::verifier) |
//! | sign with a key file | [`SigningKey::from_openssh`], [`SigningKey::sign_contract`] |
//! | sign with a key that another process holds | [`ToSign`] |
//! | sign something that is no contract | [`Namespace`] |
//!
//! Ed25519 is that of `ring`, which whoever speaks TLS by rustls has already; the formats of OpenSSH and the blob that is
//! signed (SSHSIG) are those of `ssh-key`.
//!
#![cfg_attr(feature = "signature", doc = "```")]
#![cfg_attr(not(feature = "signature"), doc = "```ignore")]
//! use std::time::{Duration, SystemTime};
//! use devroute_core::signature::{AuthorizedKeys, PrivateKeyFile, SigningKey, Verifier};
//! use devroute_core::{Contract, SignatureErrorKind};
//!
//! # let pem = include_bytes!("../../tests/vectors/alice");
//! # let public = include_bytes!("../../tests/vectors/alice.pub");
//! // ~/.ssh/id_ed25519, and its line in the cluster's file.
//! let PrivateKeyFile::Plain(key) = SigningKey::from_openssh(pem)? else { panic!("encrypted") };
//! let verifier = Verifier::new(AuthorizedKeys::parse(public));
//!
//! let contract: Contract = r#"{"foo":"192.168.1.12:8001"}"#.parse()?;
//! let now = SystemTime::now();
//! let signed = key.sign_contract(&contract, now + Duration::from_secs(8 * 3600))?;
//! assert_eq!(signed.get("foo"), contract.get("foo"));
//! assert_eq!(verifier.verify(&signed, now)?.as_deref(), Some("alice@laptop"));
//!
//! let changed: Contract = signed.to_string().replace("1.12", "1.13").parse()?;
//! let error = verifier.verify(&changed, now).unwrap_err();
//! assert_eq!(error.kind(), SignatureErrorKind::Invalid);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[cfg(feature = "signature")]
mod authorized_keys;
#[cfg(feature = "signature")]
mod cache;
#[cfg(feature = "signature")]
mod canonical;
mod error;
#[cfg(feature = "signature")]
mod key;
#[cfg(feature = "signature")]
mod message;
#[cfg(feature = "signature")]
mod sign;
#[cfg(feature = "signature")]
mod verify;

pub use self::error::{SignatureError, SignatureErrorKind};
#[cfg(feature = "signature")]
pub use self::{
    authorized_keys::{AuthorizedKeys, SkippedLine},
    key::{PrivateKeyFile, PublicKey, SigningKey},
    message::Namespace,
    sign::{SigningError, ToSign},
    verify::{Verifier, expires},
};

/// The reserved name of the time of expiry, in unix seconds.
#[cfg(feature = "signature")]
const EXP: &str = "$exp";
/// The reserved name of the key's id.
#[cfg(feature = "signature")]
const KEY: &str = "$key";
/// The reserved name of the signature.
#[cfg(feature = "signature")]
const SIG: &str = "$sig";
