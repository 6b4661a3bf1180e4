//! Decides about each request.

use std::{
    mem,
    ops::ControlFlow,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use devroute_core::{
    BaselineReason, Contract, ContractError, Decision, DecisionError, Reroute, ServiceName, carrier,
};
use http::{Request, Response};
use http_body::Body as HttpBody;
use tower_service::Service;

use super::{
    ResponseBody,
    future::{ResponseFuture, scoped_answer},
    layer::Shared,
    span,
};
use crate::{
    BoxError,
    abandoned::answered,
    bounds::{Inner, Payload, Transport},
    context,
    failure::{Dialect, Failure},
    forwarded::{self, ClientInfo},
    mode::Mode,
    outcome::{Outcome, OutcomeKind},
    reroute::{refused, reroute},
    transport::{Body, HttpTransport},
};

/// The service of [`DevRouteLayer`](crate::DevRouteLayer).
#[derive(Clone, Debug)]
pub struct DevRoute<S, T = HttpTransport> {
    inner: S,
    shared: Arc<Shared>,
    transport: T,
    client: Option<ClientInfo>,
}

impl<S, T> DevRoute<S, T> {
    pub(super) fn new(inner: S, shared: Arc<Shared>, transport: T) -> Self {
        Self {
            inner,
            shared,
            transport,
            client: None,
        }
    }

    /// The client of the connection that this service serves, for `X-Forwarded-For`.
    ///
    /// Without it the [`ClientInfo`] in the extensions of a request is used, if there is one.
    #[must_use]
    pub fn with_client(mut self, client: ClientInfo) -> Self {
        self.client = Some(client);
        self
    }
}

impl<S, T, ReqBody, ResBody, TBody> Service<Request<ReqBody>> for DevRoute<S, T>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>, Error: Send, Future: Send + 'static>
        + Clone
        + Send
        + 'static,
    T: Service<Request<Body>, Response = Response<TBody>, Error: Into<BoxError>, Future: Send>
        + Clone
        + Send
        + 'static,
    TBody: HttpBody<Data: Send, Error: Into<BoxError>> + Send + 'static,
    ReqBody: HttpBody<Data: Send, Error: Into<BoxError>> + Send + 'static,
    ResBody: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, ResBody, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        if self.shared.reads_cookie && carrier::cookie::is_present(request.headers()) {
            return self.decide_with_cookie(request);
        }
        // A router answers also what does not concern it.
        if carrier::may_concern(request.headers()) || self.shared.service.is_none() {
            return self.decide(request);
        }
        self.shared.tell_baseline(&mut request, self.client);
        ResponseFuture::plain(self.inner.call(request))
    }
}

impl<S, T> DevRoute<S, T> {
    /// What the cookie says is a contract like any other, once it stands in the field.
    #[inline(never)]
    fn decide_with_cookie<ReqBody>(
        &mut self,
        mut request: Request<ReqBody>,
    ) -> ResponseFuture<S::Future, S::ResBody, S::Error>
    where
        S: Inner<ReqBody>,
        T: Transport,
        ReqBody: Payload,
    {
        if self.shared.mode == Mode::Off {
            return self.decide(request);
        }
        match carrier::cookie::to_field(request.headers_mut()) {
            Err(error) if self.shared.mode == Mode::On => self.refuse(&request, &error.into()),
            Err(error) => {
                self.shared.log_malformed(&error);
                self.decide(request)
            }
            Ok(()) => self.decide(request),
        }
    }

    /// Never inlined: then the request would be copied once more on its way to the inner service,
    /// also where there is no contract.
    #[inline(never)]
    fn decide<ReqBody>(
        &mut self,
        mut request: Request<ReqBody>,
    ) -> ResponseFuture<S::Future, S::ResBody, S::Error>
    where
        S: Inner<ReqBody>,
        T: Transport,
        ReqBody: Payload,
    {
        match self.shared.mode {
            Mode::On => {}
            Mode::Carry => return self.carry(request),
            Mode::Off => {
                if carrier::is_present(request.headers()) && self.shared.log.is_due() {
                    tracing::warn!("a contract came in and is ignored: DEVROUTE is off here");
                }
                return ResponseFuture::plain(self.inner.call(request));
            }
        }
        match self.shared.selector.decide(request.headers()) {
            Ok(Decision::NoContract) => {
                request.headers_mut().remove(carrier::MATCHED);
                self.shared.tell_baseline(&mut request, self.client);
                ResponseFuture::plain(self.inner.call(request))
            }
            Ok(Decision::Baseline { contract, reason }) => {
                request.headers_mut().remove(carrier::MATCHED);
                if self.shared.write_carriers {
                    self.shared.reroute.write(request.headers_mut(), &contract);
                }
                let outcome = match (reason, &self.shared.service) {
                    (BaselineReason::AlreadyRerouted, Some(service)) => {
                        already_rerouted(contract.clone(), service.clone())
                    }
                    _ => Outcome::of(OutcomeKind::Baseline, contract.clone()),
                };
                self.baseline(request, contract, outcome)
            }
            Ok(Decision::Reroute(decision)) => self.reroute(request, decision),
            Ok(_) => ResponseFuture::plain(self.inner.call(request)),
            Err(error) => self.refuse(&request, &error),
        }
    }

    /// The baseline answers, with the contract in scope.
    fn baseline<ReqBody, ResBody>(
        &mut self,
        mut request: Request<ReqBody>,
        contract: Contract,
        outcome: Outcome,
    ) -> ResponseFuture<S::Future, ResBody, S::Error>
    where
        S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    {
        span::settled(&outcome);
        self.shared.tell_baseline(&mut request, self.client);
        request.extensions_mut().insert(contract.clone());
        // A handler may make its calls before its future is polled.
        let future = context::sync_scope(contract.clone(), || self.inner.call(request));
        ResponseFuture::scoped(context::scope(contract, future), outcome)
    }

    /// Carries the contract on, whatever it says about this service.
    fn carry<ReqBody, ResBody>(
        &mut self,
        mut request: Request<ReqBody>,
    ) -> ResponseFuture<S::Future, ResBody, S::Error>
    where
        S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    {
        match carrier::read(request.headers()) {
            Ok(Some(contract)) => {
                let outcome = Outcome::of(OutcomeKind::Baseline, contract.clone());
                self.baseline(request, contract, outcome)
            }
            Ok(None) => {
                self.shared.tell_baseline(&mut request, self.client);
                ResponseFuture::plain(self.inner.call(request))
            }
            Err(error) => {
                self.shared.log_malformed(&error);
                self.shared.tell_baseline(&mut request, self.client);
                ResponseFuture::plain(self.inner.call(request))
            }
        }
    }

    /// Answers with the reason. The inner service, which may hold a permit since it was ready,
    /// keeps it until this service is called again or dropped.
    fn refuse<ReqBody, F, ResBody, E>(
        &self,
        request: &Request<ReqBody>,
        error: &DecisionError,
    ) -> ResponseFuture<F, ResBody, E> {
        let answer = refused(
            request.method(),
            request.headers(),
            error,
            &self.shared.reroute,
        );
        if let Some(outcome) = answer.extensions().get() {
            span::settled(outcome);
        }
        ResponseFuture::refused(answer)
    }

    fn reroute<ReqBody>(
        &mut self,
        request: Request<ReqBody>,
        decision: Reroute,
    ) -> ResponseFuture<S::Future, S::ResBody, S::Error>
    where
        S: Inner<ReqBody>,
        T: Transport,
        ReqBody: Payload,
    {
        let transport = self.transport.clone();
        let shared = Arc::clone(&self.shared);
        let client = self.client;
        // The service that was made ready is the one that must be called.
        let mut inner = (shared.reroute.on_failure == crate::OnFailure::Fallback).then(|| {
            let next = self.inner.clone();
            mem::replace(&mut self.inner, next)
        });
        let span = span::decided("reroute", Some(&decision.target), Some(&decision.contract));
        let mut unanswered = shared.reroute.unanswered(&decision);
        ResponseFuture::rerouted(Box::pin(async move {
            let dialect = Dialect::of(request.method(), request.headers());
            let attempt = reroute(transport, &shared.reroute, &decision, request, client).await;
            let (mut request, outcome) = match attempt.into_answer(&shared.reroute, dialect) {
                ControlFlow::Break(response) => {
                    answered(&mut unanswered);
                    if let Some(outcome) = response.extensions().get() {
                        span::ended(&span, outcome);
                    }
                    return Ok(response);
                }
                ControlFlow::Continue(fell_back) => fell_back,
            };
            span::ended(&span, &outcome);
            drop(span);
            let Reroute {
                contract,
                service,
                target,
                ..
            } = decision;
            let Some(inner) = &mut inner else {
                answered(&mut unanswered);
                let failure = Failure::no_baseline(service, target);
                let reveal = shared.reroute.reveal_addresses;
                return Ok(failure.into_response(dialect, reveal, Some(outcome)));
            };
            request.headers_mut().remove(carrier::MATCHED);
            if shared.write_carriers {
                shared.reroute.write(request.headers_mut(), &contract);
            }
            shared.tell_baseline(&mut request, client);
            request.extensions_mut().insert(contract.clone());
            let future = context::sync_scope(contract.clone(), || inner.call(request));
            let response = context::scope(contract, future).await;
            answered(&mut unanswered);
            let response = response?;
            Ok(scoped_answer(response, Some(outcome)))
        }))
    }
}

impl Shared {
    /// A layer that only carries contracts refuses none.
    fn log_malformed(&self, error: &ContractError) {
        if self.log.is_due() {
            tracing::warn!(%error, "a malformed contract came in and is not carried on");
        }
    }

    /// Tells the inner service who asked, where it is to be told.
    #[inline]
    fn tell_baseline<B>(&self, request: &mut Request<B>, client: Option<ClientInfo>) {
        if self.forwarded_to_baseline && self.mode != Mode::Off {
            forwarded::add_to(request, self.reroute.forwarded, client);
        }
    }
}

fn already_rerouted(contract: Contract, service: ServiceName) -> Outcome {
    // Only an answer to a request whose contract names this service is marked (rule 14).
    let target = contract.get(service.as_str());
    let service = target.is_some().then_some(service);
    Outcome {
        service,
        target,
        ..Outcome::of(OutcomeKind::AlreadyRerouted, contract)
    }
}
