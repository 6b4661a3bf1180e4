//! Where a request goes, apart from what it says.

use std::net::SocketAddr;

use http::{
    HeaderMap, HeaderValue, Request, Version,
    header::{CONTENT_TYPE, HOST},
    uri::{Authority, Parts, PathAndQuery, Scheme, Uri},
};

use super::peer::Peer;

/// What a transport needs to know beside the address it dials; it rides in the extensions of the
/// request.
///
/// The URI of a request that a layer hands to a transport has the judged `IP:port` as its
/// authority, so a transport that ignores this extension still dials the right address. One that
/// honours it speaks the right protocol, and names the authority that the client asked for.
///
/// ```
/// use devroute_tower::transport::{Destination, Protocol};
///
/// let destination = Destination::new(Protocol::Http1).with_authority("foo.qa".parse()?);
/// assert_eq!(destination.authority().unwrap(), "foo.qa");
/// assert_eq!(destination.protocol(), Protocol::Http1);
/// # Ok::<(), http::uri::InvalidUri>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    protocol: Protocol,
    authority: Option<Authority>,
    tls_name: Option<Box<str>>,
    others: Vec<SocketAddr>,
}

/// The HTTP version that is spoken to a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Protocol {
    /// HTTP/1.1 (RFC 9112); over TLS it is the only protocol offered.
    Http1,
    /// HTTP/2: with prior knowledge (RFC 9113, section 3.3), or over TLS agreed on by ALPN
    /// (section 3.2).
    Http2,
    /// Over TLS whichever of the two is agreed on by ALPN (RFC 7301), without it HTTP/1.1.
    ///
    /// The head is one for HTTP/1.1, as which it may go out; HTTP/2 takes it without
    /// `transfer-encoding`.
    Negotiated,
}

impl Protocol {
    /// What a target without a scheme is spoken to: gRPC is HTTP/2, everything else HTTP/1.1.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        if is_grpc(headers) {
            Self::Http2
        } else {
            Self::Http1
        }
    }
}

impl Destination {
    /// A destination that is spoken to in `protocol`.
    #[must_use]
    pub fn new(protocol: Protocol) -> Self {
        Self {
            protocol,
            authority: None,
            tls_name: None,
            others: Vec::new(),
        }
    }

    /// The authority that the client asked for: `:authority` on HTTP/2. HTTP/1.1 has it in `Host`.
    #[must_use]
    pub fn with_authority(mut self, authority: Authority) -> Self {
        self.authority = Some(authority);
        self
    }

    /// The name that a TLS certificate has to be for; without one it has to be for the address.
    #[must_use]
    pub fn with_tls_name(mut self, name: &str) -> Self {
        self.tls_name = Some(name.into());
        self
    }

    /// Further addresses of the same target, judged like the one in the URI: where no connection can be
    /// opened to that one, they may be tried in this order.
    #[must_use]
    pub fn with_other_addresses(mut self, addrs: Vec<SocketAddr>) -> Self {
        self.others = addrs;
        self
    }

    /// The protocol to speak.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The authority that the client asked for, where it differs from the dialled address and HTTP/2 may be spoken.
    #[must_use]
    pub fn authority(&self) -> Option<&Authority> {
        self.authority.as_ref()
    }

    /// Further addresses of the target, none of which has to be tried.
    #[must_use]
    pub fn other_addresses(&self) -> &[SocketAddr] {
        &self.others
    }

    /// The name that a TLS certificate has to be for, where the target was given by name.
    #[must_use]
    pub fn tls_name(&self) -> Option<&str> {
        self.tls_name.as_deref()
    }
}

/// Whether the content type is gRPC's own: `application/grpc`, alone or followed by `+` or `;`.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE) else {
        return false;
    };
    match value.as_bytes().split_at_checked(b"application/grpc".len()) {
        Some((name, rest)) => {
            name.eq_ignore_ascii_case(b"application/grpc")
                && matches!(rest.first(), None | Some(b'+' | b';'))
        }
        None => false,
    }
}

/// HTTP/1.1: origin-form and a `Host` (RFC 9112, section 3.2). A request that came without one, as
/// HTTP/1.0 allows, gets the address it is sent to.
pub(super) fn to_h1<B>(request: &mut Request<B>, peer: &Peer, authority: Option<&Authority>) {
    let authority = authority.or_else(|| request.uri().authority());
    if !request.headers().contains_key(HOST) {
        let host = match authority {
            Some(authority) => HeaderValue::from_str(authority.as_str()),
            None => HeaderValue::try_from(peer.to_string()),
        };
        if let Ok(host) = host {
            request.headers_mut().insert(HOST, host);
        }
    }
    if request.uri().scheme().is_some() || request.uri().authority().is_some() {
        let mut parts = Parts::default();
        parts.path_and_query = Some(path(request.uri()));
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }
    *request.version_mut() = Version::HTTP_11;
}

/// HTTP/2: `:scheme`, `:authority` from the client's authority or `Host`, and no `Host` beside it
/// (RFC 9113, section 8.3.1).
pub(super) fn to_h2<B>(request: &mut Request<B>, scheme: Scheme, authority: Option<&Authority>) {
    let host = request.headers_mut().remove(HOST);
    let host = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let authority = authority
        .cloned()
        .or(host)
        .or_else(|| request.uri().authority().cloned());
    let mut parts = Parts::default();
    parts.scheme = Some(scheme);
    parts.path_and_query = Some(path(request.uri()));
    parts.authority = authority;
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
    *request.version_mut() = Version::HTTP_2;
}

fn path(uri: &Uri) -> PathAndQuery {
    uri.path_and_query()
        .cloned()
        .unwrap_or_else(|| PathAndQuery::from_static("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> Peer {
        Peer::plain(([127, 0, 0, 1], 80).into())
    }

    #[test]
    fn grpc_is_told_from_what_looks_like_it() {
        for (value, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("Application/gRPC; charset=x", true),
            ("application/grpc-web", false),
            ("application/grpc-web+proto", false),
            ("application/grp", false),
            ("text/plain", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(value));
            assert_eq!(is_grpc(&headers), expected, "{value}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }

    #[test]
    fn what_is_said_of_a_destination_is_kept() {
        let others = vec![SocketAddr::from(([10, 0, 0, 2], 80))];
        let new = Destination::new(Protocol::Http2);
        assert_eq!((new.authority(), new.tls_name()), (None, None));
        assert!(new.other_addresses().is_empty());
        let said = new
            .with_authority(Authority::from_static("foo:81"))
            .with_tls_name("foo.test")
            .with_other_addresses(others.clone());
        assert_eq!(said.protocol(), Protocol::Http2);
        assert_eq!(said.authority().unwrap(), "foo:81");
        assert_eq!(said.tls_name(), Some("foo.test"));
        assert_eq!(said.other_addresses(), others);
    }

    #[test]
    fn an_authority_alone_is_no_path() {
        let mut request = Request::new(());
        *request.uri_mut() = Uri::from_static("foo:80");
        to_h1(&mut request, &peer(), None);
        assert_eq!(request.uri(), "/");
        assert_eq!(request.headers()[HOST], "foo:80");
    }

    #[test]
    fn h1_has_origin_form_and_keeps_the_host() {
        let mut request = Request::new(());
        *request.uri_mut() = Uri::from_static("http://10.0.0.1:80/a%2Fb?c=d");
        request
            .headers_mut()
            .insert(HOST, HeaderValue::from_static("foo"));
        to_h1(&mut request, &peer(), None);
        assert_eq!(request.uri(), "/a%2Fb?c=d");
        assert_eq!(request.headers()[HOST], "foo");
    }

    #[test]
    fn asterisk_form_survives_both_ways() {
        let mut request = Request::new(());
        *request.uri_mut() = Uri::from_static("*");
        request
            .headers_mut()
            .insert(HOST, HeaderValue::from_static("foo"));
        to_h2(&mut request, Scheme::HTTP, None);
        assert_eq!(request.uri().path(), "*");
        assert_eq!(request.uri().authority().unwrap(), "foo");
        to_h1(&mut request, &peer(), None);
        assert_eq!(request.uri(), "*");
        assert_eq!(request.headers()[HOST], "foo");
    }
}
