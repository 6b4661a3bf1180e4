//! What clients do to a server of HTTP/1.1, and to any server.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::Method;
use hyper::body::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::sleep;

use super::{Ground, Result, pace};
use crate::asking::{self, Connection};

/// A head that does not end, a field at a time.
pub(super) async fn slow_head(ground: Ground, _index: usize) -> Result {
    let mut stream = TcpStream::connect(ground.proxy).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: foo\r\n").await?;
    loop {
        ground.count(1);
        sleep(Duration::from_millis(100)).await;
        stream.write_all(b"x-more: x\r\n").await?;
    }
}

/// A body of a megabyte, a byte at a time.
pub(super) async fn slow_body(ground: Ground, _index: usize) -> Result {
    let mut stream = TcpStream::connect(ground.proxy).await?;
    let head = b"POST /echo HTTP/1.1\r\nhost: foo\r\ncontent-length: 1000000\r\n\r\n";
    stream.write_all(head).await?;
    loop {
        ground.count(1);
        sleep(Duration::from_millis(100)).await;
        stream.write_all(b"x").await?;
    }
}

/// A large answer, read a byte at a time.
pub(super) async fn slow_reader(ground: Ground, _index: usize) -> Result {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(4096)?;
    let mut stream = socket.connect(ground.proxy).await?;
    stream
        .write_all(b"GET /big HTTP/1.1\r\nhost: foo\r\n\r\n")
        .await?;
    loop {
        stream.read_u8().await?;
        ground.count(1);
        sleep(Duration::from_millis(50)).await;
    }
}

/// Nothing at all, until the proxy has enough of it.
pub(super) async fn idle(ground: Ground, _index: usize) -> Result {
    let mut stream = TcpStream::connect(ground.proxy).await?;
    ground.count(1);
    stream.read_u8().await?;
    Ok(())
}

/// A connection whose one half is closed, in a head, in a body, or behind a request.
pub(super) async fn half_open(ground: Ground, index: usize) -> Result {
    let mut stream = TcpStream::connect(ground.proxy).await?;
    let sent: &[u8] = match index % 3 {
        0 => b"GET / HTTP/1.1\r\nhost: f",
        1 => b"POST /echo HTTP/1.1\r\nhost: foo\r\ncontent-length: 10\r\n\r\nhalf",
        _ => b"GET /slow HTTP/1.1\r\nhost: foo\r\n\r\n",
    };
    stream.write_all(sent).await?;
    stream.shutdown().await?;
    ground.count(1);
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await?;
    sleep(pace(20)).await;
    Ok(())
}

/// Heads as large as they may be, and larger.
pub(super) async fn large_heads(ground: Ground, index: usize) -> Result {
    let fields = if index % 2 == 0 { 98 } else { 150 };
    let field = format!("x-field: {}\r\n", "x".repeat(600));
    let head = format!(
        "GET / HTTP/1.1\r\nhost: foo\r\n{}\r\n",
        field.repeat(fields)
    );
    let mut stream = TcpStream::connect(ground.proxy).await?;
    loop {
        stream.write_all(head.as_bytes()).await?;
        ground.count(1);
        let mut answer = [0; 1024];
        if stream.read(&mut answer).await? == 0 {
            return Ok(());
        }
        sleep(pace(10)).await;
    }
}

/// Connections that are opened and dropped, with and without a byte, by a FIN or a reset.
pub(super) async fn churn(ground: Ground, index: usize) -> Result {
    for round in 0..50_u8 {
        // Another address of this machine each, since one has 28,000 ports only.
        let from = SocketAddr::from(([127, 0, u8::try_from(index).unwrap() + 1, round + 1], 0));
        let socket = TcpSocket::new_v4()?;
        socket.bind(from)?;
        let mut stream = socket.connect(ground.proxy).await?;
        match round % 3 {
            0 => stream.set_zero_linger()?,
            1 => stream.write_all(b"GET / HT").await?,
            _ => {}
        }
        drop(stream);
        ground.count(1);
    }
    sleep(pace(80)).await;
    Ok(())
}

/// Requests with a contract and an id each, which a sidecar remembers for a while.
pub(super) async fn ids(ground: Ground, index: usize) -> Result {
    let mut connection = Connection::http1(ground.proxy).await?;
    loop {
        let number = ground.attempts.load(Ordering::Relaxed);
        ground.count(1);
        let id = format!("00-{number:024x}{index:08x}-00f067aa0ba902b7-01");
        let headers = [
            ("x-devroute", r#"{"bar":"10.0.0.1:80"}"#),
            ("traceparent", &id),
        ];
        let request = asking::request(Method::GET, "/", &headers, Bytes::new());
        if connection.send(request).await?.last {
            return Ok(());
        }
        sleep(pace(2)).await;
    }
}

/// Tunnels through the outbound listener that nobody uses.
pub(super) async fn tunnels(ground: Ground, service: SocketAddr) -> Result {
    let mut stream = TcpStream::connect(ground.outbound).await?;
    let connect = format!("CONNECT {service} HTTP/1.1\r\nhost: {service}\r\n\r\n");
    stream.write_all(connect.as_bytes()).await?;
    ground.count(1);
    stream.read_u8().await?;
    sleep(Duration::from_secs(3600)).await;
    Ok(())
}
