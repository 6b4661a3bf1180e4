//! One HTTP/1.1 connection, polled by the exchange that uses it instead of a task of its own.

use std::{
    future::{Future, poll_fn},
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
};

use http::{Request, Response, header::UPGRADE};
use hyper::{body::Body as _, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{
    Body, Error, ErrorKind, ResponseBody,
    connect::{Dialled, OpenGuard},
    pool::Pool,
};

/// An open connection: the half that takes requests and the half that does the work.
#[derive(Debug)]
pub(super) struct Connection {
    addr: SocketAddr,
    sender: http1::SendRequest<Body>,
    io: http1::Connection<TokioIo<TcpStream>, Body>,
    /// Polling a finished connection again is not allowed.
    finished: bool,
    open: OpenGuard,
}

/// A request that was not answered; it comes back where not a byte of it was sent.
pub(super) type Failed = (Error, Option<Box<Request<Body>>>);

impl Connection {
    pub(super) async fn new(addr: SocketAddr, (io, open): Dialled) -> Result<Box<Self>, Error> {
        let (sender, io) = http1::handshake(io)
            .await
            .map_err(|error| Error::exchange(addr, error))?;
        Ok(Box::new(Self {
            addr,
            sender,
            io,
            finished: false,
            open,
        }))
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Moves bytes in both directions, as far as they go now.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.finished {
            return Poll::Ready(());
        }
        // What went wrong also reaches the exchange, which knows what it means to the request.
        let polled = Pin::new(&mut self.io).poll(cx).map(drop);
        self.finished = polled.is_ready();
        polled
    }

    /// Whether the next request can go out on it now.
    pub(super) fn is_ready(&self) -> bool {
        !self.finished && self.sender.is_ready()
    }

    /// Looks whether the other side has closed it in the meantime.
    pub(super) fn is_usable(&mut self) -> bool {
        self.poll(&mut Context::from_waker(Waker::noop()))
            .is_pending()
            && self.is_ready()
    }

    /// Sends the request and drives the connection until the head of the answer is there.
    pub(super) async fn exchange(
        mut self: Box<Self>,
        mut request: Request<Body>,
        pool: &Arc<Pool>,
    ) -> Result<Response<ResponseBody>, Failed> {
        if request.headers().contains_key(UPGRADE) {
            return self.exchange_upgrade(request).await;
        }
        let sent = request.body_mut().watch();
        let answer = {
            let mut answer = pin!(self.sender.try_send_request(request));
            let (io, finished) = (&mut self.io, &mut self.finished);
            poll_fn(|cx| {
                if !*finished {
                    *finished = Pin::new(&mut *io).poll(cx).is_ready();
                }
                match answer.as_mut().poll(cx) {
                    Poll::Ready(answer) => Poll::Ready(Some(answer)),
                    // Nobody is left who could answer.
                    Poll::Pending if *finished => Poll::Ready(None),
                    Poll::Pending => Poll::Pending,
                }
            })
            .await
        };
        let Some(answer) = answer else {
            return Err((Error::new(ErrorKind::ConnectionClosed, self.addr), None));
        };
        let response = answer.map_err(|mut failed| {
            let request = failed.take_message().map(Box::new);
            (Error::exchange(self.addr, failed.into_error()), request)
        })?;
        let pool = Arc::clone(pool);
        Ok(response.map(|incoming| {
            if sent.is_some_and(|sent| !sent.is_done()) {
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
            addr,
            mut sender,
            io,
            open,
            ..
        } = *self;
        let task = tokio::spawn(async move {
            let _open = open;
            if let Err(error) = io.with_upgrades().await {
                tracing::debug!(%addr, %error, "a connection that was to be upgraded failed");
            }
        });
        let driver = DriverGuard(Some(task.abort_handle()));
        let response = sender
            .try_send_request(request)
            .await
            .map_err(|mut failed| {
                let request = failed.take_message().map(Box::new);
                (Error::exchange(addr, failed.into_error()), request)
            })?;
        Ok(response.map(|incoming| {
            if incoming.is_end_stream() {
                driver.complete();
                return ResponseBody::empty();
            }
            ResponseBody::driven(incoming, driver)
        }))
    }
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
