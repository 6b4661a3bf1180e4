//! Wakes whoever uses a connection, and nobody for what they do themselves.
//!
//! A connection of HTTP/1.1 is polled by the exchange that has it, and that by the next one. hyper wakes the
//! task that polled the connection last when a request is handed to it, and when a piece of a body has been
//! taken from it: that would be the task of an exchange that is over, or the very one that does it. Each such
//! wake-up is a poll of a whole connection of a client for nothing, and there were one and a half of them
//! a request.

use std::{
    cell::Cell,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
};

use atomic_waker::AtomicWaker;

thread_local! {
    /// Whether this thread does what needs no wake-up. Others may wake meanwhile: the socket is ready.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// A waker that stays with its connection, and wakes whoever [polled](Self::poll) it last.
#[derive(Debug)]
pub(super) struct Relay {
    user: Arc<User>,
    waker: Waker,
}

#[derive(Debug, Default)]
struct User(AtomicWaker);

impl Wake for User {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !QUIET.get() {
            self.0.wake();
        }
    }
}

impl Relay {
    pub(super) fn new() -> Self {
        let user = Arc::<User>::default();
        let waker = Arc::clone(&user).into();
        Self { user, waker }
    }

    /// Polls something that wakes the user of the connection, who is the one that polls now.
    pub(super) fn poll<T>(
        &self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        self.user.0.register(cx.waker());
        poll(&mut Context::from_waker(&self.waker))
    }

    /// Nobody uses it any more.
    pub(super) fn leave(&self) {
        drop(self.user.0.take());
    }
}

/// Does something that leads to another poll of the connection anyway, so that nobody need be woken for
/// it.
pub(super) fn quietly<T>(act: impl FnOnce() -> T) -> T {
    let _loud = Loud(QUIET.replace(true));
    act()
}

/// As it was before, also where something panics.
struct Loud(bool);

impl Drop for Loud {
    fn drop(&mut self) {
        QUIET.set(self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn who_polled_last_is_woken_but_not_by_itself() {
        let relay = Relay::new();
        let (one, two) = (Arc::<Count>::default(), Arc::<Count>::default());
        let woken = || (one.0.load(Ordering::Relaxed), two.0.load(Ordering::Relaxed));
        let poll = |count: &Arc<Count>| {
            let waker = Waker::from(Arc::clone(count));
            let mut kept = None;
            let _ = relay.poll(&mut Context::from_waker(&waker), |cx| {
                kept = Some(cx.waker().clone());
                Poll::<()>::Pending
            });
            kept.unwrap()
        };
        let first = poll(&one);
        let second = poll(&two);
        assert!(
            first.will_wake(&second),
            "hyper and tokio have nothing to replace"
        );
        first.wake_by_ref();
        assert_eq!(woken(), (0, 1));

        poll(&one);
        quietly(|| first.wake_by_ref());
        assert_eq!(woken(), (0, 1));
        quietly(|| std::thread::scope(|it| it.spawn(|| first.wake_by_ref()).join().unwrap()));
        assert_eq!(woken(), (1, 1), "another thread has something to say");

        poll(&one);
        relay.leave();
        first.wake_by_ref();
        assert_eq!(woken(), (1, 1));
    }
}
