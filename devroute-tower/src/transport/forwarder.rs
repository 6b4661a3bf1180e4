//! A forward proxy: every request goes to the host that it names itself.

use std::{
    convert::Infallible,
    future::{Future, ready},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    pin::Pin,
    task::{Context, Poll},
};

use devroute_core::{ServiceName, carrier, via};
use http::{
    Method, Request, Response, Version,
    header::PROXY_AUTHORIZATION,
    request::Parts,
    uri::{Authority, Scheme},
};
use http_body::Body as HttpBody;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tower_service::Service;

use super::{
    Body, Error, HttpTransport, Protocol, ResponseBody, UpstreamFailure,
    peer::{HostPort, Peer},
    upstream::switched,
};
use crate::{
    BoxError,
    failure::{Dialect, Failure},
    forward::{self, PendingUpgrade},
    forwarded,
};

/// Forwards each request to the host that it names, as the inner service of a forward proxy.
///
/// That is the authority of an absolute-form target (RFC 9112, section 3.2.2) or of HTTP/2, else
/// `Host`; without a port it is 80. What goes on is what [`Upstream`](super::Upstream) would send, in
/// the version of HTTP that the client speaks, plus a member of `Via` (RFC 9110, section 7.6.3) and
/// without `Proxy-Authorization`. A request that has passed 16 proxies like this one is answered with
/// 508: traffic that is redirected to a proxy must not include what the proxy sends itself.
///
/// `CONNECT` is answered with a [`Tunnel`] of bytes to host and port, to which nothing is added.
///
/// Connections are pooled by the name of the host. It is looked up once for each new connection, and
/// its addresses are tried in their order. Like an `Upstream` it never fails: what cannot be reached is
/// answered for, with [`UpstreamFailure`] in the extensions.
///
/// ```
/// use devroute_tower::{DevRouteClientLayer, transport::{Forwarder, HttpTransport}};
/// use tower::Layer as _;
///
/// // It must not send requests to itself.
/// let transport = HttpTransport::new().own_listener("127.0.0.1:15001".parse()?);
/// let outbound = DevRouteClientLayer::new().layer(Forwarder::new(transport));
/// # let _ = outbound;
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Forwarder {
    transport: HttpTransport,
    reveal_addresses: bool,
    caller: Option<ServiceName>,
}

/// In the extensions of the answer to a CONNECT: there is a tunnel from here on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel;

type Answer = Pin<Box<dyn Future<Output = Result<Response<ResponseBody>, Infallible>> + Send>>;

impl Forwarder {
    /// Forwards over the connections of `transport`.
    #[must_use]
    pub fn new(transport: HttpTransport) -> Self {
        Self {
            transport,
            reveal_addresses: true,
            caller: None,
        }
    }

    /// Says whose own requests they are, in a comment of `Via`: `1.1 devroute (bar)`. It is for people to read, and only on
    /// requests with a contract, which go to internal hosts where a [`DevRouteClientLayer`](crate::DevRouteClientLayer) is
    /// in front: names inside of a cluster are nobody else's business.
    #[must_use]
    pub fn caller(mut self, service: ServiceName) -> Self {
        self.caller = Some(service);
        self
    }

    /// Whether the answer says which address of a host could not be reached; it does by default.
    #[must_use]
    pub fn reveal_addresses(mut self, reveal: bool) -> Self {
        self.reveal_addresses = reveal;
        self
    }

    /// Joins the client with the host that it asks for a tunnel to.
    fn tunnel(&self, mut parts: Parts, destination: Destination, dialect: Dialect) -> Answer {
        let Destination { authority, peer } = destination;
        let Some(client) = parts.extensions.remove::<OnUpgrade>() else {
            return answer(Failure::of_connect(), dialect);
        };
        let connector = self.transport.connector().clone();
        let reveal_addresses = self.reveal_addresses;
        Box::pin(async move {
            let (mut server, open) = match connector.dial(&peer, Protocol::Http1).await {
                Ok(dialled) => dialled,
                Err(error) => return Ok(failed(&error, &authority, dialect, reveal_addresses)),
            };
            tokio::spawn(async move {
                let _open = open;
                let mut client = match client.await {
                    Ok(client) => TokioIo::new(client),
                    Err(error) => {
                        tracing::debug!(%error, "a tunnel did not come about");
                        return;
                    }
                };
                if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut server).await {
                    tracing::debug!(%peer, %error, "a tunnel ended early");
                }
            });
            let mut response = Response::new(ResponseBody::empty());
            response.extensions_mut().insert(Tunnel);
            Ok(response)
        })
    }
}

impl<B> Service<Request<B>> for Forwarder
where
    B: HttpBody + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Answer {
        let (mut parts, body) = request.into_parts();
        let dialect = Dialect::of(&parts.method, &parts.headers);
        if via::hops(&parts.headers) >= via::MAX_HOPS {
            return answer(Failure::of_loop(), dialect);
        }
        let destination = match Destination::of(&parts) {
            Ok(destination) => destination,
            Err(Unclear { cause, detail }) => {
                return answer(Failure::no_destination(cause, detail), dialect);
            }
        };
        if parts.method == Method::CONNECT {
            return self.tunnel(parts, destination, dialect);
        }
        if let Some((status, headers)) = forward::last_recipient(&mut parts) {
            let mut response = Response::new(ResponseBody::empty());
            *response.status_mut() = status;
            *response.headers_mut() = headers;
            return Box::pin(ready(Ok(response)));
        }
        let Destination { authority, peer } = destination;
        let body = Body::new(body);
        // Whoever speaks HTTP/2 without asking first knows that the host does.
        let protocol = match parts.version {
            Version::HTTP_2 => Protocol::Http2,
            _ => Protocol::of(&parts.headers),
        };
        let caller = self.caller.as_ref();
        let caller = caller.filter(|_| carrier::is_present(&parts.headers));
        forwarded::via(&mut parts.headers, parts.version, caller);
        parts.headers.remove(PROXY_AUTHORIZATION);
        let upgrade = match protocol {
            Protocol::Http2 => None,
            _ => PendingUpgrade::take(&mut parts),
        };
        forward::request_head(&mut parts, &body, protocol, upgrade.as_ref());
        let transport = self.transport.clone();
        let reveal_addresses = self.reveal_addresses;
        Box::pin(async move {
            let request = Box::new(Request::from_parts(parts, body));
            let named = Some(authority.clone());
            let sent = transport.send(peer.clone(), protocol, named, request);
            let answered = sent
                .await
                .and_then(|response| switched(response, upgrade, &peer));
            Ok(answered
                .unwrap_or_else(|error| failed(&error, &authority, dialect, reveal_addresses)))
        })
    }
}

/// What a request is for.
struct Destination {
    authority: Authority,
    peer: Peer,
}

/// Why it is for nothing.
struct Unclear {
    cause: &'static str,
    detail: &'static str,
}

impl Destination {
    fn of(parts: &Parts) -> Result<Self, Unclear> {
        if parts.uri.scheme().is_some_and(|it| *it != Scheme::HTTP) {
            return Err(Unclear {
                cause: "scheme",
                detail: "A request for anything but http:// cannot be sent on as it is.",
            });
        }
        let unclear = Unclear {
            cause: "no_destination",
            detail: "The request does not say which host and port it is for.",
        };
        let Some(authority) = forward::authority(parts) else {
            return Err(unclear);
        };
        let default = (parts.method != Method::CONNECT).then_some(80);
        let peer = peer(&authority, default).ok_or(unclear)?;
        Ok(Self { authority, peer })
    }
}

/// Who is at an authority, if it is one; `default` is the port where it has none.
fn peer(authority: &Authority, default: Option<u16>) -> Option<Peer> {
    let host = authority.host();
    let all = authority.as_str();
    let behind = all
        .rsplit_once('@')
        .map_or(all, |(_user, it)| it)
        .strip_prefix(host)?;
    let port = match behind.strip_prefix(':').unwrap_or(behind) {
        "" => default?,
        port => port.parse().ok().filter(|&port| port > 0)?,
    };
    if let Some(inner) = host.strip_prefix('[') {
        let ip: Ipv6Addr = inner.strip_suffix(']')?.parse().ok()?;
        return Some(Peer::plain(SocketAddr::new(ip.to_canonical(), port)));
    }
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Some(Peer::plain(SocketAddr::new(ip, port)));
    }
    let host = (!host.is_empty()).then(|| host.to_ascii_lowercase().into())?;
    Some(Peer::host(HostPort { host, port }))
}

fn answer(failure: Failure, dialect: Dialect) -> Answer {
    let response = failure.into_response::<ResponseBody>(dialect, true, None);
    Box::pin(ready(Ok(response.map(ResponseBody::new))))
}

fn failed(
    error: &Error,
    authority: &Authority,
    dialect: Dialect,
    reveal_addresses: bool,
) -> Response<ResponseBody> {
    tracing::debug!(%authority, %error, "a request was not sent on");
    let failure = Failure::of_destination(error, authority, reveal_addresses);
    let mut response = failure.into_response::<ResponseBody>(dialect, true, None);
    response
        .extensions_mut()
        .insert(UpstreamFailure(error.kind()));
    response.map(ResponseBody::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(authority: &str, default: Option<u16>) -> Option<String> {
        Some(peer(&authority.parse().unwrap(), default)?.to_string())
    }

    #[test]
    fn an_authority_names_a_host_and_a_port() {
        for (authority, expected) in [
            ("foo", "foo:80"),
            ("Foo.QA.svc:8080", "foo.qa.svc:8080"),
            ("user:80@foo:81", "foo:81"),
            ("foo@foo", "foo:80"),
            ("81:81", "81:81"),
            ("foo:", "foo:80"),
            ("10.0.0.1", "10.0.0.1:80"),
            ("[FD00::1]:81", "[fd00::1]:81"),
            ("[::ffff:10.0.0.1]", "10.0.0.1:80"),
        ] {
            assert_eq!(at(authority, Some(80)).as_deref(), Some(expected));
        }
        for nothing in ["foo:0", "foo:65536", "foo:http", "[::1%25eth0]:80"] {
            if let Ok(authority) = nothing.parse::<Authority>() {
                assert!(peer(&authority, Some(80)).is_none(), "{nothing}");
            }
        }
        // A tunnel has no port of its own.
        assert_eq!(at("foo", None), None);
        assert_eq!(at("foo:443", None).as_deref(), Some("foo:443"));
    }
}
