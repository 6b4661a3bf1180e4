//! Serves what a hub opens for a laptop, in the worker that has the laptop's connection.

use std::sync::Arc;
use std::time::Duration;

use devroute_tunnel::hub::{Closed, Forward, Serve, WayIn};
use tokio::net::TcpListener;

use crate::metrics::{HubMetrics, Metrics, WorkerMetrics};
use crate::server::{Admission, Admitted, Connections, Limits, Options, accept};
use crate::shutdown::Signal;
use crate::stack::{self, Shared};

/// The part of one worker.
#[derive(Clone)]
pub(crate) struct Serving(Arc<Inner>);

struct Inner {
    connections: Connections,
    admission: Admission,
    /// Of the addresses of services.
    metrics: Arc<Metrics>,
    worker: Arc<WorkerMetrics>,
    /// Of the laptops' own requests.
    laptops: Arc<Metrics>,
    shared: Shared,
    connect_timeout: Duration,
}

impl Serving {
    /// For the worker that this is called in, whose number is `index`; its connections drain when `signal` says so.
    pub(crate) fn new(
        options: &Options,
        shared: &Shared,
        metrics: &HubMetrics,
        connect_timeout: Duration,
        index: usize,
        signal: Signal,
    ) -> Self {
        let options = Options {
            // Callers are in the cluster, and are sent here by routers and sidecars.
            tls: None,
            channel_binding: false,
            ..options.clone()
        };
        let limit = options.limits.connections.unwrap_or(Limits::CONNECTIONS);
        let this = Self(Arc::new(Inner {
            connections: Connections::new(&options),
            admission: Admission::new(limit / options.workers.get(), None),
            metrics: Arc::clone(&metrics.services),
            worker: metrics.services.worker(index),
            laptops: Arc::clone(&metrics.laptops),
            shared: shared.clone(),
            connect_timeout,
        }));
        let draining = this.clone();
        tokio::spawn(async move {
            signal.begun().await;
            let connections = &draining.0.connections;
            connections.drain(options.drain.timeout).await;
        });
        this
    }
}

impl Serve for Serving {
    fn listen(&self, listener: TcpListener, forward: Forward, closed: Closed) {
        let this = Arc::clone(&self.0);
        tokio::spawn(async move {
            let observe = stack::observe_service(&this.shared, &this.metrics, &this.worker);
            let open = this.worker.connections();
            accept(listener, closed.wait(), &this.metrics, |stream, client| {
                let Some(admitted) = Admitted::by(&this.admission, client.ip(), &open) else {
                    return;
                };
                let service = observe.layer(forward.with_client(client));
                this.connections.spawn(stream, service, admitted);
            })
            .await;
        });
    }

    fn outbound(&self, way: WayIn) {
        let inner = &self.0;
        let service = stack::laptop(&inner.shared, &inner.laptops, inner.connect_timeout);
        tokio::spawn(way.serve(service));
    }
}
