//! Which service an outgoing request is for.

use devroute_core::ServiceName;
use http::uri::Authority;

use super::egress::Host;

/// Tells which service the instance at an authority belongs to.
///
/// Implemented by closures; [`FirstLabel`] is the default. It is asked about internal destinations
/// only, and only where there is a contract.
///
/// ```
/// use devroute_core::ServiceName;
/// use devroute_tower::outbound::MakeServiceName;
/// use http::uri::Authority;
///
/// // One gateway, a port a service.
/// let by_port = |authority: &Authority| match authority.port_u16() {
///     Some(8001) => ServiceName::new("checkout").ok(),
///     Some(8002) => ServiceName::new("search").ok(),
///     _ => None,
/// };
/// let name = by_port.make_service_name(&"gateway:8002".parse()?);
/// assert_eq!(name.unwrap().as_str(), "search");
/// # Ok::<(), http::uri::InvalidUri>(())
/// ```
pub trait MakeServiceName {
    /// Returns the service's name; `None` where no contract can name what answers there.
    fn make_service_name(&self, authority: &Authority) -> Option<ServiceName>;
}

impl<F> MakeServiceName for F
where
    F: Fn(&Authority) -> Option<ServiceName>,
{
    fn make_service_name(&self, authority: &Authority) -> Option<ServiceName> {
        self(authority)
    }
}

/// Takes the first label of a host name for the service, as Kubernetes does: `checkout` for
/// `checkout`, `checkout:8080` and `checkout.qa.svc.cluster.local`.
///
/// In lower case, since host names know none and service names do. An IP address has no name.
///
/// ```
/// use devroute_tower::outbound::{FirstLabel, MakeServiceName as _};
///
/// let name = FirstLabel.make_service_name(&"Checkout.qa.svc:8080".parse()?);
/// assert_eq!(name.unwrap().as_str(), "checkout");
/// assert!(FirstLabel.make_service_name(&"10.0.0.1:8080".parse()?).is_none());
/// # Ok::<(), http::uri::InvalidUri>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FirstLabel;

impl MakeServiceName for FirstLabel {
    fn make_service_name(&self, authority: &Authority) -> Option<ServiceName> {
        let Some(Host::Name(name)) = Host::parse(authority.host()) else {
            return None;
        };
        let label = name.split('.').next()?;
        ServiceName::new(&label.to_ascii_lowercase()).ok()
    }
}
