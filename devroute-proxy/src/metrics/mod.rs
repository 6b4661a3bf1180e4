//! What is counted, and how it gets out.
//!
//! Every worker thread counts in a [`WorkerMetrics`] of its own, so that the path of a request
//! touches no cache line another core writes; a scrape adds them up ([`Metrics::render`]). Counting
//! a request is two relaxed additions and allocates nothing.
//!
//! Label values are bounded: decisions are an enum, causes are `&'static str` of this program.
//! Nothing that a request carries (service, target, `$id`, path) is ever a label.
//!
//! ```
//! use std::time::Duration;
//! use devroute_proxy::metrics::{Decision, Metrics};
//!
//! let metrics = Metrics::new("sidecar", 1);
//! metrics.worker(0).request(Decision::Rerouted, Duration::from_millis(3));
//!
//! let text = metrics.render();
//! assert!(text.contains("devroute_requests_total{decision=\"rerouted\"} 1"));
//! ```

mod encode;
mod hub;
mod losses;
mod outbound;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use devroute_tower::OutcomeKind;
use devroute_tower::core::signature::Verifier;
use devroute_tower::transport::Connects;

pub(crate) use self::hub::HubMetrics;
pub(crate) use self::losses::Losses;
pub use self::losses::{Message, Phase, Refused};
pub(crate) use self::outbound::OutboundMetrics;
use crate::log_budget::LogBudget;

/// What was decided about a request, as a label.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Decision {
    /// It carried no contract.
    None,
    /// Its contract names other services.
    Baseline,
    /// It had been rerouted here already.
    AlreadyRerouted,
    /// The target answered.
    Rerouted,
    /// The target could not be reached, and the baseline answered.
    Fallback,
    /// It was refused before anything was dialled.
    Refused,
    /// The reroute failed.
    Failed,
}

impl Decision {
    /// All of them, in the order of their counters.
    pub const ALL: [Self; 7] = [
        Self::None,
        Self::Baseline,
        Self::AlreadyRerouted,
        Self::Rerouted,
        Self::Fallback,
        Self::Refused,
        Self::Failed,
    ];

    /// The label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Baseline => "baseline",
            Self::AlreadyRerouted => "already_rerouted",
            Self::Rerouted => "rerouted",
            Self::Fallback => "fallback",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

impl From<OutcomeKind> for Decision {
    fn from(kind: OutcomeKind) -> Self {
        match kind {
            OutcomeKind::Baseline => Self::Baseline,
            OutcomeKind::AlreadyRerouted => Self::AlreadyRerouted,
            OutcomeKind::Rerouted => Self::Rerouted,
            OutcomeKind::FellBack => Self::Fallback,
            OutcomeKind::Refused => Self::Refused,
            // The enum may grow: what is not known here is at least not a success.
            _ => Self::Failed,
        }
    }
}

/// Which listener a connection came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Listener {
    /// The one for traffic.
    Proxy,
    /// The one for health, metrics and records.
    Admin,
    /// The one for the application's own requests.
    Outbound,
    /// Those that a hub opens for services of laptops.
    Service,
}

/// Which time of a client ran out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Timer {
    /// Until its first byte.
    FirstByte,
    /// For the head of a request.
    Head,
    /// Between two requests.
    Idle,
}

impl Timer {
    /// All of them, in the order of their counters.
    pub const ALL: [Self; 3] = [Self::FirstByte, Self::Head, Self::Idle];

    /// The label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FirstByte => "first_byte",
            Self::Head => "head",
            Self::Idle => "idle",
        }
    }
}

/// Which limit a client met.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Limit {
    /// Of connections.
    Connections,
    /// Of the connections of one client.
    ClientConnections,
    /// Of the head of a request: its bytes or its fields.
    Head,
    /// Of the body of a request.
    Body,
    /// Of the streams of an HTTP/2 connection.
    Streams,
    /// Of frames and resets of HTTP/2 that mean nothing but work.
    Flood,
}

impl Limit {
    /// All of them, in the order of their counters.
    pub const ALL: [Self; 6] = [
        Self::Connections,
        Self::ClientConnections,
        Self::Head,
        Self::Body,
        Self::Streams,
        Self::Flood,
    ];

    /// The label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::ClientConnections => "client_connections",
            Self::Head => "head",
            Self::Body => "body",
            Self::Streams => "streams",
            Self::Flood => "flood",
        }
    }
}

/// Everything one process counts.
#[derive(Debug)]
pub struct Metrics {
    mode: &'static str,
    workers: Vec<Arc<WorkerMetrics>>,
    admin: Arc<ConnectionMetrics>,
    reroute_failures: Causes,
    upstream_failures: Causes,
    reach_backs: Causes,
    members_not_written: AtomicU64,
    accept_errors: AtomicU64,
    outbound: OnceLock<OutboundMetrics>,
    hub: OnceLock<HubMetrics>,
    verifier: OnceLock<Verifier>,
    connects: OnceLock<Connects>,
    /// Lines about requests. Those of an outbound listener have a budget of their own.
    pub(crate) log: LogBudget,
}

impl Metrics {
    /// Counters at zero for `workers` threads of a process in `mode`.
    #[must_use]
    pub fn new(mode: &'static str, workers: usize) -> Arc<Self> {
        Arc::new(Self {
            mode,
            workers: (0..workers.max(1)).map(|_| Arc::default()).collect(),
            admin: Arc::default(),
            reroute_failures: Causes::default(),
            upstream_failures: Causes::default(),
            reach_backs: Causes::default(),
            members_not_written: AtomicU64::new(0),
            accept_errors: AtomicU64::new(0),
            outbound: OnceLock::new(),
            hub: OnceLock::new(),
            verifier: OnceLock::new(),
            connects: OnceLock::new(),
            log: LogBudget::new(),
        })
    }

    /// The counters of a worker, counted from 0; beyond the last, they begin again.
    #[must_use]
    pub fn worker(&self, index: usize) -> Arc<WorkerMetrics> {
        let index = index % self.workers.len().max(1);
        self.workers.get(index).cloned().unwrap_or_default()
    }

    /// The counters of the admin listener's connections.
    pub(crate) fn admin_connections(&self) -> Arc<ConnectionMetrics> {
        Arc::clone(&self.admin)
    }

    /// Counts a reroute that failed, or that the baseline answered instead, by its cause.
    pub fn reroute_failure(&self, cause: &'static str) {
        self.reroute_failures.add(cause);
    }

    /// Counts a request that the baseline itself could not be given, by its cause.
    pub fn upstream_failure(&self, cause: &'static str) {
        self.upstream_failures.add(cause);
    }

    /// Counts a client that asked to be dialled back, by what was found or why it was refused.
    pub(crate) fn reach_back(&self, finding: &'static str) {
        self.reach_backs.add(finding);
    }

    /// Counts a contract that was forwarded in the field alone, because no baggage member of the
    /// allowed size can hold it (rule 10).
    pub fn member_not_written(&self) {
        self.members_not_written.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a connection that could not be accepted.
    pub(crate) fn accept_error(&self) {
        self.accept_errors.fetch_add(1, Ordering::Relaxed);
    }

    /// Those of all listeners.
    fn accept_errors(&self) -> u64 {
        let outbound = self.outbound.get();
        let outbound = outbound.map_or(0, |outbound| outbound.requests.accept_errors());
        self.accept_errors.load(Ordering::Relaxed) + outbound
    }

    /// Where connections are counted that never get to a worker.
    pub(crate) fn refused_connections(&self) -> Arc<ConnectionMetrics> {
        self.worker(0).connections()
    }

    /// The number of open connections that clients have to this listener.
    #[must_use]
    pub fn open_connections(&self, listener: Listener) -> u64 {
        self.connections(listener)
            .map(ConnectionMetrics::open)
            .sum()
    }

    /// The text of a scrape, in the OpenMetrics format.
    #[must_use]
    pub fn render(self: &Arc<Self>) -> String {
        encode::render(self)
    }

    /// Adds what an outbound listener counts. Only one has a place; another is not counted.
    pub(crate) fn add_outbound(&self, outbound: OutboundMetrics) {
        let _ = self.outbound.set(outbound);
    }

    /// Adds what a hub counts.
    pub(crate) fn add_hub(&self, hub: HubMetrics) {
        let _ = self.hub.set(hub);
    }

    /// Adds what knows how many keys are authorized.
    pub(crate) fn add_verifier(&self, verifier: Verifier) {
        let _ = self.verifier.set(verifier);
    }

    /// Adds what knows of the connections that are being opened to targets.
    pub(crate) fn add_connects(&self, connects: Connects) {
        let _ = self.connects.set(connects);
    }

    fn connections(&self, listener: Listener) -> impl Iterator<Item = &ConnectionMetrics> {
        let (workers, admin) = match listener {
            Listener::Proxy => (self.workers.as_slice(), None),
            Listener::Admin => (Default::default(), Some(&*self.admin)),
            Listener::Service => (
                self.hub
                    .get()
                    .map_or(Default::default(), |hub| &*hub.services.workers),
                None,
            ),
            Listener::Outbound => (
                self.outbound
                    .get()
                    .map_or(Default::default(), |outbound| &*outbound.requests.workers),
                None,
            ),
        };
        workers
            .iter()
            .map(|worker| &*worker.connections)
            .chain(admin)
    }
}

/// The content type of [`Metrics::render`].
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What one worker thread counts.
#[derive(Debug, Default)]
pub struct WorkerMetrics {
    latencies: [Latency; Decision::ALL.len()],
    pub(crate) losses: Losses,
    connections: Arc<ConnectionMetrics>,
}

impl WorkerMetrics {
    /// Counts a request and the time until its answer began.
    pub fn request(&self, decision: Decision, time: Duration) {
        if let Some(latency) = self.latencies.get(decision as usize) {
            latency.observe(time);
        }
    }

    pub(crate) fn connections(&self) -> Arc<ConnectionMetrics> {
        Arc::clone(&self.connections)
    }
}

/// Upper bounds of the latency buckets, in seconds; above the last one is only infinity.
///
/// Wide at the end: a developer at a breakpoint answers after minutes, and that is no fault.
const BOUNDS: [f64; 15] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 300.0,
];

/// Latencies of one decision.
#[derive(Debug, Default)]
struct Latency {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    nanoseconds: AtomicU64,
}

impl Latency {
    fn observe(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        let bucket = BOUNDS
            .iter()
            .position(|&bound| seconds <= bound)
            .unwrap_or(BOUNDS.len());
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }
}

/// The sum of some [`Latency`]s at one moment.
#[derive(Debug, Default)]
struct Latencies {
    buckets: [u64; BOUNDS.len() + 1],
    nanoseconds: u64,
}

impl Latencies {
    fn sum(workers: &[Arc<WorkerMetrics>], decision: Decision) -> Self {
        let mut sum = Self::default();
        for latency in workers
            .iter()
            .filter_map(|worker| worker.latencies.get(decision as usize))
        {
            for (sum, bucket) in sum.buckets.iter_mut().zip(&latency.buckets) {
                *sum += bucket.load(Ordering::Relaxed);
            }
            sum.nanoseconds += latency.nanoseconds.load(Ordering::Relaxed);
        }
        sum
    }

    fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The upper bound of each bucket in seconds, infinity being the largest number, and its count.
    fn pairs(&self) -> Vec<(f64, u64)> {
        BOUNDS
            .into_iter()
            .chain([f64::MAX])
            .zip(self.buckets)
            .collect()
    }

    fn seconds(&self) -> f64 {
        Duration::from_nanos(self.nanoseconds).as_secs_f64()
    }
}

/// Connections to one listener, as one thread sees them.
#[derive(Debug, Default)]
pub(crate) struct ConnectionMetrics {
    accepted: AtomicU64,
    closed: AtomicU64,
    handshakes_failed: AtomicU64,
    timeouts: [AtomicU64; Timer::ALL.len()],
    limits: [AtomicU64; Limit::ALL.len()],
    malformed: AtomicU64,
}

impl ConnectionMetrics {
    /// Counts a connection as open until the guard is dropped.
    pub(crate) fn opened(self: Arc<Self>) -> OpenConnection {
        self.accepted.fetch_add(1, Ordering::Relaxed);
        OpenConnection(self)
    }

    pub(crate) fn open(&self) -> u64 {
        // In this order: a connection that closes in between must not count below zero.
        let closed = self.closed.load(Ordering::Acquire);
        self.accepted.load(Ordering::Relaxed).saturating_sub(closed)
    }

    fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Counts what met a limit.
    pub(crate) fn limit_reached(&self, limit: Limit) {
        if let Some(count) = self.limits.get(limit as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn timeouts(&self, timer: Timer) -> u64 {
        let count = self.timeouts.get(timer as usize);
        count.map_or(0, |count| count.load(Ordering::Relaxed))
    }

    fn limits(&self, limit: Limit) -> u64 {
        let count = self.limits.get(limit as usize);
        count.map_or(0, |count| count.load(Ordering::Relaxed))
    }

    fn malformed(&self) -> u64 {
        self.malformed.load(Ordering::Relaxed)
    }

    fn handshakes_failed(&self) -> u64 {
        self.handshakes_failed.load(Ordering::Relaxed)
    }
}

/// A connection that counts as open.
#[derive(Debug)]
pub(crate) struct OpenConnection(Arc<ConnectionMetrics>);

impl OpenConnection {
    /// Counts a connection that never got as far as HTTP.
    pub(crate) fn handshake_failed(&self) {
        self.0.handshakes_failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts it as one whose time ran out.
    pub(crate) fn timed_out(&self, timer: Timer) {
        if let Some(count) = self.0.timeouts.get(timer as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts a limit that it met.
    pub(crate) fn limit_reached(&self, limit: Limit) {
        self.0.limit_reached(limit);
    }

    /// Counts a request that is not HTTP ([`Refused::Malformed`]).
    pub(crate) fn malformed(&self) {
        self.0.malformed.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.closed.fetch_add(1, Ordering::Release);
    }
}

/// Counters by cause.
///
/// Behind a lock, since only failures come here; a cause is a string of this program, so there are
/// never more than those.
#[derive(Debug, Default)]
struct Causes(Mutex<BTreeMap<&'static str, u64>>);

impl Causes {
    fn add(&self, cause: &'static str) {
        let mut causes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *causes.entry(cause).or_default() += 1;
    }

    fn all(&self) -> BTreeMap<&'static str, u64> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_lands_in_the_first_bucket_that_holds_it() {
        let worker = WorkerMetrics::default();
        worker.request(Decision::Failed, Duration::from_millis(1));
        worker.request(Decision::Failed, Duration::from_micros(1001));
        worker.request(Decision::Failed, Duration::from_secs(3600));
        let sum = Latencies::sum(&[Arc::new(worker)], Decision::Failed);
        assert_eq!(
            (sum.buckets[0], sum.buckets[1], sum.buckets[BOUNDS.len()]),
            (1, 1, 1)
        );
        assert_eq!(sum.count(), 3);
        assert!((sum.seconds() - 3_600.002_001).abs() < 1e-9);
    }

    #[test]
    fn workers_add_up() {
        let metrics = Metrics::new("router", 2);
        metrics.worker(0).request(Decision::None, Duration::ZERO);
        metrics.worker(1).request(Decision::None, Duration::ZERO);
        metrics.worker(2).request(Decision::None, Duration::ZERO);
        assert_eq!(Latencies::sum(&metrics.workers, Decision::None).count(), 3);
    }

    #[test]
    fn a_connection_is_open_as_long_as_its_guard() {
        let metrics = Metrics::new("router", 1);
        let guard = metrics.worker(0).connections().opened();
        assert_eq!(metrics.open_connections(Listener::Proxy), 1);
        assert_eq!(metrics.open_connections(Listener::Admin), 0);
        drop(guard);
        assert_eq!(metrics.open_connections(Listener::Proxy), 0);
    }

    #[test]
    fn labels_follow_the_order_of_the_counters() {
        for (index, decision) in Decision::ALL.into_iter().enumerate() {
            assert_eq!(decision as usize, index, "{}", decision.as_str());
        }
        for (index, timer) in Timer::ALL.into_iter().enumerate() {
            assert_eq!(timer as usize, index, "{}", timer.as_str());
        }
        for (index, limit) in Limit::ALL.into_iter().enumerate() {
            assert_eq!(limit as usize, index, "{}", limit.as_str());
        }
    }
}
