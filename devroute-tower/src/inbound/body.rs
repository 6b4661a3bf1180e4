//! The body of an answer: the inner service's own, the target's, or a text of ours.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use devroute_core::Contract;
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::{BoxError, context, transport};

pin_project! {
    /// The body of an answer that went through [`DevRoute`](crate::DevRoute).
    ///
    /// The body of the inner service is passed on as it is. Where the request carried a contract
    /// it is polled with the contract in scope, because a stream makes its calls after the handler
    /// has returned.
    pub struct ResponseBody<B> {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[project = KindProj]
    enum Kind<B> {
        Plain { #[pin] body: B },
        Scoped { #[pin] body: B, contract: Contract },
        Target { #[pin] body: transport::ResponseBody },
        Text { text: Option<Bytes> },
    }
}

impl<B> ResponseBody<B> {
    pub(crate) fn plain(body: B) -> Self {
        Self {
            kind: Kind::Plain { body },
        }
    }

    pub(crate) fn scoped(body: B, contract: Contract) -> Self {
        Self {
            kind: Kind::Scoped { body, contract },
        }
    }

    pub(crate) fn target(body: transport::ResponseBody) -> Self {
        Self {
            kind: Kind::Target { body },
        }
    }

    pub(crate) fn text(text: Bytes) -> Self {
        Self {
            kind: Kind::Text {
                text: Some(text).filter(|text| !text.is_empty()),
            },
        }
    }
}

impl<B> HttpBody for ResponseBody<B>
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.project().kind.project() {
            KindProj::Plain { body } => body.poll_frame(cx).map_err(Into::into),
            KindProj::Scoped { body, contract } => {
                context::sync_scope(contract.clone(), || body.poll_frame(cx)).map_err(Into::into)
            }
            KindProj::Target { body } => body.poll_frame(cx),
            KindProj::Text { text } => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Plain { body } | Kind::Scoped { body, .. } => body.is_end_stream(),
            Kind::Target { body } => body.is_end_stream(),
            Kind::Text { text } => text.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Plain { body } | Kind::Scoped { body, .. } => body.size_hint(),
            Kind::Target { body } => body.size_hint(),
            Kind::Text { text } => {
                SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64))
            }
        }
    }
}

impl<B> fmt::Debug for ResponseBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.kind {
            Kind::Plain { .. } => "Plain",
            Kind::Scoped { .. } => "Scoped",
            Kind::Target { .. } => "Target",
            Kind::Text { .. } => "Text",
        };
        f.debug_struct("ResponseBody")
            .field("kind", &kind)
            .finish_non_exhaustive()
    }
}
