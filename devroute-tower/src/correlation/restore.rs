//! Behind the service: what it sends itself.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use devroute_core::{ServiceName, carrier};
use http::{Method, Request, uri::Authority};
use tower_layer::Layer;
use tower_service::Service;

use super::{Correlations, Loss};
use crate::{
    mode::OncePerMinute,
    outbound::{InternalHosts, authority_of},
};

/// Gives the requests of a service the contract that is remembered for their ids.
///
/// The contract goes into the extensions of the request, where a
/// [`DevRouteClientLayer`](crate::DevRouteClientLayer) inside finds it. A request that has a contract
/// already is not looked at, and neither is one to a host that is not internal, or a CONNECT.
#[derive(Clone, Debug)]
#[must_use = "a layer does nothing until it wraps a service"]
pub struct RestoreLayer {
    shared: Arc<Shared>,
}

#[derive(Clone, Debug)]
struct Shared {
    correlations: Correlations,
    hosts: InternalHosts,
    service: Option<ServiceName>,
    log: Arc<OncePerMinute>,
}

impl RestoreLayer {
    /// Restores from `correlations`, for the default [`InternalHosts`].
    pub fn new(correlations: Correlations) -> Self {
        Self {
            shared: Arc::new(Shared {
                correlations,
                hosts: InternalHosts::default(),
                service: None,
                log: Arc::default(),
            }),
        }
    }

    /// Sets which hosts a contract is sent to; the layer inside has the last word on that.
    pub fn internal_hosts(mut self, hosts: InternalHosts) -> Self {
        Arc::make_mut(&mut self.shared).hosts = hosts;
        self
    }

    /// Names the service whose requests they are in the log line about a contract that is lost.
    pub fn service(mut self, service: ServiceName) -> Self {
        Arc::make_mut(&mut self.shared).service = Some(service);
        self
    }
}

impl<S> Layer<S> for RestoreLayer {
    type Service = Restore<S>;

    fn layer(&self, inner: S) -> Restore<S> {
        Restore {
            inner,
            shared: Arc::clone(&self.shared),
        }
    }
}

/// The service of [`RestoreLayer`].
#[derive(Clone, Debug)]
pub struct Restore<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S, B> Service<Request<B>> for Restore<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        self.shared.restore(&mut request);
        self.inner.call(request)
    }
}

impl Shared {
    fn restore<B>(&self, request: &mut Request<B>) {
        if carrier::is_present(request.headers()) || request.method() == Method::CONNECT {
            return;
        }
        let authority = authority_of(request.uri(), request.headers());
        let Some(authority) = authority.filter(|authority| self.hosts.contains(authority)) else {
            return;
        };
        match self.correlations.restore(request.headers()) {
            Ok((contract, kind)) => {
                self.correlations.counters().restored(kind);
                request.extensions_mut().insert(contract);
            }
            Err(loss) if self.correlations.counters().in_flight.get() > 0 => {
                self.lost(loss, &authority);
            }
            // Nobody could have asked for it to go on.
            Err(_) => {}
        }
    }

    fn lost(&self, loss: Loss, authority: &Authority) {
        self.correlations.counters().lost(loss);
        if self.log.is_due() {
            let service = self.service.as_ref().map(tracing::field::display);
            let what = match loss {
                Loss::NoId => "the request has no id",
                Loss::UnknownId => "its id did not come in with a contract",
                Loss::AmbiguousId => "its id came in with more than one contract",
            };
            tracing::warn!(
                service,
                host = %authority.host(),
                reason = loss.as_str(),
                "a contract was probably lost in this service: one is in flight, it sends a request \
                 without, and {what}. Let it pass on traceparent, b3, x-request-id or baggage from the \
                 requests it gets to those it makes"
            );
        }
    }
}
