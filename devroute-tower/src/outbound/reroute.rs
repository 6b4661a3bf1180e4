//! The outbound half that also obeys the contract, at the caller.

use std::{
    fmt, mem,
    net::SocketAddr,
    ops::ControlFlow,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use devroute_core::{Decision, Reroute, ServiceName, TargetPolicy, carrier};
use http::{HeaderValue, Request, Response, header::HOST, uri::Authority};
use http_body::Body as HttpBody;
use tower_layer::Layer;
use tower_service::Service;

use super::{FirstLabel, MakeServiceName, attach::Attach, future::ResponseFuture};
use crate::{
    BoxError,
    abandoned::{self, OnAbandoned, answered},
    bounds::{Inner, Payload, Transport},
    failure::{Dialect, Failure},
    forwarded::{ForwardedFields, without_userinfo},
    inbound::ResponseBody,
    mode::Mode,
    reroute::{OnFailure, Settings, default_policy, refused, reroute},
    transport::{Body, UpstreamAddr},
};

/// Carries the contract on, and sends a request for a service that the contract names to its
/// target; made by [`DevRouteClientLayer::reroute`](super::DevRouteClientLayer::reroute).
///
/// For services that have no layer of their own in front, or no instance at all. The request is
/// first treated as the [module](super) says; then
///
/// 1. only a request to an internal destination is rerouted, as only there a contract goes;
/// 2. the destination's service is looked up: the first label of the host, or what
///    [`service_name`](Self::service_name) says;
/// 3. a request whose contract does not name that service goes to the inner service;
/// 4. any other goes to the target, over the transport, or is answered as
///    [`DevRouteLayer`](crate::DevRouteLayer) would: 403 where the policy refuses the target, 502
///    and 504 where it cannot be reached, 400 for a contract of the application's that is
///    malformed. A failure is an answer, so the error type stays the inner service's.
///
/// An upgrade (a WebSocket) is answered as an HTTP client answers it: with the connection in the
/// extensions of the 101. The service at the target may have a layer too: the request says that it has been rerouted, and
/// is not rerouted again.
///
/// ```
/// use devroute_core::{ServiceName, TargetPolicy};
/// use devroute_tower::{DevRouteClientLayer, OnFailure, transport::HttpTransport};
/// use http::uri::Authority;
///
/// let layer = DevRouteClientLayer::new()
///     .reroute(HttpTransport::new())
///     .policy(TargetPolicy::default().allow_cgnat(true))
///     .on_failure(OnFailure::Fallback)
///     // `http://qa-checkout/` is the service `checkout`.
///     .service_name(|authority: &Authority| {
///         ServiceName::new(authority.host().strip_prefix("qa-")?).ok()
///     });
/// # let _ = layer;
/// ```
#[derive(Clone, Debug)]
#[must_use = "a layer does nothing until it wraps a service"]
pub struct DevRouteClientRerouteLayer<T> {
    shared: Arc<Shared>,
    transport: T,
}

#[derive(Clone)]
struct Shared {
    attach: Attach,
    names: Arc<dyn MakeServiceName + Send + Sync>,
    settings: Settings,
}

impl<T> DevRouteClientRerouteLayer<T> {
    pub(super) fn new(attach: Attach, transport: T) -> Self {
        let mut settings = Settings::new(Arc::new(default_policy()));
        settings.at_caller = true;
        let shared = Shared {
            attach,
            names: Arc::new(FirstLabel),
            settings,
        };
        Self {
            shared: Arc::new(shared),
            transport,
        }
    }

    /// Sets how the service is told from the authority of a request; [`FirstLabel`] by default.
    pub fn service_name(mut self, names: impl MakeServiceName + Send + Sync + 'static) -> Self {
        self.shared().names = Arc::new(names);
        self
    }

    /// Sets which targets are allowed. The default allows private networks, and in Kubernetes
    /// (where `KUBERNETES_SERVICE_HOST` is set) refuses the API server and the ports of the nodes.
    pub fn policy(mut self, policy: TargetPolicy) -> Self {
        self.shared().settings.policy = Arc::new(policy);
        self
    }

    /// Obeys contracts only that `verifier` finds well signed (rule 15); a request to an internal
    /// destination with any other one is answered with 403.
    #[cfg(feature = "signature")]
    #[cfg_attr(docsrs, doc(cfg(feature = "signature")))]
    pub fn verifier(mut self, verifier: devroute_core::signature::Verifier) -> Self {
        self.shared().settings.verifier = Some(verifier);
        self
    }

    /// Sets what happens when the target cannot be reached; [`OnFailure::Fail`] by default.
    pub fn on_failure(mut self, on_failure: OnFailure) -> Self {
        self.shared().settings.on_failure = on_failure;
        self
    }

    /// Hands rerouted requests to the router at `addr` instead of dialling the target.
    ///
    /// The router judges the target, so this layer's own policy is not asked.
    pub fn via(self, router: SocketAddr) -> Self {
        self.via_follow(UpstreamAddr::new(router))
    }

    /// Like [`via`](Self::via), for a router that may move: wherever `router` says by then.
    pub fn via_follow(mut self, router: UpstreamAddr) -> Self {
        self.shared().settings.via = Some(router);
        self.policy(TargetPolicy::delegated())
    }

    /// Sets which fields tell the target who asked (rule 16); `X-Forwarded-*` by default.
    pub fn forwarded_fields(mut self, fields: ForwardedFields) -> Self {
        self.shared().settings.forwarded = fields;
        self
    }

    /// Says whose own requests they are, in a comment of `Via`: `1.1 devroute (bar)`. It is for people to read.
    pub fn caller(mut self, service: ServiceName) -> Self {
        self.shared().settings.caller = Some(service);
        self
    }

    /// Says that the requests come from clients of a server in this process, as a proxy's do: an
    /// upgrade is tunnelled to the client, as [`DevRouteLayer`](crate::DevRouteLayer) does it.
    pub fn for_clients(mut self) -> Self {
        self.shared().settings.at_caller = false;
        self
    }

    /// Is told of each rerouted request whose caller went away before the answer had begun
    /// ([`DevRouteLayer::on_abandoned`](crate::DevRouteLayer::on_abandoned)).
    pub fn on_abandoned(mut self, hook: impl OnAbandoned + Send + Sync + 'static) -> Self {
        self.shared().settings.on_abandoned = Some(abandoned::Hook::new(hook));
        self
    }

    /// Sets whether answers show addresses of targets; `true` by default.
    pub fn reveal_addresses(mut self, reveal: bool) -> Self {
        self.shared().settings.reveal_addresses = reveal;
        self
    }

    fn shared(&mut self) -> &mut Shared {
        Arc::make_mut(&mut self.shared)
    }
}

impl<S, T: Clone> Layer<S> for DevRouteClientRerouteLayer<T> {
    type Service = DevRouteClientReroute<S, T>;

    fn layer(&self, inner: S) -> Self::Service {
        DevRouteClientReroute {
            inner,
            shared: Arc::clone(&self.shared),
            transport: self.transport.clone(),
        }
    }
}

/// The service of [`DevRouteClientRerouteLayer`].
#[derive(Clone, Debug)]
pub struct DevRouteClientReroute<S, T> {
    inner: S,
    shared: Arc<Shared>,
    transport: T,
}

impl<S, T, ReqBody, ResBody, TBody> Service<Request<ReqBody>> for DevRouteClientReroute<S, T>
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

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let attach = &self.shared.attach;
        let Some(pending) = attach.find(request.headers(), request.extensions()) else {
            return ResponseFuture::inner(self.inner.call(request));
        };
        let (mut parts, body) = request.into_parts();
        let authority = attach.apply(&parts.uri, &mut parts.headers, pending);
        let service = authority
            .as_ref()
            .filter(|_| attach.mode == Mode::On && carrier::is_present(&parts.headers))
            .and_then(|authority| self.shared.names.make_service_name(authority));
        let (Some(authority), Some(service)) = (authority, service) else {
            return ResponseFuture::inner(self.inner.call(Request::from_parts(parts, body)));
        };
        let settings = &self.shared.settings;
        match settings.selector(Some(service)).decide(&parts.headers) {
            Ok(Decision::Reroute(decision)) => {
                self.reroute(Request::from_parts(parts, body), decision, &authority)
            }
            Ok(_) => ResponseFuture::inner(self.inner.call(Request::from_parts(parts, body))),
            // The inner service, which may hold a permit since it was ready, keeps it until this
            // service is called again or dropped.
            Err(error) => {
                ResponseFuture::refused(refused(&parts.method, &parts.headers, &error, settings))
            }
        }
    }
}

impl<S, T> DevRouteClientReroute<S, T> {
    fn reroute<ReqBody>(
        &mut self,
        mut request: Request<ReqBody>,
        decision: Reroute,
        authority: &Authority,
    ) -> ResponseFuture<S::Future, S::ResBody, S::Error>
    where
        S: Inner<ReqBody>,
        T: Transport,
        ReqBody: Payload,
    {
        let transport = self.transport.clone();
        let shared = Arc::clone(&self.shared);
        // The service that was made ready is the one that must be called.
        let mut inner = (shared.settings.on_failure == OnFailure::Fallback).then(|| {
            let next = self.inner.clone();
            mem::replace(&mut self.inner, next)
        });
        let named = name_host(&mut request, authority);
        let mut unanswered = shared.settings.unanswered(&decision);
        ResponseFuture::rerouted(Box::pin(async move {
            let dialect = Dialect::of(request.method(), request.headers());
            let attempt = reroute(transport, &shared.settings, &decision, request, None).await;
            let (mut request, outcome) = match attempt.into_answer(&shared.settings, dialect) {
                ControlFlow::Break(response) => {
                    answered(&mut unanswered);
                    return Ok(response);
                }
                ControlFlow::Continue(fell_back) => fell_back,
            };
            let reveal = shared.settings.reveal_addresses;
            let Some(inner) = &mut inner else {
                answered(&mut unanswered);
                let failure = Failure::no_baseline(decision.service, decision.target);
                return Ok(failure.into_response(dialect, reveal, Some(outcome)));
            };
            if named {
                request.headers_mut().remove(HOST);
            }
            let response = inner.call(request).await;
            answered(&mut unanswered);
            let mut response = response?.map(ResponseBody::plain);
            if let Some(mark) = outcome.mark(reveal) {
                response.headers_mut().insert(carrier::ROUTED, mark);
            }
            response.extensions_mut().insert(outcome);
            Ok(response)
        }))
    }
}

/// Gives a request that names no host the one it is for, which the inner service would have added;
/// says whether it did.
fn name_host<B>(request: &mut Request<B>, authority: &Authority) -> bool {
    if request.uri().authority().is_some() || request.headers().contains_key(HOST) {
        return false;
    }
    match HeaderValue::from_str(without_userinfo(authority)) {
        Ok(host) => {
            request.headers_mut().insert(HOST, host);
            true
        }
        Err(_) => false,
    }
}

impl fmt::Debug for Shared {
    // What tells the names is a closure, mostly.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("attach", &self.attach)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
