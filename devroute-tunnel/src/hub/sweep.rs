//! What a hub does without being asked: forgets laptops, cuts off who is not authorized any more, and ends.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Hub;
use super::session::{Presence, Session};
use crate::protocol::FromHub;

const PERIOD: Duration = Duration::from_secs(1);
/// How often a drain looks whether it is done.
const DRAIN_PERIOD: Duration = Duration::from_millis(50);

impl Hub {
    /// Forgets laptops whose time is over, and cuts off those whose key has been taken out; for ever.
    pub async fn sweep(&self) -> std::convert::Infallible {
        loop {
            tokio::time::sleep(PERIOD).await;
            let sessions = self.sessions().clone();
            for session in sessions {
                let revoked = match (&self.0.config.authenticator, &session.identity) {
                    (Some(authenticator), Some(identity)) => !authenticator.still_allows(identity),
                    _ => false,
                };
                if revoked {
                    let holder = session.holder();
                    tracing::warn!(session = %holder.session, who = holder.who.as_deref(), "the key of a laptop is not authorized any more");
                    self.release(&session);
                } else if session
                    .away()
                    .is_some_and(|away| away >= self.0.config.hold)
                {
                    self.release(&session);
                }
            }
        }
    }

    /// Forgets a session: its laptop is cut off, and its addresses are free.
    pub(super) fn release(&self, session: &Arc<Session>) {
        let known = {
            let mut sessions = self.sessions();
            let before = sessions.len();
            sessions.retain(|known| !Arc::ptr_eq(known, session));
            sessions.len() < before
        };
        if !known {
            return;
        }
        session.cut();
        let holder = session.holder();
        for (service, address) in session.addresses() {
            tracing::info!(session = %holder.session, who = holder.who.as_deref(), %service, %address, "released");
        }
        session.keep_only(&[]);
    }

    /// Takes no more laptops, tells those that are there to dial another hub, closes the addresses, and waits for
    /// requests in flight, for so long; then all laptops are cut off.
    pub async fn drain(&self, timeout: Duration) {
        self.0.draining.store(true, Ordering::Relaxed);
        let sessions = self.sessions().clone();
        for session in &sessions {
            if let Presence::Here(tunnel) = session.presence() {
                tunnel.say(&FromHub::Draining);
            }
            session.close_listeners();
        }
        let in_flight = || {
            sessions
                .iter()
                .any(|session| session.streams.load(Ordering::Relaxed) > 0)
        };
        let finished = async {
            loop {
                // Once in any case, so that laptops hear of it before they are cut off.
                tokio::time::sleep(DRAIN_PERIOD).await;
                if !in_flight() {
                    return;
                }
            }
        };
        if tokio::time::timeout(timeout, finished).await.is_err() {
            tracing::warn!("requests to laptops were cut at the end of the drain");
        }
        for session in &sessions {
            self.release(session);
        }
    }

    /// Whether it takes no more laptops.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.0.draining.load(Ordering::Relaxed)
    }
}
