//! What the outbound listener of a sidecar counts.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;

use super::encode::{causes, counter};
use super::{Decision, Latencies, Metrics};

/// The counters of an outbound listener.
#[derive(Clone, Debug)]
pub(crate) struct OutboundMetrics {
    /// What any listener counts; it is encoded under names of its own.
    pub(crate) requests: Arc<Metrics>,
    tunnels: Arc<AtomicU64>,
}

impl OutboundMetrics {
    /// Counters at zero for `workers` threads.
    pub(crate) fn new(workers: usize) -> Self {
        Self {
            requests: Metrics::new("outbound", workers),
            tunnels: Arc::default(),
        }
    }

    /// Counts a tunnel that CONNECT has opened.
    pub(crate) fn tunnel(&self) {
        self.tunnels.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Requests of the application, by what was decided about them";
        let name = "outbound_requests";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for decision in Decision::ALL {
            let count = Latencies::sum(&self.requests.workers, decision).count();
            let labels = [("decision", decision.as_str())];
            ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
        }
        causes(
            encoder,
            "outbound_reroute_failures",
            "Requests of the application whose reroute was refused or failed, by cause",
            &self.requests.reroute_failures,
        )?;
        causes(
            encoder,
            "outbound_failures",
            "Requests of the application whose host could not be reached, by cause",
            &self.requests.upstream_failures,
        )?;
        counter(
            encoder,
            "outbound_tunnels",
            "Tunnels that the application has asked for with CONNECT",
            self.tunnels.load(Ordering::Relaxed),
        )
    }
}
