//! The one pass over a contract's text.
//!
//! Everything that reads a contract reads it here: the full parse, the search for one service, the iteration.
//! They differ in the [`Sink`] that the members go to, so they cannot differ in what they call malformed
//! (rule 4).
//!
//! The JSON is read by hand (see `scan`): the grammar that rule 1 leaves, one object of strings, is a page; every
//! error knows its byte; nothing is built or copied that is not spelled with escapes; and it takes a fraction of
//! the time of a general reader, on every request that carries a contract. Tests hold it against serde_json.
//!
//! It refuses all of rule 1: what is not one JSON object of strings, a key twice (however it is spelled),
//! bytes after the object, more than [`MAX_BYTES`] or [`MAX_MEMBERS`].

mod scan;
mod seen;

use std::borrow::Cow;

use self::scan::{Fault, RESERVED, Scanner};
use self::seen::Seen;
use crate::error::{ContractError, ContractErrorKind as Kind, TargetError};
use crate::service_name;
use crate::target::TargetRef;

pub(crate) use self::scan::is_blank;

/// The most bytes of a contract (rule 1).
pub(crate) const MAX_BYTES: usize = 8 * 1024;
/// The most members of a contract, reserved ones included (rule 1).
pub(crate) const MAX_MEMBERS: usize = 64;
/// The reserved name of the test run (rule 15).
pub(crate) const ID: &str = "$id";
/// The most bytes of a `$id` (rule 15).
const MAX_ID: usize = 64;

/// One well-formed member.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Member<'a> {
    /// A service and its target, as text and as read.
    Service {
        name: Text<'a>,
        value: Text<'a>,
        target: TargetRef<'a>,
    },
    /// A `$` name, dollar included, and its value.
    Reserved { name: Text<'a>, value: Text<'a> },
}

/// Text that was read as bytes: to be compared, as nearly all of it is, it need not be proven to be UTF-8.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Text<'a>(&'a [u8]);

impl<'a> Text<'a> {
    #[inline]
    pub(crate) fn is(self, other: &str) -> bool {
        let other = other.as_bytes();
        // Most names of one length differ in their last byte.
        self.0.len() == other.len() && self.0.last() == other.last() && self.0 == other
    }

    /// The text; nothing stands for what the parser cannot have let through.
    pub(crate) fn as_str(self) -> &'a str {
        std::str::from_utf8(self.0).unwrap_or_default()
    }
}

/// Where the members go, in the order of the text; what it got is worth nothing when the parse fails later on.
pub(crate) trait Sink {
    fn member(&mut self, member: Member<'_>);
}

/// For callers that only want the verdict.
impl Sink for () {
    fn member(&mut self, _: Member<'_>) {}
}

impl<F: FnMut(Member<'_>)> Sink for F {
    fn member(&mut self, member: Member<'_>) {
        self(member);
    }
}

/// Reads `bytes` as a contract and hands every member to `sink`.
///
/// Nothing checks beforehand that they are UTF-8: what the scanner passes is.
pub(crate) fn parse<S: Sink>(bytes: &[u8], sink: &mut S) -> Result<(), ContractError> {
    if bytes.len() > MAX_BYTES {
        return Err(ContractError::new(Kind::TooLong).at(MAX_BYTES));
    }
    object(bytes, sink).map_err(|error| match std::str::from_utf8(bytes) {
        Ok(_) => error,
        // What is not even text has no other error, wherever the reading came to its end.
        Err(invalid) => invalid_utf8(bytes, invalid),
    })
}

fn object<S: Sink>(text: &[u8], sink: &mut S) -> Result<(), ContractError> {
    let mut scan = Scanner::new(text);
    if !scan.token(b'{') {
        return Err(here(&scan, Kind::NotAnObject));
    }
    if !scan.token(b'}') {
        let mut seen = Seen::new(text);
        loop {
            member(&mut scan, &mut seen, sink)?;
            if scan.token(b',') {
                continue;
            }
            if scan.token(b'}') {
                break;
            }
            return Err(here(&scan, Kind::Syntax).detail("`,` or `}`"));
        }
    }
    scan.skip_blanks();
    if !scan.rest().is_empty() {
        return Err(here(&scan, Kind::TrailingBytes));
    }
    Ok(())
}

fn member<'t, S: Sink>(
    scan: &mut Scanner<'t>,
    seen: &mut Seen<'t>,
    sink: &mut S,
) -> Result<(), ContractError> {
    if !scan.token(b'"') {
        return Err(here(scan, Kind::Syntax).detail("a name in quotes"));
    }
    let name_at = scan.offset();
    let copied;
    let (name, is_new) = match scan.name() {
        Some(name) => (name, seen.insert(name_at, name)),
        None => {
            copied = unusual_name(scan)?;
            (copied.as_bytes(), seen.insert_copy(copied.as_bytes()))
        }
    };
    if let Err(kind) = is_new {
        return Err(ContractError::new(kind).at(name_at).found(name));
    }

    if !scan.token(b':') {
        return Err(here(scan, Kind::Syntax).detail("`:` after a name"));
    }
    if !scan.token(b'"') {
        let kind = if scan.is_at_value() {
            Kind::NotAString
        } else {
            Kind::Syntax
        };
        return Err(here(scan, kind));
    }
    if name.first() == Some(&RESERVED) {
        return reserved(scan, name, sink);
    }
    match scan.plain_target() {
        Some((value, target)) => sink.member(Member::Service {
            name: Text(name),
            value: Text(value),
            target,
        }),
        None => unusual_target(scan, name, sink)?,
    }
    Ok(())
}

/// A name that is spelled with escapes, or none at all.
#[cold]
fn unusual_name(scan: &mut Scanner<'_>) -> Result<String, ContractError> {
    let name_at = scan.offset();
    let name = scan.string().map_err(syntax)?;
    if service_name::is_name(name.strip_prefix(char::from(RESERVED)).unwrap_or(&name)) {
        Ok(name.into_owned())
    } else {
        Err(ContractError::new(Kind::InvalidName)
            .at(name_at)
            .found(name.as_bytes()))
    }
}

/// The value of a reserved member.
fn reserved<S: Sink>(
    scan: &mut Scanner<'_>,
    name: &[u8],
    sink: &mut S,
) -> Result<(), ContractError> {
    let value_at = scan.offset();
    let value = scan.string().map_err(syntax)?;
    if name == ID.as_bytes() {
        check_id(&value).map_err(|error| error.at(value_at))?;
    }
    sink.member(Member::Reserved {
        name: Text(name),
        value: Text(value.as_bytes()),
    });
    Ok(())
}

/// A target with a scheme, a name, IPv6 or escapes, or none at all.
fn unusual_target<S: Sink>(
    scan: &mut Scanner<'_>,
    name: &[u8],
    sink: &mut S,
) -> Result<(), ContractError> {
    let value_at = scan.offset();
    let value = scan.string().map_err(syntax)?;
    let target = TargetRef::parse(&value).map_err(|error| {
        // Behind an escape the bytes of the value are not those of the text.
        let is_text = matches!(value, Cow::Borrowed(_));
        let inside = error.offset().filter(|_| is_text).unwrap_or_default();
        bad_target(value_at + inside, &value, &error)
    })?;
    sink.member(Member::Service {
        name: Text(name),
        value: Text(value.as_bytes()),
        target,
    });
    Ok(())
}

/// Says whether `value` may be a `$id` (rule 15).
pub(crate) fn check_id(value: &str) -> Result<(), ContractError> {
    let is_id =
        (1..=MAX_ID).contains(&value.len()) && value.bytes().all(service_name::is_name_byte);
    if is_id {
        Ok(())
    } else {
        Err(ContractError::new(Kind::InvalidId).found(value.as_bytes()))
    }
}

/// An error about what comes next.
fn here(scan: &Scanner<'_>, kind: Kind) -> ContractError {
    ContractError::new(kind)
        .at(scan.offset())
        .found(scan.rest())
}

fn syntax(fault: Fault<'_>) -> ContractError {
    ContractError::new(Kind::Syntax)
        .at(fault.offset)
        .detail(fault.expected)
        .found(fault.found)
}

fn bad_target(offset: usize, value: &str, error: &TargetError) -> ContractError {
    ContractError::new(Kind::InvalidTarget)
        .at(offset)
        .detail(error.kind().expected())
        .found(value.as_bytes())
}

fn invalid_utf8(bytes: &[u8], error: std::str::Utf8Error) -> ContractError {
    let offset = error.valid_up_to();
    ContractError::new(Kind::InvalidUtf8)
        .at(offset)
        .found(bytes.get(offset..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_point_at_the_byte() {
        for (text, kind, offset) in [
            ("", Kind::NotAnObject, 0),
            ("  []", Kind::NotAnObject, 2),
            ("\u{feff}{}", Kind::NotAnObject, 0),
            ("{} x", Kind::TrailingBytes, 3),
            ("{}{}", Kind::TrailingBytes, 2),
            ("{", Kind::Syntax, 1),
            (r#"{"foo"#, Kind::Syntax, 5),
            (r#"{"foo":"10.0.0.1:80""#, Kind::Syntax, 20),
            (r#"{"foo":"10.0.0.1:80",}"#, Kind::Syntax, 21),
            (r#"{,"foo":"10.0.0.1:80"}"#, Kind::Syntax, 1),
            (r#"{"foo" "10.0.0.1:80"}"#, Kind::Syntax, 7),
            (r#"{"foo":}"#, Kind::Syntax, 7),
            ("{\n\"foo\"\n\"10.0.0.1:80\"}", Kind::Syntax, 8),
            (r#"{1:"10.0.0.1:80"}"#, Kind::Syntax, 1),
            (r#"{"$x":"a\qb"}"#, Kind::Syntax, 9),
            (r#"{"foo" : [1]}"#, Kind::NotAString, 9),
            (r#"{"foo":null}"#, Kind::NotAString, 7),
            (r#"{"foo":-1.5e3}"#, Kind::NotAString, 7),
            (r#"{"foo":{"a":"b"}}"#, Kind::NotAString, 7),
            (r#"{"fo o":"10.0.0.1:80"}"#, Kind::InvalidName, 2),
            (r#"{"$":"x"}"#, Kind::InvalidName, 2),
            (r#"{"$$id":"x"}"#, Kind::InvalidName, 2),
            (r#"{"foo":"10.0.0.1:080"}"#, Kind::InvalidTarget, 17),
            (r#"{"foo":"10.0.0.1\u003a080"}"#, Kind::InvalidTarget, 8),
            (r#"{"$id":"a b"}"#, Kind::InvalidId, 8),
            (
                r#"{"a":"10.0.0.1:80","a":"10.0.0.1:80"}"#,
                Kind::DuplicateName,
                20,
            ),
            (
                r#"{"a":"10.0.0.1:80","\u0061":"10.0.0.1:80"}"#,
                Kind::DuplicateName,
                20,
            ),
            (
                r#"{"\u0061":"10.0.0.1:80","a":"10.0.0.1:80"}"#,
                Kind::DuplicateName,
                25,
            ),
        ] {
            let error = parse(text.as_bytes(), &mut ()).unwrap_err();
            assert_eq!(
                (error.kind(), error.offset()),
                (kind, Some(offset)),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn what_is_not_utf8_is_nothing_else_wherever_it_stands() {
        for (text, offset) in [
            (&b"\xff"[..], 0),
            (b"[\xff", 1),
            (b"{\"a b\":\"10.0.0.1:80\",\"\xff", 22),
            (b"{\"\xc3\":\"10.0.0.1:80\"}", 2),
            (b"{\"foo\":\"\xe9\"}", 8),
            (b"{\"$x\":\"\xc3\\u00a9\"}", 7),
            (b"{\"$x\":\"\xc3\xa9\"} \x80", 12),
        ] {
            let error = parse(text, &mut ()).unwrap_err();
            assert_eq!(
                (error.kind(), error.offset()),
                (Kind::InvalidUtf8, Some(offset)),
                "{error}"
            );
        }
        assert!(parse("{\"$x\":\"\u{e9}\\u00e9\"}".as_bytes(), &mut ()).is_ok());
    }
}
