//! What a request goes through, in each mode: layers put together, and nothing else.
//!
//! ```text
//! sidecar   Observe > Front > DevRoute(service) > Remember > Upstream
//! router    Observe > Front > DevRoute(router)
//! outbound  Observe > Front > Restore > DevRouteClientReroute > Forwarder
//! hub       Observe > Front > Registrar             where laptops dial in
//!           Observe > Front > Forward               at the address of a service
//!           Observe > Front > Forwarder             for a laptop's own requests
//! connect   Printed > Inspect > Remember > Local    for requests that come through the hub
//!           Observe > Front > Restore > DevRouteClient > WayOut
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
use std::time::Duration;

use devroute_tower::core::TargetPolicy;
use devroute_tower::core::carrier::Unwritten;
use devroute_tower::core::signature::Verifier;
use devroute_tower::correlation::{Correlations, Remember, RememberLayer, Restore, RestoreLayer};
use devroute_tower::outbound::DevRouteClientReroute;
use devroute_tower::transport::{
    Connects, Forwarder, HttpTransport, ResponseBody, Upstream, UpstreamAddr,
};
use devroute_tower::{ClientInfo, DevRoute, DevRouteClientLayer, DevRouteLayer, Mode};
use devroute_tunnel::hub::{Hub, Registrar};
use http::{Request, Response, StatusCode};
use tower_layer::Layer as _;
use tower_service::Service;

use crate::config::{OutboundConfig, RerouteConfig, RouterConfig, SidecarConfig};
use crate::entry::Entry;
use crate::front::{Front, FrontLayer};
use crate::hub::Serving;
use crate::metrics::{Message, Metrics, OutboundMetrics, WorkerMetrics};
use crate::observe::{Abandoned, Observe, ObserveLayer, Observer};
use crate::reach::dial::ReachBack;
use crate::records::{Direction, Records};
use crate::resolve::Place;

/// What all workers of a process share.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) records: Arc<Records>,
    /// The policy, which knows the process's own listeners by now.
    pub(crate) policy: TargetPolicy,
    /// Where the process listens, the traffic to the service first: what turns out to end there is cut.
    pub(crate) own_listeners: Vec<SocketAddr>,
    /// The connections that are being opened for the application's own requests. Those to targets are
    /// others', and limited by themselves.
    pub(crate) forwards: Connects,
    /// The router that dials targets, if it is not this process.
    pub(crate) router: Option<UpstreamAddr>,
}

/// The stack of a sidecar, for one worker.
pub(crate) fn sidecar(
    config: &SidecarConfig,
    place: &Place,
    correlations: Option<&Correlations>,
    shared: &Shared,
    worker: Arc<WorkerMetrics>,
) -> impl Fn(ClientInfo) -> Sidecar + use<> {
    let transport = transport(&config.reroute, &shared.own_listeners, &worker);
    let abandoned = Abandoned::default();
    let upstream = upstream(config, place, &transport);
    let mut layer = reroute(
        DevRouteLayer::new(config.service.as_str()),
        &config.reroute,
        shared,
    )
    .on_failure(config.on_failure)
    .write_carriers(true)
    .forwarded_to_baseline(config.forwarded_to_baseline)
    .on_abandoned(abandoned.clone())
    .transport(transport);
    if let Some(router) = &shared.router {
        layer = layer.via_follow(router.clone());
    }
    let remember = match correlations {
        Some(correlations) => RememberLayer::new(correlations.clone()),
        None => RememberLayer::off(),
    };
    let service = layer.layer(remember.layer(upstream));
    let observe = observe(shared, worker, abandoned);
    let front = FrontLayer {
        health: false,
        entry: entry(&config.reroute),
        reach: None,
    };
    move |client| {
        let service = service.clone().with_client(client);
        observe.layer(front.facing(client).layer(service))
    }
}

type Sidecar = Observe<Front<DevRoute<Remember<Upstream>>>>;

/// The stack of a router, for one worker.
pub(crate) fn router(
    config: &RouterConfig,
    reach: ReachBack,
    shared: &Shared,
    worker: Arc<WorkerMetrics>,
) -> impl Fn(ClientInfo) -> Router + use<> {
    let abandoned = Abandoned::default();
    let service = reroute(DevRouteLayer::router(), &config.reroute, shared)
        .on_abandoned(abandoned.clone())
        .transport(transport(&config.reroute, &shared.own_listeners, &worker))
        .layer(NoBaseline);
    let observe = observe(shared, worker, abandoned);
    let front = FrontLayer {
        health: true,
        entry: entry(&config.reroute),
        reach: None,
    };
    move |client| {
        let service = service.clone().with_client(client);
        let front = FrontLayer {
            reach: Some(reach.of(client)),
            ..front.facing(client)
        };
        observe.layer(front.layer(service))
    }
}

type Router = Observe<Front<DevRoute<NoBaseline>>>;

/// The stack of a sidecar's outbound listener, for one worker.
pub(crate) fn outbound(
    config: &SidecarConfig,
    outbound: &OutboundConfig,
    correlations: &Correlations,
    shared: &Shared,
    metrics: &OutboundMetrics,
    worker: Arc<WorkerMetrics>,
) -> impl Fn(ClientInfo) -> Outbound + use<> {
    let unwritten = Arc::clone(&shared.metrics);
    let abandoned = Abandoned::default();
    let mode = if outbound.reroute {
        Mode::On
    } else {
        Mode::Carry
    };
    let mut layer = DevRouteClientLayer::new()
        .mode(mode)
        .internal_hosts(outbound.internal.clone())
        .on_unwritten(move |_: Unwritten| unwritten.member_not_written())
        .reroute(transport(&config.reroute, &shared.own_listeners, &worker))
        .on_abandoned(abandoned.clone())
        .policy(shared.policy.clone())
        .on_failure(config.on_failure)
        .reveal_addresses(config.reroute.reveal_addresses)
        .forwarded_fields(config.reroute.forwarded)
        .caller(config.service.clone())
        .for_clients();
    if let Some(router) = &shared.router {
        layer = layer.via_follow(router.clone());
    }
    if let Some(verifier) = verifier(&config.reroute) {
        layer = layer.verifier(verifier);
    }
    let forwarder = Forwarder::new(shared.forwarder(config, outbound, &worker))
        .reveal_addresses(config.reroute.reveal_addresses)
        .caller(config.service.clone());
    let service = layer.layer(forwarder);
    let service = RestoreLayer::new(correlations.clone())
        .internal_hosts(outbound.internal.clone())
        .service(config.service.clone())
        .layer(service);
    let observe = ObserveLayer(Arc::new(Observer {
        metrics: Arc::clone(&metrics.requests),
        worker,
        records: Arc::clone(&shared.records),
        direction: Direction::Outbound,
        outbound: Some(metrics.clone()),
        abandoned,
    }));
    let front = FrontLayer {
        health: false,
        entry: Entry::default(),
        reach: None,
    };
    move |_client| observe.layer(front.layer(service.clone()))
}

type Outbound = Observe<Front<Restore<DevRouteClientReroute<Forwarder, HttpTransport>>>>;

/// The stack of a hub's listener for laptops, for one worker, which serves what is opened for them by `serving`.
pub(crate) fn hub(
    hub: &Hub,
    serving: Serving,
    shared: &Shared,
    worker: Arc<WorkerMetrics>,
) -> impl Fn(ClientInfo) -> Observe<Front<Registrar>> + use<> {
    let registrar = hub.registrar(Arc::new(serving));
    let layer = Observed {
        observe: observe(shared, worker, Abandoned::default()),
        front: FrontLayer {
            health: true,
            entry: Entry::default(),
            reach: None,
        },
    };
    move |_client| layer.layer(registrar.clone())
}

/// What is around the address of a laptop's service.
pub(crate) fn observe_service(
    shared: &Shared,
    metrics: &Arc<Metrics>,
    worker: &Arc<WorkerMetrics>,
) -> Observed {
    Observed::new(&shared.records, metrics, worker, Direction::Inbound)
}

/// The stack for the requests of a laptop into the cluster, which go where the policy lets them.
pub(crate) fn laptop(
    shared: &Shared,
    metrics: &Arc<Metrics>,
    connect_timeout: Duration,
) -> Observe<Front<Forwarder>> {
    let transport = shared.own_listeners.iter().fold(
        HttpTransport::new()
            .connect_timeout(connect_timeout)
            .connects(shared.forwards.clone()),
        |transport, &own| transport.own_listener(own),
    );
    let forwarder = Forwarder::new(transport.policy(shared.policy.clone()));
    let worker = metrics.worker(0);
    Observed::new(&shared.records, metrics, &worker, Direction::Outbound).layer(forwarder)
}

/// What is around a laptop's listeners for its own requests.
pub(crate) fn outward(metrics: &Arc<Metrics>) -> Observed {
    let (records, worker) = (Arc::default(), metrics.worker(0));
    Observed::new(&records, metrics, &worker, Direction::Outbound)
}

/// What is around every listener.
#[derive(Clone, Debug)]
pub(crate) struct Observed {
    observe: ObserveLayer,
    front: FrontLayer,
}

impl Observed {
    fn new(
        records: &Arc<Records>,
        metrics: &Arc<Metrics>,
        worker: &Arc<WorkerMetrics>,
        direction: Direction,
    ) -> Self {
        Self {
            observe: ObserveLayer(Arc::new(Observer {
                metrics: Arc::clone(metrics),
                worker: Arc::clone(worker),
                records: Arc::clone(records),
                direction,
                outbound: None,
                abandoned: Abandoned::default(),
            })),
            front: FrontLayer {
                health: false,
                entry: Entry::default(),
                reach: None,
            },
        }
    }

    /// Puts it around a service.
    pub(crate) fn layer<S>(&self, service: S) -> Observe<Front<S>> {
        self.observe.layer(self.front.layer(service))
    }
}

impl Shared {
    /// How the application's own requests get to their hosts.
    ///
    /// A service that asks for itself is answered, so the inbound listener is not among what must
    /// not be reached.
    fn forwarder(
        &self,
        config: &SidecarConfig,
        outbound: &OutboundConfig,
        worker: &Arc<WorkerMetrics>,
    ) -> HttpTransport {
        let transport = transport(
            &config.reroute,
            self.own_listeners.get(1..).unwrap_or_default(),
            worker,
        )
        .connects(self.forwards.clone());
        if outbound.is_private() {
            return transport;
        }
        transport.policy(anything_but_never())
    }
}

/// What an exposed proxy may reach: everything but the addresses that no policy allows, such as those of
/// the metadata services of clouds, which tell whoever asks from here what they tell this machine.
fn anything_but_never() -> TargetPolicy {
    ["0.0.0.0/0", "::/0", "198.18.0.0/15"]
        .into_iter()
        .filter_map(|network| network.parse().ok())
        .fold(TargetPolicy::default(), TargetPolicy::allow)
        .allow_loopback(true)
        .allow_cgnat(true)
}

fn reroute(layer: DevRouteLayer, config: &RerouteConfig, shared: &Shared) -> DevRouteLayer {
    let metrics = Arc::clone(&shared.metrics);
    let layer = layer
        .on_unwritten(move |_: Unwritten| metrics.member_not_written())
        .policy(shared.policy.clone())
        .reveal_addresses(config.reveal_addresses)
        .forwarded_fields(config.forwarded)
        .cookie(config.entry.cookie);
    match verifier(config) {
        Some(verifier) => layer.verifier(verifier),
        None => layer,
    }
}

/// What takes contracts off that are not to come in.
fn entry(config: &RerouteConfig) -> Entry {
    Entry::new(config.entry.clone(), verifier(config))
}

/// What refuses contracts that are not well signed, where they have to be; all workers share it.
fn verifier(config: &RerouteConfig) -> Option<Verifier> {
    let file = config.signatures.as_ref()?;
    Some(file.verifier().clone())
}

fn transport(
    config: &RerouteConfig,
    own_listeners: &[SocketAddr],
    worker: &Arc<WorkerMetrics>,
) -> HttpTransport {
    let worker = Arc::clone(worker);
    let transport = HttpTransport::new()
        .connect_timeout(config.connect_timeout)
        .connects(config.connects.clone())
        .on_trailers_dropped(move || worker.losses.trailers_dropped(Message::Request));
    let transport = match &config.tls {
        Some(tls) => transport.tls(tls.clone()),
        None => transport,
    };
    own_listeners
        .iter()
        .fold(transport, |transport, &own| transport.own_listener(own))
}

/// The service itself. Whom to believe to be it is another question than for targets, so by TLS it
/// has a transport of its own.
fn upstream(config: &SidecarConfig, place: &Place, transport: &HttpTransport) -> Upstream {
    let transport = match &config.upstream_tls {
        Some(tls) => transport.clone().tls(tls.clone()),
        None => transport.clone(),
    };
    let upstream = match place {
        Place::Fixed(addr) => Upstream::new(transport, *addr),
        Place::Named(named) => Upstream::follow(transport, named.addr.clone()),
    };
    let upstream = match config.response_timeout {
        Some(timeout) => upstream.response_timeout(timeout),
        None => upstream,
    };
    let upstream = upstream.reveal_addresses(config.reroute.reveal_addresses);
    match &config.upstream.tls_name {
        Some(name) => upstream.tls(name.clone()),
        None => upstream.h2c(config.upstream.h2c),
    }
}

fn observe(shared: &Shared, worker: Arc<WorkerMetrics>, abandoned: Abandoned) -> ObserveLayer {
    ObserveLayer(Arc::new(Observer {
        metrics: Arc::clone(&shared.metrics),
        worker,
        records: Arc::clone(&shared.records),
        direction: Direction::Inbound,
        outbound: None,
        abandoned,
    }))
}

/// Stands where a router has no baseline. The layer in front of it answers every request itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NoBaseline;

impl<B> Service<Request<B>> for NoBaseline {
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _request: Request<B>) -> Self::Future {
        let mut response = Response::new(ResponseBody::empty());
        *response.status_mut() = StatusCode::MISDIRECTED_REQUEST;
        std::future::ready(Ok(response))
    }
}

#[cfg(test)]
mod tests {
    use std::future::{Ready, ready};

    use tower::ServiceExt as _;

    use devroute_tower::core::signature::AuthorizedKeys;

    use super::*;
    use crate::config::{EntryConfig, Strip};

    #[derive(Clone)]
    struct Baseline;

    impl Service<Request<()>> for Baseline {
        type Response = Response<ResponseBody>;
        type Error = Infallible;
        type Future = Ready<Result<Self::Response, Infallible>>;

        fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _request: Request<()>) -> Self::Future {
            ready(Ok(Response::new(ResponseBody::empty())))
        }
    }

    /// Invariant 1, for the layers that the proxy adds around the one of `devroute-tower`.
    #[test]
    fn a_request_without_a_contract_allocates_nothing() {
        let metrics = Metrics::new("sidecar", 1);
        let shared = Shared {
            metrics: Arc::clone(&metrics),
            records: Arc::default(),
            policy: TargetPolicy::default(),
            own_listeners: Vec::new(),
            forwards: Connects::new(),
            router: None,
        };
        let remembered = RememberLayer::new(Correlations::new()).layer(Baseline);
        let config = EntryConfig {
            strip: Strip::Unsigned,
            cookie: true,
            ..EntryConfig::default()
        };
        let front = FrontLayer {
            health: true,
            entry: Entry::new(config, Some(Verifier::new(AuthorizedKeys::default()))),
            reach: None,
        };
        let observe = observe(&shared, metrics.worker(0), Abandoned::default());
        let service = observe.layer(front.layer(remembered));
        let request = Request::get("/")
            .header("host", "foo")
            .header("baggage", "other=1")
            .header("cookie", "session=1; devrouter=2")
            .header(
                "traceparent",
                "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            )
            .body(())
            .unwrap();

        let mut answer = service.oneshot(request);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut polled = None;
        let allocations = allocation_counter::measure(|| {
            polled = Some(std::pin::Pin::new(&mut answer).poll(&mut cx));
        });
        assert!(matches!(polled, Some(Poll::Ready(Ok(_)))));
        assert_eq!(allocations.count_total, 0);
    }
}
