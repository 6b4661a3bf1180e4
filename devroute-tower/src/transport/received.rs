//! Measures what arrives on a connection.
//!
//! hyper says that an exchange failed, and not whether the other side had begun to answer; and it waits
//! for an answer however much comes before it. Both are seen where the bytes are. So is the head of a
//! request, which may have to be sent [again](super::repeat).

use std::{
    fmt,
    io::{self, IoSlice},
    mem,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How much may come before the head of an answer is complete. hyper limits one head; this also ends
/// a flood of informational ones.
pub(super) const MAX_BEFORE_ANSWER: u64 = 512 * 1024;

/// How much one reading of hyper may take in before it looks up: then the connection ends in it. More
/// than an answer that comes at once can bring before its head is seen: a buffer or two of hyper's.
const MAX_AT_ONCE: u64 = 8 * MAX_BEFORE_ANSWER;

/// The kind of the error that ends a connection on which more comes than that.
pub(super) const FLOOD: io::ErrorKind = io::ErrorKind::QuotaExceeded;

/// Looks at the bytes that arrive.
pub(super) trait Meter {
    /// Sees the next bytes. An error ends the connection.
    fn read(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Sees what is about to be written, and may not be taken, or not all of it.
    fn write(&mut self, _bytes: &[IoSlice<'_>]) {}
}

/// How many bytes have come since an answer was asked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Received(Arc<Count>);

#[derive(Debug, Default)]
struct Count {
    bytes: AtomicU64,
    is_awaited: AtomicBool,
    /// Whether what is written next is a head to be kept.
    keeps_head: AtomicBool,
    head: Mutex<Head>,
}

/// A head that went out. It is nobody's business in a log.
#[derive(Default)]
struct Head(Vec<u8>);

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Head").field(&self.0.len()).finish()
    }
}

/// The room for a head that an idle connection keeps.
const ROOM: usize = 4096;

impl Received {
    pub(super) fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }

    /// Begins anew, for an answer whose head is to come, and for a request whose head is kept or not.
    pub(super) fn restart(&self, keeps_head: bool) {
        self.0.bytes.store(0, Ordering::Relaxed);
        self.0.is_awaited.store(true, Ordering::Relaxed);
        self.0.keeps_head.store(keeps_head, Ordering::Relaxed);
        let mut head = self.head();
        if head.0.capacity() > ROOM {
            head.0 = Vec::new();
        }
        head.0.clear();
    }

    /// The head that was kept; empty where none was, or nothing was written.
    pub(super) fn take_head(&self) -> Vec<u8> {
        mem::take(&mut self.head().0)
    }

    /// There is no invariant that a panic could break.
    fn head(&self) -> MutexGuard<'_, Head> {
        self.0.head.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The head is there: what comes now is no flood, however much it is.
    pub(super) fn has_begun(&self) {
        self.0.is_awaited.store(false, Ordering::Relaxed);
    }
}

impl Meter for Received {
    fn read(&mut self, bytes: &[u8]) -> io::Result<()> {
        let new = bytes.len() as u64;
        let before = self.0.bytes.fetch_add(new, Ordering::Relaxed);
        if before + new > MAX_AT_ONCE && self.0.is_awaited.load(Ordering::Relaxed) {
            return Err(io::Error::new(FLOOD, "a flood before the answer"));
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[IoSlice<'_>]) {
        // hyper has all of a head before it writes any of it.
        if self.0.keeps_head.load(Ordering::Relaxed) {
            self.0.keeps_head.store(false, Ordering::Relaxed);
            let mut head = self.head();
            for bytes in bytes {
                head.0.extend_from_slice(bytes);
            }
        }
    }
}

/// A stream with a meter.
#[derive(Debug)]
pub(super) struct Metered<I, M> {
    io: I,
    meter: M,
}

impl<I, M> Metered<I, M> {
    pub(super) fn new(io: I, meter: M) -> Self {
        Self { io, meter }
    }
}

impl<I: AsyncRead + Unpin, M: Meter + Unpin> AsyncRead for Metered<I, M> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        match buf.filled().get(before..) {
            Some(bytes) if !bytes.is_empty() => match self.meter.read(bytes) {
                Ok(()) => polled,
                Err(error) => Poll::Ready(Err(error)),
            },
            _ => polled,
        }
    }
}

impl<I: AsyncWrite + Unpin, M: Meter + Unpin> AsyncWrite for Metered<I, M> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.meter.write(&[IoSlice::new(buf)]);
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.meter.write(bufs);
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
