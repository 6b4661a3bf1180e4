//! The contract: which services a request wants answered from where.
//!
//! A [`Contract`] is well-formed text, nothing else: it keeps the bytes it came as, so that passing it on costs
//! a reference count and changes nothing, and reads them again when it is asked something. What is not
//! well-formed by rules 1 to 3 never becomes one. Whether a target is allowed is not decided here.

mod builder;

use std::collections::BTreeMap;
use std::fmt;
use std::iter::FusedIterator;
use std::str::FromStr;

use http::HeaderValue;

pub use self::builder::ContractBuilder;
pub(crate) use self::builder::Spelling;
use crate::error::{ContractError, ContractErrorKind};
use crate::parse::{self, Member, Sink};
use crate::service_name::ServiceName;
use crate::target::Target;
use crate::text;

/// A set of service -> target pairs, as well-formed text; a clone is a reference count.
///
/// Two contracts are equal when they have the same members, however they are ordered and spelled.
///
/// The accessors read the text again (well under a microsecond for a handful of entries) and allocate only for
/// what they return.
///
/// ```
/// use devroute_core::Contract;
///
/// let contract: Contract = r#"{"foo":"192.168.1.12:8001","$id":"run-7"}"#.parse()?;
/// assert_eq!(contract.get("foo"), Some("192.168.1.12:8001".parse()?));
/// assert_eq!(contract.get("bar"), None);
/// assert_eq!(contract.id().as_deref(), Some("run-7"));
/// assert_eq!(contract.to_string(), r#"{"foo":"192.168.1.12:8001","$id":"run-7"}"#);
///
/// assert!(Contract::parse(br#"{"foo":[1,2,3]}"#).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Contract {
    /// Always well-formed, and without blanks at its ends.
    value: HeaderValue,
}

impl Contract {
    /// Reads a contract from the bytes of its JSON text.
    ///
    /// The text is kept byte for byte. Only what cannot be a field value (line breaks between tokens, DEL in a
    /// reserved value) makes it be spelled anew, and blanks around it are not part of it (RFC 9110 section 5.5).
    ///
    /// # Errors
    ///
    /// When the bytes are not well-formed by rules 1 to 3, or spelled anew are longer than 8192 bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, ContractError> {
        Self::parse_into(bytes, &mut ())
    }

    /// A contract without members, which reroutes nothing.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            value: HeaderValue::from_static("{}"),
        }
    }

    /// Starts a contract from nothing.
    pub fn builder() -> ContractBuilder {
        ContractBuilder::default()
    }

    /// The target for `service`, compared exactly.
    #[must_use]
    pub fn get(&self, service: &str) -> Option<Target> {
        let mut find = Find::new(service);
        self.visit(&mut find);
        find.found
    }

    /// The services and their targets, in the order of the text.
    #[must_use]
    pub fn iter(&self) -> Entries {
        let mut entries = Vec::new();
        self.visit(&mut |member: Member<'_>| {
            if let Member::Service { name, target, .. } = member {
                entries.push((ServiceName::from_checked(name.as_str()), target.to_target()));
            }
        });
        Entries(entries.into_iter())
    }

    /// The reserved members, in the order of the text: names with their `$`, and values without JSON's escapes.
    #[must_use]
    pub fn reserved(&self) -> Reserved {
        let mut members = Vec::new();
        self.visit(&mut |member: Member<'_>| {
            if let Member::Reserved { name, value } = member {
                members.push((name.as_str().to_owned(), value.as_str().to_owned()));
            }
        });
        Reserved(members.into_iter())
    }

    /// The name of the test run, the member `$id` (rule 15).
    ///
    /// It belongs into logs and spans; never make it a metric label, for the sender chooses it.
    #[must_use]
    pub fn id(&self) -> Option<String> {
        // Reserved names begin with it, which JSON can also write as an escape.
        let text = self.as_str().as_bytes();
        if !text.contains(&b'$') && !text.contains(&b'\\') {
            return None;
        }
        let mut id = None;
        self.visit(&mut |member: Member<'_>| match member {
            Member::Reserved { name, value } if name.is(parse::ID) => {
                id = Some(value.as_str().to_owned());
            }
            _ => {}
        });
        id
    }

    /// How many services it names.
    #[must_use]
    pub fn len(&self) -> usize {
        let mut count = 0;
        self.visit(&mut |member: Member<'_>| {
            count += usize::from(matches!(member, Member::Service { .. }));
        });
        count
    }

    /// Whether it names no service, so that it reroutes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same contract with the test run named `id`.
    ///
    /// The text is spelled anew. A signature that the contract carries (`$sig`) no longer fits it.
    ///
    /// # Errors
    ///
    /// When `id` is not 1 to 64 of `A-Z a-z 0-9 . _ -`, or the contract has no room for it.
    pub fn with_id(self, id: &str) -> Result<Self, ContractError> {
        parse::check_id(id)?;
        let mut spelled = Spelling::default();
        self.visit(&mut |member: Member<'_>| match member {
            Member::Reserved { name, .. } if name.is(parse::ID) => {}
            Member::Reserved { name, value } | Member::Service { name, value, .. } => {
                spelled.push(name.as_str(), value.as_str());
            }
        });
        spelled.push(parse::ID, id);
        Self::parse(spelled.finish().as_bytes())
    }

    /// The value of the field `x-devroute`.
    #[must_use]
    pub fn header_value(&self) -> &HeaderValue {
        &self.value
    }

    /// The JSON text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Checked when the contract was made; an empty one reads as what it would be: nothing.
        std::str::from_utf8(self.value.as_bytes()).unwrap_or("{}")
    }

    /// Reads bytes and hands the members to `sink` in the same pass.
    pub(crate) fn parse_into<S: Sink>(bytes: &[u8], sink: &mut S) -> Result<Self, ContractError> {
        parse::parse(bytes, sink)?;
        match HeaderValue::from_bytes(trim(bytes)) {
            Ok(value) => Ok(Self { value }),
            Err(_) => Self::spell_anew(bytes),
        }
    }

    fn spell_anew(bytes: &[u8]) -> Result<Self, ContractError> {
        let text = String::from_utf8_lossy(bytes);
        let spelled = text::compact(&text).into_owned();
        if spelled.len() > parse::MAX_BYTES {
            // No byte of what was received is the one too many.
            return Err(ContractError::new(ContractErrorKind::TooLong));
        }
        parse::parse(spelled.as_bytes(), &mut ())?;
        match HeaderValue::try_from(spelled) {
            Ok(value) => Ok(Self { value }),
            Err(_) => Err(ContractError::new(ContractErrorKind::Syntax)),
        }
    }

    fn visit<S: Sink>(&self, sink: &mut S) {
        // It was well-formed when the contract was made, and the text has not changed since.
        let _ = parse::parse(self.value.as_bytes(), sink);
    }

    /// All members, in the order of the text.
    pub(crate) fn each(&self, member: &mut impl FnMut(&str, &str)) {
        self.visit(&mut |found: Member<'_>| {
            let (Member::Service { name, value, .. } | Member::Reserved { name, value }) = found;
            member(name.as_str(), value.as_str());
        });
    }

    /// All members by name, to compare contracts by.
    pub(crate) fn members(&self) -> BTreeMap<String, String> {
        let mut members = BTreeMap::new();
        self.each(&mut |name, value| {
            members.insert(name.to_owned(), value.to_owned());
        });
        members
    }
}

/// A contract that has been read and not been kept yet.
///
/// Whoever reads it shares the field's bytes once, where they stay.
#[derive(Debug)]
pub(crate) enum WellFormed<'h> {
    /// The value of a field, as it is.
    Field(&'h HeaderValue),
    /// What had to be decoded or trimmed.
    Owned(Contract),
}

impl<'h> WellFormed<'h> {
    /// Reads a field's value and hands the members to `sink` in the same pass.
    pub(crate) fn check<S: Sink>(
        value: &'h HeaderValue,
        sink: &mut S,
    ) -> Result<Self, ContractError> {
        let bytes = value.as_bytes();
        if trim(bytes).len() != bytes.len() {
            // Only a value that was made by hand has blanks around it: a parser of HTTP takes them off.
            return Contract::parse_into(bytes, sink).map(Self::Owned);
        }
        parse::parse(bytes, sink)?;
        Ok(Self::Field(value))
    }

    pub(crate) fn into_contract(self) -> Contract {
        match self {
            Self::Field(value) => Contract {
                value: value.clone(),
            },
            Self::Owned(contract) => contract,
        }
    }
}

/// The sink that keeps the target of one service.
#[derive(Debug)]
pub(crate) struct Find<'s> {
    service: &'s str,
    pub(crate) found: Option<Target>,
}

impl<'s> Find<'s> {
    pub(crate) fn new(service: &'s str) -> Self {
        Self {
            service,
            found: None,
        }
    }
}

impl Sink for Find<'_> {
    // Inlined, so that a member is taken apart in registers, and no other one than ours ever is in memory.
    #[inline(always)]
    fn member(&mut self, member: Member<'_>) {
        match member {
            Member::Service { name, target, .. } if name.is(self.service) => {
                self.found = Some(target.to_target());
            }
            _ => {}
        }
    }
}

fn trim(bytes: &[u8]) -> &[u8] {
    let is_blank = |byte: &u8| parse::is_blank(char::from(*byte));
    let start = bytes
        .iter()
        .position(|byte| !is_blank(byte))
        .unwrap_or(bytes.len());
    let end = bytes
        .iter()
        .rposition(|byte| !is_blank(byte))
        .map_or(start, |last| last + 1);
    bytes.get(start..end).unwrap_or_default()
}

impl Default for Contract {
    /// The contract without members.
    fn default() -> Self {
        Self::empty()
    }
}

impl FromStr for Contract {
    type Err = ContractError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text.as_bytes())
    }
}

impl TryFrom<&HeaderValue> for Contract {
    type Error = ContractError;

    /// Shares the value's bytes.
    fn try_from(value: &HeaderValue) -> Result<Self, Self::Error> {
        WellFormed::check(value, &mut ()).map(WellFormed::into_contract)
    }
}

impl From<&Contract> for HeaderValue {
    fn from(contract: &Contract) -> Self {
        contract.value.clone()
    }
}

impl PartialEq for Contract {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value || self.members() == other.members()
    }
}

impl Eq for Contract {}

impl fmt::Display for Contract {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Contract {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Contract").field(&self.as_str()).finish()
    }
}

impl IntoIterator for &Contract {
    type Item = (ServiceName, Target);
    type IntoIter = Entries;

    fn into_iter(self) -> Entries {
        self.iter()
    }
}

/// The services of a [`Contract`] and their targets.
#[derive(Clone, Debug)]
pub struct Entries(std::vec::IntoIter<(ServiceName, Target)>);

/// The reserved members of a [`Contract`].
#[derive(Clone, Debug)]
pub struct Reserved(std::vec::IntoIter<(String, String)>);

impl Iterator for Entries {
    type Item = (ServiceName, Target);

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl ExactSizeIterator for Entries {}
impl FusedIterator for Entries {}

impl Iterator for Reserved {
    type Item = (String, String);

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl ExactSizeIterator for Reserved {}
impl FusedIterator for Reserved {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_kept_and_blanks_around_it_are_not() {
        for (text, kept) in [
            (
                r#"{ "foo" : "10.0.0.1:80" }"#,
                r#"{ "foo" : "10.0.0.1:80" }"#,
            ),
            (" {}\t", "{}"),
            ("{\"$x\":\"\u{e9}\"}", "{\"$x\":\"\u{e9}\"}"),
            (
                "{\n\"foo\": \"10.0.0.1:80\"\n}\n",
                r#"{"foo":"10.0.0.1:80"}"#,
            ),
            (
                "{\"$x\":\"\u{7f} \u{e9}\"}",
                r#"{"$x":"\u007f\u0020\u00e9"}"#,
            ),
        ] {
            assert_eq!(Contract::parse(text.as_bytes()).unwrap().to_string(), kept);
        }
    }

    #[test]
    fn a_text_that_outgrows_the_limit_when_spelled_anew_is_refused() {
        let text = format!("{{\"$x\":\"{}\"}}", "\u{7f}".repeat(2000));
        let error = Contract::parse(text.as_bytes()).unwrap_err();
        assert_eq!(error.kind(), ContractErrorKind::TooLong);
        assert_eq!(error.offset(), None, "of {} bytes", text.len());
    }

    #[test]
    fn equality_is_of_members() {
        let contract = |text: &str| text.parse::<Contract>().unwrap();
        let one = contract(r#"{"a":"10.0.0.1:80","$id":"x"}"#);
        assert_eq!(
            one,
            contract(r#"{ "$\u0069d":"x", "a":"10.0.0.1\u003a80" }"#)
        );
        assert_ne!(one, contract(r#"{"a":"10.0.0.1:80"}"#));
        assert_ne!(one, contract(r#"{"a":"10.0.0.1:80","$id":"y"}"#));
    }

    #[test]
    fn the_id_is_that_member_and_no_other_reserved_one() {
        for (text, id) in [
            ("{}", None),
            (r#"{"a":"10.0.0.1:80"}"#, None),
            (r#"{"$k":"a"}"#, None),
            (r#"{"$k":"a","$id":"b","$l":"c"}"#, Some("b")),
            // No `$` is to be seen in the one, and no backslash in the other.
            (r#"{"\u0024id":"b"}"#, Some("b")),
            (r#"{"$id":"b"}"#, Some("b")),
        ] {
            let contract: Contract = text.parse().unwrap();
            assert_eq!(contract.id().as_deref(), id, "{text}");
        }
    }

    #[test]
    fn iterators_know_how_many_members_are_left() {
        let contract: Contract = r#"{"a":"10.0.0.1:80","$k":"","b":"10.0.0.1:80","$l":"","$m":""}"#
            .parse()
            .unwrap();
        let (mut entries, mut reserved) = (contract.iter(), contract.reserved());
        assert_eq!((entries.len(), reserved.len()), (2, 3));
        entries.next();
        reserved.next();
        assert_eq!(entries.size_hint(), (1, Some(1)));
        assert_eq!(reserved.size_hint(), (2, Some(2)));
    }

    #[test]
    fn with_id_replaces_and_keeps_the_rest() {
        let contract: Contract = r#"{"$id":"a","b":"10.0.0.1:80","$k":"\"\\é"}"#.parse().unwrap();
        let other = contract.clone().with_id("c").unwrap();
        assert_eq!(other.id().as_deref(), Some("c"));
        assert_eq!(other.get("b"), contract.get("b"));
        assert_eq!(
            other.reserved().next(),
            Some(("$k".to_owned(), "\"\\é".to_owned()))
        );
        assert_eq!(other.reserved().len(), 2);
        assert!(contract.with_id("").is_err());
    }
}
