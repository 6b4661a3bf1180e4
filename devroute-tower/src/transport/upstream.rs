//! The baseline, where it is another process.

use std::{
    convert::Infallible,
    future::{Future, ready},
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, PoisonError, RwLock},
    task::{Context, Poll},
    time::Duration,
};

use http::{Method, Request, Response, StatusCode, uri::Scheme};
use http_body::Body as HttpBody;
use hyper::upgrade::OnUpgrade;
use tower_service::Service;

use super::{
    Body, Error, ErrorKind, HttpTransport, Protocol, ResponseBody, peer::Peer,
    response_timeout::Turn,
};
use crate::{
    BoxError,
    failure::{Dialect, Failure},
    forward::{self, PendingUpgrade},
};

/// Forwards every request to one address, as the inner service of a proxy.
///
/// Nothing is added or changed but what a proxy must (RFC 9110, section 7.6): fields for one
/// connection end with it, `Host` and everything else go on as they came (rule 16). gRPC goes as
/// HTTP/2 with prior knowledge and everything else as HTTP/1.1, unless [`h2c`](Self::h2c) says
/// HTTP/2 for all. An upgrade is tunnelled once the upstream has switched.
///
/// It never fails: an upstream that cannot be reached is answered for, with 502 or 504 and the
/// reason, and [`UpstreamFailure`] in the extensions of that answer.
///
/// ```
/// use devroute_tower::{DevRouteLayer, transport::{HttpTransport, Upstream}};
/// use tower::Layer as _;
///
/// // A sidecar in one line.
/// let upstream = Upstream::new(HttpTransport::new(), "127.0.0.1:8080".parse()?);
/// let sidecar = DevRouteLayer::new("foo").write_carriers(true).layer(upstream);
/// # let _ = sidecar;
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Upstream {
    transport: HttpTransport,
    at: At,
    #[cfg(feature = "tls")]
    name: Option<super::tls::TlsName>,
    h2c: bool,
    response_timeout: Option<Duration>,
    reveal_addresses: bool,
}

/// Where an upstream is that may move while it is used, such as one that is known by name.
///
/// Clones share the address; whoever looks it up [sets](Self::set) it, and the next request of
/// every [`Upstream`] that [follows](Upstream::follow) goes there.
///
/// ```
/// use devroute_tower::transport::UpstreamAddr;
///
/// let addr = UpstreamAddr::unknown();
/// assert_eq!(addr.get(), None);
/// addr.clone().set("10.0.0.2:443".parse()?);
/// assert_eq!(addr.get(), Some("10.0.0.2:443".parse()?));
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Clone, Debug)]
pub struct UpstreamAddr(Arc<RwLock<Option<SocketAddr>>>);

impl UpstreamAddr {
    /// An address to begin with.
    #[must_use]
    pub fn new(addr: SocketAddr) -> Self {
        Self(Arc::new(RwLock::new(Some(addr))))
    }

    /// None yet: until it is [set](Self::set), requests are answered with 502 and `dns_error`.
    #[must_use]
    pub fn unknown() -> Self {
        Self(Arc::default())
    }

    /// Where it is now.
    #[must_use]
    pub fn get(&self) -> Option<SocketAddr> {
        *self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// It has moved. Requests that are on their way stay on theirs.
    pub fn set(&self, addr: SocketAddr) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(addr);
    }
}

#[derive(Clone, Debug)]
enum At {
    Fixed(SocketAddr),
    Moving(UpstreamAddr),
}

/// Why an [`Upstream`] or a [`Forwarder`](super::Forwarder) answered itself; in the extensions of that answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpstreamFailure(pub(super) ErrorKind);

impl UpstreamFailure {
    /// What went wrong.
    #[must_use]
    pub fn kind(self) -> ErrorKind {
        self.0
    }
}

impl Upstream {
    /// Whether the answer says at which address the upstream does not answer; it does by default.
    #[must_use]
    pub fn reveal_addresses(mut self, reveal: bool) -> Self {
        self.reveal_addresses = reveal;
        self
    }

    /// Forwards to `addr`.
    #[must_use]
    pub fn new(transport: HttpTransport, addr: SocketAddr) -> Self {
        Self::at(transport, At::Fixed(addr))
    }

    /// Forwards to wherever `addr` says by then.
    #[must_use]
    pub fn follow(transport: HttpTransport, addr: UpstreamAddr) -> Self {
        Self::at(transport, At::Moving(addr))
    }

    fn at(transport: HttpTransport, at: At) -> Self {
        Self {
            // It is the deployment that says where this leads.
            transport: transport.unlimited_connects(),
            at,
            #[cfg(feature = "tls")]
            name: None,
            h2c: false,
            response_timeout: None,
            reveal_addresses: true,
        }
    }

    /// Whether everything goes as HTTP/2 with prior knowledge; `false` by default.
    #[must_use]
    pub fn h2c(mut self, h2c: bool) -> Self {
        self.h2c = h2c;
        self
    }

    /// Answers 504 where the answer of the upstream has not begun after `timeout`; without it, which
    /// is the default, an upstream may take as long as it likes.
    ///
    /// What counts is the time that the upstream takes: not what the client takes for the body of
    /// the request, and not what the rest of the answer takes.
    #[must_use]
    pub fn response_timeout(mut self, timeout: Duration) -> Self {
        self.response_timeout = Some(timeout);
        self
    }

    /// Speaks TLS, to whoever has a certificate for `name`, as the
    /// [configuration](HttpTransport::tls) of the transport has it. What is spoken is agreed on by
    /// ALPN: gRPC takes HTTP/2, an upgrade HTTP/1.1, and anything else whichever the upstream chooses.
    #[cfg(feature = "tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
    #[must_use]
    pub fn tls(mut self, name: super::TlsName) -> Self {
        self.name = Some(name);
        self
    }

    fn addr(&self) -> Option<SocketAddr> {
        match &self.at {
            At::Fixed(addr) => Some(*addr),
            At::Moving(addr) => addr.get(),
        }
    }

    fn peer(&self, addr: SocketAddr) -> Peer {
        #[cfg(feature = "tls")]
        if let Some(name) = &self.name {
            return Peer::tls(addr, name.clone());
        }
        Peer::plain(addr)
    }
}

impl<B> Service<Request<B>> for Upstream
where
    B: HttpBody + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (mut parts, body) = request.into_parts();
        let body = Body::new(body);
        let dialect = Dialect::of(&parts.method, &parts.headers);
        if parts.method == Method::CONNECT {
            let refused = Failure::of_connect().into_response::<ResponseBody>(dialect, true, None);
            return Box::pin(ready(Ok(refused.map(ResponseBody::new))));
        }
        if let Some((status, headers)) = forward::last_recipient(&mut parts) {
            let mut response = Response::new(ResponseBody::empty());
            *response.status_mut() = status;
            *response.headers_mut() = headers;
            return Box::pin(ready(Ok(response)));
        }
        let Some(addr) = self.addr() else {
            let error = Error::without_addr(ErrorKind::DnsFailed);
            return Box::pin(ready(Ok(failed(&error, dialect, self.reveal_addresses))));
        };
        let protocol = if self.h2c {
            Protocol::Http2
        } else {
            Protocol::of(&parts.headers)
        };
        let upgrade = match protocol {
            Protocol::Http2 => None,
            _ => PendingUpgrade::take(&mut parts),
        };
        let (transport, peer) = (self.transport.clone(), self.peer(addr));
        let protocol = match protocol {
            // HTTP/2 has no upgrades.
            Protocol::Http1 if peer.scheme() == Scheme::HTTPS && upgrade.is_none() => {
                Protocol::Negotiated
            }
            protocol => protocol,
        };
        let authority = match protocol {
            Protocol::Http1 => None,
            _ => forward::authority(&parts),
        };
        forward::request_head(&mut parts, &body, protocol, upgrade.as_ref());
        let whom = peer.clone();
        let timeout = self.response_timeout;
        let reveal_addresses = self.reveal_addresses;
        Box::pin(async move {
            let sent = match timeout {
                None => {
                    let request = Box::new(Request::from_parts(parts, body));
                    transport.send(peer, protocol, authority, request).await
                }
                // In a box of its own, so that nobody else carries a timer.
                Some(timeout) => {
                    let (turn, body) = Turn::watch(body);
                    let request = Box::new(Request::from_parts(parts, body));
                    let sent = transport.send(peer, protocol, authority, request);
                    Box::pin(turn.limit(timeout, addr, sent)).await
                }
            };
            Ok(
                match sent.and_then(|response| switched(response, upgrade, &whom)) {
                    Ok(response) => response,
                    Err(error) => failed(&error, dialect, reveal_addresses),
                },
            )
        })
    }
}

/// The answer in place of the upstream's.
fn failed(error: &Error, dialect: Dialect, reveal_addresses: bool) -> Response<ResponseBody> {
    tracing::debug!(%error, "the upstream did not answer");
    let failure = Failure::of_upstream(error, reveal_addresses);
    let mut response = failure.into_response::<ResponseBody>(dialect, true, None);
    response
        .extensions_mut()
        .insert(UpstreamFailure(error.kind()));
    response.map(ResponseBody::new)
}

/// Finishes the head, and joins both sides where the upstream has switched protocols.
pub(super) fn switched(
    response: Response<ResponseBody>,
    upgrade: Option<PendingUpgrade>,
    peer: &Peer,
) -> Result<Response<ResponseBody>, Error> {
    let (mut parts, body) = response.into_parts();
    forward::response_head(&mut parts);
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        let unasked = || Error::of_peer(ErrorKind::Protocol, peer);
        let target = parts.extensions.remove::<OnUpgrade>().ok_or_else(unasked)?;
        upgrade.ok_or_else(unasked)?.tunnel(target);
    }
    Ok(Response::from_parts(parts, body))
}
