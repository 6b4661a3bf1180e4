//! The connection of HTTP/2 between laptop and hub, from either end of it.
//!
//! Both use both: requests to the laptop's services are [sent](send) by the hub and [received](receive) by the laptop,
//! the laptop's own requests the other way round, in a connection within the first.
//!
//! Each stream has a window of its own, and the connection has one as large as all of them together. So what one
//! request leaves unread holds up no other, by construction; the price is that a peer may have that much under way.

mod breaker;
mod expect;
mod receive;
mod send;
mod switch;

use std::time::Duration;

pub(crate) use self::breaker::{Breaker, breakable};
pub(crate) use self::expect::{Gates, Wanted};
pub(crate) use self::receive::receive;
pub(crate) use self::send::{SendError, Sender, open};
pub(crate) use self::switch::{Answered, answered, as_http1, from_stream, into_stream, switched};

/// How it is found out that the other end is gone.
///
/// A PING (RFC 9113, section 6.7) after `interval` without a sign of it, and the end of the connection where none comes
/// for `timeout` after that. It is the process of the other end that answers, not an application at a breakpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Liveness {
    /// From the last sign to the question.
    pub interval: Duration,
    /// From the question to the end.
    pub timeout: Duration,
}

impl Liveness {
    /// A question after `interval`, and the end after `timeout` more.
    #[must_use]
    pub fn new(interval: Duration, timeout: Duration) -> Self {
        Self { interval, timeout }
    }
}

impl Default for Liveness {
    /// Less than ten seconds in all.
    fn default() -> Self {
        Self::new(Duration::from_secs(3), Duration::from_secs(6))
    }
}

/// What a connection may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) liveness: Liveness,
    /// Streams at a time, besides those of the tunnel's own.
    pub(crate) streams: u32,
    /// Bytes of a header list.
    pub(crate) head_size: u32,
}

impl Settings {
    /// The bytes of one stream that may be under way.
    const STREAM_WINDOW: u32 = 512 * 1024;
    /// The most of one stream that waits here to be sent.
    const SEND_BUFFER: usize = 256 * 1024;
    /// Streams of the tunnel's own: control, and the way out.
    const OWN: u32 = 2;

    fn all_streams(self) -> u32 {
        self.streams.saturating_add(Self::OWN)
    }

    fn connection_window(self) -> u32 {
        const MOST: u32 = (1 << 31) - 1;
        Self::STREAM_WINDOW
            .saturating_mul(self.all_streams())
            .min(MOST)
    }
}
