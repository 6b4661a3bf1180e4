#![doc = include_str!("outbound.md")]

mod attach;
mod egress;
mod future;
mod layer;
mod notice;
mod reroute;
mod service;
mod service_name;

#[cfg(feature = "reqwest-middleware")]
pub(crate) use self::attach::Attach;
pub(crate) use self::attach::authority_of;
pub use self::{
    attach::outgoing_headers,
    egress::InternalHosts,
    future::ResponseFuture,
    layer::DevRouteClientLayer,
    reroute::{DevRouteClientReroute, DevRouteClientRerouteLayer},
    service::DevRouteClient,
    service_name::{FirstLabel, MakeServiceName},
};
pub use crate::unwritten::OnUnwritten;
