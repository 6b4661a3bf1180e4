//! What a hub counts.

use std::fmt;
use std::sync::Arc;

use devroute_tunnel::hub::{Hub, Limit};
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::encode::{causes, counter};
use super::{Decision, Latencies, Metrics};

/// The counters of a hub.
#[derive(Clone, Debug)]
pub(crate) struct HubMetrics {
    /// Requests and connections at the addresses of services.
    pub(crate) services: Arc<Metrics>,
    /// The laptops' own requests.
    pub(crate) laptops: Arc<Metrics>,
    hub: Hub,
}

impl HubMetrics {
    /// Those of `hub`, with counters at zero for `workers` threads.
    pub(crate) fn new(workers: usize, hub: Hub) -> Self {
        Self {
            services: Metrics::new("service", workers),
            laptops: Metrics::new("laptop", workers),
            hub,
        }
    }

    pub(super) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let stats = self.hub.stats();
        for (name, help, value) in [
            ("hub_laptops", "Laptops that are there", stats.connected),
            (
                "hub_held_sessions",
                "Sessions whose laptop is gone, and whose addresses are held for it",
                stats.held,
            ),
            (
                "hub_services",
                "Addresses of services that are open",
                stats.services,
            ),
            ("hub_streams", "Requests that laptops answer", stats.streams),
            ("hub_pending", "Laptops that are dialling in", stats.pending),
        ] {
            let value = i64::try_from(value).unwrap_or(i64::MAX);
            let gauge = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(gauge)?;
        }
        for (name, help, value) in [
            (
                "hub_registrations",
                "Laptops that were let in",
                stats.registered,
            ),
            (
                "hub_resumptions",
                "Those of them that had been there before",
                stats.resumed,
            ),
            (
                "hub_disconnections",
                "Connections of laptops that have ended",
                stats.disconnected,
            ),
            (
                "hub_service_requests",
                "Requests at the addresses of services",
                requests(&self.services),
            ),
            (
                "hub_laptop_requests",
                "Requests of laptops into the cluster",
                requests(&self.laptops),
            ),
        ] {
            counter(encoder, name, help, value)?;
        }

        let help = "Laptops not let in, and requests not passed on to one, by cause";
        let mut family =
            encoder.encode_descriptor("hub_refused", help, None, MetricType::Counter)?;
        for (cause, count) in stats.refused {
            let labels = [("cause", cause)];
            ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
        }
        let help = "Laptops and requests that met a limit, by limit";
        let name = "hub_limits_reached";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (limit, count) in Limit::ALL.iter().zip(stats.limits) {
            let labels = [("limit", limit.as_str())];
            ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
        }
        causes(
            encoder,
            "hub_laptop_request_failures",
            "Requests of laptops whose host could not be reached, by cause",
            &self.laptops.upstream_failures,
        )
    }
}

fn requests(metrics: &Metrics) -> u64 {
    Decision::ALL
        .into_iter()
        .map(|decision| Latencies::sum(&metrics.workers, decision).count())
        .sum()
}
