//! Connections that wait for their next request.

use std::{
    collections::BTreeMap,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use tokio::runtime::Handle;

use super::{h1, h2, peer::Peer};

/// How often idle connections are looked at for an end that the other side has put to them.
const SWEEP: Duration = Duration::from_secs(1);

/// Idle HTTP/1.1 connections, last in first out, and the shared HTTP/2 ones, by peer.
#[derive(Debug)]
pub(super) struct Pool {
    idle_timeout: Duration,
    max_idle: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    // Trees, since nearly all requests go to one peer or a handful, and a hash costs more than that.
    h1: BTreeMap<Peer, Vec<Idle>>,
    h2: BTreeMap<Peer, Shared>,
    sweeping: bool,
}

#[derive(Debug)]
struct Idle {
    connection: Box<h1::Connection>,
    since: Instant,
}

/// An HTTP/2 connection; without a handle it ends by itself after its last stream.
#[derive(Debug)]
struct Shared {
    connection: h2::Connection,
    last_used: Instant,
}

impl Pool {
    pub(super) fn new(idle_timeout: Duration, max_idle: usize) -> Self {
        Self {
            idle_timeout,
            max_idle,
            state: Mutex::default(),
        }
    }

    /// The connection to `peer` that was used last. It may have been closed in the meantime, which an
    /// exchange sees before it takes its request.
    pub(super) fn take_h1(&self, peer: &Peer) -> Option<Box<h1::Connection>> {
        loop {
            let idle = self.lock().h1.get_mut(peer)?.pop()?;
            if idle.since.elapsed() < self.idle_timeout {
                return Some(idle.connection);
            }
        }
    }

    /// Whether a connection to `peer` waits, which may have been closed in the meantime.
    pub(super) fn has_h1(&self, peer: &Peer) -> bool {
        self.lock()
            .h1
            .get(peer)
            .is_some_and(|idle| !idle.is_empty())
    }

    /// Keeps a connection whose exchange is over.
    pub(super) fn put_h1(self: &Arc<Self>, connection: Box<h1::Connection>) {
        let peer = connection.peer().clone();
        let mut state = self.lock();
        let idle = state.h1.entry(peer).or_default();
        if idle.len() < self.max_idle {
            idle.push(Idle {
                connection,
                since: Instant::now(),
            });
        }
        self.sweep_later(state);
    }

    pub(super) fn take_h2(&self, peer: &Peer) -> Option<h2::Connection> {
        let mut state = self.lock();
        let shared = state.h2.get_mut(peer)?;
        if shared.connection.is_closed() {
            state.h2.remove(peer);
            return None;
        }
        shared.last_used = Instant::now();
        Some(shared.connection.clone())
    }

    /// Whether there is a connection to `peer` that takes requests.
    pub(super) fn has_h2(&self, peer: &Peer) -> bool {
        let state = self.lock();
        state
            .h2
            .get(peer)
            .is_some_and(|it| !it.connection.is_closed())
    }

    pub(super) fn put_h2(self: &Arc<Self>, peer: Peer, connection: h2::Connection) {
        let last_used = Instant::now();
        let mut state = self.lock();
        let shared = Shared {
            connection,
            last_used,
        };
        state.h2.insert(peer, shared);
        self.sweep_later(state);
    }

    /// Lets a connection end that takes no more requests.
    pub(super) fn forget_h2(&self, peer: &Peer) {
        self.lock().h2.remove(peer);
    }

    /// One task a transport, alive while there is something to sweep: an idle connection is polled
    /// by nobody, so without it a closed one would keep its descriptor until the next request.
    fn sweep_later(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        if state.sweeping {
            return;
        }
        // A body may be read outside a runtime; then the next one inside starts the task.
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        state.sweeping = true;
        drop(state);
        let mut sweeper = Sweeper(Arc::downgrade(self));
        runtime.spawn(async move {
            loop {
                tokio::time::sleep(SWEEP).await;
                if !sweeper.0.upgrade().is_some_and(|pool| pool.sweep()) {
                    // `sweep` has said so under the lock; another may have begun since.
                    drop(mem::take(&mut sweeper.0));
                    return;
                }
            }
        });
    }

    /// Drops what is closed or too old; `false` when nothing is left to come back for.
    fn sweep(&self) -> bool {
        let peers: Vec<_> = self.lock().h1.keys().cloned().collect();
        for peer in peers {
            let Some(mut idle) = self.lock().h1.remove(&peer) else {
                continue;
            };
            idle.retain_mut(|idle| {
                idle.since.elapsed() < self.idle_timeout && idle.connection.is_usable()
            });
            if !idle.is_empty() {
                let mut state = self.lock();
                let newer = state.h1.entry(peer).or_default();
                idle.append(newer);
                *newer = idle;
            }
        }
        let mut state = self.lock();
        state.h2.retain(|_, shared| {
            !shared.connection.is_closed() && shared.last_used.elapsed() < self.idle_timeout
        });
        state.sweeping = !(state.h1.is_empty() && state.h2.is_empty());
        state.sweeping
    }

    /// The pool holds no invariant across a panic, so a poisoned lock is still good.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task may end with its runtime while the pool lives on in another: then it can start again.
struct Sweeper(Weak<Pool>);

impl Drop for Sweeper {
    fn drop(&mut self) {
        if let Some(pool) = self.0.upgrade() {
            pool.lock().sweeping = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::transport::{Protocol, connect::Connector};

    /// One that nobody answers yet; and the other end.
    async fn h1(listener: &TcpListener) -> (Box<h1::Connection>, TcpStream) {
        let peer = Peer::plain(listener.local_addr().unwrap());
        let connector = Connector::unlimited();
        let dialled = connector.dial(&peer, Protocol::Http1).await.unwrap();
        let connection = h1::Connection::new(peer, dialled).await.unwrap();
        (connection, listener.accept().await.unwrap().0)
    }

    async fn h2(listener: &TcpListener) -> (h2::Connection, TcpStream) {
        let peer = Peer::plain(listener.local_addr().unwrap());
        let connector = Connector::unlimited();
        let dialled = connector.dial(&peer, Protocol::Http2).await.unwrap();
        let connection = h2::Connection::new(peer, dialled).await.unwrap();
        (connection, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn what_is_open_and_not_too_old_stays_where_it_is() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = Peer::plain(listener.local_addr().unwrap());
        let pool = Arc::new(Pool::new(Duration::from_secs(3600), 2));
        let ((one, stays), (two, closes)) = (h1(&listener).await, h1(&listener).await);
        pool.put_h1(one);
        pool.put_h1(two);
        assert!(pool.sweep());
        assert_eq!(pool.lock().h1[&peer].len(), 2);

        drop(closes);
        while pool.lock().h1[&peer].len() > 1 {
            tokio::task::yield_now().await;
            assert!(pool.sweep(), "one is left");
        }
        drop(stays);
        while pool.sweep() {
            tokio::task::yield_now().await;
        }
        assert!(!pool.has_h1(&peer));

        let pool = Arc::new(Pool::new(Duration::ZERO, 2));
        let (old, _open) = h1(&listener).await;
        pool.put_h1(old);
        assert!(!pool.sweep());
        assert!(pool.take_h1(&peer).is_none());
    }
    #[tokio::test]
    async fn so_many_wait_and_no_more_and_the_last_comes_first() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = Peer::plain(listener.local_addr().unwrap());
        let pool = Arc::new(Pool::new(Duration::from_secs(3600), 2));
        assert!(!pool.has_h1(&peer));
        assert!(pool.take_h1(&peer).is_none());
        let mut open = Vec::new();
        let mut put = Vec::new();
        for _ in 0..3 {
            let (connection, stream) = h1(&listener).await;
            put.push(std::ptr::from_ref(&*connection));
            pool.put_h1(connection);
            open.push(stream);
        }
        assert!(pool.has_h1(&peer));
        for expected in [put[1], put[0]] {
            let taken = pool.take_h1(&peer).unwrap();
            assert!(std::ptr::eq(&raw const *taken, expected));
        }
        assert!(pool.take_h1(&peer).is_none());
    }

    #[tokio::test]
    async fn one_of_http2_is_shared_until_it_is_old_closed_or_forgotten() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = Peer::plain(listener.local_addr().unwrap());
        let pool = Arc::new(Pool::new(Duration::from_secs(3600), 2));
        assert!(!pool.has_h2(&peer) && pool.take_h2(&peer).is_none());

        let (connection, closes) = h2(&listener).await;
        pool.put_h2(peer.clone(), connection);
        assert!(pool.has_h2(&peer) && pool.take_h2(&peer).is_some());
        assert!(pool.sweep(), "it is open, and not old");
        assert!(pool.take_h2(&peer).is_some());
        drop(closes);
        while pool.has_h2(&peer) {
            tokio::task::yield_now().await;
        }
        assert!(pool.take_h2(&peer).is_none());

        let (connection, _open) = h2(&listener).await;
        pool.put_h2(peer.clone(), connection);
        pool.forget_h2(&peer);
        assert!(!pool.has_h2(&peer));

        let pool = Arc::new(Pool::new(Duration::ZERO, 2));
        let (connection, _open) = h2(&listener).await;
        pool.put_h2(peer.clone(), connection);
        assert!(!pool.sweep());
        assert!(!pool.has_h2(&peer));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_closed_is_swept_by_itself_and_the_sweeper_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = Peer::plain(listener.local_addr().unwrap());
        let pool = Arc::new(Pool::new(Duration::from_secs(3600), 2));
        let (connection, closes) = h1(&listener).await;
        pool.put_h1(connection);
        // It has looked at it once, and comes back.
        tokio::time::sleep(SWEEP * 3 / 2).await;
        assert!(pool.has_h1(&peer));
        assert!(pool.lock().sweeping);
        drop(closes);
        while pool.lock().sweeping {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(pool.lock().h1.is_empty());
    }

    #[test]
    fn a_sweeper_that_ended_with_its_runtime_is_followed_by_another() {
        let runtime = || {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            builder.enable_all().build().unwrap()
        };
        let pool = Arc::new(Pool::new(Duration::from_secs(3600), 2));
        for _ in 0..2 {
            let runtime = runtime();
            runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let (connection, _open) = h1(&listener).await;
                pool.put_h1(connection);
                assert!(pool.lock().sweeping);
            });
            drop(runtime);
            assert!(!pool.lock().sweeping);
        }
    }
}
