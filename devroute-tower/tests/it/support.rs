//! Fake services on loopback, real servers around them, and a client: a test reads as a story.

use std::{convert::Infallible, net::SocketAddr};

use axum::{Router, body::Body, extract::Request, response::Response};
use bytes::Bytes;
use devroute_core::TargetPolicy;
use devroute_tower::DevRouteLayer;
use http::HeaderMap;
use http_body_util::BodyExt as _;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
};

/// An address where nobody listens, nor ever will: bound for as long as the tests run.
pub(crate) async fn nobody() -> SocketAddr {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    Box::leak(Box::new(socket)).local_addr().unwrap()
}

/// Serves `app` on a free port, HTTP/1.1 and HTTP/2 with prior knowledge.
pub(crate) async fn serve(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    addr
}

/// A service that answers with its name and echoes what it got: method, path, fields, body.
pub(crate) fn echo(name: &'static str) -> Router {
    Router::new().fallback(move |request: Request| async move {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let mut response = Response::new(Body::from(format!(
            "{name} {} {} {}",
            parts.method,
            parts.uri.path_and_query().unwrap(),
            String::from_utf8_lossy(&body),
        )));
        for (field, value) in &parts.headers {
            response.headers_mut().append(
                http::HeaderName::from_bytes(format!("echo-{field}").as_bytes()).unwrap(),
                value.clone(),
            );
        }
        response
    })
}

/// Loopback targets allowed, or a test could reach nothing.
pub(crate) fn policy() -> TargetPolicy {
    TargetPolicy::default().allow_loopback(true)
}

/// The layer of service `foo`, for tests.
pub(crate) fn layer() -> DevRouteLayer {
    DevRouteLayer::new("foo").policy(policy())
}

/// A contract with one entry, as the value of the field.
pub(crate) fn contract(service: &str, target: impl std::fmt::Display) -> String {
    format!(r#"{{"{service}":"{target}"}}"#)
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Answer {
    pub(crate) fn field(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn problem(&self) -> serde_json::Value {
        assert_eq!(
            self.field("content-type"),
            "application/problem+json",
            "{self:?}"
        );
        serde_json::from_str(&self.body).unwrap()
    }
}

pub(crate) type TestClient = Client<HttpConnector, Body>;

pub(crate) fn client() -> TestClient {
    Client::builder(TokioExecutor::new()).build_http()
}

pub(crate) fn h2_client() -> TestClient {
    Client::builder(TokioExecutor::new())
        .http2_only(true)
        .build_http()
}

/// Sends a request and reads the whole answer.
pub(crate) async fn send(client: &TestClient, request: http::Request<Body>) -> Answer {
    let (parts, body) = client.request(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap();
    Answer {
        status: parts.status.as_u16(),
        headers: parts.headers,
        trailers: body.trailers().cloned(),
        body: String::from_utf8(body.to_bytes().into()).unwrap(),
    }
}

/// GETs `/path` with a contract, or without one where it is empty.
pub(crate) async fn get(addr: SocketAddr, contract: &str) -> Answer {
    let mut request = http::Request::get(format!("http://{addr}/path?q=1"));
    if !contract.is_empty() {
        request = request.header("x-devroute", contract);
    }
    send(&client(), request.body(Body::empty()).unwrap()).await
}

/// A target that takes one connection, reads a request head, writes `answer` and does `then`.
pub(crate) async fn raw_target(answer: &'static [u8], then: Then) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                read_head(&mut stream).await;
                let _ = stream.write_all(answer).await;
                match then {
                    Then::Close => {}
                    Then::Reset => stream.set_zero_linger().unwrap(),
                    Then::Hold => std::future::pending().await,
                }
            });
        }
    });
    addr
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Then {
    Close,
    Reset,
    Hold,
}

/// Reads up to the blank line, and returns the head.
pub(crate) async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&head).into_owned()
}

/// Serves any tower service over hyper 1, without axum.
pub(crate) async fn serve_hyper<S, B>(service: S) -> SocketAddr
where
    S: tower::Service<
            http::Request<hyper::body::Incoming>,
            Response = http::Response<B>,
            Error = Infallible,
        > + Clone
        + Send
        + 'static,
    S::Future: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = hyper_util::service::TowerToHyperService::new(service.clone());
            tokio::spawn(async move {
                let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                let _ = builder
                    .serve_connection_with_upgrades(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    addr
}
