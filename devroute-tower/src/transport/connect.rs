//! Opening connections: one address, one time limit, no second look-up.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::net::TcpStream;

use super::{Error, ErrorKind};

/// Dials an address and refuses to have reached the process itself.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    pub(super) timeout: Duration,
    pub(super) own_listeners: Arc<[SocketAddr]>,
    pub(super) open: OpenConnections,
}

/// How many connections of a transport are open, whether they are in use or idle.
#[derive(Clone, Debug, Default)]
pub(super) struct OpenConnections(Arc<AtomicUsize>);

/// Counts one connection for as long as it lives.
#[derive(Debug)]
pub(super) struct OpenGuard(Arc<AtomicUsize>);

/// A connection and its place in the count.
pub(super) type Dialled = (TcpStream, OpenGuard);

impl OpenConnections {
    pub(super) fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn guard(&self) -> OpenGuard {
        self.0.fetch_add(1, Ordering::Relaxed);
        OpenGuard(Arc::clone(&self.0))
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Connector {
    pub(super) async fn dial(&self, addr: SocketAddr) -> Result<Dialled, Error> {
        let stream = match tokio::time::timeout(self.timeout, TcpStream::connect(addr)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(Error::connect(addr, error)),
            Err(elapsed) => {
                return Err(Error::new(ErrorKind::ConnectTimeout, addr).with_source(elapsed));
            }
        };
        if self.reached_ourselves(&stream) {
            return Err(Error::new(ErrorKind::OwnListener, addr));
        }
        // Small writes (a head, then a short body) must not wait for an acknowledgement.
        stream
            .set_nodelay(true)
            .map_err(|error| Error::connect(addr, error))?;
        Ok((stream, self.open.guard()))
    }

    /// An address of this host that no list names still shows: both ends have the same address.
    fn reached_ourselves(&self, stream: &TcpStream) -> bool {
        let (Ok(local), Ok(peer)) = (stream.local_addr(), stream.peer_addr()) else {
            return false;
        };
        local.ip() == peer.ip()
            && self.own_listeners.iter().any(|own| {
                own.port() == peer.port() && (own.ip().is_unspecified() || own.ip() == peer.ip())
            })
    }
}
