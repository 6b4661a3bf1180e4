//! Opening connections: one address, one time limit, no second look-up.
//!
//! A forward proxy also dials names. Then there is one look-up for each connection, and the addresses
//! that it finds share the time.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use devroute_core::TargetPolicy;
use http::StatusCode;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};

use super::{
    Connects, Error, ErrorKind, Lookups, Protocol,
    peer::{HostPort, Peer, Place},
    stream::Stream,
};

/// A laptop that is gone without a word, with its lid or its VPN, is noticed three minutes later. One at
/// a breakpoint answers this in its kernel.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(60))
    .with_interval(Duration::from_secs(15))
    .with_retries(8);

/// How long a name service may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// Dials an address and refuses to have reached the process itself.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    pub(super) timeout: Duration,
    pub(super) own_listeners: Arc<[SocketAddr]>,
    /// Which addresses may be dialled; without it, any.
    pub(super) policy: Option<Arc<TargetPolicy>>,
    pub(super) open: OpenConnections,
    /// How many may be opened at a time; without it, any number.
    pub(super) connects: Option<Connects>,
    pub(super) lookups: Lookups,
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
    pub(super) async fn dial(&self, peer: &Peer, protocol: Protocol) -> Result<Dialled, Error> {
        match peer.place() {
            Place::Address(addr) => {
                let deadline = Instant::now() + self.timeout;
                self.dial_addr(*addr, peer, protocol, deadline).await
            }
            Place::Addresses(addrs) => self.dial_any(addrs, peer, protocol).await,
            Place::Host(host) => {
                let found = self.look_up(host).await?;
                self.dial_any(&found, peer, protocol).await
            }
        }
    }

    async fn look_up(&self, host: &HostPort) -> Result<Vec<SocketAddr>, Error> {
        let asked = self
            .lookups
            .find(Arc::clone(&host.host), host.port, LOOKUP_TIMEOUT);
        asked.await
    }

    /// Tries one address of a name after the other, each for its share of the time that is left: the
    /// first may be of a family that leads nowhere.
    async fn dial_any(
        &self,
        addrs: &[SocketAddr],
        peer: &Peer,
        protocol: Protocol,
    ) -> Result<Dialled, Error> {
        let deadline = Instant::now() + self.timeout;
        let mut left = u32::try_from(addrs.len()).unwrap_or(u32::MAX);
        let mut last = Error::without_addr(ErrorKind::DnsFailed);
        for &addr in addrs {
            let now = Instant::now();
            let share = deadline.saturating_duration_since(now) / left.max(1);
            left = left.saturating_sub(1);
            match self.dial_addr(addr, peer, protocol, now + share).await {
                Ok(dialled) => return Ok(dialled),
                // It is refused as a whole: who gave it this address may have given it the others.
                Err(error) if error.kind().status() == StatusCode::FORBIDDEN => return Err(error),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    #[cfg_attr(
        not(feature = "tls"),
        allow(unused_variables, reason = "a plain connection takes any protocol")
    )]
    async fn dial_addr(
        &self,
        addr: SocketAddr,
        peer: &Peer,
        protocol: Protocol,
        deadline: Instant,
    ) -> Result<Dialled, Error> {
        if let Some(policy) = &self.policy {
            policy.judge_addr(addr).map_err(|refusal| {
                let reason = refusal.reason();
                Error::new(ErrorKind::Prohibited, addr).with_detail(format!(
                    "is no address to send requests to from here ({reason})"
                ))
            })?;
        }
        #[cfg(feature = "tls")]
        let tls = match (peer.name(), &self.tls) {
            (None, _) => None,
            (Some(name), Some(tls)) => Some((name, tls)),
            (Some(_), None) => return Err(Error::new(ErrorKind::TlsUnavailable, addr)),
        };
        let time = deadline.saturating_duration_since(Instant::now());
        // Held to the end of the handshake.
        let mut opening = match &self.connects {
            // A little longer than a connection has, so that the line hears of one that timed out.
            Some(connects) => Some(connects.begin(addr, deadline + time / 8).await?),
            None => None,
        };
        // Whoever stood in a line has waited for others, and not for this address.
        let deadline = Instant::now() + time;
        let connected = match timeout_at(deadline, TcpStream::connect(addr)).await {
            Ok(connected) => connected.map_err(|error| Error::connect(addr, error)),
            Err(elapsed) => Err(Error::new(ErrorKind::ConnectTimeout, addr).with_source(elapsed)),
        };
        match (&mut opening, &connected) {
            (Some(opening), Ok(_)) => opening.worked(),
            (Some(opening), Err(error)) => opening.failed(error.kind(), self.timeout),
            (None, _) => {}
        }
        let stream = connected?;
        if self.reached_ourselves(&stream) {
            return Err(Error::new(ErrorKind::OwnListener, addr));
        }
        if reached_itself(&stream) {
            let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
            return Err(Error::connect(addr, refused));
        }
        // Small writes (a head, then a short body) must not wait for an acknowledgement.
        stream
            .set_nodelay(true)
            .map_err(|error| Error::connect(addr, error))?;
        // It is none of the request's loss if it cannot be had.
        let _ = SockRef::from(&stream).set_tcp_keepalive(&KEEPALIVE);
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

    /// An address of this host that no list names still shows: both ends have it, or something can be bound
    /// to it. (From a host to a second address of its own, in the same network, the source is the first.)
    fn reached_ourselves(&self, stream: &TcpStream) -> bool {
        let (Ok(local), Ok(peer)) = (stream.local_addr(), stream.peer_addr()) else {
            return false;
        };
        let ip = peer.ip().to_canonical();
        let is_same = local.ip() == peer.ip();
        self.own_listeners.iter().any(|own| {
            own.port() == peer.port()
                && (own.ip().to_canonical() == ip
                    || own.ip().is_unspecified() && (is_same || is_ours(ip)))
        })
    }
}

/// Where nobody listens at a port that outgoing connections get as theirs, TCP can connect a socket to
/// itself (RFC 9293, section 3.5), which would be sent its own request for an answer.
fn reached_itself(stream: &TcpStream) -> bool {
    matches!((stream.local_addr(), stream.peer_addr()), (Ok(local), Ok(peer)) if local == peer)
}

/// Whether this host has the address, as the system sees it now.
fn is_ours(ip: IpAddr) -> bool {
    // Addresses for documentation, which no host has.
    let nobodys: IpAddr = match ip {
        IpAddr::V4(_) => Ipv4Addr::new(192, 0, 2, 1).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
    };
    can_be_bound(ip) && !can_be_bound(nobodys)
}

/// Where that is switched on for a host (`ip_nonlocal_bind`), everything can be.
fn can_be_bound(ip: IpAddr) -> bool {
    // A socket that neither sends nor listens.
    UdpSocket::bind((ip, 0)).is_ok()
}

#[cfg(test)]
impl Connector {
    /// One that limits nothing but the time.
    pub(super) fn unlimited() -> Self {
        Self {
            timeout: Duration::from_secs(20),
            own_listeners: Arc::default(),
            policy: None,
            open: OpenConnections::default(),
            connects: None,
            lookups: Lookups::new(),
            #[cfg(feature = "tls")]
            tls: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    /// A listener, and where it is.
    async fn listener(ip: [u8; 4]) -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind((Ipv4Addr::from(ip), 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        (listener, addr)
    }

    /// A port that nobody listens at, and nobody else can have as long as it is held.
    fn refuses() -> (TcpSocket, SocketAddr) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let addr = socket.local_addr().unwrap();
        (socket, addr)
    }

    async fn dial_any(connector: &Connector, addrs: &[SocketAddr]) -> Result<SocketAddr, Error> {
        let (first, others) = addrs.split_first().unwrap();
        let peer = Peer::plain(*first).or(others);
        match connector.dial(&peer, Protocol::Http1).await?.0 {
            Stream::Tcp(stream) => Ok(stream.peer_addr().unwrap()),
            #[cfg(feature = "tls")]
            Stream::Tls(_) => unreachable!("the peer is plain"),
        }
    }

    #[tokio::test]
    async fn one_address_of_a_name_is_tried_after_the_other() {
        let ((_one, one), (_two, two)) = (
            listener([127, 0, 0, 1]).await,
            listener([127, 0, 0, 1]).await,
        );
        let (_held, refuses) = refuses();
        let connector = Connector::unlimited();
        for (addrs, reached) in [
            (&[one, two][..], one),
            (&[refuses, two], two),
            (&[refuses, refuses, one, two], one),
        ] {
            assert_eq!(dial_any(&connector, addrs).await.unwrap(), reached);
        }
        let error = dial_any(&connector, &[refuses, refuses]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    }

    /// A listener whose queue is full, so that nobody else is answered; and what fills it.
    async fn black_hole() -> (TcpListener, Vec<TcpStream>, SocketAddr) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let listener = socket.listen(1).unwrap();
        let addr = listener.local_addr().unwrap();
        let mut queue = Vec::new();
        let patience = Duration::from_millis(200);
        while let Ok(stream) = tokio::time::timeout(patience, TcpStream::connect(addr)).await {
            queue.push(stream.unwrap());
        }
        (listener, queue, addr)
    }

    #[tokio::test]
    async fn each_address_of_a_name_has_its_share_of_the_time() {
        let (_hole, _queue, hole) = black_hole().await;
        let (_listener, addr) = listener([127, 0, 0, 1]).await;
        let connector = Connector {
            timeout: Duration::from_millis(900),
            ..Connector::unlimited()
        };
        let began = Instant::now();
        let reached = dial_any(&connector, &[hole, hole, addr]).await.unwrap();
        assert_eq!(reached, addr);
        // A third of it, a half of what was left, and what a busy machine takes.
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(600), "{took:?}");
        assert!(took < Duration::from_millis(2500), "{took:?}");

        let error = dial_any(&connector, &[hole, hole]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectTimeout);
    }

    #[tokio::test]
    async fn rule_05_a_name_with_a_prohibited_address_is_not_tried_further() {
        let (allowed, yes) = listener([127, 0, 0, 1]).await;
        let no = SocketAddr::from(([169, 254, 169, 254], 80));
        let policy = TargetPolicy::default().allow("127.0.0.1/32".parse().unwrap());
        let connector = Connector {
            policy: Some(Arc::new(policy)),
            ..Connector::unlimited()
        };
        let error = dial_any(&connector, &[no, yes]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Prohibited);
        // Whoever comes first is this one.
        let ours = TcpStream::connect(yes).await.unwrap();
        let (_stream, first) = allowed.accept().await.unwrap();
        assert_eq!(first, ours.local_addr().unwrap());
        assert_eq!(dial_any(&connector, &[yes, no]).await.unwrap(), yes);
    }

    #[tokio::test]
    async fn rule_05_an_own_listener_is_found_by_any_address_of_this_host() {
        let (_listener, addr) = listener([0; 4]).await;
        let (_other, other) = listener([127, 0, 0, 1]).await;
        let port = addr.port();
        for (own, dialled, is_own) in [
            (format!("127.0.0.1:{port}"), "127.0.0.1", true),
            (format!("[::ffff:127.0.0.1]:{port}"), "127.0.0.1", true),
            (format!("0.0.0.0:{port}"), "127.0.0.1", true),
            (format!("[::]:{port}"), "127.0.0.1", true),
            // Where the system takes another address of this host for the near end.
            (format!("0.0.0.0:{port}"), "127.9.8.7", true),
            (format!("127.0.0.2:{port}"), "127.0.0.1", false),
            (format!("0.0.0.0:{}", other.port()), "127.0.0.1", false),
            (other.to_string(), "127.0.0.1", false),
        ] {
            let connector = Connector {
                own_listeners: Arc::from([own.parse().unwrap()]),
                ..Connector::unlimited()
            };
            let dialled = SocketAddr::new(dialled.parse().unwrap(), port);
            if dialled.ip() != Ipv4Addr::LOCALHOST && !is_ours(dialled.ip()) {
                // `ip_nonlocal_bind`: see below.
                continue;
            }
            let reached = dial_any(&connector, &[dialled]).await;
            let kind = reached.map_err(|error| error.kind());
            let expected = if is_own {
                Err(ErrorKind::OwnListener)
            } else {
                Ok(dialled)
            };
            assert_eq!(kind, expected, "{own}, {dialled}");
        }
    }

    #[tokio::test]
    async fn a_socket_that_is_connected_to_itself_is_told_from_others() {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let addr = socket.local_addr().unwrap();
        assert!(reached_itself(&socket.connect(addr).await.unwrap()));
        let (_listener, addr) = listener([127, 0, 0, 1]).await;
        assert!(!reached_itself(&TcpStream::connect(addr).await.unwrap()));
    }

    #[tokio::test]
    async fn a_name_is_looked_up_when_it_is_dialled() {
        let (_listener, addr) = listener([127, 0, 0, 1]).await;
        let host = HostPort {
            host: "localhost".into(),
            port: addr.port(),
        };
        let peer = Peer::host(host);
        let connector = Connector::unlimited();
        assert!(connector.dial(&peer, Protocol::Http1).await.is_ok());
    }

    #[tokio::test]
    async fn connections_that_are_open_are_counted() {
        let (_listener, addr) = listener([127, 0, 0, 1]).await;
        let connector = Connector::unlimited();
        let mut dialled = Vec::new();
        for open in 1..=3 {
            let peer = Peer::plain(addr);
            dialled.push(connector.dial(&peer, Protocol::Http1).await.unwrap());
            assert_eq!(connector.open.count(), open);
        }
        dialled.pop();
        assert_eq!(connector.open.count(), 2);
    }

    #[test]
    fn an_address_of_this_host_is_told_from_others() {
        let other: IpAddr = "198.51.100.7".parse().unwrap();
        if std::fs::read_to_string("/proc/sys/net/ipv4/ip_nonlocal_bind")
            .is_ok_and(|it| it == "0\n")
        {
            assert!(!can_be_bound(other));
        }
        if can_be_bound(other) {
            // `ip_nonlocal_bind`: then nothing is told apart, and nothing is taken for this host.
            assert!(!is_ours("127.0.0.1".parse().unwrap()));
            return;
        }
        assert!(is_ours("127.0.0.1".parse().unwrap()));
        assert!(is_ours("127.9.8.7".parse().unwrap()));
        assert!(!is_ours(other));
        assert!(!is_ours("2001:db8::7".parse().unwrap()));
    }
}
