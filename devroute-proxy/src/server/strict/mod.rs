//! Refuses HTTP/1 that two readers could read differently.
//!
//! What is sent on is made anew, so whoever is behind this proxy reads what it has read. Whoever is in front
//! of it may have read something else: requests are smuggled past a load balancer by what its reader and
//! the next one do not agree on, and hyper, like most, takes a little more than RFC 9112 has. So the bytes
//! are looked at before hyper gets them, and what is refused is what somebody is known to read in another
//! way:
//!
//! - a line of a head, of a chunk or of trailers that ends in a bare LF, or has a CR in it;
//! - `Content-Length` that is more than one number of up to 19 digits, or there twice, be they equal;
//! - `Transfer-Encoding` that is anything but `chunked`, or there twice, or beside a `Content-Length`;
//! - a `#` in a request line, since hyper drops the fragment of a target; a target that begins with a colon,
//!   of which it takes only the path; and the beginning of HTTP/2 in the middle of HTTP/1;
//! - a chunk size that is not 1 to 16 hexadecimal digits with nothing behind them but an extension, and
//!   a control character in that.
//!
//! Everything else is hyper's, which refuses the rest. A head is answered with 400 and the connection is
//! closed, before any service has seen the request: hyper is given bytes in its place that are no head
//! to anybody. A body breaks off.
//!
//! A request that may become a tunnel (`CONNECT`, or with an `Upgrade` that can) is the last one that is
//! read this way, its body included, since what follows may be anything. `Exchange` sees to it that it is
//! the last one on its connection, too.
//!
//! It also sees that a client wants no more than this answer, and has sent all of what it asks: then nothing
//! can come that would have to be read before its connection is closed.

mod reader;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use self::reader::Reader;
use super::activity::Activity;

/// What hyper reads in the place of a head that is refused: a NUL is in no head, and a head that has
/// ended is looked at.
const NO_HEAD: &[u8] = b"\0\r\n\r\n";

/// A stream of HTTP/1, whose reader gets nothing that is ambiguous.
#[derive(Debug)]
pub(super) struct Strict<I> {
    io: I,
    reader: Reader,
    end: Option<End>,
    activity: Arc<Activity>,
}

/// How a stream ends in which something was refused.
#[derive(Debug)]
enum End {
    /// With what is left of [`NO_HEAD`].
    Head(&'static [u8]),
    Body,
}

impl<I> Strict<I> {
    pub(super) fn new(io: I, activity: Arc<Activity>) -> Self {
        Self {
            io,
            reader: Reader::default(),
            end: None,
            activity,
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Strict<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        if this.end.is_none() {
            ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
            let new = buf.filled().get(before..).unwrap_or_default();
            let Err(refused) = this.reader.read(new) else {
                return Poll::Ready(Ok(()));
            };
            // What came with it and before it is good.
            buf.set_filled(before + refused.good);
            this.end = Some(if refused.is_head {
                End::Head(NO_HEAD)
            } else {
                End::Body
            });
        }
        match &mut this.end {
            Some(End::Head(left)) => {
                let (now, later) = left.split_at(left.len().min(buf.remaining()));
                buf.put_slice(now);
                *left = later;
            }
            Some(End::Body) if buf.filled().len() == before => {
                return Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the framing of a body is malformed",
                )));
            }
            _ => {}
        }
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Strict<I> {
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
        if self.end.is_none() && self.reader.is_over() {
            self.activity.has_all();
        }
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
    use tokio::sync::watch;

    use super::*;
    use crate::metrics::Metrics;

    fn activity() -> Arc<Activity> {
        let open = Metrics::new("test", 1).admin_connections().opened();
        Activity::new(open.into(), Arc::default(), watch::channel(()).1)
    }

    /// What a reader gets of `sent`, when it comes in two pieces, and whether the end is an error.
    async fn read_in_two(sent: &[u8], cut: usize) -> (Vec<u8>, bool) {
        let (one, two) = sent.split_at(cut);
        let io = tokio_test_io(one, two);
        let mut read = Vec::new();
        let mut strict = Strict::new(io, activity());
        let failed = strict.read_to_end(&mut read).await.is_err();
        (read, failed)
    }

    /// A stream that gives two pieces in two readings.
    fn tokio_test_io<'a>(one: &'a [u8], two: &'a [u8]) -> impl AsyncRead + Unpin + use<'a> {
        one.chain(two)
    }

    /// Asserts that nothing of `sent` is kept back, however it comes.
    async fn passes(sent: &str) {
        for cut in 0..=sent.len() {
            let (read, failed) = read_in_two(sent.as_bytes(), cut).await;
            assert!(
                !failed && read == sent.as_bytes(),
                "{sent:?} at {cut}: {read:?}"
            );
        }
    }

    /// Asserts that of `good` and `bad` together everything but what is bad is read, and in its place
    /// what is no head.
    async fn is_no_head(good: &str, bad: &str) {
        let sent = format!("{good}{bad}");
        for cut in 0..=sent.len() {
            let (read, failed) = read_in_two(sent.as_bytes(), cut).await;
            let text = String::from_utf8(read).unwrap();
            let head = text.strip_suffix("\0\r\n\r\n");
            let head = head.unwrap_or_else(|| panic!("{sent:?} at {cut}: {text:?}"));
            let begun = head.strip_prefix(good);
            assert!(
                begun.is_some_and(|begun| bad.starts_with(begun)) && !failed,
                "{text:?}"
            );
        }
    }

    async fn is_no_body(good: &str, bad: &str) {
        let sent = format!("{good}{bad}");
        for cut in 0..=sent.len() {
            let (read, failed) = read_in_two(sent.as_bytes(), cut).await;
            let text = String::from_utf8(read).unwrap();
            let begun = text.strip_prefix(good);
            assert!(
                begun.is_some_and(|begun| bad.starts_with(begun)),
                "{sent:?} at {cut}: {text:?}"
            );
            assert!(failed, "{sent:?} at {cut}");
        }
    }

    const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    const CHUNKED: &str = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";

    #[tokio::test]
    async fn what_is_well_formed_passes() {
        passes("").await;
        passes(&GET.repeat(3)).await;
        passes(&format!("\r\n\r\n{GET}\r\n{GET}")).await;
        passes(&format!(
            "POST / HTTP/1.1\r\ncontent-LENGTH:\t5 \r\n\r\n\n\n\r\0x{GET}"
        ))
        .await;
        passes(&format!(
            "{CHUNKED}5\r\n\n\n\n\n\n\r\nA;a=\"b\"\r\n0123456789\r\n00 ;x\r\na: b\r\n\r\n{GET}"
        ))
        .await;
        passes(&format!(
            "GET / HTTP/1.1\r\n{}: {}\r\n\r\n{GET}",
            "x".repeat(300),
            "y".repeat(300)
        ))
        .await;
        passes("GET / HTTP/1.1\r\nhost: a").await;
    }

    #[tokio::test]
    async fn lengths_and_sizes_have_all_their_digits() {
        let twelve = "\n".repeat(12);
        for length in ["12", "0000000000000000012"] {
            let head = format!("POST / HTTP/1.1\r\nContent-Length: {length}\r\n\r\n");
            passes(&format!("{head}{twelve}{GET}")).await;
            is_no_head(&format!("{head}{twelve}"), "\n").await;
        }
        let eighteen = "\n".repeat(0x12);
        for size in ["12", "0000000000000012"] {
            let chunk = format!("{CHUNKED}{size}\r\n{eighteen}");
            passes(&format!("{chunk}\r\n0\r\n\r\n{GET}")).await;
            is_no_body(&chunk, "\n").await;
        }
    }

    #[tokio::test]
    async fn trailers_end_with_an_empty_line() {
        let trailers = "a: b\r\nc: d\r\nContent-Length: x\r\n";
        passes(&format!("{CHUNKED}0\r\n{trailers}\r\n{GET}")).await;
        is_no_head(&format!("{CHUNKED}0\r\n{trailers}\r\n"), "\n").await;
    }

    #[tokio::test]
    async fn lines_end_in_crlf_and_have_no_cr() {
        for bad in [
            "GET / HTTP/1.1\nhost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\n\nGET",
            "GET / HTTP/1.1\r\nhost: a\rb: c\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\r\n\r\n",
            "\nGET / HTTP/1.1\r\n\r\n",
        ] {
            is_no_head("", bad).await;
            is_no_head(GET, bad).await;
        }
    }

    #[tokio::test]
    async fn a_target_is_all_that_is_written() {
        passes("GET /?a=b%23 HTTP/1.1\r\nx: #\r\n\r\n").await;
        for line in ["GET /a#b HTTP/1.1", "GET ://a/ HTTP/1.1", "PRI * HTTP/2.0"] {
            is_no_head("", &format!("{line}\r\n\r\n")).await;
        }
    }

    #[tokio::test]
    async fn a_length_is_one_number_and_alone() {
        for field in [
            "Content-Length: 5\r\nContent-Length: 5\r\n",
            "Content-Length: 5\r\nContent-Length: 6\r\n",
            "Content-Length: 5, 5\r\n",
            "Content-Length: +5\r\n",
            "Content-Length: 0x5\r\n",
            "Content-Length: 5 5\r\n",
            // Of which only the beginning is kept where it comes in pieces.
            &format!("Content-Length: 5{}6\r\n", " ".repeat(200)),
            "Content-Length:\r\n",
            "Content-Length: 00000000000000000005\r\n",
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked, identity\r\n",
            "Transfer-Encoding: ,chunked\r\n",
            "Transfer-Encoding:\x0bchunked\r\n",
            "transfer-encoding:\r\n",
        ] {
            is_no_head("", &format!("POST / HTTP/1.1\r\n{field}\r\n")).await;
            is_no_head(
                &format!("{CHUNKED}0\r\n\r\n"),
                &format!("POST / HTTP/1.1\r\n{field}\r\n"),
            )
            .await;
        }
    }

    /// Whether something may come behind `sent`, once its answer is written.
    async fn expects_more(sent: &str) -> bool {
        let (mut client, server) = tokio::io::duplex(1024);
        let activity = activity();
        let mut strict = Strict::new(server, Arc::clone(&activity));
        client.write_all(sent.as_bytes()).await.unwrap();
        let mut read = vec![0; sent.len()];
        strict.read_exact(&mut read).await.unwrap();
        strict.shutdown().await.unwrap();
        activity.expects_more()
    }

    #[tokio::test]
    async fn nothing_comes_behind_the_whole_of_a_last_request() {
        let last = "GET / HTTP/1.1\r\nConnection: Close\r\n\r\n";
        let body = "POST / HTTP/1.1\r\nconnection: close\r\ncontent-length: 5\r\n\r\n";
        let chunked = CHUNKED.replacen("Transfer", "Connection: close\r\nTransfer", 1);
        for all in [
            last.to_owned(),
            format!("{GET}{last}"),
            format!("{body}12345"),
            format!("{chunked}0\r\n\r\n"),
        ] {
            assert!(!expects_more(&all).await, "{all:?}");
        }
        for some in [
            GET.to_owned(),
            body.to_owned(),
            format!("{body}1234"),
            format!("{chunked}0\r\n"),
            format!("{last}G"),
            format!("{last}\r"),
            format!("{last}{GET}"),
        ] {
            assert!(expects_more(&some).await, "{some:?}");
        }
    }

    #[tokio::test]
    async fn a_chunk_is_a_number_and_that_many_bytes() {
        for bad in [
            "\r\n",
            "g\r\n",
            "0x5\r\n",
            "5 \r\n",
            " 5\r\n",
            "+5\r\n",
            "5\n",
            "5\rx",
            "5;a\n",
            "5;a\rb\r\n",
            "5;\0\r\n",
            "00000000000000005\r\n",
            "5,\r\n",
            ";a\r\n",
        ] {
            is_no_body(CHUNKED, bad).await;
        }
        for bad in ["x\r\n", "\n", "\rx", "0\r\n"] {
            is_no_body(&format!("{CHUNKED}2\r\nab"), bad).await;
        }
        for bad in ["a: b\n\r\n", "\n", "a: b\rc: d\r\n\r\n"] {
            is_no_body(&format!("{CHUNKED}0\r\n"), bad).await;
        }
    }

    #[tokio::test]
    async fn what_may_be_a_tunnel_is_not_read() {
        let bytes = "\n\r\0Content-Length: x\n\n";
        passes(&format!(
            "CONNECT a:1 HTTP/1.1\r\nupgrade: h2c\r\n\r\n{bytes}"
        ))
        .await;
        passes(&format!(
            "GET / HTTP/1.1\r\nupgrade: websocket\r\n\r\n{bytes}"
        ))
        .await;
        // Its own body is.
        let upgrade = CHUNKED.replacen("Transfer", "upgrade: x\r\nTransfer", 1);
        passes(&format!("{upgrade}2\r\nab\r\n0\r\na: b\r\n\r\n{bytes}")).await;
        is_no_body(&upgrade, "00000000000000005\r\n").await;
        is_no_body(&format!("{upgrade}2\r\nab"), "\n").await;
        is_no_body(&format!("{upgrade}0\r\n"), "a: b\n").await;
        let upgrade = "POST / HTTP/1.1\r\nupgrade: x\r\ncontent-length: 2\r\n\r\nab";
        passes(&format!("{upgrade}{bytes}")).await;
        // It never is one.
        is_no_head("GET / HTTP/1.1\r\nupgrade: x, h2c\r\n\r\n", bytes).await;
    }
}
