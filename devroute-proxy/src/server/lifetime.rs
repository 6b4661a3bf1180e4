//! How long a connection lives: its timers, and what a drain means to it.
//!
//! | phase | ends after |
//! |---|---|
//! | no byte yet, or part of the HTTP/2 preface | [`Timers::first_byte`] |
//! | part of an HTTP/1 head | [`Timers::head`] |
//! | between two requests | [`Timers::idle`]; during a drain the grace, if that is less |
//! | a request is answered, or its answer is not taken | never, but at the end of a drain |
//!
//! HTTP/2 is told to go (GOAWAY, RFC 9113, section 6.8) and finishes its streams; a client has nothing
//! to lose there. HTTP/1 has no such message, and a request may be under way to a connection that is
//! just being closed. So during a drain answers carry `connection: close`, and what is idle is left
//! open for a while: a client under load sends its next request, is answered, and told.
//!
//! No clock is read on the path of a request. One timer ticks four times in the time that a
//! connection may be idle; a connection is idle that long when four ticks have seen nothing happen.

use std::error::Error as StdError;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::AsyncRead;
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep, sleep};

use super::BoxError;
use super::activity::{Activity, Phase, Version};
use super::limits::Timers;
use super::watched::Watched;
use crate::metrics::{Limit, Timer};

/// Ticks without a request after which a connection has been idle for its time.
const QUIET_TICKS: u8 = 4;

/// Whether connections are to end, and how they hear of it.
#[derive(Debug, Default)]
pub(super) struct Draining {
    begun: AtomicBool,
    notify: Notify,
}

impl Draining {
    pub(super) fn begin(&self) {
        self.begun.store(true, Ordering::Release);
        self.notify.notify_waiters();
    }

    /// Waits until it has begun, and then for `grace`.
    async fn is_over(&self, grace: Duration) {
        // Made before the flag is looked at: nobody is told in between.
        let told = self.notify.notified();
        if !self.has_begun() {
            told.await;
        }
        sleep(grace).await;
    }

    pub(super) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Acquire)
    }
}

/// What the lifetime of a connection depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    pub(super) timers: Timers,
    /// For what is idle during a drain.
    pub(super) grace: Duration,
    /// The longest head.
    pub(super) head_size: u32,
}

/// Waits for the end of a TLS handshake, which has as long as a head, and during a drain the grace of
/// what is idle: a client that has just been accepted is still served. What fails is counted, and
/// closed after that.
///
/// # Errors
///
/// Those of `handshake`, which come with its stream, and that it was not finished.
pub(super) async fn shake_hands<T, I>(
    handshake: impl Future<Output = Result<T, (io::Error, I)>>,
    activity: &Activity,
    patience: Patience,
) -> Result<T, BoxError> {
    let mut handshake = pin!(handshake);
    let (error, _stream) = tokio::select! {
        biased;
        shaken = &mut handshake => match shaken {
            Ok(shaken) => return Ok(shaken),
            Err((error, stream)) => (error.into(), Some(stream)),
        },
        () = activity.draining.is_over(patience.grace) => {
            (BoxError::from("not finished before the end"), None)
        }
        () = sleep(patience.timers.head) => {
            activity.open().timed_out(Timer::Head);
            (TimedOut(Timer::Head).into(), None)
        }
    };
    activity.open().handshake_failed();
    Err(error)
}

/// Waits for the first bytes on `io`; nothing where they did not come before the end of a drain.
///
/// # Errors
///
/// Those of `io`, and [`TimedOut`].
pub(super) async fn open<I: AsyncRead + Unpin>(
    io: &mut Watched<I>,
    activity: &Activity,
    patience: Patience,
) -> Result<Option<Version>, BoxError> {
    tokio::select! {
        biased;
        version = poll_fn(|cx| io.poll_version(cx)) => return Ok(Some(version?)),
        () = activity.draining.is_over(patience.grace) => {}
        () = sleep(patience.timers.first_byte) => {
            activity.open().timed_out(Timer::FirstByte);
            return Err(TimedOut(Timer::FirstByte).into());
        }
    }
    // A request may have come in the turn that saw the timer: the next one knows of it.
    tokio::task::yield_now().await;
    match poll_fn(|cx| Poll::Ready(io.poll_version(cx))).await {
        Poll::Ready(version) => Ok(Some(version?)),
        Poll::Pending => Ok(None),
    }
}

/// Drives `connection` to its end, which comes when one of its timers runs out at the latest. To
/// `go_away` is to tell the client that it ends, where its version of HTTP can.
///
/// # Errors
///
/// Those of `connection`, and [`TimedOut`].
pub(super) async fn live<C>(
    mut connection: Pin<Box<C>>,
    mut go_away: impl FnMut(Pin<&mut C>),
    activity: &Activity,
    patience: Patience,
) -> Result<(), BoxError>
where
    C: Future<Output = hyper::Result<()>>,
{
    let draining = &activity.draining;
    // Made before the flag is looked at: nobody is told in between.
    let mut told = pin!(draining.notify.notified());
    let mut clock = pin!(sleep(Duration::MAX));
    let mut watch = Watch::new();
    let mut listening = false;
    let mut going_away = false;
    let mut floods = 0;
    loop {
        let next = poll_fn(|cx| {
            if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                return Poll::Ready(Next::Ended(ended));
            }
            if !listening {
                // Once is enough: a task keeps its waker. What is looked at from then on is a flag.
                listening = told.as_mut().poll(cx).is_pending();
            }
            let draining = draining.has_begun();
            if draining && !going_away && activity.is_http2() {
                return Poll::Ready(Next::GoAway);
            }
            if activity.is_http2() && activity.floods() > floods {
                return Poll::Ready(Next::Flood);
            }
            let ran_out = watch.poll(clock.as_mut(), cx, activity, &patience, draining);
            ran_out.map(Next::RanOut)
        })
        .await;
        match next {
            Next::Ended(ended) => return ended.map_err(Into::into),
            Next::GoAway => {
                going_away = true;
                go_away(connection.as_mut());
            }
            Next::Flood if floods == 0 => {
                floods = 1;
                activity.open().limit_reached(Limit::Flood);
                going_away = true;
                go_away(connection.as_mut());
            }
            // It has been told.
            Next::Flood => return Err(Flood.into()),
            Next::RanOut(Timer::Idle) if activity.is_http2() && !going_away => {
                activity.open().timed_out(Timer::Idle);
                going_away = true;
                go_away(connection.as_mut());
            }
            Next::RanOut(Timer::Idle) => {
                // A request may have come in the turn that saw the timer: the next one knows of it.
                tokio::task::yield_now().await;
                activity.close();
                let ended = poll_fn(|cx| Poll::Ready(connection.as_mut().poll(cx))).await;
                let phase = activity.phase(patience.head_size);
                if ended.is_pending() && phase != Phase::Idle {
                    activity.reopen();
                    continue;
                }
                if !going_away && !draining.has_begun() {
                    activity.open().timed_out(Timer::Idle);
                }
                return match ended {
                    Poll::Ready(ended) => ended.map_err(Into::into),
                    // It does not take an end for an answer.
                    Poll::Pending => Err(TimedOut(Timer::Idle).into()),
                };
            }
            Next::RanOut(timer) => {
                activity.open().timed_out(timer);
                return Err(TimedOut(timer).into());
            }
        }
    }
}

/// What ends the wait for a connection.
enum Next {
    Ended(hyper::Result<()>),
    GoAway,
    Flood,
    RanOut(Timer),
}

/// A client that gives up most of what it asks for.
#[derive(Debug)]
struct Flood;

impl fmt::Display for Flood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the client went on to give up what it asked for")
    }
}

impl StdError for Flood {}

/// A client that kept its connection too long without a request.
#[derive(Debug)]
pub(super) struct TimedOut(Timer);

impl fmt::Display for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Timer::FirstByte => "the client sent nothing",
            Timer::Head => "the client did not finish its handshake, or its head, in time",
            Timer::Idle => "the client sent no further request",
        })
    }
}

impl StdError for TimedOut {}

/// The one timer of a connection, and what it stands for.
#[derive(Debug)]
struct Watch {
    armed: Option<Armed>,
    /// Whether the task is known to the timer that is armed.
    waits: bool,
    /// The requests there were at the last tick.
    requests: u32,
    /// The ticks since something happened.
    quiet: u8,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Armed {
    Head,
    /// Until nothing has happened for so long.
    Quiet(Option<Duration>),
}

impl Watch {
    fn new() -> Self {
        Self {
            armed: None,
            waits: false,
            requests: 0,
            quiet: 0,
        }
    }

    fn poll(
        &mut self,
        mut clock: Pin<&mut Sleep>,
        cx: &mut Context<'_>,
        activity: &Activity,
        patience: &Patience,
        draining: bool,
    ) -> Poll<Timer> {
        let phase = activity.phase(patience.head_size);
        let idle = patience.timers.idle;
        let wanted = match phase {
            Phase::Head => Armed::Head,
            _ if draining && !activity.is_http2() => Armed::Quiet(Some(
                idle.map_or(patience.grace, |idle| idle.min(patience.grace)),
            )),
            _ => Armed::Quiet(idle),
        };
        let time = match wanted {
            Armed::Head => patience.timers.head,
            Armed::Quiet(Some(time)) => time / u32::from(QUIET_TICKS),
            Armed::Quiet(None) => return Poll::Pending,
        };
        if self.armed != Some(wanted) {
            self.armed = Some(wanted);
            self.requests = activity.requests();
            self.quiet = 0;
            self.arm(clock.as_mut(), time);
        }
        loop {
            if self.waits && !clock.is_elapsed() {
                return Poll::Pending;
            }
            self.waits = true;
            ready!(clock.as_mut().poll(cx));
            if wanted == Armed::Head {
                return Poll::Ready(Timer::Head);
            }
            self.arm(clock.as_mut(), time);
            let requests = activity.requests();
            let quiet = phase != Phase::Busy && requests == self.requests;
            self.quiet = if quiet { self.quiet + 1 } else { 0 };
            self.requests = requests;
            if self.quiet == QUIET_TICKS {
                self.quiet = 0;
                return Poll::Ready(Timer::Idle);
            }
        }
    }

    fn arm(&mut self, clock: Pin<&mut Sleep>, time: Duration) {
        self.waits = false;
        clock.reset(Instant::now() + time);
    }
}
