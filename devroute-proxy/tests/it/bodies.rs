//! `--max-body`: what is too long is 413, whether it says so beforehand or not.

use std::num::NonZeroUsize;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{PATIENCE, Proxy, Server, sidecar};

const LIMIT: usize = 1000;
const BODY_LIMIT: &str = r#"devroute_limits_reached_total{limit="body"}"#;

async fn limited(baseline: &Server) -> Proxy {
    sidecar(baseline.address, |config| {
        config.process.limits.body = Some(LIMIT);
        config.process.workers = NonZeroUsize::MIN;
    })
    .await
}

/// The answer to a body of `length`, over HTTP/1.1, which says how long it is or comes in chunks.
async fn http1(proxy: &Proxy, length: usize, chunked: bool) -> String {
    let mut client = TcpStream::connect(proxy.address).await.unwrap();
    let body = "x".repeat(length);
    let request = if chunked {
        format!(
            "POST / HTTP/1.1\r\nhost: foo\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n\
             {length:x}\r\n{body}\r\n0\r\n\r\n"
        )
    } else {
        format!(
            "POST / HTTP/1.1\r\nhost: foo\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        )
    };
    client.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = tokio::time::timeout(PATIENCE, client.read_to_string(&mut answer)).await;
    read.expect("it is answered").unwrap();
    answer
}

/// The same over HTTP/2, where a length is told or not.
async fn http2(proxy: &Proxy, length: usize, told: bool, kind: &str) -> Response<Incoming> {
    let io = TokioIo::new(TcpStream::connect(proxy.address).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
        .await
        .unwrap();
    tokio::spawn(connection);
    let full = Full::new(Bytes::from(vec![b'x'; length]));
    let body = if told {
        full.boxed()
    } else {
        full.with_trailers(std::future::ready(None)).boxed()
    };
    let request = Request::post("http://foo/").header("content-type", kind);
    let sent = sender.send_request(request.body(body).unwrap());
    let answer = tokio::time::timeout(PATIENCE, sent).await;
    answer.expect("it is answered").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_as_long_as_it_may_be_passes() {
    let baseline = Server::says("baseline").await;
    let proxy = limited(&baseline).await;
    for way in [true, false] {
        let answer = http1(&proxy, LIMIT, way).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        let answer = http2(&proxy, LIMIT, way, "text/plain").await;
        assert_eq!(answer.status(), StatusCode::OK);
    }
    assert!(baseline.seen().iter().all(|seen| seen.body.len() == LIMIT));
    assert_eq!(proxy.sample(BODY_LIMIT).await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_length_that_is_told_is_refused_before_anybody_is_asked() {
    let baseline = Server::says("baseline").await;
    let proxy = limited(&baseline).await;
    // Far more than is read of it: the answer arrives all the same, and is the last one.
    for length in [LIMIT + 1, 1024 * 1024] {
        let answer = http1(&proxy, length, false).await;
        assert!(
            answer.starts_with("HTTP/1.1 413 Payload Too Large\r\n"),
            "{answer}"
        );
        assert!(answer.contains("\r\ncontent-type: application/problem+json\r\n"));
        assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
        assert!(answer.contains("\"cause\":\"body_too_large\""), "{answer}");
        let answer = http2(&proxy, length, true, "text/plain").await;
        assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
    }
    assert!(baseline.seen().is_empty());
    assert_eq!(proxy.sample(BODY_LIMIT).await, 4.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_length_that_is_not_told_is_refused_when_it_is_too_much() {
    let baseline = Server::says("baseline").await;
    let proxy = limited(&baseline).await;
    for length in [LIMIT + 1, 1024 * 1024] {
        let answer = http1(&proxy, length, true).await;
        assert!(
            answer.starts_with("HTTP/1.1 413 Payload Too Large\r\n"),
            "{answer}"
        );
        assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
        let answer = http2(&proxy, length, false, "text/plain").await;
        assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
    }
    assert!(baseline.seen().is_empty(), "none of them was complete");
    assert_eq!(proxy.sample(BODY_LIMIT).await, 4.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_is_told_in_its_own_words_that_its_messages_are_too_long() {
    let baseline = Server::says("baseline").await;
    let proxy = limited(&baseline).await;
    for told in [true, false] {
        let answer = http2(&proxy, LIMIT + 1, told, "application/grpc").await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()["grpc-status"], "8", "RESOURCE_EXHAUSTED");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn by_default_a_body_is_as_long_as_it_likes() {
    let baseline = Server::says("baseline").await;
    let proxy = sidecar(baseline.address, |_| {}).await;
    let answer = http1(&proxy, 8 * 1024 * 1024, true).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert_eq!(baseline.only().body.len(), 8 * 1024 * 1024);
}
