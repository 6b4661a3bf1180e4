//! In front of the service: what comes in.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use devroute_core::Contract;
use http::{Request, Response, header::UPGRADE};
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::{Correlations, InFlight};

/// Remembers the contracts of the requests to a service by their ids.
///
/// It belongs right in front of the service, inside [`DevRouteLayer`](crate::DevRouteLayer), which leaves
/// the contract in the extensions of the request: what is answered by a target is none of the
/// service's.
#[derive(Clone, Debug)]
#[must_use = "a layer does nothing until it wraps a service"]
pub struct RememberLayer {
    correlations: Option<Correlations>,
}

impl RememberLayer {
    /// Remembers in `correlations`.
    pub fn new(correlations: Correlations) -> Self {
        Self {
            correlations: Some(correlations),
        }
    }

    /// Remembers nothing: for a stack that is the same with and without a table.
    pub fn off() -> Self {
        Self { correlations: None }
    }
}

impl<S> Layer<S> for RememberLayer {
    type Service = Remember<S>;

    fn layer(&self, inner: S) -> Remember<S> {
        Remember {
            inner,
            correlations: self.correlations.clone(),
        }
    }
}

/// The service of [`RememberLayer`].
#[derive(Clone, Debug)]
pub struct Remember<S> {
    inner: S,
    correlations: Option<Correlations>,
}

impl<S> Remember<S> {
    fn in_flight<B>(&self, request: &mut Request<B>) -> Option<InFlight> {
        let correlations = self.correlations.as_ref()?;
        let contract = request.extensions().get::<Contract>()?.clone();
        let in_flight = correlations.remember(request.headers_mut(), &contract);
        if request.headers().contains_key(UPGRADE) {
            // A tunnel, if it comes to one, outlives the answer.
            request.extensions_mut().insert(in_flight.clone());
        }
        Some(in_flight)
    }
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for Remember<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
{
    type Response = Response<RememberedBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        let in_flight = self.in_flight(&mut request);
        ResponseFuture {
            future: self.inner.call(request),
            in_flight,
        }
    }
}

pin_project! {
    /// The future of [`Remember`].
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        #[pin]
        future: F,
        in_flight: Option<InFlight>,
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<RememberedBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.future.poll(cx))?;
        let in_flight = this.in_flight.take();
        Poll::Ready(Ok(response.map(|body| RememberedBody { body, in_flight })))
    }
}

pin_project! {
    /// The body of an answer that went through [`Remember`]: the request is in flight as long as it
    /// lives.
    #[derive(Debug)]
    pub struct RememberedBody<B> {
        #[pin]
        body: B,
        in_flight: Option<InFlight>,
    }
}

impl<B: HttpBody> HttpBody for RememberedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.project().body.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
