//! What can be wrong with a contract, and with the names and targets in it.
//!
//! Every error is opaque: a kind for programs, a sentence for people, and a byte offset where there is one.
//! None holds more of the input than an escaped excerpt of at most 32 characters, so that any of them
//! may go into a log line or an answer as it is.
//!
//! ```
//! use devroute_core::{Contract, ContractErrorKind};
//!
//! let error = Contract::parse(br#"{"foo":"192.168.10.20_9001"}"#).unwrap_err();
//! assert_eq!(error.kind(), ContractErrorKind::InvalidTarget);
//! assert_eq!(error.offset(), Some(26));
//! ```

use std::borrow::Cow;
use std::error::Error;
use std::fmt;

use crate::parse::{MAX_BYTES, MAX_MEMBERS};

/// Why some bytes are not a contract.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContractError {
    // Boxed: a verdict is returned by value from everything that reads a contract, an error is rare.
    inner: Box<ContractErrorInner>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct ContractErrorInner {
    kind: ContractErrorKind,
    offset: Option<usize>,
    detail: &'static str,
    excerpt: Option<Excerpt>,
}

/// The kinds of [`ContractError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ContractErrorKind {
    /// More than 8192 bytes, as received or as it would be written.
    TooLong,
    /// Not UTF-8.
    InvalidUtf8,
    /// Not a JSON object.
    NotAnObject,
    /// Not JSON (RFC 8259).
    Syntax,
    /// Bytes after the object.
    TrailingBytes,
    /// A value that is not a string.
    NotAString,
    /// A key that is neither a service name nor a reserved name.
    InvalidName,
    /// The value of a service that is not a target.
    InvalidTarget,
    /// A `$id` outside its alphabet or length.
    InvalidId,
    /// A key that stands twice in the object.
    DuplicateName,
    /// More than 64 members, reserved ones included.
    TooManyMembers,
    /// The field `x-devroute` on more than one line.
    RepeatedField,
    /// A `devroute` member of `baggage` that does not decode to an object.
    InvalidBaggage,
    /// Several `devroute` members of `baggage` that hold different contracts.
    UnequalBaggage,
    /// A cookie `devroute` that does not decode to an object.
    InvalidCookie,
    /// More than one cookie `devroute`.
    RepeatedCookie,
}

impl ContractErrorKind {
    /// A stable `snake_case` label, for metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TooLong => "too_long",
            Self::InvalidUtf8 => "invalid_utf8",
            Self::NotAnObject => "not_an_object",
            Self::Syntax => "syntax",
            Self::TrailingBytes => "trailing_bytes",
            Self::NotAString => "not_a_string",
            Self::InvalidName => "invalid_name",
            Self::InvalidTarget => "invalid_target",
            Self::InvalidId => "invalid_id",
            Self::DuplicateName => "duplicate_name",
            Self::TooManyMembers => "too_many_members",
            Self::RepeatedField => "repeated_field",
            Self::InvalidBaggage => "invalid_baggage",
            Self::UnequalBaggage => "unequal_baggage",
            Self::InvalidCookie => "invalid_cookie",
            Self::RepeatedCookie => "repeated_cookie",
        }
    }

    fn expected(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::TooLong => return format!("expected at most {MAX_BYTES} bytes").into(),
            Self::TooManyMembers => {
                return format!("expected at most {MAX_MEMBERS} members").into();
            }
            Self::InvalidUtf8 => "expected UTF-8",
            Self::NotAnObject => "expected a JSON object",
            Self::Syntax => "expected JSON, an object of strings",
            Self::TrailingBytes => "expected nothing after the object",
            Self::NotAString => "expected a string",
            Self::InvalidName => {
                "expected a service name (1 to 253 of A-Z a-z 0-9 . _ -) or `$` and such a name"
            }
            Self::InvalidTarget => "expected a target such as 192.168.1.12:8001",
            Self::InvalidId => "expected a $id of 1 to 64 of A-Z a-z 0-9 . _ -",
            Self::DuplicateName => "expected every name once",
            Self::RepeatedField => "expected the field x-devroute once",
            Self::InvalidBaggage => "expected a percent-encoded JSON object in the baggage member",
            Self::UnequalBaggage => "expected equal contracts in all baggage members `devroute`",
            Self::InvalidCookie => {
                "expected a percent-encoded JSON object in the cookie `devroute`"
            }
            Self::RepeatedCookie => "expected the cookie `devroute` once",
        })
    }
}

impl fmt::Display for ContractErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl ContractError {
    pub(crate) fn new(kind: ContractErrorKind) -> Self {
        Self {
            inner: Box::new(ContractErrorInner {
                kind,
                offset: None,
                detail: "",
                excerpt: None,
            }),
        }
    }

    pub(crate) fn at(mut self, offset: usize) -> Self {
        self.inner.offset = Some(offset);
        self
    }

    pub(crate) fn detail(mut self, detail: &'static str) -> Self {
        self.inner.detail = detail;
        self
    }

    pub(crate) fn found(mut self, bytes: &[u8]) -> Self {
        self.inner.excerpt = Some(Excerpt::new(bytes));
        self
    }

    /// What is wrong.
    #[must_use]
    pub fn kind(&self) -> ContractErrorKind {
        self.inner.kind
    }

    /// Where it is wrong: a byte offset in the contract's text, that is, in the decoded text when the
    /// contract came in `baggage`.
    #[must_use]
    pub fn offset(&self) -> Option<usize> {
        self.inner.offset
    }
}

impl fmt::Display for ContractError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ContractErrorInner {
            kind,
            offset,
            detail,
            excerpt,
        } = &*self.inner;
        f.write_str("malformed contract")?;
        if let Some(offset) = offset {
            write!(f, " at byte {offset}")?;
        }
        write!(f, ": {}", kind.expected())?;
        if !detail.is_empty() {
            write!(f, " ({detail})")?;
        }
        if let Some(excerpt) = excerpt {
            write!(f, ", found {excerpt}")?;
        }
        Ok(())
    }
}

impl Error for ContractError {}

/// Why some text is not a [`Target`](crate::Target).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetError {
    kind: TargetErrorKind,
    offset: usize,
    excerpt: Excerpt,
}

/// The kinds of [`TargetError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TargetErrorKind {
    /// A scheme other than `http`, `h2c` and `https`, in lower case.
    Scheme,
    /// Not four decimal parts without leading zeros.
    Ipv4,
    /// Not an IPv6 address in square brackets, or one with a zone id.
    Ipv6,
    /// Not a host name.
    HostName,
    /// No `:port` at the end.
    MissingPort,
    /// Not a decimal number from 1 to 65535 without sign or leading zero.
    Port,
}

impl TargetErrorKind {
    pub(crate) const fn expected(self) -> &'static str {
        match self {
            Self::Scheme => "the scheme must be http://, h2c:// or https://",
            Self::Ipv4 => "an IPv4 address has four decimal parts without leading zeros",
            Self::Ipv6 => "an IPv6 address stands in square brackets and has no zone id",
            Self::HostName => "a host name has labels of 1 to 63 of A-Z a-z 0-9 - _",
            Self::MissingPort => "the port is missing",
            Self::Port => {
                "the port must be a decimal number from 1 to 65535, with nothing after it"
            }
        }
    }
}

impl TargetError {
    pub(crate) fn new(kind: TargetErrorKind, offset: usize, found: &str) -> Self {
        Self {
            kind,
            offset,
            excerpt: Excerpt::new(found.as_bytes()),
        }
    }

    /// What is wrong.
    #[must_use]
    pub fn kind(&self) -> TargetErrorKind {
        self.kind
    }

    /// Where it is wrong: a byte offset in the target's text.
    #[must_use]
    pub fn offset(&self) -> Option<usize> {
        Some(self.offset)
    }
}

impl fmt::Display for TargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            offset,
            excerpt,
        } = self;
        write!(
            f,
            "invalid target at byte {offset}: {}, found {excerpt}",
            kind.expected()
        )
    }
}

impl Error for TargetError {}

/// Why some text is not a [`ServiceName`](crate::ServiceName).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceNameError {
    kind: ServiceNameErrorKind,
    offset: usize,
    excerpt: Excerpt,
}

/// The kinds of [`ServiceNameError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ServiceNameErrorKind {
    /// No character at all.
    Empty,
    /// More than 253 characters.
    TooLong,
    /// A character outside `A-Z a-z 0-9 . _ -`.
    Character,
}

impl ServiceNameError {
    pub(crate) fn new(kind: ServiceNameErrorKind, offset: usize, found: &str) -> Self {
        Self {
            kind,
            offset,
            excerpt: Excerpt::new(found.as_bytes()),
        }
    }

    /// What is wrong.
    #[must_use]
    pub fn kind(&self) -> ServiceNameErrorKind {
        self.kind
    }

    /// Where it is wrong: a byte offset in the name.
    #[must_use]
    pub fn offset(&self) -> Option<usize> {
        Some(self.offset)
    }
}

impl fmt::Display for ServiceNameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            offset, excerpt, ..
        } = self;
        write!(
            f,
            "invalid service name at byte {offset}: expected 1 to 253 of A-Z a-z 0-9 . _ -, \
             found {excerpt}"
        )
    }
}

impl Error for ServiceNameError {}

/// A piece of the input that is safe to print: escaped to ASCII, at most 32 characters, in quotes.
#[derive(Clone, PartialEq, Eq)]
struct Excerpt(Box<str>);

impl Excerpt {
    const MAX: usize = 32;

    fn new(bytes: &[u8]) -> Self {
        let mut out = String::new();
        for chunk in bytes.utf8_chunks() {
            let bytes = chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}"));
            for piece in chunk.valid().chars().map(escape).chain(bytes) {
                // The dots are part of the 32, so they are only ever put where a piece did not fit.
                if out.len() + piece.len() > Self::MAX - 3 {
                    out.push_str("...");
                    return Self(out.into());
                }
                out.push_str(&piece);
            }
        }
        Self(out.into())
    }
}

/// Quotes and backslashes stay as they are: an excerpt of JSON is full of them and has to stay readable.
fn escape(character: char) -> String {
    match character {
        ' '..='~' => character.into(),
        _ => character.escape_unicode().collect(),
    }
}

impl fmt::Display for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("nothing");
        }
        write!(f, "`{}`", self.0)
    }
}

impl fmt::Debug for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_is_short_printable_ascii() {
        for input in [
            &b"x\r\n\x1b[31m\x00\xff\xfe"[..],
            "é🦀".as_bytes(),
            &[b'a'; 10_000],
            &[0xff; 10_000],
        ] {
            let text = Excerpt::new(input).to_string();
            assert!(
                text.bytes().all(|byte| (b' '..=b'~').contains(&byte)),
                "{text}"
            );
            assert!(text.len() <= Excerpt::MAX + 2, "{text}");
        }
    }

    #[test]
    fn an_excerpt_shows_what_was_there() {
        assert_eq!(Excerpt::new(br#""foo":1"#).to_string(), r#"`"foo":1`"#);
        assert_eq!(Excerpt::new(b"a\nb\xff").to_string(), r"`a\u{a}b\xff`");
        assert_eq!(Excerpt::new(b"").to_string(), "nothing");
        assert_eq!(
            Excerpt::new(&[b'a'; 33]).to_string(),
            format!("`{}...`", "a".repeat(29))
        );
    }

    #[test]
    fn a_contract_error_names_place_expectation_and_finding() {
        let error = ContractError::new(ContractErrorKind::NotAString)
            .at(7)
            .detail("at foo")
            .found(b"[1,2,3]");
        assert_eq!(
            error.to_string(),
            "malformed contract at byte 7: expected a string (at foo), found `[1,2,3]`"
        );
    }

    #[test]
    fn a_kind_prints_as_its_label() {
        let kind = ContractErrorKind::NotAString;
        assert_eq!(
            (kind.as_str(), &*kind.to_string()),
            ("not_a_string", "not_a_string")
        );
    }

    #[test]
    fn errors_of_targets_and_names_say_so_too() {
        use crate::{ServiceName, Target};

        for (text, message) in [
            (
                "ftp://10.0.0.1:80",
                "invalid target at byte 0: the scheme must be http://, h2c:// or https://, \
                 found `ftp://10.0.0.1:80`",
            ),
            (
                "10.0.0.1",
                "invalid target at byte 8: the port is missing, found nothing",
            ),
        ] {
            let error = text.parse::<Target>().unwrap_err();
            assert_eq!(error.to_string(), message);
        }
        let error = ServiceName::new("foo bar").unwrap_err();
        assert_eq!(
            error.to_string(),
            "invalid service name at byte 3: expected 1 to 253 of A-Z a-z 0-9 . _ -, found ` bar`"
        );
    }
}
