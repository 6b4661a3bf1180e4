//! A request body that the baseline can still have when the target turns out not to be there.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use http_body::{Body as HttpBody, Frame, SizeHint};

use crate::BoxError;

/// A body that is still there for the baseline as long as nobody has begun to read it.
pub(super) struct Slot<B>(Arc<Mutex<Option<B>>>);

impl<B> Clone for Slot<B> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<B> Slot<B> {
    pub(super) fn new(body: B) -> Self {
        Self(Arc::new(Mutex::new(Some(body))))
    }

    pub(super) fn take(&self) -> Option<B> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Reads the body in a slot, taking it out when the first frame is asked for.
pub(super) struct TakeOnce<B> {
    slot: Slot<B>,
    taken: Option<Pin<Box<B>>>,
    size_hint: SizeHint,
    is_end_stream: bool,
}

impl<B: HttpBody> TakeOnce<B> {
    pub(super) fn new(slot: Slot<B>) -> Self {
        let guard = slot.0.lock().unwrap_or_else(PoisonError::into_inner);
        let size_hint = guard
            .as_ref()
            .map_or_else(SizeHint::default, HttpBody::size_hint);
        let is_end_stream = guard.as_ref().is_none_or(HttpBody::is_end_stream);
        drop(guard);
        Self {
            slot,
            taken: None,
            size_hint,
            is_end_stream,
        }
    }
}

impl<B> HttpBody for TakeOnce<B>
where
    B: HttpBody,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.taken.is_none() {
            self.taken = self.slot.take().map(Box::pin);
        }
        match &mut self.taken {
            Some(body) => body.as_mut().poll_frame(cx).map(|frame| {
                frame.map(|frame| match frame {
                    Ok(frame) => Ok(frame.map_data(|mut it| it.copy_to_bytes(it.remaining()))),
                    Err(error) => Err(error.into()),
                })
            }),
            // The baseline has it: whoever asks now must not send half a request.
            None => Poll::Ready(Some(Err("the body was taken back for the baseline".into()))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.taken
            .as_ref()
            .map_or(self.is_end_stream, |body| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.taken
            .as_ref()
            .map_or_else(|| SizeHint::clone(&self.size_hint), |body| body.size_hint())
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, Full};

    use super::*;

    fn held(text: &'static str) -> (Slot<Full<Bytes>>, TakeOnce<Full<Bytes>>) {
        let slot = Slot::new(Full::from(text));
        (slot.clone(), TakeOnce::new(slot))
    }

    #[tokio::test]
    async fn rule_16_a_body_that_is_held_knows_its_length_and_its_end() {
        let (_, empty) = held("");
        assert_eq!(
            (empty.size_hint().exact(), empty.is_end_stream()),
            (Some(0), true)
        );

        let (_, mut body) = held("abc");
        assert_eq!(
            (body.size_hint().exact(), body.is_end_stream()),
            (Some(3), false)
        );
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "abc");
        assert_eq!(
            (body.size_hint().exact(), body.is_end_stream()),
            (Some(0), true)
        );
    }

    #[tokio::test]
    async fn rule_13_one_of_the_two_has_the_body() {
        let (slot, mut body) = held("abc");
        body.frame().await.unwrap().unwrap();
        assert!(slot.take().is_none(), "the target has it");

        let (slot, mut body) = held("abc");
        assert!(slot.take().is_some());
        assert!(body.frame().await.unwrap().is_err(), "the baseline has it");
    }
}
