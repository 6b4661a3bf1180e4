//! Bodies and tunnels stream through a sidecar, whichever way a request goes (invariant 4, rule 17).
//!
//! Bytes by hand on both sides: what is sent only after something has arrived proves that nothing
//! waits for the end of a body.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{ANY, PATIENCE, Proxy, Server, sidecar, until_refused};

/// A sidecar, and the request head that goes through it to the peer at `address`.
async fn ways(address: SocketAddr) -> [(Proxy, String); 2] {
    let elsewhere = Server::says("not here").await.address;
    let contract = format!("x-devroute: {{\"foo\":\"{address}\"}}\r\n");
    [
        (sidecar(address, |_| {}).await, String::new()),
        (sidecar(elsewhere, |_| {}).await, contract),
    ]
}

/// Reads until `text` has come.
async fn read_until(stream: &mut TcpStream, text: &str) -> String {
    let mut read = Vec::new();
    let reading = async {
        while !String::from_utf8_lossy(&read).contains(text) {
            let mut buf = [0; 1024];
            let count = stream.read(&mut buf).await.unwrap();
            assert_ne!(
                count,
                0,
                "closed after {:?}",
                String::from_utf8_lossy(&read)
            );
            read.extend_from_slice(&buf[..count]);
        }
    };
    let waited = tokio::time::timeout(PATIENCE, reading).await;
    let read = String::from_utf8_lossy(&read).into_owned();
    waited.unwrap_or_else(|_| panic!("{text:?} never came, only {read:?}"));
    read
}

#[tokio::test(flavor = "multi_thread")]
async fn both_bodies_stream_at_the_same_time() {
    let listener = TcpListener::bind(ANY).await.unwrap();
    for (proxy, contract) in ways(listener.local_addr().unwrap()).await {
        let mut client = TcpStream::connect(proxy.address).await.unwrap();
        let head =
            format!("POST / HTTP/1.1\r\nhost: foo\r\n{contract}transfer-encoding: chunked\r\n\r\n");
        client.write_all(head.as_bytes()).await.unwrap();
        client.write_all(b"3\r\nup1\r\n").await.unwrap();
        let (mut peer, _) = listener.accept().await.unwrap();
        read_until(&mut peer, "up1").await;
        peer.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\ndown1\r\n")
            .await
            .unwrap();
        read_until(&mut client, "down1").await;
        client.write_all(b"3\r\nup2\r\n").await.unwrap();
        read_until(&mut peer, "up2").await;
        peer.write_all(b"5\r\ndown2\r\n").await.unwrap();
        read_until(&mut client, "down2").await;
        client.write_all(b"0\r\n\r\n").await.unwrap();
        read_until(&mut peer, "0\r\n\r\n").await;
        peer.write_all(b"0\r\n\r\n").await.unwrap();
        read_until(&mut client, "0\r\n\r\n").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_17_an_upgrade_becomes_a_tunnel() {
    let listener = TcpListener::bind(ANY).await.unwrap();
    for (proxy, contract) in ways(listener.local_addr().unwrap()).await {
        let mut client = TcpStream::connect(proxy.address).await.unwrap();
        let head = format!(
            "GET / HTTP/1.1\r\nhost: foo\r\n{contract}connection: upgrade\r\nupgrade: websocket\r\n\r\n"
        );
        client.write_all(head.as_bytes()).await.unwrap();
        let (mut peer, _) = listener.accept().await.unwrap();
        let seen = read_until(&mut peer, "\r\n\r\n").await;
        assert!(seen.to_lowercase().contains("upgrade: websocket"), "{seen}");
        peer.write_all(
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        )
        .await
        .unwrap();
        let answer = read_until(&mut client, "\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        client.write_all(b"\x00ping").await.unwrap();
        read_until(&mut peer, "ping").await;
        peer.write_all(b"\x00pong").await.unwrap();
        read_until(&mut client, "pong").await;
        // A tunnel is an open connection, which a drain lets its peers end.
        let open = r#"devroute_open_connections{listener="proxy"}"#;
        assert_eq!(proxy.sample(open).await, 1.0);
        proxy.shut_down();
        until_refused(proxy.address).await;
        client.write_all(b"\x00still there").await.unwrap();
        read_until(&mut peer, "still there").await;
        drop(client);
        assert_eq!(
            peer.read(&mut [0; 8]).await.unwrap(),
            0,
            "the end passes through"
        );
        drop(peer);
        assert_eq!(proxy.drained().await.abandoned, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_ends_the_request_at_the_target() {
    let listener = TcpListener::bind(ANY).await.unwrap();
    for (proxy, contract) in ways(listener.local_addr().unwrap()).await {
        let mut client = TcpStream::connect(proxy.address).await.unwrap();
        let head = format!("GET / HTTP/1.1\r\nhost: foo\r\n{contract}\r\n");
        client.write_all(head.as_bytes()).await.unwrap();
        let (mut peer, _) = listener.accept().await.unwrap();
        read_until(&mut peer, "\r\n\r\n").await;
        drop(client);
        let closed = tokio::time::timeout(PATIENCE, peer.read(&mut [0; 8])).await;
        assert!(matches!(closed.expect("it is told"), Ok(0) | Err(_)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_goes_nowhere() {
    let baseline = Server::says("baseline").await;
    let proxy = sidecar(baseline.address, |_| {}).await;
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nhost: a b\r\n\r\n", "400"),
        ("GET ! HTTP/1.1\r\nhost: a\r\n\r\n", "400"),
        ("GET nonsense\r\n\r\n", "400"),
        ("CONNECT a:443 HTTP/1.1\r\nhost: a:443\r\n\r\n", "501"),
    ] {
        let mut client = TcpStream::connect(proxy.address).await.unwrap();
        client.write_all(request.as_bytes()).await.unwrap();
        let answer = read_until(&mut client, "\r\n\r\n").await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{request:?}: {answer}"
        );
    }
    let long = format!(
        "GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n",
        "y".repeat(70_000)
    );
    let mut client = TcpStream::connect(proxy.address).await.unwrap();
    let _ = client.write_all(long.as_bytes()).await;
    let answer = read_until(&mut client, "\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    assert!(baseline.seen().is_empty());
}
