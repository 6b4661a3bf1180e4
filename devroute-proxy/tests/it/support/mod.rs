//! Fake clients, fake servers, proxies in this process, and the binary in another.

pub(crate) mod binary;
pub(crate) mod client;
pub(crate) mod desk;
pub(crate) mod proxy;
pub(crate) mod relay;
pub(crate) mod server;
pub(crate) mod tls;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::net::TcpStream;

pub(crate) use binary::Devroute;
pub(crate) use client::Client;
pub(crate) use proxy::{Proxy, router, sidecar};
pub(crate) use relay::Relay;
pub(crate) use server::Server;

/// Far longer than anything takes: a test that gets here has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// An address of this machine that nothing listens on.
pub(crate) async fn closed() -> SocketAddr {
    tokio::net::TcpListener::bind(ANY)
        .await
        .unwrap()
        .local_addr()
        .unwrap()
}

/// Waits until `condition` holds.
pub(crate) async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let holds = async {
        while !condition().await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, holds)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"));
}

/// Waits until nobody accepts connections at `address` any more.
pub(crate) async fn until_refused(address: SocketAddr) {
    until("the listener closes", async || {
        TcpStream::connect(address).await.is_err()
    })
    .await;
}
