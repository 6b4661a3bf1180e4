//! A time limit for the first bytes of a connection.
//!
//! Which version of HTTP a client speaks is known when its first bytes differ from the preface of
//! HTTP/2 (RFC 9113, section 3.4), or are all of it. Until then no limit of HTTP applies yet, and a
//! client that sends nothing would hold its connection for ever.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A stream whose reads fail when its version is not known in time.
///
/// It holds a guard as long as it lives, which is longer than HTTP does where it becomes a tunnel.
#[derive(Debug)]
pub(crate) struct Preface<I, G> {
    io: I,
    state: Option<State>,
    _guard: G,
}

/// Until the version is known.
#[derive(Debug)]
struct State {
    deadline: Pin<Box<Sleep>>,
    /// How much of the preface has come.
    matched: usize,
}

impl<I, G> Preface<I, G> {
    pub(crate) fn new(io: I, timeout: Duration, guard: G) -> Self {
        let deadline = Box::pin(tokio::time::sleep(timeout));
        Self {
            io,
            state: Some(State {
                deadline,
                matched: 0,
            }),
            _guard: guard,
        }
    }
}

impl State {
    /// Takes note of what has been read; whether the version is known now.
    fn read(&mut self, bytes: &[u8]) -> bool {
        let rest = PREFACE.get(self.matched..).unwrap_or_default();
        self.matched += bytes.len();
        !rest.starts_with(bytes) || bytes.len() == rest.len()
    }
}

impl<I: AsyncRead + Unpin, G: Unpin> AsyncRead for Preface<I, G> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        let read = Pin::new(&mut this.io).poll_read(cx, buf);
        let Some(state) = &mut this.state else {
            return read;
        };
        if read.is_ready() {
            let bytes = buf.filled().get(before..).unwrap_or_default();
            if bytes.is_empty() || state.read(bytes) {
                this.state = None;
            }
            return read;
        }
        match state.deadline.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<I: AsyncWrite + Unpin, G: Unpin> AsyncWrite for Preface<I, G> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
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
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(30);

    async fn read(sent: &[u8]) -> io::Result<usize> {
        let (mut client, server) = tokio::io::duplex(64);
        client.write_all(sent).await.unwrap();
        let mut server = Preface::new(server, TIMEOUT, ());
        let mut buf = [0; 64];
        let mut read = 0;
        while server.state.is_some() {
            read += server.read(&mut buf).await?;
        }
        Ok(read)
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_cut_off() {
        assert_eq!(read(b"").await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn half_a_preface_is_cut_off() {
        assert_eq!(
            read(b"PRI * HTTP/2.0\r\n").await.unwrap_err().kind(),
            io::ErrorKind::TimedOut
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_limit_ends_when_the_version_is_known() {
        for sent in [
            PREFACE,
            b"G",
            b"PRI * HTTP/2.1\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nmore",
        ] {
            assert_eq!(read(sent).await.unwrap(), sent.len());
        }
    }
}
