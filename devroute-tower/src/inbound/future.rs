//! The answer to come.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use devroute_core::carrier;
use http::Response;
use pin_project_lite::pin_project;

use super::ResponseBody;
use crate::{context::Scope, outcome::Outcome};

pin_project! {
    /// The future of [`DevRoute`](crate::DevRoute).
    ///
    /// The baseline's own future is held in it as it is; only a rerouted request is boxed.
    pub struct ResponseFuture<F, B, E> {
        #[pin]
        kind: Kind<F, B, E>,
    }
}

type Boxed<B, E> = Pin<Box<dyn Future<Output = Result<Response<ResponseBody<B>>, E>> + Send>>;

pin_project! {
    #[project = KindProj]
    enum Kind<F, B, E> {
        // No contract: nothing is wrapped.
        Plain { #[pin] future: F },
        // The contract is in scope in every poll, and in those of the body.
        Scoped { #[pin] future: Scope<F>, outcome: Option<Outcome> },
        Rerouted { future: Boxed<B, E> },
        Refused { response: Option<Box<Response<ResponseBody<B>>>> },
    }
}

impl<F, B, E> ResponseFuture<F, B, E> {
    pub(super) fn plain(future: F) -> Self {
        Self {
            kind: Kind::Plain { future },
        }
    }

    pub(super) fn scoped(future: Scope<F>, outcome: Outcome) -> Self {
        Self {
            kind: Kind::Scoped {
                future,
                outcome: Some(outcome),
            },
        }
    }

    pub(super) fn rerouted(future: Boxed<B, E>) -> Self {
        Self {
            kind: Kind::Rerouted { future },
        }
    }

    pub(super) fn refused(response: Response<ResponseBody<B>>) -> Self {
        Self {
            kind: Kind::Refused {
                response: Some(Box::new(response)),
            },
        }
    }
}

/// Finishes the baseline's answer to a request with a contract.
pub(super) fn scoped_answer<B>(
    response: Response<B>,
    outcome: Option<Outcome>,
) -> Response<ResponseBody<B>> {
    let Some(outcome) = outcome else {
        return response.map(ResponseBody::plain);
    };
    let mut response = match outcome.contract().cloned() {
        Some(contract) => response.map(|body| ResponseBody::scoped(body, contract)),
        None => response.map(ResponseBody::plain),
    };
    // The baseline's own marks show no address.
    if let Some(mark) = outcome.mark(false) {
        response.headers_mut().insert(carrier::ROUTED, mark);
    }
    response.extensions_mut().insert(outcome);
    response
}

impl<F, B, E> Future for ResponseFuture<F, B, E>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<ResponseBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().kind.project() {
            KindProj::Plain { future } => {
                let response = ready!(future.poll(cx))?;
                Poll::Ready(Ok(response.map(ResponseBody::plain)))
            }
            KindProj::Scoped { future, outcome } => {
                let response = ready!(future.poll(cx))?;
                Poll::Ready(Ok(scoped_answer(response, outcome.take())))
            }
            KindProj::Rerouted { future } => future.as_mut().poll(cx),
            KindProj::Refused { response } => match response.take() {
                Some(response) => Poll::Ready(Ok(*response)),
                None => Poll::Pending,
            },
        }
    }
}

impl<F, B, E> fmt::Debug for ResponseFuture<F, B, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.kind {
            Kind::Plain { .. } => "Plain",
            Kind::Scoped { .. } => "Scoped",
            Kind::Rerouted { .. } => "Rerouted",
            Kind::Refused { .. } => "Refused",
        };
        f.debug_struct("ResponseFuture")
            .field("kind", &kind)
            .finish_non_exhaustive()
    }
}
