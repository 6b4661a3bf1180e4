//! Who may ask.
//!
//! - A page of another site can make a browser send requests here. It cannot send the token, which is
//!   in a field of its own (`x-devroute-token`) and in no cookie: cookies go to every port of a host, so
//!   the application that is inspected would get it.
//! - A name that somebody lets lead to 127.0.0.1 (DNS rebinding) makes a foreign page one of the same
//!   origin. It is told by `Host`, which has to be this address or `localhost`.
//! - What changes something also has to come from this page, by `Origin`.
//! - The page may load nothing, and talk to nobody, but from where it came, and be in no frame.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN,
    REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use subtle::ConstantTimeEq as _;

const TOKEN: HeaderName = HeaderName::from_static("x-devroute-token");

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'";

/// What a request has to have.
#[derive(Debug)]
pub(super) struct Guard {
    token: String,
    /// What `Host` may be.
    hosts: [String; 2],
}

impl Guard {
    pub(super) fn new(address: SocketAddr) -> io::Result<Self> {
        let mut random = [0; 32];
        getrandom::fill(&mut random).map_err(io::Error::from)?;
        Ok(Self {
            token: random.iter().map(|byte| format!("{byte:02x}")).collect(),
            hosts: [address.to_string(), format!("localhost:{}", address.port())],
        })
    }

    pub(super) fn token(&self) -> &str {
        &self.token
    }

    fn is_host(&self, headers: &HeaderMap) -> bool {
        let mut hosts = headers.get_all(HOST).iter();
        let (host, another) = (hosts.next(), hosts.next());
        host.is_some_and(|host| self.hosts.iter().any(|own| host == own)) && another.is_none()
    }

    fn is_authorized(&self, method: &Method, headers: &HeaderMap) -> bool {
        let token = headers.get(TOKEN).map_or(&b""[..], HeaderValue::as_bytes);
        let is_known: bool = token.ct_eq(self.token.as_bytes()).into();
        is_known && (method == Method::GET || self.is_origin(headers))
    }

    fn is_origin(&self, headers: &HeaderMap) -> bool {
        let origin = headers.get(ORIGIN).map(HeaderValue::as_bytes);
        let host = origin.and_then(|origin| origin.strip_prefix(b"http://"));
        host.is_some_and(|host| self.hosts.iter().any(|own| host == own.as_bytes()))
    }
}

/// For everything: by the right name, and with what keeps the page to itself.
pub(super) async fn protect(
    State(guard): State<Arc<Guard>>,
    request: Request,
    next: Next,
) -> Response {
    let mut response = if guard.is_host(request.headers()) {
        next.run(request).await
    } else {
        (
            StatusCode::MISDIRECTED_REQUEST,
            "This page has no such name.\n",
        )
            .into_response()
    };
    for (name, value) in [
        (CACHE_CONTROL, "no-store"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (REFERRER_POLICY, "no-referrer"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
    ] {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}

/// For everything that tells or does something: with the token, and from the page.
pub(super) async fn authorize(
    State(guard): State<Arc<Guard>>,
    request: Request,
    next: Next,
) -> Response {
    if guard.is_authorized(request.method(), request.headers()) {
        next.run(request).await
    } else {
        (
            StatusCode::FORBIDDEN,
            "Open the page at the address that was printed.\n",
        )
            .into_response()
    }
}
