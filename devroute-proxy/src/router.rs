//! `devroute router`: forwards each request to the target its contract names for
//! `x-devroute-matched`.
//!
//! A drop-in for the reference implementation: same port, same `/_healthz`, same statuses.
//!
//! | request | answer |
//! |---|---|
//! | no contract, or a malformed one | 400 |
//! | no `x-devroute-matched`, or the contract has no entry for it | 400 |
//! | a target that the policy refuses | 403, nothing is dialled |
//! | a target that cannot be reached | 502 or 504, with the reason |
//! | `POST /_reach?port=N` without `x-devroute-matched` | whether whoever asks can be dialled there |
//! | anything else | the target's |

use std::net::SocketAddr;
use std::sync::Arc;

use crate::config::RouterConfig;
use crate::process::{Process, ServeError};
use crate::reach::dial::ReachBack;
use crate::records::Records;
use crate::server::Drained;
use crate::shutdown::Signal;
use crate::stack;

/// A router that listens, and serves when told to.
#[derive(Debug)]
pub struct Router {
    config: RouterConfig,
    process: Process,
}

impl Router {
    /// Opens its listeners.
    ///
    /// # Errors
    ///
    /// When an address cannot be listened on.
    pub async fn bind(config: RouterConfig) -> Result<Self, ServeError> {
        let process = Process::bind("router", &config.process, None).await?;
        Ok(Self { config, process })
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
        let Self { config, process } = self;
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            listen = %process.address,
            admin = process.admin_address.map(tracing::field::display),
            workers = config.process.workers,
            max_connections = process.max_connections,
            strip = config.reroute.entry.strip.as_str(),
            cookie = config.reroute.entry.cookie,
            signed = config.reroute.signatures.is_some(),
            tls = config.process.tls.is_some(),
            reach_back = config.reach_back,
            "router listens"
        );
        process.announce(&config.reroute);
        process.watch_keys(&config.reroute);
        let shared = process.shared(&config.reroute);
        let reach = ReachBack::new(&config, &shared);
        process
            .serve(
                "router".to_owned(),
                signal,
                move |worker| stack::router(&config, reach.clone(), &shared, worker),
                |_nothing| std::future::ready(Ok(Drained::default())),
            )
            .await
    }
}
