//! The member `devroute` of `baggage` (W3C Baggage): the contract's text, percent-encoded.
//!
//! Reading is generous: any number of lines, properties, and up to eight layers of encoding, since some SDKs add
//! one at every hop; even raw JSON, as long as no comma cuts it. But two different members, or one that does not
//! decode to an object, are malformed: nothing is guessed.
//!
//! Writing is strict, because SDKs lose what is not: one line, the member encoded once, everything outside
//! `A-Z a-z 0-9 - . _ ~` as `%XX`, no `%` in what it decodes to, and within the limits that all of them keep.
//!
//! ```
//! use devroute_core::{Contract, carrier::baggage};
//!
//! let contract: Contract = r#"{"foo": "10.0.0.1:80"}"#.parse()?;
//! let value = baggage::encode(&contract);
//! assert_eq!(value, "%7B%22foo%22%3A%2210.0.0.1%3A80%22%7D");
//! assert_eq!(baggage::decode(value.as_bytes())?, contract);
//! assert_eq!(baggage::decode(value.replace('%', "%25").as_bytes())?, contract);
//! # Ok::<(), devroute_core::ContractError>(())
//! ```

use std::borrow::Cow;

use http::header::Entry;
use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{percent_decode, percent_encode_byte};

use super::{Unwritten, Written};
use crate::contract::Contract;
use crate::error::{ContractError, ContractErrorKind};
use crate::parse::{MAX_BYTES, Sink, is_blank};
use crate::text;

/// The field of W3C Baggage.
pub const BAGGAGE: HeaderName = HeaderName::from_static("baggage");

/// The key of our member, compared exactly.
pub const MEMBER: &str = "devroute";

/// How many layers of percent encoding are taken off at most (rule 9).
const MAX_LAYERS: usize = 8;
/// The most bytes that the longest contract can have behind that many layers: the first makes three bytes of
/// one, each other one adds two.
const MAX_ENCODED: usize = MAX_BYTES * (1 + 2 * MAX_LAYERS);
/// What a written member may have: name, `=` and value.
const MAX_MEMBER_BYTES: usize = 3 * 1024;
/// What a written field may have (W3C Baggage asks everybody to take as much).
const MAX_FIELD_BYTES: usize = 8 * 1024;
const MAX_FIELD_MEMBERS: usize = 64;

/// What stands before the value of our member.
const KEY: &str = "devroute=";

/// Reads the contract from the member alone.
///
/// # Errors
///
/// When a member is not well-formed, or two of them differ.
pub fn read(headers: &HeaderMap) -> Result<Option<Contract>, ContractError> {
    read_into(headers, &mut ())
}

pub(super) fn read_into<S: Sink>(
    headers: &HeaderMap,
    sink: &mut S,
) -> Result<Option<Contract>, ContractError> {
    let mut values = our_values(headers);
    let Some(first) = values.next() else {
        return Ok(None);
    };
    let contract = decode_into(first, sink)?;
    for value in values {
        if value != first && decode(value)? != contract {
            return Err(ContractError::new(ContractErrorKind::UnequalBaggage));
        }
    }
    Ok(Some(contract))
}

/// The contract as a member's value.
///
/// What it decodes to has no `%`, which takes six bytes there. So a contract of several KiB that has many may become one
/// that is too long to be [read](decode); [`write()`] does not write those.
#[must_use]
pub fn encode(contract: &Contract) -> String {
    // It is ASCII.
    String::from_utf8(encode_behind("", contract)).unwrap_or_default()
}

/// The contract as a member's value, behind `prefix`.
///
/// This runs for every request that carries a contract on, so it is one pass with one look at a table for each
/// byte: `percent_encoding` goes through JSON in pieces of one or two bytes.
fn encode_behind(prefix: &str, contract: &Contract) -> Vec<u8> {
    let text = contract.header_value().as_bytes();
    let mut out = Vec::with_capacity(prefix.len() + 3 * text.len());
    out.extend_from_slice(prefix.as_bytes());
    if !push_encoded(&mut out, text) {
        out.truncate(prefix.len());
        push_encoded(&mut out, text::compact(contract.as_str()).as_bytes());
    }
    out
}

/// Appends `text` percent-encoded, as far as it is [compact](text::compact); whether all of it is. Most contracts are:
/// programs write them.
fn push_encoded(out: &mut Vec<u8>, text: &[u8]) -> bool {
    for &byte in text {
        if text::is_unreserved(byte) {
            out.push(byte);
        } else if text::stays_in_string(byte) {
            out.extend_from_slice(percent_encode_byte(byte).as_bytes());
        } else {
            return false;
        }
    }
    true
}

/// Reads the contract from a member's value, properties taken off.
///
/// # Errors
///
/// When the value is not an object after at most eight decodings, or the object is not well-formed.
pub fn decode(value: &[u8]) -> Result<Contract, ContractError> {
    decode_into(value, &mut ())
}

fn decode_into<S: Sink>(value: &[u8], sink: &mut S) -> Result<Contract, ContractError> {
    let malformed = || ContractError::new(ContractErrorKind::InvalidBaggage).found(value);
    if value.len() > MAX_ENCODED {
        return Err(ContractError::new(ContractErrorKind::TooLong));
    }
    let mut text = Cow::Borrowed(value);
    for _ in 0..MAX_LAYERS {
        if is_object(&text) {
            break;
        }
        match Cow::from(percent_decode(&text)) {
            // Nothing was encoded any more.
            Cow::Borrowed(_) => return Err(malformed()),
            Cow::Owned(decoded) => text = Cow::Owned(decoded),
        }
    }
    if !is_object(&text) {
        return Err(malformed());
    }
    Contract::parse_into(&text, sink)
}

/// Whether this is JSON already: a brace is not enough, for some SDKs leave it and encode only the quotes.
fn is_object(text: &[u8]) -> bool {
    let mut tokens = text.iter().filter(|byte| !is_blank(char::from(**byte)));
    tokens.next() == Some(&b'{') && matches!(tokens.next(), Some(b'"' | b'}'))
}

/// Writes the contract into the member alone.
///
/// All `baggage` lines become one, other members keep their bytes. When the member cannot be written within the
/// limits, one that differs from the contract is removed and one that equals it stays.
pub fn write(headers: &mut HeaderMap, contract: &Contract) -> Written {
    let ours = encode_behind(KEY, contract);
    if is_written(headers, &ours) {
        return Written::Both;
    }
    match joined(headers, ours) {
        Ok(line) => {
            headers.insert(BAGGAGE, line);
            Written::Both
        }
        Err(reason) => {
            // The same contract in another spelling is as good; a different or malformed one would speak where
            // the field gets lost.
            if matches!(read(headers), Ok(Some(found)) if found == *contract) {
                return Written::Both;
            }
            remove(headers);
            Written::FieldOnly(reason)
        }
    }
}

/// Whether there is one line, within the limits, with our member once and as we write it.
fn is_written(headers: &HeaderMap, written: &[u8]) -> bool {
    let mut lines = headers.get_all(BAGGAGE).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else {
        return false;
    };
    let line = line.as_bytes();
    let mut ours = members(line).filter(|member| is_ours(member));
    ours.next() == Some(written)
        && ours.next().is_none()
        && check_limits(line.len(), members(line).count()).is_ok()
}

/// All lines as one, with our member where the first one stood, or at the end.
fn joined(headers: &HeaderMap, ours: Vec<u8>) -> Result<HeaderValue, Unwritten> {
    if ours.len() > MAX_MEMBER_BYTES {
        return Err(Unwritten::MemberTooLong);
    }
    if !headers.contains_key(BAGGAGE) {
        return HeaderValue::try_from(ours).or(Err(Unwritten::FieldTooLong));
    }
    let mut ours = Some(&*ours);
    let mut line = Line::default();
    for member in headers
        .get_all(BAGGAGE)
        .iter()
        .flat_map(|line| members(line.as_bytes()))
    {
        if is_ours(member) {
            ours.take().into_iter().for_each(|ours| line.push(ours));
        } else {
            line.push(member);
        }
    }
    ours.into_iter().for_each(|ours| line.push(ours));

    check_limits(line.bytes.trim_ascii().len(), line.members)?;
    // Pieces of values, put together with commas, are a value.
    HeaderValue::from_bytes(line.bytes.trim_ascii()).or(Err(Unwritten::FieldTooLong))
}

fn check_limits(bytes: usize, members: usize) -> Result<(), Unwritten> {
    if members > MAX_FIELD_MEMBERS {
        Err(Unwritten::TooManyMembers)
    } else if bytes > MAX_FIELD_BYTES {
        Err(Unwritten::FieldTooLong)
    } else {
        Ok(())
    }
}

/// Removes our members; other members keep their bytes and lines, a line that held nothing else goes.
pub fn remove(headers: &mut HeaderMap) {
    if !is_present(headers) {
        return;
    }
    let Entry::Occupied(lines) = headers.entry(BAGGAGE) else {
        return;
    };
    let (_, lines) = lines.remove_entry_mult();
    let lines: Vec<HeaderValue> = lines.filter_map(without_ours).collect();
    for line in lines {
        headers.append(BAGGAGE, line);
    }
}

fn without_ours(line: HeaderValue) -> Option<HeaderValue> {
    if !members(line.as_bytes()).any(is_ours) {
        return Some(line);
    }
    let mut rest = Line::default();
    members(line.as_bytes())
        .filter(|member| !is_ours(member))
        .for_each(|other| rest.push(other));
    match rest.bytes.trim_ascii() {
        b"" => None,
        rest => HeaderValue::from_bytes(rest).ok(),
    }
}

/// Whether our member is there, well-formed or not.
#[must_use]
pub fn is_present(headers: &HeaderMap) -> bool {
    our_values(headers).next().is_some()
}

/// Members with commas between them.
#[derive(Default)]
struct Line {
    bytes: Vec<u8>,
    members: usize,
}

impl Line {
    fn push(&mut self, member: &[u8]) {
        if self.members > 0 {
            self.bytes.push(b',');
        }
        self.members += 1;
        self.bytes.extend_from_slice(member);
    }
}

/// The members of a line with the blanks around them; a comma always ends one, and empty ones are none.
fn members(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|byte| *byte == b',')
        .filter(|member| !member.trim_ascii().is_empty())
}

fn is_ours(member: &[u8]) -> bool {
    our_value(member).is_some()
}

/// The values of our members in all lines.
fn our_values(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    headers
        .get_all(BAGGAGE)
        .iter()
        .flat_map(|line| members(line.as_bytes()))
        .filter_map(our_value)
}

/// The value of our member without its properties; nothing stands for one that has no `=`.
fn our_value(member: &[u8]) -> Option<&[u8]> {
    let rest = member
        .trim_ascii_start()
        .strip_prefix(MEMBER.as_bytes())?
        .trim_ascii_start();
    match rest.split_first() {
        None | Some((b';', _)) => Some(b""),
        Some((b'=', value)) => value
            .split(|byte| *byte == b';')
            .next()
            .map(<[u8]>::trim_ascii),
        Some(_) => None,
    }
}
