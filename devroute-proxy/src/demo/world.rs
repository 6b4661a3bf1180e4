//! Everything the demo runs: three services behind three sidecars, and the laptop.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use devroute_tower::core::{Contract, ServiceName, Target};
use tokio::task::JoinSet;

use super::laptop::Laptop;
use super::service::Service;
use crate::ServeError;
use crate::config::{Bind, DemoConfig, SidecarConfig};
use crate::server;
use crate::shutdown::Signal;
use crate::sidecar::Sidecar;

/// The test run that the demo's contract names.
pub(super) const RUN: &str = "demo";

/// A service and the sidecar in front of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hop {
    pub(super) name: &'static str,
    /// The sidecar.
    pub(super) address: SocketAddr,
    /// The sidecar's admin listener.
    pub(super) admin: SocketAddr,
}

/// What runs, and where.
#[derive(Debug)]
pub(super) struct World {
    pub(super) a: Hop,
    pub(super) b: Hop,
    pub(super) c: Hop,
    pub(super) laptop: Laptop,
    pub(super) contract: Contract,
    tasks: JoinSet<()>,
}

impl World {
    /// Starts all of it; it ends with `signal`.
    ///
    /// # Errors
    ///
    /// When there is nothing to listen on, or the laptop's process does not start.
    pub(super) async fn start(config: DemoConfig, signal: &Signal) -> Result<Self, ServeError> {
        let mut tasks = JoinSet::new();
        let mut hop = Start {
            config,
            signal,
            tasks: &mut tasks,
        };
        // From the end of the chain, since each is told who comes next.
        let c = hop.start(3, "c", "C (cluster)", None).await?;
        let b = hop.start(2, "b", "B (cluster)", Some(c.address)).await?;
        let a = hop.start(1, "a", "A (cluster)", Some(b.address)).await?;

        let listen = free(config.port, 22);
        let laptop = Laptop::start(listen, c.address)
            .await
            .map_err(ServeError::setup)?;
        let contract = Contract::builder()
            .entry(name("b")?, Target::from(laptop.address))
            .id(RUN)
            .build()
            .map_err(|error| ServeError::setup(io::Error::other(error)))?;
        Ok(Self {
            a,
            b,
            c,
            laptop,
            contract,
            tasks,
        })
    }

    /// Waits until everything has ended, which `signal` makes it do.
    pub(super) async fn end(mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

struct Start<'a> {
    config: DemoConfig,
    signal: &'a Signal,
    tasks: &'a mut JoinSet<()>,
}

impl Start<'_> {
    async fn start(
        &mut self,
        index: u16,
        service: &'static str,
        says: &'static str,
        next: Option<SocketAddr>,
    ) -> Result<Hop, ServeError> {
        let base = self.config.port;
        let listener = server::bind(Bind::Address(free(base, 10 + index)))
            .await
            .map_err(ServeError::setup)?;
        let upstream = listener.local_addr().map_err(ServeError::setup)?;
        self.tasks.spawn(
            Service {
                name: service,
                says,
                next,
            }
            .serve(listener, self.signal.clone()),
        );

        let mut sidecar = SidecarConfig::new(name(service)?, free(base, index), upstream);
        sidecar.process.admin = Some(free(base, 90 + index));
        sidecar.process.drain.grace = Duration::ZERO;
        sidecar.process.drain.timeout = Duration::from_secs(2);
        // The whole demo is on one machine, so its laptop is on loopback.
        sidecar.reroute.policy = sidecar.reroute.policy.allow_loopback(true);
        sidecar.on_failure = self.config.on_failure;
        let sidecar = Sidecar::bind(sidecar).await?;
        let address = sidecar.address();
        let admin = sidecar.admin_address().unwrap_or(address);
        let signal = self.signal.clone();
        self.tasks.spawn(async move {
            if let Err(error) = sidecar.serve(signal).await {
                tracing::error!(%error, "a sidecar of the demo ended");
            }
        });
        Ok(Hop {
            name: service,
            address,
            admin,
        })
    }
}

fn name(service: &str) -> Result<ServiceName, ServeError> {
    ServiceName::new(service).map_err(|error| ServeError::setup(io::Error::other(error)))
}

/// The port that far into the range, or any free one where that is taken.
fn free(base: u16, offset: u16) -> SocketAddr {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let Some(port) = base.checked_add(offset) else {
        return any;
    };
    let wanted = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    match std::net::TcpListener::bind(wanted) {
        Ok(_closed_again) => wanted,
        Err(_taken) => any,
    }
}
