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
        name: &'a str,
        value: &'a str,
        target: TargetRef<'a>,
    },
    /// A `$` name, dollar included, and its value.
    Reserved { name: &'a str, value: &'a str },
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
pub(crate) fn parse<S: Sink>(bytes: &[u8], sink: &mut S) -> Result<(), ContractError> {
    if bytes.len() > MAX_BYTES {
        return Err(ContractError::new(Kind::TooLong).at(MAX_BYTES));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| invalid_utf8(bytes, error))?;
    let mut scan = Scanner::new(text);

    scan.skip_blanks();
    if !scan.eat(b'{') {
        return Err(here(&scan, Kind::NotAnObject));
    }
    scan.skip_blanks();
    if !scan.eat(b'}') {
        let mut seen = Seen::new(text);
        loop {
            member(&mut scan, &mut seen, sink)?;
            scan.skip_blanks();
            if scan.eat(b'}') {
                break;
            }
            if !scan.eat(b',') {
                return Err(here(&scan, Kind::Syntax).detail("`,` or `}`"));
            }
            scan.skip_blanks();
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
    if !scan.eat(b'"') {
        return Err(here(scan, Kind::Syntax).detail("a name in quotes"));
    }
    let name_at = scan.offset();
    let at_name = |kind, name: &str| ContractError::new(kind).at(name_at).found(name.as_bytes());
    let name = match scan.name() {
        Some(name) => Cow::Borrowed(name),
        None => {
            let name = scan.string().map_err(syntax)?;
            if !service_name::is_name(name.strip_prefix(char::from(RESERVED)).unwrap_or(&name)) {
                return Err(at_name(Kind::InvalidName, &name));
            }
            name
        }
    };
    if seen.count() == MAX_MEMBERS {
        return Err(at_name(Kind::TooManyMembers, &name));
    }
    if !seen.insert(name_at, &name, matches!(name, Cow::Owned(_))) {
        return Err(at_name(Kind::DuplicateName, &name));
    }

    scan.skip_blanks();
    if !scan.eat(b':') {
        return Err(here(scan, Kind::Syntax).detail("`:` after a name"));
    }
    scan.skip_blanks();
    if !scan.eat(b'"') {
        let kind = if scan.is_at_value() {
            Kind::NotAString
        } else {
            Kind::Syntax
        };
        return Err(here(scan, kind));
    }
    let value_at = scan.offset();
    if name.as_bytes().first() == Some(&RESERVED) {
        let value = scan.string().map_err(syntax)?;
        if *name == *ID {
            check_id(&value).map_err(|error| error.at(value_at))?;
        }
        sink.member(Member::Reserved {
            name: &name,
            value: &value,
        });
    } else if let Some((value, target)) = scan.plain_target() {
        sink.member(Member::Service {
            name: &name,
            value,
            target,
        });
    } else {
        let value = scan.string().map_err(syntax)?;
        let target = TargetRef::parse(&value).map_err(|error| {
            // Behind an escape the bytes of the value are not those of the text.
            let is_text = matches!(value, Cow::Borrowed(_));
            let inside = error.offset().filter(|_| is_text).unwrap_or_default();
            bad_target(value_at + inside, &value, &error)
        })?;
        sink.member(Member::Service {
            name: &name,
            value: &value,
            target,
        });
    }
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
        .found(scan.rest().as_bytes())
}

fn syntax(fault: Fault<'_>) -> ContractError {
    ContractError::new(Kind::Syntax)
        .at(fault.offset)
        .detail(fault.expected)
        .found(fault.found.as_bytes())
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
}
