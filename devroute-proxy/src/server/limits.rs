//! What a client may take: time, bytes, connections; and how long a drain waits for it.
//!
//! None of it ends a request whose answer is awaited, or a body however slow: whoever answers may
//! sit at a breakpoint, and so may whoever reads. What can run out is the patience with a client
//! that has not asked for anything yet.
//!
//! ```
//! use std::time::Duration;
//! use devroute_proxy::server::{Limits, Timers};
//!
//! assert_eq!(Timers::default().head, Duration::from_secs(10));
//! assert_eq!(Limits::default().head_size, 64 * 1024);
//! ```

use std::time::Duration;

/// How long a client may keep its connection without a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Timers {
    /// From the accept, or the end of the TLS handshake, until it is known which version of HTTP
    /// the client speaks: its first byte, or all of the preface of HTTP/2.
    pub first_byte: Duration,
    /// For the TLS handshake, and from the first byte of an HTTP/1 head to its last.
    pub head: Duration,
    /// Between two requests; `None` for ever. It is measured in quarters, so it may last a quarter
    /// longer: nobody reads a clock for each request.
    ///
    /// By default longer than an hour, which is how long Envoy keeps a connection to an upstream: the
    /// side that sends the requests closes first, and no request meets a connection that is closed
    /// at that very moment.
    pub idle: Option<Duration>,
}

impl Default for Timers {
    fn default() -> Self {
        Self {
            first_byte: Duration::from_secs(30),
            head: Duration::from_secs(10),
            idle: Some(Duration::from_secs(65 * 60)),
        }
    }
}

/// How much clients may take.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of an HTTP/1 head, and of a header list of HTTP/2 (RFC 9113, section 6.5.2). At least
    /// 8 KiB, which is what a buffer has.
    pub head_size: u32,
    /// Header fields of a request.
    pub headers: usize,
    /// Bytes of a request's body, without its framing; `None` for any number. A proxy holds nothing of
    /// a body, so this protects who reads it.
    pub body: Option<usize>,
    /// Connections at a time; `None` for [`CONNECTIONS`](Self::CONNECTIONS), or fewer where the
    /// process may not have two files open for each.
    pub connections: Option<usize>,
    /// Connections at a time of one client: an IPv4 address, or a /64 of IPv6; `None` for as many as
    /// there may be.
    pub client_connections: Option<usize>,
    /// Concurrent streams of one HTTP/2 connection.
    pub streams: u32,
}

impl Limits {
    /// The connections at a time that there may be where nothing else is said.
    pub const CONNECTIONS: usize = 16 * 1024;
    /// The header fields that cost nothing to allow, as hyper has it.
    pub(crate) const HEADERS: usize = 100;
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_size: 64 * 1024,
            headers: Self::HEADERS,
            body: None,
            connections: None,
            client_connections: None,
            streams: 256,
        }
    }
}

/// What it means that a client of HTTP/1 sends nothing more, while its request is answered.
///
/// TCP says only that its half of the connection has ended. HTTP/2 ends each stream for itself, so
/// there a client that is gone is gone whatever this is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum HalfClose {
    /// That it has gone: nobody works for it any longer. Nearly always it has.
    #[default]
    Gone,
    /// That it waits for its answer, and closes its half first, as a few do (`nc -N`). One that has
    /// really gone is noticed no sooner than something is sent to it.
    Keep,
}

/// How a server ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Drain {
    /// How long connections are accepted after the shutdown began, as if nothing had happened: for
    /// load balancers, which hear of the readiness some time later.
    pub delay: Duration,
    /// How long idle HTTP/1 connections stay open after that, so that a request under way to one
    /// of them is answered. It may last a quarter longer.
    pub grace: Duration,
    /// How long requests and tunnels may finish after that.
    pub timeout: Duration,
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            grace: Duration::from_secs(2),
            timeout: Duration::from_secs(30),
        }
    }
}
