//! The body of an answer on its way to the client, watched until its end.
//!
//! Three things can only be seen here: that the client went away before the end, that the answer broke
//! off where it came from, and that its trailers do not reach a client of HTTP/1. A frame costs a
//! match; what is asked of the body itself is asked once, when it is dropped.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use devroute_tower::transport::AnnouncedTrailers;
use http::header::TE;
use http::{Method, Request, Response, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::metrics::{Message, Phase};
use crate::observe::Observer;

/// What the request says about its answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    is_head: bool,
    pub(crate) is_connect: bool,
    trailers: AskedTrailers,
}

#[derive(Clone, Copy, Debug)]
enum AskedTrailers {
    /// HTTP/2 takes all of them.
    All,
    /// HTTP/1.1 takes announced ones where it is asked for them (RFC 9110, section 6.5.1).
    Announced,
    None,
}

impl Asked {
    pub(crate) fn by<B>(request: &Request<B>) -> Self {
        let wanted = || {
            let mut lines = request.headers().get_all(TE).iter();
            lines.any(|line| {
                let mut tokens = line.as_bytes().split(|byte| *byte == b',');
                tokens.any(|token| token.trim_ascii().eq_ignore_ascii_case(b"trailers"))
            })
        };
        let trailers = match request.version() {
            Version::HTTP_2 => AskedTrailers::All,
            Version::HTTP_11 if wanted() => AskedTrailers::Announced,
            _ => AskedTrailers::None,
        };
        Self {
            is_head: request.method() == Method::HEAD,
            is_connect: request.method() == Method::CONNECT,
            trailers,
        }
    }

    /// Which trailers go on to the client; all of them where nothing is said.
    fn taken<B: Body>(self, response: &Response<B>) -> Option<AnnouncedTrailers> {
        match self.trailers {
            AskedTrailers::All => None,
            AskedTrailers::Announced if response.body().size_hint().exact().is_none() => {
                Some(AnnouncedTrailers::by(response.headers()))
            }
            _ => Some(AnnouncedTrailers::none()),
        }
    }

    /// Whether the body is never sent, whatever it holds (RFC 9112, section 6.3).
    fn has_no_body(self, status: StatusCode) -> bool {
        self.is_head
            || self.is_connect && status.is_success()
            || status.is_informational()
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
    }
}

pin_project! {
    /// The body of an answer. Its bound is there for the drop, which asks the body whether it was over.
    #[derive(Debug)]
    pub(crate) struct AnswerBody<B> where B: Body {
        #[pin]
        body: B,
        trailers: Option<AnnouncedTrailers>,
        // Taken when there is nothing more to see.
        observer: Option<Arc<Observer>>,
        record: Option<u64>,
        is_read: bool,
    }

    impl<B> PinnedDrop for AnswerBody<B> where B: Body {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            let Some(observer) = this.observer.take() else {
                return;
            };
            // A server that counts stops with the last byte, and does not ask for the end.
            let is_over = this.body.is_end_stream() || this.body.size_hint().exact() == Some(0);
            // One that nobody has begun to send was replaced by another, as where the request turned
            // out to be too long.
            if *this.is_read && !is_over {
                observer.client_gone_in_body(*this.record);
            }
        }
    }
}

/// Watches the body of `response`, which is in the record of reroutes under this number.
pub(crate) fn watched<B: Body>(
    response: Response<B>,
    asked: Asked,
    observer: Arc<Observer>,
    record: Option<u64>,
) -> Response<AnswerBody<B>> {
    let trailers = asked.taken(&response);
    let observer = Some(observer).filter(|_| !asked.has_no_body(response.status()));
    response.map(|body| AnswerBody {
        body,
        trailers,
        observer,
        record,
        is_read: false,
    })
}

impl<B: Body<Data = Bytes>> Body for AnswerBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        *this.is_read = true;
        let frame = ready!(this.body.poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_ref() {
                    let taken = this.trailers.as_ref();
                    let dropped = !taken.is_none_or(|taken| taken.take(trailers));
                    if let (true, Some(observer)) = (dropped, &this.observer) {
                        observer.worker.losses.trailers_dropped(Message::Response);
                    }
                    // Nothing is behind them, and nobody asks.
                    *this.observer = None;
                }
            }
            Some(Err(_)) => {
                if let Some(observer) = this.observer.take() {
                    observer.answer_cut(*this.record);
                }
            }
            None => *this.observer = None,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Observer {
    fn client_gone_in_body(&self, record: Option<u64>) {
        self.worker.losses.client_gone(Phase::Body);
        self.ended(
            record,
            "client_gone",
            "the client went away before the end of the answer",
        );
    }

    fn answer_cut(&self, record: Option<u64>) {
        self.worker.losses.answer_cut();
        self.ended(record, "cut", "the answer broke off");
    }
}
