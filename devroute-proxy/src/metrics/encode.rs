//! The counters as OpenMetrics text, which Prometheus and everything like it reads.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use devroute_tower::transport::Connects;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use super::{
    Causes, ConnectionMetrics, Decision, Latencies, Limit, Listener, Losses, Message, Metrics,
    Phase, Refused, Timer,
};

/// Everything `metrics` holds, added up now.
pub(super) fn render(metrics: &Arc<Metrics>) -> String {
    let mut registry = Registry::with_prefix("devroute");
    registry.register_collector(Box::new(Snapshot(Arc::clone(metrics))));
    let mut text = String::with_capacity(16 * 1024);
    // Only a failing writer makes this fail, and a String does not.
    let _ = text::encode(&mut text, &registry);
    text
}

#[derive(Debug)]
struct Snapshot(Arc<Metrics>);

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let metrics = &*self.0;
        let encoder = &mut encoder;
        build(encoder, metrics.mode)?;
        requests(encoder, metrics)?;
        causes(
            encoder,
            "reroute_failures",
            "Requests whose reroute was refused or failed, by cause",
            &metrics.reroute_failures,
        )?;
        causes(
            encoder,
            "upstream_failures",
            "Requests that could not be given to the baseline, by cause",
            &metrics.upstream_failures,
        )?;
        let help = "Clients that asked to be dialled back, by what was found";
        let name = "reach_backs";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (finding, count) in metrics.reach_backs.all() {
            let labels = [("finding", finding)];
            ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
        }
        counter(
            encoder,
            "baggage_members_not_written",
            "Contracts forwarded in the header alone, being too large for a baggage member",
            metrics.members_not_written.load(Ordering::Relaxed),
        )?;
        counter(
            encoder,
            "accept_errors",
            "Connections that could not be accepted",
            metrics.accept_errors(),
        )?;
        counter(
            encoder,
            "tls_handshake_failures",
            "Connections of clients whose TLS handshake failed",
            metrics
                .connections(Listener::Proxy)
                .map(ConnectionMetrics::handshakes_failed)
                .sum(),
        )?;
        if let Some(verifier) = metrics.verifier.get() {
            let help = "Keys that contracts may be signed with";
            let keys = i64::try_from(verifier.keys()).unwrap_or(i64::MAX);
            let kind = MetricType::Gauge;
            ConstGauge::new(keys).encode(encoder.encode_descriptor(
                "authorized_keys",
                help,
                None,
                kind,
            )?)?;
        }
        if let Some(connects) = metrics.connects.get() {
            self::connects(encoder, connects)?;
        }
        let outbound = metrics.outbound.get();
        let outbound = outbound.map_or(0, |outbound| outbound.requests.log.left_out());
        counter(
            encoder,
            "log_lines_left_out",
            "Lines about requests that were not logged, being too many",
            metrics.log.left_out() + outbound,
        )?;
        connections(encoder, metrics)?;
        ends(encoder, metrics)?;
        losses(encoder, metrics)?;
        if let Some(hub) = metrics.hub.get() {
            hub.encode(encoder)?;
        }
        match metrics.outbound.get() {
            Some(outbound) => outbound.encode(encoder),
            None => Ok(()),
        }
    }
}

fn build(encoder: &mut DescriptorEncoder<'_>, mode: &str) -> fmt::Result {
    encoder
        .encode_descriptor("build", "What runs here", None, MetricType::Info)?
        .encode_info(&[("version", env!("CARGO_PKG_VERSION")), ("mode", mode)])
}

fn requests(encoder: &mut DescriptorEncoder<'_>, metrics: &Metrics) -> fmt::Result {
    let latencies = Decision::ALL.map(|decision| {
        (
            decision.as_str(),
            Latencies::sum(&metrics.workers, decision),
        )
    });

    let help = "Requests, by what was decided about them";
    let mut family = encoder.encode_descriptor("requests", help, None, MetricType::Counter)?;
    for (decision, latencies) in &latencies {
        let labels = [("decision", *decision)];
        ConstCounter::new(latencies.count()).encode(family.encode_family(&labels)?)?;
    }

    let help = "Time until the answer began, by decision";
    let unit = Some(&Unit::Seconds);
    let mut family =
        encoder.encode_descriptor("response_start", help, unit, MetricType::Histogram)?;
    for (decision, latencies) in &latencies {
        let labels = [("decision", *decision)];
        family
            .encode_family(&labels)?
            .encode_histogram::<NoLabelSet>(
                latencies.seconds(),
                latencies.count(),
                &latencies.pairs(),
                None,
            )?;
    }
    Ok(())
}

pub(super) fn causes(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    causes: &Causes,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (cause, count) in causes.all() {
        let labels = [("cause", cause)];
        ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

pub(super) fn counter(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: u64,
) -> fmt::Result {
    ConstCounter::new(value).encode(encoder.encode_descriptor(
        name,
        help,
        None,
        MetricType::Counter,
    )?)
}

fn connections(encoder: &mut DescriptorEncoder<'_>, metrics: &Metrics) -> fmt::Result {
    let mut listeners = vec![("proxy", Listener::Proxy), ("admin", Listener::Admin)];
    if metrics.outbound.get().is_some() {
        listeners.push(("outbound", Listener::Outbound));
    }
    if metrics.hub.get().is_some() {
        listeners.push(("service", Listener::Service));
    }

    let help = "Open connections of clients";
    let mut family =
        encoder.encode_descriptor("open_connections", help, None, MetricType::Gauge)?;
    for &(label, listener) in &listeners {
        let open = i64::try_from(metrics.open_connections(listener)).unwrap_or(i64::MAX);
        let labels = [("listener", label)];
        ConstGauge::new(open).encode(family.encode_family(&labels)?)?;
    }

    let help = "Connections of clients accepted";
    let mut family = encoder.encode_descriptor("connections", help, None, MetricType::Counter)?;
    for (label, listener) in listeners {
        let accepted = metrics
            .connections(listener)
            .map(ConnectionMetrics::accepted)
            .sum::<u64>();
        let labels = [("listener", label)];
        ConstCounter::new(accepted).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

/// The connections to targets that are not there yet.
fn connects(encoder: &mut DescriptorEncoder<'_>, connects: &Connects) -> fmt::Result {
    let help = "Connections to targets that are being opened, or wait for that";
    let name = "target_connects";
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (state, count) in [
        ("opening", connects.opening()),
        ("waiting", connects.waiting()),
    ] {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        ConstGauge::new(count).encode(family.encode_family(&[("state", state)])?)?;
    }

    let help = "Connections to targets that were not tried, by reason";
    let name = "target_connects_spared";
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (reason, count) in [
        ("limit", connects.limited()),
        ("timed_out", connects.remembered()),
    ] {
        ConstCounter::new(count).encode(family.encode_family(&[("reason", reason)])?)?;
    }
    Ok(())
}

/// What clients took too much of.
fn ends(encoder: &mut DescriptorEncoder<'_>, metrics: &Metrics) -> fmt::Result {
    let sum = |count: &dyn Fn(&ConnectionMetrics) -> u64| {
        let inbound = metrics.connections(Listener::Proxy);
        let outbound = metrics.connections(Listener::Outbound);
        let services = metrics.connections(Listener::Service);
        inbound
            .chain(outbound)
            .chain(services)
            .map(count)
            .sum::<u64>()
    };

    let help = "Connections closed because a time of the client ran out";
    let name = "client_timeouts";
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for timer in Timer::ALL {
        let labels = [("timer", timer.as_str())];
        let count = sum(&|connections| connections.timeouts(timer));
        ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
    }

    let help = "Connections and requests refused because there was too much of them";
    let name = "limits_reached";
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for limit in Limit::ALL {
        let labels = [("limit", limit.as_str())];
        let count = sum(&|connections| connections.limits(limit));
        ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

/// What was refused before a decision, and what did not get to its end.
fn losses(encoder: &mut DescriptorEncoder<'_>, metrics: &Metrics) -> fmt::Result {
    let sum = |count: &dyn Fn(&Losses) -> u64| {
        let outbound = metrics.outbound.get();
        let outbound = outbound.map_or(Default::default(), |it| &*it.requests.workers);
        let services = metrics.hub.get();
        let services = services.map_or(Default::default(), |it| &*it.services.workers);
        let workers = metrics.workers.iter().chain(outbound).chain(services);
        workers.map(|worker| count(&worker.losses)).sum::<u64>()
    };

    let help = "Requests refused before anything was decided about them, by reason";
    let name = "requests_refused";
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for reason in Refused::ALL {
        let labels = [("reason", reason.as_str())];
        let by_server = match reason {
            Refused::Malformed => metrics
                .connections(Listener::Proxy)
                .chain(metrics.connections(Listener::Outbound))
                .map(ConnectionMetrics::malformed)
                .sum(),
            _ => 0,
        };
        let count = sum(&|losses| losses.refused(reason)) + by_server;
        ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
    }

    let help = "Requests whose client went away before the answer was complete";
    let name = "client_gone";
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for phase in Phase::ALL {
        let labels = [("phase", phase.as_str())];
        let count = sum(&|losses| losses.gone(phase));
        ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
    }

    let help = "Messages some of whose trailers HTTP/1.1 did not take";
    let name = "trailers_dropped";
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for message in Message::ALL {
        let labels = [("direction", message.as_str())];
        let count = sum(&|losses| losses.dropped(message));
        ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
    }

    let help = "Answers that broke off where they came from";
    counter(encoder, "answers_cut", help, sum(&Losses::cut))
}
