//! How many connections may be opened at a time.

use std::{fmt, net::SocketAddr, time::Duration};

use tokio::time::{Instant, timeout_at};

use super::{
    Error, ErrorKind,
    slots::{Limits, NoSlot, Slot, Slots},
};

/// The connections that are being opened: how many there may be, and which are not worth another try.
///
/// A target that swallows everything holds each connection that is opened to it until the
/// [time-out](super::HttpTransport::connect_timeout). So that this costs nobody else an answer:
///
/// - Connections to one address are opened by so many at a time ([`per_target`](Self::per_target)). The
///   next ones wait in a line ([`line`](Self::line)); beyond it they fail at once
///   ([`ConnectLimit`](ErrorKind::ConnectLimit)).
/// - Addresses that have not been reached yet share a number of their own ([`in_all`](Self::in_all));
///   those that have been are not counted there.
/// - A time-out is remembered for a second ([`memory`](Self::memory)), and others get the same failure at
///   once. Then one connection is tried, and the line waits for what comes of it. A refusal is not
///   remembered: it costs nothing, and whoever has just restarted their service must not wait.
///
/// A request that finds a pooled connection comes by none of this. What an
/// [`Upstream`](super::Upstream) opens is not limited: it leads where the deployment says.
///
/// Clones share what there is, and so do all transports that are given
/// [the same](super::HttpTransport::connects). Each limit is set before that.
///
/// ```
/// use std::time::Duration;
/// use devroute_tower::transport::{Connects, HttpTransport};
///
/// let connects = Connects::new().per_target(16).memory(Duration::from_millis(500));
/// let transport = HttpTransport::new().connects(connects.clone());
/// assert_eq!(connects.opening(), 0);
/// # let _ = transport;
/// ```
#[derive(Clone)]
pub struct Connects(Slots<SocketAddr>);

/// A connection that is being opened.
#[derive(Debug)]
pub(super) struct Opening(Slot<SocketAddr>);

impl Connects {
    /// The limits that a transport has by default: 64 an address and 1024 in its line, 1024 in all, and
    /// a second.
    #[must_use]
    pub fn new() -> Self {
        Self(Slots::new(Limits {
            each: 64,
            line: 1024,
            strangers: 1024,
            memory: Duration::from_secs(1),
        }))
    }

    /// How many connections may be opened to one address at a time, at least 1. Begins anew.
    #[must_use]
    pub fn per_target(self, connections: usize) -> Self {
        self.with(|limits| limits.each = connections.max(1))
    }

    /// How many may wait for that, for each address. Begins anew.
    #[must_use]
    pub fn line(self, connections: usize) -> Self {
        self.with(|limits| limits.line = connections)
    }

    /// How many may be opened to all addresses together that were not reached before, at least 1.
    /// Begins anew.
    #[must_use]
    pub fn in_all(self, connections: usize) -> Self {
        self.with(|limits| limits.strangers = connections.max(1))
    }

    /// How long a time-out is remembered; zero for not at all. Begins anew.
    #[must_use]
    pub fn memory(self, time: Duration) -> Self {
        self.with(|limits| limits.memory = time)
    }

    fn with(self, change: impl FnOnce(&mut Limits)) -> Self {
        let mut limits = self.0.limits();
        change(&mut limits);
        Self(Slots::new(limits))
    }

    /// How many are being opened now.
    #[must_use]
    pub fn opening(&self) -> usize {
        self.0.count().taken
    }

    /// How many wait for that.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.0.count().waiting
    }

    /// How many were not tried so far, because the last try had run into its time-out.
    #[must_use]
    pub fn remembered(&self) -> u64 {
        self.0.count().remembered
    }

    /// How many were not tried so far, because there were too many.
    #[must_use]
    pub fn limited(&self) -> u64 {
        self.0.count().full
    }

    /// The right to open a connection to `addr`, if there is one before `deadline`.
    pub(super) async fn begin(
        &self,
        addr: SocketAddr,
        deadline: Instant,
    ) -> Result<Opening, Error> {
        let slot = match timeout_at(deadline, self.0.take(&addr)).await {
            Ok(slot) => slot,
            Err(_elapsed) => Err(self.0.turned_away()),
        };
        slot.map(Opening).map_err(|refused| match refused {
            NoSlot::TimedOut(age) => Error::new(ErrorKind::ConnectTimeout, addr).with_detail(format!(
                "did not answer a connection attempt {} ms ago, and is not tried again for {} ms",
                age.as_millis(),
                self.0.limits().memory.saturating_sub(age).as_millis()
            )),
            NoSlot::Full => Error::new(ErrorKind::ConnectLimit, addr),
        })
    }
}

impl Opening {
    /// The connection is there.
    pub(super) fn worked(&mut self) {
        self.0.worked();
    }

    /// It did not come, and not for lack of an answer; or it did not come within its time.
    ///
    /// What had less than half of the `time` that a connection has says nothing.
    pub(super) fn failed(&mut self, kind: ErrorKind, time: Duration) {
        match kind {
            ErrorKind::ConnectionRefused => self.0.answered(),
            ErrorKind::ConnectTimeout if self.0.since().elapsed() >= time / 2 => self.0.timed_out(),
            _ => {}
        }
    }
}

impl Default for Connects {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Connects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connects")
            .field("limits", &self.0.limits())
            .field("now", &self.0.count())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const TIME: Duration = Duration::from_secs(2);

    fn addr() -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], 80))
    }

    async fn begin(connects: &Connects) -> Result<Opening, Error> {
        connects.begin(addr(), Instant::now() + TIME).await
    }

    #[tokio::test(start_paused = true)]
    async fn what_had_less_than_half_of_its_time_says_nothing() {
        let connects = Connects::new();
        for (had, is_remembered) in [
            (TIME / 2 - Duration::from_millis(1), false),
            (TIME / 2, true),
        ] {
            let mut opening = begin(&connects).await.unwrap();
            advance(had).await;
            opening.failed(ErrorKind::ConnectTimeout, TIME);
            drop(opening);
            let next = begin(&connects).await.map(drop);
            assert_eq!(next.is_err(), is_remembered, "{had:?}");
        }
        let error = begin(&connects).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectTimeout);
        advance(Duration::from_secs(1)).await;
        assert!(begin(&connects).await.is_ok(), "it is forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn each_limit_is_what_it_is_set_to_and_counted() {
        let connects = Connects::new()
            .per_target(1)
            .line(1)
            .memory(Duration::from_secs(9));
        let count = |it: &Connects| (it.opening(), it.waiting(), it.remembered(), it.limited());
        let mut first = begin(&connects).await.unwrap();
        let mut second = tokio_test::task::spawn(begin(&connects));
        tokio_test::assert_pending!(second.poll());
        assert_eq!(count(&connects), (1, 1, 0, 0));
        let third = begin(&connects).await.unwrap_err();
        assert_eq!(third.kind(), ErrorKind::ConnectLimit);
        assert_eq!(count(&connects), (1, 1, 0, 1));

        drop(second);
        advance(TIME).await;
        first.failed(ErrorKind::ConnectTimeout, TIME);
        drop(first);
        advance(Duration::from_secs(8)).await;
        assert!(begin(&connects).await.is_err());
        assert_eq!(count(&connects), (0, 0, 1, 1));
        advance(Duration::from_secs(1)).await;
        assert!(begin(&connects).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_reached_is_no_stranger() {
        let connects = Connects::new().in_all(1);
        let other = SocketAddr::from(([192, 0, 2, 2], 80));
        let mut first = begin(&connects).await.unwrap();
        let refused = connects.begin(other, Instant::now() + TIME).await;
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectLimit);
        first.worked();
        drop(first);
        let _known = begin(&connects).await.unwrap();
        assert!(connects.begin(other, Instant::now() + TIME).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn who_refuses_is_there() {
        let connects = Connects::new();
        let (mut one, mut two) = (
            begin(&connects).await.unwrap(),
            begin(&connects).await.unwrap(),
        );
        advance(TIME).await;
        one.failed(ErrorKind::ConnectTimeout, TIME);
        drop(one);
        assert!(begin(&connects).await.is_err());
        two.failed(ErrorKind::ConnectionRefused, TIME);
        drop(two);
        assert!(begin(&connects).await.is_ok());
    }
}
