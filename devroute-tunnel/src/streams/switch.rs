//! Upgrades over HTTP/2: the extended CONNECT (RFC 8441), and back.
//!
//! HTTP/2 has no 101. A request that asks for an upgrade goes as an extended CONNECT with its protocol, and keeps its
//! own fields: both ends speak HTTP/1.1 to the one whose upgrade it is, so `Sec-WebSocket-Key` and its answer are
//! theirs. An answer that switches is a 200 with the fields of the 101. One that does not, and is a success all the
//! same, would be taken for a switch; it goes as 421 with its status beside it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use devroute_tower::hop;
use devroute_tower::transport::ResponseBody;
use http::header::{CONNECTION, HOST, UPGRADE};
use http::{HeaderValue, Method, Response, StatusCode, Version, request, response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::BoxError;
use crate::protocol::{METHOD, STATUS, SWITCHED};

/// Makes an extended CONNECT of a request whose `upgrade` was taken out of it.
pub(crate) fn into_stream(parts: &mut request::Parts, upgrade: &hop::Upgrade) {
    let Ok(protocol) = upgrade.protocol().to_str() else {
        return;
    };
    if let Ok(method) = HeaderValue::from_str(parts.method.as_str()) {
        parts.headers.insert(METHOD, method);
    }
    parts.method = Method::CONNECT;
    parts.extensions.insert(Protocol::from(protocol));
}

/// Makes the request that asks for an upgrade of an extended CONNECT; whether it was one.
pub(crate) fn from_stream(parts: &mut request::Parts) -> bool {
    let method = parts.headers.remove(METHOD);
    let Some(protocol) = parts.extensions.remove::<Protocol>() else {
        return false;
    };
    let method = method.and_then(|method| Method::from_bytes(method.as_bytes()).ok());
    parts.method = method.unwrap_or(Method::GET);
    as_http1(parts);
    if let Ok(protocol) = HeaderValue::from_str(protocol.as_str()) {
        parts
            .headers
            .insert(CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.insert(UPGRADE, protocol);
    }
    true
}

/// Makes a request of HTTP/1.1 of one that was one, and has its host in `:authority` on its way.
pub(crate) fn as_http1(parts: &mut request::Parts) {
    parts.version = Version::HTTP_11;
    if let Some(authority) = parts.uri.authority() {
        if let Ok(host) = HeaderValue::from_str(authority.as_str()) {
            parts.headers.insert(HOST, host);
        }
    }
}

/// Makes the answer to an extended CONNECT of the one to a request for an upgrade.
pub(crate) fn switched(parts: &mut response::Parts) {
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        parts.status = StatusCode::OK;
        parts.headers.remove(CONNECTION);
        if let Some(protocol) = parts.headers.remove(UPGRADE) {
            parts.headers.insert(SWITCHED, protocol);
        }
    } else if parts.status.is_success() {
        let status = HeaderValue::from(parts.status.as_u16());
        parts.headers.insert(STATUS, status);
        parts.status = StatusCode::MISDIRECTED_REQUEST;
    }
}

/// What a client of HTTP/1.1 gets to see of an answer. `guard` lives as long as what becomes of an upgrade.
pub(crate) async fn answered<G: Send + Unpin + 'static>(
    response: Response<Incoming>,
    upgrade: Option<hop::Upgrade>,
    guard: G,
) -> Response<Answered<G>> {
    let (mut parts, body) = response.into_parts();
    let switched = parts.headers.remove(SWITCHED);
    let status = parts.headers.remove(STATUS);
    let other_half = parts.extensions.remove::<OnUpgrade>();
    hop::response(&mut parts);
    if let (Some(upgrade), Some(protocol), Some(half)) = (upgrade, switched, other_half) {
        if let Ok(half) = half.await {
            parts.status = StatusCode::SWITCHING_PROTOCOLS;
            parts
                .headers
                .insert(CONNECTION, HeaderValue::from_static("upgrade"));
            parts.headers.insert(UPGRADE, protocol);
            upgrade.join(Guarded {
                io: TokioIo::new(half),
                _guard: guard,
            });
            let body = ResponseBody::empty();
            return Response::from_parts(parts, Answered { body, guard: None });
        }
        parts.status = StatusCode::BAD_GATEWAY;
    }
    if let Some(status) = status.and_then(|status| StatusCode::from_bytes(status.as_bytes()).ok()) {
        parts.status = status;
    }
    let body = ResponseBody::new(body);
    let guard = Some(guard);
    Response::from_parts(parts, Answered { body, guard })
}

pin_project_lite::pin_project! {
    /// The body of an answer, and what lives as long as it.
    #[derive(Debug)]
    pub(crate) struct Answered<G> {
        #[pin]
        pub(crate) body: ResponseBody,
        pub(crate) guard: Option<G>,
    }
}

impl<G> Body for Answered<G> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.project().body.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A connection, and what lives as long as it.
#[derive(Debug)]
struct Guarded<I, G> {
    io: I,
    _guard: G,
}

impl<I: AsyncRead + Unpin, G: Unpin> AsyncRead for Guarded<I, G> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<I: AsyncWrite + Unpin, G: Unpin> AsyncWrite for Guarded<I, G> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
