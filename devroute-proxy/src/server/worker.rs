//! A worker thread: a single-threaded runtime and the connections it was given.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpStream as StdStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use devroute_tower::ClientInfo;
use http::{Request, Response};
use hyper::body::Body;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tower_service::Service;

use super::acceptor::Acceptor;
use super::admission::{Admitted, Place};
use super::lifetime::Draining;
use super::{BoxError, Connections, Options, RequestBody};
use crate::metrics::WorkerMetrics;

/// A connection on its way to a worker.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) stream: StdStream,
    pub(super) client: SocketAddr,
    pub(super) place: Place,
}

/// Where a worker has its connections from.
#[derive(Debug)]
pub(super) enum Source {
    /// It accepts them itself, for itself and for others.
    Accepts(TcpListener, Box<Acceptor>),
    /// It is given them.
    Given(mpsc::UnboundedReceiver<Accepted>),
}

/// Starts worker number `index`, which drains when nothing more can come; what comes of that is the number of
/// connections that did not finish in time.
pub(super) fn spawn<M, C, S, B>(
    index: usize,
    source: Source,
    metrics: Arc<WorkerMetrics>,
    options: Options,
    draining: Arc<Draining>,
    make: Arc<M>,
) -> io::Result<oneshot::Receiver<u64>>
where
    M: Fn(Arc<WorkerMetrics>) -> C + Send + Sync + 'static,
    C: Fn(ClientInfo) -> S + 'static,
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let source = match source {
        Source::Accepts(listener, acceptor) => {
            let _entered = runtime.enter();
            let listener = TcpListener::from_std(listener.into_std()?)?;
            Source::Accepts(listener, acceptor)
        }
        given @ Source::Given(_) => given,
    };
    let (done, drained) = oneshot::channel();
    thread::Builder::new()
        .name(format!("worker-{index}"))
        .spawn(move || {
            let abandoned = runtime.block_on(async {
                let make = make(Arc::clone(&metrics));
                let tls = options.tls.is_some();
                let connections = Connections::new(&options).ending_with(draining);
                let serve = |stream: TcpStream, client: SocketAddr, place: Place| {
                    let admitted = Admitted {
                        open: metrics.connections().opened(),
                        place: Some(place),
                    };
                    let client = ClientInfo::new(client).with_tls(tls);
                    // In the future of the worker, which every other connection here ends with. There is no
                    // half-made state behind it: what it was to have is dropped with it. What it said of
                    // itself is on standard error by now.
                    let begun = catch_unwind(AssertUnwindSafe(|| {
                        connections.spawn(stream, make(client), admitted);
                    }));
                    if begun.is_err() {
                        tracing::error!("a connection was lost to a panic");
                    }
                };
                match source {
                    Source::Accepts(listener, acceptor) => acceptor.run(listener, serve).await,
                    Source::Given(mut connections) => {
                        while let Some(accepted) = connections.recv().await {
                            match TcpStream::from_std(accepted.stream) {
                                Ok(stream) => serve(stream, accepted.client, accepted.place),
                                Err(error) => tracing::error!(%error, "a connection was lost"),
                            }
                        }
                    }
                }
                let finished = connections.drain(options.drain.timeout).await;
                if finished {
                    0
                } else {
                    metrics.connections().open()
                }
            });
            // What is left ends with the runtime, before anybody hears that the worker is done. A
            // look-up that the system does not give up is not waited for.
            runtime.shutdown_timeout(Duration::from_millis(100));
            let _ = done.send(abandoned);
        })?;
    Ok(drained)
}
