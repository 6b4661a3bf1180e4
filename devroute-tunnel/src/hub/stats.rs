//! What a hub counts.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::session::{Presence, Session};

/// Which limit somebody met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Limit {
    /// Sessions of the hub.
    Sessions,
    /// Sessions of a key.
    SessionsPerKey,
    /// Services of a session.
    Services,
    /// Requests at a time to one laptop.
    Streams,
    /// Laptops that are dialling in.
    Pending,
    /// Ports of the range.
    Ports,
}

impl Limit {
    /// All of them, in the order of their counters.
    pub const ALL: [Self; 6] = [
        Self::Sessions,
        Self::SessionsPerKey,
        Self::Services,
        Self::Streams,
        Self::Pending,
        Self::Ports,
    ];

    /// The label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sessions => "sessions",
            Self::SessionsPerKey => "sessions_per_key",
            Self::Services => "services",
            Self::Streams => "streams",
            Self::Pending => "pending",
            Self::Ports => "ports",
        }
    }
}

/// What has been counted.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Laptops that are there.
    pub connected: usize,
    /// Sessions whose laptop is gone, and whose addresses are held for it.
    pub held: usize,
    /// Addresses of services that are open.
    pub services: usize,
    /// Requests in flight.
    pub streams: usize,
    /// Laptops that are dialling in.
    pub pending: usize,
    /// Laptops that were let in.
    pub registered: u64,
    /// Those of them that had been there before.
    pub resumed: u64,
    /// Connections of laptops that have ended.
    pub disconnected: u64,
    /// Laptops that were not let in, and requests that were not passed on, by cause.
    pub refused: BTreeMap<&'static str, u64>,
    /// What met a limit, in the order of [`Limit::ALL`].
    pub limits: [u64; 6],
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    registered: AtomicU64,
    resumed: AtomicU64,
    disconnected: AtomicU64,
    refused: Mutex<BTreeMap<&'static str, u64>>,
    limits: [AtomicU64; 6],
    pub(super) pending: Arc<std::sync::atomic::AtomicUsize>,
}

impl Counters {
    pub(super) fn registered(&self, resumed: bool) {
        self.registered.fetch_add(1, Ordering::Relaxed);
        if resumed {
            self.resumed.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn disconnected(&self) {
        self.disconnected.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn refused(&self, cause: &'static str) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        *refused.entry(cause).or_default() += 1;
    }

    pub(super) fn limit(&self, limit: Limit) {
        let index = Limit::ALL.iter().position(|each| *each == limit);
        if let Some(counter) = index.and_then(|index| self.limits.get(index)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn stats(&self, sessions: &[Arc<Session>]) -> Stats {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let connected = sessions
            .iter()
            .filter(|session| matches!(session.presence(), Presence::Here(_)))
            .count();
        Stats {
            connected,
            held: sessions.len() - connected,
            services: sessions
                .iter()
                .map(|session| session.addresses().len())
                .sum(),
            streams: sessions
                .iter()
                .map(|session| session.streams.load(Ordering::Relaxed))
                .sum(),
            pending: self.pending.load(Ordering::Relaxed),
            registered: count(&self.registered),
            resumed: count(&self.resumed),
            disconnected: count(&self.disconnected),
            refused: self
                .refused
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
            limits: self.limits.each_ref().map(count),
        }
    }
}
