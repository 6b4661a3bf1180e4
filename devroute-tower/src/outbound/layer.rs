use http::Uri;
use tower_layer::Layer;

use super::{DevRouteClient, DevRouteClientRerouteLayer, InternalHosts, attach::Attach};

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
    /// Makes a layer that sends contracts to the default [`InternalHosts`].
    pub fn new() -> Self {
        Self::default()
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
