//! Counts contracts that go on in the field alone, because no baggage member can hold them (rule 10).
//!
//! It sits right in front of what sends a request, behind the layer that writes the carriers: there
//! a contract without a member is one whose member did not fit. A request without a contract costs a
//! look at its extensions and nothing else.

use std::sync::Arc;
use std::task::{Context, Poll};

use devroute_tower::core::{Contract, carrier};
use http::Request;
use tower_service::Service;

use crate::metrics::Metrics;

/// Looks at what `inner` is about to send.
#[derive(Clone, Debug)]
pub(crate) struct Carried<S> {
    inner: S,
    metrics: Arc<Metrics>,
    always: bool,
}

impl<S> Carried<S> {
    /// In front of a baseline, which gets requests with and without a contract.
    pub(crate) fn baseline(inner: S, metrics: Arc<Metrics>) -> Self {
        Self {
            inner,
            metrics,
            always: false,
        }
    }

    /// In front of a transport, which gets nothing but rerouted requests.
    pub(crate) fn transport(inner: S, metrics: Arc<Metrics>) -> Self {
        Self {
            inner,
            metrics,
            always: true,
        }
    }
}

impl<S, B> Service<Request<B>> for Carried<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> S::Future {
        // The layer leaves the contract it has read in the extensions.
        let has_contract = self.always || request.extensions().get::<Contract>().is_some();
        if has_contract && !carrier::baggage::is_present(request.headers()) {
            self.metrics.member_not_written();
        }
        self.inner.call(request)
    }
}
