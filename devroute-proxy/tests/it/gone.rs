//! Clients that go away, or look like it: whoever works for them is told, or not.

use std::time::{Duration, Instant};

use bytes::Bytes;
use devroute_proxy::server::HalfClose;
use http::Request;
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{ANY, PATIENCE, Proxy, Server, sidecar};

/// The promise.
const AT_ONCE: Duration = Duration::from_millis(100);
/// A busy machine may be late once, or twice; never so often.
const TRIES: usize = 5;

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: foo\r\n\r\n";

/// A sidecar of a service that never answers.
async fn waiting(half_close: HalfClose) -> (TcpListener, Proxy) {
    let service = TcpListener::bind(ANY).await.unwrap();
    let proxy = sidecar(service.local_addr().unwrap(), |config| {
        config.process.half_close = half_close;
    })
    .await;
    (service, proxy)
}

/// Takes a request at the service.
async fn asked(service: &TcpListener) -> TcpStream {
    let (mut peer, _) = service.accept().await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(peer.read_u8().await.unwrap());
    }
    peer
}

/// Waits until the request has ended at the service.
async fn cancelled(mut peer: TcpStream) {
    let ended = tokio::time::timeout(PATIENCE, peer.read(&mut [0; 8])).await;
    assert!(matches!(ended.expect("it is told"), Ok(0) | Err(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_close_ends_the_request_at_once() {
    let (service, proxy) = waiting(HalfClose::Gone).await;
    let mut delays = Vec::new();
    for _ in 0..TRIES {
        let mut client = TcpStream::connect(proxy.address).await.unwrap();
        client.write_all(GET).await.unwrap();
        let peer = asked(&service).await;
        let began = Instant::now();
        client.shutdown().await.unwrap();
        cancelled(peer).await;
        delays.push(began.elapsed());
    }
    assert!(delays.iter().any(|delay| *delay < AT_ONCE), "{delays:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_kept_gets_its_whole_answer_and_then_the_end() {
    let (service, proxy) = waiting(HalfClose::Keep).await;
    let mut client = TcpStream::connect(proxy.address).await.unwrap();
    client.write_all(GET).await.unwrap();
    client.shutdown().await.unwrap();
    let mut peer = asked(&service).await;
    // In two parts: the end is there before the first, and between them.
    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n";
    peer.write_all(head).await.unwrap();
    peer.write_all(&[b'x'; 50_000]).await.unwrap();
    let mut answer = vec![0; 50_000];
    client.read_exact(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
    peer.write_all(&[b'x'; 50_000]).await.unwrap();
    let rest = tokio::time::timeout(PATIENCE, client.read_to_end(&mut answer)).await;
    rest.expect("the connection ends").unwrap();
    assert_eq!(answer.iter().filter(|byte| **byte == b'x').count(), 100_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_kept_and_has_gone_is_noticed_by_what_is_sent_to_it() {
    let (service, proxy) = waiting(HalfClose::Keep).await;
    let mut client = TcpStream::connect(proxy.address).await.unwrap();
    client.write_all(GET).await.unwrap();
    let mut peer = asked(&service).await;
    drop(client);
    peer.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        .await
        .unwrap();
    let sent = async { while peer.write_all(b"1\r\nx\r\n").await.is_ok() {} };
    let ended = tokio::time::timeout(PATIENCE, sent).await;
    ended.expect("nobody is told for ever what nobody reads");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http2_stream_that_is_reset_ends_at_once_whoever_is_kept() {
    let (service, proxy) = waiting(HalfClose::Keep).await;
    let io = TokioIo::new(TcpStream::connect(proxy.address).await.unwrap());
    let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
        .await
        .unwrap();
    tokio::spawn(connection);
    let mut delays = Vec::new();
    for _ in 0..TRIES {
        let request = Request::get("http://foo/").body(Empty::<Bytes>::new());
        let mut sender = sender.clone();
        let request = tokio::spawn(async move { sender.send_request(request.unwrap()).await });
        let peer = asked(&service).await;
        let began = Instant::now();
        request.abort();
        cancelled(peer).await;
        delays.push(began.elapsed());
    }
    assert!(delays.iter().any(|delay| *delay < AT_ONCE), "{delays:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http2_connection_that_is_closed_ends_its_streams_at_once_whoever_is_kept() {
    let (service, proxy) = waiting(HalfClose::Keep).await;
    let mut delays = Vec::new();
    for _ in 0..TRIES {
        let io = TokioIo::new(TcpStream::connect(proxy.address).await.unwrap());
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
                .await
                .unwrap();
        let connection = tokio::spawn(connection);
        let request = Request::get("http://foo/").body(Empty::<Bytes>::new());
        let request = tokio::spawn(async move { sender.send_request(request.unwrap()).await });
        let peer = asked(&service).await;
        let began = Instant::now();
        request.abort();
        connection.abort();
        cancelled(peer).await;
        delays.push(began.elapsed());
    }
    assert!(delays.iter().any(|delay| *delay < AT_ONCE), "{delays:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_another_one_behind_it_is_answered_before_the_end_is_seen() {
    let baseline = Server::says("baseline").await;
    let proxy = sidecar(baseline.address, |_| {}).await;
    let mut client = TcpStream::connect(proxy.address).await.unwrap();
    client.write_all(&[GET, GET].concat()).await.unwrap();
    client.shutdown().await.unwrap();
    let mut answers = String::new();
    let read = tokio::time::timeout(PATIENCE, client.read_to_string(&mut answers)).await;
    read.expect("the connection ends").unwrap();
    assert!(answers.starts_with("HTTP/1.1 200 OK\r\n"), "{answers}");
}
