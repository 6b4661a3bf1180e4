//! What there is to say about the signature of a contract, in words for the command line.

use std::fmt::Write as _;
use std::time::SystemTime;

use devroute_tower::core::signature::{Verifier, expires};
use devroute_tower::core::{Contract, SignatureError};
use serde_json::{Value, json};

use crate::records::format_time;

/// A signature, as far as it can be told what it is worth.
#[derive(Debug)]
pub(crate) struct Signature {
    verdict: Verdict,
    /// The id of the key, as the contract says.
    key: Option<String>,
    expires: Option<SystemTime>,
}

#[derive(Debug)]
enum Verdict {
    /// There is none, and no keys that would ask for one.
    None,
    /// The contract names no service, so none is needed.
    NotNeeded,
    /// There are no keys to verify it with.
    NotVerified,
    /// Of whom it is.
    Good(String),
    Refused(SignatureError),
}

impl Signature {
    pub(crate) fn of(contract: &Contract, verifier: Option<&Verifier>) -> Self {
        let member = |wanted: &str| {
            let mut reserved = contract.reserved();
            reserved
                .find(|(name, _)| name == wanted)
                .map(|(_, value)| value)
        };
        let verdict = match verifier {
            Some(verifier) => match verifier.verify(contract, SystemTime::now()) {
                Ok(Some(name)) => Verdict::Good(name.to_string()),
                Ok(None) => Verdict::NotNeeded,
                Err(error) => Verdict::Refused(error),
            },
            None if member("$sig").is_some() => Verdict::NotVerified,
            None => Verdict::None,
        };
        Self {
            verdict,
            key: member("$key"),
            expires: expires(contract),
        }
    }

    pub(crate) fn is_allowed(&self) -> bool {
        !matches!(self.verdict, Verdict::Refused(_))
    }

    /// A line about it, if there is anything to say.
    pub(crate) fn human(&self) -> Option<String> {
        let mut text = match &self.verdict {
            Verdict::None | Verdict::NotNeeded => return None,
            Verdict::NotVerified => "signed, not verified (--authorized-keys FILE)".to_owned(),
            Verdict::Good(name) => format!("signed by {name}"),
            Verdict::Refused(error) => {
                return Some(format!("refused: {error}. {}", error.advice()));
            }
        };
        if let Some(expires) = self.expires {
            let until = format_time(expires);
            // Who does not know the key can still see that.
            let over = if expires <= SystemTime::now() {
                "expired at"
            } else {
                "good until"
            };
            let _ = write!(text, ", {over} {until}");
        }
        Some(text)
    }

    pub(crate) fn json(&self) -> Value {
        let (verdict, signed_by, cause) = match &self.verdict {
            Verdict::None => return Value::Null,
            Verdict::NotNeeded => ("not_needed", None, None),
            Verdict::NotVerified => ("not_verified", None, None),
            Verdict::Good(name) => ("good", Some(name), None),
            Verdict::Refused(error) => ("refused", None, Some(error.kind().as_str())),
        };
        json!({
            "verdict": verdict,
            "signed_by": signed_by,
            "cause": cause,
            "key": self.key,
            "expires": self.expires.map(format_time),
        })
    }
}
