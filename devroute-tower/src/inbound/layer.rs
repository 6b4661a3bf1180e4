//! What is decided once, when the service is built.

use std::{net::SocketAddr, sync::Arc};

use devroute_core::{Selector, ServiceName, ServiceNameError, TargetPolicy};
use tower_layer::Layer;

use super::DevRoute;
use crate::{
    abandoned::{self, OnAbandoned},
    forwarded::ForwardedFields,
    mode::{Mode, OncePerMinute},
    reroute::{OnFailure, Settings, default_policy},
    transport::{HttpTransport, UpstreamAddr},
    unwritten::{self, OnUnwritten},
};

/// Reroutes a request whose contract names this service, and remembers the contract for the
/// requests it causes.
///
/// See the [module](crate::inbound) for what it does, step by step.
#[derive(Clone, Debug)]
pub struct DevRouteLayer<T = HttpTransport> {
    shared: Arc<Shared>,
    transport: T,
}

#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub(super) service: Option<ServiceName>,
    pub(super) selector: Selector,
    pub(super) mode: Mode,
    pub(super) write_carriers: bool,
    pub(super) reads_cookie: bool,
    pub(super) forwarded_to_baseline: bool,
    pub(super) reroute: Settings,
    pub(super) log: Arc<OncePerMinute>,
}

impl DevRouteLayer {
    /// A layer for `service`, which is always on.
    ///
    /// # Panics
    ///
    /// Where `service` is not a [`ServiceName`]; [`try_new`](Self::try_new) returns the error.
    ///
    /// ```
    /// let layer = devroute_tower::DevRouteLayer::new("checkout");
    /// assert_eq!(layer.service().unwrap().as_str(), "checkout");
    /// ```
    #[must_use]
    #[track_caller]
    #[allow(
        clippy::panic,
        reason = "documented; a name is a constant of the program"
    )]
    pub fn new(service: &str) -> Self {
        match Self::try_new(service) {
            Ok(layer) => layer,
            Err(error) => panic!("{error}"),
        }
    }

    /// A layer for `service`, which is always on.
    ///
    /// # Errors
    ///
    /// Where `service` is not a [`ServiceName`].
    pub fn try_new(service: &str) -> Result<Self, ServiceNameError> {
        Ok(Self::of(Some(ServiceName::new(service)?)))
    }

    /// A layer for `service` that obeys the environment variable `DEVROUTE`, which is `off`,
    /// `carry` or `on` ([`Mode`]), and **off where it is not set**.
    ///
    /// # Panics
    ///
    /// Where `service` is not a [`ServiceName`].
    #[must_use]
    #[track_caller]
    pub fn from_env(service: &str) -> Self {
        Self::new(service).mode(Mode::from_env())
    }

    /// A layer for a router, which takes the service to look up from `x-devroute-matched`.
    ///
    /// There is no baseline behind a router: a request without a contract, or without an entry for
    /// that service, is answered with 400, and the inner service is never called.
    #[must_use]
    pub fn router() -> Self {
        Self::of(None)
    }

    fn of(service: Option<ServiceName>) -> Self {
        let reroute = Settings::new(Arc::new(default_policy()));
        let shared = Shared {
            selector: reroute.selector(service.clone()),
            service,
            mode: Mode::On,
            write_carriers: false,
            reads_cookie: false,
            forwarded_to_baseline: false,
            reroute,
            log: Arc::default(),
        };
        Self {
            shared: Arc::new(shared),
            transport: HttpTransport::new(),
        }
    }
}

impl<T> DevRouteLayer<T> {
    /// Whether it does anything, and what.
    #[must_use]
    pub fn mode(mut self, mode: Mode) -> Self {
        self.settings().mode = mode;
        self
    }

    /// Which targets are allowed. The default allows private networks, and in Kubernetes (where
    /// `KUBERNETES_SERVICE_HOST` is set) refuses the API server and the ports of the nodes.
    #[must_use]
    pub fn policy(mut self, policy: TargetPolicy) -> Self {
        let shared = self.settings();
        shared.reroute.policy = Arc::new(policy);
        shared.selector = shared.reroute.selector(shared.service.clone());
        self
    }

    /// Obeys contracts only that `verifier` finds well signed (rule 15); any other one that names a
    /// service is answered with 403, whichever service that is.
    ///
    /// Where the layer only [carries](Mode::Carry) contracts, nothing is verified. The keys can be
    /// replaced while the layer runs: keep a clone of the verifier.
    ///
    /// ```
    /// use devroute_tower::DevRouteLayer;
    /// use devroute_tower::core::signature::{AuthorizedKeys, Verifier};
    ///
    /// let file = b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDHz9XpnTjH/7YMFd5nbDPAEuia+xNRj6Jr82WT/lOso alice";
    /// let verifier = Verifier::new(AuthorizedKeys::parse(file));
    /// let layer = DevRouteLayer::new("checkout").verifier(verifier.clone());
    /// // Later, when the file has changed:
    /// verifier.replace_keys(AuthorizedKeys::parse(b""));
    /// # let _ = layer;
    /// ```
    #[cfg(feature = "signature")]
    #[cfg_attr(docsrs, doc(cfg(feature = "signature")))]
    #[must_use]
    pub fn verifier(mut self, verifier: devroute_core::signature::Verifier) -> Self {
        let shared = self.settings();
        shared.reroute.verifier = Some(verifier);
        shared.selector = shared.reroute.selector(shared.service.clone());
        self
    }

    /// What happens when the target cannot be reached. A router has no baseline to fall back to,
    /// so there the setting has no effect.
    #[must_use]
    pub fn on_failure(mut self, on_failure: OnFailure) -> Self {
        let shared = self.settings();
        if shared.service.is_some() {
            shared.reroute.on_failure = on_failure;
        }
        self
    }

    /// Reaches targets through `transport` instead.
    #[must_use]
    pub fn transport<T2>(self, transport: T2) -> DevRouteLayer<T2> {
        DevRouteLayer {
            shared: self.shared,
            transport,
        }
    }

    /// Hands rerouted requests to the router at `addr` instead of dialling the target (rule 19).
    ///
    /// The router judges the target: one place holds the policy, and the way to the laptops. This
    /// layer's own policy is not asked.
    #[must_use]
    pub fn via(self, router: SocketAddr) -> Self {
        self.via_follow(UpstreamAddr::new(router))
    }

    /// Like [`via`](Self::via), for a router that may move, such as one that is known by name: wherever
    /// `router` says by then.
    #[must_use]
    pub fn via_follow(mut self, router: UpstreamAddr) -> Self {
        self.settings().reroute.via = Some(router);
        self.policy(TargetPolicy::delegated())
    }

    /// Whether answers show addresses of targets; `true` by default. An entry that serves the
    /// outside switches it off.
    #[must_use]
    pub fn reveal_addresses(mut self, reveal: bool) -> Self {
        self.settings().reroute.reveal_addresses = reveal;
        self
    }

    /// Whether both carriers are written on what the inner service gets (rule 10); `false` by
    /// default. A proxy does, so that a service with plain OpenTelemetry carries the contract on.
    #[must_use]
    pub fn write_carriers(mut self, write: bool) -> Self {
        self.settings().write_carriers = write;
        self
    }

    /// Whether the cookie `devroute` is a carrier too; `false` by default (rules 9 and 20).
    ///
    /// For the entry that browsers come to, since their `WebSocket` and `EventSource` can set no field. The
    /// cookie counts where neither the field nor the baggage member is there; it goes no further, and the
    /// contract in it goes on as the field. Read what `SECURITY.md` says about cookies first.
    ///
    /// ```
    /// let layer = devroute_tower::DevRouteLayer::new("shop").cookie(true);
    /// # let _ = layer;
    /// ```
    #[must_use]
    pub fn cookie(mut self, read: bool) -> Self {
        self.settings().reads_cookie = read;
        self
    }

    /// Which fields tell the target who asked (rule 16); `X-Forwarded-*` by default.
    ///
    /// ```
    /// use devroute_tower::{DevRouteLayer, ForwardedFields};
    ///
    /// let layer = DevRouteLayer::new("checkout").forwarded_fields(ForwardedFields::Forwarded);
    /// # let _ = layer;
    /// ```
    #[must_use]
    pub fn forwarded_fields(mut self, fields: ForwardedFields) -> Self {
        self.settings().reroute.forwarded = fields;
        self
    }

    /// Is told of each rerouted request whose caller went away before the answer had begun, for a
    /// record or a metric; any other is in the extensions of its answer ([`Outcome`](crate::Outcome)).
    ///
    /// ```
    /// use devroute_tower::{DevRouteLayer, Outcome};
    ///
    /// let layer = DevRouteLayer::new("checkout").on_abandoned(|outcome: Outcome| {
    ///     println!("nobody waited for {:?}", outcome.target());
    /// });
    /// # let _ = layer;
    /// ```
    #[must_use]
    pub fn on_abandoned(mut self, hook: impl OnAbandoned + Send + Sync + 'static) -> Self {
        self.settings().reroute.on_abandoned = Some(abandoned::Hook::new(hook));
        self
    }

    /// Is told of each contract that goes on without a `baggage` member, to the target or, where the layer
    /// [writes carriers](Self::write_carriers), to the inner service.
    ///
    /// ```
    /// use devroute_tower::{DevRouteLayer, core::carrier::Unwritten};
    ///
    /// let layer = DevRouteLayer::new("checkout").on_unwritten(|reason: Unwritten| {
    ///     println!("a contract goes on in its field alone: {reason}");
    /// });
    /// # let _ = layer;
    /// ```
    #[must_use]
    pub fn on_unwritten(mut self, hook: impl OnUnwritten + Send + Sync + 'static) -> Self {
        self.settings().reroute.on_unwritten = Some(unwritten::Hook::new(hook));
        self
    }

    /// Whether the inner service is told the same, with every request; `false` by default.
    ///
    /// For a layer in front of another process, that is, of an
    /// [`Upstream`](crate::transport::Upstream): then it is a hop like any other. An application that
    /// counts the proxies it trusts counts one more, and some servers stop compressing when they see
    /// `Via`. A layer that is [off](Mode::Off) tells nothing.
    #[must_use]
    pub fn forwarded_to_baseline(mut self, tell: bool) -> Self {
        self.settings().forwarded_to_baseline = tell;
        self
    }

    /// The service this layer stands in front of; `None` for a router.
    #[must_use]
    pub fn service(&self) -> Option<&ServiceName> {
        self.shared.service.as_ref()
    }

    fn settings(&mut self) -> &mut Shared {
        Arc::make_mut(&mut self.shared)
    }
}

impl<S, T: Clone> Layer<S> for DevRouteLayer<T> {
    type Service = DevRoute<S, T>;

    fn layer(&self, inner: S) -> Self::Service {
        DevRoute::new(inner, Arc::clone(&self.shared), self.transport.clone())
    }
}
