//! `Expect: 100-continue`: the body stays where it is until somebody wants it.
//!
//! A hyper server tells its client to go on when the body is first polled. So the body must not be
//! polled before the target has said 100, or a client would upload what the target refuses.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::time::Sleep;

/// How long a target may leave the question open. One that knows no `Expect` never answers it, and
/// waits for the body as the body waits for it.
const PATIENCE: Duration = Duration::from_secs(1);

/// Keeps a body shut.
#[derive(Debug)]
pub(super) struct Gate {
    state: Arc<Mutex<State>>,
    patience: Pin<Box<Sleep>>,
}

/// Opens a [`Gate`]. Where it is dropped instead, the gate stays shut.
#[derive(Clone, Debug)]
pub(super) struct GateKey(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    is_open: bool,
    waiting: Option<Waker>,
}

pub(super) fn gate() -> (Gate, GateKey) {
    let state = Arc::<Mutex<State>>::default();
    let patience = Box::pin(tokio::time::sleep(PATIENCE));
    let gate = Gate {
        state: Arc::clone(&state),
        patience,
    };
    (gate, GateKey(state))
}

impl Gate {
    pub(super) fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = lock(&self.state);
        if !state.is_open {
            state.waiting = Some(cx.waker().clone());
            drop(state);
            if self.patience.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            lock(&self.state).is_open = true;
        }
        Poll::Ready(())
    }
}

impl GateKey {
    pub(super) fn open(&self) {
        let mut state = lock(&self.0);
        state.is_open = true;
        if let Some(waiting) = state.waiting.take() {
            waiting.wake();
        }
    }

    pub(super) fn is_open(&self) -> bool {
        lock(&self.0).is_open
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use tokio_test::{assert_pending, assert_ready, task};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_body_is_shut_until_somebody_opens_it() {
        let (mut gate, key) = gate();
        let mut opened = task::spawn(std::future::poll_fn(move |cx| gate.poll_open(cx)));
        assert_pending!(opened.poll());
        assert!(!key.is_open());
        key.open();
        assert!(opened.is_woken());
        assert!(key.is_open());
        assert_ready!(opened.poll());
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_is_shut_no_longer_than_anybody_is_waited_for() {
        let (mut gate, key) = gate();
        let mut opened = task::spawn(std::future::poll_fn(move |cx| gate.poll_open(cx)));
        tokio::time::advance(PATIENCE / 2).await;
        assert_pending!(opened.poll());
        tokio::time::advance(PATIENCE).await;
        assert!(opened.is_woken());
        assert_ready!(opened.poll());
        // So that what comes later is sent on without asking.
        assert!(key.is_open());
    }
}
