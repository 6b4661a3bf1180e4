//! What a request goes through, in each mode: layers put together, and nothing else.
//!
//! ```text
//! sidecar   Observe > [Strip] > DevRoute(service) > Upstream
//! router    Health > Observe > [Strip] > DevRoute(router)
//! ```
//!
//! Everything that decides or forwards is of `devroute-tower`; what the proxy can do, a service that
//! embeds the layer can do too. A stack is made once in each worker thread, with a transport (a pool
//! of connections) of its own, and finished for each connection with the client's address.
//!
//! Nothing is boxed here: the futures and bodies are concrete down to the layer, which boxes what it
//! reroutes.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use devroute_tower::core::{TargetPolicy, carrier};
use devroute_tower::transport::{HttpTransport, ResponseBody, Upstream};
use devroute_tower::{ClientInfo, DevRoute, DevRouteLayer};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use tower_layer::Layer as _;
use tower_service::Service;

use crate::carried::Carried;
use crate::config::{RerouteConfig, RouterConfig, SidecarConfig};
use crate::health::HealthLayer;
use crate::metrics::{Metrics, WorkerMetrics};
use crate::observe::{Observe, ObserveLayer, Observer};
use crate::records::Records;

/// What all workers of a process share.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) records: Arc<Records>,
    /// The policy, which knows the process's own listeners by now.
    pub(crate) policy: TargetPolicy,
    /// Where the process listens: what turns out to end there is cut.
    pub(crate) own_listeners: Vec<SocketAddr>,
}

/// The stack of a sidecar, for one worker.
pub(crate) fn sidecar(
    config: &SidecarConfig,
    shared: &Shared,
    worker: Arc<WorkerMetrics>,
) -> impl Fn(SocketAddr) -> Sidecar + use<> {
    let metrics = Arc::clone(&shared.metrics);
    let transport = transport(&config.reroute, shared);
    let upstream =
        Upstream::new(transport.clone(), config.upstream.address).h2c(config.upstream.h2c);
    let mut layer = reroute(
        DevRouteLayer::new(config.service.as_str()),
        &config.reroute,
        shared,
    )
    .on_failure(config.on_failure)
    .write_carriers(true)
    .transport(Carried::transport(transport, Arc::clone(&metrics)));
    if let Some(router) = config.via {
        layer = layer.via(router);
    }
    let service = layer.layer(Carried::baseline(upstream, metrics));
    let observe = observe(shared, worker);
    let strip = config.reroute.strip;
    move |client| {
        let inner = service.clone().with_client(ClientInfo::new(client));
        observe.layer(Strip {
            inner,
            enabled: strip,
        })
    }
}

type Sidecar = Observe<Strip<DevRoute<Carried<Upstream>, Carried<HttpTransport>>>>;

/// The stack of a router, for one worker.
pub(crate) fn router(
    config: &RouterConfig,
    shared: &Shared,
    worker: Arc<WorkerMetrics>,
) -> impl Fn(SocketAddr) -> Router + use<> {
    let metrics = Arc::clone(&shared.metrics);
    let service = reroute(DevRouteLayer::router(), &config.reroute, shared)
        .transport(Carried::transport(
            transport(&config.reroute, shared),
            metrics,
        ))
        .layer(NoBaseline);
    let observe = observe(shared, worker);
    let strip = config.reroute.strip;
    move |client| {
        let inner = service.clone().with_client(ClientInfo::new(client));
        HealthLayer.layer(observe.layer(Strip {
            inner,
            enabled: strip,
        }))
    }
}

type Router = crate::health::Health<Observe<Strip<DevRoute<NoBaseline, Carried<HttpTransport>>>>>;

fn reroute(layer: DevRouteLayer, config: &RerouteConfig, shared: &Shared) -> DevRouteLayer {
    layer
        .policy(shared.policy.clone())
        .reveal_addresses(config.reveal_addresses)
}

fn transport(config: &RerouteConfig, shared: &Shared) -> HttpTransport {
    let transport = HttpTransport::new().connect_timeout(config.connect_timeout);
    shared
        .own_listeners
        .iter()
        .fold(transport, |transport, &own| transport.own_listener(own))
}

fn observe(shared: &Shared, worker: Arc<WorkerMetrics>) -> ObserveLayer {
    ObserveLayer(Arc::new(Observer {
        metrics: Arc::clone(&shared.metrics),
        worker,
        records: Arc::clone(&shared.records),
    }))
}

/// Removes contracts that come from outside, where it is enabled (rule 20).
#[derive(Clone, Debug)]
pub(crate) struct Strip<S> {
    inner: S,
    enabled: bool,
}

impl<S, B> Service<Request<B>> for Strip<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        if self.enabled {
            carrier::remove(request.headers_mut());
            request.headers_mut().remove(carrier::MATCHED);
        }
        self.inner.call(request)
    }
}

/// Stands where a router has no baseline. The layer in front of it answers every request itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NoBaseline;

impl Service<Request<Incoming>> for NoBaseline {
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _request: Request<Incoming>) -> Self::Future {
        let mut response = Response::new(ResponseBody::empty());
        *response.status_mut() = StatusCode::MISDIRECTED_REQUEST;
        std::future::ready(Ok(response))
    }
}
