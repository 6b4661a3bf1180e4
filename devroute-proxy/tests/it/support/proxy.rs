//! Sidecars and routers in this process.

use std::net::SocketAddr;
use std::sync::Arc;

use devroute_proxy::config::{RouterConfig, SidecarConfig};
use devroute_proxy::records::Records;
use devroute_proxy::router::Router;
use devroute_proxy::server::Drained;
use devroute_proxy::shutdown::{self, Trigger};
use devroute_proxy::sidecar::Sidecar;
use tokio::task::JoinHandle;

use super::{ANY, Client, PATIENCE};

/// A proxy that serves.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    outbound: Option<SocketAddr>,
    pub(crate) records: Arc<Records>,
    trigger: Trigger,
    serving: JoinHandle<Drained>,
}

/// A sidecar of foo, which may reroute to this machine; `adapt` changes what a test is about.
pub(crate) async fn sidecar(upstream: SocketAddr, adapt: impl FnOnce(&mut SidecarConfig)) -> Proxy {
    let mut config = SidecarConfig::new("foo".parse().unwrap(), ANY, upstream);
    config.process.admin = Some(ANY);
    config.reroute.policy = config.reroute.policy.allow_loopback(true);
    adapt(&mut config);
    let sidecar = Sidecar::bind(config).await.unwrap();
    let (trigger, signal) = shutdown::channel();
    Proxy {
        address: sidecar.address(),
        admin: sidecar.admin_address().unwrap(),
        outbound: sidecar.outbound_address(),
        records: sidecar.records(),
        trigger,
        serving: tokio::spawn(async { sidecar.serve(signal).await.unwrap() }),
    }
}

/// A router, which may reroute to this machine; `adapt` changes what a test is about.
pub(crate) async fn router(adapt: impl FnOnce(&mut RouterConfig)) -> Proxy {
    let mut config = RouterConfig::new(ANY);
    config.process.admin = Some(ANY);
    config.reroute.policy = config.reroute.policy.allow_loopback(true);
    adapt(&mut config);
    let router = Router::bind(config).await.unwrap();
    let (trigger, signal) = shutdown::channel();
    Proxy {
        address: router.address(),
        admin: router.admin_address().unwrap(),
        outbound: None,
        records: router.records(),
        trigger,
        serving: tokio::spawn(async { router.serve(signal).await.unwrap() }),
    }
}

impl Proxy {
    pub(crate) fn get(&self, path: &str) -> Client {
        Client::get(self.address, path)
    }

    /// The listener for the service's own requests.
    pub(crate) fn outbound(&self) -> SocketAddr {
        self.outbound.expect("there is an outbound listener")
    }

    /// A request that the service makes, to a whole URI (a forward proxy's) or to a path.
    pub(crate) fn out(&self, target: &str) -> Client {
        Client::get(self.outbound(), target)
    }

    pub(crate) fn admin(&self, path: &str) -> Client {
        Client::get(self.admin, path)
    }

    /// The value of a sample in a scrape, such as `devroute_requests_total{decision="none"}`.
    pub(crate) async fn sample(&self, sample: &str) -> f64 {
        let scrape = self.admin("/metrics").send().await.text;
        let line = scrape.lines().find_map(|line| line.strip_prefix(sample));
        let line = line.unwrap_or_else(|| panic!("no sample {sample} in\n{scrape}"));
        line.trim().parse().unwrap()
    }

    pub(crate) fn shut_down(&self) {
        self.trigger.shut_down();
    }

    /// Waits for the end of the drain.
    pub(crate) async fn drained(self) -> Drained {
        tokio::time::timeout(PATIENCE, self.serving)
            .await
            .expect("the drain ends")
            .unwrap()
    }
}
