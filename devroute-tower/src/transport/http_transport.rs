//! The transport that everything uses unless it is told otherwise.

use std::{
    future::Future,
    net::{IpAddr, SocketAddr},
    ops::ControlFlow,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use devroute_core::TargetPolicy;
use http::{
    Request, Response, Uri, Version,
    header::TRANSFER_ENCODING,
    uri::{Authority, Scheme},
};
use http_body::Body as _;
use tower_service::Service;

use super::{
    AnnouncedTrailers, Body, Connects, Destination, Error, ErrorKind, Lookups, OnTrailersDropped,
    Protocol, ResponseBody,
    connect::{Connector, Dialled, OpenConnections},
    destination::{to_h1, to_h2},
    h1, h2,
    peer::Peer,
    pool::Pool,
    repeat, trailers,
};
use crate::forward::join_cookies;

/// Sends requests over pooled HTTP/1.1 and HTTP/2 connections, to exactly the address it is given.
///
/// The address is the authority of the request's URI and must be an `IP:port`: names are resolved
/// and judged before a request comes here. Where no connection can be opened to it,
/// [other addresses](Destination::other_addresses) of the same name are tried, in the same time.
/// [`Destination`] says what is spoken; without it gRPC
/// goes as HTTP/2 with prior knowledge and everything else as HTTP/1.1.
///
/// - Clones share one pool. It belongs to the value, so two transports share nothing.
/// - An HTTP/1.1 connection is polled by the future and the body that use it; dropping either ends
///   the exchange. Only HTTP/2 connections, tunnels, and an upload that is still running when its
///   answer begins have a task.
/// - A request is taken only by an open connection, so a refused one is never half sent. One that
///   finds a pooled connection closed before a byte went out is sent on a new one. So is one that was
///   written, if its method is idempotent, it has no body, and not a byte of an answer came.
/// - With `Expect: 100-continue` the body is not touched before the target has said 100, or has
///   said nothing for a second (RFC 9110, section 10.1.1).
/// - There is a limit for connecting, 2 seconds by default, and none for the answer: whoever
///   answers may sit at a breakpoint. How many connections are opened at a time is limited, too, so
///   that a target that does not answer is nobody else's loss ([`Connects`]).
///
/// ```
/// use std::time::Duration;
/// use devroute_tower::transport::HttpTransport;
///
/// let transport = HttpTransport::new().connect_timeout(Duration::from_millis(500));
/// assert_eq!(transport.open_connections(), 0);
/// ```
#[derive(Clone, Debug)]
pub struct HttpTransport(Arc<Inner>);

/// One reference to count, since a transport is cloned for each request.
#[derive(Clone, Debug)]
struct Inner {
    connector: Connector,
    idle_timeout: Duration,
    max_idle: usize,
    pool: Arc<Pool>,
    on_trailers_dropped: Option<trailers::Hook>,
}

/// What came of the open connections: the end of it, or the request, which is still to be sent.
type Pooled = ControlFlow<Result<Response<ResponseBody>, Error>, Box<Request<Body>>>;

/// The answer to come, or why there is none.
pub type ResponseFuture =
    Pin<Box<dyn Future<Output = Result<Response<ResponseBody>, Error>> + Send>>;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
const MAX_IDLE: usize = 256;

impl HttpTransport {
    /// A transport with an empty pool.
    #[must_use]
    pub fn new() -> Self {
        let connector = Connector {
            timeout: CONNECT_TIMEOUT,
            own_listeners: Arc::default(),
            policy: None,
            open: OpenConnections::default(),
            connects: Some(Connects::new()),
            lookups: Lookups::new(),
            #[cfg(feature = "tls")]
            tls: None,
        };
        let pool = Arc::new(Pool::new(IDLE_TIMEOUT, MAX_IDLE));
        Self(Arc::new(Inner {
            connector,
            idle_timeout: IDLE_TIMEOUT,
            max_idle: MAX_IDLE,
            pool,
            on_trailers_dropped: None,
        }))
    }

    /// How long opening a connection may take; 2 seconds by default.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.settings().connector.timeout = timeout;
        self
    }

    /// How many connections are opened at a time, and what is remembered of those that did not come;
    /// by default what [`Connects::new`] has, for this transport alone.
    #[must_use]
    pub fn connects(mut self, connects: Connects) -> Self {
        self.settings().connector.connects = Some(connects);
        self
    }

    /// Opens as many connections as are asked for, and tries each time.
    pub(super) fn unlimited_connects(mut self) -> Self {
        self.settings().connector.connects = None;
        self
    }

    /// How long an idle connection is kept; 60 seconds by default. Starts a pool of its own.
    #[must_use]
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.settings().idle_timeout = timeout;
        self.with_new_pool()
    }

    /// How many idle connections to one address are kept; 256 by default. Starts a pool of its own.
    #[must_use]
    pub fn max_idle(mut self, connections: usize) -> Self {
        self.settings().max_idle = connections;
        self.with_new_pool()
    }

    /// An address this process listens on. A connection that turns out to end there, by whatever
    /// address of this host, is closed before a byte is sent
    /// ([`OwnListener`](ErrorKind::OwnListener)).
    #[must_use]
    pub fn own_listener(mut self, addr: SocketAddr) -> Self {
        let connector = &mut self.settings().connector;
        let known = connector.own_listeners.iter().copied();
        connector.own_listeners = known.chain([addr]).collect();
        self
    }

    /// Dials only addresses that `policy` allows. The addresses of targets have been judged before they
    /// come here; this is for a [`Forwarder`](super::Forwarder), which dials names.
    #[must_use]
    pub fn policy(mut self, policy: TargetPolicy) -> Self {
        self.settings().connector.policy = Some(Arc::new(policy));
        self
    }

    /// How `https` is spoken; without it such a request fails
    /// ([`TlsUnavailable`](ErrorKind::TlsUnavailable)). Starts a pool of its own, since what is open
    /// was trusted by other rules.
    #[cfg(feature = "tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
    #[must_use]
    pub fn tls(mut self, config: super::TlsConfig) -> Self {
        self.settings().connector.tls = Some(super::tls::Handshaker::new(config));
        self.with_new_pool()
    }

    /// Is told of each request whose trailers the target does not get, or not all of them, for a
    /// metric: over HTTP/1.1 only announced ones go ([`AnnouncedTrailers`]).
    ///
    /// Where the length of a body is known, nobody looks what is behind it: such trailers are dropped,
    /// and not told of.
    #[must_use]
    pub fn on_trailers_dropped(
        mut self,
        hook: impl OnTrailersDropped + Send + Sync + 'static,
    ) -> Self {
        self.settings().on_trailers_dropped = Some(trailers::Hook::new(hook));
        self
    }

    /// How many connections are open now, in use or idle.
    #[must_use]
    pub fn open_connections(&self) -> usize {
        self.0.connector.open.count()
    }

    fn settings(&mut self) -> &mut Inner {
        Arc::make_mut(&mut self.0)
    }

    fn with_new_pool(mut self) -> Self {
        let inner = self.settings();
        inner.pool = Arc::new(Pool::new(inner.idle_timeout, inner.max_idle));
        self
    }

    pub(super) fn connector(&self) -> &Connector {
        &self.0.connector
    }

    /// Sends `request` to `peer`, which needs not be in its URI.
    ///
    /// Whatever is not for every request is in a box of its own: this future is moved with each of them, and
    /// is as large as the largest of what it waits for. So is the request, which each of these futures has twice.
    pub(super) async fn send(
        self,
        peer: Peer,
        protocol: Protocol,
        authority: Option<Authority>,
        mut request: Box<Request<Body>>,
    ) -> Result<Response<ResponseBody>, Error> {
        match protocol {
            Protocol::Negotiated if peer.scheme() == Scheme::HTTPS => {
                Box::pin(self.send_negotiated(peer, authority, request)).await
            }
            Protocol::Http1 | Protocol::Negotiated => {
                to_h1(&mut request, &peer, authority.as_ref());
                self.watch_trailers(&mut request);
                let request = match self.pooled_h1(&peer, request).await {
                    ControlFlow::Break(sent) => return sent,
                    ControlFlow::Continue(unsent) => unsent,
                };
                Box::pin(async move {
                    let dialled = self.0.connector.dial(&peer, Protocol::Http1).await?;
                    self.new_h1(peer, dialled, request).await
                })
                .await
            }
            Protocol::Http2 => {
                to_h2(&mut request, peer.scheme(), authority.as_ref());
                let request = match self.pooled_h2(&peer, request).await {
                    ControlFlow::Break(sent) => return sent,
                    ControlFlow::Continue(unsent) => unsent,
                };
                Box::pin(async move {
                    let dialled = self.0.connector.dial(&peer, Protocol::Http2).await?;
                    self.new_h2(peer, dialled, request).await
                })
                .await
            }
        }
    }

    /// Sends in the version that is agreed on with the target. A connection that is open shows what
    /// it chose the last time.
    async fn send_negotiated(
        self,
        peer: Peer,
        authority: Option<Authority>,
        mut request: Box<Request<Body>>,
    ) -> Result<Response<ResponseBody>, Error> {
        let as_h1 = |request: &mut Request<Body>| {
            if request.version() == Version::HTTP_2 {
                join_cookies(request.headers_mut());
            }
            to_h1(request, &peer, authority.as_ref());
            self.watch_trailers(request);
        };
        let as_h2 = |request: &mut Request<Body>| {
            request.headers_mut().remove(TRANSFER_ENCODING);
            request.body_mut().watch_trailers(None);
            to_h2(request, peer.scheme(), authority.as_ref());
        };
        let pooled = if self.0.pool.has_h2(&peer) {
            as_h2(&mut request);
            self.pooled_h2(&peer, request).await
        } else if self.0.pool.has_h1(&peer) {
            as_h1(&mut request);
            self.pooled_h1(&peer, request).await
        } else {
            ControlFlow::Continue(request)
        };
        let mut request = match pooled {
            ControlFlow::Break(sent) => return sent,
            ControlFlow::Continue(unsent) => unsent,
        };
        let dialled = self.0.connector.dial(&peer, Protocol::Negotiated).await?;
        let (stream, _) = &dialled;
        if stream.is_h2() {
            as_h2(&mut request);
            self.new_h2(peer, dialled, request).await
        } else {
            as_h1(&mut request);
            self.new_h1(peer, dialled, request).await
        }
    }

    /// Looks at the trailers of a request that goes out over HTTP/1.1, where there can be some.
    fn watch_trailers(&self, request: &mut Request<Body>) {
        let Some(hook) = self.0.on_trailers_dropped.clone() else {
            return;
        };
        let body = request.body();
        if body.is_end_stream() || body.size_hint().exact().is_some() {
            return;
        }
        let announced = AnnouncedTrailers::by(request.headers());
        let watch = trailers::Watch { announced, hook };
        request.body_mut().watch_trailers(Some(watch));
    }

    async fn pooled_h1(&self, peer: &Peer, mut request: Box<Request<Body>>) -> Pooled {
        while let Some(connection) = self.0.pool.take_h1(peer) {
            let failed = match connection.exchange(request, &self.0.pool).await {
                Ok(response) => return ControlFlow::Break(Ok(response)),
                Err(failed) => failed,
            };
            match (failed.unsent, failed.again) {
                // It was closed after the last look and before the first byte.
                (Some(unsent), _) => request = unsent,
                // It was closed as we wrote.
                (None, Some(again)) => return ControlFlow::Continue(again),
                (None, None) => return ControlFlow::Break(Err(failed.error)),
            }
        }
        ControlFlow::Continue(request)
    }

    async fn new_h1(
        &self,
        peer: Peer,
        dialled: Dialled,
        request: Box<Request<Body>>,
    ) -> Result<Response<ResponseBody>, Error> {
        let connection = h1::Connection::new(peer, dialled).await?;
        connection
            .exchange(request, &self.0.pool)
            .await
            .map_err(|failed| failed.error)
    }

    async fn pooled_h2(&self, peer: &Peer, request: Box<Request<Body>>) -> Pooled {
        let Some(connection) = self.0.pool.take_h2(peer) else {
            return ControlFlow::Continue(request);
        };
        let copy = copy(&request);
        let failed = match connection.send(*request).await {
            Ok(response) => return ControlFlow::Break(Ok(response)),
            Err(failed) => failed,
        };
        let is_closed = failed.error.kind() == ErrorKind::ConnectionClosed;
        let request = match (failed.unsent, copy) {
            (Some(unsent), _) => unsent,
            (None, Some(copy)) if failed.is_unprocessed || is_closed => copy,
            (None, _) => return ControlFlow::Break(Err(failed.error)),
        };
        // It is not the one for the next request either.
        self.0.pool.forget_h2(peer);
        ControlFlow::Continue(request)
    }

    async fn new_h2(
        &self,
        peer: Peer,
        dialled: Dialled,
        request: Box<Request<Body>>,
    ) -> Result<Response<ResponseBody>, Error> {
        let connection = h2::Connection::new(peer.clone(), dialled).await?;
        self.0.pool.put_h2(peer, connection.clone());
        connection
            .send(*request)
            .await
            .map_err(|failed| failed.error)
    }
}

impl Default for HttpTransport {
    fn default() -> Self {
        Self::new()
    }
}

impl Service<Request<Body>> for HttpTransport {
    type Response = Response<ResponseBody>;
    type Error = Error;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let transport = self.clone();
        let mut request = Box::new(request);
        Box::pin(async move {
            let destination = request.extensions_mut().remove::<Destination>();
            let tls_name = destination.as_ref().and_then(Destination::tls_name);
            let others = destination
                .as_ref()
                .map_or(&[][..], Destination::other_addresses);
            let peer = peer(request.uri(), tls_name)?.or(others);
            let protocol = destination
                .as_ref()
                .map_or_else(|| Protocol::of(request.headers()), Destination::protocol);
            let authority = destination.and_then(|it| it.authority().cloned());
            transport.send(peer, protocol, authority, request).await
        })
    }
}

/// A copy of a request that may be sent twice. Over HTTP/1.1 none is needed (`repeat`).
fn copy(request: &Request<Body>) -> Option<Box<Request<Body>>> {
    repeat::is_repeatable(request).then(|| {
        let mut copy = Request::new(Body::empty());
        *copy.method_mut() = request.method().clone();
        *copy.uri_mut() = request.uri().clone();
        *copy.version_mut() = request.version();
        *copy.headers_mut() = request.headers().clone();
        Box::new(copy)
    })
}

/// Who the URI says is to answer.
#[cfg_attr(
    not(feature = "tls"),
    allow(unused_variables, reason = "it is for TLS")
)]
fn peer(uri: &Uri, tls_name: Option<&str>) -> Result<Peer, Error> {
    let addr = address(uri)?;
    if uri.scheme() != Some(&Scheme::HTTPS) {
        return Ok(Peer::plain(addr));
    }
    #[cfg(feature = "tls")]
    return match tls_name.map(str::parse::<super::TlsName>) {
        None => Ok(Peer::tls(addr, addr.ip().into())),
        Some(Ok(name)) => Ok(Peer::tls(addr, name)),
        Some(Err(error)) => Err(Error::new(ErrorKind::TlsCertificate, addr)
            .with_detail("is asked for by a name that no certificate can have")
            .with_source(error)),
    };
    #[cfg(not(feature = "tls"))]
    Err(Error::new(ErrorKind::TlsUnavailable, addr))
}

/// The `IP:port` in the authority; a name here is somebody's mistake, and is not looked up.
fn address(uri: &Uri) -> Result<SocketAddr, Error> {
    let no_address = || Error::without_addr(ErrorKind::DnsFailed);
    let authority = uri.authority().ok_or_else(no_address)?;
    // What it nearly always is, which is read faster as a whole.
    if let Ok(addr) = authority.as_str().parse() {
        return Ok(addr);
    }
    let host = authority.host();
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    let ip: IpAddr = bare
        .parse()
        .map_err(|error| no_address().with_source(error))?;
    let default_port = if uri.scheme() == Some(&Scheme::HTTPS) {
        443
    } else {
        80
    };
    let port = authority.port_u16().unwrap_or(default_port);
    Ok(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_literal_addresses_are_dialled() {
        let ok = |uri: &'static str| address(&Uri::from_static(uri)).map_err(|error| error.kind());
        assert_eq!(
            ok("http://10.0.0.1:81/x"),
            Ok("10.0.0.1:81".parse().unwrap())
        );
        assert_eq!(
            ok("http://[fd00::1]/x"),
            Ok("[fd00::1]:80".parse().unwrap())
        );
        assert_eq!(ok("http://localhost:80/"), Err(ErrorKind::DnsFailed));
        assert_eq!(ok("/x"), Err(ErrorKind::DnsFailed));
        assert_eq!(ok("https://10.0.0.1/"), Ok("10.0.0.1:443".parse().unwrap()));
    }
}
