//! `Expect: 100-continue` end to end (RFC 9110, section 10.1.1).
//!
//! hyper cannot send a 100 over HTTP/2. So the sender holds the body back and numbers the request; the receiver, when
//! somebody there asks for the first byte of it, says that number on the control stream.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use devroute_tower::transport::Body;
use http::header::EXPECT as EXPECT_FIELD;
use http::{HeaderValue, request};
use http_body::{Frame, SizeHint};
use tokio::sync::oneshot;

use crate::BoxError;
use crate::protocol::{EXPECT, FromLaptop, LineSender};

/// The bodies that are held back.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gates(Arc<Closed>);

#[derive(Debug, Default)]
struct Closed {
    next: AtomicU64,
    waiting: Mutex<HashMap<u64, oneshot::Sender<()>>>,
}

impl Gates {
    /// Holds `body` back where the request wants that, until [`open`](Self::open) is called with its number.
    pub(crate) fn hold(&self, parts: &mut request::Parts, body: Body) -> Body {
        let expects = parts
            .headers
            .get(EXPECT_FIELD)
            .is_some_and(|expect| expect.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        if !expects || http_body::Body::is_end_stream(&body) {
            return body;
        }
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        parts.headers.insert(EXPECT, HeaderValue::from(number));
        let (sender, opened) = oneshot::channel();
        self.waiting().insert(number, sender);
        Body::new(Held {
            body,
            gate: Some(Gate {
                opened,
                number,
                gates: self.clone(),
            }),
        })
    }

    /// The body with this number is wanted.
    pub(crate) fn open(&self, number: u64) {
        if let Some(sender) = self.waiting().remove(&number) {
            let _ = sender.send(());
        }
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, HashMap<u64, oneshot::Sender<()>>> {
        self.0
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A body that is held back.
#[derive(Debug)]
pub(crate) struct Held {
    body: Body,
    gate: Option<Gate>,
}

#[derive(Debug)]
struct Gate {
    opened: oneshot::Receiver<()>,
    number: u64,
    gates: Gates,
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.gates.waiting().remove(&self.number);
    }
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(gate) = &mut self.gate {
            // An error is the end of the connection, of which the body hears in its own way.
            let _ = ready!(Pin::new(&mut gate.opened).poll(cx));
            self.gate = None;
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A body of the other end, which is told when somebody asks for its first byte.
#[derive(Debug)]
pub(crate) struct Wanted {
    body: Body,
    tell: Option<(LineSender, u64)>,
}

impl Wanted {
    /// The body of a request whose sender wants to be told, or the body as it is.
    pub(crate) fn of(parts: &mut request::Parts, body: Body, lines: Option<&LineSender>) -> Body {
        let number = parts.headers.remove(EXPECT);
        let number = number.and_then(|number| number.to_str().ok()?.parse().ok());
        match (number, lines) {
            (Some(number), Some(lines)) => Body::new(Self {
                body,
                tell: Some((lines.clone(), number)),
            }),
            _ => body,
        }
    }
}

impl http_body::Body for Wanted {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some((lines, number)) = self.tell.take() {
            lines.send(&FromLaptop::Continue(number));
        }
        Pin::new(&mut self.body).poll_frame(cx)
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
    use http::Request;
    use http_body_util::BodyExt as _;

    use super::*;

    fn asking(expect: &'static str) -> (request::Parts, Body) {
        let request = Request::post("/").header("expect", expect);
        let body = Body::new(String::from("body"));
        request.body(body).unwrap().into_parts()
    }

    #[tokio::test]
    async fn a_body_waits_until_it_is_wanted() {
        let gates = Gates::default();
        let (mut parts, body) = asking("100-Continue");
        let mut held = gates.hold(&mut parts, body);
        let number = parts.headers[EXPECT].to_str().unwrap().parse().unwrap();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(http_body::Body::poll_frame(Pin::new(&mut held), &mut cx).is_pending());
        gates.open(number + 1);
        assert!(http_body::Body::poll_frame(Pin::new(&mut held), &mut cx).is_pending());
        gates.open(number);
        assert_eq!(held.collect().await.unwrap().to_bytes(), "body");
        assert!(gates.waiting().is_empty());
    }

    #[test]
    fn a_body_that_is_dropped_is_waited_for_no_more() {
        let gates = Gates::default();
        let (mut parts, body) = asking("100-continue");
        let held = gates.hold(&mut parts, body);
        assert_eq!(gates.waiting().len(), 1);
        drop(held);
        assert!(gates.waiting().is_empty());
        let (mut parts, body) = asking("200-ok");
        gates.hold(&mut parts, body);
        assert!(!parts.headers.contains_key(EXPECT));
    }
}
