//! The way of a request from the address of a service to the laptop.

use std::convert::Infallible;
use std::future::{Future, ready};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use devroute_tower::core::{ServiceName, carrier};
use devroute_tower::hop;
use devroute_tower::transport::{Body, Protocol, ResponseBody};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, Version, header, request};
use http_body::{Frame, SizeHint};
use tower_service::Service;

use super::session::{Presence, Session};
use super::stats::Limit;
use super::{Hub, answer};
use crate::BoxError;
use crate::protocol::{CALLER, SERVICE, remove_private};
use crate::streams::{Answered, SendError, answered, into_stream};

/// Sends what comes to the address of a service to the laptop that has it.
///
/// What goes on is what an [`Upstream`](devroute_tower::transport::Upstream) would send, and like one it never fails:
/// it answers in place of a laptop that is gone.
#[derive(Clone, Debug)]
pub struct Forward {
    hub: Hub,
    session: Arc<Session>,
    service: ServiceName,
    /// What the laptop is told of it: made once.
    named: HeaderValue,
    client: Client,
}

#[derive(Clone, Debug)]
enum Client {
    /// Not known.
    Unknown,
    /// From a network that requests are taken from.
    Welcome(HeaderValue),
    Refused,
}

impl Forward {
    pub(super) fn new(hub: Hub, session: Arc<Session>, service: ServiceName) -> Self {
        let named = HeaderValue::from_str(service.as_str());
        Self {
            hub,
            session,
            service,
            named: named.unwrap_or(HeaderValue::from_static("")),
            client: Client::Unknown,
        }
    }

    /// The service.
    #[must_use]
    pub fn service(&self) -> &ServiceName {
        &self.service
    }

    /// For a connection from `client`, which decides whether its requests are taken.
    #[must_use]
    pub fn with_client(&self, client: SocketAddr) -> Self {
        let allowed = self.hub.0.sources.contains(client.ip());
        Self {
            client: match HeaderValue::try_from(client.to_string()) {
                Ok(client) if allowed => Client::Welcome(client),
                _ => Client::Refused,
            },
            ..self.clone()
        }
    }

    /// Why a request does not go on, whoever's laptop it is.
    fn refusal(&self, headers: &HeaderMap) -> Option<hop::Problem> {
        if matches!(self.client, Client::Refused) {
            return Some(answer::source(&self.service));
        }
        let matched = headers.get(carrier::MATCHED);
        if matched.is_some_and(|matched| *matched != self.named) {
            return Some(answer::misdirected(&self.service, &self.session.holder()));
        }
        None
    }

    fn refuse(
        &self,
        problem: hop::Problem,
        method: &Method,
        headers: &HeaderMap,
    ) -> Response<ForwardBody> {
        self.hub.0.counters.refused(problem.cause());
        let response = problem.answer(method, headers);
        response.map(ForwardBody::own)
    }

    /// Makes the head that the laptop gets.
    fn prepare(&self, parts: &mut request::Parts, body: &Body) -> Option<hop::Upgrade> {
        let upgrade = if http_body::Body::is_end_stream(body) {
            hop::Upgrade::take(parts)
        } else {
            // HTTP/2 has no body in the way to an upgrade, and nobody is known who sends one.
            None
        };
        let authority = hop::authority(parts);
        hop::request(parts, body, Protocol::Http2, upgrade.as_ref());
        remove_private(&mut parts.headers);
        parts.headers.remove(header::HOST);
        parts.headers.insert(SERVICE, self.named.clone());
        if let Client::Welcome(client) = &self.client {
            parts.headers.insert(CALLER, client.clone());
        }
        let path = parts.uri.path_and_query().cloned();
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(Scheme::HTTP);
        uri.authority = authority.or_else(|| Authority::try_from(self.service.as_str()).ok());
        uri.path_and_query = Some(path.unwrap_or(PathAndQuery::from_static("/")));
        if let Ok(uri) = Uri::from_parts(uri) {
            parts.uri = uri;
        }
        parts.version = Version::HTTP_2;
        if let Some(upgrade) = &upgrade {
            into_stream(parts, upgrade);
        }
        upgrade
    }
}

impl Service<Request<Body>> for Forward {
    type Response = Response<ForwardBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (mut parts, body) = request.into_parts();
        let refusal = self.refusal(&parts.headers);
        let (tunnel, stream) = match (refusal, self.session.presence()) {
            (Some(problem), _) => {
                let response = self.refuse(problem, &parts.method, &parts.headers);
                return Box::pin(ready(Ok(response)));
            }
            (None, Presence::Here(tunnel)) => {
                let limit = self.hub.0.config.limits.streams;
                let Some(stream) = Stream::begin(&self.session.streams, limit) else {
                    self.hub.0.counters.limit(Limit::Streams);
                    let problem = answer::busy(&self.service, &self.session.holder(), limit);
                    let response = self.refuse(problem, &parts.method, &parts.headers);
                    return Box::pin(ready(Ok(response)));
                };
                (tunnel, stream)
            }
            (None, Presence::Gone { since, .. }) => {
                let problem = answer::gone(&self.service, &self.session.holder(), since);
                let response = self.refuse(problem, &parts.method, &parts.headers);
                return Box::pin(ready(Ok(response)));
            }
        };
        let asked = (parts.method.clone(), dialect(&parts.headers));
        let upgrade = self.prepare(&mut parts, &body);
        let body = tunnel.gates.hold(&mut parts, body);
        let this = self.clone();
        Box::pin(async move {
            let request = Request::from_parts(parts, body);
            let error = match tunnel.sender.send(request).await {
                Ok(response) => {
                    let response = answered(response, upgrade, stream).await;
                    return Ok(response.map(|inner| ForwardBody { inner }));
                }
                Err(error) => error,
            };
            let holder = this.session.holder();
            let problem = match error {
                SendError::Closed => answer::cut(&this.service, &holder),
                SendError::Reset => answer::reset(&this.service, &holder),
                SendError::Refused => {
                    let limit = this.hub.0.config.limits.streams;
                    answer::busy(&this.service, &holder, limit)
                }
            };
            let (method, headers) = asked;
            Ok(this.refuse(problem, &method, &headers))
        })
    }
}

/// What of a request says in which words it wants to be refused.
fn dialect(headers: &HeaderMap) -> HeaderMap {
    let content_type = headers.get(header::CONTENT_TYPE);
    content_type
        .map(|value| (header::CONTENT_TYPE, value.clone()))
        .into_iter()
        .collect()
}

/// One of the requests that a laptop answers.
#[derive(Debug)]
struct Stream(Arc<AtomicUsize>);

impl Stream {
    fn begin(streams: &Arc<AtomicUsize>, limit: u32) -> Option<Self> {
        let stream = Self(Arc::clone(streams));
        let before = streams.fetch_add(1, Ordering::Relaxed);
        // Dropped, it takes itself back.
        (before < usize::try_from(limit).unwrap_or(usize::MAX)).then_some(stream)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

pin_project_lite::pin_project! {
    /// The body of an answer of [`Forward`]: dropped before its end, it resets the stream.
    #[derive(Debug)]
    pub struct ForwardBody {
        #[pin]
        inner: Answered<Stream>,
    }
}

impl http_body::Body for ForwardBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.project().inner.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl ForwardBody {
    fn own(body: ResponseBody) -> Self {
        Self {
            inner: Answered { body, guard: None },
        }
    }
}
