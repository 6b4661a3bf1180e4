//! The router's half: dials back whoever asks.
//!
//! What keeps it from being a port scanner:
//!
//! - The address is the one that the connection comes from. No part of the request can name another,
//!   and a request that a proxy has passed on (it carries `X-Forwarded-For`, `Via` or the like) is not
//!   dialled back at all: the proxy would be.
//! - The router's policy judges the address and the port as those of a target.
//! - Where contracts have to be signed, so has the one in the request.
//! - Not a byte is sent, none is read, and the connection is closed at once.
//! - [`AT_A_TIME`] and [`PER_SECOND`] bound what one router does of this, for all clients together.
//! - A web page is refused by its `Origin`: nobody's browser is made to ask.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use devroute_tower::ClientInfo;
use devroute_tower::core::signature::Verifier;
use devroute_tower::core::{Target, TargetPolicy, carrier};
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, ORIGIN, RETRY_AFTER,
    VIA,
};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use super::{Answer, Finding, PATH};
use crate::config::RouterConfig;
use crate::metrics::Metrics;
use crate::server::Words;
use crate::stack::Shared;
use crate::verdict;

/// How many are dialled at a time.
const AT_A_TIME: usize = 16;
/// How many are dialled in a second, after the first [`BURST`].
const PER_SECOND: f64 = 10.0;
/// How many are dialled at once after a pause.
const BURST: f64 = 32.0;

/// Dials back. Clones share the limits.
#[derive(Clone, Debug)]
pub(crate) struct ReachBack {
    shared: Arc<Settings>,
    /// Who has connected.
    client: Option<SocketAddr>,
}

#[derive(Debug)]
struct Settings {
    on: bool,
    policy: TargetPolicy,
    own_listeners: Vec<SocketAddr>,
    timeout: Duration,
    reveal_addresses: bool,
    verifier: Option<Verifier>,
    metrics: Arc<Metrics>,
    places: Semaphore,
    bucket: Mutex<Bucket>,
}

impl ReachBack {
    pub(crate) fn new(config: &RouterConfig, shared: &Shared) -> Self {
        let signatures = config.reroute.signatures.as_ref();
        Self {
            shared: Arc::new(Settings {
                on: config.reach_back,
                policy: shared.policy.clone(),
                own_listeners: shared.own_listeners.clone(),
                timeout: config.reroute.connect_timeout,
                reveal_addresses: config.reroute.reveal_addresses,
                verifier: signatures.map(|file| file.verifier().clone()),
                metrics: Arc::clone(&shared.metrics),
                places: Semaphore::new(AT_A_TIME),
                bucket: Mutex::new(Bucket::full(Instant::now())),
            }),
            client: None,
        }
    }

    /// For the requests of one client.
    pub(crate) fn of(&self, client: ClientInfo) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            client: Some(client.addr()),
        }
    }

    /// Answers `request`, which is one by [`is_asked`].
    pub(crate) fn answer<B>(&self, request: &Request<B>) -> Answering {
        let settings = Arc::clone(&self.shared);
        let asked = self.client.ok_or(Refused::Off);
        let asked = asked.and_then(|client| settings.ask(client, request));
        let (method, headers) = (request.method().clone(), request.headers().clone());
        Answering(Box::pin(async move {
            let answered = match asked {
                Ok(asked) => settings.find(asked).await,
                Err(refused) => Err(refused),
            };
            match answered {
                Ok(answer) => {
                    settings.metrics.reach_back(answer.finding.as_str());
                    json(&answer)
                }
                Err(refused) => {
                    settings.metrics.reach_back(refused.cause());
                    refused.response(&method, &headers)
                }
            }
        }))
    }
}

/// Whether a request is for this and not for a target: one that was rerouted names its service.
pub(crate) fn is_asked<B>(request: &Request<B>) -> bool {
    request.uri().path() == PATH && !request.headers().contains_key(carrier::MATCHED)
}

/// What is asked about.
#[derive(Debug)]
struct Asked {
    peer: SocketAddr,
    proxy: Option<HeaderName>,
    signed_by: Option<Arc<str>>,
}

/// Why nothing is found out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Refused {
    Off,
    Method,
    Browser,
    Port,
    Unsigned(&'static str, &'static str),
    TooMany,
}

impl Settings {
    fn ask<B>(&self, client: SocketAddr, request: &Request<B>) -> Result<Asked, Refused> {
        if !self.on {
            return Err(Refused::Off);
        }
        if request.method() != Method::POST {
            return Err(Refused::Method);
        }
        let headers = request.headers();
        if headers.contains_key(ORIGIN) {
            return Err(Refused::Browser);
        }
        let port = request.uri().query().and_then(port).ok_or(Refused::Port)?;
        Ok(Asked {
            // A client on a dual-stack socket is dialled at the IPv4 address that it has.
            peer: SocketAddr::new(client.ip().to_canonical(), port),
            proxy: proxy(headers),
            signed_by: self.signed_by(headers)?,
        })
    }

    /// Who has signed the contract of the request; nobody has to where nobody asks for it.
    fn signed_by(&self, headers: &HeaderMap) -> Result<Option<Arc<str>>, Refused> {
        let Some(verifier) = &self.verifier else {
            return Ok(None);
        };
        let missing = Refused::Unsigned(
            "signature_missing",
            "Ask with a signed contract: `devroute contract ... --sign --router URL`.",
        );
        let contract = carrier::read(headers).ok().flatten().ok_or(missing)?;
        match verifier.verify(&contract, SystemTime::now()) {
            Ok(Some(name)) => Ok(Some(name)),
            Ok(None) => Err(missing),
            Err(error) => Err(Refused::Unsigned(error.kind().as_str(), error.advice())),
        }
    }

    async fn find(&self, asked: Asked) -> Result<Answer, Refused> {
        let place = self.places.try_acquire();
        let _place = place.map_err(|_full| Refused::TooMany)?;
        // Before anything else, since each answer is a line in the log.
        if !self.take(Instant::now()) {
            return Err(Refused::TooMany);
        }
        let peer = asked.peer;
        let mut answer = Answer {
            finding: Finding::Intermediary,
            port: peer.port(),
            peer: self.reveal_addresses.then(|| peer.ip()),
            reason: None,
            detail: None,
            switch: None,
        };
        if let Some(field) = asked.proxy {
            answer.reason = Some(field.as_str().to_owned());
        } else if let Err(refusal) = self.policy.judge_addr(peer) {
            answer.finding = Finding::NotAllowed;
            answer.reason = Some(refusal.reason().as_str().to_owned());
            answer.detail = Some(refusal.advice().to_owned());
            let switch = verdict::switch(&refusal, &Target::from(peer));
            answer.switch = switch.filter(|_| self.reveal_addresses || peer.ip().is_loopback());
        } else {
            answer.finding = self.dial(peer).await;
        }
        tracing::info!(
            %peer,
            finding = answer.finding.as_str(),
            reason = answer.reason.as_deref(),
            signed_by = asked.signed_by.as_deref(),
            "dialled back"
        );
        Ok(answer)
    }

    async fn dial(&self, peer: SocketAddr) -> Finding {
        let connected = tokio::time::timeout(self.timeout, TcpStream::connect(peer));
        match connected.await {
            Ok(Ok(stream)) => self.found(&stream, peer),
            Ok(Err(error)) => of_error(&error),
            Err(_elapsed) => Finding::TimedOut,
        }
    }

    /// What a connection to `peer` means. It is nobody's where it ends in this process, or in itself, as
    /// one from a port of this machine to the same port does.
    fn found(&self, stream: &TcpStream, peer: SocketAddr) -> Finding {
        match stream.local_addr() {
            Ok(local) if local == peer => Finding::Refused,
            Ok(local)
                if local.ip() == peer.ip()
                    && self.own_listeners.iter().any(|it| it.port() == peer.port()) =>
            {
                Finding::NotAllowed
            }
            _ => Finding::Reachable,
        }
    }

    fn take(&self, now: Instant) -> bool {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.take(now)
    }
}

/// The port of `port=8001`, which is all that there is to be asked.
fn port(query: &str) -> Option<u16> {
    let digits = query.strip_prefix("port=")?;
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|&port| is_number && port > 0)
}

/// A field by which a request tells that a proxy has passed it on.
fn proxy(headers: &HeaderMap) -> Option<HeaderName> {
    const FIELDS: [&str; 7] = [
        "forwarded",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-real-ip",
        "x-envoy-external-address",
        "true-client-ip",
    ];
    let fields = FIELDS.into_iter().map(HeaderName::from_static);
    fields.chain([VIA]).find(|it| headers.contains_key(it))
}

fn of_error(error: &io::Error) -> Finding {
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => Finding::Refused,
        io::ErrorKind::TimedOut => Finding::TimedOut,
        io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::AddrNotAvailable => Finding::Unreachable,
        _ => Finding::Failed,
    }
}

fn json(answer: &Answer) -> Response<Full<Bytes>> {
    let text = serde_json::to_vec(answer).unwrap_or_default();
    let mut response = Response::new(Full::from(text));
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

impl Refused {
    fn cause(self) -> &'static str {
        match self {
            Self::Off => "reach_back_off",
            Self::Method => "method",
            Self::Browser => "browser",
            Self::Port => "malformed_port",
            Self::Unsigned(cause, _) => cause,
            Self::TooMany => "too_many_reach_backs",
        }
    }

    fn response(self, method: &Method, headers: &HeaderMap) -> Response<Full<Bytes>> {
        let (status, grpc_status, detail, help) = match self {
            Self::Off => (
                StatusCode::NOT_FOUND,
                "12",
                "This router does not dial back.",
                "Whoever runs it can let it, with --reach-back true.",
            ),
            Self::Method => (
                StatusCode::METHOD_NOT_ALLOWED,
                "12",
                "This is asked with POST.",
                "Ask with `devroute contract ... --router URL`.",
            ),
            Self::Browser => (
                StatusCode::FORBIDDEN,
                "7",
                "A web page is not dialled back.",
                "Ask with `devroute contract ... --router URL`.",
            ),
            Self::Port => (
                StatusCode::BAD_REQUEST,
                "3",
                "The query is not one port.",
                "Ask for ?port=N, with N from 1 to 65535.",
            ),
            Self::Unsigned(_, advice) => (
                StatusCode::FORBIDDEN,
                "7",
                "This router obeys signed contracts only, and dials back nobody without one.",
                advice,
            ),
            Self::TooMany => (
                StatusCode::TOO_MANY_REQUESTS,
                "8",
                "This router dials back as often as it may.",
                "Ask again in a few seconds.",
            ),
        };
        let words = Words {
            status,
            grpc_status,
            proxy_status: "http_request_denied",
            cause: self.cause(),
            detail,
            help,
        };
        let mut response = words.response(method, headers);
        match self {
            Self::Method => {
                let allow = HeaderValue::from_static("POST");
                response.headers_mut().insert(ALLOW, allow);
            }
            Self::TooMany => {
                let seconds = HeaderValue::from_static("3");
                response.headers_mut().insert(RETRY_AFTER, seconds);
            }
            _ => {}
        }
        response
    }
}

/// What is left of a rate.
#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    fn full(now: Instant) -> Self {
        Self {
            tokens: BURST,
            filled: now,
        }
    }

    fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.filled);
        self.tokens = (self.tokens + passed.as_secs_f64() * PER_SECOND).min(BURST);
        self.filled = now;
        let is_left = self.tokens >= 1.0;
        if is_left {
            self.tokens -= 1.0;
        }
        is_left
    }
}

/// An answer to come.
pub(crate) struct Answering(Pin<Box<dyn Future<Output = Response<Full<Bytes>>> + Send>>);

impl Future for Answering {
    type Output = Response<Full<Bytes>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl std::fmt::Debug for Answering {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answering").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_is_one_port_and_nothing_else() {
        assert_eq!(port("port=8001"), Some(8001));
        for query in [
            "",
            "port=",
            "port=0",
            "port=65536",
            "port=+80",
            "port=80&host=10.0.0.1",
            "host=10.0.0.1&port=80",
            "port=80#",
        ] {
            assert_eq!(port(query), None, "{query}");
        }
    }

    #[test]
    fn a_rate_has_a_burst_and_then_its_pace() {
        let start = Instant::now();
        let mut bucket = Bucket::full(start);
        let taken = (0..100).filter(|_| bucket.take(start)).count();
        assert_eq!(taken, 32);
        let second = start + Duration::from_secs(1);
        let taken = (0..100).filter(|_| bucket.take(second)).count();
        assert_eq!(taken, 10);
        let hour = start + Duration::from_secs(3600);
        let taken = (0..100).filter(|_| bucket.take(hour)).count();
        assert_eq!(taken, 32, "and never more than the burst");
    }

    #[test]
    fn what_a_proxy_has_passed_on_shows() {
        for field in ["x-forwarded-for", "Forwarded", "via", "x-real-ip"] {
            let mut headers = HeaderMap::new();
            headers.insert("host", HeaderValue::from_static("a"));
            assert_eq!(proxy(&headers), None);
            let name = HeaderName::from_bytes(field.as_bytes()).unwrap();
            headers.insert(name.clone(), HeaderValue::from_static("10.0.0.1"));
            assert_eq!(proxy(&headers), Some(name));
        }
    }
}
