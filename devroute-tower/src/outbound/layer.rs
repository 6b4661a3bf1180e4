use http::{Extensions, HeaderMap, Uri};
use tower_layer::Layer;

use super::{DevRouteClient, DevRouteClientRerouteLayer, InternalHosts, attach::Attach};
use crate::{
    Mode,
    unwritten::{Hook, OnUnwritten},
};

/// Carries the contract on to the requests that a client makes.
///
/// See the [module](super) for what is done to a request, and when nothing is. The service it makes
/// has the inner service's response, error and future.
///
/// ```
/// use devroute_tower::{DevRouteClientLayer, outbound::InternalHosts};
///
/// let layer = DevRouteClientLayer::new()
///     .internal_hosts(InternalHosts::default().suffix(".corp.example".parse()?))
///     .destination(&"http://greeter.qa.svc:50051".parse()?);
/// # let _ = layer;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "a layer does nothing until it wraps a service"]
pub struct DevRouteClientLayer {
    attach: Attach,
}

impl DevRouteClientLayer {
    /// Makes a layer that sends contracts to the default [`InternalHosts`], and is always on.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a layer that obeys the environment variable `DEVROUTE`, which is `off`, `carry` or `on`
    /// ([`Mode`]), and **off where it is not set**, as
    /// [`DevRouteLayer::from_env`](crate::DevRouteLayer::from_env) is.
    ///
    /// Where [`reroute`](Self::reroute) is not used, `carry` and `on` are the same.
    pub fn from_env() -> Self {
        Self::new().mode(Mode::from_env())
    }

    /// Sets whether it does anything, and what: a layer that is [off](Mode::Off) is the bare inner
    /// service, one that [carries](Mode::Carry) sends contracts on and obeys none.
    pub fn mode(mut self, mode: Mode) -> Self {
        self.attach.mode = mode;
        self
    }

    /// Sets which hosts a contract is sent to.
    pub fn internal_hosts(mut self, hosts: InternalHosts) -> Self {
        self.attach.hosts = hosts;
        self
    }

    /// Says where requests go whose URI has no authority, as those above a tonic `Channel`.
    ///
    /// Only the authority of `uri` matters. A URI without one leaves the destination to the
    /// request's `Host` field.
    pub fn destination(mut self, uri: &Uri) -> Self {
        self.attach.destination = uri.authority().cloned();
        self
    }

    /// Is told of each contract that goes out without a `baggage` member, for a metric: a log line
    /// comes once a minute at most, and on the level `debug`.
    ///
    /// ```
    /// use std::sync::atomic::{AtomicU64, Ordering};
    /// use devroute_core::carrier::Unwritten;
    /// use devroute_tower::DevRouteClientLayer;
    ///
    /// static UNWRITTEN: AtomicU64 = AtomicU64::new(0);
    /// let layer = DevRouteClientLayer::new().on_unwritten(|_: Unwritten| {
    ///     UNWRITTEN.fetch_add(1, Ordering::Relaxed);
    /// });
    /// # let _ = layer;
    /// ```
    pub fn on_unwritten(mut self, hook: impl OnUnwritten + Send + Sync + 'static) -> Self {
        self.attach.on_unwritten = Some(Hook::new(hook));
        self
    }

    /// Does to the head of one request what the service of this layer does to all of them.
    ///
    /// For clients that are not a tower service: reqwest in any version, with or without
    /// middleware, and whatever else shows its requests as `http` types before it sends them. Call
    /// it last, as close to the wire as there is a place: what adds fields afterwards is not seen.
    ///
    /// A client that follows redirects by itself repeats the fields at the new place; see
    /// [`InternalHosts::may_follow`].
    ///
    /// ```
    /// use devroute_tower::{DevRouteClientLayer, context};
    /// use http::HeaderMap;
    ///
    /// let layer = DevRouteClientLayer::new();
    /// let contract: devroute_core::Contract = r#"{"foo":"192.168.1.12:8001"}"#.parse()?;
    /// let inside = "http://checkout/".parse()?;
    /// let outside = "http://example.com/".parse()?;
    /// let mut headers = HeaderMap::new();
    /// headers.insert("baggage", "user=alice".parse()?);
    ///
    /// context::sync_scope(contract, || {
    ///     layer.prepare(&inside, &mut headers);
    ///     assert_eq!(headers["x-devroute"], r#"{"foo":"192.168.1.12:8001"}"#);
    ///     assert!(headers["baggage"].as_bytes().starts_with(b"user=alice,devroute="));
    ///
    ///     layer.prepare(&outside, &mut headers);
    ///     assert!(!headers.contains_key("x-devroute"));
    ///     assert_eq!(headers["baggage"], "user=alice");
    /// });
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn prepare(&self, uri: &Uri, headers: &mut HeaderMap) {
        if let Some(pending) = self.attach.find(headers, &Extensions::new()) {
            self.attach.apply(uri, headers, pending);
        }
    }

    /// Obeys the contract here as well: a request for a service that it names goes to the target,
    /// over `transport`.
    ///
    /// The response body becomes a sum of the inner service's and the target's.
    pub fn reroute<T>(self, transport: T) -> DevRouteClientRerouteLayer<T> {
        DevRouteClientRerouteLayer::new(self.attach, transport)
    }
}

impl<S> Layer<S> for DevRouteClientLayer {
    type Service = DevRouteClient<S>;

    fn layer(&self, inner: S) -> Self::Service {
        DevRouteClient {
            inner,
            attach: self.attach.clone(),
        }
    }
}
