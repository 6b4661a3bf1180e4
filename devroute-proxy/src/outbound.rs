//! The sidecar's outbound listener: where the application sends its own requests.
//!
//! An application gets here by `http_proxy`, and then names the host in an absolute-form target
//! (RFC 9112, section 3.2.2) or asks for a tunnel with CONNECT; or by a host alias or a redirect of its
//! traffic, and then names it in `Host` or `:authority`. The request goes to that host as it came,
//! with the contract in both carriers where the host is internal, and without any where it is not.
//!
//! The listener is on loopback unless it is said to be exposed: it sends requests to wherever it is
//! told. It drains when the inbound listener has drained, since what is in flight there may need it.

use std::io;
use std::sync::Arc;

use tokio::net::TcpListener;

use crate::config::{OutboundConfig, SidecarConfig};
use crate::metrics::OutboundMetrics;
use crate::server::{self, Drained, Options};
use crate::shutdown::Signal;
use crate::stack::{self, Shared};

/// An outbound listener that does not serve yet.
#[derive(Debug)]
pub(crate) struct Outbound {
    pub(crate) listener: TcpListener,
    pub(crate) options: Options,
    pub(crate) config: OutboundConfig,
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
            shared,
        } = self;
        let metrics = OutboundMetrics::new(options.workers.get());
        shared.metrics.add_outbound(metrics.clone());
        let requests = Arc::clone(&metrics.requests);
        server::serve(listener, options, requests, signal, move |worker| {
            stack::outbound(&sidecar, &config, &shared, &metrics, worker)
        })
        .await
    }
}
