//! A rerouted request's way to its target: the same for the callee's layer and for the caller's.

mod address;
mod held_body;

use std::{
    future::{Future, poll_fn},
    net::SocketAddr,
    ops::ControlFlow,
    sync::Arc,
    time::Duration,
};

use devroute_core::{
    Contract, DecisionError, Host, Reroute, Scheme, Selector, ServiceName, Target, TargetPolicy,
    carrier::{self, Written},
};
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri,
    uri::{Authority, Parts as UriParts},
};
use hyper::upgrade::OnUpgrade;
use tracing::field::display;

use self::{
    address::{NoAddress, address},
    held_body::{Slot, TakeOnce},
};
use crate::{
    BoxError,
    abandoned::{self, Unanswered},
    bounds::{Payload, Transport},
    failure::{Dialect, Failure},
    forward::{self, PendingUpgrade},
    forwarded::{self, ClientInfo, ForwardedFields},
    inbound::ResponseBody,
    no_retry,
    outcome::{Outcome, OutcomeKind},
    transport::{self, Body, Destination, Error, ErrorKind, Lookups, Protocol, UpstreamAddr},
    unwritten,
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
    #[cfg(feature = "signature")]
    pub(crate) verifier: Option<devroute_core::signature::Verifier>,
    pub(crate) on_failure: OnFailure,
    pub(crate) via: Option<UpstreamAddr>,
    pub(crate) forwarded: ForwardedFields,
    pub(crate) reveal_addresses: bool,
    /// The request is made in this process, not received by it.
    pub(crate) at_caller: bool,
    /// Whose own requests they are.
    pub(crate) caller: Option<ServiceName>,
    pub(crate) resolve_timeout: Duration,
    pub(crate) lookups: Lookups,
    pub(crate) on_abandoned: Option<abandoned::Hook>,
    pub(crate) on_unwritten: Option<unwritten::Hook>,
}

impl Settings {
    pub(crate) fn new(policy: Arc<TargetPolicy>) -> Self {
        Self {
            policy,
            #[cfg(feature = "signature")]
            verifier: None,
            on_failure: OnFailure::Fail,
            via: None,
            forwarded: ForwardedFields::default(),
            reveal_addresses: true,
            at_caller: false,
            caller: None,
            resolve_timeout: Duration::from_secs(2),
            lookups: Lookups::new(),
            on_abandoned: None,
            on_unwritten: None,
        }
    }

    /// What decides for `service`; without one, for the service that a request names.
    pub(crate) fn selector(&self, service: Option<ServiceName>) -> Selector {
        let policy = Arc::clone(&self.policy);
        let selector = match service {
            Some(service) => Selector::new(service, policy),
            None => Selector::router(policy),
        };
        #[cfg(feature = "signature")]
        if let Some(verifier) = &self.verifier {
            return selector.verifier(verifier.clone());
        }
        selector
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
    match response.headers().get(carrier::ROUTED) {
        Some(mark) if settings.via.is_some() => {
            if contains(mark, b"=none;") {
                outcome.kind = OutcomeKind::Failed;
                outcome.cause = Some("router");
            }
        }
        _ => {
            if settings.via.is_some() && outcome.kind == OutcomeKind::Rerouted {
                // A router says what happened. Whoever answered here is none, or one that had no room for the
                // request: a mesh may take it to where its `Host` leads, and no target has seen it then.
                outcome.kind = OutcomeKind::Failed;
                outcome.cause = Some("router_unreachable");
            }
            if let Some(mark) = outcome.mark(settings.reveal_addresses) {
                response.headers_mut().insert(carrier::ROUTED, mark);
            }
        }
    }
    no_retry::mark_if_failed(&mut response);
    response.extensions_mut().insert(outcome);
    response
}

fn contains(value: &HeaderValue, text: &[u8]) -> bool {
    let mut windows = value.as_bytes().windows(text.len());
    windows.any(|window| window == text)
}

/// The answer to a request whose contract cannot be obeyed.
pub(crate) fn refused<ResBody>(
    method: &Method,
    headers: &HeaderMap,
    error: &DecisionError,
    settings: &Settings,
) -> Response<ResponseBody<ResBody>> {
    let outcome = Outcome {
        kind: OutcomeKind::Refused,
        service: error.service().cloned(),
        target: error.target().cloned(),
        // Refused for what it asks, a well-formed contract still says whose test run it was.
        contract: carrier::read(headers).ok().flatten(),
        cause: None,
        signed_by: None,
    };
    let failure = Failure::of_decision(error, settings.reveal_addresses);
    tracing::debug!(%error, cause = failure.cause, "refused");
    failure.into_response(
        Dialect::of(method, headers),
        settings.reveal_addresses,
        Some(outcome),
    )
}

/// Sends `request` to the target that the contract names.
#[expect(
    clippy::manual_async_fn,
    reason = "an `async fn` has each of its arguments twice, and a request is large"
)]
pub(crate) fn reroute<'a, T: Transport, B: Payload>(
    mut transport: T,
    settings: &'a Settings,
    decision: &'a Reroute,
    request: Request<B>,
    client: Option<ClientInfo>,
) -> impl Future<Output = Attempt<B>> + Send + use<'a, T, B> {
    async move {
        let Reroute {
            contract,
            service,
            target,
            permit,
            signed_by,
            ..
        } = decision;
        let outcome = |kind, cause| Outcome {
            kind,
            service: Some(service.clone()),
            target: Some(target.clone()),
            contract: Some(contract.clone()),
            cause,
            signed_by: signed_by.clone(),
        };
        if request.method() == Method::CONNECT {
            return Attempt::Failed(Failure::of_connect(), outcome(OutcomeKind::Refused, None));
        }
        if forward::has_two_readings(request.headers()) {
            return Attempt::Failed(Failure::of_ambiguity(), outcome(OutcomeKind::Refused, None));
        }
        let (mut parts, body) = request.into_parts();
        if let Some((status, headers)) = forward::last_recipient(&mut parts) {
            let mut response = Response::new(transport::ResponseBody::empty());
            *response.status_mut() = status;
            *response.headers_mut() = headers;
            let outcome = outcome(OutcomeKind::Refused, Some("max_forwards"));
            return Attempt::Answered(response, outcome);
        }

        let (addr, others) = match address(settings, target, permit).await {
            Ok(settled) => settled,
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
                let failure = settings.failure(&error, service, target);
                return Attempt::Failed(failure, outcome(OutcomeKind::Failed, None));
            }
        };

        // A fallback needs the head as it was; without one nothing is copied.
        let mut kept = None;
        let body = if settings.on_failure == OnFailure::Fallback {
            let slot = Slot::new(body);
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
        prepare(&mut parts, settings, contract, service, client);
        // A router is asked in plain text; it is the one that speaks TLS to the target.
        let is_tls = settings.via.is_none() && target.scheme() == Some(Scheme::Https);
        let protocol = match protocol(target, &parts) {
            // HTTP/2 has no upgrades.
            Protocol::Http1 if is_tls && upgrade.is_none() => Protocol::Negotiated,
            protocol => protocol,
        };
        let authority = match protocol {
            // It is in `Host`.
            Protocol::Http1 => None,
            _ => forward::authority(&parts),
        };
        forward::request_head(&mut parts, &body, protocol, upgrade.as_ref());
        let destination = Destination::new(protocol).with_other_addresses(others);
        direct(&mut parts, addr, target, is_tls, destination, authority);

        // Not in a function of its own: its future would have the request once more.
        let sent = match poll_fn(|cx| transport.poll_ready(cx).map_err(Into::into)).await {
            Ok(()) => {
                let request = Request::from_parts(parts, body);
                transport.call(request).await.map_err(Into::into)
            }
            Err(error) => Err(error),
        };
        let error: BoxError = match sent {
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
        let failure = settings.failure(&*error, service, target);
        Attempt::Failed(failure, outcome(OutcomeKind::Failed, None))
    }
}

impl Settings {
    /// Writes both carriers (rule 10).
    pub(crate) fn write(&self, headers: &mut HeaderMap, contract: &Contract) {
        if let (Written::FieldOnly(reason), Some(hook)) =
            (carrier::write(headers, contract), &self.on_unwritten)
        {
            hook.tell(reason);
        }
    }

    /// Tells whoever wants to know where the caller goes away before there is an answer.
    pub(crate) fn unanswered(&self, decision: &Reroute) -> Option<Unanswered> {
        let hook = self.on_abandoned.clone()?;
        let outcome = Outcome {
            kind: OutcomeKind::Abandoned,
            service: Some(decision.service.clone()),
            target: Some(decision.target.clone()),
            contract: Some(decision.contract.clone()),
            cause: None,
            signed_by: decision.signed_by.clone(),
        };
        Some(Unanswered::new(hook, outcome))
    }

    fn failure(
        &self,
        error: &(dyn std::error::Error + 'static),
        service: &ServiceName,
        target: &Target,
    ) -> Failure {
        let through = match self.via.as_ref().map(UpstreamAddr::get) {
            Some(Some(via)) if self.reveal_addresses => format!(" through the router at {via}"),
            Some(None) => " through a router, whose own name has no address yet".to_owned(),
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
    settings: &Settings,
    contract: &Contract,
    service: &ServiceName,
    client: Option<ClientInfo>,
) {
    settings.write(&mut parts.headers, contract);
    if let Ok(value) = HeaderValue::from_str(service.as_str()) {
        parts.headers.insert(carrier::MATCHED, value);
    }
    let client = client.or_else(|| parts.extensions.get::<ClientInfo>().copied());
    let host = forwarded::host(&parts.uri, &parts.headers);
    forwarded::add(&mut parts.headers, settings.forwarded, host, client);
    forwarded::via(&mut parts.headers, parts.version, settings.caller.as_ref());
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
    is_tls: bool,
    mut destination: Destination,
    authority: Option<Authority>,
) {
    let mut uri = UriParts::default();
    uri.scheme = Some(if is_tls {
        http::uri::Scheme::HTTPS
    } else {
        http::uri::Scheme::HTTP
    });
    uri.authority = Authority::try_from(Target::from(addr).to_string()).ok();
    uri.path_and_query = parts.uri.path_and_query().cloned();
    if uri.path_and_query.is_none() {
        uri.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
    }
    if let Ok(uri) = Uri::from_parts(uri) {
        parts.uri = uri;
    }
    if let Some(authority) = authority {
        destination = destination.with_authority(authority);
    }
    if let (true, Host::Name(name)) = (is_tls, target.host()) {
        destination = destination.with_tls_name(name.as_str());
    }
    parts.extensions.insert(destination);
}

/// Makes the answer fit for the client; an upgrade that nobody asked for is not HTTP.
fn answered(
    response: Response<impl Payload>,
    upgrade: Option<PendingUpgrade>,
) -> Result<Response<transport::ResponseBody>, ()> {
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
