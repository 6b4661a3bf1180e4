//! The service of a connection: counts what is in flight, and answers what is too much.
//!
//! Around the service of the mode, and inside HTTP: it sees each request after its head is read and
//! each answer before it is written. An answer over HTTP/1 that begins during a drain is the last one
//! on its connection, and says so (RFC 9112, section 9.6).
//!
//! Refused here, each with a problem (RFC 9457) or the status of gRPC: every request of a connection
//! that is one too many, an HTTP/2 request with too many fields, and a body that is too long. HTTP/1 is
//! refused too many fields while it is read, by hyper, with an empty body.
//!
//! A request of HTTP/2 may have been reset by the time that it comes here. Where a client does that often,
//! the next one is looked at again before anybody is asked.
//!
//! A body whose length is known is refused before anybody sees the request; any other one when it has
//! become too long, which whoever reads it sees as a body that broke off. An answer that has begun by
//! then breaks off too.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use devroute_tower::transport::Tunnel;
use devroute_tunnel::auth::ChannelBinding;
use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::{Method, Request, Response, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use tower::ServiceExt as _;
use tower::util::Oneshot;
use tower_service::Service;

use super::activity::{Activity, InFlight};
use super::refusal::Refusal;
use super::{Limits, RequestBody};
use crate::metrics::Limit;

/// The service of one connection.
#[derive(Debug)]
pub(super) struct Exchange<S> {
    // Taken for a call, and by nobody else: a clone for each would count a dozen references.
    inner: Mutex<S>,
    activity: Arc<Activity>,
    limits: Limits,
    /// Whether the connection is one too many.
    refused: bool,
    /// What requests are told of the TLS session, where somebody wants to know.
    binding: Option<ChannelBinding>,
}

impl<S> Exchange<S> {
    pub(super) fn new(inner: S, activity: Arc<Activity>, limits: Limits) -> Self {
        Self {
            inner: Mutex::new(inner),
            activity,
            limits,
            refused: false,
            binding: None,
        }
    }

    /// Tells requests of the TLS session.
    pub(super) fn binding(mut self, binding: Option<ChannelBinding>) -> Self {
        self.binding = binding;
        self
    }

    /// Refuses everything, the connection being one too many.
    pub(super) fn refused(mut self, refused: bool) -> Self {
        self.refused = refused;
        self
    }
}

impl<S, ResBody> hyper::service::Service<Request<Incoming>> for Exchange<S>
where
    S: Service<Request<RequestBody>, Response = Response<ResBody>, Error = Infallible> + Clone,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = Infallible;
    type Future = ResponseFuture<S>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let in_flight = Arc::clone(&self.activity).request();
        let is_http1 = request.version() < Version::HTTP_2;
        let may_be_tunnel = is_http1 && may_be_tunnel(&request);
        let refusal = if self.refused {
            Some(Refusal::Connections)
        } else if request.headers().len() > self.limits.headers {
            self.activity.open().limit_reached(Limit::Head);
            Some(Refusal::Head)
        } else if self.is_too_long(request.body()) {
            self.activity.open().limit_reached(Limit::Body);
            Some(Refusal::Body)
        } else {
            None
        };
        let mut too_long = None;
        let answer = match refusal {
            Some(refusal) => Answer::Own {
                response: Some(refusal.response(request.method(), request.headers())),
            },
            None => {
                let (mut head, body) = request.into_parts();
                if let Some(binding) = self.binding {
                    head.extensions.insert(binding);
                }
                let body = match self.limits.body {
                    Some(limit) if body.size_hint().exact().is_none() => {
                        let (body, seen) = limited(body, limit);
                        let refusal = Refusal::Body.response(&head.method, &head.headers);
                        too_long = Some(Box::new((seen, refusal)));
                        body
                    }
                    _ => RequestBody::new(body),
                };
                let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
                Answer::of(&mut *inner, Request::from_parts(head, body))
            }
        };
        ResponseFuture {
            answer,
            waits: !is_http1 && self.activity.is_fickle(),
            in_flight: Some(in_flight),
            too_long,
            is_http1,
            is_last: self.refused || refusal == Some(Refusal::Body),
            may_be_tunnel,
        }
    }
}

/// Whether anything may come behind the head of this request, where the answer agrees to it: what comes
/// there is not looked at (see `strict`), so where the answer does not, it must not become a request.
fn may_be_tunnel<B>(request: &Request<B>) -> bool {
    let upgrades = request.headers().get_all(UPGRADE);
    let is_h2c = |line: &HeaderValue| {
        line.as_bytes()
            .split(|byte| *byte == b',')
            .any(|token| token.trim_ascii().eq_ignore_ascii_case(b"h2c"))
    };
    request.method() == Method::CONNECT
        || (upgrades.iter().next().is_some() && !upgrades.iter().any(is_h2c))
}

impl<S> Exchange<S> {
    fn is_too_long(&self, body: &Incoming) -> bool {
        let least = body.size_hint().lower();
        let limit = self.limits.body;
        limit.is_some_and(|limit| usize::try_from(least).map_or(true, |least| least > limit))
    }
}

/// Lets `body` fail behind its first `limit` bytes, and take note of it.
fn limited(body: Incoming, limit: usize) -> (RequestBody, Arc<AtomicBool>) {
    let is_too_long = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&is_too_long);
    let body = Limited::new(body, limit).map_err(move |error| {
        if error.is::<LengthLimitError>() {
            is_too_long.store(true, Ordering::Relaxed);
        }
        error
    });
    (RequestBody::new(body), seen)
}

pin_project! {
    /// The future of [`Exchange`].
    pub(super) struct ResponseFuture<S>
    where
        S: Service<Request<RequestBody>>,
    {
        #[pin]
        answer: Answer<S>,
        in_flight: Option<InFlight>,
        // Whether the body has turned out to be too long, and what is answered then.
        too_long: Option<Box<(Arc<AtomicBool>, Response<Full<Bytes>>)>>,
        is_http1: bool,
        is_last: bool,
        may_be_tunnel: bool,
        // Whether it lets the connection look first whether its stream has been reset already.
        waits: bool,
    }
}

pin_project! {
    #[project = AnswerProj]
    enum Answer<S>
    where
        S: Service<Request<RequestBody>>,
    {
        Own { response: Option<Response<Full<Bytes>>> },
        Called { #[pin] future: S::Future },
        // For a service that is not ready at once, which those of this program are: a connection
        // has room for the future of an answer, and not for the request beside it.
        Waiting { #[pin] oneshot: Pin<Box<Oneshot<S, Request<RequestBody>>>> },
    }
}

impl<S> Answer<S>
where
    S: Service<Request<RequestBody>, Error = Infallible> + Clone,
{
    fn of(service: &mut S, request: Request<RequestBody>) -> Self {
        match service.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => Self::Called {
                future: service.call(request),
            },
            Poll::Ready(Err(never)) => match never {},
            Poll::Pending => Self::Waiting {
                oneshot: Box::pin(service.clone().oneshot(request)),
            },
        }
    }
}

impl<S, ResBody> Future for ResponseFuture<S>
where
    S: Service<Request<RequestBody>, Response = Response<ResBody>, Error = Infallible>,
{
    type Output = Result<Response<ResponseBody<ResBody>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if std::mem::take(this.waits) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let mut response = match this.answer.project() {
            AnswerProj::Own { response } => {
                let response = response.take().unwrap_or_default();
                response.map(|body| Inside::Own { body })
            }
            AnswerProj::Called { future } => {
                ready!(future.poll(cx))?.map(|body| Inside::Inner { body })
            }
            AnswerProj::Waiting { oneshot } => {
                ready!(oneshot.poll(cx))?.map(|body| Inside::Inner { body })
            }
        };
        let mut in_flight = this.in_flight.take();
        if let Some(in_flight) = &mut in_flight {
            in_flight.answered();
        }
        let too_long = this.too_long.take().map(|too_long| *too_long);
        if let Some((_, refusal)) = too_long.filter(|(seen, _)| seen.load(Ordering::Relaxed)) {
            if let Some(in_flight) = &in_flight {
                in_flight.activity().open().limit_reached(Limit::Body);
            }
            *this.is_last = true;
            response = refusal.map(|body| Inside::Own { body });
        }
        let draining = in_flight
            .as_ref()
            .is_some_and(|in_flight| in_flight.activity().is_draining());
        // A success is what CONNECT asks for. Of any other request it refuses the upgrade.
        let is_refused = *this.may_be_tunnel && response.extensions().get::<Tunnel>().is_none();
        let is_last = *this.is_http1 && (*this.is_last || is_refused || draining);
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            // It has its own end, and its own `connection` field.
            if let Some(in_flight) = &in_flight {
                in_flight.activity().becomes_a_tunnel();
            }
        } else if is_last {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        Poll::Ready(Ok(response.map(|inside| ResponseBody { inside, in_flight })))
    }
}

pin_project! {
    /// The body of an answer, which is in flight as long as this lives.
    #[derive(Debug)]
    pub(super) struct ResponseBody<B> {
        #[pin]
        inside: Inside<B>,
        in_flight: Option<InFlight>,
    }
}

pin_project! {
    #[derive(Debug)]
    #[project = InsideProj]
    enum Inside<B> {
        Own { #[pin] body: Full<Bytes> },
        Inner { #[pin] body: B },
    }
}

impl<B: Body<Data = Bytes>> Body for ResponseBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project().inside.project() {
            InsideProj::Own { body } => body.poll_frame(cx).map_err(|never| match never {}),
            InsideProj::Inner { body } => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.inside {
            Inside::Own { body } => body.is_end_stream(),
            Inside::Inner { body } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inside {
            Inside::Own { body } => body.size_hint(),
            Inside::Inner { body } => body.size_hint(),
        }
    }
}
