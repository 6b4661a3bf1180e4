//! Where a contract rides: the field `x-devroute`, and a member of `baggage` (rules 9 and 10); at an entry that is
//! told so, a [`cookie`] too.
//!
//! The field is the contract's own text. The member holds the same, percent-encoded, so that a service which
//! knows nothing of devroute but propagates W3C Baggage carries the contract on. Where both are present the field
//! counts. Members are parsed, never searched for as text; other members are not touched.
//!
//! ```
//! use devroute_core::{Contract, carrier};
//!
//! let mut headers = http::HeaderMap::new();
//! headers.insert("baggage", "user=alice".parse()?);
//!
//! let contract: Contract = r#"{"foo":"10.0.0.1:80"}"#.parse()?;
//! assert_eq!(carrier::write(&mut headers, &contract), carrier::Written::Both);
//! assert_eq!(headers["x-devroute"], r#"{"foo":"10.0.0.1:80"}"#);
//! assert_eq!(
//!     headers["baggage"],
//!     "user=alice,devroute=%7B%22foo%22%3A%2210.0.0.1%3A80%22%7D"
//! );
//!
//! headers.remove("x-devroute"); // as a service does that propagates baggage only
//! assert_eq!(carrier::read(&headers)?, Some(contract));
//!
//! carrier::remove(&mut headers);
//! assert_eq!(headers["baggage"], "user=alice");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod baggage;
pub mod cookie;
pub mod header;

use http::{HeaderMap, HeaderName};

pub use self::baggage::{BAGGAGE, MEMBER};
pub use self::header::CONTRACT;
use crate::contract::{Contract, WellFormed};
use crate::error::ContractError;
use crate::parse::Sink;

/// The field of a rerouted request that names the service it was rerouted for (rule 7).
pub const MATCHED: HeaderName = HeaderName::from_static("x-devroute-matched");

/// The field of an answer that says what happened to a service that the contract names (rule 14).
pub const ROUTED: HeaderName = HeaderName::from_static("x-devroute-routed");

/// Which carriers hold the contract after a [`write()`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Written {
    /// The field and the member.
    Both,
    /// The field alone: a `baggage` with the member would be over a limit.
    FieldOnly(Unwritten),
}

/// Why no baggage member could be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Unwritten {
    /// The member would have more than 3072 bytes.
    MemberTooLong,
    /// The field would have more than 64 members.
    TooManyMembers,
    /// The field would have more than 8192 bytes.
    FieldTooLong,
}

impl Unwritten {
    /// A stable `snake_case` label, for metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MemberTooLong => "member_too_long",
            Self::TooManyMembers => "too_many_members",
            Self::FieldTooLong => "field_too_long",
        }
    }
}

impl std::fmt::Display for Unwritten {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Reads the contract from the field, or, without one, from the baggage member.
///
/// # Errors
///
/// When what is there is not well-formed; a malformed field is not made good by a well-formed member.
pub fn read(headers: &HeaderMap) -> Result<Option<Contract>, ContractError> {
    let found = read_into(headers, &mut ())?;
    Ok(found.map(WellFormed::into_contract))
}

/// Reads the contract and hands its members to `sink`.
pub(crate) fn read_into<'h, S: Sink>(
    headers: &'h HeaderMap,
    sink: &mut S,
) -> Result<Option<WellFormed<'h>>, ContractError> {
    match header::read_into(headers, sink)? {
        Some(contract) => Ok(Some(contract)),
        None => Ok(baggage::read_into(headers, sink)?.map(WellFormed::Owned)),
    }
}

/// Writes the contract into both carriers.
///
/// What is right already is left alone, so a second write changes nothing.
pub fn write(headers: &mut HeaderMap, contract: &Contract) -> Written {
    header::write(headers, contract);
    baggage::write(headers, contract)
}

/// Removes the contract from both carriers, whether it is well-formed or not.
pub fn remove(headers: &mut HeaderMap) {
    header::remove(headers);
    baggage::remove(headers);
}

/// Whether a request can concern devroute at all: it has the field `x-devroute`, [`MATCHED`], or any `baggage`.
///
/// This is asked about every request, and answered by one pass over the names: for as many fields as requests
/// have, that is faster than looking each of ours up, since a [`HeaderMap`] hashes a name byte by byte.
///
/// ```
/// use devroute_core::carrier;
///
/// let mut headers = http::HeaderMap::new();
/// headers.insert("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse()?);
/// assert!(!carrier::may_concern(&headers));
/// headers.insert("baggage", "user=alice".parse()?);
/// assert!(carrier::may_concern(&headers));
/// assert!(!carrier::is_present(&headers));
/// # Ok::<(), http::header::InvalidHeaderValue>(())
/// ```
#[must_use]
#[inline]
pub fn may_concern(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| {
        matches!(
            name.as_str(),
            "x-devroute" | "x-devroute-matched" | "baggage"
        )
    })
}

/// Whether either carrier is there, well-formed or not; looks at nothing but names.
#[must_use]
pub fn is_present(headers: &HeaderMap) -> bool {
    header::is_present(headers) || baggage::is_present(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_may_concern_devroute_for_each_of_its_fields() {
        for name in [CONTRACT, MATCHED, BAGGAGE] {
            let mut headers = HeaderMap::new();
            headers.insert(
                http::header::HOST,
                http::HeaderValue::from_static("checkout"),
            );
            assert!(!may_concern(&headers));
            headers.append(&name, http::HeaderValue::from_static(""));
            assert!(may_concern(&headers), "{name}");
        }
    }
}
