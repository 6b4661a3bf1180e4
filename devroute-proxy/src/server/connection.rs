//! One connection, from its first byte to its end.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tower_service::Service;

use super::preface::Preface;
use super::stream::Stream;
use super::{BoxError, Certificates};
use crate::metrics::OpenConnection;

/// From the accept to the end of the TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// From there to the end of the HTTP/2 preface, or to the first byte that is none.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(30);
/// For an HTTP/1 head, and between the end of an exchange and the next head.
///
/// Longer than the idle time of the usual clients' pools, so that it is they who close first and
/// no request meets a connection that is being closed.
const HEAD_TIMEOUT: Duration = Duration::from_secs(120);
/// Of an HTTP/1 head in bytes, and of an HTTP/2 header list.
const MAX_HEAD: u16 = u16::MAX;
/// Concurrent streams of one HTTP/2 connection.
const MAX_STREAMS: u32 = 256;

/// The connections of one runtime, which end together.
pub(crate) struct Connections {
    builder: Arc<auto::Builder<TokioExecutor>>,
    tls: Option<Certificates>,
    graceful: GracefulShutdown,
    /// Every stream holds a receiver: tunnels, too, which are no connections of HTTP any more.
    streams: watch::Sender<()>,
}

impl Connections {
    /// With certificates, clients have to speak TLS.
    pub(crate) fn new(tls: Option<Certificates>) -> Self {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(usize::from(MAX_HEAD));
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_header_list_size(u32::from(MAX_HEAD))
            .max_concurrent_streams(MAX_STREAMS);
        Self {
            builder: Arc::new(builder),
            tls,
            graceful: GracefulShutdown::new(),
            streams: watch::Sender::new(()),
        }
    }

    /// Serves `stream` in a task of its own.
    pub(crate) fn spawn<S, B>(&self, stream: TcpStream, service: S, open: OpenConnection)
    where
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
        S: Clone + Send + 'static,
        S::Future: Send + 'static,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        let guard = (open, self.streams.subscribe());
        let (service, watcher) = (TowerToHyperService::new(service), self.graceful.watcher());
        let Some(tls) = &self.tls else {
            let io = TokioIo::new(Preface::new(Stream::Tcp(stream), PREFACE_TIMEOUT, guard));
            let connection = self.builder.serve_connection_with_upgrades(io, service);
            tokio::spawn(ended(watcher.watch(connection.into_owned())));
            return;
        };
        let (acceptor, builder) = (tls.acceptor(), Arc::clone(&self.builder));
        tokio::spawn(async move {
            let accepted = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await;
            let stream = match accepted {
                Ok(Ok(stream)) => Stream::Tls(Box::new(stream)),
                Ok(Err(error)) => {
                    guard.0.handshake_failed();
                    tracing::debug!(%error, "a TLS handshake failed");
                    return;
                }
                Err(_elapsed) => {
                    guard.0.handshake_failed();
                    tracing::debug!("a TLS handshake was not finished in time");
                    return;
                }
            };
            let io = TokioIo::new(Preface::new(stream, PREFACE_TIMEOUT, guard));
            let connection = builder.serve_connection_with_upgrades(io, service);
            ended(watcher.watch(connection.into_owned())).await;
        });
    }

    /// Lets requests in flight and tunnels finish, for so long; whether all of them did.
    pub(crate) async fn drain(self, timeout: Duration) -> bool {
        let Self {
            graceful, streams, ..
        } = self;
        let drained = async {
            graceful.shutdown().await;
            streams.closed().await;
        };
        tokio::time::timeout(timeout, drained).await.is_ok()
    }
}

async fn ended(connection: impl Future<Output = Result<(), BoxError>>) {
    // Nearly always a client that has gone; what matters to somebody is told elsewhere.
    if let Err(error) = connection.await {
        tracing::debug!(error = &*error, "connection ended early");
    }
}
