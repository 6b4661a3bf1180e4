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

use std::io;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::activity::Activity;

/// What hyper reads in the place of a head that is refused: a NUL is in no head, and a head that has
/// ended is looked at.
const NO_HEAD: &[u8] = b"\0\r\n\r\n";
/// The digits of the largest `Content-Length` whose number fits.
const LENGTH_DIGITS: usize = 19;
/// Those of the largest chunk size.
const SIZE_DIGITS: u32 = 16;
/// How much of a line is looked at: more than any that has to be understood.
const LINE: usize = 128;

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

/// Something that is refused, and how much of what was read stands before the line that it is in.
#[derive(Debug, Eq, PartialEq)]
struct Refused {
    is_head: bool,
    good: usize,
}

/// Where a reader is in a stream of requests.
#[derive(Debug, Default)]
struct Reader {
    state: State,
    head: Head,
    /// The beginning of a line whose end has not come yet, as far as it has to be understood.
    line: Vec<u8>,
    /// How much of that line has come, its CR not counted.
    length: usize,
    /// Whether the last byte was the CR of a line.
    cr: bool,
    /// Whether the client has said that the request before is its last one (RFC 9112, section 9.6).
    is_last: bool,
    /// Whether there may be a tunnel behind the request that is being read.
    is_tunnel: bool,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum State {
    #[default]
    Head,
    /// So many bytes that nothing is to be seen in.
    Body(u64),
    Size,
    Data(u64),
    DataEnd,
    Trailers,
    /// It may be a tunnel.
    Anything,
}

/// What the head so far says of what is behind it.
#[derive(Debug, Default)]
struct Head {
    has_begun: bool,
    is_connect: bool,
    is_upgrade: bool,
    is_h2c: bool,
    content_length: Option<u64>,
    is_chunked: bool,
    is_last: bool,
}

/// That something is not as it has to be.
struct Malformed;

impl Reader {
    /// Whether all of the client's last request has come, and nothing behind it.
    fn is_over(&self) -> bool {
        let is_between = self.state == State::Head && !self.head.has_begun;
        self.is_last && is_between && self.length == 0 && !self.cr
    }

    /// What comes behind a request.
    fn behind(&self) -> State {
        match self.is_tunnel {
            true => State::Anything,
            false => State::Head,
        }
    }

    /// Looks at what comes next.
    fn read(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        let mut rest = bytes;
        // Where the head, or the line of a body, has begun that is being read.
        let mut good = 0;
        while !rest.is_empty() {
            match &mut self.state {
                State::Anything => return Ok(()),
                State::Body(left) | State::Data(left) => {
                    let now = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    *left -= now as u64;
                    rest = rest.get(now..).unwrap_or_default();
                    if *left == 0 {
                        self.state = match self.state {
                            State::Data(_) => State::DataEnd,
                            _ => self.behind(),
                        };
                    }
                    good = bytes.len() - rest.len();
                }
                State::Head | State::Size | State::DataEnd | State::Trailers => {
                    let line = self.line(rest).and_then(|(read, line)| {
                        match line {
                            Some(Line::Here(line)) => self.take(line, false)?,
                            Some(Line::Kept(line, is_cut)) => {
                                self.take(&line, is_cut)?;
                                self.line = line;
                                self.line.clear();
                            }
                            None => {}
                        }
                        Ok(read)
                    });
                    let Ok(read) = line else {
                        let is_head = self.state == State::Head;
                        return Err(Refused { is_head, good });
                    };
                    rest = rest.get(read..).unwrap_or_default();
                    if self.state != State::Head || !self.head.has_begun {
                        good = bytes.len() - rest.len();
                    }
                }
            }
        }
        Ok(())
    }

    /// The line that `bytes` begin with or go on with, and how much of them belongs to it.
    fn line<'a>(&mut self, bytes: &'a [u8]) -> Result<(usize, Option<Line<'a>>), Malformed> {
        let found = if self.cr {
            Some(0)
        } else {
            memchr::memchr2(b'\r', b'\n', bytes)
        };
        let text = bytes
            .get(..found.unwrap_or(bytes.len()))
            .unwrap_or_default();
        let is_bad = match self.state {
            State::Size => text.iter().any(|byte| is_control(*byte)),
            State::Head if !self.head.has_begun => text.contains(&b'#'),
            _ => false,
        };
        if is_bad {
            return Err(Malformed);
        }
        let ended = match found {
            None => false,
            Some(_) if self.cr => match bytes.first() {
                Some(b'\n') => true,
                _ => return Err(Malformed),
            },
            Some(at) => match (bytes.get(at), bytes.get(at + 1)) {
                (Some(b'\r'), Some(b'\n')) => true,
                (Some(b'\r'), None) => {
                    self.cr = true;
                    false
                }
                _ => return Err(Malformed),
            },
        };
        let read = match (ended, self.cr) {
            (false, _) => bytes.len(),
            (true, true) => 1,
            (true, false) => text.len() + 2,
        };
        if ended && !self.cr && self.length == 0 {
            return Ok((read, Some(Line::Here(text))));
        }
        let room = LINE.saturating_sub(self.line.len()).min(text.len());
        self.line
            .extend_from_slice(text.get(..room).unwrap_or_default());
        self.length += text.len();
        if !ended {
            return Ok((read, None));
        }
        self.cr = false;
        let is_cut = mem::take(&mut self.length) > self.line.len();
        Ok((read, Some(Line::Kept(mem::take(&mut self.line), is_cut))))
    }

    /// Takes a line, of which only the beginning is there where it was cut.
    fn take(&mut self, line: &[u8], is_cut: bool) -> Result<(), Malformed> {
        self.state = match self.state {
            State::Head if !line.is_empty() => {
                self.head.take(line, is_cut)?;
                State::Head
            }
            State::Head => {
                let head = mem::take(&mut self.head);
                self.is_last = head.is_last;
                self.is_tunnel = head.is_connect || (head.is_upgrade && !head.is_h2c);
                head.body().unwrap_or_else(|| self.behind())
            }
            State::Size => match chunk_size(line)? {
                0 => State::Trailers,
                size => State::Data(size),
            },
            State::DataEnd if line.is_empty() => State::Size,
            State::DataEnd => return Err(Malformed),
            State::Trailers if line.is_empty() => self.behind(),
            state => state,
        };
        Ok(())
    }
}

/// A line without its end.
enum Line<'a> {
    Here(&'a [u8]),
    /// From several readings, and whether there was more of it.
    Kept(Vec<u8>, bool),
}

impl Head {
    fn take(&mut self, line: &[u8], is_cut: bool) -> Result<(), Malformed> {
        if !mem::replace(&mut self.has_begun, true) {
            self.is_connect = line.starts_with(b"CONNECT ");
            let target = line.split(|byte| *byte == b' ').nth(1);
            let is_odd = target.is_some_and(|it| it.starts_with(b":"));
            if is_odd || line == b"PRI * HTTP/2.0" {
                return Err(Malformed);
            }
            return Ok(());
        }
        if let Some(value) = value_of(line, b"upgrade") {
            self.is_upgrade = true;
            self.is_h2c |= value
                .split(|byte| *byte == b',')
                .any(|token| trim(token).eq_ignore_ascii_case(b"h2c"));
        } else if let Some(value) = value_of(line, b"content-length") {
            if self.content_length.is_some() || self.is_chunked || is_cut {
                return Err(Malformed);
            }
            self.content_length = Some(content_length(value)?);
        } else if let Some(value) = value_of(line, b"transfer-encoding") {
            let is_chunked = value.eq_ignore_ascii_case(b"chunked");
            if !is_chunked || self.is_chunked || self.content_length.is_some() || is_cut {
                return Err(Malformed);
            }
            self.is_chunked = true;
        } else if let Some(value) = value_of(line, b"connection") {
            // Said in another way, it is not seen here, and costs no more than the wait for the client.
            self.is_last = value.eq_ignore_ascii_case(b"close");
        }
        Ok(())
    }

    /// Its body, where it has one.
    fn body(self) -> Option<State> {
        if self.is_connect {
            return None;
        }
        match self.content_length {
            _ if self.is_chunked => Some(State::Size),
            None | Some(0) => None,
            Some(length) => Some(State::Body(length)),
        }
    }
}

/// What stands behind `name` and a colon, where a line begins so.
fn value_of<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    // The colon first: nearly no line has one where the name would end.
    let (found, rest) = line.split_at_checked(name.len())?;
    let value = rest.strip_prefix(b":")?;
    found.eq_ignore_ascii_case(name).then(|| trim(value))
}

fn content_length(value: &[u8]) -> Result<u64, Malformed> {
    if value.is_empty() || value.len() > LENGTH_DIGITS {
        return Err(Malformed);
    }
    value.iter().try_fold(0_u64, |length, byte| match byte {
        b'0'..=b'9' => Ok(length * 10 + u64::from(byte - b'0')),
        _ => Err(Malformed),
    })
}

fn chunk_size(line: &[u8]) -> Result<u64, Malformed> {
    let mut size = 0_u64;
    let mut digits = 0;
    for byte in line {
        let Some(digit) = char::from(*byte).to_digit(16) else {
            break;
        };
        digits += 1;
        if digits > SIZE_DIGITS {
            return Err(Malformed);
        }
        size = size << 4 | u64::from(digit);
    }
    let behind = line.get(digits as usize..).unwrap_or_default();
    match (digits, behind.first(), trim(behind).first()) {
        (1.., None, _) | (1.., _, Some(b';')) => Ok(size),
        _ => Err(Malformed),
    }
}

/// Without the blanks around it; of other white space RFC 9110 knows none.
fn trim(value: &[u8]) -> &[u8] {
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let begin = value
        .iter()
        .position(|byte| !is_blank(byte))
        .unwrap_or(value.len());
    let end = value
        .iter()
        .rposition(|byte| !is_blank(byte))
        .map_or(begin, |last| last + 1);
    value.get(begin..end).unwrap_or_default()
}

fn is_control(byte: u8) -> bool {
    byte.is_ascii_control() && byte != b'\t'
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
