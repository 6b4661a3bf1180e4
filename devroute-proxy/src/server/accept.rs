//! The accept loop.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::{Duration, Instant};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};

use super::listen::BACKLOG;
use crate::metrics::Metrics;

const SHORTEST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// A client that is gone without a word is noticed three minutes later, even one whose request is being
/// answered at a breakpoint. Whoever is there answers this in its kernel.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(60))
    .with_interval(Duration::from_secs(15))
    .with_retries(8);
const LOG_PERIOD: Duration = Duration::from_secs(10);

/// Hands every connection to `take` until `stop`; then the listener closes.
///
/// Where the system has nothing left to accept with (no descriptors, no memory), it waits a little
/// longer each time: the connection stays in the queue, and trying at once would burn a core.
pub(crate) async fn accept(
    listener: TcpListener,
    stop: impl Future<Output = ()>,
    metrics: &Metrics,
    mut take: impl FnMut(TcpStream, SocketAddr),
) {
    let mut stop = pin!(stop);
    let mut pause = SHORTEST_PAUSE;
    let mut logged: Option<Instant> = None;
    // One that was made elsewhere may not have it yet.
    settle(SockRef::from(&listener));
    loop {
        let accepted = tokio::select! {
            // A flood of connections must not keep the shutdown from being seen.
            biased;
            () = &mut stop => break,
            accepted = listener.accept() => accepted,
        };
        let error = match accepted {
            Ok((stream, client)) => {
                pause = SHORTEST_PAUSE;
                inherit(SockRef::from(&stream));
                take(stream, canonical(client));
                continue;
            }
            Err(error) if is_of_connection(&error) => continue,
            Err(error) => error,
        };
        metrics.accept_error();
        if logged.is_none_or(|logged| logged.elapsed() >= LOG_PERIOD) {
            logged = Some(Instant::now());
            tracing::error!(%error, "cannot accept connections");
        }
        tokio::select! {
            () = &mut stop => break,
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    if let Err(error) = accept_waiting(listener, take) {
        tracing::debug!(%error, "cannot accept what waits");
    }
}

/// Takes what is in the queue of a listener that is to be closed: the system would reset it.
///
/// It asks the system itself, since what tokio knows may be older than the last connection.
fn accept_waiting(
    listener: TcpListener,
    mut take: impl FnMut(TcpStream, SocketAddr),
) -> io::Result<()> {
    let listener = listener.into_std()?;
    // A listener that others share may never run dry.
    for _ in 0..BACKLOG {
        let (stream, client) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if is_of_connection(&error) => continue,
            Err(error) => return Err(error),
        };
        stream.set_nonblocking(true)?;
        inherit(SockRef::from(&stream));
        take(TcpStream::from_std(stream)?, canonical(client));
    }
    Ok(())
}

/// Linux lets a connection have what its listener had, which is five calls less for each; elsewhere it is asked for.
fn inherit(stream: SockRef<'_>) {
    if !cfg!(target_os = "linux") {
        settle(stream);
    }
}

/// What every connection has, where the system lets it; set for a listener, its connections have it from the
/// beginning.
pub(super) fn settle(socket: SockRef<'_>) {
    // Latency is what a proxy adds; small writes are joined above, not in the kernel.
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_keepalive(&KEEPALIVE);
}

/// A listener on all addresses sees IPv4 clients as `::ffff:a.b.c.d`; everybody else, and
/// `X-Forwarded-For` above all, means `a.b.c.d`.
fn canonical(client: SocketAddr) -> SocketAddr {
    SocketAddr::new(client.ip().to_canonical(), client.port())
}

/// Whether only this one connection is lost: its client has gone while it was in the queue.
fn is_of_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}

#[cfg(test)]
mod tests {
    use super::super::listen::bind;
    use super::*;
    use crate::config::Bind;

    #[tokio::test]
    async fn who_waits_in_the_queue_when_the_listener_closes_is_taken() {
        let any = Bind::Address("127.0.0.1:0".parse().unwrap());
        let listener = bind(any).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut clients = Vec::new();
        for _ in 0..3 {
            clients.push(std::net::TcpStream::connect(address).unwrap());
        }
        let mut taken = 0;
        let stopped = std::future::ready(());
        accept(listener, stopped, &Metrics::new("test", 1), |stream, _| {
            taken += 1;
            let stream = SockRef::from(&stream);
            assert!(stream.keepalive().unwrap() && stream.tcp_nodelay().unwrap());
            assert_eq!(stream.tcp_keepalive_time().unwrap().as_secs(), 60);
        })
        .await;
        assert_eq!(taken, 3);
        assert!(std::net::TcpStream::connect(address).is_err());
    }

    #[test]
    fn an_ipv4_client_of_an_ipv6_listener_is_an_ipv4_client() {
        let client = canonical("[::ffff:192.0.2.7]:4711".parse().unwrap());
        assert_eq!(client, "192.0.2.7:4711".parse().unwrap());
        let client = canonical("[::1]:4711".parse().unwrap());
        assert_eq!(client, "[::1]:4711".parse().unwrap());
    }
}
