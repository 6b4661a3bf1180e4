//! The ids in a request, and a new one where there is none.

use http::{HeaderMap, HeaderName, HeaderValue};

/// The longest id.
const MAX_LEN: usize = 128;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The fields that an id is looked for in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum IdKind {
    /// `traceparent` of W3C Trace Context.
    Traceparent,
    /// `b3`, Zipkin's single field.
    B3,
    /// `x-b3-traceid`, the first of Zipkin's several fields.
    B3TraceId,
    /// `uber-trace-id` of Jaeger.
    UberTraceId,
    /// `x-cloud-trace-context` of Google Cloud.
    CloudTraceContext,
    /// `x-datadog-trace-id`.
    DatadogTraceId,
    /// `x-request-id`, as Envoy and many applications have it.
    RequestId,
}

impl IdKind {
    /// All of them, in the order in which they are asked.
    pub const ALL: [Self; 7] = [
        Self::Traceparent,
        Self::B3,
        Self::B3TraceId,
        Self::UberTraceId,
        Self::CloudTraceContext,
        Self::DatadogTraceId,
        Self::RequestId,
    ];

    /// The name of the field, which is also the label in logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Traceparent => "traceparent",
            Self::B3 => "b3",
            Self::B3TraceId => "x-b3-traceid",
            Self::UberTraceId => "uber-trace-id",
            Self::CloudTraceContext => "x-cloud-trace-context",
            Self::DatadogTraceId => "x-datadog-trace-id",
            Self::RequestId => "x-request-id",
        }
    }

    /// The id in a value of the field.
    fn read(self, value: &[u8]) -> Option<&[u8]> {
        let is_trace_id =
            |id: &&[u8]| matches!(id.len(), 16 | 32) && is_number(id, u8::is_ascii_hexdigit);
        match self {
            Self::Traceparent => trace_id_of_traceparent(value),
            Self::B3 => value.split(|&byte| byte == b'-').next().filter(is_trace_id),
            Self::B3TraceId => Some(value).filter(is_trace_id),
            Self::UberTraceId => {
                // Some clients send the colon percent-encoded.
                let id = value.split(|&byte| byte == b':' || byte == b'%').next()?;
                let is_id = id.len() <= 32 && is_number(id, u8::is_ascii_hexdigit);
                (is_id && id.len() < value.len()).then_some(id)
            }
            Self::CloudTraceContext => {
                let id = value.split(|&byte| byte == b'/' || byte == b';').next();
                id.filter(|id| id.len() == 32).filter(is_trace_id)
            }
            Self::DatadogTraceId => {
                Some(value).filter(|id| id.len() <= 20 && is_number(id, u8::is_ascii_digit))
            }
            Self::RequestId => Some(value).filter(|id| (1..=MAX_LEN).contains(&id.len())),
        }
    }

    fn space(self) -> u8 {
        match self {
            Self::DatadogTraceId => b'd',
            Self::RequestId => b'r',
            _ => b't',
        }
    }
}

/// Digits of this kind, and not all of them zero: that says that there is no trace.
fn is_number(digits: &[u8], is_digit: fn(&u8) -> bool) -> bool {
    digits.iter().all(is_digit) && digits.iter().any(|&digit| digit != b'0')
}

/// W3C Trace Context, section 3.2.2: a version, the trace id and more, in lower case.
fn trace_id_of_traceparent(value: &[u8]) -> Option<&[u8]> {
    let is_lower_hex = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let (version, rest) = value.split_at_checked(2)?;
    let (id, rest) = rest.strip_prefix(b"-")?.split_at_checked(32)?;
    let is_valid = version.iter().all(is_lower_hex)
        && version != b"ff"
        && rest.starts_with(b"-")
        && is_number(id, is_lower_hex);
    is_valid.then_some(id)
}

/// An id of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Id<'h> {
    pub(super) kind: IdKind,
    pub(super) text: &'h [u8],
}

impl Id<'_> {
    /// What it is compared by: equal texts of different kinds of id are different.
    pub(super) fn key(&self) -> KeyBuf {
        let mut bytes = [0; MAX_LEN + 1];
        let len = self.text.len() + 1;
        if let Some((space, rest)) = bytes.split_first_mut() {
            *space = self.kind.space();
            for (to, from) in rest.iter_mut().zip(self.text) {
                *to = *from;
            }
        }
        KeyBuf { bytes, len }
    }
}

/// A key on the stack, so that a look-up allocates nothing.
#[derive(Debug)]
pub(super) struct KeyBuf {
    bytes: [u8; MAX_LEN + 1],
    len: usize,
}

impl KeyBuf {
    pub(super) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// The ids of a request. A field that comes twice names no one request.
pub(super) fn ids(headers: &HeaderMap) -> impl Iterator<Item = Id<'_>> {
    IdKind::ALL.into_iter().filter_map(|kind| {
        let mut lines = headers.get_all(kind.as_str()).iter();
        let (value, None) = (lines.next()?, lines.next()) else {
            return None;
        };
        let text = kind.read(value.as_bytes())?;
        Some(Id { kind, text })
    })
}

/// Begins a trace: random ids, not sampled (W3C Trace Context, section 3.2). Nothing is done where the
/// system has no random numbers.
pub(super) fn add_traceparent(headers: &mut HeaderMap) -> bool {
    let mut random = [0_u8; 24];
    if getrandom::fill(&mut random).is_err() {
        return false;
    }
    let mut value = *b"00-................................-................-00";
    let digits = b"0123456789abcdef";
    let mut nibbles = random.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    for place in value.iter_mut().filter(|place| **place == b'.') {
        if let Some(digit) = nibbles.next().and_then(|it| digits.get(usize::from(it))) {
            *place = *digit;
        }
    }
    match HeaderValue::from_bytes(&value) {
        Ok(value) => {
            headers.insert(TRACEPARENT, value);
            true
        }
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF: &str = "a3ce929d0e0e4736";
    const FULL: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn found(name: &'static str, value: &str) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_str(value).unwrap());
        let id = ids(&headers).next()?;
        assert_eq!(id.kind.as_str(), name);
        Some(String::from_utf8(id.text.to_vec()).unwrap())
    }

    #[test]
    fn each_field_has_its_id() {
        for (name, value, id) in [
            (
                "traceparent",
                format!("00-{FULL}-00f067aa0ba902b7-01"),
                FULL,
            ),
            (
                "traceparent",
                format!("cc-{FULL}-00f067aa0ba902b7-01-x"),
                FULL,
            ),
            (
                "b3",
                format!("{FULL}-00f067aa0ba902b7-1-05e3ac9a4f6e3b90"),
                FULL,
            ),
            ("b3", format!("{HALF}-00f067aa0ba902b7"), HALF),
            ("x-b3-traceid", FULL.to_owned(), FULL),
            ("x-b3-traceid", HALF.to_owned(), HALF),
            ("uber-trace-id", format!("{HALF}:1:0:1"), HALF),
            ("uber-trace-id", format!("{FULL}%3A1%3A0%3A1"), FULL),
            ("uber-trace-id", "7b:1:0:1".to_owned(), "7b"),
            ("x-cloud-trace-context", format!("{FULL}/123;o=1"), FULL),
            ("x-cloud-trace-context", FULL.to_owned(), FULL),
            (
                "x-datadog-trace-id",
                "18446744073709551615".to_owned(),
                "18446744073709551615",
            ),
            ("x-request-id", "order 7/ü".to_owned(), "order 7/ü"),
        ] {
            assert_eq!(found(name, &value).as_deref(), Some(id), "{name}: {value}");
        }
    }

    #[test]
    fn what_is_no_id_is_none() {
        let zeros = "0".repeat(32);
        for (name, value) in [
            ("traceparent", FULL.to_owned()),
            ("traceparent", format!("00-{FULL}")),
            ("traceparent", format!("ff-{FULL}-00f067aa0ba902b7-01")),
            (
                "traceparent",
                format!("00-{}-00f067aa0ba902b7-01", FULL.to_uppercase()),
            ),
            ("traceparent", format!("00-{zeros}-00f067aa0ba902b7-01")),
            // "Do not sample" has no id.
            ("b3", "0".to_owned()),
            ("b3", "d".to_owned()),
            ("x-b3-traceid", zeros),
            ("x-b3-traceid", "xyz".to_owned()),
            ("uber-trace-id", FULL.to_owned()),
            ("uber-trace-id", ":1:0:1".to_owned()),
            ("x-cloud-trace-context", format!("{HALF}/1")),
            ("x-datadog-trace-id", "0".to_owned()),
            ("x-datadog-trace-id", "0x7b".to_owned()),
            ("x-request-id", String::new()),
            ("x-request-id", "x".repeat(MAX_LEN + 1)),
        ] {
            assert_eq!(found(name, &value), None, "{name}: {value}");
        }
        let mut twice = HeaderMap::new();
        for id in ["a", "b"] {
            twice.append("x-request-id", HeaderValue::from_static(id));
        }
        assert_eq!(ids(&twice).count(), 0);
    }

    #[test]
    fn ids_are_equal_as_texts_of_one_kind_of_id() {
        let key = |kind, text: &str| {
            let text = text.as_bytes();
            Id { kind, text }.key().as_bytes().to_vec()
        };
        assert_eq!(key(IdKind::Traceparent, FULL), key(IdKind::B3TraceId, FULL));
        assert_ne!(key(IdKind::RequestId, FULL), key(IdKind::B3TraceId, FULL));
        assert_ne!(
            key(IdKind::RequestId, "7"),
            key(IdKind::DatadogTraceId, "7")
        );
        let padded = format!("{}{HALF}", "0".repeat(16));
        assert_ne!(key(IdKind::B3, HALF), key(IdKind::B3, &padded));
        let longest = "x".repeat(MAX_LEN);
        assert_eq!(key(IdKind::RequestId, &longest).len(), MAX_LEN + 1);
    }

    #[test]
    fn a_new_trace_is_valid_and_unlike_any_other() {
        let new = || {
            let mut headers = HeaderMap::new();
            assert!(add_traceparent(&mut headers));
            let value = headers[TRACEPARENT].to_str().unwrap().to_owned();
            assert_eq!(value.len(), 55);
            assert!(
                value.starts_with("00-") && value.ends_with("-00"),
                "{value}"
            );
            found("traceparent", &value).unwrap()
        };
        assert_ne!(new(), new());
    }
}
