//! What a proxy owes to each message, for transports of your own.
//!
//! [`HttpTransport`](crate::transport::HttpTransport) and what is built on it do this themselves. Who passes requests
//! on in another way, over a connection that somebody else has opened for example, does with it the same as they do:
//!
//! - fields that are meant for one connection end with it, in both directions (RFC 9110, section 7.6.1);
//! - an upgrade is taken out of the request, so that nobody else answers it, and joined once the other side has
//!   switched;
//! - a head and a short body behind it go to the system as one piece;
//! - a failure is answered with a [`Problem`] in the dialect of the request (rule 12).
//!
//! ```
//! use devroute_tower::{hop, transport::{Body, Protocol}};
//! use http::Request;
//!
//! let request = Request::get("/").header("host", "foo").header("connection", "x-mine").header("x-mine", "1");
//! let (mut parts, body) = request.body(Body::empty()).unwrap().into_parts();
//! assert!(hop::Upgrade::take(&mut parts).is_none());
//! hop::request(&mut parts, &body, Protocol::Http2, None);
//! assert_eq!(parts.headers.keys().collect::<Vec<_>>(), ["host"]);
//! ```

use std::{
    borrow::Cow,
    io::{self, IoSlice},
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll},
};

use devroute_core::ServiceName;
use http::{
    HeaderMap, HeaderValue, Method, Response, StatusCode, request, response, uri::Authority,
};
use http_body::Body as HttpBody;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    failure::{Dialect, Failure},
    forward::{self, PendingUpgrade},
    transport::{Protocol, ResponseBody},
};

/// Makes the head of a request fit for the next connection, which speaks `to`.
pub fn request<B: HttpBody>(
    parts: &mut request::Parts,
    body: &B,
    to: Protocol,
    upgrade: Option<&Upgrade>,
) {
    let upgrade = upgrade.map(|upgrade| &upgrade.0);
    forward::request_head(parts, body, to, upgrade);
}

/// Makes the head of an answer fit for the client's connection; that of a 101 keeps what it has switched to.
pub fn response(parts: &mut response::Parts) {
    forward::response_head(parts);
}

/// The authority that the client asked for: that of the URI, else `Host`.
#[must_use]
pub fn authority(parts: &request::Parts) -> Option<Authority> {
    forward::authority(parts)
}

/// The client's half of an upgrade that the other side may yet accept (RFC 9110, section 7.8).
#[derive(Debug)]
pub struct Upgrade(PendingUpgrade);

impl Upgrade {
    /// Takes it out of a request that asks for one, where its server can give it and a tunnel can carry it: `h2c`
    /// cannot, since the requests in it would pass unseen.
    pub fn take(parts: &mut request::Parts) -> Option<Self> {
        PendingUpgrade::take(parts).map(Self)
    }

    /// What the client wants to speak.
    #[must_use]
    pub fn protocol(&self) -> &HeaderValue {
        self.0.protocol()
    }

    /// Copies bytes both ways between the client and `other`, in a task, from when the client has read its 101 to when
    /// both have ended.
    pub fn join<I>(self, other: I)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        self.0.join(other);
    }
}

/// What is copied rather than handed to the system in pieces: a head, and a short body.
const JOINED: usize = 1024;

/// Writes `bufs` as one piece where they are short, for a stream that takes them to the system.
///
/// `writev` looks at each piece by itself, in the system and in TCP; copying a few hundred bytes costs less. What is
/// longer goes as it is, and is not copied.
///
/// # Errors
///
/// Those of the stream.
pub fn poll_write_joined<W: AsyncWrite>(
    stream: Pin<&mut W>,
    cx: &mut Context<'_>,
    bufs: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    if let [only] = bufs {
        return stream.poll_write(cx, only);
    }
    if bufs.iter().map(|buf| buf.len()).sum::<usize>() > JOINED {
        return stream.poll_write_vectored(cx, bufs);
    }
    let mut space = [MaybeUninit::uninit(); JOINED];
    let mut joined = ReadBuf::uninit(&mut space);
    for buf in bufs {
        joined.put_slice(buf);
    }
    stream.poll_write(cx, joined.filled())
}

/// A failure, on its way to become an answer (rule 12).
#[derive(Debug)]
pub struct Problem(Failure);

impl Problem {
    /// A failure with a stable label (`snake_case`) and one of the registered error types of RFC 9209, section 2.3.
    #[must_use]
    pub fn new(status: StatusCode, cause: &'static str, proxy_status: &'static str) -> Self {
        Self(Failure {
            status,
            cause,
            proxy_status,
            detail: String::new(),
            help: Cow::Borrowed(""),
            service: None,
            target: None,
        })
    }

    /// Says what happened, to this request, in a sentence.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.0.detail = detail.into();
        self
    }

    /// Says what whoever sent it can do about it, in a sentence.
    #[must_use]
    pub fn help(mut self, help: impl Into<Cow<'static, str>>) -> Self {
        self.0.help = help.into();
        self
    }

    /// Names the service that was to answer.
    #[must_use]
    pub fn service(mut self, service: ServiceName) -> Self {
        self.0.service = Some(service);
        self
    }

    /// The label.
    #[must_use]
    pub fn cause(&self) -> &'static str {
        self.0.cause
    }

    /// The answer to a request with this method and these fields: `application/problem+json` (RFC 9457), for gRPC the
    /// same as trailers alone.
    #[must_use]
    pub fn answer(self, method: &Method, headers: &HeaderMap) -> Response<ResponseBody> {
        let dialect = Dialect::of(method, headers);
        self.0
            .into_response::<ResponseBody>(dialect, true, None)
            .map(ResponseBody::new)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    /// The sizes of the pieces that the system would get, call by call.
    #[derive(Default)]
    struct Calls(Vec<Vec<usize>>, Vec<u8>);

    impl AsyncWrite for Calls {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.0.push(vec![buf.len()]);
            self.1.extend_from_slice(buf);
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
            bufs: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            self.0.push(bufs.iter().map(|buf| buf.len()).collect());
            bufs.iter().for_each(|buf| self.1.extend_from_slice(buf));
            Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()))
        }

        fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn short_pieces_are_one_and_long_ones_are_not_copied() {
        let long = "b".repeat(JOINED);
        for (bufs, calls) in [
            (&["head", "body"][..], vec![8]),
            (&["head", "", "body"], vec![8]),
            (&["head"], vec![4]),
            (&[], vec![0]),
            (&[long.split_at(4).1, "body"], vec![JOINED]),
            (&["head", long.split_at(3).1], vec![4, JOINED - 3]),
            (&["head", &long], vec![4, JOINED]),
        ] {
            let slices: Vec<_> = bufs.iter().map(|it| IoSlice::new(it.as_bytes())).collect();
            let mut stream = Calls::default();
            let mut cx = Context::from_waker(std::task::Waker::noop());
            let written = poll_write_joined(Pin::new(&mut stream), &mut cx, &slices);
            let all = bufs.concat();
            assert!(matches!(written, Poll::Ready(Ok(count)) if count == all.len()));
            assert_eq!(stream.0, [calls]);
            assert_eq!(stream.1, all.as_bytes());
        }
    }

    #[tokio::test]
    async fn rule_12_a_problem_speaks_the_dialect_of_the_request() {
        let problem = || {
            Problem::new(StatusCode::BAD_GATEWAY, "gone", "connection_terminated")
                .detail("It is gone.")
                .help("Wait.")
                .service(ServiceName::new("foo").unwrap())
        };
        let response = problem().answer(&Method::GET, &HeaderMap::new());
        assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
        let proxy_status = response.headers()["proxy-status"].to_str().unwrap();
        assert!(
            proxy_status.contains("error=connection_terminated"),
            "{proxy_status}"
        );
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(
            [&body["cause"], &body["detail"], &body["help"]],
            ["gone", "It is gone.", "Wait."]
        );
        assert_eq!(body["service"], "foo");

        let grpc = HeaderMap::from_iter([(
            http::header::CONTENT_TYPE,
            HeaderValue::from_static("application/grpc"),
        )]);
        let response = problem().answer(&Method::POST, &grpc);
        assert_eq!(response.headers()["grpc-status"], "14");
    }
}
