//! The body of a request on its way to a target.

use std::{
    any::Any,
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;

use super::{
    gate::{Gate, GateKey, gate},
    trailers::Watch,
};
use crate::BoxError;

/// The body of a request that is handed to a transport.
///
/// It streams: nothing is read from the client before the transport asks for it. One type, so
/// that connections can be pooled whatever the body of the embedding service is. It is as large as a
/// pointer, since a request is moved a few dozen times on its way; one without a byte allocates nothing.
///
/// ```
/// use devroute_tower::transport::Body;
/// use http_body::Body as _;
///
/// let body = Body::new(String::from("hello"));
/// assert_eq!(body.size_hint().exact(), Some(5));
/// assert!(Body::empty().is_end_stream());
/// ```
pub struct Body(Option<Box<Inner>>);

struct Inner {
    kind: Kind,
    sent: Option<Sent>,
    gate: Option<Gate>,
    trailers: Option<Watch>,
}

enum Kind {
    Incoming(Incoming),
    Boxed(Pin<Box<dyn HttpBody<Data = Bytes, Error = BoxError> + Send>>),
}

/// Tells whether a request's body has been handed over to the connection, or dropped.
#[derive(Clone, Debug)]
pub(super) struct Sent(Arc<AtomicBool>);

impl Sent {
    pub(super) fn is_done(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

impl Body {
    /// A body without a byte.
    #[must_use]
    pub fn empty() -> Self {
        Self(None)
    }

    /// Any body; its data is passed on without a copy where it is `Bytes` already.
    pub fn new<B>(body: B) -> Self
    where
        B: HttpBody + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        if body.is_end_stream() {
            return Self::empty();
        }
        let mut slot = Some(body);
        if let Some(body) = take_as::<B, Self>(&mut slot) {
            return body;
        }
        let kind = match take_as::<B, Incoming>(&mut slot) {
            Some(incoming) => Some(Kind::Incoming(incoming)),
            None => slot.map(|body| Kind::Boxed(Box::pin(IntoBytes { body }))),
        };
        Self(kind.map(|kind| {
            Box::new(Inner {
                kind,
                sent: None,
                gate: None,
                trailers: None,
            })
        }))
    }

    /// Watches the body being sent: `None` where there is nothing to send.
    pub(super) fn watch(&mut self) -> Option<Sent> {
        let inner = self.0.as_mut().filter(|inner| !inner.is_end_stream())?;
        let sent = Sent(Arc::new(AtomicBool::new(false)));
        inner.sent = Some(sent.clone());
        Some(sent)
    }

    /// Holds the body back until the target wants it (RFC 9110, section 10.1.1); `None` where there
    /// is nothing to hold.
    pub(super) fn hold(&mut self) -> Option<GateKey> {
        let inner = self.0.as_mut()?;
        let (gate, key) = gate();
        inner.gate = Some(gate);
        Some(key)
    }

    /// Looks at its trailers, or no more.
    pub(super) fn watch_trailers(&mut self, watch: Option<Watch>) {
        if let Some(inner) = &mut self.0 {
            inner.trailers = watch;
        }
    }
}

impl Inner {
    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Incoming(body) => body.is_end_stream(),
            Kind::Boxed(body) => body.is_end_stream(),
        }
    }

    fn done(&mut self) {
        if let Some(Sent(flag)) = self.sent.take() {
            flag.store(true, Ordering::Release);
        }
    }
}

/// Takes the value out of `slot` where it is a `To`, so that a known type needs no box.
pub(super) fn take_as<From: 'static, To: 'static>(slot: &mut Option<From>) -> Option<To> {
    (slot as &mut dyn Any)
        .downcast_mut::<Option<To>>()
        .and_then(Option::take)
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.done();
    }
}

impl Default for Body {
    fn default() -> Self {
        Self::empty()
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(inner) = &mut self.0 else {
            return Poll::Ready(None);
        };
        if let Some(gate) = &mut inner.gate {
            ready!(gate.poll_open(cx));
            inner.gate = None;
        }
        let frame = match &mut inner.kind {
            Kind::Incoming(body) => {
                ready!(Pin::new(body).poll_frame(cx)).map(|frame| frame.map_err(Into::into))
            }
            Kind::Boxed(body) => ready!(body.as_mut().poll_frame(cx)),
        };
        if let (Some(watch), Some(Ok(frame))) = (&inner.trailers, &frame) {
            if let Some(trailers) = frame.trailers_ref() {
                watch.see(trailers);
            }
        }
        if !matches!(frame, Some(Ok(_))) || inner.is_end_stream() {
            inner.done();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|inner| inner.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            None => SizeHint::with_exact(0),
            Some(inner) => match &inner.kind {
                Kind::Incoming(body) => body.size_hint(),
                Kind::Boxed(body) => body.size_hint(),
            },
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body")
            .field("size_hint", &self.size_hint())
            .finish_non_exhaustive()
    }
}

pin_project_lite::pin_project! {
    /// Any body as one of `Bytes` and boxed errors.
    pub(super) struct IntoBytes<B> {
        #[pin]
        pub(super) body: B,
    }
}

impl<B> HttpBody for IntoBytes<B>
where
    B: HttpBody,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(self.project().body.poll_frame(cx));
        Poll::Ready(frame.map(|frame| match frame {
            Ok(frame) => Ok(frame.map_data(|mut data| data.copy_to_bytes(data.remaining()))),
            Err(error) => Err(error.into()),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt, Full};

    #[tokio::test]
    async fn a_wrapped_body_is_not_wrapped_again() {
        let body = Body::new(Body::new(Full::new(Bytes::from_static(b"abc"))));
        assert_eq!(body.size_hint().exact(), Some(3));
        assert_eq!(body.collect().await.unwrap().to_bytes(), "abc");
    }

    #[tokio::test]
    async fn sent_is_told_at_the_end_and_on_drop() {
        let mut body = Body::new(Full::new(Bytes::from_static(b"abc")));
        let sent = body.watch().unwrap();
        assert!(!sent.is_done());
        body.frame().await.unwrap().unwrap();
        assert!(sent.is_done());

        let mut body = Body::new(Full::new(Bytes::from_static(b"abc")));
        let sent = body.watch().unwrap();
        drop(body);
        assert!(sent.is_done());

        assert!(Body::empty().watch().is_none());
    }
}
