//! Rule 17: gRPC over HTTP/2, the rest over HTTP/1.1, upgrades as bytes.

use std::convert::Infallible;

use axum::{Router, body::Body, extract::Request as AxumRequest};
use devroute_tower::{OnFailure, hop, transport::HttpTransport, transport::Upstream};
use http::Request;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tower::Layer as _;

use crate::support::{
    client, contract, h2_client, layer, nobody, read_head, send, serve, serve_hyper,
};

/// Answers with the version that the request came in.
fn version() -> Router {
    Router::new().fallback(|request: AxumRequest| async move { format!("{:?}", request.version()) })
}

#[tokio::test]
async fn the_scheme_of_the_target_decides_then_grpc() {
    let target = serve(version()).await;
    let addr = serve(Router::new().layer(layer())).await;
    for (scheme, content_type, expected) in [
        ("", "text/plain", "HTTP/1.1"),
        ("", "application/grpc", "HTTP/2.0"),
        ("h2c://", "text/plain", "HTTP/2.0"),
        ("http://", "application/grpc", "HTTP/1.1"),
    ] {
        // Whatever the client speaks.
        for client in [client(), h2_client()] {
            let request = Request::get(format!("http://{addr}/"))
                .header("x-devroute", contract("foo", format!("{scheme}{target}")))
                .header("content-type", content_type)
                .body(Body::empty())
                .unwrap();
            assert_eq!(
                send(&client, request).await.body,
                expected,
                "{scheme} {content_type}"
            );
        }
    }
}

#[tokio::test]
async fn the_authority_of_the_client_reaches_an_http_2_target() {
    let app = Router::new().fallback(|request: AxumRequest| async move {
        format!(
            "{} {:?}",
            request.uri().authority().unwrap(),
            request.headers().get("host")
        )
    });
    let target = serve(app).await;
    let addr = serve(Router::new().layer(layer())).await;
    let request = Request::get(format!("http://{addr}/"))
        .header("x-devroute", contract("foo", format!("h2c://{target}")))
        .header("host", "foo.qa")
        .body(Body::empty())
        .unwrap();
    assert_eq!(send(&client(), request).await.body, "foo.qa None");
}

/// Switches to an echo of bytes, after writing something at once.
async fn switching(listener: TcpListener) {
    let (mut stream, _) = listener.accept().await.unwrap();
    let head = read_head(&mut stream).await.to_lowercase();
    assert!(head.contains("upgrade: websocket\r\n"), "{head}");
    assert!(head.contains("connection: upgrade\r\n"), "{head}");
    let answer = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\
                   upgrade: websocket\r\nsec-websocket-accept: x\r\n\r\nhi";
    stream.write_all(answer).await.unwrap();
    let (mut read, mut write) = stream.split();
    tokio::io::copy(&mut read, &mut write).await.unwrap();
    write.shutdown().await.unwrap();
}

async fn upgrade_through(addr: std::net::SocketAddr, sent: &str) {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let request = format!(
        "GET /ws HTTP/1.1\r\nhost: foo\r\nconnection: keep-alive, Upgrade\r\n\
         upgrade: websocket\r\nx-devroute: {sent}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let head = read_head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(head.contains("sec-websocket-accept: x\r\n"), "{head}");
    assert!(
        head.to_lowercase().contains("upgrade: websocket\r\n"),
        "{head}"
    );
    // Bytes pass as they are, and a half-close passes too.
    stream.write_all(b" there\x00\xff").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut echoed = Vec::new();
    stream.read_to_end(&mut echoed).await.unwrap();
    assert_eq!(echoed, b"hi there\x00\xff");
}

#[tokio::test]
async fn an_upgrade_is_tunnelled_to_the_target_the_baseline_and_after_a_fallback() {
    let listen = || TcpListener::bind("127.0.0.1:0");

    let listener = listen().await.unwrap();
    let target = listener.local_addr().unwrap();
    tokio::spawn(switching(listener));
    let addr = serve(Router::new().layer(layer())).await;
    upgrade_through(addr, &contract("foo", target)).await;

    let listener = listen().await.unwrap();
    let upstream = Upstream::new(HttpTransport::new(), listener.local_addr().unwrap());
    tokio::spawn(switching(listener));
    upgrade_through(serve_hyper(layer().layer(upstream)).await, "{}").await;

    let listener = listen().await.unwrap();
    let upstream = Upstream::new(HttpTransport::new(), listener.local_addr().unwrap());
    tokio::spawn(switching(listener));
    let service = layer().on_failure(OnFailure::Fallback).layer(upstream);
    upgrade_through(serve_hyper(service).await, &contract("foo", nobody().await)).await;
}

#[tokio::test]
async fn an_upgrade_is_joined_with_whatever_stream_carries_it() {
    let service = tower::service_fn(|request: Request<hyper::body::Incoming>| async move {
        let (mut parts, _body) = request.into_parts();
        let upgrade = hop::Upgrade::take(&mut parts).unwrap();
        let answer = http::Response::builder()
            .status(101)
            .header("connection", "upgrade")
            .header("upgrade", upgrade.protocol())
            .header("sec-websocket-accept", "x");
        let (ours, mut theirs) = tokio::io::duplex(64);
        upgrade.join(ours);
        tokio::spawn(async move {
            theirs.write_all(b"hi").await.unwrap();
            let (mut read, mut write) = tokio::io::split(theirs);
            tokio::io::copy(&mut read, &mut write).await.unwrap();
            write.shutdown().await.unwrap();
        });
        Ok::<_, Infallible>(answer.body(Body::empty()).unwrap())
    });
    upgrade_through(serve_hyper(service).await, "{}").await;
}

#[tokio::test]
async fn an_upgrade_to_h2c_is_not_passed_on() {
    let app = Router::new().fallback(|request: AxumRequest| async move {
        let fields = request.headers();
        format!(
            "{:?} {:?}",
            fields.get("upgrade"),
            fields.get("http2-settings")
        )
    });
    let target = serve(app).await;
    let addr = serve(Router::new().layer(layer())).await;
    let request = Request::get(format!("http://{addr}/"))
        .header("x-devroute", contract("foo", target))
        .header("connection", "upgrade, http2-settings")
        .header("upgrade", "h2c")
        .header("http2-settings", "AAMAAABkAAQAAP__")
        .body(Body::empty())
        .unwrap();
    assert_eq!(send(&client(), request).await.body, "None None");
}

#[tokio::test]
async fn a_switch_that_nobody_asked_for_is_no_answer() {
    let target = crate::support::raw_target(
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
        crate::support::Then::Hold,
    )
    .await;
    let addr = serve(Router::new().layer(layer())).await;
    let answer = crate::support::get(addr, &contract("foo", target)).await;
    assert_eq!(answer.status, 502, "{answer:?}");
    assert_eq!(answer.problem()["cause"], "protocol_error");
}
