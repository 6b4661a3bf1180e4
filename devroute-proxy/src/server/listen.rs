//! How a server gets to its listener.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::SockRef;
use tokio::net::{TcpListener, TcpSocket};

use super::accept::settle;
use crate::config::Bind;

/// How many connections may wait for being accepted, where the system allows as many.
pub(super) const BACKLOG: u32 = 1024;

/// Listens.
///
/// # Errors
///
/// When the address cannot be had.
pub async fn bind(bind: Bind) -> io::Result<TcpListener> {
    anywhere(bind, false)
}

/// Listens on an address that other processes may listen on too, if they do so in the same way and
/// are the same user's (`SO_REUSEPORT`). The system gives each connection to one of them.
///
/// # Errors
///
/// When the address cannot be had, or the system has no such option.
pub async fn bind_shared(bind: Bind) -> io::Result<TcpListener> {
    anywhere(bind, true)
}

fn anywhere(bind: Bind, shared: bool) -> io::Result<TcpListener> {
    match bind {
        Bind::Inherited => Err(io::Error::new(
            io::ErrorKind::NotFound,
            "no socket was passed to this process",
        )),
        Bind::Address(address) => listen(address, shared),
        Bind::Everywhere(port) => {
            // IPv6 first: its unspecified address takes IPv4 as well, where the system has both.
            listen((Ipv6Addr::UNSPECIFIED, port).into(), shared).or_else(|error| {
                match error.kind() {
                    io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied => Err(error),
                    _ => listen((Ipv4Addr::UNSPECIFIED, port).into(), shared),
                }
            })
        }
    }
}

fn listen(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // Connections of the process before this one, in TIME_WAIT, do not hold the port.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    if shared {
        share(&socket)?;
    }
    // Before anybody can be in the queue.
    settle(SockRef::from(&socket));
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

#[cfg(unix)]
fn share(socket: &TcpSocket) -> io::Result<()> {
    socket.set_reuseport(true)
}

#[cfg(not(unix))]
fn share(_socket: &TcpSocket) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: Bind = Bind::Address(SocketAddr::new(
        std::net::IpAddr::V4(Ipv4Addr::LOCALHOST),
        0,
    ));

    #[tokio::test]
    async fn an_address_is_shared_only_by_those_who_both_ask_for_it() {
        let first = bind_shared(ANY).await.unwrap();
        let same = Bind::Address(first.local_addr().unwrap());
        assert!(bind(same).await.is_err());
        assert!(bind_shared(same).await.is_ok());

        let alone = bind(ANY).await.unwrap();
        let same = Bind::Address(alone.local_addr().unwrap());
        assert!(bind_shared(same).await.is_err());
    }
}
