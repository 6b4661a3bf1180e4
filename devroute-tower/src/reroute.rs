//! A rerouted request's way to its target: the same for the callee's layer and for the caller's.

use std::{
    future::poll_fn,
    net::SocketAddr,
    ops::ControlFlow,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes};
use devroute_core::{
    Contract, DecisionError, Host, Permit, Refusal, Reroute, Scheme, Target, TargetPolicy, carrier,
};
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri,
    uri::{Authority, Parts as UriParts},
};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::upgrade::OnUpgrade;
use tower_service::Service;
use tracing::field::display;

use crate::{
    BoxError,
    failure::{Dialect, Failure},
    forward::{self, ClientInfo, PendingUpgrade},
    inbound::ResponseBody,
    outcome::{Outcome, OutcomeKind},
    transport::{self, Body, Destination, Error, ErrorKind, Protocol},
};

/// What happens when a target cannot be reached (rule 13).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OnFailure {
    /// The caller is told: a laptop that is down must not look like one that works.
    #[default]
    Fail,
    /// The baseline answers, if not a byte of the request has been sent.
    Fallback,
}

/// What a reroute needs to know beside the decision.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) policy: Arc<TargetPolicy>,
    pub(crate) on_failure: OnFailure,
    pub(crate) via: Option<SocketAddr>,
    pub(crate) reveal_addresses: bool,
    /// The request is made in this process, not received by it.
    pub(crate) at_caller: bool,
    pub(crate) resolve_timeout: Duration,
}

impl Settings {
    pub(crate) fn new(policy: Arc<TargetPolicy>) -> Self {
        Self {
            policy,
            on_failure: OnFailure::Fail,
            via: None,
            reveal_addresses: true,
            at_caller: false,
            resolve_timeout: Duration::from_secs(2),
        }
    }
}

/// The policy of a layer that was given none: in Kubernetes its API server and the ports of its nodes
/// are no targets.
pub(crate) fn default_policy() -> TargetPolicy {
    match std::env::var("KUBERNETES_SERVICE_HOST") {
        Ok(host) => TargetPolicy::default().kubernetes(host.parse().ok()),
        Err(_unset) => TargetPolicy::default(),
    }
}

/// What became of the attempt.
pub(crate) enum Attempt<B> {
    Answered(Response<transport::ResponseBody>, Outcome),
    /// Not a byte was sent: here is the request as it was, for the baseline.
    FellBack(Request<B>, Outcome),
    Failed(Failure, Outcome),
}

impl<B> Attempt<B> {
    /// Breaks with the answer to give, the target's or our own; continues with the request where the
    /// baseline is to give it.
    pub(crate) fn into_answer<ResBody>(
        self,
        settings: &Settings,
        dialect: Dialect,
    ) -> ControlFlow<Response<ResponseBody<ResBody>>, (Request<B>, Outcome)> {
        match self {
            Self::Answered(response, outcome) => ControlFlow::Break(rerouted_answer(
                response.map(ResponseBody::target),
                outcome,
                settings,
            )),
            Self::FellBack(request, outcome) => {
                let Outcome {
                    service,
                    target,
                    cause,
                    ..
                } = &outcome;
                let (service, target) =
                    (service.as_ref().map(display), target.as_ref().map(display));
                tracing::debug!(service, target, cause, "fell back");
                ControlFlow::Continue((request, outcome))
            }
            Self::Failed(failure, outcome) => {
                let Outcome {
                    service, target, ..
                } = &outcome;
                let (service, target) =
                    (service.as_ref().map(display), target.as_ref().map(display));
                tracing::debug!(service, target, cause = failure.cause, "failed");
                ControlFlow::Break(failure.into_response(
                    dialect,
                    settings.reveal_addresses,
                    Some(outcome),
                ))
            }
        }
    }
}

/// Marks the target's answer, unless a router on the way has said already what happened.
fn rerouted_answer<B>(
    mut response: Response<ResponseBody<B>>,
    mut outcome: Outcome,
    settings: &Settings,
) -> Response<ResponseBody<B>> {
    let marked_by_router =
        settings.via.is_some() && response.headers().contains_key(carrier::ROUTED);
    if marked_by_router {
        let refused = response.headers().get(carrier::ROUTED).is_some_and(|mark| {
            mark.as_bytes()
                .windows(b"=none;".len())
                .any(|window| window == b"=none;")
        });
        if refused {
            outcome.kind = OutcomeKind::Failed;
            outcome.cause = Some("router");
        }
    } else if let Some(mark) = outcome.mark(settings.reveal_addresses) {
        response.headers_mut().insert(carrier::ROUTED, mark);
    }
    response.extensions_mut().insert(outcome);
    response
}

/// The answer to a request whose contract cannot be obeyed.
pub(crate) fn refused<ResBody>(
    headers: &HeaderMap,
    error: &DecisionError,
    settings: &Settings,
) -> Response<ResponseBody<ResBody>> {
    let outcome = Outcome {
        kind: OutcomeKind::Refused,
        service: error.service().cloned(),
        target: error.target().cloned(),
        contract: None,
        cause: None,
    };
    let failure = Failure::of_decision(error, settings.reveal_addresses);
    tracing::debug!(%error, cause = failure.cause, "refused");
    failure.into_response(
        Dialect::of(headers),
        settings.reveal_addresses,
        Some(outcome),
    )
}

/// Sends `request` to the target that the contract names.
pub(crate) async fn reroute<T, B, R>(
    mut transport: T,
    settings: &Settings,
    decision: Reroute,
    request: Request<B>,
    client: Option<ClientInfo>,
) -> Attempt<B>
where
    T: Service<Request<Body>, Response = Response<R>>,
    T::Error: Into<BoxError>,
    R: HttpBody + Send + 'static,
    R::Data: Send,
    R::Error: Into<BoxError>,
    B: HttpBody + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let Reroute {
        contract,
        service,
        target,
        permit,
    } = decision;
    let outcome = |kind, cause| Outcome {
        kind,
        service: Some(service.clone()),
        target: Some(target.clone()),
        contract: Some(contract.clone()),
        cause,
    };
    if request.method() == Method::CONNECT {
        return Attempt::Failed(Failure::of_connect(), outcome(OutcomeKind::Refused, None));
    }
    let (mut parts, body) = request.into_parts();

    let addr = match address(settings, &target, permit).await {
        Ok(addr) => addr,
        Err(NoAddress::Refused(refusal)) => {
            let failure = Failure::refused(
                &refusal,
                service.clone(),
                target.clone(),
                settings.reveal_addresses,
            );
            return Attempt::Failed(failure, outcome(OutcomeKind::Refused, None));
        }
        Err(NoAddress::Error(error)) => {
            if settings.on_failure == OnFailure::Fallback && error.kind().is_before_request() {
                let cause = Some(error.kind().as_str());
                let request = Request::from_parts(parts, body);
                return Attempt::FellBack(request, outcome(OutcomeKind::FellBack, cause));
            }
            let failure = settings.failure(&error, &service, &target);
            return Attempt::Failed(failure, outcome(OutcomeKind::Failed, None));
        }
    };

    // A fallback needs the head as it was; without one nothing is copied.
    let mut kept = None;
    let body = if settings.on_failure == OnFailure::Fallback {
        let slot = Slot(Arc::new(Mutex::new(Some(body))));
        kept = Some((parts.clone(), slot.clone()));
        Body::new(TakeOnce::new(slot))
    } else {
        Body::new(body)
    };
    let upgrade = if settings.at_caller {
        PendingUpgrade::of_caller(&parts)
    } else {
        PendingUpgrade::take(&mut parts)
    };
    prepare(&mut parts, &contract, &service, client);
    let protocol = protocol(&target, &parts);
    let authority = forward::authority(&parts);
    forward::request_head(&mut parts, &body, protocol, upgrade.as_ref());
    direct(&mut parts, addr, &target, protocol, authority);
    let request = Request::from_parts(parts, body);

    let error = match send(&mut transport, request).await {
        Ok(response) => match answered(response, upgrade) {
            Ok(response) => {
                return Attempt::Answered(response, outcome(OutcomeKind::Rerouted, None));
            }
            Err(()) => Error::new(ErrorKind::Protocol, addr).into(),
        },
        Err(error) => error,
    };
    let known = Error::find(&*error);
    if let (Some((parts, slot)), Some(known)) = (kept, known) {
        if known.kind().is_before_request() {
            // The transport has not touched the body, or the baseline could not have all of it.
            if let Some(body) = slot.take() {
                let cause = Some(known.kind().as_str());
                let request = Request::from_parts(parts, body);
                return Attempt::FellBack(request, outcome(OutcomeKind::FellBack, cause));
            }
        }
    }
    let failure = settings.failure(&*error, &service, &target);
    Attempt::Failed(failure, outcome(OutcomeKind::Failed, None))
}

async fn send<T>(transport: &mut T, request: Request<Body>) -> Result<T::Response, BoxError>
where
    T: Service<Request<Body>>,
    T::Error: Into<BoxError>,
{
    poll_fn(|cx| transport.poll_ready(cx).map_err(Into::into)).await?;
    transport.call(request).await.map_err(Into::into)
}

impl Settings {
    fn failure(
        &self,
        error: &(dyn std::error::Error + 'static),
        service: &devroute_core::ServiceName,
        target: &Target,
    ) -> Failure {
        let through = match self.via {
            Some(via) if self.reveal_addresses => format!(" through the router at {via}"),
            Some(_) => " through a router".to_owned(),
            None => String::new(),
        };
        let (service, target) = (service.clone(), target.clone());
        Failure::of_target(error, service, target, &through, self.reveal_addresses)
    }
}

/// Marks the request, so that the next layer of this service does not reroute it again.
fn prepare(
    parts: &mut http::request::Parts,
    contract: &Contract,
    service: &devroute_core::ServiceName,
    client: Option<ClientInfo>,
) {
    carrier::write(&mut parts.headers, contract);
    if let Ok(value) = HeaderValue::from_str(service.as_str()) {
        parts.headers.insert(carrier::MATCHED, value);
    }
    let client = client.or_else(|| parts.extensions.get::<ClientInfo>().copied());
    forward::forwarded(parts, client);
}

/// What the target's scheme says; without one gRPC is HTTP/2 and the rest HTTP/1.1 (rule 17).
fn protocol(target: &Target, parts: &http::request::Parts) -> Protocol {
    match target.scheme() {
        Some(Scheme::H2c) => Protocol::Http2,
        Some(Scheme::Http) => Protocol::Http1,
        _ => Protocol::of(&parts.headers),
    }
}

/// Gives the request the judged address, and what was asked for as an extension.
fn direct(
    parts: &mut http::request::Parts,
    addr: SocketAddr,
    target: &Target,
    protocol: Protocol,
    authority: Option<Authority>,
) {
    let mut uri = UriParts::default();
    let is_tls = target.scheme() == Some(Scheme::Https);
    uri.scheme = Some(if is_tls {
        http::uri::Scheme::HTTPS
    } else {
        http::uri::Scheme::HTTP
    });
    uri.authority = Authority::try_from(addr.to_string()).ok();
    uri.path_and_query = parts.uri.path_and_query().cloned();
    if uri.path_and_query.is_none() {
        uri.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
    }
    if let Ok(uri) = Uri::from_parts(uri) {
        parts.uri = uri;
    }
    let mut destination = Destination::new(protocol);
    if let Some(authority) = authority {
        destination = destination.with_authority(authority);
    }
    if let (true, Host::Name(name)) = (is_tls, target.host()) {
        destination = destination.with_tls_name(name.as_str());
    }
    parts.extensions.insert(destination);
}

/// Makes the answer fit for the client; an upgrade that nobody asked for is not HTTP.
fn answered<R>(
    response: Response<R>,
    upgrade: Option<PendingUpgrade>,
) -> Result<Response<transport::ResponseBody>, ()>
where
    R: HttpBody + Send + 'static,
    R::Data: Send,
    R::Error: Into<BoxError>,
{
    let (mut parts, body) = response.into_parts();
    forward::response_head(&mut parts);
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        let target = parts.extensions.remove::<OnUpgrade>().ok_or(())?;
        if let Some(target) = upgrade.ok_or(())?.tunnel(target) {
            parts.extensions.insert(target);
        }
    }
    Ok(Response::from_parts(
        parts,
        transport::ResponseBody::new(body),
    ))
}

enum NoAddress {
    Refused(Refusal),
    Error(Error),
}

/// The one address that is dialled: judged, and not looked up again afterwards.
async fn address(
    settings: &Settings,
    target: &Target,
    permit: Permit,
) -> Result<SocketAddr, NoAddress> {
    if let Some(via) = settings.via {
        return Ok(via);
    }
    match permit {
        Permit::Address(addr) => Ok(addr),
        _ => resolve(settings, target).await,
    }
}

/// Rule 3: every address of a name is judged, and one that is refused refuses the name.
async fn resolve(settings: &Settings, target: &Target) -> Result<SocketAddr, NoAddress> {
    let failed = |kind| NoAddress::Error(Error::without_addr(kind));
    let name = match target.host() {
        Host::Name(name) => name.as_str().to_owned(),
        Host::Ip(ip) => ip.to_string(),
    };
    let lookup = tokio::net::lookup_host((name, target.port()));
    let found = match tokio::time::timeout(settings.resolve_timeout, lookup).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => {
            return Err(NoAddress::Error(
                Error::without_addr(ErrorKind::DnsFailed).with_source(error),
            ));
        }
        Err(_elapsed) => return Err(failed(ErrorKind::DnsTimeout)),
    };
    let mut first = None;
    for addr in found {
        let addr = settings
            .policy
            .judge_addr(addr)
            .map_err(NoAddress::Refused)?;
        first = first.or(Some(addr));
    }
    first.ok_or_else(|| failed(ErrorKind::DnsFailed))
}

/// A body that is still there for the baseline as long as nobody has begun to read it.
struct Slot<B>(Arc<Mutex<Option<B>>>);

impl<B> Clone for Slot<B> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<B> Slot<B> {
    fn take(&self) -> Option<B> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Reads the body in a slot, taking it out when the first frame is asked for.
struct TakeOnce<B> {
    slot: Slot<B>,
    taken: Option<Pin<Box<B>>>,
    size_hint: SizeHint,
    is_end_stream: bool,
}

impl<B: HttpBody> TakeOnce<B> {
    fn new(slot: Slot<B>) -> Self {
        let guard = slot.0.lock().unwrap_or_else(PoisonError::into_inner);
        let size_hint = guard
            .as_ref()
            .map_or_else(SizeHint::default, HttpBody::size_hint);
        let is_end_stream = guard.as_ref().is_none_or(HttpBody::is_end_stream);
        drop(guard);
        Self {
            slot,
            taken: None,
            size_hint,
            is_end_stream,
        }
    }
}

impl<B> HttpBody for TakeOnce<B>
where
    B: HttpBody,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.taken.is_none() {
            self.taken = self.slot.take().map(Box::pin);
        }
        match &mut self.taken {
            Some(body) => body.as_mut().poll_frame(cx).map(|frame| {
                frame.map(|frame| match frame {
                    Ok(frame) => Ok(frame.map_data(|mut it| it.copy_to_bytes(it.remaining()))),
                    Err(error) => Err(error.into()),
                })
            }),
            // The baseline has it: whoever asks now must not send half a request.
            None => Poll::Ready(Some(Err("the body was taken back for the baseline".into()))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.taken
            .as_ref()
            .map_or(self.is_end_stream, |body| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.taken
            .as_ref()
            .map_or_else(|| SizeHint::clone(&self.size_hint), |body| body.size_hint())
    }
}
