//! The server: one accept loop, any number of worker threads, HTTP/1.1 and HTTP/2 on one port.
//!
//! The accept loop is in the first worker, and hands each connection to the next one in turn, so that
//! a few long-lived HTTP/2 connections spread over the cores. A worker is a thread with a
//! single-threaded runtime and whatever its service builds there, such as a pool of connections;
//! nothing moves between workers once it is served.
//!
//! With a certificate the listener speaks TLS 1.2 and 1.3, and by ALPN HTTP/2 or HTTP/1.1.
//!
//! A drain stops accepting, and lets requests in flight finish, and tunnels (WebSocket), which only
//! their peers can end; what is left when the time is over is cut. What it means to each connection
//! is in `lifetime.rs`.
//!
//! A client that says nothing is cut off ([`Timers`]): in the TLS handshake, before its first byte,
//! within a head, after an answer. A request in progress never is, because whoever answers it may sit
//! at a breakpoint. Refused ([`Limits`]): heads that are too long with 431, bodies with 413,
//! connections beyond the limit with 503, and streams beyond theirs.
//!
//! ```
//! use std::convert::Infallible;
//! use devroute_proxy::{config::Bind, metrics::Metrics, server::{self, RequestBody}, shutdown};
//! use http::{Request, Response};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! let listener = server::bind(Bind::Address("127.0.0.1:0".parse()?)).await?;
//! let options = server::Options::default();
//! let (trigger, signal) = shutdown::channel();
//! let serving = server::serve(listener, options, Metrics::new("example", 1), signal, |_worker| {
//!     |_client| tower::service_fn(|_: Request<RequestBody>| async {
//!         Ok::<_, Infallible>(Response::new(String::from("hello")))
//!     })
//! });
//! trigger.shut_down();
//! let drained = serving.await?;
//! assert_eq!(drained.abandoned, 0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod accept;
mod acceptor;
mod activity;
mod admission;
mod certificates;
mod connection;
mod exchange;
pub(crate) mod inherited;
mod lifetime;
mod limits;
mod listen;
mod refusal;
mod sent;
mod stream;
mod strict;
mod too_large;
mod watched;
mod worker;

use std::convert::Infallible;
use std::error::Error as StdError;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;

use bytes::Bytes;
use devroute_tower::ClientInfo;
/// What a service is given to read: a stream, whose bytes have been read from the client no sooner
/// than it asks for them.
pub use devroute_tower::transport::Body as RequestBody;
use http::{Request, Response};
use hyper::body::Body;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tower_service::Service;

pub(crate) use self::accept::accept;
use self::acceptor::{Acceptor, Stop};
pub(crate) use self::admission::{Admission, Admitted};
pub use self::certificates::{CertificateError, Certificates};
pub(crate) use self::connection::Connections;
use self::lifetime::Draining;
pub use self::limits::{Drain, HalfClose, Limits, Timers};
pub use self::listen::{bind, bind_shared};
pub(crate) use self::refusal::Words;
use self::worker::Source;
use crate::metrics::{Metrics, WorkerMetrics};
use crate::shutdown::Signal;

/// How a server runs.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// The number of worker threads.
    pub workers: NonZeroUsize,
    /// How long a client may keep its connection without a request.
    pub timers: Timers,
    /// How much clients may take.
    pub limits: Limits,
    /// What it means that a client sends nothing more.
    pub half_close: HalfClose,
    /// How it ends.
    pub drain: Drain,
    /// What is shown to clients, which speak TLS then and nothing else.
    pub tls: Option<Certificates>,
    /// Whether requests are told of their TLS session, in their extensions.
    pub channel_binding: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            workers: NonZeroUsize::MIN,
            timers: Timers::default(),
            limits: Limits::default(),
            half_close: HalfClose::default(),
            drain: Drain::default(),
            tls: None,
            channel_binding: false,
        }
    }
}

/// What the end of a server was like.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Drained {
    /// Connections that were still busy when the time was over.
    pub abandoned: u64,
}

/// An error of any type.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// Serves one connection to its end, which needs not be a socket.
pub(crate) async fn serve_stream<I, S, B>(
    stream: I,
    options: &Options,
    metrics: &WorkerMetrics,
    service: S,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let open = metrics.connections().opened();
    Connections::new(options)
        .serve(stream, service, open.into())
        .await;
}

/// Serves `listener` until `signal`, then lets requests in flight finish.
///
/// `make` is called once in each worker thread, with that worker's counters, and what it returns
/// once for each connection, with what is known of the client.
///
/// # Errors
///
/// When a worker thread cannot be started, and when the one that accepts has died.
pub async fn serve<M, C, S, B>(
    listener: TcpListener,
    options: Options,
    metrics: Arc<Metrics>,
    signal: Signal,
    make: M,
) -> io::Result<Drained>
where
    M: Fn(Arc<WorkerMetrics>) -> C + Send + Sync + 'static,
    C: Fn(ClientInfo) -> S + 'static,
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let make = Arc::new(make);
    let draining = Arc::<Draining>::default();
    let spawn = |index, source| {
        worker::spawn(
            index,
            source,
            metrics.worker(index),
            options.clone(),
            Arc::clone(&draining),
            Arc::clone(&make),
        )
    };
    let mut others = Vec::new();
    let mut drained = Vec::new();
    for index in 1..options.workers.get() {
        let (sender, receiver) = mpsc::unbounded_channel();
        others.push(sender);
        drained.push(spawn(index, Source::Given(receiver))?);
    }
    let (_wanted, wanted) = oneshot::channel();
    let connections = options.limits.connections.unwrap_or(Limits::CONNECTIONS);
    let acceptor = Acceptor {
        admission: Admission::new(connections, options.limits.client_connections),
        refused: metrics.refused_connections(),
        metrics: Arc::clone(&metrics),
        others,
        stop: Stop {
            signal,
            delay: options.drain.delay,
            draining: Arc::clone(&draining),
            wanted,
        },
    };
    let accepts = Source::Accepts(listener, Box::new(acceptor));

    // All of them drain at once; only the waiting is one after the other.
    let mut abandoned = spawn(0, accepts)?
        .await
        .map_err(|_gone| io::Error::other("the worker that accepts connections has died"))?;
    for drained in drained {
        abandoned += drained.await.unwrap_or_default();
    }
    Ok(Drained { abandoned })
}
