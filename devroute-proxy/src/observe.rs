//! Sees what became of each request: counts it, records a reroute, and logs it.
//!
//! It decides nothing. The layer inside leaves an [`Outcome`] in the extensions of its answer, and
//! that is all this looks at; a request without one carried no contract. Such a request costs two
//! readings of the clock, one header lookup and two additions, and allocates nothing.
//!
//! The time it takes is the time until the answer begins: a stream may go on for hours.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use devroute_tower::transport::{Tunnel, UpstreamFailure};
use devroute_tower::{Outcome, OutcomeKind};
use http::{HeaderMap, Request, Response};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::metrics::{Decision, Metrics, OutboundMetrics, WorkerMetrics};
use crate::records::{Direction, Record, Records};

/// Where observations go.
#[derive(Debug)]
pub(crate) struct Observer {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) worker: Arc<WorkerMetrics>,
    pub(crate) records: Arc<Records>,
    pub(crate) direction: Direction,
    /// Counts tunnels, which only an outbound listener has.
    pub(crate) outbound: Option<OutboundMetrics>,
}

/// Puts an [`Observer`] around a service.
#[derive(Clone, Debug)]
pub(crate) struct ObserveLayer(pub(crate) Arc<Observer>);

impl<S> Layer<S> for ObserveLayer {
    type Service = Observe<S>;

    fn layer(&self, inner: S) -> Observe<S> {
        Observe {
            inner,
            observer: Arc::clone(&self.0),
        }
    }
}

/// The service of [`ObserveLayer`].
#[derive(Clone, Debug)]
pub(crate) struct Observe<S> {
    inner: S,
    observer: Arc<Observer>,
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for Observe<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let began = Instant::now();
        let trace_id = TraceId::of(request.headers());
        let observer = Arc::clone(&self.observer);
        ResponseFuture {
            future: self.inner.call(request),
            observer,
            began,
            trace_id,
        }
    }
}

pin_project! {
    /// The future of [`Observe`].
    #[derive(Debug)]
    pub(crate) struct ResponseFuture<F> {
        #[pin]
        future: F,
        observer: Arc<Observer>,
        began: Instant,
        trace_id: Option<TraceId>,
    }
}

impl<F, ResBody, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<ResBody>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let result = ready!(this.future.poll(cx));
        if let Ok(response) = &result {
            let took = this.began.elapsed();
            this.observer
                .observe(response, took, this.trace_id.as_ref());
        }
        Poll::Ready(result)
    }
}

impl Observer {
    fn observe<B>(&self, response: &Response<B>, took: Duration, trace_id: Option<&TraceId>) {
        let extensions = response.extensions();
        let outcome = extensions.get::<Outcome>();
        let decision = outcome.map_or(Decision::None, |outcome| outcome.kind().into());
        self.worker.request(decision, took);

        if let Some(outbound) = &self.outbound {
            if extensions.get::<Tunnel>().is_some() {
                outbound.tunnel();
            }
        }
        if let Some(failure) = extensions.get::<UpstreamFailure>() {
            let cause = failure.kind().as_str();
            self.metrics.upstream_failure(cause);
            match self.direction {
                Direction::Inbound => tracing::warn!(cause, "the baseline could not be reached"),
                // Nearly always the application's own affair, and it has been told.
                Direction::Outbound => tracing::debug!(cause, "a host could not be reached"),
            }
        }
        if let Some(outcome) = outcome {
            if let Some(cause) = outcome.cause() {
                self.metrics.reroute_failure(cause);
            }
            self.record(
                outcome,
                decision,
                response.status().as_u16(),
                took,
                trace_id,
            );
        }
    }

    fn record(
        &self,
        outcome: &Outcome,
        decision: Decision,
        status: u16,
        took: Duration,
        trace_id: Option<&TraceId>,
    ) {
        if matches!(
            outcome.kind(),
            OutcomeKind::Baseline | OutcomeKind::AlreadyRerouted
        ) {
            return;
        }
        let mut record = Record::now(decision.as_str());
        record.direction = self.direction;
        record.id = outcome.contract().and_then(|contract| contract.id());
        record.service = outcome.service().map(ToString::to_string);
        record.target = outcome.target().map(ToString::to_string);
        record.status = status;
        record.ms = (took.as_secs_f64() * 1e6).round() / 1e3;
        record.trace_id = trace_id.map(|trace_id| trace_id.as_str().to_owned());
        record.cause = outcome.cause().map(Into::into);
        log(&record);
        self.records.push(record);
    }
}

/// One line for each request that was to be rerouted: they are somebody's test, not bulk traffic.
fn log(record: &Record) {
    let text = |text: &Option<String>| text.clone().map(tracing::field::display);
    let (id, service, target) = (
        text(&record.id),
        text(&record.service),
        text(&record.target),
    );
    let trace_id = text(&record.trace_id);
    let (status, ms, outcome) = (record.status, record.ms, record.outcome);
    let direction = record.direction.as_str();
    let cause = record.cause.as_deref();
    if outcome == Decision::Rerouted.as_str() {
        tracing::info!(
            direction, service, target, status, ms, id, trace_id, "rerouted"
        );
    } else {
        tracing::warn!(
            direction,
            service,
            target,
            status,
            ms,
            id,
            trace_id,
            cause,
            outcome,
            "not rerouted"
        );
    }
}

/// The trace id of a `traceparent` (W3C Trace Context, section 3.2.2.3), copied without allocating.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct TraceId([u8; 32]);

impl TraceId {
    fn of(headers: &HeaderMap) -> Option<Self> {
        let value = headers.get("traceparent")?.as_bytes();
        let (version, rest) = value.split_at_checked(2)?;
        let (id, rest) = rest.strip_prefix(b"-")?.split_at_checked(32)?;
        let is_lower_hex = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let valid = version.iter().chain(id).all(is_lower_hex)
            && version != b"ff"
            && rest.starts_with(b"-")
            && id.iter().any(|&byte| byte != b'0');
        valid.then(|| id.try_into().ok().map(Self))?
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_trace_id_is_taken_from_a_valid_traceparent_only() {
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        let of = |value: String| {
            let mut headers = HeaderMap::new();
            headers.insert("traceparent", HeaderValue::from_str(&value).unwrap());
            TraceId::of(&headers).map(|id| id.as_str().to_owned())
        };
        assert_eq!(
            of(format!("00-{id}-00f067aa0ba902b7-01")).as_deref(),
            Some(id)
        );
        assert_eq!(
            of(format!("cc-{id}-00f067aa0ba902b7-01-what-the-future")).as_deref(),
            Some(id)
        );
        for wrong in [
            String::new(),
            id.to_owned(),
            format!("00-{id}"),
            format!("ff-{id}-00f067aa0ba902b7-01"),
            format!("00-{}-00f067aa0ba902b7-01", id.to_uppercase()),
            format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
        ] {
            assert_eq!(of(wrong.clone()), None, "{wrong}");
        }
    }
}
