//! `devroute sidecar`: stands in front of one service, and reroutes the requests whose contract
//! names it.
//!
//! With `--outbound` it also takes the service's own requests (`outbound.rs`).
//!
//! Everything else goes to the service's own instance as it came, and both carriers are written on
//! what has a contract, so that a service with plain OpenTelemetry passes it on (rule 10). With
//! `--via` a router does the dialling.

use std::net::SocketAddr;
use std::sync::Arc;

use devroute_tower::transport::{Connects, UpstreamAddr};
use devroute_tower::{ClientInfo, OnFailure};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::config::{Location, SidecarConfig};
use crate::metrics::Metrics;
use crate::outbound::Outbound;
use crate::process::{Process, ServeError};
use crate::records::Records;
use crate::resolve::Place;
use crate::server::{self, Drained, Options};
use crate::shutdown::Signal;
use crate::stack::{self, Shared};

/// Serves one connection that is no socket to its end, with a server and a stack of its own, in front of the
/// upstream of `config`, which has to be an address: for tests, and for fuzzing.
pub async fn serve_stream<I>(config: &SidecarConfig, stream: I)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Location::Address(addr) = config.upstream.at else {
        return;
    };
    let metrics = Metrics::new("sidecar", 1);
    let shared = Shared {
        metrics: Arc::clone(&metrics),
        records: Arc::default(),
        policy: config.reroute.policy.clone(),
        own_listeners: Vec::new(),
        forwards: Connects::new(),
        router: match config.via {
            Some(Location::Address(router)) => Some(UpstreamAddr::new(router)),
            _ => None,
        },
    };
    let options = Options {
        timers: config.process.timers,
        limits: config.process.limits,
        half_close: config.process.half_close,
        ..Options::default()
    };
    let worker = metrics.worker(0);
    let stack = stack::sidecar(
        config,
        &Place::Fixed(addr),
        None,
        &shared,
        Arc::clone(&worker),
    );
    let client = ClientInfo::new(SocketAddr::from(([127, 0, 0, 1], 0)));
    server::serve_stream(stream, &options, &worker, stack(client)).await;
}

/// A sidecar that listens, and serves when told to.
#[derive(Debug)]
pub struct Sidecar {
    config: SidecarConfig,
    upstream: Place,
    router: Option<Place>,
    process: Process,
}

impl Sidecar {
    /// Opens its listeners, and looks for the upstream.
    ///
    /// # Errors
    ///
    /// When an address cannot be listened on.
    pub async fn bind(config: SidecarConfig) -> Result<Self, ServeError> {
        let process = Process::bind(
            "sidecar",
            &config.process,
            config.outbound.as_ref().map(|outbound| outbound.listen),
        )
        .await?;
        let upstream = Place::of(&config.upstream.at).await;
        let router = match &config.via {
            Some(at) => Some(Place::of(at).await),
            None => None,
        };
        Ok(Self {
            config,
            upstream,
            router,
            process,
        })
    }

    /// Where traffic comes in.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.process.address
    }

    /// Where health, metrics and records are.
    #[must_use]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.process.admin_address
    }

    /// Where the service's own requests come in.
    #[must_use]
    pub fn outbound_address(&self) -> Option<SocketAddr> {
        self.process.outbound_address
    }

    /// The record of its reroutes.
    #[must_use]
    pub fn records(&self) -> Arc<Records> {
        Arc::clone(&self.process.records)
    }

    /// Serves until `signal`, then drains.
    ///
    /// # Errors
    ///
    /// When a worker thread cannot be started.
    pub async fn serve(self, signal: Signal) -> Result<Drained, ServeError> {
        let Self {
            config,
            upstream,
            router,
            mut process,
        } = self;
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            service = %config.service,
            listen = %process.address,
            upstream = %config.upstream,
            via = config.via.as_ref().map(tracing::field::display),
            fallback = config.on_failure == OnFailure::Fallback,
            admin = process.admin_address.map(tracing::field::display),
            outbound = process.outbound_address.map(tracing::field::display),
            workers = config.process.workers,
            max_connections = process.max_connections,
            strip = config.reroute.entry.strip.as_str(),
            cookie = config.reroute.entry.cookie,
            signed = config.reroute.signatures.is_some(),
            tls = config.process.tls.is_some(),
            "sidecar listens"
        );
        process.announce(&config.reroute);
        process.watch_keys(&config.reroute);
        let title = format!("sidecar of {}", config.service);
        upstream.watch(&signal);
        let mut shared = process.shared(&config.reroute);
        if let Some(router) = &router {
            router.watch(&signal);
            shared.router = Some(router.addr());
        }
        let listening = process.take_outbound().zip(config.outbound.clone());
        let outbound = listening.map(|((listener, options), config)| Outbound {
            listener,
            options,
            correlations: config.correlation.table(),
            config,
            shared: shared.clone(),
        });
        let correlations = outbound
            .as_ref()
            .map(|outbound| outbound.correlations.clone());
        let config = Arc::new(config);
        let sidecar = Arc::clone(&config);
        let outbound = async move |stop| match outbound {
            Some(outbound) => outbound.serve(sidecar, stop).await,
            None => Ok(Drained::default()),
        };
        process
            .serve(
                title,
                signal,
                move |worker| {
                    stack::sidecar(&config, &upstream, correlations.as_ref(), &shared, worker)
                },
                outbound,
            )
            .await
    }
}
