//! A connection that can be ended from outside: whatever waits for it fails at once.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

/// Ends the connection when it is told to, or dropped.
#[derive(Debug)]
pub(crate) struct Breaker(
    #[allow(dead_code, reason = "it is there to be dropped")] oneshot::Sender<()>,
);

/// The connection.
#[derive(Debug)]
pub(crate) struct Breakable<I> {
    io: I,
    broken: oneshot::Receiver<()>,
    is_broken: bool,
}

/// Makes `io` one that ends with the breaker.
pub(crate) fn breakable<I>(io: I) -> (Breaker, Breakable<I>) {
    let (sender, broken) = oneshot::channel();
    let io = Breakable {
        io,
        broken,
        is_broken: false,
    };
    (Breaker(sender), io)
}

impl<I> Breakable<I> {
    fn poll_broken(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if !self.is_broken {
            self.is_broken = Pin::new(&mut self.broken).poll(cx).is_ready();
        }
        if self.is_broken {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Breakable<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Whoever has the connection reads all the time, so this is where the word comes through.
        self.poll_broken(cx)?;
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Breakable<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_broken {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
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
        if self.is_broken {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
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

    #[tokio::test]
    async fn who_waits_for_bytes_hears_of_the_end() {
        let (mut other, io) = tokio::io::duplex(64);
        let (breaker, mut io) = breakable(io);
        other.write_all(b"a").await.unwrap();
        assert_eq!(io.read_u8().await.unwrap(), b'a');
        let reading = tokio::spawn(async move {
            let error = io.read_u8().await.unwrap_err();
            (error.kind(), io.write_all(b"b").await.is_err())
        });
        tokio::task::yield_now().await;
        drop(breaker);
        let (kind, write_fails) = reading.await.unwrap();
        assert_eq!(kind, io::ErrorKind::ConnectionAborted);
        assert!(write_fails);
    }
}
