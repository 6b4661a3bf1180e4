//! `/_healthz` on the router's own port, as the reference implementation has it.
//!
//! Only for probes: a rerouted request, which names its service, belongs to that service's target
//! whatever its path is.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use devroute_tower::core::carrier;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

/// Answers health probes in front of a service.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HealthLayer;

impl<S> Layer<S> for HealthLayer {
    type Service = Health<S>;

    fn layer(&self, inner: S) -> Health<S> {
        Health { inner }
    }
}

/// The service of [`HealthLayer`].
#[derive(Clone, Debug)]
pub(crate) struct Health<S> {
    inner: S,
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for Health<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
{
    type Response = Response<HealthBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let is_probe = request.uri().path() == "/_healthz"
            && !request.headers().contains_key(carrier::MATCHED);
        if is_probe {
            ResponseFuture::Healthy
        } else {
            ResponseFuture::Inner {
                future: self.inner.call(request),
            }
        }
    }
}

pin_project! {
    /// The future of [`Health`].
    #[derive(Debug)]
    #[project = ResponseFutureProj]
    pub(crate) enum ResponseFuture<F> {
        Healthy,
        Inner { #[pin] future: F },
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<HealthBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match self.project() {
            ResponseFutureProj::Healthy => Ok(Response::new(HealthBody::Healthy {
                body: Full::from("OK"),
            })),
            ResponseFutureProj::Inner { future } => {
                ready!(future.poll(cx)).map(|response| response.map(HealthBody::inner))
            }
        })
    }
}

pin_project! {
    /// The body of an answer of [`Health`].
    #[derive(Debug)]
    #[project = HealthBodyProj]
    pub(crate) enum HealthBody<B> {
        Healthy { #[pin] body: Full<Bytes> },
        Inner { #[pin] body: B },
    }
}

impl<B> HealthBody<B> {
    fn inner(body: B) -> Self {
        Self::Inner { body }
    }
}

impl<B: Body<Data = Bytes>> Body for HealthBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project() {
            HealthBodyProj::Healthy { body } => body.poll_frame(cx).map_err(|never| match never {}),
            HealthBodyProj::Inner { body } => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Healthy { body } => body.is_end_stream(),
            Self::Inner { body } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Healthy { body } => body.size_hint(),
            Self::Inner { body } => body.size_hint(),
        }
    }
}
