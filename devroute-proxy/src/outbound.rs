//! The sidecar's outbound listener: where the application sends its own requests.
//!
//! An application gets here by `http_proxy`, and then names the host in an absolute-form target
//! (RFC 9112, section 3.2.2) or asks for a tunnel with CONNECT; or by a host alias or a redirect of its
//! traffic, and then names it in `Host` or `:authority`. The request goes to that host as it came,
//! with the contract in both carriers where the host is internal, and without any where it is not. The
//! contract is the request's own, or the one that came to the application with the same id.
//!
//! The listener is on loopback unless it is said to be exposed: it sends requests to wherever it is
//! told. It drains when the inbound listener has drained, since what is in flight there may need it.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use devroute_tower::correlation::Correlations;
use tokio::net::TcpListener;

use crate::config::{OutboundConfig, SidecarConfig};
use crate::metrics::OutboundMetrics;
use crate::server::{self, Drained, Options};
use crate::shutdown::Signal;
use crate::stack::{self, Shared};

const SWEEP: Duration = Duration::from_secs(1);

/// An outbound listener that does not serve yet.
#[derive(Debug)]
pub(crate) struct Outbound {
    pub(crate) listener: TcpListener,
    pub(crate) options: Options,
    pub(crate) config: OutboundConfig,
    pub(crate) correlations: Correlations,
    pub(crate) shared: Shared,
}

impl Outbound {
    /// Serves until `signal`, then lets requests in flight finish.
    ///
    /// # Errors
    ///
    /// When a worker thread cannot be started.
    pub(crate) async fn serve(
        self,
        sidecar: Arc<SidecarConfig>,
        signal: Signal,
    ) -> io::Result<Drained> {
        let Self {
            listener,
            options,
            config,
            correlations,
            shared,
        } = self;
        let service = sidecar.service.clone();
        let metrics = OutboundMetrics::new(options.workers.get(), service, correlations.clone());
        shared.metrics.add_outbound(metrics.clone());
        let requests = Arc::clone(&metrics.requests);
        let sweeping = sweep(correlations.clone());
        let serving = server::serve(listener, options, requests, signal, move |worker| {
            stack::outbound(&sidecar, &config, &correlations, &shared, &metrics, worker)
        });
        tokio::select! {
            drained = serving => drained,
            never = sweeping => match never {},
        }
    }
}

/// Gives back the memory of what is forgotten.
async fn sweep(correlations: Correlations) -> Infallible {
    loop {
        tokio::time::sleep(SWEEP).await;
        correlations.sweep();
    }
}
