//! A limit for the time that a service takes to answer.
//!
//! It counts while it is the service's turn: from the last byte of the request that it took, or from
//! the beginning. While the client owes the rest of its body, or the answer has begun, nothing
//! counts.

use std::{
    future::{Future, poll_fn},
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use http::Response;
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::{Instant, sleep};

use super::{Body, Error, ErrorKind, ResponseBody};

/// Whose turn it is.
#[derive(Clone, Debug)]
pub(super) struct Turn(Arc<Mutex<State>>);

#[derive(Clone, Copy, Debug)]
enum State {
    /// The service's, since then.
    Service(Instant),
    /// The client's, which owes a part of the body.
    Client,
}

impl Turn {
    /// Watches `body` being sent.
    pub(super) fn watch(body: Body) -> (Self, Body) {
        let turn = Self(Arc::new(Mutex::new(State::Service(Instant::now()))));
        if body.is_end_stream() {
            return (turn, body);
        }
        let watched = Body::new(Watched {
            body,
            turn: turn.clone(),
        });
        (turn, watched)
    }

    /// The answer, if it begins in time.
    pub(super) async fn limit(
        self,
        timeout: Duration,
        addr: SocketAddr,
        answer: impl Future<Output = Result<Response<ResponseBody>, Error>>,
    ) -> Result<Response<ResponseBody>, Error> {
        let mut answer = pin!(answer);
        let mut clock = pin!(sleep(timeout));
        poll_fn(|cx| {
            if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
                return Poll::Ready(answer);
            }
            while clock.as_mut().poll(cx).is_ready() {
                let now = Instant::now();
                let until = match self.get() {
                    State::Service(since) => since + timeout,
                    State::Client => now + timeout,
                };
                if until <= now {
                    return Poll::Ready(Err(Error::new(ErrorKind::ResponseTimeout, addr)));
                }
                clock.as_mut().reset(until);
            }
            Poll::Pending
        })
        .await
    }

    fn get(&self) -> State {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, state: State) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }
}

pin_project! {
    /// Tells whose turn it is while it is sent.
    struct Watched {
        #[pin]
        body: Body,
        turn: Turn,
    }

    impl PinnedDrop for Watched {
        fn drop(this: Pin<&mut Self>) {
            this.turn.set(State::Service(Instant::now()));
        }
    }
}

impl HttpBody for Watched {
    type Data = <Body as HttpBody>::Data;
    type Error = <Body as HttpBody>::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.project();
        let frame = this.body.poll_frame(cx);
        this.turn.set(if frame.is_pending() {
            State::Client
        } else {
            State::Service(Instant::now())
        });
        frame
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
    use std::{convert::Infallible, task::ready};

    use bytes::Bytes;
    use http_body_util::BodyExt as _;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(5);

    fn addr() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 80))
    }

    /// A body whose three bytes come ten seconds apart.
    struct Slow {
        left: u8,
        clock: Pin<Box<tokio::time::Sleep>>,
    }

    fn slow() -> Body {
        Body::new(Slow {
            left: 3,
            clock: Box::pin(sleep(Duration::ZERO)),
        })
    }

    impl HttpBody for Slow {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            ready!(self.clock.as_mut().poll(cx));
            if self.left == 0 {
                return Poll::Ready(None);
            }
            self.left -= 1;
            let next = Instant::now() + Duration::from_secs(10);
            self.clock.as_mut().reset(next);
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x")))))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_does_not_answer_is_given_up() {
        let began = Instant::now();
        let (turn, _body) = Turn::watch(Body::empty());
        let answer = turn.limit(TIMEOUT, addr(), std::future::pending()).await;
        assert_eq!(answer.unwrap_err().kind(), ErrorKind::ResponseTimeout);
        assert_eq!(began.elapsed().as_secs(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_may_take_its_time_and_the_service_has_its_own_behind_it() {
        let began = Instant::now();
        let (turn, body) = Turn::watch(slow());
        let service = async {
            let _ = body.collect().await;
            std::future::pending().await
        };
        let answer = turn.limit(TIMEOUT, addr(), service).await;
        assert_eq!(answer.unwrap_err().kind(), ErrorKind::ResponseTimeout);
        assert_eq!(began.elapsed().as_secs(), 35);
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_stops_reading_is_given_up() {
        let began = Instant::now();
        let (turn, mut body) = Turn::watch(slow());
        let service = async {
            let _ = body.frame().await;
            std::future::pending().await
        };
        let answer = turn.limit(TIMEOUT, addr(), service).await;
        assert_eq!(answer.unwrap_err().kind(), ErrorKind::ResponseTimeout);
        assert_eq!(began.elapsed().as_secs(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_in_time_passes() {
        let (turn, _body) = Turn::watch(Body::empty());
        let answer = async {
            sleep(TIMEOUT / 2).await;
            Ok(Response::new(ResponseBody::empty()))
        };
        assert!(turn.limit(TIMEOUT, addr(), answer).await.is_ok());
    }
}
