//! HTTP/2 connections: shared by many requests, each driven by a task of its own.

use std::{
    fmt,
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
    time::Duration,
};

use http::{Request, Response};
use hyper::{client::conn::http2, rt::Executor};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{sync::watch, time::timeout};

use super::{
    Body, Error, ErrorKind, ResponseBody,
    connect::Dialled,
    error::is_unprocessed,
    peer::Peer,
    received::{FLOOD, MAX_BEFORE_ANSWER, Meter, Metered},
};

const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;

/// How long an answer may take that came before its connection ended.
///
/// One that takes longer will never come: the request was put into the queue of the connection in the moment in
/// which that was emptied for the last time. tokio keeps what is in it then until nobody can send any more, and a
/// pool can. Nobody has seen the request.
const LAST_WORD: Duration = Duration::from_millis(500);

/// A handle to an open connection, which ends after its last stream once the last handle is gone.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    peer: Peer,
    sender: http2::SendRequest<Body>,
    heads: Allowance,
    /// What its driver ended with, if it was an error.
    ended: Arc<OnceLock<ErrorKind>>,
    /// Closed when the driver is gone, with all that it held.
    gone: watch::Receiver<()>,
}

/// An exchange without an answer.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) error: Error,
    /// The request, where not a byte of it was sent.
    pub(super) unsent: Option<Box<Request<Body>>>,
    /// Whether the target has said that it did nothing with it.
    pub(super) is_unprocessed: bool,
}

impl Connection {
    /// Speaks first, and starts the driver.
    pub(super) async fn new(peer: Peer, (io, open): Dialled) -> Result<Self, Error> {
        let heads = Allowance::default();
        let io = Metered::new(io, Heads::new(heads.clone()));
        let together = Together::default();
        let (sender, connection) = http2::Builder::new(together.clone())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(TokioIo::new(io))
            .await
            .map_err(|error| Error::exchange(&peer, error))?;
        let ended = Arc::<OnceLock<ErrorKind>>::default();
        // The driver ends with the last stream and handle.
        let (whom, end) = (peer.clone(), Arc::clone(&ended));
        let frames = together.begin();
        let (alive, gone) = watch::channel(());
        tokio::spawn(async move {
            // Dropped last.
            let _alive = alive;
            let _open = open;
            let mut connection = pin!(connection);
            let mut requests = pin!(async {
                if let Err(error) = connection.as_mut().await {
                    tracing::debug!(peer = %whom, %error, "HTTP/2 connection failed");
                    // Told before the connection is gone, and with it the requests that wait for it.
                    let _ = end.set(Error::exchange(&whom, error).kind());
                }
            });
            let mut frames = pin!(frames);
            let (mut handed_over, mut written) = (false, false);
            poll_fn(|cx| {
                handed_over = handed_over || requests.as_mut().poll(cx).is_ready();
                written = written || frames.as_mut().poll(cx).is_ready();
                if handed_over && written {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                }
            })
            .await;
        });
        Ok(Self {
            peer,
            sender,
            heads,
            ended,
            gone,
        })
    }

    /// Whether it takes no more requests.
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Sends a request.
    pub(super) async fn send(
        mut self,
        request: Request<Body>,
    ) -> Result<Response<ResponseBody>, Failed> {
        self.heads.grow();
        let mut gone = self.gone.clone();
        let mut answer = pin!(self.sender.try_send_request(request));
        let mut answered = {
            let mut gone = pin!(gone.changed());
            poll_fn(|cx| match answer.as_mut().poll(cx) {
                Poll::Ready(answered) => Poll::Ready(Some(answered)),
                Poll::Pending => gone.as_mut().poll(cx).map(|_closed| None),
            })
            .await
        };
        if answered.is_none() {
            // What has come is handed over by other tasks, which have to have their turn.
            answered = timeout(LAST_WORD, answer).await.ok();
        }
        let mut failed = match answered {
            Some(Ok(response)) => return Ok(response.map(ResponseBody::h2)),
            Some(Err(failed)) => failed,
            None => {
                let kind = self.ended.get().copied();
                let kind = kind.unwrap_or(ErrorKind::ConnectionClosed);
                return Err(Failed {
                    error: Error::of_peer(kind, &self.peer),
                    unsent: None,
                    is_unprocessed: true,
                });
            }
        };
        let unsent = failed.take_message().map(Box::new);
        let failed = failed.into_error();
        let is_unprocessed = is_unprocessed(&failed);
        let error = match (&unsent, self.ended.get()) {
            // It came too late to hear from hyper why there is no connection any more.
            (Some(_), Some(kind)) => Error::of_peer(*kind, &self.peer).with_source(failed),
            _ => Error::exchange(&self.peer, failed),
        };
        Err(Failed {
            error,
            unsent,
            is_unprocessed,
        })
    }
}

/// Keeps what hyper spawns for a connection itself, so that one task can poll it together with what
/// hands requests to it.
///
/// hyper has two tasks for the two. On two threads, a GOAWAY that is read in between the two steps by
/// which a request is handed over (`ClientTask::poll` of hyper 1.12: `send_request`, then `poll_ready`)
/// fails that request as one that was not processed, and lets it be sent all the same. It would be
/// sent again on another connection: a service would be asked twice, whatever the method.
#[derive(Clone, Default)]
struct Together(Arc<Mutex<Spawned>>);

#[derive(Default)]
enum Spawned {
    /// What comes is the connection's.
    #[default]
    Kept,
    /// So far there is this.
    Frames(Pin<Box<dyn Future<Output = ()> + Send>>),
    /// What comes is a request's, and a task of its own.
    Apart,
}

impl Together {
    /// Takes what there is of the connection, which is spawned in the handshake.
    fn begin(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut spawned = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let frames = match std::mem::replace(&mut *spawned, Spawned::Apart) {
            Spawned::Frames(frames) => Some(frames),
            Spawned::Kept | Spawned::Apart => None,
        };
        async {
            if let Some(frames) = frames {
                frames.await;
            }
        }
    }
}

impl<F> Executor<F> for Together
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        let mut spawned = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Spawned::Kept = *spawned {
            *spawned = Spawned::Frames(Box::pin(future));
            return;
        }
        drop(spawned);
        tokio::spawn(future);
    }
}

impl fmt::Debug for Together {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Together").finish_non_exhaustive()
    }
}

/// How many bytes of heads may still come on a connection: [`MAX_BEFORE_ANSWER`] for each request,
/// up to [`Self::MAX`], so that a long life saves up no flood.
///
/// Which stream an informational head is for is behind HPACK, so they are counted together. What is
/// allowed is far more than hyper's limit for one head, so only a flood meets it.
#[derive(Clone, Debug, Default)]
struct Allowance(Arc<AtomicU64>);

impl Allowance {
    const MAX: u64 = 32 * MAX_BEFORE_ANSWER;

    fn grow(&self) {
        let grown = |left: u64| Some((left + MAX_BEFORE_ANSWER).min(Self::MAX));
        let _ = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown);
    }

    fn take(&self, bytes: u64) -> io::Result<()> {
        let rest = |left: u64| left.checked_sub(bytes);
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, rest)
            .map(drop)
            .map_err(|_left| io::Error::new(FLOOD, "a flood of heads"))
    }
}

/// Walks from frame to frame (RFC 9113, section 4.1) and takes the size of HEADERS and CONTINUATION
/// frames from an [`Allowance`].
#[derive(Debug)]
struct Heads {
    allowance: Allowance,
    /// The head of the next frame, as far as it has come.
    head: [u8; Self::HEAD],
    known: usize,
    /// How much of the frame's payload is still to come.
    payload: usize,
}

impl Heads {
    const HEAD: usize = 9;
    const HEADERS: u8 = 1;
    const CONTINUATION: u8 = 9;

    fn new(allowance: Allowance) -> Self {
        Self {
            allowance,
            head: [0; Self::HEAD],
            known: 0,
            payload: 0,
        }
    }
}

impl Meter for Heads {
    fn read(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        loop {
            let skipped = self.payload.min(bytes.len());
            self.payload -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            let Some((&byte, rest)) = bytes.split_first() else {
                return Ok(());
            };
            bytes = rest;
            if let Some(place) = self.head.get_mut(self.known) {
                *place = byte;
                self.known += 1;
            }
            if self.known == Self::HEAD {
                self.known = 0;
                let [a, b, c, kind, ..] = self.head;
                let length = u32::from_be_bytes([0, a, b, c]);
                self.payload = length as usize;
                if matches!(kind, Self::HEADERS | Self::CONTINUATION) {
                    self.allowance.take(u64::from(length) + Self::HEAD as u64)?;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{net::TcpListener, runtime::Handle};

    use super::*;
    use crate::transport::{Protocol, connect::Connector};

    #[tokio::test]
    async fn one_task_reads_writes_and_hands_over_requests() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connector = Connector::unlimited();
        let peer = Peer::plain(listener.local_addr().unwrap());
        let dialled = connector.dial(&peer, Protocol::Http2).await.unwrap();
        let connection = Connection::new(peer, dialled).await.unwrap();
        assert_eq!(Handle::current().metrics().num_alive_tasks(), 1);
        drop(connection);
    }

    fn frame(kind: u8, length: u8) -> Vec<u8> {
        let mut frame = vec![0, 0, length, kind, 0, 0, 0, 0, 1];
        // A payload that would be a head itself, if it were taken for one.
        frame.resize(9 + usize::from(length), 1);
        frame
    }

    fn left(allowance: &Allowance) -> u64 {
        allowance.0.load(Ordering::Relaxed)
    }

    #[test]
    fn heads_are_counted_wherever_a_read_ends() {
        let bytes = [frame(4, 6), frame(1, 100), frame(0, 255), frame(9, 1)].concat();
        for size in 1..bytes.len() {
            let allowance = Allowance::default();
            allowance.grow();
            let mut heads = Heads::new(allowance.clone());
            for part in bytes.chunks(size) {
                heads.read(part).unwrap();
            }
            assert_eq!(
                MAX_BEFORE_ANSWER - left(&allowance),
                9 + 100 + 9 + 1,
                "{size}"
            );
        }
    }

    #[test]
    fn more_heads_than_requests_allow_are_an_error() {
        let allowance = Allowance::default();
        let mut heads = Heads::new(allowance.clone());
        heads.read(&frame(0, 255)).unwrap();
        let error = heads.read(&frame(1, 1)).unwrap_err();
        assert_eq!(error.kind(), FLOOD);
        for _ in 0..1000 {
            allowance.grow();
        }
        assert_eq!(left(&allowance), Allowance::MAX, "no more is saved up");
    }
}
