//! The server: one accept loop, any number of worker threads, HTTP/1.1 and HTTP/2 on one port.
//!
//! The accept loop hands each connection to the next worker in turn, so that a few long-lived HTTP/2
//! connections spread over the cores. A worker is a thread with a single-threaded runtime and
//! whatever its service builds there, such as a pool of connections; nothing moves between workers.
//!
//! A drain lets requests in flight finish, and tunnels (WebSocket), which only their peers can end;
//! what is left when the time is over is cut.
//!
//! With a certificate the listener speaks TLS 1.2 and 1.3, and by ALPN HTTP/2 or HTTP/1.1.
//!
//! A client that says nothing is cut off: in the TLS handshake, before its first byte, within the preface of HTTP/2,
//! within a head. A request in progress never is, because whoever answers it may sit at a
//! breakpoint. Refused: heads of more than 64 KiB, more than 256 concurrent streams a connection.
//!
//! ```
//! use std::convert::Infallible;
//! use devroute_proxy::{config::Bind, metrics::Metrics, server, shutdown};
//! use http::{Request, Response};
//! use hyper::body::Incoming;
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! let listener = server::bind(Bind::Address("127.0.0.1:0".parse()?)).await?;
//! let options = server::Options::default();
//! let (trigger, signal) = shutdown::channel();
//! let serving = server::serve(listener, options, Metrics::new("example", 1), signal, |_worker| {
//!     |_client| tower::service_fn(|_: Request<Incoming>| async {
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
mod certificates;
mod connection;
mod preface;
mod stream;
mod worker;

use std::convert::Infallible;
use std::error::Error as StdError;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use devroute_tower::ClientInfo;
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use tokio::net::{TcpListener, TcpSocket};
use tower_service::Service;

pub(crate) use self::accept::accept;
pub use self::certificates::{CertificateError, Certificates};
pub(crate) use self::connection::Connections;
use crate::config::Bind;
use crate::metrics::{Metrics, WorkerMetrics};
use crate::shutdown::Signal;

/// How a server runs.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// The number of worker threads.
    pub workers: NonZeroUsize,
    /// How long requests may finish after the shutdown began.
    pub drain_timeout: Duration,
    /// What is shown to clients, which speak TLS then and nothing else.
    pub tls: Option<Certificates>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            workers: NonZeroUsize::MIN,
            drain_timeout: Duration::from_secs(30),
            tls: None,
        }
    }
}

/// What the end of a server was like.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Drained {
    /// Connections that were still busy when the time was over.
    pub abandoned: u64,
}

/// Listens.
///
/// # Errors
///
/// When the address cannot be had.
pub async fn bind(bind: Bind) -> io::Result<TcpListener> {
    match bind {
        Bind::Address(address) => listen(address),
        Bind::Everywhere(port) => {
            // IPv6 first: its unspecified address takes IPv4 as well, where the system has both.
            listen((Ipv6Addr::UNSPECIFIED, port).into()).or_else(|error| match error.kind() {
                io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied => Err(error),
                _ => listen((Ipv4Addr::UNSPECIFIED, port).into()),
            })
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // Connections of the process before this one, in TIME_WAIT, do not hold the port.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(1024)
}

/// An error of any type.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// Serves `listener` until `signal`, then lets requests in flight finish.
///
/// `make` is called once in each worker thread, with that worker's counters, and what it returns
/// once for each connection, with what is known of the client.
///
/// # Errors
///
/// When a worker thread cannot be started.
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
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let make = Arc::new(make);
    let mut workers = Vec::with_capacity(options.workers.get());
    for index in 0..options.workers.get() {
        let counters = metrics.worker(index);
        workers.push(worker::spawn(
            index,
            counters,
            options.clone(),
            Arc::clone(&make),
        )?);
    }

    let mut turn = 0_usize;
    accept(listener, signal, &metrics, |stream, client| {
        let Ok(mut stream) = stream.into_std() else {
            return;
        };
        // A worker that has died takes nothing; the others go on.
        for _ in 0..workers.len() {
            let worker = workers.get(turn % workers.len());
            turn = turn.wrapping_add(1);
            match worker.map(|worker| worker.give(stream, client)) {
                Some(Err(returned)) => stream = returned,
                _ => return,
            }
        }
    })
    .await;

    let mut abandoned = 0;
    // All of them drain at once; only the waiting is one after the other.
    let draining: Vec<_> = workers.into_iter().map(worker::Worker::drain).collect();
    for draining in draining {
        abandoned += draining.await;
    }
    Ok(Drained { abandoned })
}
