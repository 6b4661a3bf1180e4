//! Connections that wait for their next request.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use hyper::client::conn::http2;

use super::{Body, h1};

/// How often idle connections are looked at for an end that the other side has put to them.
const SWEEP: Duration = Duration::from_secs(1);

/// Idle HTTP/1.1 connections, last in first out, and the shared HTTP/2 ones, by address.
#[derive(Debug)]
pub(super) struct Pool {
    idle_timeout: Duration,
    max_idle: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    h1: HashMap<SocketAddr, Vec<Idle>>,
    h2: HashMap<SocketAddr, http2::SendRequest<Body>>,
    sweeping: bool,
}

#[derive(Debug)]
struct Idle {
    connection: Box<h1::Connection>,
    since: Instant,
}

impl Pool {
    pub(super) fn new(idle_timeout: Duration, max_idle: usize) -> Self {
        Self {
            idle_timeout,
            max_idle,
            state: Mutex::default(),
        }
    }

    /// The connection to `addr` that was used last and is still open.
    pub(super) fn take_h1(&self, addr: SocketAddr) -> Option<Box<h1::Connection>> {
        loop {
            let mut idle = self.lock().h1.get_mut(&addr)?.pop()?;
            // Out of the lock: this reads from the socket when the other side closed it.
            if idle.since.elapsed() < self.idle_timeout && idle.connection.is_usable() {
                return Some(idle.connection);
            }
        }
    }

    /// Keeps a connection whose exchange is over.
    pub(super) fn put_h1(self: &Arc<Self>, connection: Box<h1::Connection>) {
        let addr = connection.addr();
        let mut state = self.lock();
        let idle = state.h1.entry(addr).or_default();
        if idle.len() < self.max_idle {
            idle.push(Idle {
                connection,
                since: Instant::now(),
            });
        }
        if !state.sweeping {
            state.sweeping = true;
            drop(state);
            self.start_sweeping();
        }
    }

    pub(super) fn take_h2(&self, addr: SocketAddr) -> Option<http2::SendRequest<Body>> {
        let mut state = self.lock();
        let sender = state.h2.get(&addr)?;
        if sender.is_closed() {
            state.h2.remove(&addr);
            return None;
        }
        Some(sender.clone())
    }

    pub(super) fn put_h2(&self, addr: SocketAddr, sender: http2::SendRequest<Body>) {
        self.lock().h2.insert(addr, sender);
    }

    /// One task a transport, alive while there is something to sweep: an idle connection is polled
    /// by nobody, so without it a closed one would keep its descriptor until the next request.
    fn start_sweeping(self: &Arc<Self>) {
        let pool = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(SWEEP).await;
                if !Weak::upgrade(&pool).is_some_and(|pool| pool.sweep()) {
                    return;
                }
            }
        });
    }

    /// Drops what is closed or too old; `false` when nothing is left to come back for.
    fn sweep(&self) -> bool {
        let addrs: Vec<_> = self.lock().h1.keys().copied().collect();
        for addr in addrs {
            let Some(mut idle) = self.lock().h1.remove(&addr) else {
                continue;
            };
            idle.retain_mut(|idle| {
                idle.since.elapsed() < self.idle_timeout && idle.connection.is_usable()
            });
            if !idle.is_empty() {
                let mut state = self.lock();
                let newer = state.h1.entry(addr).or_default();
                idle.append(newer);
                *newer = idle;
            }
        }
        let mut state = self.lock();
        state.h2.retain(|_, sender| !sender.is_closed());
        state.sweeping = !(state.h1.is_empty() && state.h2.is_empty());
        state.sweeping
    }

    /// The pool holds no invariant across a panic, so a poisoned lock is still good.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
