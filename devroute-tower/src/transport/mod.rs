//! How a request reaches a target.
//!
//! A transport is any [`Service`](tower_service::Service) of a [`Request`](http::Request)
//! with a [`Body`]. [`HttpTransport`] is the one that layers use by default; a transport of your
//! own replaces it in one line:
//!
//! ```
//! use std::{convert::Infallible, future::ready};
//! use devroute_tower::{DevRouteLayer, transport};
//! use http::{Request, Response};
//! use tower::{ServiceExt as _, Layer as _, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! // Answers every rerouted request itself, and shows the address it was to dial.
//! let recorder = service_fn(|request: Request<transport::Body>| {
//!     let target = request.uri().authority().map(ToString::to_string).unwrap_or_default();
//!     ready(Ok::<_, Infallible>(Response::new(target)))
//! });
//! let baseline = service_fn(|_: Request<String>| ready(Ok::<_, Infallible>(Response::new(String::new()))));
//!
//! let service = DevRouteLayer::new("foo").transport(recorder).layer(baseline);
//! let request = Request::get("/")
//!     .header("x-devroute", r#"{"foo":"192.168.1.12:8001"}"#)
//!     .body(String::new())
//!     .unwrap();
//! let response = service.oneshot(request).await.unwrap();
//!
//! assert_eq!(response.headers()["x-devroute-routed"], "foo=192.168.1.12:8001");
//! let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
//! assert_eq!(body, "192.168.1.12:8001");
//! # }
//! ```

mod body;
mod connect;
mod connects;
mod destination;
mod error;
mod forwarder;
mod gate;
mod h1;
mod h2;
mod http_transport;
mod lookup;
mod peer;
mod pool;
mod received;
mod relay;
mod repeat;
mod response;
mod response_timeout;
mod slots;
mod stream;
#[cfg(feature = "tls")]
mod tls;
mod trailers;
mod upstream;

#[cfg(feature = "tls")]
#[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
pub use self::tls::{ParseTlsNameError, TlsConfig, TlsConfigError, TlsName};
pub use self::{
    body::Body,
    connects::Connects,
    destination::{Destination, Protocol},
    error::{Error, ErrorKind},
    forwarder::{Forwarder, Tunnel},
    http_transport::{HttpTransport, ResponseFuture},
    response::ResponseBody,
    trailers::{AnnouncedTrailers, OnTrailersDropped},
    upstream::{Upstream, UpstreamAddr, UpstreamFailure},
};
pub(crate) use self::{destination::is_grpc, h1::BodyUnread, lookup::Lookups};
