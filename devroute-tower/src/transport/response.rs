//! The body of an answer on its way back.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;

use super::{
    body::{IntoBytes, take_as},
    h1::{Connection, DriverGuard, unwoken},
    pool::Pool,
    relay::quietly,
};
use crate::BoxError;

/// The body of an answer from a transport, streamed from the target.
///
/// Dropping it before its end ends the exchange: an HTTP/1.1 connection is closed, an HTTP/2
/// stream is reset. Read to its end, it returns the connection to the pool.
pub struct ResponseBody {
    kind: Kind,
}

enum Kind {
    Empty,
    /// Polls the connection it reads from.
    H1 {
        incoming: Incoming,
        connection: Option<Box<Connection>>,
        pool: Arc<Pool>,
    },
    /// A task polls the connection.
    Driven {
        incoming: Incoming,
        driver: Option<DriverGuard>,
    },
    H2(Incoming),
    Boxed(Pin<Box<dyn HttpBody<Data = Bytes, Error = BoxError> + Send>>),
}

impl ResponseBody {
    /// A body without a byte.
    #[must_use]
    pub fn empty() -> Self {
        Self { kind: Kind::Empty }
    }

    /// Any body, for transports of your own.
    pub fn new<B>(body: B) -> Self
    where
        B: HttpBody + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        let mut slot = Some(body);
        if let Some(body) = take_as::<B, Self>(&mut slot) {
            return body;
        }
        if let Some(incoming) = take_as::<B, Incoming>(&mut slot) {
            return Self::h2(incoming);
        }
        let kind = slot.map_or(Kind::Empty, |body| {
            Kind::Boxed(Box::pin(IntoBytes { body }))
        });
        Self { kind }
    }

    pub(super) fn h1(incoming: Incoming, connection: Box<Connection>, pool: Arc<Pool>) -> Self {
        Self {
            kind: Kind::H1 {
                incoming,
                connection: Some(connection),
                pool,
            },
        }
    }

    pub(super) fn driven(incoming: Incoming, driver: DriverGuard) -> Self {
        Self {
            kind: Kind::Driven {
                incoming,
                driver: Some(driver),
            },
        }
    }

    pub(super) fn h2(incoming: Incoming) -> Self {
        Self {
            kind: Kind::H2(incoming),
        }
    }
}

type PolledFrame = Poll<Option<Result<Frame<Bytes>, BoxError>>>;

fn poll_incoming(incoming: &mut Incoming, cx: &mut Context<'_>) -> PolledFrame {
    Pin::new(incoming).poll_frame(cx).map_err(Into::into)
}

/// Reads the next frame, polling the connection it comes through.
fn poll_h1(
    incoming: &mut Incoming,
    connection: &mut Option<Box<Connection>>,
    pool: &Arc<Pool>,
    cx: &mut Context<'_>,
) -> PolledFrame {
    // The first poll tells the connection that somebody wants the body.
    let mut frame = quietly(|| poll_incoming(incoming, &mut unwoken()));
    if frame.is_pending() {
        if let Some(io) = connection {
            if io.poll(cx).is_ready() {
                *connection = None;
            }
        }
        frame = match connection {
            // It comes of the poll above and of nothing else.
            Some(_) => quietly(|| poll_incoming(incoming, &mut unwoken())),
            None => poll_incoming(incoming, cx),
        };
    }
    // A known length ends with its last byte: a reader that counts may never come back.
    let ended = match &frame {
        Poll::Pending => false,
        Poll::Ready(None) => true,
        // Nor may one that has its trailers, which nothing follows.
        Poll::Ready(Some(Ok(frame))) => frame.is_trailers() || incoming.is_end_stream(),
        Poll::Ready(Some(Err(_))) => {
            *connection = None;
            false
        }
    };
    if ended {
        if let Some(connection) = connection.take() {
            connection.put_back(pool);
        }
    }
    frame
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> PolledFrame {
        match &mut self.kind {
            Kind::Empty => Poll::Ready(None),
            Kind::H1 {
                incoming,
                connection,
                pool,
            } => poll_h1(incoming, connection, pool, cx),
            Kind::Driven { incoming, driver } => {
                let frame = poll_incoming(incoming, cx);
                let ended = match &frame {
                    Poll::Ready(None) => true,
                    Poll::Ready(Some(Ok(_))) => incoming.is_end_stream(),
                    _ => false,
                };
                if ended {
                    if let Some(driver) = driver.take() {
                        driver.complete();
                    }
                }
                frame
            }
            Kind::H2(incoming) => poll_incoming(incoming, cx),
            Kind::Boxed(body) => body.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Empty => true,
            Kind::H1 { incoming, .. } | Kind::Driven { incoming, .. } | Kind::H2(incoming) => {
                incoming.is_end_stream()
            }
            Kind::Boxed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::H1 { incoming, .. } | Kind::Driven { incoming, .. } | Kind::H2(incoming) => {
                incoming.size_hint()
            }
            Kind::Boxed(body) => body.size_hint(),
        }
    }
}

impl Default for ResponseBody {
    fn default() -> Self {
        Self::empty()
    }
}

impl fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody")
            .field("size_hint", &self.size_hint())
            .finish_non_exhaustive()
    }
}
