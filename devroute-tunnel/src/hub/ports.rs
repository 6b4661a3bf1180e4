//! The ports that addresses of services have.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use tokio::net::{TcpListener, TcpSocket};

/// How many connections may wait for being accepted.
const BACKLOG: u32 = 1024;

/// A range of ports, such as `43000-43999`.
///
/// ```
/// use devroute_tunnel::hub::PortRange;
///
/// let range: PortRange = "43000-43999".parse()?;
/// assert_eq!(range.len(), 1000);
/// assert!("43999-43000".parse::<PortRange>().is_err());
/// # Ok::<(), devroute_tunnel::hub::MalformedRange>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// How many ports it has.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "it has at least one")]
    pub fn len(self) -> usize {
        usize::from(self.last - self.first) + 1
    }

    /// Whether the port is one of them.
    #[must_use]
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl Default for PortRange {
    fn default() -> Self {
        Self {
            first: 43000,
            last: 43999,
        }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl FromStr for PortRange {
    type Err = MalformedRange;

    fn from_str(text: &str) -> Result<Self, MalformedRange> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (first.parse(), last.parse()) {
            (Ok(first), Ok(last)) if 0 < first && first <= last => Ok(Self { first, last }),
            _ => Err(MalformedRange),
        }
    }
}

/// Why something is no [`PortRange`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedRange;

impl fmt::Display for MalformedRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected a range of ports such as 43000-43999")
    }
}

impl std::error::Error for MalformedRange {}

/// Opens addresses, each at another port than the one before, so that one that is free again stays so for as long as
/// possible: a contract that is still around must not lead to somebody else.
#[derive(Debug)]
pub(super) struct Ports {
    ip: IpAddr,
    range: PortRange,
    next: Mutex<usize>,
}

impl Ports {
    pub(super) fn new(ip: IpAddr, range: PortRange) -> Self {
        let mut random = [0; 2];
        // Begins anywhere, since a hub that has taken the place of another must not begin where that one did. Without
        // a generator it does.
        let _ = getrandom::fill(&mut random);
        let next = usize::from(u16::from_be_bytes(random)) % range.len();
        Self {
            ip,
            range,
            next: Mutex::new(next),
        }
    }

    /// Opens the address that somebody had, if it is one of these and free; else the next one.
    ///
    /// # Errors
    ///
    /// When no port of the range can be listened on.
    pub(super) fn open(&self, had: Option<SocketAddr>) -> io::Result<TcpListener> {
        if let Some(had) = had {
            if had.ip() == self.ip && self.range.contains(had.port()) {
                if let Ok(listener) = listen(had) {
                    return Ok(listener);
                }
            }
        }
        let mut last = io::ErrorKind::AddrInUse.into();
        for _ in 0..self.range.len() {
            let port = {
                let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
                let offset = *next;
                *next = (offset + 1) % self.range.len();
                self.range.first + u16::try_from(offset).unwrap_or_default()
            };
            match listen(SocketAddr::new(self.ip, port)) {
                Ok(listener) => return Ok(listener),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => last = error,
                // No other port will do better.
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // Connections of whoever had it before, in TIME_WAIT, do not hold it.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCALHOST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    /// Ports that nobody has, as far as that can be known.
    fn range(count: u16) -> PortRange {
        let free = std::net::TcpListener::bind((LOCALHOST, 0)).unwrap();
        let first = free.local_addr().unwrap().port().min(65535 - count);
        PortRange {
            first,
            last: first + count - 1,
        }
    }

    #[tokio::test]
    async fn an_address_that_was_had_is_opened_again_if_it_is_free() {
        let ports = Ports::new(LOCALHOST, range(50));
        let first = ports.open(None).unwrap();
        let had = first.local_addr().unwrap();
        let second = ports.open(Some(had)).unwrap().local_addr().unwrap();
        assert_ne!(second, had, "it is not free");
        drop(first);
        let again = ports.open(Some(had)).unwrap();
        assert_eq!(again.local_addr().unwrap(), had);
        let elsewhere = SocketAddr::new(LOCALHOST, 1);
        assert!(
            ports.range.contains(
                ports
                    .open(Some(elsewhere))
                    .unwrap()
                    .local_addr()
                    .unwrap()
                    .port()
            )
        );
    }

    #[tokio::test]
    async fn a_port_that_is_free_again_is_not_the_next_one() {
        let ports = Ports::new(LOCALHOST, range(20));
        let first = ports.open(None).unwrap().local_addr().unwrap();
        let second = ports.open(None).unwrap().local_addr().unwrap();
        assert_ne!(first, second);
    }

    #[tokio::test]
    async fn a_range_can_be_exhausted() {
        let taken = std::net::TcpListener::bind((LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let range = PortRange {
            first: port,
            last: port,
        };
        let error = Ports::new(LOCALHOST, range).open(None).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
