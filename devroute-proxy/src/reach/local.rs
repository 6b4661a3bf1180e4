//! What this machine knows itself: who listens on a port, and where.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

/// Far longer than a connection within this machine takes.
const PATIENCE: Duration = Duration::from_secs(1);

/// Where connections to a port are taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Listens {
    /// At the address that others would use.
    Outside,
    /// On loopback, and not there.
    LoopbackOnly,
    /// Nowhere.
    Nowhere,
}

impl Listens {
    /// Looks at `port`, of `address` and of loopback.
    pub(crate) async fn on(port: u16, address: IpAddr) -> Self {
        if is_open(address, port).await {
            return Self::Outside;
        }
        for loopback in [
            IpAddr::from(Ipv4Addr::LOCALHOST),
            IpAddr::from(Ipv6Addr::LOCALHOST),
        ] {
            if is_open(loopback, port).await {
                return Self::LoopbackOnly;
            }
        }
        Self::Nowhere
    }
}

async fn is_open(ip: IpAddr, port: u16) -> bool {
    let connected = TcpStream::connect((ip, port));
    matches!(tokio::time::timeout(PATIENCE, connected).await, Ok(Ok(stream))
        // One that ends in itself has met no listener.
        if stream.local_addr().ok() != stream.peer_addr().ok())
}

/// The address that this machine has on its way to `there`. No packet is sent.
pub(crate) fn address_towards(there: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = match there {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(there).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// A port that is opened only to see whether a connection that another machine makes ends here.
#[derive(Debug)]
pub(crate) struct Decoy {
    listener: TcpListener,
    pub(crate) port: u16,
}

impl Decoy {
    /// One that is reached at addresses like `seen`.
    pub(crate) async fn open(seen: IpAddr) -> Option<Self> {
        let any: IpAddr = match seen {
            _ if seen.is_loopback() => seen,
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let listener = TcpListener::bind((any, 0)).await.ok()?;
        let port = listener.local_addr().ok()?.port();
        Some(Self { listener, port })
    }

    /// Whether somebody has come.
    pub(crate) async fn was_reached(self) -> bool {
        let accepted = tokio::time::timeout(PATIENCE, self.listener.accept());
        matches!(accepted.await, Ok(Ok(_)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The second address of loopback stands for one that others use.
    #[tokio::test]
    async fn a_listener_is_outside_on_loopback_only_or_nowhere() {
        let outside = IpAddr::from([127, 0, 0, 2]);
        for (bound, expected) in [
            ("0.0.0.0", Listens::Outside),
            ("127.0.0.2", Listens::Outside),
            ("127.0.0.1", Listens::LoopbackOnly),
        ] {
            let listener = TcpListener::bind((bound, 0)).await.unwrap();
            let port = listener.local_addr().unwrap().port();
            assert_eq!(Listens::on(port, outside).await, expected, "{bound}");
            drop(listener);
            assert_eq!(Listens::on(port, outside).await, Listens::Nowhere);
        }
    }

    #[tokio::test]
    async fn a_decoy_tells_whether_somebody_came() {
        let here = IpAddr::from([127, 0, 0, 1]);
        let decoy = Decoy::open(here).await.unwrap();
        let _stream = TcpStream::connect((here, decoy.port)).await.unwrap();
        assert!(decoy.was_reached().await);
        let decoy = Decoy::open(here).await.unwrap();
        assert!(!decoy.was_reached().await);
    }

    #[test]
    fn the_address_towards_this_machine_is_its_own() {
        let there = SocketAddr::from(([127, 0, 0, 1], 9));
        assert_eq!(address_towards(there), Some(there.ip()));
    }
}
