//! What a proxy must do to a message before it passes it on, and nothing more.
//!
//! RFC 9110, section 7.6: fields that are meant for one connection end with it. The rest goes on
//! as it came, in number, order and bytes.

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version,
    header::{
        ALLOW, CONNECTION, CONTENT_LENGTH, COOKIE, HOST, MAX_FORWARDS, TE, TRANSFER_ENCODING,
        UPGRADE,
    },
    request, response,
    uri::Authority,
};
use http_body::Body as HttpBody;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    correlation::InFlight,
    forwarded::without_userinfo,
    transport::{BodyUnread, Protocol},
};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// The client's half of an upgrade that the target may yet accept.
///
/// It is taken out of the request, so that no one else answers it, and can be put back.
#[derive(Debug)]
pub(crate) struct PendingUpgrade {
    /// None where the client is the caller itself: it takes the target's half from the answer.
    client: Option<OnUpgrade>,
    protocol: HeaderValue,
    /// The request is in flight as long as its tunnel is open.
    in_flight: Option<InFlight>,
}

impl PendingUpgrade {
    /// What the client asked for, where its server can give it and a tunnel can carry it.
    ///
    /// `h2c` cannot: the requests in it would pass unseen.
    pub(crate) fn take(parts: &mut request::Parts) -> Option<Self> {
        let protocol = upgrade_asked_for(parts)?;
        let client = Some(parts.extensions.remove::<OnUpgrade>()?);
        Some(Self {
            client,
            protocol,
            in_flight: parts.extensions.remove(),
        })
    }

    /// What the caller asked for, who has no server behind it.
    pub(crate) fn of_caller(parts: &request::Parts) -> Option<Self> {
        let protocol = upgrade_asked_for(parts)?;
        Some(Self {
            client: None,
            protocol,
            in_flight: None,
        })
    }

    /// What the client wants to speak.
    pub(crate) fn protocol(&self) -> &HeaderValue {
        &self.protocol
    }

    fn ask(&self, headers: &mut HeaderMap) {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, self.protocol.clone());
    }

    /// Copies bytes both ways once both sides have switched, or gives the target's half back, for
    /// the caller.
    pub(crate) fn tunnel(self, target: OnUpgrade) -> Option<OnUpgrade> {
        if self.client.is_none() {
            return Some(target);
        }
        self.join_when(async { target.await.map(TokioIo::new) });
        None
    }

    /// The same, where the other half is there already.
    pub(crate) fn join<I>(self, target: I)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        self.join_when(std::future::ready(Ok(target)));
    }

    fn join_when<I>(self, target: impl Future<Output = hyper::Result<I>> + Send + 'static)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Some(client) = self.client else { return };
        let in_flight = self.in_flight;
        tokio::spawn(async move {
            let _in_flight = in_flight;
            // The target has switched already; the client's server does when it writes the 101.
            let both = async { Ok::<_, hyper::Error>((target.await?, client.await?)) };
            let (mut target, client) = match both.await {
                Ok(both) => both,
                Err(error) => {
                    tracing::debug!(%error, "an upgrade did not come about");
                    return;
                }
            };
            let mut client = TokioIo::new(client);
            if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut target).await {
                tracing::debug!(%error, "a tunnel ended early");
            }
        });
    }
}

fn upgrade_asked_for(parts: &request::Parts) -> Option<HeaderValue> {
    let protocol = parts.headers.get(UPGRADE)?;
    let asked = parts.version == Version::HTTP_11
        && has_token(&parts.headers, &CONNECTION, "upgrade")
        && !has_token(&parts.headers, &UPGRADE, "h2c");
    asked.then(|| protocol.clone())
}

/// Counts down `Max-Forwards` of an OPTIONS or TRACE request (RFC 9110, section 7.6.2). Where it has
/// come to its end, this is the last recipient, whose answer is here.
pub(crate) fn last_recipient(parts: &mut request::Parts) -> Option<(StatusCode, HeaderMap)> {
    if parts.method != Method::OPTIONS && parts.method != Method::TRACE {
        return None;
    }
    let value = parts.headers.get(MAX_FORWARDS)?.to_str().ok()?;
    // More than we can count is more than there are proxies; what is no number says nothing.
    match value.parse::<u32>().ok()?.checked_sub(1) {
        Some(left) => {
            parts.headers.insert(MAX_FORWARDS, HeaderValue::from(left));
            None
        }
        None => {
            let allow = (ALLOW, HeaderValue::from_static("OPTIONS"));
            let status = match parts.method {
                Method::OPTIONS => StatusCode::NO_CONTENT,
                // A proxy in front of somebody's service repeats no request to whoever asks.
                _ => StatusCode::METHOD_NOT_ALLOWED,
            };
            Some((status, HeaderMap::from_iter([allow])))
        }
    }
}

/// Whether somebody may read another request in this one: of several `Host` fields which is meant, and what a
/// transfer coding does to the body besides chunks. Servers let both in.
pub(crate) fn has_two_readings(headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    if hosts.next().is_some() && hosts.next().is_some() {
        return true;
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (Some(coding), None) => !coding.as_bytes().eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => true,
        (None, _) => false,
    }
}

/// The authority that the client asked for: that of the URI, else `Host`.
pub(crate) fn authority(parts: &request::Parts) -> Option<Authority> {
    match parts.uri.authority() {
        Some(authority) => Some(authority.clone()),
        None => Authority::try_from(parts.headers.get(HOST)?.as_bytes()).ok(),
    }
}

/// Makes a request fit for the next connection.
pub(crate) fn request_head<B: HttpBody>(
    parts: &mut request::Parts,
    body: &B,
    to: Protocol,
    upgrade: Option<&PendingUpgrade>,
) {
    let te_trailers = remove_hop_by_hop(&mut parts.headers);
    if te_trailers {
        parts
            .headers
            .insert(TE, HeaderValue::from_static("trailers"));
    }
    // An absolute-form target is the authority, whatever `Host` says (RFC 9112, section 3.2.2).
    if let Some(authority) = parts.uri.authority() {
        let differs = parts
            .headers
            .get(HOST)
            .is_none_or(|host| host.as_bytes() != authority.as_str().as_bytes());
        if differs {
            if let Ok(host) = HeaderValue::from_str(without_userinfo(authority)) {
                parts.headers.insert(HOST, host);
            }
        }
    }
    if to == Protocol::Http1 && parts.version == Version::HTTP_2 {
        join_cookies(&mut parts.headers);
    }
    keep_one_length(&mut parts.headers);
    if to != Protocol::Http2 {
        let length_is_known = body.is_end_stream()
            || body.size_hint().exact().is_some()
            || parts.headers.contains_key(CONTENT_LENGTH);
        if !length_is_known {
            // hyper would send a GET without it, and silently drop the body.
            parts
                .headers
                .insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        if let Some(upgrade) = upgrade {
            upgrade.ask(&mut parts.headers);
        }
    }
}

/// Makes an answer fit for the client's connection. A 101 keeps what it has switched to.
pub(crate) fn response_head(parts: &mut response::Parts) {
    let switched = (parts.status == StatusCode::SWITCHING_PROTOCOLS)
        .then(|| parts.headers.get(UPGRADE).cloned())
        .flatten();
    remove_hop_by_hop(&mut parts.headers);
    if let Some(protocol) = switched {
        parts
            .headers
            .insert(CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.insert(UPGRADE, protocol);
    }
    if parts.extensions.remove::<BodyUnread>().is_some() {
        parts
            .headers
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
    // A target that speaks HTTP/1.0 must not turn the client's connection into one.
    parts.version = Version::HTTP_11;
}

/// RFC 9110, section 7.6.1: what `Connection` names, and what is known to be for one connection.
///
/// Nearly every message has none of these, or `connection: keep-alive` alone. So the names are looked
/// at once, which is cheaper than six look-ups, and only what is there is removed.
///
/// Returns whether `TE` asked for trailers, which whoever sends a request on asks for anew.
fn remove_hop_by_hop(headers: &mut HeaderMap) -> bool {
    let [mut connection, mut others] = [false; 2];
    for name in headers.keys() {
        match name.as_str() {
            "connection" => connection = true,
            "keep-alive" | "proxy-connection" | "te" | "transfer-encoding" | "upgrade" => {
                others = true;
            }
            _ => {}
        }
    }
    // Before `Connection`, which names it as often as not, has it removed.
    let te_trailers = others && has_token(headers, &TE, "trailers");
    if connection {
        for name in named_by_connection(headers) {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    if others {
        for name in [KEEP_ALIVE, PROXY_CONNECTION, TE, TRANSFER_ENCODING, UPGRADE] {
            headers.remove(name);
        }
    }
    te_trailers
}

/// What `Connection` names beside what is removed anyway.
fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|token| {
            !token.eq_ignore_ascii_case(b"keep-alive") && !token.eq_ignore_ascii_case(b"close")
        })
        .filter_map(|token| HeaderName::from_bytes(token).ok())
        // Who names these would change what the message means, not where it ends.
        .filter(|name| *name != HOST && *name != CONTENT_LENGTH)
        .collect()
}

/// A server of HTTP/2 lets several lengths in that are equal. Two lines would be two meanings in HTTP/1.1 (RFC 9112,
/// section 6.3), which what comes behind HTTP/2 may speak; whoever sends a message on replaces them by one (RFC 9110,
/// section 8.6).
fn keep_one_length(headers: &mut HeaderMap) {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    if let (Some(first), Some(_)) = (lengths.next(), lengths.next()) {
        let first = first.clone();
        headers.insert(CONTENT_LENGTH, first);
    }
}

/// HTTP/2 may send one cookie a field; HTTP/1.1 must not (RFC 9113, section 8.2.3).
pub(crate) fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(COOKIE).iter();
    if crumbs.next().is_some() && crumbs.next().is_some() {
        let all: Vec<&[u8]> = headers
            .get_all(COOKIE)
            .iter()
            .map(HeaderValue::as_bytes)
            .collect();
        if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
            headers.insert(COOKIE, joined);
        }
    }
}

/// Whether a comma-separated list field has this token, in any case and line.
fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers.get_all(name).iter().any(|line| {
        line.as_bytes()
            .split(|byte| *byte == b',')
            .any(|item| item.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;
    use http_body_util::Full;

    fn parts(request: http::request::Builder) -> request::Parts {
        request.body(()).unwrap().into_parts().0
    }

    fn body(text: &'static str) -> Full<bytes::Bytes> {
        Full::from(text)
    }

    fn lines(headers: &HeaderMap, name: &str) -> Vec<String> {
        headers
            .get_all(name)
            .iter()
            .map(|it| it.to_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn rule_16_hop_by_hop_fields_end_here_and_te_trailers_goes_on() {
        let mut parts = parts(
            Request::get("/")
                .header("connection", "close, X-Mine")
                .header("connection", "host, content-length")
                .header("host", "foo")
                .header("content-length", "3")
                .header("x-mine", "1")
                .header("keep-alive", "timeout=5")
                .header("te", "gzip, Trailers")
                .header("upgrade", "websocket")
                .header("x-kept", "1")
                .header("x-kept", "2"),
        );
        request_head(&mut parts, &body("abc"), Protocol::Http1, None);
        let mut names: Vec<_> = parts.headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-length", "host", "te", "x-kept"]);
        assert_eq!(lines(&parts.headers, "te"), ["trailers"]);
        assert_eq!(lines(&parts.headers, "x-kept"), ["1", "2"]);
    }

    #[test]
    fn rule_16_trailers_are_asked_for_only_where_the_client_does() {
        for (name, value) in [("te", "gzip"), ("keep-alive", "timeout=5"), ("x-kept", "1")] {
            let mut parts = parts(Request::get("/").header(name, value));
            request_head(&mut parts, &body(""), Protocol::Http1, None);
            assert!(!parts.headers.contains_key("te"), "{name}");
        }
    }

    #[test]
    fn rule_16_absolute_form_decides_the_host() {
        let mut parts = parts(Request::get("http://u:p@foo:81/x").header("host", "evil"));
        request_head(&mut parts, &body(""), Protocol::Http1, None);
        assert_eq!(lines(&parts.headers, "host"), ["foo:81"]);
    }

    #[test]
    fn rule_16_cookie_crumbs_are_joined_for_http_1_only() {
        let crumbs = || {
            let mut parts = parts(
                Request::get("/")
                    .version(Version::HTTP_2)
                    .header("cookie", "a=1")
                    .header("cookie", "b=2"),
            );
            parts
                .headers
                .insert("host", HeaderValue::from_static("foo"));
            parts
        };
        let mut one = crumbs();
        request_head(&mut one, &body(""), Protocol::Http1, None);
        assert_eq!(lines(&one.headers, "cookie"), ["a=1; b=2"]);
        let mut two = crumbs();
        request_head(&mut two, &body(""), Protocol::Http2, None);
        assert_eq!(lines(&two.headers, "cookie"), ["a=1", "b=2"]);
    }

    #[test]
    fn rule_16_a_request_is_not_sent_on_that_has_two_readings() {
        let has_two = |fields: &[(&str, &str)]| {
            let request = fields
                .iter()
                .fold(Request::post("/"), |request, (name, value)| {
                    request.header(*name, *value)
                });
            let parts = parts(request);
            has_two_readings(&parts.headers)
        };
        assert!(!has_two(&[]));
        assert!(!has_two(&[("host", "a"), ("transfer-encoding", "Chunked")]));
        assert!(has_two(&[("host", "a"), ("host", "a")]));
        assert!(has_two(&[("transfer-encoding", "gzip, chunked")]));
        assert!(has_two(&[
            ("transfer-encoding", "gzip"),
            ("transfer-encoding", "chunked")
        ]));
    }

    #[test]
    fn rule_16_a_length_is_there_once() {
        for to in [Protocol::Http1, Protocol::Http2, Protocol::Negotiated] {
            let twice = Request::post("/")
                .header("content-length", "3")
                .header("content-length", "3");
            let mut parts = parts(twice);
            request_head(&mut parts, &body("abc"), to, None);
            assert_eq!(lines(&parts.headers, "content-length"), ["3"], "{to:?}");
        }
    }

    #[test]
    fn rule_16_a_body_of_unknown_length_is_chunked_for_every_method() {
        let mut parts = parts(Request::get("/"));
        request_head(&mut parts, &OfUnknownLength, Protocol::Http1, None);
        assert_eq!(lines(&parts.headers, "transfer-encoding"), ["chunked"]);
    }

    #[test]
    fn rule_16_a_body_whose_length_is_known_from_anywhere_is_not_chunked() {
        let is_chunked = |parts: &request::Parts| parts.headers.contains_key("transfer-encoding");
        for text in ["", "abc"] {
            let mut by_itself = parts(Request::post("/"));
            request_head(&mut by_itself, &body(text), Protocol::Http1, None);
            assert!(!is_chunked(&by_itself), "{text:?}");
        }
        // With both, two readers could each believe another one.
        let mut by_its_field = parts(Request::post("/").header("content-length", "3"));
        request_head(&mut by_its_field, &OfUnknownLength, Protocol::Http1, None);
        assert!(!is_chunked(&by_its_field));
    }

    struct OfUnknownLength;

    impl HttpBody for OfUnknownLength {
        type Data = bytes::Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<http_body::Frame<bytes::Bytes>, Self::Error>>> {
            std::task::Poll::Ready(None)
        }
    }

    #[test]
    fn rule_17_an_upgrade_to_h2c_is_never_taken() {
        let mut with = parts(
            Request::get("/")
                .header("connection", "Upgrade, HTTP2-Settings")
                .header("upgrade", "H2C"),
        );
        assert!(PendingUpgrade::take(&mut with).is_none());
        // Nor is one that no server is there to carry out.
        let mut with = parts(
            Request::get("/")
                .header("connection", "Upgrade")
                .header("upgrade", "websocket"),
        );
        assert!(PendingUpgrade::take(&mut with).is_none());
    }
}
