//! `devroute hub`: laptops that the cluster cannot reach dial in here, and get an address inside it.
//!
//! What a hub is, and what passes through it, is in `devroute-tunnel`. This serves it: the listener where laptops dial
//! in, and the listeners that the hub opens for their services, by the server that all modes have, with its time-outs,
//! limits and drain. The connections of a laptop's callers are served by the worker that has the laptop's own, so a
//! request changes no thread on its way.

mod serving;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use devroute_tunnel::hub::Hub as Sessions;

pub(crate) use self::serving::Serving;
use crate::config::{HubConfig, RerouteConfig};
use crate::metrics::HubMetrics;
use crate::process::{Process, ServeError};
use crate::server::Drained;
use crate::shutdown::Signal;
use crate::stack;

/// A hub that listens, and serves when told to.
#[derive(Debug)]
pub struct Hub {
    config: HubConfig,
    process: Process,
}

impl Hub {
    /// Opens its listeners.
    ///
    /// # Errors
    ///
    /// When an address cannot be listened on.
    pub async fn bind(config: HubConfig) -> Result<Self, ServeError> {
        let mut process = Process::bind("hub", &config.process, None).await?;
        process.channel_binding = true;
        Ok(Self { config, process })
    }

    /// Where laptops dial in.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.process.address
    }

    /// Where health, metrics and records are.
    #[must_use]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.process.admin_address
    }

    /// Serves until `signal`, then drains.
    ///
    /// # Errors
    ///
    /// When a worker thread cannot be started.
    pub async fn serve(self, signal: Signal) -> Result<Drained, ServeError> {
        let Self { config, process } = self;
        let HubConfig {
            hub,
            policy,
            connect_timeout,
            keys,
            ..
        } = config;
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            listen = %process.address,
            addresses = %hub.ip,
            ports = %hub.ports,
            authenticated = hub.authenticator.is_some(),
            hold = ?hub.hold,
            admin = process.admin_address.map(tracing::field::display),
            workers = config.process.workers,
            tls = config.process.tls.is_some(),
            "hub listens"
        );
        if let Some(keys) = keys {
            keys.announce("laptops have to have one of the keys");
            process.metrics.add_verifier(keys.verifier().clone());
            tokio::spawn(keys.watch());
        } else {
            tracing::warn!("whoever reaches this hub may offer any service (insecure-no-auth)");
        }
        let sessions = Sessions::new(hub);
        let metrics = HubMetrics::new(config.process.workers.get(), sessions.clone());
        process.metrics.add_hub(metrics.clone());
        let shared = process.shared(&RerouteConfig {
            policy,
            ..RerouteConfig::default()
        });
        let options = process.options();
        let serving = {
            let (sessions, signal) = (sessions.clone(), signal.clone());
            let workers = AtomicUsize::new(0);
            move |worker| {
                let serving = Serving::new(
                    &options,
                    &shared,
                    &metrics,
                    connect_timeout,
                    workers.fetch_add(1, Ordering::Relaxed),
                    signal.clone(),
                );
                stack::hub(&sessions, serving, &shared, worker)
            }
        };
        let timeout = config.process.drain.timeout;
        let delay = config.process.drain.delay;
        let keeping = {
            let signal = signal.clone();
            async move {
                tokio::select! {
                    never = sessions.sweep() => match never {},
                    () = signal.begun() => {}
                }
                tokio::time::sleep(delay).await;
                sessions.drain(timeout).await;
            }
        };
        let keeping = tokio::spawn(keeping);
        let drained = process
            .serve("hub".to_owned(), signal, serving, |_nothing| {
                std::future::ready(Ok(Drained::default()))
            })
            .await;
        keeping.abort();
        drained
    }
}
