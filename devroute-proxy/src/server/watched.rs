//! A stream that tells what goes over it.
//!
//! It takes note of which HTTP the client speaks, which is known when its first bytes differ from the
//! preface of HTTP/2 (RFC 9113, section 3.4) or are all of it; of bytes that come; and of bytes that
//! cannot go. That is counting: the path of a byte knows no clock and no lock.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::activity::{Activity, Version};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A stream whose [`Activity`] can be looked at. It holds it as long as it lives, which is longer
/// than HTTP does where it becomes a tunnel.
#[derive(Debug)]
pub(super) struct Watched<I> {
    io: I,
    activity: Arc<Activity>,
    /// How much of the preface has come; nothing once the version is known.
    matched: Option<usize>,
}

impl<I> Watched<I> {
    pub(super) fn new(io: I, activity: Arc<Activity>) -> Self {
        Self {
            io,
            activity,
            matched: Some(0),
        }
    }

    fn received(&mut self, bytes: &[u8]) {
        self.activity.received(bytes.len());
        let Some(matched) = self.matched else {
            return;
        };
        let rest = PREFACE.get(matched..).unwrap_or_default();
        let version = if bytes.is_empty() || !(rest.starts_with(bytes) || bytes.starts_with(rest)) {
            Version::Http1
        } else if bytes.len() >= rest.len() {
            Version::Http2
        } else {
            self.matched = Some(matched + bytes.len());
            return;
        };
        self.matched = None;
        self.activity.speaks(version);
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Watched<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        match Pin::new(&mut this.io).poll_read(cx, buf) {
            Poll::Ready(Ok(())) => {
                this.received(buf.filled().get(before..).unwrap_or_default());
                Poll::Ready(Ok(()))
            }
            // As if the client had closed it: what is idle ends, and in good order.
            Poll::Pending if this.activity.is_closing() => Poll::Ready(Ok(())),
            read => read,
        }
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Watched<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        self.activity.blocked(written.is_pending());
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Asked for once everything is written, so it has the last word on that.
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        self.activity.blocked(flushed.is_pending());
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.activity.blocked(written.is_pending());
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::sync::watch;

    use super::super::activity::Phase;
    use super::*;
    use crate::metrics::Metrics;

    fn watched() -> (tokio::io::DuplexStream, Watched<tokio::io::DuplexStream>) {
        let (client, server) = tokio::io::duplex(64);
        let open = Metrics::new("test", 1).admin_connections().opened();
        let activity = Activity::new(open.into(), Arc::default(), watch::channel(()).1);
        (client, Watched::new(server, activity))
    }

    /// The version after each of these has been read.
    async fn versions(sent: &[&[u8]]) -> Vec<Option<Version>> {
        let (mut client, mut server) = watched();
        let mut versions = Vec::new();
        for sent in sent {
            client.write_all(sent).await.unwrap();
            let mut buf = vec![0; sent.len()];
            server.read_exact(&mut buf).await.unwrap();
            assert_eq!(buf, *sent);
            versions.push(match server.activity.phase(1024) {
                Phase::Opening => None,
                _ if server.activity.is_http2() => Some(Version::Http2),
                _ => Some(Version::Http1),
            });
        }
        versions
    }

    #[tokio::test]
    async fn the_version_is_known_as_soon_as_it_can_be() {
        let (http1, http2) = (Some(Version::Http1), Some(Version::Http2));
        assert_eq!(versions(&[b"G"]).await, [http1]);
        assert_eq!(versions(&[PREFACE]).await, [http2]);
        assert_eq!(
            versions(&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nmore"]).await,
            [http2]
        );
        assert_eq!(versions(&[b"PRI * HTTP/2.1\r\n"]).await, [http1]);
        assert_eq!(versions(&[b"P", b"O"]).await, [None, http1]);
        assert_eq!(
            versions(&[b"PRI * HTTP/2.0\r\n", b"\r\nSM\r\n\r\n", b"PRI"]).await,
            [None, http2, http2]
        );
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_keeps_its_connection_busy() {
        let (mut client, mut server) = watched();
        server.activity.speaks(Version::Http1);
        let write = server.write_all(&[0; 100]);
        assert!(
            tokio::time::timeout(std::time::Duration::ZERO, write)
                .await
                .is_err()
        );
        assert_eq!(server.activity.phase(1024), Phase::Busy);
        client.read_exact(&mut [0; 64]).await.unwrap();
        server.write_all(b"rest").await.unwrap();
        assert_eq!(server.activity.phase(1024), Phase::Idle);
    }

    #[tokio::test]
    async fn a_closing_stream_ends_where_nothing_comes_any_more() {
        let (mut client, mut server) = watched();
        server.activity.close();
        client.write_all(b"late").await.unwrap();
        let mut read = Vec::new();
        server.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, b"late");
    }
}
