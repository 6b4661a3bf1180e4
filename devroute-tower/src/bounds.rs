//! What the layers ask of what they wrap, said once.
//!
//! For private functions only: where documentation shows the bounds, in the `impl Service`, they are
//! spelled out.

use http::{Request, Response};
use http_body::Body as HttpBody;
use tower_service::Service;

use crate::{BoxError, transport::Body};

/// A body that can be boxed, and sent from a future that is.
pub(crate) trait Payload:
    HttpBody<Data: Send, Error: Into<BoxError>> + Send + 'static
{
}

impl<B> Payload for B where B: HttpBody<Data: Send, Error: Into<BoxError>> + Send + 'static {}

/// The service that a layer stands in front of; it may be called from a boxed future.
pub(crate) trait Inner<ReqBody>:
    Service<
        Request<ReqBody>,
        Response = Response<Self::ResBody>,
        Error: Send,
        Future: Send + 'static,
    > + Clone
    + Send
    + 'static
{
    /// The body of its answers.
    type ResBody: Send + 'static;
}

impl<S, ReqBody, ResBody> Inner<ReqBody> for S
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>, Error: Send, Future: Send + 'static>
        + Clone
        + Send
        + 'static,
    ResBody: Send + 'static,
{
    type ResBody = ResBody;
}

/// The way to a target.
pub(crate) trait Transport:
    Service<Request<Body>, Response = Response<Self::ResBody>, Error: Into<BoxError>, Future: Send>
    + Clone
    + Send
    + 'static
{
    /// The body of a target's answers.
    type ResBody: Payload;
}

impl<T, ResBody> Transport for T
where
    T: Service<Request<Body>, Response = Response<ResBody>, Error: Into<BoxError>, Future: Send>
        + Clone
        + Send
        + 'static,
    ResBody: Payload,
{
    type ResBody = ResBody;
}
