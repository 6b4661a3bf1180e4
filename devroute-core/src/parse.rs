//! The one pass over a contract's text.
//!
//! Everything that reads a contract reads it here: the full parse, the search for one service, the iteration.
//! They differ in the [`Sink`] that the members go to, so they cannot differ in what they call malformed
//! (rule 4). The pass builds no map: a key is borrowed from the text unless it is spelled with escapes, a value
//! is looked at and passed on.
//!
//! It refuses all of rule 1: what is not one JSON object of strings, a key twice (however it is spelled),
//! bytes after the object, more than [`MAX_BYTES`] or [`MAX_MEMBERS`].

use std::borrow::Cow;
use std::fmt;
use std::ops::ControlFlow;

use serde::de::{DeserializeSeed, Deserializer as _, MapAccess, Visitor};

use crate::error::{ContractError, ContractErrorKind as Kind, TargetError};
use crate::service_name;
use crate::target::TargetRef;

/// The most bytes of a contract (rule 1).
pub(crate) const MAX_BYTES: usize = 8 * 1024;
/// The most members of a contract, reserved ones included (rule 1).
pub(crate) const MAX_MEMBERS: usize = 64;
/// What a reserved name begins with (rule 2).
const RESERVED: char = '$';
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
        return Err(ContractError::new(Kind::TooLong).at(Some(MAX_BYTES)));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| invalid_utf8(bytes, error))?;
    // serde_json would say so too, but not where.
    let body = text.trim_start_matches(is_blank);
    if !body.starts_with('{') {
        return Err(at(text, body, Kind::NotAnObject));
    }

    let mut pass = Pass {
        text,
        sink,
        seen: Seen::new(),
        value_of: None,
        failure: None,
    };
    let mut json = serde_json::Deserializer::from_str(text);
    let object = json.deserialize_map(Object(&mut pass));
    let (failure, value_of) = (pass.failure, pass.value_of);
    match object {
        Ok(()) => json.end().map_err(|error| {
            let offset = offset_of_json_error(text, &error);
            at(
                text,
                text.get(offset..).unwrap_or_default(),
                Kind::TrailingBytes,
            )
        }),
        Err(error) => {
            let offset = offset_of_json_error(text, &error);
            Err(match (failure, value_of) {
                (Some(failure), _) => failure.or_at(offset),
                (None, Some(key)) if error.is_data() => at(
                    text,
                    value_after(text, key).unwrap_or_default(),
                    Kind::NotAString,
                )
                .or_at(offset),
                (None, _) => at(text, text.get(offset..).unwrap_or_default(), Kind::Syntax)
                    .or_at(offset)
                    .detail(reason_of_json_error(&error)),
            })
        }
    }
}

/// The blanks of JSON (RFC 8259 section 2).
pub(crate) const fn is_blank(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\r' | '\n')
}

/// The state of a pass; `'de` is the lifetime of the text.
struct Pass<'s, 'de, S> {
    text: &'de str,
    sink: &'s mut S,
    seen: Seen<'de>,
    /// The key whose value is being read, where it can be found in the text.
    value_of: Option<&'de str>,
    /// What serde's error cannot carry.
    failure: Option<ContractError>,
}

impl<'de, S: Sink> Pass<'_, 'de, S> {
    fn key(&mut self, key: Cow<'de, str>) -> ControlFlow<ContractError> {
        self.value_of = match &key {
            Cow::Borrowed(key) => Some(key),
            Cow::Owned(_) => None,
        };
        let name = key.strip_prefix(RESERVED).unwrap_or(&key);
        if service_name::check(name).is_err() {
            return ControlFlow::Break(at(self.text, &key, Kind::InvalidName));
        }
        if self.seen.count() == MAX_MEMBERS {
            return ControlFlow::Break(at(self.text, &key, Kind::TooManyMembers));
        }
        if self.seen.contains(&key) {
            return ControlFlow::Break(at(self.text, &key, Kind::DuplicateName));
        }
        self.seen.insert(key);
        ControlFlow::Continue(())
    }

    fn value(&mut self, name: &str, value: &str) -> ControlFlow<ContractError> {
        if name.starts_with(RESERVED) {
            if name == ID && check_id(value).is_err() {
                return ControlFlow::Break(at(self.text, value, Kind::InvalidId));
            }
            self.sink.member(Member::Reserved { name, value });
        } else {
            match TargetRef::parse(value) {
                Ok(target) => self.sink.member(Member::Service {
                    name,
                    value,
                    target,
                }),
                Err(error) => return ControlFlow::Break(bad_target(self.text, value, &error)),
            }
        }
        ControlFlow::Continue(())
    }

    /// Keeps the reason and makes serde stop; its own message is never seen.
    fn stop<E: serde::de::Error>(&mut self, step: ControlFlow<ContractError>) -> Result<(), E> {
        match step {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(error) => {
                self.failure = Some(error);
                Err(E::custom(""))
            }
        }
    }
}

struct Object<'p, 's, 'de, S>(&'p mut Pass<'s, 'de, S>);

impl<'de, S: Sink> Visitor<'de> for Object<'_, '_, 'de, S> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let pass = self.0;
        while let Some(key) = map.next_key_seed(Key)? {
            let name = match &key {
                Cow::Borrowed(name) => Cow::Borrowed(*name),
                // Spelled with escapes, which a name never needs: the copy is the writer's doing.
                Cow::Owned(name) => Cow::Owned(name.clone()),
            };
            let step = pass.key(key);
            pass.stop::<A::Error>(step)?;
            map.next_value_seed(Value {
                pass: &mut *pass,
                name: &name,
            })?;
            pass.value_of = None;
        }
        Ok(())
    }
}

struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Cow<'de, str>;

    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(key))
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(key.to_owned()))
    }
}

struct Value<'p, 's, 'de, S> {
    pass: &'p mut Pass<'s, 'de, S>,
    name: &'p str,
}

impl<'de, S: Sink> DeserializeSeed<'de> for Value<'_, '_, 'de, S> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_str(self)
    }
}

impl<'de, S: Sink> Visitor<'de> for Value<'_, '_, 'de, S> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<(), E> {
        let step = self.pass.value(self.name, value);
        self.pass.stop(step)
    }
}

/// The names so far.
struct Seen<'de> {
    /// On the stack, since a contract of the largest size must not allocate either.
    borrowed: [&'de str; MAX_MEMBERS],
    borrowed_len: usize,
    copied: Vec<String>,
}

impl<'de> Seen<'de> {
    fn new() -> Self {
        Self {
            borrowed: [""; MAX_MEMBERS],
            borrowed_len: 0,
            copied: Vec::new(),
        }
    }

    fn count(&self) -> usize {
        self.borrowed_len + self.copied.len()
    }

    fn contains(&self, key: &str) -> bool {
        self.borrowed
            .iter()
            .take(self.borrowed_len)
            .any(|seen| *seen == key)
            || self.copied.iter().any(|seen| seen == key)
    }

    fn insert(&mut self, key: Cow<'de, str>) {
        match key {
            Cow::Owned(key) => self.copied.push(key),
            Cow::Borrowed(key) => {
                if let Some(free) = self.borrowed.get_mut(self.borrowed_len) {
                    *free = key;
                    self.borrowed_len += 1;
                }
            }
        }
    }
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

/// An error about `part`, which is a piece of `text` unless it was spelled with escapes.
fn at(text: &str, part: &str, kind: Kind) -> ContractError {
    ContractError::new(kind)
        .at(offset_of(text, part))
        .found(part.as_bytes())
}

fn bad_target(text: &str, value: &str, error: &TargetError) -> ContractError {
    let inside = error.offset().unwrap_or_default();
    ContractError::new(Kind::InvalidTarget)
        .at(offset_of(text, value).map(|offset| offset + inside))
        .detail(error.kind().expected())
        .found(value.as_bytes())
}

fn invalid_utf8(bytes: &[u8], error: std::str::Utf8Error) -> ContractError {
    let offset = error.valid_up_to();
    ContractError::new(Kind::InvalidUtf8)
        .at(Some(offset))
        .found(bytes.get(offset..).unwrap_or_default())
}

/// Where `part` lies in `text`, if it is borrowed from it.
fn offset_of(text: &str, part: &str) -> Option<usize> {
    let offset = (part.as_ptr() as usize).checked_sub(text.as_ptr() as usize)?;
    (offset + part.len() <= text.len()).then_some(offset)
}

/// The text from the value that follows `key`.
fn value_after<'t>(text: &'t str, key: &str) -> Option<&'t str> {
    let after_key = text.get(offset_of(text, key)? + key.len()..)?;
    let after_quote = after_key.strip_prefix('"')?.trim_start_matches(is_blank);
    Some(after_quote.strip_prefix(':')?.trim_start_matches(is_blank))
}

/// serde_json counts lines from 1, and in them the bytes read so far.
fn offset_of_json_error(text: &str, error: &serde_json::Error) -> usize {
    let line_start = match error.line().checked_sub(2) {
        None => 0,
        Some(breaks) => text
            .match_indices('\n')
            .nth(breaks)
            .map_or(0, |(at, _)| at + 1),
    };
    let mut offset = (line_start + error.column().saturating_sub(1)).min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    offset
}

/// What serde_json expected; its syntax messages hold nothing of the input.
fn reason_of_json_error(error: &serde_json::Error) -> String {
    let message = error.to_string();
    match message.split_once(" at line ") {
        Some((reason, _)) => reason.to_owned(),
        None => message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> (Kind, Option<usize>) {
        let error = parse(text.as_bytes(), &mut ()).unwrap_err();
        (error.kind(), error.offset())
    }

    #[test]
    fn errors_point_at_the_byte() {
        for (text, kind, offset) in [
            ("", Kind::NotAnObject, 0),
            ("  []", Kind::NotAnObject, 2),
            ("\u{feff}{}", Kind::NotAnObject, 0),
            ("{} x", Kind::TrailingBytes, 3),
            ("{}{}", Kind::TrailingBytes, 2),
            (r#"{"foo":"10.0.0.1:80""#, Kind::Syntax, 19),
            (r#"{"foo":"10.0.0.1:80",}"#, Kind::Syntax, 21),
            (r#"{"foo" "10.0.0.1:80"}"#, Kind::Syntax, 7),
            ("{\n\"foo\"\n\"10.0.0.1:80\"}", Kind::Syntax, 8),
            (r#"{1:"10.0.0.1:80"}"#, Kind::Syntax, 1),
            (r#"{"foo" : [1]}"#, Kind::NotAString, 9),
            (r#"{"foo":null}"#, Kind::NotAString, 7),
            (r#"{"foo":-1.5e3}"#, Kind::NotAString, 7),
            (r#"{"foo":{"a":"b"}}"#, Kind::NotAString, 7),
            (r#"{"fo o":"10.0.0.1:80"}"#, Kind::InvalidName, 2),
            (r#"{"$":"x"}"#, Kind::InvalidName, 2),
            (r#"{"foo":"10.0.0.1:080"}"#, Kind::InvalidTarget, 17),
            (r#"{"$id":"a b"}"#, Kind::InvalidId, 8),
            (
                r#"{"a":"10.0.0.1:80","a":"10.0.0.1:80"}"#,
                Kind::DuplicateName,
                20,
            ),
        ] {
            assert_eq!(error(text), (kind, Some(offset)), "{text}");
        }
    }

    #[test]
    fn an_error_in_an_escaped_part_still_has_an_offset() {
        for text in [
            r#"{"a":"10.0.0.1:80","\u0061":"10.0.0.1:80"}"#,
            r#"{"f\u0020o":"10.0.0.1:80"}"#,
            r#"{"foo":"10.0.0.1\u003a080"}"#,
            r#"{"\u0061":1}"#,
        ] {
            assert!(
                error(text).1.is_some_and(|offset| offset < text.len()),
                "{text}"
            );
        }
    }
}
