//! Opening connections: one address, one time limit, no second look-up.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};

use super::{Error, ErrorKind, Protocol, peer::Peer, stream::Stream};

/// Dials an address and refuses to have reached the process itself.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    pub(super) timeout: Duration,
    pub(super) own_listeners: Arc<[SocketAddr]>,
    pub(super) open: OpenConnections,
    #[cfg(feature = "tls")]
    pub(super) tls: Option<super::tls::Handshaker>,
}

/// How many connections of a transport are open, whether they are in use or idle.
#[derive(Clone, Debug, Default)]
pub(super) struct OpenConnections(Arc<AtomicUsize>);

/// Counts one connection for as long as it lives.
#[derive(Debug)]
pub(super) struct OpenGuard(Arc<AtomicUsize>);

/// A connection and its place in the count.
pub(super) type Dialled = (Stream, OpenGuard);

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
    /// Opens a connection to `peer` that `protocol` can be spoken on: to the end of the TLS
    /// handshake, where there is one, within one time limit.
    #[cfg_attr(
        not(feature = "tls"),
        allow(unused_variables, reason = "a plain connection takes any protocol")
    )]
    pub(super) async fn dial(&self, peer: &Peer, protocol: Protocol) -> Result<Dialled, Error> {
        let addr = peer.addr();
        #[cfg(feature = "tls")]
        let tls = match (peer.name(), &self.tls) {
            (None, _) => None,
            (Some(name), Some(tls)) => Some((name, tls)),
            (Some(_), None) => return Err(Error::new(ErrorKind::TlsUnavailable, addr)),
        };
        let deadline = Instant::now() + self.timeout;
        let stream = match timeout_at(deadline, TcpStream::connect(addr)).await {
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
        let guard = self.open.guard();
        #[cfg(feature = "tls")]
        if let Some((name, tls)) = tls {
            let handshake = tls.handshake(stream, addr, name, protocol);
            return match timeout_at(deadline, handshake).await {
                Ok(secured) => Ok((Stream::Tls(Box::new(secured?)), guard)),
                Err(elapsed) => Err(Error::new(ErrorKind::ConnectTimeout, addr)
                    .with_detail("did not finish the TLS handshake in time")
                    .with_source(elapsed)),
            };
        }
        Ok((Stream::Tcp(stream), guard))
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
