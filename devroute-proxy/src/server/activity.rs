//! What a connection is doing, as its parts tell each other.
//!
//! The stream sees bytes, the service sees requests, and neither knows what the other does; the
//! timers of a connection need both. All of it is counting: nobody reads a clock here.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use tokio::sync::watch;

use super::admission::Admitted;
use super::lifetime::Draining;
use crate::metrics::OpenConnection;

/// One connection. It counts as open, and holds a drain, as long as any part of it lives: as a
/// tunnel that is longer than HTTP does.
#[derive(Debug)]
pub(super) struct Activity {
    is_http2: AtomicBool,
    /// Requests that have begun.
    requests: AtomicU32,
    /// Those of them that are not answered yet.
    in_flight: AtomicU32,
    /// Those of all that ended before their answer began.
    given_up: AtomicU32,
    /// Bytes that came since a request last began or ended.
    received: AtomicU32,
    /// Whether there is something to send that the client does not take.
    blocked: AtomicBool,
    /// Whether the stream is to end where nothing comes any more.
    closing: AtomicBool,
    is_tunnel: AtomicBool,
    /// Whether everything has been read that is to come.
    has_all: AtomicBool,
    admitted: Admitted,
    pub(super) draining: Arc<Draining>,
    _alive: watch::Receiver<()>,
}

/// Requests that a client may give up on a connection like any other.
const FICKLE: u32 = 16;
/// Requests that it may give up where they are most of its requests.
const FLOOD: u32 = 1000;

/// Which HTTP a connection speaks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Version {
    Http1,
    Http2,
}

/// What a connection is doing, once its version is known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Phase {
    /// A part of an HTTP/1 head has come.
    Head,
    /// A request is being answered, or an answer being sent.
    Busy,
    /// None of that.
    Idle,
}

impl Activity {
    /// A connection that counts as `admitted`; whoever has the other end of `alive` can wait for its
    /// end.
    pub(super) fn new(
        admitted: Admitted,
        draining: Arc<Draining>,
        alive: watch::Receiver<()>,
    ) -> Arc<Self> {
        Arc::new(Self {
            is_http2: AtomicBool::new(false),
            requests: AtomicU32::new(0),
            in_flight: AtomicU32::new(0),
            given_up: AtomicU32::new(0),
            received: AtomicU32::new(0),
            blocked: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            is_tunnel: AtomicBool::new(false),
            has_all: AtomicBool::new(false),
            admitted,
            draining,
            _alive: alive,
        })
    }

    /// Where it is counted.
    pub(super) fn open(&self) -> &OpenConnection {
        &self.admitted.open
    }

    /// What it is doing, where a head has at most `head_size` bytes.
    ///
    /// More than that after an answer is the rest of a body, whose answer was complete before it;
    /// the bytes do not tell, only their number does.
    pub(super) fn phase(&self, head_size: u32) -> Phase {
        if self.in_flight.load(Ordering::Relaxed) > 0 || self.blocked.load(Ordering::Relaxed) {
            return Phase::Busy;
        }
        let received = self.received.load(Ordering::Relaxed);
        if received > 0 && received <= head_size && !self.is_http2() {
            return Phase::Head;
        }
        Phase::Idle
    }

    pub(super) fn is_http2(&self) -> bool {
        self.is_http2.load(Ordering::Relaxed)
    }

    /// The number of requests that have begun, which wraps around.
    pub(super) fn requests(&self) -> u32 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Whether its client has given up so many requests that it is worth a look whether the next one is
    /// still wanted before somebody is asked.
    pub(super) fn is_fickle(&self) -> bool {
        self.given_up.load(Ordering::Relaxed) >= FICKLE
    }

    /// How many times over its client has given up too many requests: more than half of them, and many.
    pub(super) fn floods(&self) -> u32 {
        let given_up = self.given_up.load(Ordering::Relaxed);
        if given_up < self.requests() / 2 {
            return 0;
        }
        given_up / FLOOD
    }

    pub(super) fn speaks(&self, version: Version) {
        let is_http2 = version == Version::Http2;
        self.is_http2.store(is_http2, Ordering::Relaxed);
    }

    pub(super) fn received(&self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let before = self.received.load(Ordering::Relaxed);
        // One task reads; what a lost update could do is to count a few bytes less.
        self.received
            .store(before.saturating_add(bytes), Ordering::Relaxed);
    }

    pub(super) fn blocked(&self, blocked: bool) {
        self.blocked.store(blocked, Ordering::Relaxed);
    }

    /// Lets the stream end as soon as nothing more comes.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    /// Lets it go on: something has come.
    pub(super) fn reopen(&self) {
        self.closing.store(false, Ordering::Relaxed);
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// From the answer 101 on, it is no connection of HTTP any more.
    pub(super) fn becomes_a_tunnel(&self) {
        self.is_tunnel.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_tunnel(&self) -> bool {
        self.is_tunnel.load(Ordering::Relaxed)
    }

    /// The client has said that it asks for nothing more, and all that it has asked has been read.
    pub(super) fn has_all(&self) {
        self.has_all.store(true, Ordering::Relaxed);
    }

    /// Whether something may come before the end that has to be read.
    pub(super) fn expects_more(&self) -> bool {
        !self.has_all.load(Ordering::Relaxed)
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.has_begun()
    }

    /// A request begins, and lasts as long as what is returned.
    pub(super) fn request(self: Arc<Self>) -> InFlight {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.received.store(0, Ordering::Relaxed);
        InFlight {
            activity: self,
            is_answered: false,
        }
    }
}

/// A request that is not answered yet, or whose answer is on its way.
#[derive(Debug)]
pub(super) struct InFlight {
    activity: Arc<Activity>,
    is_answered: bool,
}

impl InFlight {
    pub(super) fn activity(&self) -> &Activity {
        &self.activity
    }

    /// Its answer has begun.
    pub(super) fn answered(&mut self) {
        self.is_answered = true;
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.activity.received.store(0, Ordering::Relaxed);
        self.activity.in_flight.fetch_sub(1, Ordering::Relaxed);
        if !self.is_answered {
            self.activity.given_up.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    fn activity() -> Arc<Activity> {
        let open = Metrics::new("test", 1).admin_connections().opened();
        Activity::new(open.into(), Arc::default(), watch::channel(()).1)
    }

    #[test]
    fn a_connection_goes_from_one_phase_to_the_next() {
        let activity = activity();
        activity.speaks(Version::Http1);
        assert_eq!(activity.phase(100), Phase::Idle);
        activity.received(1);
        assert_eq!(activity.phase(100), Phase::Head);
        let request = Arc::clone(&activity).request();
        activity.received(1000);
        assert_eq!(activity.phase(100), Phase::Busy);
        activity.blocked(true);
        drop(request);
        assert_eq!(activity.phase(100), Phase::Busy, "the client does not read");
        activity.blocked(false);
        assert_eq!(activity.phase(100), Phase::Idle);
        activity.received(100);
        assert_eq!(activity.phase(100), Phase::Head);
    }

    #[test]
    fn a_client_that_gives_up_most_of_what_it_asks_for_is_a_flood() {
        let activity = activity();
        let ask = |answered: bool| {
            let mut request = Arc::clone(&activity).request();
            if answered {
                request.answered();
            }
        };
        for _ in 0..2 * FLOOD {
            ask(true);
        }
        for _ in 0..FLOOD {
            assert_eq!(activity.floods(), 0);
            ask(false);
        }
        assert!(activity.is_fickle());
        assert_eq!(activity.floods(), 0, "a third of them");
        for _ in 0..FLOOD {
            ask(false);
        }
        assert_eq!(activity.floods(), 2, "half of them");
    }

    #[test]
    fn what_is_too_long_for_a_head_is_the_rest_of_a_body() {
        let activity = activity();
        activity.speaks(Version::Http1);
        drop(Arc::clone(&activity).request());
        activity.received(101);
        assert_eq!(activity.phase(100), Phase::Idle);
    }

    #[test]
    fn http2_has_no_heads_of_its_own_but_streams() {
        let activity = activity();
        activity.speaks(Version::Http2);
        activity.received(50);
        assert_eq!(activity.phase(100), Phase::Idle);
        let (one, two) = (Arc::clone(&activity), Arc::clone(&activity));
        let (one, two) = (one.request(), two.request());
        drop(one);
        assert_eq!(activity.phase(100), Phase::Busy);
        drop(two);
        assert_eq!(activity.phase(100), Phase::Idle);
        assert_eq!(activity.requests(), 2);
    }
}
