//! How a process is told to stop, and how its parts hear of it.
//!
//! The first SIGTERM or SIGINT begins a drain: readiness goes, listeners close, requests in flight
//! finish. A second one ends the process at once.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! let (trigger, signal) = devroute_proxy::shutdown::channel();
//! assert!(!signal.is_shutting_down());
//! trigger.shut_down();
//! signal.clone().wait().await;
//! assert!(signal.is_shutting_down());
//! # });
//! ```

use std::io;

use tokio::signal::unix::{Signal as UnixSignal, SignalKind, signal};
use tokio::sync::watch;

/// A pair: the one who stops, and what everybody else watches.
#[must_use]
pub fn channel() -> (Trigger, Signal) {
    let (sender, receiver) = watch::channel(false);
    (Trigger(sender), Signal(receiver))
}

/// Begins the shutdown.
#[derive(Debug)]
pub struct Trigger(watch::Sender<bool>);

impl Trigger {
    /// Tells every [`Signal`] of the pair.
    pub fn shut_down(&self) {
        self.0.send_replace(true);
    }

    /// Shuts down at the first SIGTERM or SIGINT; at a second one the process exits with the
    /// status a shell gives for that signal.
    ///
    /// # Errors
    ///
    /// When the signals cannot be watched.
    pub fn on_signals(self) -> io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::spawn(async move {
            let (name, _) = next(&mut terminate, &mut interrupt).await;
            tracing::info!(
                signal = name,
                "draining; a second signal ends the process at once"
            );
            self.shut_down();
            let (name, number) = next(&mut terminate, &mut interrupt).await;
            tracing::warn!(signal = name, "not waiting for requests in flight");
            std::process::exit(128 + number);
        });
        Ok(())
    }
}

async fn next(terminate: &mut UnixSignal, interrupt: &mut UnixSignal) -> (&'static str, i32) {
    tokio::select! {
        _ = terminate.recv() => ("SIGTERM", 15),
        _ = interrupt.recv() => ("SIGINT", 2),
    }
}

/// Hears of the shutdown.
#[derive(Clone, Debug)]
pub struct Signal(watch::Receiver<bool>);

impl Signal {
    /// Waits until the shutdown begins. A dropped [`Trigger`] counts as one.
    pub async fn wait(&mut self) {
        let _ = self.0.wait_for(|&begun| begun).await;
    }

    /// [`wait`](Self::wait), of a signal that is needed no more.
    pub(crate) async fn begun(mut self) {
        self.wait().await;
    }

    /// Whether it has begun.
    #[must_use]
    pub fn is_shutting_down(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }
}
