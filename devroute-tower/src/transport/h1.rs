//! One HTTP/1.1 connection, polled by the exchange that uses it instead of a task of its own.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
};

use http::{
    HeaderMap, Request, Response, StatusCode,
    header::{CONTENT_LENGTH, EXPECT, TRANSFER_ENCODING, UPGRADE},
};
use hyper::{body::Body as _, client::conn::http1};
use hyper_util::rt::TokioIo;

use super::{
    Body, Error, ErrorKind, ResponseBody,
    connect::{Dialled, OpenGuard},
    gate::GateKey,
    peer::Peer,
    pool::Pool,
    received::{MAX_BEFORE_ANSWER, Metered, Received},
    relay::{Relay, quietly},
    repeat,
    stream::Stream,
};

/// The digits of the largest length whose number fits.
const LENGTH_DIGITS: usize = 19;

/// An open connection: the half that takes requests and the half that does the work.
#[derive(Debug)]
pub(super) struct Connection {
    peer: Peer,
    sender: http1::SendRequest<Body>,
    io: http1::Connection<TokioIo<Metered<Stream, Received>>, Body>,
    received: Received,
    relay: Relay,
    /// Polling a finished connection again is not allowed.
    finished: bool,
    open: OpenGuard,
}

/// An exchange without an answer.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) error: Error,
    /// The request, where not a byte of it was sent.
    pub(super) unsent: Option<Box<Request<Body>>>,
    /// The request, where it was sent and may be sent again: whoever closed the connection has not
    /// begun to answer.
    pub(super) again: Option<Box<Request<Body>>>,
}

impl Failed {
    fn of(error: Error, unsent: Option<Request<Body>>, received: &Received) -> Self {
        let is_closed = error.kind() == ErrorKind::ConnectionClosed;
        let may_go_again = unsent.is_none() && is_closed && received.bytes() == 0;
        Self {
            error,
            unsent: unsent.map(Box::new),
            again: may_go_again
                .then(|| repeat::request(&received.take_head()))
                .flatten(),
        }
    }
}

/// In the extensions of an answer to a request whose body nobody has asked for: the client's server
/// cannot use the connection again, and the client has to know (RFC 9112, section 9.6).
#[derive(Clone, Copy, Debug)]
pub(crate) struct BodyUnread;

impl Connection {
    pub(super) async fn new(peer: Peer, (io, open): Dialled) -> Result<Box<Self>, Error> {
        let received = Received::default();
        let io = TokioIo::new(Metered::new(io, received.clone()));
        let (sender, io) = http1::handshake(io)
            .await
            .map_err(|error| Error::exchange(&peer, error))?;
        Ok(Box::new(Self {
            peer,
            sender,
            io,
            received,
            relay: Relay::new(),
            finished: false,
            open,
        }))
    }

    pub(super) fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Moves bytes in both directions, as far as they go now.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.finished {
            return Poll::Ready(());
        }
        // What went wrong also reaches the exchange, which knows what it means to the request.
        let io = Pin::new(&mut self.io);
        let polled = self.relay.poll(cx, |cx| io.poll(cx)).map(drop);
        self.finished = polled.is_ready();
        polled
    }

    /// Whether the next request can go out on it now.
    pub(super) fn is_ready(&self) -> bool {
        !self.finished && self.sender.is_ready()
    }

    /// Looks whether the other side has closed it in the meantime.
    pub(super) fn is_usable(&mut self) -> bool {
        self.poll(&mut unwoken()).is_pending() && self.is_ready()
    }

    /// Sends the request and drives the connection until the head of the answer is there.
    pub(super) async fn exchange(
        mut self: Box<Self>,
        mut request: Box<Request<Body>>,
        pool: &Arc<Pool>,
    ) -> Result<Response<ResponseBody>, Failed> {
        if request.headers().contains_key(UPGRADE) {
            return Box::pin(self.exchange_upgrade(*request)).await;
        }
        let sent = request.body_mut().watch();
        let gate = sent.as_ref().and_then(|_| wait_for_100(&mut request));
        self.received.restart(repeat::is_repeatable(&request));
        let mut answer = pin!(quietly(|| self.sender.try_send_request(*request)));
        let answered = poll_fn(|cx| {
            let _ = self.poll(cx);
            // It comes of the poll above and of nothing else: to be woken as well would be one more
            // poll of the whole task.
            match answer.as_mut().poll(&mut unwoken()) {
                Poll::Ready(answer) => Poll::Ready(Ok(answer)),
                Poll::Pending if self.received.bytes() > MAX_BEFORE_ANSWER => {
                    Poll::Ready(Err(ErrorKind::Protocol))
                }
                // Nobody is left who could answer.
                Poll::Pending if self.finished => Poll::Ready(Err(ErrorKind::ConnectionClosed)),
                Poll::Pending => Poll::Pending,
            }
        })
        .await;
        let mut response = match answered {
            Ok(Ok(response)) => response,
            Ok(Err(mut error)) => {
                let unsent = error.take_message();
                let error = Error::exchange(&self.peer, error.into_error());
                return Err(Failed::of(error, unsent, &self.received));
            }
            Err(kind) => {
                let error = Error::of_peer(kind, &self.peer);
                let Self { io, received, .. } = *self;
                // What it has not taken comes back when it is gone.
                drop(io);
                let unsent = match answer.as_mut().poll(&mut unwoken()) {
                    Poll::Ready(Err(mut error)) => error.take_message(),
                    _ => None,
                };
                return Err(Failed::of(error, unsent, &received));
            }
        };
        if !has_one_framing(response.headers()) {
            let error = Error::of_peer(ErrorKind::Protocol, &self.peer);
            return Err(Failed::of(error, None, &self.received));
        }
        self.received.has_begun();
        let pool = Arc::clone(pool);
        // A body that the target has not asked for is not going to be sent.
        let is_wanted = gate.is_none_or(|gate| gate.is_open());
        if !is_wanted {
            response.extensions_mut().insert(BodyUnread);
        }
        Ok(response.map(|incoming| {
            if is_wanted && sent.is_some_and(|sent| !sent.is_done()) {
                // The answer begins while the upload still runs: it must go on even when nobody
                // reads the answer, so this exchange gets a driver.
                return ResponseBody::driven(incoming, self.drive(pool));
            }
            if incoming.is_end_stream() {
                self.put_back(&pool);
                return ResponseBody::empty();
            }
            ResponseBody::h1(incoming, self, pool)
        }))
    }

    /// Returns the connection to the pool where its exchange is complete; else it is closed.
    pub(super) fn put_back(mut self: Box<Self>, pool: &Arc<Pool>) {
        if self.is_ready() || self.is_usable() {
            self.relay.leave();
            pool.put_h1(self);
        }
    }

    /// Drives both directions until the exchange is complete, and ends with the returned guard.
    fn drive(mut self: Box<Self>, pool: Arc<Pool>) -> DriverGuard {
        let task = tokio::spawn(async move {
            let ready = poll_fn(|cx| {
                if self.poll(cx).is_ready() {
                    return Poll::Ready(false);
                }
                self.sender.poll_ready(cx).map(|ready| ready.is_ok())
            });
            if ready.await {
                self.put_back(&pool);
            }
        });
        DriverGuard(Some(task.abort_handle()))
    }

    /// Sends a request that may end in a tunnel: its connection is never used again, and belongs
    /// to a task that hands over the bytes once the other side has switched.
    async fn exchange_upgrade(
        self: Box<Self>,
        request: Request<Body>,
    ) -> Result<Response<ResponseBody>, Failed> {
        let Self {
            peer,
            mut sender,
            io,
            received,
            open,
            ..
        } = *self;
        received.restart(false);
        let whom = peer.clone();
        let task = tokio::spawn(async move {
            let _open = open;
            if let Err(error) = io.with_upgrades().await {
                tracing::debug!(peer = %whom, %error, "a connection that was to be upgraded failed");
            }
        });
        let driver = DriverGuard(Some(task.abort_handle()));
        let response = sender
            .try_send_request(request)
            .await
            .map_err(|mut failed| {
                let unsent = failed.take_message().map(Box::new);
                Failed {
                    error: Error::exchange(&peer, failed.into_error()),
                    unsent,
                    again: None,
                }
            })?;
        if !has_one_framing(response.headers()) {
            return Err(Failed {
                error: Error::of_peer(ErrorKind::Protocol, &peer),
                unsent: None,
                again: None,
            });
        }
        received.has_begun();
        Ok(response.map(|incoming| {
            if incoming.is_end_stream() {
                driver.complete();
                return ResponseBody::empty();
            }
            ResponseBody::driven(incoming, driver)
        }))
    }
}

/// Whether an answer says where it ends only once, and in a way that everybody reads alike.
///
/// hyper takes the coding where there is a length, too, and several lengths that are equal; and it reads
/// to the end of the connection what has a coding it does not know. The client would be told the rest, and
/// might believe it (RFC 9112, section 6.3).
fn has_one_framing(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    match (codings.next(), lengths.next()) {
        (None, None) => true,
        (Some(coding), None) => {
            coding.as_bytes().eq_ignore_ascii_case(b"chunked") && codings.next().is_none()
        }
        (None, Some(length)) => {
            let length = length.as_bytes();
            length.len() <= LENGTH_DIGITS
                && length.iter().all(u8::is_ascii_digit)
                && lengths.next().is_none()
        }
        (Some(_), Some(_)) => false,
    }
}

/// For what becomes ready only as its connection is polled, by whoever asks.
pub(super) fn unwoken() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// Holds the body back where the client wants to be asked for it first.
fn wait_for_100(request: &mut Request<Body>) -> Option<GateKey> {
    let expect = request.headers().get(EXPECT)?;
    if !expect.as_bytes().eq_ignore_ascii_case(b"100-continue") {
        return None;
    }
    let key = request.body_mut().hold()?;
    let opener = key.clone();
    hyper::ext::on_informational(request, move |informational| {
        if informational.status() == StatusCode::CONTINUE {
            opener.open();
        }
    });
    Some(key)
}

/// Ends the driver of an exchange whose answer nobody wants any more.
#[derive(Debug)]
pub(super) struct DriverGuard(Option<tokio::task::AbortHandle>);

impl DriverGuard {
    /// The answer was read to its end: the driver finishes the upload by itself.
    pub(super) fn complete(mut self) {
        self.0 = None;
    }
}

impl Drop for DriverGuard {
    fn drop(&mut self) {
        if let Some(task) = self.0.take() {
            task.abort();
        }
    }
}
