use std::task::{Context, Poll};

use http::Request;
use tower_service::Service;

use super::attach::Attach;

/// Carries the contract on to the requests that go through it; made by
/// [`DevRouteClientLayer`](super::DevRouteClientLayer).
#[derive(Clone, Debug)]
pub struct DevRouteClient<S> {
    pub(super) inner: S,
    pub(super) attach: Attach,
}

impl<S, B> Service<Request<B>> for DevRouteClient<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    // All the work is done before the call, so there is nothing to wrap.
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let request = match self.attach.find(request.headers(), request.extensions()) {
            Some(pending) => {
                let (mut parts, body) = request.into_parts();
                self.attach.apply(&parts.uri, &mut parts.headers, pending);
                Request::from_parts(parts, body)
            }
            None => request,
        };
        self.inner.call(request)
    }
}
