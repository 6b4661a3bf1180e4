//! A service, or a laptop, that says who it is and remembers what it was asked.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use http::{HeaderMap, Request, Response, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::ANY;
use super::tls::Identity;

/// In the place of which a server says what `x-devroute` it got.
const CONTRACT: &str = "the contract";

/// What it was asked.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) line: String,
    pub(crate) version: Version,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

#[derive(Debug)]
struct Shared {
    says: &'static str,
    seen: Mutex<Vec<Seen>>,
    arrived: Semaphore,
    may_answer: Semaphore,
}

#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Server {
    /// One that answers everything with `says`.
    pub(crate) async fn says(says: &'static str) -> Self {
        let server = Self::holding(says).await;
        server.release();
        server
    }

    /// One that answers everything with the contract that came.
    pub(crate) async fn says_the_contract() -> Self {
        Self::says(CONTRACT).await
    }

    /// One that sits at a breakpoint until [`Server::release`].
    pub(crate) async fn holding(says: &'static str) -> Self {
        Self::start(says, None).await
    }

    async fn start(says: &'static str, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind(ANY).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            says,
            seen: Mutex::default(),
            arrived: Semaphore::new(0),
            may_answer: Semaphore::new(0),
        });
        let task = tokio::spawn(accept(listener, tls, Arc::clone(&shared)));
        Self {
            address,
            shared,
            task,
        }
    }

    /// One that answers everything with `says`, by TLS.
    pub(crate) async fn says_by_tls(says: &'static str, identity: &Identity) -> Self {
        let acceptor = TlsAcceptor::from(Arc::new(identity.server_config()));
        let server = Self::start(says, Some(acceptor)).await;
        server.release();
        server
    }

    /// Lets it answer, from now on.
    pub(crate) fn release(&self) {
        self.shared.may_answer.add_permits(1000);
    }

    /// Waits until a request has come in.
    pub(crate) async fn arrived(&self) {
        self.shared.arrived.acquire().await.unwrap().forget();
    }

    /// What it was asked so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// What it was asked, which was one request.
    pub(crate) fn only(&self) -> Seen {
        let seen = self.seen();
        assert_eq!(seen.len(), 1, "one request was expected: {seen:?}");
        seen[0].clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (tls, shared) = (tls.clone(), Arc::clone(&shared));
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(request, Arc::clone(&shared)));
            let builder = auto::Builder::new(TokioExecutor::new());
            let Some(tls) = tls else {
                let stream = TokioIo::new(stream);
                let _ = builder.serve_connection(stream, service).await;
                return;
            };
            // A client that does not believe the certificate goes away.
            if let Ok(stream) = tls.accept(stream).await {
                let stream = TokioIo::new(stream);
                let _ = builder.serve_connection(stream, service).await;
            }
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    shared: Arc<Shared>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let line = format!("{} {}", parts.method, parts.uri);
    let seen = Seen {
        line,
        version: parts.version,
        headers: parts.headers,
        body,
    };
    let says = match seen.headers.get("x-devroute") {
        Some(contract) if shared.says == CONTRACT => Bytes::copy_from_slice(contract.as_bytes()),
        _ => shared.says.into(),
    };
    shared.seen.lock().unwrap().push(seen);
    shared.arrived.add_permits(1);
    let _permit = shared.may_answer.acquire().await.unwrap();
    Ok(Response::new(Full::new(says)))
}
