//! Asks a router, and says why that did not work where it did not.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use devroute_tower::core::Contract;
use devroute_tower::core::carrier;
use devroute_tower::transport::{
    Body, Destination, Error, ErrorKind, HttpTransport, Protocol, ResponseBody, TlsConfig,
};
use http::header::{CONTENT_LENGTH, HOST, LOCATION};
use http::uri::Authority;
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Limited};
use serde_json::Value;
use tower_service::Service as _;

use super::local;
use super::{Answer, PATH};

/// For a connection to the router.
const CONNECTING: Duration = Duration::from_secs(5);
/// For its answer, which has to wait for its own connection.
const ANSWERING: Duration = Duration::from_secs(30);
/// More than an answer has.
const LONGEST: usize = 64 * 1024;

/// Where a router is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct RouterUrl {
    tls: bool,
    host: String,
    port: u16,
    authority: Authority,
}

impl RouterUrl {
    /// Parses `http://HOST[:PORT]` or `https://HOST[:PORT]`.
    ///
    /// # Errors
    ///
    /// When it is anything else, in words.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| {
            Err(format!(
                "{text:?} {what} (expected one such as http://router.qa:8080 or https://router.example)"
            ))
        };
        let Ok(uri) = text.parse::<Uri>() else {
            return wrong("is no URL");
        };
        let (tls, default) = match uri.scheme_str() {
            Some("http") => (false, 80),
            Some("https") => (true, 443),
            _ => return wrong("begins with neither http:// nor https://"),
        };
        if uri.path() != "/" || uri.query().is_some() {
            return wrong("has a path, and a router has its own");
        }
        let Some(authority) = uri.authority().filter(|it| !it.as_str().contains('@')) else {
            return wrong("names no host, or a user");
        };
        let host = authority.host();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        // What stands behind the colon, if anything does, has to be one.
        let rest = authority.as_str().strip_prefix(authority.host());
        let port = match rest.unwrap_or_default() {
            "" => Some(default),
            port => port.strip_prefix(':').and_then(|port| port.parse().ok()),
        };
        let Some(port) = port.filter(|&port: &u16| port > 0) else {
            return wrong("has no port from 1 to 65535");
        };
        Ok(Self {
            tls,
            host: host.to_owned(),
            port,
            authority: authority.clone(),
        })
    }
}

impl fmt::Display for RouterUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority)
    }
}

/// Asks one router.
#[derive(Debug)]
pub(crate) struct Asker {
    url: RouterUrl,
    transport: HttpTransport,
    addresses: Vec<SocketAddr>,
}

impl Asker {
    /// Looks up where `url` is.
    ///
    /// # Errors
    ///
    /// When its host has no address, in words.
    pub(crate) async fn new(url: RouterUrl, tls: TlsConfig) -> Result<Self, String> {
        let found = tokio::net::lookup_host((&*url.host, url.port)).await;
        let found = found.map(Iterator::collect::<Vec<SocketAddr>>);
        let addresses = found.map_err(|error| format!("{} has no address: {error}", url.host))?;
        if addresses.is_empty() {
            return Err(format!("{} has no address", url.host));
        }
        let transport = HttpTransport::new().connect_timeout(CONNECTING).tls(tls);
        Ok(Self {
            url,
            transport,
            addresses,
        })
    }

    /// Whether it is asked by way of loopback, as through `kubectl port-forward`.
    pub(crate) fn is_on_loopback(&self) -> bool {
        let mut addresses = self.addresses.iter();
        addresses.all(|address| address.ip().is_loopback())
    }

    /// The address that this machine has on its way there.
    pub(crate) fn own_address(&self) -> Option<IpAddr> {
        let mut addresses = self.addresses.iter();
        addresses.find_map(|&address| local::address_towards(address))
    }

    /// Asks about `port`, with `contract` where the router wants to see one.
    ///
    /// # Errors
    ///
    /// When nothing was found out, in words that say why.
    pub(crate) async fn ask(
        &mut self,
        port: u16,
        contract: Option<&Contract>,
    ) -> Result<Answer, String> {
        let answered = tokio::time::timeout(ANSWERING, self.exchange(port, contract));
        match answered.await {
            Ok(answered) => answered,
            Err(_elapsed) => Err(format!(
                "{} took the question, and did not answer in {} s",
                self.url,
                ANSWERING.as_secs()
            )),
        }
    }

    async fn exchange(&mut self, port: u16, contract: Option<&Contract>) -> Result<Answer, String> {
        let response = self.send(port, contract).await?;
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, LONGEST).collect().await;
        let body =
            body.map_err(|error| format!("the answer of {} broke off: {error}", self.url))?;
        let body = body.to_bytes();
        if parts.status == StatusCode::OK {
            if let Ok(answer) = serde_json::from_slice::<Answer>(&body) {
                return Ok(answer);
            }
        }
        let location = parts.headers.get(LOCATION);
        let location = location.map(|it| it.as_bytes().escape_ascii().to_string());
        Err(self.no_answer(parts.status, location.as_deref(), &body))
    }

    async fn send(
        &mut self,
        port: u16,
        contract: Option<&Contract>,
    ) -> Result<Response<ResponseBody>, String> {
        let mut last = None;
        for &address in &self.addresses {
            let request = self.request(address, port, contract)?;
            match self.transport.call(request).await {
                Ok(response) => return Ok(response),
                Err(error) if error.kind().is_before_request() => last = Some(error),
                Err(error) => return Err(self.failed(&error)),
            }
        }
        Err(last.map_or_else(|| "nothing was asked".to_owned(), |it| self.failed(&it)))
    }

    fn request(
        &self,
        address: SocketAddr,
        port: u16,
        contract: Option<&Contract>,
    ) -> Result<Request<Body>, String> {
        let url = &self.url;
        let scheme = if url.tls { "https" } else { "http" };
        let mut destination =
            Destination::new(Protocol::Http1).with_authority(url.authority.clone());
        if url.host.parse::<IpAddr>().is_err() {
            destination = destination.with_tls_name(&url.host);
        }
        let mut request = Request::post(format!("{scheme}://{address}{PATH}?port={port}"))
            .header(HOST, url.authority.as_str())
            .header(CONTENT_LENGTH, "0")
            .extension(destination);
        if let Some(contract) = contract {
            request = request.header(carrier::CONTRACT, contract.header_value());
        }
        request
            .body(Body::empty())
            .map_err(|error| format!("{url}: {error}"))
    }

    fn failed(&self, error: &Error) -> String {
        let help = match error.kind() {
            ErrorKind::TlsCertificate => "; --router-ca FILE trusts another authority",
            ErrorKind::TlsProtocol => {
                "; perhaps it speaks plain HTTP: then the URL begins with http://"
            }
            ErrorKind::ConnectionClosed | ErrorKind::Protocol if !self.url.tls => {
                "; perhaps it speaks TLS: then the URL begins with https://"
            }
            ErrorKind::ConnectTimeout | ErrorKind::Unreachable => "; is the VPN to the cluster up?",
            _ => "",
        };
        format!("{} cannot be asked: {error}{help}", self.url)
    }

    /// What an answer that is none means.
    fn no_answer(&self, status: StatusCode, location: Option<&str>, body: &[u8]) -> String {
        let url = &self.url;
        let problem: Value = serde_json::from_slice(body).unwrap_or_default();
        let text = |member: &str| problem.get(member).and_then(Value::as_str);
        match text("cause") {
            // What a router that knows no such question says to a request without a service.
            Some("missing_contract" | "missing_service" | "no_entry" | "malformed") => {
                format!("{url} is a devroute router of a version that cannot dial back: update it")
            }
            Some(_) => {
                let detail = text("detail").unwrap_or("it refuses to");
                let help = text("help").unwrap_or_default();
                let said = format!("{detail} {help}");
                format!("{url} says: {}", said.trim_end().escape_debug())
            }
            None if status.is_redirection() => format!(
                "{url} sends on to {}: give the URL of the router itself",
                location.unwrap_or("somewhere else")
            ),
            None => format!(
                "what answers at {url} is no devroute router: status {}",
                status.as_u16()
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_router_is_a_scheme_a_host_and_perhaps_a_port() {
        for (text, tls, host, port) in [
            ("http://router.qa:8080", false, "router.qa", 8080),
            ("http://router.qa/", false, "router.qa", 80),
            ("https://10.0.0.1", true, "10.0.0.1", 443),
            ("https://[fd00::7]:8443", true, "fd00::7", 8443),
        ] {
            let url = RouterUrl::parse(text).unwrap();
            assert_eq!((url.tls, &*url.host, url.port), (tls, host, port));
        }
        for (text, why) in [
            ("router.qa:8080", "begins with neither"),
            ("ftp://router.qa", "begins with neither"),
            ("http://router.qa/path", "has a path"),
            ("http://me:secret@router.qa", "names no host, or a user"),
            ("http://router.qa:70000", "has no port"),
            ("http://", "is no URL"),
        ] {
            let error = RouterUrl::parse(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
