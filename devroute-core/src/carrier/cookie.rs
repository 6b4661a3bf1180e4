//! The cookie `devroute`: the contract's text, percent-encoded, for what cannot set fields.
//!
//! A browser's `WebSocket` and `EventSource` send cookies and nothing else that a page could choose. So an *entry*
//! may be told to read this carrier too; nobody else does, and it goes no further: [`to_field`] takes the cookie
//! off, and writes the field `x-devroute` where no other carrier is there (rule 9). Other cookies keep their bytes.
//!
//! The value is read as that of a member of baggage is, up to eight layers of encoding. Twice is malformed, even
//! with equal values: a browser sends two where two hosts or paths have set one each, and which one comes first is
//! nothing to rely on.
//!
//! ```
//! use devroute_core::carrier::{self, cookie};
//!
//! let mut headers = http::HeaderMap::new();
//! headers.insert("cookie", "a=1; devroute=%7B%22foo%22%3A%2210.0.0.1%3A80%22%7D; b=2".parse()?);
//! assert_eq!(carrier::read(&headers)?, None);
//!
//! cookie::to_field(&mut headers)?;
//! assert_eq!(headers["cookie"], "a=1; b=2");
//! assert_eq!(headers["x-devroute"], r#"{"foo":"10.0.0.1:80"}"#);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use http::header::{COOKIE, Entry};
use http::{HeaderMap, HeaderValue};

use super::{baggage, header};
use crate::contract::Contract;
use crate::error::{ContractError, ContractErrorKind};

/// The name of the cookie, compared exactly.
pub const NAME: &str = "devroute";

/// Reads the contract from the cookie alone.
///
/// # Errors
///
/// When the cookie is there twice, or its value is not well-formed.
pub fn read(headers: &HeaderMap) -> Result<Option<Contract>, ContractError> {
    let mut values = our_values(headers);
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => baggage::decode(value).map(Some).map_err(of_cookie(value)),
        (Some(_), Some(_)) => Err(ContractError::new(ContractErrorKind::RepeatedCookie)),
    }
}

/// What does not decode is no fault of a member of baggage here.
fn of_cookie(value: &[u8]) -> impl FnOnce(ContractError) -> ContractError {
    move |error| match error.kind() {
        ContractErrorKind::InvalidBaggage => {
            ContractError::new(ContractErrorKind::InvalidCookie).found(value)
        }
        _ => error,
    }
}

/// The contract as the cookie's value: a member's, which is made of nothing that RFC 6265 forbids in a cookie.
#[must_use]
pub fn encode(contract: &Contract) -> String {
    baggage::encode(contract)
}

/// Takes the cookie off and, where neither the field nor the member is there, writes its contract into the field.
///
/// Without the cookie nothing is changed, and nothing is allocated.
///
/// # Errors
///
/// When there is no other carrier and the cookie is malformed; it is taken off then, too.
pub fn to_field(headers: &mut HeaderMap) -> Result<(), ContractError> {
    if !is_present(headers) {
        return Ok(());
    }
    // Another carrier counts, well-formed or not (rule 9).
    let found = if super::is_present(headers) {
        Ok(None)
    } else {
        read(headers)
    };
    remove(headers);
    if let Some(contract) = found? {
        header::write(headers, &contract);
    }
    Ok(())
}

/// Removes the cookie; others keep their bytes and lines, and a line that held nothing else goes.
pub fn remove(headers: &mut HeaderMap) {
    if !is_present(headers) {
        return;
    }
    let Entry::Occupied(lines) = headers.entry(COOKIE) else {
        return;
    };
    let (_, lines) = lines.remove_entry_mult();
    let lines: Vec<HeaderValue> = lines.filter_map(without_ours).collect();
    for line in lines {
        headers.append(COOKIE, line);
    }
}

fn without_ours(line: HeaderValue) -> Option<HeaderValue> {
    let is_other = |cookie: &&[u8]| our_value(cookie).is_none();
    if cookies(line.as_bytes()).all(|cookie| is_other(&cookie)) {
        return Some(line);
    }
    let rest: Vec<&[u8]> = cookies(line.as_bytes()).filter(is_other).collect();
    match rest.join(&b';').trim_ascii() {
        b"" => None,
        rest => HeaderValue::from_bytes(rest).ok(),
    }
}

/// Whether the cookie is there, well-formed or not.
#[must_use]
pub fn is_present(headers: &HeaderMap) -> bool {
    our_values(headers).next().is_some()
}

/// The values of our cookies in all lines: HTTP/2 may split what HTTP/1.1 has in one.
fn our_values(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    headers
        .get_all(COOKIE)
        .iter()
        .flat_map(|line| cookies(line.as_bytes()))
        .filter_map(our_value)
}

/// The cookies of a line, with the blanks around them.
fn cookies(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|byte| *byte == b';')
}

/// The value of our cookie. What has no `=` is a cookie without a name, and somebody else's.
fn our_value(cookie: &[u8]) -> Option<&[u8]> {
    let rest = cookie.trim_ascii_start().strip_prefix(NAME.as_bytes())?;
    let value = rest.trim_ascii_start().strip_prefix(b"=")?;
    Some(value.trim_ascii())
}
