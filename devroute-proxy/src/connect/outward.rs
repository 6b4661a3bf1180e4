//! The machine's own requests, on their way through the hub into the cluster.
//!
//! They come in at a proxy, which names the host as every HTTP proxy is told it, or at a port that leads to one host. What
//! they get is what a sidecar gives the requests of its service: the contract of the request that they belong to, known by
//! an id that they have in common, in both carriers, where the host is internal.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use devroute_tower::correlation::{Correlations, Restore, RestoreLayer};
use devroute_tower::{DevRouteClient, DevRouteClientLayer};
use devroute_tunnel::client::WayOut;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Uri};
use tokio::net::TcpListener;
use tower_layer::Layer as _;
use tower_service::Service;

use super::cannot_listen;
use crate::ServeError;
use crate::config::{Bind, ConnectConfig};
use crate::metrics::Metrics;
use crate::server::{self, Connections, Options, RequestBody, accept};
use crate::shutdown::Signal;
use crate::stack;

/// The listeners for the machine's own requests.
#[derive(Debug)]
pub(super) struct Outward {
    proxy: Option<TcpListener>,
    forwards: Vec<(TcpListener, Authority)>,
    stack: Restore<DevRouteClient<WayOut>>,
    correlations: Correlations,
}

impl Outward {
    /// Opens them.
    ///
    /// # Errors
    ///
    /// When an address cannot be listened on.
    pub(super) async fn bind(
        config: &Arc<ConnectConfig>,
        correlations: Correlations,
        way_out: WayOut,
    ) -> Result<Self, ServeError> {
        let listen = async |address: SocketAddr| {
            let listener = server::bind(Bind::Address(address)).await;
            listener.map_err(|error| cannot_listen(address, error))
        };
        let proxy = match config.proxy {
            Some(address) => Some(listen(address).await?),
            None => None,
        };
        let mut forwards = Vec::new();
        for rule in &config.forwards {
            forwards.push((listen(rule.listen).await?, rule.to.clone()));
        }
        let client = DevRouteClientLayer::new()
            .internal_hosts(config.internal.clone())
            .layer(way_out);
        let stack = RestoreLayer::new(correlations.clone())
            .internal_hosts(config.internal.clone())
            .layer(client);
        Ok(Self {
            proxy,
            forwards,
            stack,
            correlations,
        })
    }

    pub(super) fn proxy_address(&self) -> Option<SocketAddr> {
        self.proxy.as_ref()?.local_addr().ok()
    }

    pub(super) fn forwards(&self) -> impl Iterator<Item = (SocketAddr, &Authority)> {
        self.forwards
            .iter()
            .filter_map(|(listener, to)| Some((listener.local_addr().ok()?, to)))
    }

    /// Serves until `signal`.
    pub(super) async fn serve(self, signal: Signal) {
        let metrics = Metrics::new("connect", 1);
        let around = stack::outward(&metrics);
        let connections = Arc::new(Connections::new(&Options::default()));
        let mut listeners: Vec<(TcpListener, Option<Authority>)> = Vec::new();
        listeners.extend(self.proxy.map(|listener| (listener, None)));
        let forwards = self.forwards.into_iter();
        listeners.extend(forwards.map(|(listener, to)| (listener, Some(to))));
        for (listener, to) in listeners {
            let service = around.layer(Toward {
                inner: self.stack.clone(),
                to,
            });
            let (connections, metrics) = (Arc::clone(&connections), Arc::clone(&metrics));
            let stop = signal.clone().begun();
            tokio::spawn(async move {
                let open = metrics.worker(0).connections();
                accept(listener, stop, &metrics, |stream, _client| {
                    let admitted = Arc::clone(&open).opened().into();
                    connections.spawn(stream, service.clone(), admitted);
                })
                .await;
            });
        }
        let mut signal = signal;
        tokio::select! {
            never = sweep(&self.correlations) => match never {},
            () = signal.wait() => {}
        }
    }
}

/// Gives back the memory of what is forgotten.
async fn sweep(correlations: &Correlations) -> Infallible {
    loop {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        correlations.sweep();
    }
}

/// Names the one host that a port leads to, or leaves it to the request.
#[derive(Clone, Debug)]
pub(super) struct Toward<S> {
    inner: S,
    to: Option<Authority>,
}

impl<S> Service<Request<RequestBody>> for Toward<S>
where
    S: Service<Request<RequestBody>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<RequestBody>) -> S::Future {
        if let (Some(to), false) = (&self.to, request.method() == Method::CONNECT) {
            let mut uri = http::uri::Parts::default();
            uri.scheme = Some(Scheme::HTTP);
            uri.authority = Some(to.clone());
            let path = request.uri().path_and_query().cloned();
            uri.path_and_query = Some(path.unwrap_or(PathAndQuery::from_static("/")));
            if let Ok(uri) = Uri::from_parts(uri) {
                *request.uri_mut() = uri;
            }
        }
        self.inner.call(request)
    }
}
