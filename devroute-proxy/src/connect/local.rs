//! The way of a request from the tunnel to an application on this machine.
//!
//! The application is asked at 127.0.0.1, or where it listens there alone, at ::1, as some development servers do. It gets
//! the request as the caller sent it, but for `Host` where that was asked for. One that does not run is answered for, with
//! 502 and the port.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use devroute_inspector::Caller;
use devroute_tower::core::{Contract, ServiceName, carrier};
use devroute_tower::hop::Problem;
use devroute_tower::transport::{
    Body, ErrorKind, HttpTransport, ResponseBody, Upstream, UpstreamFailure,
};
use devroute_tunnel::client::Tunnelled;
use http::header::{CONTENT_TYPE, HOST, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tower_layer::Layer;
use tower_service::Service;

use super::caller;
use super::printer::{Line, Printer};
use crate::config::Entry;

/// How long an application may take to accept a connection: it is on this machine.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// An application on this machine.
#[derive(Clone, Debug)]
pub(super) struct Local {
    service: ServiceName,
    port: u16,
    host: Option<HeaderValue>,
    transport: HttpTransport,
    /// Where it was last, of the two addresses that it can have.
    at: Arc<Mutex<Option<IpAddr>>>,
}

impl Local {
    pub(super) fn new(
        service: &ServiceName,
        entry: Option<&Entry>,
        transport: &HttpTransport,
    ) -> Self {
        Self {
            service: service.clone(),
            // All services come from the entries.
            port: entry.map_or(0, |entry| entry.port),
            host: entry.and_then(|entry| entry.host.clone()),
            transport: transport.clone().connect_timeout(CONNECT_TIMEOUT),
            at: Arc::default(),
        }
    }

    /// Where it is, as far as that is known; where it is not, both addresses are tried.
    async fn find(&self) -> Option<SocketAddr> {
        let known = *self.at.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ip) = known {
            return Some(SocketAddr::new(ip, self.port));
        }
        for ip in [
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(Ipv6Addr::LOCALHOST),
        ] {
            let address = SocketAddr::new(ip, self.port);
            let connected = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
            if matches!(connected, Ok(Ok(_))) {
                self.set(Some(ip));
                return Some(address);
            }
        }
        None
    }

    fn set(&self, ip: Option<IpAddr>) {
        *self.at.lock().unwrap_or_else(PoisonError::into_inner) = ip;
    }

    /// The application does not run.
    fn not_running(&self, method: &Method, headers: &HeaderMap) -> Response<ResponseBody> {
        let Self { service, port, .. } = self;
        Problem::new(
            StatusCode::BAD_GATEWAY,
            "application_not_running",
            "connection_refused",
        )
        .detail(format!(
            "The laptop that answers for {service} is connected, and nothing listens at port {port} there."
        ))
        .help(format!("Start {service} on that machine, at port {port}."))
        .service(service.clone())
        .answer(method, headers)
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<Response<ResponseBody>, Infallible>> + Send>>;

impl Service<Request<Body>> for Local {
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Answer {
        let this = self.clone();
        Box::pin(async move {
            let method = request.method().clone();
            let headers = dialect(request.headers());
            let Some(address) = this.find().await else {
                return Ok(this.not_running(&method, &headers));
            };
            if let Some(host) = &this.host {
                set_host(&mut request, host);
            }
            let mut upstream = Upstream::new(this.transport.clone(), address);
            let response =
                match poll_fn(|cx| Service::<Request<Body>>::poll_ready(&mut upstream, cx)).await {
                    Ok(()) => upstream.call(request).await,
                    Err(never) => match never {},
                };
            let response = match response {
                Ok(response) => response,
                Err(never) => match never {},
            };
            let failure = response.extensions().get::<UpstreamFailure>();
            if failure.is_some_and(|failure| failure.kind() == ErrorKind::ConnectionRefused) {
                // It may come up at the other address.
                this.set(None);
                return Ok(this.not_running(&method, &headers));
            }
            Ok(response)
        })
    }
}

/// What of a request says in which words it wants to be refused.
fn dialect(headers: &HeaderMap) -> HeaderMap {
    let content_type = headers.get(CONTENT_TYPE);
    content_type
        .map(|value| (CONTENT_TYPE, value.clone()))
        .into_iter()
        .collect()
}

/// Asks for `host`, and keeps the one that was asked for where who forwards keeps it.
fn set_host(request: &mut Request<Body>, host: &HeaderValue) {
    let authority = request.uri().authority();
    let asked = authority.and_then(|it| HeaderValue::from_str(it.as_str()).ok());
    let asked = asked.or_else(|| request.headers().get(HOST).cloned());
    let headers = request.headers_mut();
    if let Some(asked) = asked {
        headers.entry("x-forwarded-host").or_insert(asked);
    }
    headers.insert(HOST, host.clone());
    // In its authority the URI would have another.
    let path = request.uri().path_and_query().cloned();
    let mut uri = http::uri::Parts::default();
    uri.path_and_query = path;
    if let Ok(uri) = http::Uri::from_parts(uri) {
        *request.uri_mut() = uri;
    }
}

/// Prints a line for each request.
#[derive(Clone, Debug)]
pub(super) struct LocalLayer {
    printer: Printer,
}

impl LocalLayer {
    pub(super) fn new(printer: Printer) -> Self {
        Self { printer }
    }
}

impl<S> Layer<S> for LocalLayer {
    type Service = Printed<S>;

    fn layer(&self, inner: S) -> Printed<S> {
        Printed {
            inner,
            printer: self.printer.clone(),
        }
    }
}

/// The service of [`LocalLayer`].
#[derive(Clone, Debug)]
pub(super) struct Printed<S> {
    inner: S,
    printer: Printer,
}

impl<S, B> Service<Request<Body>> for Printed<S>
where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<B>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<B>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let contract = contract(request.headers());
        let tunnelled = request.extensions().get::<Tunnelled>();
        let service = tunnelled.map(|it| it.service.clone());
        let caller = address(&request, tunnelled);
        let caller_service = caller::named(request.headers(), service.as_ref());
        let shown = match (&caller_service, caller) {
            (Some(name), _) => Some(Caller::new(name.as_str())),
            (None, Some(address)) => Some(Caller::new(&address.to_string())),
            (None, None) => None,
        };
        let mut unanswered = Unanswered {
            line: Some(Line {
                method: request.method().clone(),
                path: path(&request),
                service,
                caller,
                caller_service,
                run: contract
                    .as_ref()
                    .and_then(|contract| Some(contract.id()?.to_string())),
                status: GONE,
                took: Duration::ZERO,
            }),
            began: Instant::now(),
            printer: self.printer.clone(),
        };
        if let Some(shown) = shown {
            request.extensions_mut().insert(shown);
        }
        if let Some(contract) = contract {
            // What is remembered of it, behind this, goes on the requests that the application makes.
            request.extensions_mut().insert(contract);
        }
        let future = self.inner.call(request);
        Box::pin(async move {
            let response = future.await?;
            unanswered.answered(response.status().as_u16());
            Ok(response)
        })
    }
}

/// The status of a request whose caller has gone, as nginx has it; never sent.
const GONE: u16 = 499;

/// A request without an answer; dropped as such, its caller has gone.
struct Unanswered {
    line: Option<Line>,
    began: Instant,
    printer: Printer,
}

impl Unanswered {
    fn answered(&mut self, status: u16) {
        if let Some(line) = &mut self.line {
            line.status = status;
        }
        self.print();
    }

    fn print(&mut self) {
        if let Some(mut line) = self.line.take() {
            line.took = self.began.elapsed();
            self.printer.request(&line);
        }
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        self.print();
    }
}

fn path(request: &Request<Body>) -> String {
    let path = request.uri().path_and_query();
    path.map_or_else(|| "/".to_owned(), ToString::to_string)
}

/// From where, as far as is known: the first of `X-Forwarded-For`, which is the client of the service that was rerouted, or
/// who sent the request to the hub.
fn address(request: &Request<Body>, tunnelled: Option<&Tunnelled>) -> Option<IpAddr> {
    let forwarded = request.headers().get("x-forwarded-for");
    let forwarded =
        forwarded.and_then(|value| value.to_str().ok()?.split(',').next()?.trim().parse().ok());
    forwarded.or_else(|| Some(tunnelled?.caller?.ip()))
}

/// The contract of a request, if it has one.
fn contract(headers: &HeaderMap) -> Option<Contract> {
    if !carrier::may_concern(headers) {
        return None;
    }
    carrier::read(headers).ok()?
}
