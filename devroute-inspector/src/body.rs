//! Bodies that are looked at as they pass.
//!
//! A frame is handed on as it comes, in the poll that it comes in; what is kept of it is a copy. Sizes and
//! ends are those of the body inside, so what was sent with a length still is.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::exchange::BodyState;
use crate::store::{Side, Store};

pin_project! {
    /// A body of a request or an answer, seen by an [`Inspector`](crate::Inspector) or not.
    ///
    /// Where it is not, it is the body inside and nothing else.
    #[derive(Debug)]
    pub struct InspectBody<B> {
        #[pin]
        inner: Inner<B>,
        tap: Option<Tap>,
    }
}

pin_project! {
    #[derive(Debug)]
    #[project = InnerProj]
    enum Inner<B> {
        Passing { #[pin] body: B },
        Again { body: Again },
    }
}

/// The bodies that a service inside takes, of requests that come with a `B`.
pub trait Bodies<B>: Clone + Send + 'static {
    /// What it takes.
    type Body: Send;

    /// Of a request that nobody looks at.
    fn passing(&self, body: B) -> Self::Body;

    /// Of one that is recorded, or sent again.
    fn seen(&self, body: InspectBody<B>) -> Self::Body;
}

/// The service takes an [`InspectBody`].
#[derive(Clone, Copy, Debug)]
pub struct InspectBodies;

impl<B: Body<Data = Bytes> + Send> Bodies<B> for InspectBodies {
    type Body = InspectBody<B>;

    fn passing(&self, body: B) -> InspectBody<B> {
        InspectBody::passing(body)
    }

    fn seen(&self, body: InspectBody<B>) -> InspectBody<B> {
        body
    }
}

/// The service takes what comes, into which a function makes what is seen.
#[derive(Clone, Copy, Debug)]
pub struct SameBodies<F>(pub(crate) F);

impl<B: Send, F> Bodies<B> for SameBodies<F>
where
    F: Fn(InspectBody<B>) -> B + Clone + Send + 'static,
{
    type Body = B;

    fn passing(&self, body: B) -> B {
        body
    }

    fn seen(&self, body: InspectBody<B>) -> B {
        (self.0)(body)
    }
}

/// A body that was kept, to be sent once more.
#[derive(Clone, Debug, Default)]
pub(crate) struct Again {
    pub(crate) data: Option<Bytes>,
    pub(crate) trailers: Option<HeaderMap>,
}

impl<B: Body<Data = Bytes>> InspectBody<B> {
    /// A body that nobody looks at.
    pub(crate) fn passing(body: B) -> Self {
        Self {
            inner: Inner::Passing { body },
            tap: None,
        }
    }

    /// A body that is kept, as far as it may be.
    pub(crate) fn tapped(body: B, tap: Tap) -> Self {
        Self {
            inner: Inner::Passing { body },
            tap: Some(tap),
        }
        .begun()
    }

    /// A body that was kept.
    pub(crate) fn again(body: Again, tap: Tap) -> Self {
        Self {
            inner: Inner::Again { body },
            tap: Some(tap),
        }
        .begun()
    }

    /// A server does not poll a body that is at its end already.
    fn begun(mut self) -> Self {
        let (is_over, exact) = (self.inner.is_end_stream(), self.inner.size_hint().exact());
        if let Some(tap) = &mut self.tap {
            tap.expected = exact;
            if is_over {
                tap.end(BodyState::Complete);
            }
        }
        self
    }
}

impl<B> Body for InspectBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let mut this = self.project();
        let Some(tap) = this.tap else {
            return this.inner.poll_frame(cx);
        };
        let frame = ready!(this.inner.as_mut().poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                tap.pass(frame);
                if this.inner.is_end_stream() {
                    tap.end(BodyState::Complete);
                }
            }
            Some(Err(error)) => tap.end(BodyState::Cut(error.to_string())),
            None => tap.end(BodyState::Complete),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<B: Body<Data = Bytes>> Body for Inner<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project() {
            InnerProj::Passing { body } => body.poll_frame(cx),
            InnerProj::Again { body } => {
                let data = body.data.take().map(Frame::data);
                let frame = data.or_else(|| body.trailers.take().map(Frame::trailers));
                Poll::Ready(frame.map(Ok))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Passing { body } => body.is_end_stream(),
            Self::Again { body } => body.data.is_none() && body.trailers.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Passing { body } => body.size_hint(),
            Self::Again { body } => {
                let length = body.data.as_ref().map_or(0, Bytes::len);
                SizeHint::with_exact(length as u64)
            }
        }
    }
}

/// What keeps a copy of what passes.
#[derive(Debug)]
pub(crate) struct Tap {
    store: Arc<Store>,
    id: u64,
    side: Side,
    /// How long the body says that it is.
    expected: Option<u64>,
    passed: u64,
    is_over: bool,
}

impl Tap {
    pub(crate) fn new(store: Arc<Store>, id: u64, side: Side) -> Self {
        Self {
            store,
            id,
            side,
            expected: None,
            passed: 0,
            is_over: false,
        }
    }

    fn pass(&mut self, frame: &Frame<Bytes>) {
        if let Some(data) = frame.data_ref() {
            self.passed += data.len() as u64;
            self.store.data(self.id, self.side, data);
        } else if let Some(trailers) = frame.trailers_ref() {
            self.store.trailers(self.id, self.side, trailers);
        }
    }

    fn end(&mut self, state: BodyState) {
        if !self.is_over {
            self.is_over = true;
            self.store.body_ended(self.id, self.side, state);
        }
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        // Whoever knows the length need not ask for the end.
        self.end(if self.expected == Some(self.passed) {
            BodyState::Complete
        } else {
            BodyState::Dropped
        });
    }
}
