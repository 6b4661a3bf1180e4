//! One request and its answer, as far as they have come.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{Extensions, HeaderMap, Method, StatusCode, Uri, Version, request, response};
use serde_json::{Value, json};

use crate::replay::Replay;

/// One request and its answer.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    pub(crate) id: u64,
    pub(crate) service: Arc<str>,
    pub(crate) head: RequestHead,
    pub(crate) request: Captured,
    pub(crate) answer: Option<AnswerHead>,
    pub(crate) response: Captured,
    pub(crate) end: Option<(Duration, End)>,
    /// The request that this one repeats.
    pub(crate) replay_of: Option<u64>,
    /// What sends it again.
    pub(crate) replay: Arc<dyn Replay>,
    pub(crate) started: SystemTime,
    pub(crate) began: Instant,
    /// What it counts for, in bytes.
    pub(crate) size: usize,
    /// When the page was last told that there is more of a body.
    pub(crate) told: Instant,
}

/// Who asked, in words for a person: in the extensions of a request it is shown with it, and found by searching.
///
/// Nothing else is done with it, so it may be what the request itself says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Caller(Arc<str>);

impl Caller {
    /// Whoever is called that.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }
}

/// The head of a request, with what its connection put beside it.
#[derive(Clone, Debug)]
pub(crate) struct RequestHead {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) version: Version,
    pub(crate) headers: HeaderMap,
    pub(crate) extensions: Extensions,
}

/// The head of an answer.
#[derive(Clone, Debug)]
pub(crate) struct AnswerHead {
    pub(crate) status: StatusCode,
    pub(crate) version: Version,
    pub(crate) headers: HeaderMap,
    /// Since the request came.
    pub(crate) after: Duration,
}

/// What has passed of a body.
#[derive(Clone, Debug, Default)]
pub(crate) struct Captured {
    pub(crate) kept: Vec<u8>,
    /// Bytes that have passed.
    pub(crate) total: u64,
    pub(crate) trailers: Option<HeaderMap>,
    pub(crate) state: BodyState,
    /// When it ended, since the request came.
    pub(crate) after: Option<Duration>,
}

/// How far a body is.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) enum BodyState {
    /// More may come.
    #[default]
    Open,
    /// It was read to its end.
    Complete,
    /// Whoever sent it broke off, for this reason.
    Cut(String),
    /// Whoever read it stopped.
    Dropped,
}

/// How an exchange ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum End {
    /// The answer was sent to its end.
    Complete,
    /// There was no answer, for this reason.
    Failed(String),
    /// Whoever asked went away before there was an answer.
    Abandoned,
    /// The answer broke off.
    Cut,
    /// Whoever asked stopped reading.
    Dropped,
    /// The connection became something else.
    Upgraded,
}

impl End {
    fn as_str(&self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Failed(_) => "failed",
            Self::Abandoned => "abandoned",
            Self::Cut => "cut",
            Self::Dropped => "dropped",
            Self::Upgraded => "upgraded",
        }
    }
}

impl Captured {
    /// Whether more has passed than was kept.
    pub(crate) fn is_truncated(&self) -> bool {
        self.total > self.kept.len() as u64
    }

    /// Keeps as much of `data` as fits; how much that is.
    pub(crate) fn push(&mut self, data: &Bytes, limit: usize) -> usize {
        self.total += data.len() as u64;
        // Behind a gap nothing fits.
        if self.total - data.len() as u64 != self.kept.len() as u64 {
            return 0;
        }
        let room = limit.saturating_sub(self.kept.len());
        let fitting = data.get(..room).unwrap_or(data);
        self.kept.extend_from_slice(fitting);
        fitting.len()
    }

    pub(crate) fn state_json(&self) -> Value {
        let (state, reason) = match &self.state {
            BodyState::Open => ("open", None),
            BodyState::Complete => ("complete", None),
            BodyState::Cut(reason) => ("cut", Some(reason)),
            BodyState::Dropped => ("dropped", None),
        };
        json!({
            "state": state,
            "reason": reason,
            "after_ms": self.after.map(milliseconds),
        })
    }
}

impl RequestHead {
    pub(crate) fn of(parts: &request::Parts) -> Self {
        Self {
            method: parts.method.clone(),
            uri: parts.uri.clone(),
            version: parts.version,
            headers: parts.headers.clone(),
            extensions: parts.extensions.clone(),
        }
    }

    /// About as many bytes as it takes.
    pub(crate) fn size(&self) -> usize {
        // A URI has no length without being written.
        let path = self.uri.path_and_query();
        path.map_or(1, |path| path.as_str().len()) + fields_size(&self.headers)
    }
}

impl AnswerHead {
    pub(crate) fn of(parts: &response::Parts, after: Duration) -> Self {
        Self {
            status: parts.status,
            version: parts.version,
            headers: parts.headers.clone(),
            after,
        }
    }
}

/// About as many bytes as fields take.
pub(crate) fn fields_size(headers: &HeaderMap) -> usize {
    /// What the map has beside each.
    const BESIDE: usize = 64;
    let fields = headers.iter();
    let sizes = fields.map(|(name, value)| name.as_str().len() + value.len() + BESIDE);
    sizes.sum()
}

impl Exchange {
    /// What the list shows of it.
    pub(crate) fn summary(&self) -> Value {
        let head = &self.head;
        let answer = self.answer.as_ref();
        let state = match &self.end {
            Some((_, end)) => end.as_str(),
            None if answer.is_some() => "answering",
            None => "waiting",
        };
        json!({
            "id": self.id,
            "service": &*self.service,
            "caller": self.caller(),
            "method": head.method.as_str(),
            "path": target(&head.uri),
            "version": version(head.version),
            "status": answer.map(|answer| answer.status.as_u16()),
            "reason": answer.and_then(|answer| answer.status.canonical_reason()),
            "grpc_status": self.grpc_status(),
            "state": state,
            "error": match &self.end {
                Some((_, End::Failed(reason))) => Some(reason),
                _ => None,
            },
            "started": self.started.duration_since(SystemTime::UNIX_EPOCH).ok().map(milliseconds),
            "head_ms": answer.map(|answer| milliseconds(answer.after)),
            "end_ms": self.end.as_ref().map(|(after, _)| milliseconds(*after)),
            "request_bytes": self.request.total,
            "response_bytes": self.response.total,
            "replay_of": self.replay_of,
            "replayable": self.why_not_replayed().is_none(),
            "request_truncated": self.request.is_truncated(),
        })
    }

    /// Who asked; of what the page has sent again, nobody but the page.
    pub(crate) fn caller(&self) -> Option<&str> {
        let caller = self.head.extensions.get::<Caller>();
        caller
            .filter(|_| self.replay_of.is_none())
            .map(|caller| &*caller.0)
    }

    /// The status of gRPC, which is in the trailers, or in the head of an answer without a body.
    fn grpc_status(&self) -> Option<String> {
        let head = self.answer.as_ref().map(|answer| &answer.headers);
        let mut places = self.response.trailers.iter().chain(head);
        let status = places.find_map(|fields| fields.get("grpc-status"))?;
        Some(status.as_bytes().escape_ascii().to_string())
    }

    /// Why it cannot be sent again.
    pub(crate) fn why_not_replayed(&self) -> Option<&'static str> {
        let head = &self.head;
        if head.method == Method::CONNECT || head.headers.contains_key(http::header::UPGRADE) {
            return Some("it asks for another protocol, which nobody here would speak");
        }
        match self.request.state {
            BodyState::Open => Some("its body has not come to its end yet"),
            _ => None,
        }
    }
}

/// The target as a request line of HTTP/1 has it.
pub(crate) fn target(uri: &Uri) -> &str {
    uri.path_and_query().map_or("*", |path| path.as_str())
}

/// A version as people write it.
pub(crate) fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "HTTP/0.9",
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_3 => "HTTP/3",
        _ => "HTTP/1.1",
    }
}

/// For the page, which counts so.
pub(crate) fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1_000_000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_body_the_beginning_is_kept() {
        let mut body = Captured::default();
        assert_eq!(body.push(&Bytes::from_static(b"abc"), 5), 3);
        assert_eq!(body.push(&Bytes::from_static(b"defg"), 5), 2);
        assert_eq!(body.push(&Bytes::from_static(b"h"), 5), 0);
        assert_eq!((&*body.kept, body.total), (&b"abcde"[..], 8));
        assert!(body.is_truncated());
        // Even where the limit has grown meanwhile, nothing is kept behind a gap.
        assert_eq!(body.push(&Bytes::from_static(b"i"), 50), 0);
    }
}
