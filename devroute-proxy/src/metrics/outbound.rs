//! What the outbound listener of a sidecar counts.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use devroute_tower::core::ServiceName;
use devroute_tower::correlation::{Correlations, IdKind, Loss};
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::encode::{causes, counter};
use super::{Decision, Latencies, Metrics};

/// The counters of an outbound listener.
#[derive(Clone, Debug)]
pub(crate) struct OutboundMetrics {
    /// What any listener counts; it is encoded under names of its own.
    pub(crate) requests: Arc<Metrics>,
    tunnels: Arc<AtomicU64>,
    service: ServiceName,
    correlations: Correlations,
}

impl OutboundMetrics {
    /// Counters at zero for `workers` threads of a sidecar of `service`.
    pub(crate) fn new(workers: usize, service: ServiceName, correlations: Correlations) -> Self {
        Self {
            requests: Metrics::new("outbound", workers),
            tunnels: Arc::default(),
            service,
            correlations,
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
        )?;
        self.encode_correlations(encoder)
    }

    fn encode_correlations(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let stats = self.correlations.stats();
        let help =
            "Requests of the application whose contract was restored, by the id that told it";
        let name = "contracts_restored";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for kind in IdKind::ALL {
            let labels = [("id", kind.as_str())];
            ConstCounter::new(stats.restored(kind)).encode(family.encode_family(&labels)?)?;
        }

        let help = "Requests of the application without a contract while one was in flight: where it \
                    was probably lost, and why";
        let name = "propagation_lost";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for loss in Loss::ALL {
            let labels = [
                ("service", self.service.as_str()),
                ("reason", loss.as_str()),
            ];
            ConstCounter::new(stats.lost(loss)).encode(family.encode_family(&labels)?)?;
        }

        for (name, help, value) in [
            (
                "correlation_ambiguous",
                "Ids that came in with two different contracts",
                stats.ambiguous,
            ),
            (
                "correlation_evicted",
                "Ids that were forgotten early, there being too many",
                stats.evicted,
            ),
            (
                "traceparents_added",
                "Requests with a contract that came without an id and got one",
                stats.traceparents_added,
            ),
        ] {
            counter(encoder, name, help, value)?;
        }
        for (name, help, value) in [
            (
                "correlation_entries",
                "Ids that are remembered",
                stats.entries,
            ),
            (
                "correlation_bytes",
                "Bytes that remembered ids and contracts take, about",
                stats.bytes,
            ),
        ] {
            let value = i64::try_from(value).unwrap_or(i64::MAX);
            let gauge = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(gauge)?;
        }
        Ok(())
    }
}
