//! The outbound half: carry the contract on to the requests that a service makes.
//!
//! For every outgoing request [`DevRouteClient`] does this, in order:
//!
//! 1. No contract anywhere: the request passes as it is. Nothing is allocated, and the future is
//!    the inner service's own.
//! 2. `x-devroute-matched` is removed. It marks one rerouted request at one service and goes no
//!    further; an application that copies its incoming fields would pass it on.
//! 3. The destination is looked up: the authority of the request's URI, else what
//!    [`DevRouteClientLayer::destination`] says, else the request's one `Host` field. Where none of
//!    them tells, nothing is attached and nothing removed, and a debug line says why.
//! 4. To a destination that is not one of the [`InternalHosts`], the contract does not go: the field
//!    and our `baggage` member are removed, also when the application set them. The other members
//!    stay as they are.
//! 5. To an internal one goes, in this order of preference, the contract in the field `x-devroute`
//!    that the application set, the [`Contract`](devroute_core::Contract) in the request's
//!    extensions, the one [in scope](crate::context), the member of the request's `baggage`. It is
//!    written to both carriers, or to the field alone where it is too long for `baggage`. Where the
//!    first of these is malformed the request is left as it is, for the next hop to refuse.
//!
//! An application that wants a request to go *without* the contract sets `x-devroute: {}`, which
//! is a contract that reroutes nothing.
//!
//! With [`DevRouteClientLayer::reroute`] the layer also obeys the contract, at the caller: for
//! services that have no layer of their own, or no instance at all. See
//! [`DevRouteClientRerouteLayer`].
//!
//! ```
//! use devroute_core::Contract;
//! use devroute_tower::{DevRouteClientLayer, context};
//! use http::{Request, Response};
//! use tower::{ServiceBuilder, ServiceExt as _, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Stands for the client: answers with the field that it was to send.
//! let client = service_fn(|request: Request<()>| async move {
//!     Ok::<_, std::convert::Infallible>(Response::new(request.headers().get("x-devroute").cloned()))
//! });
//! let client = ServiceBuilder::new()
//!     .layer(DevRouteClientLayer::new())
//!     .service(client);
//!
//! let contract: Contract = r#"{"foo":"192.168.1.12:8001"}"#.parse()?;
//! context::scope(contract, async {
//!     let inside = Request::get("http://checkout/").body(())?;
//!     let sent = client.clone().oneshot(inside).await?.into_body();
//!     assert_eq!(sent.unwrap(), r#"{"foo":"192.168.1.12:8001"}"#);
//!
//!     let outside = Request::get("http://example.com/").body(())?;
//!     let sent = client.clone().oneshot(outside).await?.into_body();
//!     assert_eq!(sent, None);
//!     Ok(())
//! })
//! .await
//! # }
//! ```
//!
//! # tonic
//!
//! Requests above a tonic `Channel` have no authority, and no `Host`: tell the layer where the
//! channel leads, or nothing is attached.
//!
//! ```
//! use devroute_tower::DevRouteClientLayer;
//! use tonic::transport::{Endpoint, Uri};
//! use tonic_health::pb::health_client::HealthClient;
//! use tower::ServiceBuilder;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), http::uri::InvalidUri> {
//! let uri: Uri = "http://greeter.qa.svc:50051".parse()?;
//! let channel = ServiceBuilder::new()
//!     .layer(DevRouteClientLayer::new().destination(&uri))
//!     .service(Endpoint::from(uri).connect_lazy());
//! let client = HealthClient::new(channel);
//! # let _ = client;
//! # Ok(())
//! # }
//! ```

mod attach;
mod egress;
mod future;
mod layer;
mod notice;
mod reroute;
mod service;
mod service_name;
mod unwritten;

#[cfg(feature = "reqwest-middleware")]
pub(crate) use self::attach::Attach;
pub use self::{
    attach::outgoing_headers,
    egress::InternalHosts,
    future::ResponseFuture,
    layer::DevRouteClientLayer,
    reroute::{DevRouteClientReroute, DevRouteClientRerouteLayer},
    service::DevRouteClient,
    service_name::{FirstLabel, MakeServiceName},
    unwritten::OnUnwritten,
};
