//! Who is behind a request, and by what way it came (rule 16).
//!
//! Each hop adds to the end of a list, and leaves what came before it: whom to believe is for whoever
//! reads it to know.

use std::net::{IpAddr, SocketAddr};

use devroute_core::{Host, ServiceName};
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Uri, Version,
    header::{Entry, FORWARDED, HOST, VIA},
    uri::Authority,
};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Who sent a request: what `X-Forwarded-*` and `Forwarded` of a rerouted one tell.
///
/// A server gives it to the layer by [`DevRoute::with_client`](crate::DevRoute::with_client), once
/// a connection, or puts it into the extensions of the request.
///
/// ```
/// use devroute_tower::ClientInfo;
///
/// let client = ClientInfo::new("10.1.2.3:50000".parse()?);
/// assert_eq!(client.addr().port(), 50000);
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientInfo {
    addr: SocketAddr,
    tls: bool,
}

impl ClientInfo {
    /// A client that came by plain HTTP.
    #[must_use]
    pub fn new(addr: SocketAddr) -> Self {
        Self { addr, tls: false }
    }

    /// Whether it came by TLS, so that the request was `https`.
    #[must_use]
    pub fn with_tls(mut self, tls: bool) -> Self {
        self.tls = tls;
        self
    }

    /// The address the client's connection comes from.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    fn proto(&self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }

    /// A client on a dual-stack socket is written as the IPv4 address it has.
    fn ip(&self) -> IpAddr {
        self.addr.ip().to_canonical()
    }
}

/// Which fields say who asked and for what, on a request that is passed on (rule 16).
///
/// `Via` goes with each of them, since the hops of a loop are counted by it (rule 8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ForwardedFields {
    /// Neither.
    None,
    /// `X-Forwarded-For`, `-Host` and `-Proto`: what most applications read.
    #[default]
    XForwarded,
    /// `Forwarded` (RFC 7239), with `for`, `host` and `proto`.
    Forwarded,
    /// Both, for applications of both kinds.
    Both,
}

/// Adds `fields` to a request that goes to another process, which has to get a [`via`] as well.
pub(crate) fn add(
    headers: &mut HeaderMap,
    fields: ForwardedFields,
    host: Option<HeaderValue>,
    client: Option<ClientInfo>,
) {
    use ForwardedFields::{Both, Forwarded, XForwarded};

    if matches!(fields, Forwarded | Both) {
        let element = element(client, host.as_ref());
        if !element.is_empty() {
            append_to_list(headers, FORWARDED, &element);
        }
    }
    if matches!(fields, XForwarded | Both) {
        if let Some(client) = client {
            let ip = Host::Ip(client.ip()).to_string();
            append_to_list(headers, X_FORWARDED_FOR, ip.as_bytes());
            if let Entry::Vacant(proto) = headers.entry(X_FORWARDED_PROTO) {
                proto.insert(HeaderValue::from_static(client.proto()));
            }
        }
        if let (Entry::Vacant(line), Some(host)) = (headers.entry(X_FORWARDED_HOST), host) {
            line.insert(host);
        }
    }
}

/// Adds ourselves to `Via`, with the version that the request came in (RFC 9110, section 7.6.3), and in a comment the
/// service whose own request it is.
pub(crate) fn via(headers: &mut HeaderMap, version: Version, caller: Option<&ServiceName>) {
    let received = match version {
        Version::HTTP_10 => "1.0 devroute",
        Version::HTTP_2 => "2 devroute",
        _ => "1.1 devroute",
    };
    let named = caller.and_then(|it| HeaderValue::try_from(format!("{received} ({it})")).ok());
    headers.append(VIA, named.unwrap_or(HeaderValue::from_static(received)));
}

/// The same for a whole request, whose extensions may know the client.
pub(crate) fn add_to<B>(
    request: &mut Request<B>,
    fields: ForwardedFields,
    client: Option<ClientInfo>,
) {
    let client = client.or_else(|| request.extensions().get::<ClientInfo>().copied());
    let host = host(request.uri(), request.headers());
    let version = request.version();
    add(request.headers_mut(), fields, host, client);
    via(request.headers_mut(), version, None);
}

/// The host that the client asked for: that of the URI, else the field (RFC 9112, section 3.2.2).
pub(crate) fn host(uri: &Uri, headers: &HeaderMap) -> Option<HeaderValue> {
    match uri.authority() {
        Some(authority) => HeaderValue::from_str(without_userinfo(authority)).ok(),
        None => headers.get(HOST).cloned(),
    }
}

/// `Host` never contains user information.
pub(crate) fn without_userinfo(authority: &Authority) -> &str {
    let authority = authority.as_str();
    authority.rsplit_once('@').map_or(authority, |it| it.1)
}

/// One element of `Forwarded` (RFC 7239, section 4). There is no `by`: `Via` names us already.
fn element(client: Option<ClientInfo>, host: Option<&HeaderValue>) -> Vec<u8> {
    let mut element = Vec::new();
    let mut pair = |name: &str, value: &[u8]| {
        if !element.is_empty() {
            element.push(b';');
        }
        element.extend_from_slice(name.as_bytes());
        element.push(b'=');
        if !value.is_empty() && value.iter().copied().all(is_token) {
            return element.extend_from_slice(value);
        }
        element.push(b'"');
        for &byte in value {
            if matches!(byte, b'"' | b'\\') {
                element.push(b'\\');
            }
            element.push(byte);
        }
        element.push(b'"');
    };
    match client.map(|client| client.ip()) {
        Some(IpAddr::V4(ip)) => pair("for", ip.to_string().as_bytes()),
        // Section 6: in brackets, and so in quotes.
        Some(IpAddr::V6(ip)) => pair("for", format!("[{ip}]").as_bytes()),
        None => {}
    }
    if let Some(host) = host {
        pair("host", host.as_bytes());
    }
    if let Some(client) = client {
        pair("proto", client.proto().as_bytes());
    }
    element
}

/// Whether it can stand in a token (RFC 9110, section 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Adds an element to the end of a list, in the last line of the field.
fn append_to_list(headers: &mut HeaderMap, name: HeaderName, element: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(element) else {
        return;
    };
    match headers.entry(name) {
        Entry::Vacant(line) => {
            line.insert(value);
        }
        Entry::Occupied(mut lines) => {
            if let Some(last) = lines.iter_mut().next_back() {
                let joined = [last.as_bytes(), b", ", element].concat();
                // A value, a comma and a value are always one.
                if let Ok(joined) = HeaderValue::from_bytes(&joined) {
                    *last = joined;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(headers: &HeaderMap, name: &str) -> Vec<String> {
        headers
            .get_all(name)
            .iter()
            .map(|it| it.to_str().unwrap().to_owned())
            .collect()
    }

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn client(addr: &str) -> Option<ClientInfo> {
        Some(ClientInfo::new(addr.parse().unwrap()))
    }

    #[test]
    fn rule_16_forwarded_fields_are_appended() {
        let before = headers(&[
            ("host", "foo"),
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-for", "2.2.2.2"),
            ("x-forwarded-proto", "https"),
            ("forwarded", "for=1.1.1.1, for=2.2.2.2;proto=https"),
            ("via", "1.1 edge"),
        ]);
        let elements = "for=1.1.1.1, for=2.2.2.2;proto=https";
        let ours = format!("{elements}, for=10.1.2.3;host=foo;proto=http");
        let (x_before, x_ours) = (["1.1.1.1", "2.2.2.2"], ["1.1.1.1", "2.2.2.2, 10.1.2.3"]);
        for (fields, x_forwarded_for, forwarded) in [
            (ForwardedFields::None, x_before, elements),
            (ForwardedFields::XForwarded, x_ours, elements),
            (ForwardedFields::Forwarded, x_before, &*ours),
            (ForwardedFields::Both, x_ours, &*ours),
        ] {
            let mut headers = before.clone();
            let host = host(&Uri::from_static("/"), &headers);
            let client = client("[::ffff:10.1.2.3]:5");
            add(&mut headers, fields, host, client);
            via(&mut headers, Version::HTTP_11, None);
            assert_eq!(lines(&headers, "x-forwarded-for"), x_forwarded_for);
            assert_eq!(lines(&headers, "x-forwarded-proto"), ["https"]);
            let has_host = x_forwarded_for == x_ours;
            assert_eq!(headers.contains_key("x-forwarded-host"), has_host);
            assert_eq!(lines(&headers, "forwarded"), [forwarded], "{fields:?}");
            assert_eq!(lines(&headers, "via"), ["1.1 edge", "1.1 devroute"]);
        }
    }

    #[test]
    fn rule_16_forwarded_quotes_what_is_no_token() {
        for (addr, host, expected) in [
            ("10.1.2.3:5", "foo", "for=10.1.2.3;host=foo;proto=http"),
            (
                "10.1.2.3:5",
                "foo:80",
                r#"for=10.1.2.3;host="foo:80";proto=http"#,
            ),
            (
                "[2001:db8::1]:5",
                "[::1]",
                r#"for="[2001:db8::1]";host="[::1]";proto=http"#,
            ),
            // Nobody writes an element of their own into ours.
            (
                "10.1.2.3:5",
                r#"a",for="\x"#,
                r#"for=10.1.2.3;host="a\",for=\"\\x";proto=http"#,
            ),
            ("10.1.2.3:5", "", r#"for=10.1.2.3;host="";proto=http"#),
        ] {
            let host = HeaderValue::from_static(host);
            let element = element(client(addr), Some(&host));
            assert_eq!(std::str::from_utf8(&element).unwrap(), expected);
        }
        let https = client("10.1.2.3:5").map(|client| client.with_tls(true));
        assert_eq!(element(https, None), b"for=10.1.2.3;proto=https");
        assert_eq!(element(None, None), b"");
    }

    #[test]
    fn rule_16_via_has_the_version_that_the_request_came_in() {
        let caller: ServiceName = "checkout".parse().unwrap();
        for (version, caller, expected) in [
            (Version::HTTP_10, None, "1.0 devroute"),
            (Version::HTTP_11, None, "1.1 devroute"),
            (Version::HTTP_2, None, "2 devroute"),
            (Version::HTTP_2, Some(&caller), "2 devroute (checkout)"),
        ] {
            let mut headers = HeaderMap::new();
            via(&mut headers, version, caller);
            assert_eq!(lines(&headers, "via"), [expected]);
        }
    }

    #[test]
    fn rule_16_the_host_is_the_one_that_was_asked_for() {
        for (uri, field, expected) in [
            ("/", Some("foo:81"), Some("foo:81")),
            ("http://u:p@bar:82/", Some("foo:81"), Some("bar:82")),
            ("https://bar/", None, Some("bar")),
            ("/", None, None),
        ] {
            let mut headers = HeaderMap::new();
            headers.extend(field.map(|field| (HOST, HeaderValue::from_static(field))));
            let host = host(&Uri::from_static(uri), &headers);
            assert_eq!(host, expected.map(HeaderValue::from_static), "{uri}");
        }
    }
}
