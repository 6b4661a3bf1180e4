//! A worker thread: a single-threaded runtime and the connections it was given.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use devroute_tower::ClientInfo;
use http::{Request, Response};
use hyper::body::Body;
use tokio::sync::{mpsc, oneshot};
use tower_service::Service;

use super::admission::{Admitted, Place};
use super::lifetime::Draining;
use super::{BoxError, Connections, Options, RequestBody};
use crate::metrics::WorkerMetrics;

/// A running worker.
#[derive(Debug)]
pub(super) struct Worker {
    connections: mpsc::UnboundedSender<Accepted>,
    drained: oneshot::Receiver<u64>,
}

impl Worker {
    /// Gives it a connection, or gets it back where the worker is no more.
    pub(super) fn give(&self, accepted: Accepted) -> Result<(), Accepted> {
        self.connections
            .send(accepted)
            .map_err(|returned| returned.0)
    }

    /// Begins the drain; the future is the number of connections that did not finish in time.
    pub(super) fn drain(self) -> impl Future<Output = u64> {
        // The worker drains when nothing more can come.
        drop(self.connections);
        async { self.drained.await.unwrap_or_default() }
    }
}

/// A connection on its way to a worker.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) stream: TcpStream,
    pub(super) client: SocketAddr,
    pub(super) place: Place,
}

/// Starts worker number `index`.
pub(super) fn spawn<M, C, S, B>(
    index: usize,
    metrics: Arc<WorkerMetrics>,
    options: Options,
    draining: Arc<Draining>,
    make: Arc<M>,
) -> io::Result<Worker>
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
    let (sender, mut receiver) = mpsc::unbounded_channel::<Accepted>();
    let (done, drained) = oneshot::channel();
    thread::Builder::new()
        .name(format!("worker-{index}"))
        .spawn(move || {
            let abandoned = runtime.block_on(async {
                let make = make(Arc::clone(&metrics));
                let tls = options.tls.is_some();
                let connections = Connections::new(&options).ending_with(draining);
                while let Some(accepted) = receiver.recv().await {
                    let admitted = Admitted {
                        open: metrics.connections().opened(),
                        place: Some(accepted.place),
                    };
                    match tokio::net::TcpStream::from_std(accepted.stream) {
                        Ok(stream) => {
                            let client = ClientInfo::new(accepted.client).with_tls(tls);
                            // In the future of the worker, which every other connection here ends with. There is no
                            // half-made state behind it: what it was to have is dropped with it. What it said of
                            // itself is on standard error by now.
                            let begun = catch_unwind(AssertUnwindSafe(|| {
                                connections.spawn(stream, make(client), admitted);
                            }));
                            if begun.is_err() {
                                tracing::error!("a connection was lost to a panic");
                            }
                        }
                        Err(error) => tracing::error!(%error, "a connection was lost"),
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
    Ok(Worker {
        connections: sender,
        drained,
    })
}
