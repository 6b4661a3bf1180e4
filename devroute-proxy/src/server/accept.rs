//! The accept loop.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};

use crate::metrics::Metrics;
use crate::shutdown::Signal;

const SHORTEST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
const LOG_PERIOD: Duration = Duration::from_secs(10);

/// Hands every connection to `take` until `signal`; then the listener closes.
///
/// Where the system has nothing left to accept with (no descriptors, no memory), it waits a little
/// longer each time: the connection stays in the queue, and trying at once would burn a core.
pub(crate) async fn accept(
    listener: TcpListener,
    mut signal: Signal,
    metrics: &Metrics,
    mut take: impl FnMut(TcpStream, SocketAddr),
) {
    let mut pause = SHORTEST_PAUSE;
    let mut logged: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            // A flood of connections must not keep the shutdown from being seen.
            biased;
            () = signal.wait() => return,
            accepted = listener.accept() => accepted,
        };
        let error = match accepted {
            Ok((stream, client)) => {
                pause = SHORTEST_PAUSE;
                // Latency is what a proxy adds; small writes are joined above, not in the kernel.
                let _ = stream.set_nodelay(true);
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
            () = signal.wait() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
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
    use super::*;

    #[test]
    fn an_ipv4_client_of_an_ipv6_listener_is_an_ipv4_client() {
        let client = canonical("[::ffff:192.0.2.7]:4711".parse().unwrap());
        assert_eq!(client, "192.0.2.7:4711".parse().unwrap());
        let client = canonical("[::1]:4711".parse().unwrap());
        assert_eq!(client, "[::1]:4711".parse().unwrap());
    }
}
