//! A stream that tells what goes over it.
//!
//! First it finds out which HTTP the client speaks, which is known when its first bytes differ from
//! the preface of HTTP/2 (RFC 9113, section 3.4) or are all of it. Whoever reads gets those bytes
//! again. From then on it takes note of bytes that come, and of bytes that cannot go. That is
//! counting: the path of a byte knows no clock and no lock.
//!
//! And it closes as RFC 9112 has it, section 9.6: the system resets a connection that is closed with
//! something unread on it, and the client may lose the answer that says why. So what still comes after
//! the last answer is read and thrown away, until the client has closed too, or for [`LINGER`]. A client that
//! asked for the connection to be closed sends nothing more, and is not waited for.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::activity::{Activity, Version};
use super::sent::Sent;
use crate::metrics::Limit;

/// What is read at first, most often a head.
const FIRST_READ: usize = 2048;
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long a client may take to see that its connection has ended.
const LINGER: Duration = Duration::from_secs(1);

/// A stream whose [`Activity`] can be looked at. It holds it as long as it lives, which is longer
/// than HTTP does where it becomes a tunnel.
#[derive(Debug)]
pub(super) struct Watched<I> {
    io: I,
    activity: Arc<Activity>,
    /// What was read to find out the version: most often all of the first head.
    start: Vec<u8>,
    /// How much of that has been read again.
    read: usize,
    /// What of HTTP/2 has been sent.
    sent: Sent,
    /// Once this side has nothing more to say.
    lingering: Option<Pin<Box<Sleep>>>,
}

impl<I> Watched<I> {
    pub(super) fn new(io: I, activity: Arc<Activity>) -> Self {
        Self {
            io,
            activity,
            start: Vec::new(),
            read: 0,
            sent: Sent::default(),
            lingering: None,
        }
    }
}

impl<I: AsyncRead + Unpin> Watched<I> {
    /// Reads until it is known which HTTP this is; once, before anything else is read.
    pub(super) fn poll_version(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Version>> {
        let mut room = [MaybeUninit::uninit(); FIRST_READ];
        loop {
            let mut buf = ReadBuf::uninit(&mut room);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut buf))?;
            let new = buf.filled();
            self.start.extend_from_slice(new);
            if self.start.starts_with(PREFACE) {
                self.activity.speaks(Version::Http2);
                return Poll::Ready(Ok(Version::Http2));
            }
            if new.is_empty() || !PREFACE.starts_with(&self.start) {
                self.activity.received(self.start.len());
                self.activity.speaks(Version::Http1);
                return Poll::Ready(Ok(Version::Http1));
            }
        }
    }

    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let lingering = self
            .lingering
            .get_or_insert_with(|| Box::pin(sleep(LINGER)));
        let mut thrown_away = [0; 1024];
        loop {
            let mut buf = ReadBuf::new(&mut thrown_away);
            match Pin::new(&mut self.io).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => {}
                Poll::Ready(_ended) => return Poll::Ready(()),
                Poll::Pending => return lingering.as_mut().poll(cx),
            }
        }
    }

    /// Sees the first `count` bytes of what was to be sent.
    fn written<'a>(&mut self, mut count: usize, bufs: impl Iterator<Item = &'a [u8]>) {
        if !self.activity.is_http2() {
            return;
        }
        for buf in bufs {
            let now = buf.get(..count.min(buf.len())).unwrap_or_default();
            count -= now.len();
            let refused = self.sent.see(now);
            for _ in 0..refused.streams {
                self.activity.open().limit_reached(Limit::Streams);
            }
            for _ in 0..refused.floods {
                self.activity.open().limit_reached(Limit::Flood);
            }
            for _ in 0..refused.heads {
                self.activity.open().limit_reached(Limit::Head);
            }
            if count == 0 {
                return;
            }
        }
    }

    /// What was read too early.
    fn start(&self) -> &[u8] {
        self.start.get(self.read..).unwrap_or_default()
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Watched<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let start = this.start();
        let resumed = !start.is_empty();
        if resumed {
            let (now, _later) = start.split_at(start.len().min(buf.remaining()));
            buf.put_slice(now);
            this.read += now.len();
            if this.read == this.start.len() {
                (this.start, this.read) = (Vec::new(), 0);
            }
            if buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
        }
        let before = buf.filled().len();
        match Pin::new(&mut this.io).poll_read(cx, buf) {
            Poll::Ready(Ok(())) => {
                this.activity.received(buf.filled().len() - before);
                Poll::Ready(Ok(()))
            }
            // The rest comes with it where it is there: given a head in two pieces, hyper doubles its
            // buffer, and keeps it as long as the connection lasts.
            _ if resumed => Poll::Ready(Ok(())),
            // As if the client had closed it: what is idle ends, and in good order.
            Poll::Pending if this.activity.is_closing() => Poll::Ready(Ok(())),
            read => read,
        }
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        self.activity.blocked(written.is_pending());
        if let Poll::Ready(Ok(count)) = written {
            self.written(count, [buf].into_iter());
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Asked for once everything is written, so it has the last word on that.
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        self.activity.blocked(flushed.is_pending());
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingering.is_none() {
            ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
        }
        if self.activity.is_tunnel() {
            // The other half goes on.
            return Poll::Ready(Ok(()));
        }
        if self.activity.expects_more() {
            return self.poll_linger(cx).map(Ok);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.activity.blocked(written.is_pending());
        if let Poll::Ready(Ok(count)) = written {
            self.written(count, bufs.iter().map(|buf| &**buf));
        }
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
    use tokio::time::Instant;

    use super::super::activity::Phase;
    use super::*;
    use crate::metrics::Metrics;

    fn watched() -> (tokio::io::DuplexStream, Watched<tokio::io::DuplexStream>) {
        let (client, server) = tokio::io::duplex(64);
        let open = Metrics::new("test", 1).admin_connections().opened();
        let activity = Activity::new(open.into(), Arc::default(), watch::channel(()).1);
        (client, Watched::new(server, activity))
    }

    /// The version after each of these has been sent; and that all of them can be read then.
    async fn versions(sent: &[&[u8]]) -> Vec<Option<Version>> {
        let (mut client, mut server) = watched();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut versions = Vec::new();
        for sent in sent {
            client.write_all(sent).await.unwrap();
            versions.push(match server.poll_version(&mut cx) {
                Poll::Ready(version) => Some(version.unwrap()),
                Poll::Pending => None,
            });
        }
        client.write_all(b" and more").await.unwrap();
        drop(client);
        let mut read = Vec::new();
        server.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, [&sent.concat()[..], b" and more"].concat());
        versions
    }

    #[tokio::test]
    async fn the_version_is_known_as_soon_as_it_can_be() {
        let (http1, http2) = (Some(Version::Http1), Some(Version::Http2));
        assert_eq!(versions(&[b"G"]).await, [http1]);
        assert_eq!(versions(&[PREFACE]).await, [http2]);
        let longer = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nmore";
        assert_eq!(versions(&[longer]).await, [http2]);
        assert_eq!(versions(&[b"PRI * HTTP/2.1\r\n"]).await, [http1]);
        assert_eq!(versions(&[b"P", b"O"]).await, [None, http1]);
        let pieces: [&[u8]; 2] = [b"PRI * HTTP/2.0\r\n", b"\r\nSM\r\n\r\n"];
        assert_eq!(versions(&pieces).await, [None, http2]);
    }

    #[tokio::test]
    async fn an_end_is_the_end_of_http1() {
        let (client, mut server) = watched();
        drop(client);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let version = server.poll_version(&mut cx);
        assert!(matches!(version, Poll::Ready(Ok(Version::Http1))));
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

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_ends_reads_what_still_comes_until_the_client_has_seen_it() {
        let (mut client, mut server) = watched();
        let ended = tokio::spawn(async move {
            server.shutdown().await.unwrap();
            server
        });
        let began = Instant::now();
        // More than fits into the stream, so somebody reads it.
        client.write_all(&[0; 1000]).await.unwrap();
        assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
        drop(client);
        ended.await.unwrap();
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_look_is_not_waited_for_for_long() {
        let (_client, mut server) = watched();
        let began = Instant::now();
        server.shutdown().await.unwrap();
        assert_eq!(began.elapsed(), LINGER);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sends_nothing_more_is_not_waited_for() {
        let (_client, mut server) = watched();
        let began = Instant::now();
        server.activity.has_all();
        server.shutdown().await.unwrap();
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn half_a_tunnel_ends_and_the_other_half_goes_on() {
        let (mut client, mut server) = watched();
        server.activity.becomes_a_tunnel();
        server.shutdown().await.unwrap();
        assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
        client.write_all(b"more").await.unwrap();
        let mut read = [0; 4];
        server.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"more");
    }
}
