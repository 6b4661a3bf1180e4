//! Sees what became of each request: counts it, records a reroute, and logs it.
//!
//! It decides nothing. The layer inside leaves an [`Outcome`] in the extensions of its answer, and
//! that is all this looks at; a request without one carried no contract. Such a request costs two
//! readings of the clock, two header look-ups and two additions, and allocates nothing.
//!
//! The time it takes is the time until the answer begins: a stream may go on for hours. What comes of
//! it after that is in `answer.rs`.
//!
//! A client that goes away before then leaves no answer, and so no outcome in one. The layer tells it in
//! another way ([`Abandoned`]) where the request was being rerouted.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use devroute_tower::transport::{ErrorKind, Tunnel, UpstreamFailure};
use devroute_tower::{OnAbandoned, Outcome, OutcomeKind};
use http::{HeaderMap, HeaderName, Request, Response, StatusCode};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::answer::{AnswerBody, Asked, watched};
use crate::front::Own;
use crate::metrics::{Decision, Metrics, OutboundMetrics, Phase, Refused, WorkerMetrics};
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
    pub(crate) abandoned: Abandoned,
}

/// What the layer inside says of a request that is just being dropped.
///
/// Its future is a part of ours, and says so as ours is dropped; so there is never more than one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Abandoned(Arc<Mutex<Option<Outcome>>>);

impl Abandoned {
    fn take(&self) -> Option<Outcome> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl OnAbandoned for Abandoned {
    fn on_abandoned(&self, outcome: Outcome) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
    }
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
    ResBody: Body,
{
    type Response = Response<AnswerBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let unanswered = Unanswered {
            observer: Some(Arc::clone(&self.observer)),
            began: Instant::now(),
            trace_id: TraceId::of(request.headers()),
            asked: Asked::by(&request),
        };
        ResponseFuture {
            future: self.inner.call(request),
            unanswered,
        }
    }
}

pin_project! {
    /// The future of [`Observe`].
    #[derive(Debug)]
    pub(crate) struct ResponseFuture<F> {
        // Dropped first, so that the layer inside has its word before.
        #[pin]
        future: F,
        unanswered: Unanswered,
    }
}

/// A request without an answer; dropped as such, its client has gone away.
#[derive(Debug)]
struct Unanswered {
    /// Taken by the answer.
    observer: Option<Arc<Observer>>,
    began: Instant,
    trace_id: Option<TraceId>,
    asked: Asked,
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        if let Some(observer) = self.observer.take() {
            observer.client_gone(self);
        }
    }
}

impl<F, ResBody, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<ResBody>, E>>,
    ResBody: Body,
{
    type Output = Result<Response<AnswerBody<ResBody>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.future.poll(cx));
        let Some(observer) = this.unanswered.observer.take() else {
            // Polled after its end, which nobody does.
            return Poll::Pending;
        };
        Poll::Ready(result.map(|response| {
            let record = observer.observe(&response, this.unanswered);
            watched(response, this.unanswered.asked, observer, record)
        }))
    }
}

impl Observer {
    /// Returns the number of the record, if there is one.
    fn observe<B>(&self, response: &Response<B>, request: &Unanswered) -> Option<u64> {
        let took = request.began.elapsed();
        let extensions = response.extensions();
        match extensions.get::<Own>() {
            None => {}
            Some(Own::Healthy | Own::Reach) => return None,
            Some(Own::Refused(reason)) => {
                self.refused(*reason);
                return None;
            }
        }
        if request.asked.is_connect && response.status() == StatusCode::NOT_IMPLEMENTED {
            self.refused(Refused::Connect);
        }
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
                // It is the client that did not send all of it.
                Direction::Inbound if failure.kind() == ErrorKind::RequestBody => {
                    tracing::debug!(cause, "the baseline did not get all of a request");
                }
                Direction::Inbound if self.metrics.log.take() => {
                    tracing::warn!(cause, "the baseline could not be reached");
                }
                Direction::Inbound => {}
                // Nearly always the application's own affair, and it has been told.
                Direction::Outbound => tracing::debug!(cause, "a host could not be reached"),
            }
        }
        let outcome = outcome?;
        if let Some(cause) = outcome.cause() {
            self.metrics.reroute_failure(cause);
        }
        self.record(outcome, response.status().as_u16(), took, request)
    }

    fn refused(&self, reason: Refused) {
        self.worker.losses.refuse(reason);
        tracing::debug!(reason = reason.as_str(), "a request was refused");
    }

    /// A client did not wait for its answer.
    fn client_gone(&self, request: &Unanswered) {
        self.worker.losses.client_gone(Phase::Head);
        let took = request.began.elapsed();
        match self.abandoned.take() {
            Some(outcome) => {
                self.record(&outcome, CLIENT_GONE, took, request);
            }
            None => tracing::debug!("the client went away before the answer began"),
        }
    }

    /// An answer was not sent to its end.
    pub(crate) fn ended(&self, record: Option<u64>, why: &'static str, what: &'static str) {
        match record.and_then(|number| self.records.ended(number, why)) {
            Some(record) if self.metrics.log.take() => {
                let (id, service) = (text(&record.id), text(&record.service));
                let (target, trace_id) = (text(&record.target), text(&record.trace_id));
                tracing::info!(service, target, id, trace_id, "{what}");
            }
            Some(_) => {}
            None => tracing::debug!("{what}"),
        }
    }

    fn record(
        &self,
        outcome: &Outcome,
        status: u16,
        took: Duration,
        request: &Unanswered,
    ) -> Option<u64> {
        if matches!(
            outcome.kind(),
            OutcomeKind::Baseline | OutcomeKind::AlreadyRerouted
        ) {
            return None;
        }
        let mut record = Record::now(outcome.kind().as_str());
        record.direction = self.direction;
        record.id = outcome.contract().and_then(|contract| contract.id());
        record.service = outcome.service().map(|name| name.as_str().to_owned());
        record.target = outcome.target().map(ToString::to_string);
        record.signed_by = outcome.signed_by().map(ToOwned::to_owned);
        record.status = status;
        record.ms = (took.as_secs_f64() * 1e6).round() / 1e3;
        let trace_id = request.trace_id.as_ref();
        record.trace_id = trace_id.map(|trace_id| trace_id.as_str().to_owned());
        record.cause = outcome.cause().map(Into::into);
        if self.metrics.log.take() {
            log(&record);
        }
        Some(self.records.push(record))
    }
}

/// A text that is logged without quotes, where there is one.
fn text(text: &Option<String>) -> Option<tracing::field::DisplayValue<&str>> {
    text.as_deref().map(tracing::field::display)
}

/// The status of a request without an answer, as nginx has it; never sent.
const CLIENT_GONE: u16 = 499;

/// One line for each request that was to be rerouted: they are somebody's test, not bulk traffic.
fn log(record: &Record) {
    let Record {
        id,
        service,
        target,
        signed_by,
        trace_id,
        ..
    } = record;
    let (id, service, target) = (text(id), text(service), text(target));
    let (signed_by, trace_id) = (text(signed_by), text(trace_id));
    let (status, ms, outcome) = (record.status, record.ms, record.outcome);
    let direction = record.direction.as_str();
    let cause = record.cause.as_deref();
    if outcome == OutcomeKind::Rerouted.as_str() {
        tracing::info!(
            direction, service, target, signed_by, status, ms, id, trace_id, "rerouted"
        );
    } else if outcome == OutcomeKind::Abandoned.as_str() {
        tracing::info!(
            direction,
            service,
            target,
            signed_by,
            status,
            ms,
            id,
            trace_id,
            "the client went away before the answer began"
        );
    } else {
        tracing::warn!(
            direction,
            service,
            target,
            signed_by,
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

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The trace id of a `traceparent` (W3C Trace Context, section 3.2.2.3), copied without allocating.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct TraceId([u8; 32]);

impl TraceId {
    fn of(headers: &HeaderMap) -> Option<Self> {
        let value = headers.get(TRACEPARENT)?.as_bytes();
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
