//! What is refused before a decision, and what does not get to its end: each is answered as it must be,
//! counted once, and nothing that went well is counted.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{ANY, PATIENCE, Proxy, Server, sidecar, until};

/// All that comes until the other side closes.
async fn rest(stream: &mut TcpStream) -> String {
    let mut read = Vec::new();
    let reading = stream.read_to_end(&mut read);
    let _ = tokio::time::timeout(PATIENCE, reading).await.unwrap();
    String::from_utf8_lossy(&read).into_owned()
}

/// The answer to these bytes, the connection being closed behind it.
async fn answer(address: SocketAddr, request: &str) -> (String, String) {
    let mut client = TcpStream::connect(address).await.unwrap();
    // The server may have enough before it has all of it.
    let _ = client.write_all(request.as_bytes()).await;
    let answer = rest(&mut client).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    (head.to_lowercase(), body.to_owned())
}

async fn counted(proxy: &Proxy, sample: &str, count: f64) {
    until(&format!("{sample} is {count}"), async || {
        proxy.sample(sample).await == count
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_is_refused_with_its_reason_and_counted_by_it() {
    let baseline = Server::says("baseline").await;
    let proxy = sidecar(baseline.address, |_| {}).await;
    let ours = format!(r#"x-devroute: {{"foo":"{}"}}"#, baseline.address);
    for (request, status, reason) in [
        ("GET / HTTP/1.1\r\nhost-not: a", 400, "no_host"),
        ("GET / HTTP/1.1\r\nhost: a\r\nhost: b", 400, "several_hosts"),
        ("GET / HTTP/1.1\r\nhost: a b", 400, "malformed_host"),
        ("GET ! HTTP/1.1\r\nhost: a", 400, "malformed_target"),
        ("CONNECT a:443 HTTP/1.1\r\nhost: a:443", 501, "connect"),
    ] {
        for (index, contract) in ["x-other: 1", &ours].into_iter().enumerate() {
            let request = format!("{request}\r\nconnection: close\r\n{contract}\r\n\r\n");
            let (head, body) = answer(proxy.address, &request).await;
            assert!(head.starts_with(&format!("http/1.1 {status} ")), "{head}");
            let json = "\r\ncontent-type: application/problem+json\r\n";
            assert!(head.contains(json), "{head}");
            let error = match status {
                400 => "http_request_error",
                _ => "http_request_denied",
            };
            let proxy_status = format!("\r\nproxy-status: devroute; error={error}; ");
            assert!(head.contains(&proxy_status), "{head}");
            let problem: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert_eq!(problem["status"], status, "{body}");
            assert_eq!(problem["cause"], reason, "{body}");
            assert!(!problem["help"].as_str().unwrap().is_empty(), "{body}");
            let sample = format!("devroute_requests_refused_total{{reason=\"{reason}\"}}");
            assert_eq!(proxy.sample(&sample).await, (index + 1) as f64);
        }
    }
    assert!(baseline.seen().is_empty());
    // They are none of the requests about which something was decided; a tunnel is one.
    let none = r#"devroute_requests_total{decision="none"}"#;
    assert_eq!(proxy.sample(none).await, 1.0);

    let grpc = "POST / HTTP/1.1\r\nconnection: close\r\ncontent-type: application/grpc\r\n\r\n";
    let (head, body) = answer(proxy.address, grpc).await;
    assert!(head.starts_with("http/1.1 200 "), "{head}");
    assert!(head.contains("\r\ngrpc-status: 3\r\n"), "{head}");
    assert_eq!(body, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_http_is_refused_by_the_server_and_counted() {
    let baseline = Server::says("baseline").await;
    let proxy = sidecar(baseline.address, |config| {
        config.process.limits.head_size = 1 << 20;
    })
    .await;
    let malformed = r#"devroute_requests_refused_total{reason="malformed"}"#;
    for (index, request) in [
        "GET nonsense\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nno field\r\n\r\n",
        "G=T / HTTP/1.1\r\nhost: a\r\n: empty\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: cow\r\n\r\n",
    ]
    .into_iter()
    .enumerate()
    {
        let (head, body) = answer(proxy.address, request).await;
        assert!(head.starts_with("http/1.1 400 "), "{request:?}: {head}");
        assert_eq!(body, "");
        counted(&proxy, malformed, (index + 1) as f64).await;
    }
    let head_limit = r#"devroute_limits_reached_total{limit="head"}"#;
    let long_target = format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "x".repeat(70_000));
    let (head, body) = answer(proxy.address, &long_target).await;
    assert!(head.starts_with("http/1.1 414 "), "{head}");
    assert_eq!(body, "");
    counted(&proxy, head_limit, 1.0).await;
    let many = "x: y\r\n".repeat(101);
    let (head, body) = answer(proxy.address, &format!("GET / HTTP/1.1\r\n{many}\r\n")).await;
    assert!(head.starts_with("http/1.1 431 "), "{head}");
    assert_eq!(body, "");
    counted(&proxy, head_limit, 2.0).await;
    assert_eq!(proxy.sample(malformed).await, 5.0);
    assert!(baseline.seen().is_empty());
}

const GONE_BEFORE: &str = r#"devroute_client_gone_total{phase="head"}"#;
const GONE_WITHIN: &str = r#"devroute_client_gone_total{phase="body"}"#;
const CUT: &str = "devroute_answers_cut_total";

type H2 = http2::SendRequest<Empty<Bytes>>;

async fn h2_client(address: SocketAddr) -> H2 {
    let io = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn h2_get(contract: &str) -> Request<Empty<Bytes>> {
    let request = Request::get("http://foo/").header("x-devroute", contract);
    request.body(Empty::new()).unwrap()
}

/// What is on the connection up to the end of the head of a request.
async fn read_head(peer: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(peer.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_wait_for_its_answer_is_counted_and_recorded() {
    let peer = Server::holding("never").await;
    let ours = format!(r#"{{"foo":"{}","$id":"run-7"}}"#, peer.address);
    for h2 in [false, true] {
        let proxy = sidecar(peer.address, |_| {}).await;
        for (count, contract) in [(1.0, "{}"), (2.0, &*ours)] {
            if h2 {
                let mut client = h2_client(proxy.address).await;
                let asked = tokio::spawn(client.send_request(h2_get(contract)));
                peer.arrived().await;
                asked.abort();
            } else {
                let mut client = TcpStream::connect(proxy.address).await.unwrap();
                let head = format!("GET / HTTP/1.1\r\nhost: foo\r\nx-devroute: {contract}\r\n\r\n");
                client.write_all(head.as_bytes()).await.unwrap();
                peer.arrived().await;
            }
            counted(&proxy, GONE_BEFORE, count).await;
        }
        assert_eq!(proxy.sample(GONE_WITHIN).await, 0.0);
        let rerouted = r#"devroute_requests_total{decision="rerouted"}"#;
        assert_eq!(proxy.sample(rerouted).await, 0.0, "nothing was answered");
        let records = proxy.records.latest(None);
        assert_eq!(records.len(), 1, "{records:?}");
        let record = &records[0];
        assert_eq!((record.status, record.outcome), (499, "abandoned"));
        assert_eq!(record.cause.as_deref(), Some("client_gone"));
        assert_eq!(record.target, Some(peer.address.to_string()));
        assert_eq!(record.id.as_deref(), Some("run-7"));
        assert_eq!(record.ended, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_within_its_answer_is_counted_and_recorded() {
    let peer = TcpListener::bind(ANY).await.unwrap();
    let address = peer.local_addr().unwrap();
    let ours = format!(r#"{{"foo":"{address}"}}"#);
    let begun = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n";
    for h2 in [false, true] {
        let proxy = sidecar(address, |_| {}).await;
        for (count, contract) in [(1.0, "{}"), (2.0, &*ours)] {
            let begin = async {
                let (mut peer, _) = peer.accept().await.unwrap();
                read_head(&mut peer).await;
                peer.write_all(begun).await.unwrap();
                peer
            };
            let peer = if h2 {
                let mut client = h2_client(proxy.address).await;
                let (peer, response) = tokio::join!(begin, client.send_request(h2_get(contract)));
                let mut body: Incoming = response.unwrap().into_body();
                body.frame().await.unwrap().unwrap();
                peer
            } else {
                let mut client = TcpStream::connect(proxy.address).await.unwrap();
                let head = format!("GET / HTTP/1.1\r\nhost: foo\r\nx-devroute: {contract}\r\n\r\n");
                client.write_all(head.as_bytes()).await.unwrap();
                let peer = begin.await;
                read_head(&mut client).await;
                client.read_exact(&mut [0; 8]).await.unwrap();
                peer
            };
            counted(&proxy, GONE_WITHIN, count).await;
            drop(peer);
        }
        assert_eq!(proxy.sample(GONE_BEFORE).await, 0.0);
        assert_eq!(proxy.sample(CUT).await, 0.0);
        let records = proxy.records.latest(None);
        assert_eq!(records.len(), 1, "{records:?}");
        let record = &records[0];
        assert_eq!((record.status, record.outcome), (200, "rerouted"));
        assert_eq!(record.ended, Some("client_gone"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_breaks_off_is_counted_and_recorded_and_not_the_clients_fault() {
    let peer = TcpListener::bind(ANY).await.unwrap();
    let address = peer.local_addr().unwrap();
    let proxy = sidecar(address, |_| {}).await;
    let ours = format!(r#"{{"foo":"{address}"}}"#);
    for (count, contract) in [(1.0, "{}"), (2.0, &*ours)] {
        let mut client = TcpStream::connect(proxy.address).await.unwrap();
        let head = format!("GET / HTTP/1.1\r\nhost: foo\r\nx-devroute: {contract}\r\n\r\n");
        client.write_all(head.as_bytes()).await.unwrap();
        let (mut peer, _) = peer.accept().await.unwrap();
        read_head(&mut peer).await;
        let part = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhello";
        peer.write_all(part).await.unwrap();
        read_head(&mut client).await;
        client.read_exact(&mut [0; 5]).await.unwrap();
        drop(peer);
        assert_eq!(rest(&mut client).await, "");
        counted(&proxy, CUT, count).await;
    }
    assert_eq!(proxy.sample(GONE_WITHIN).await, 0.0);
    assert_eq!(proxy.records.latest(None)[0].ended, Some("cut"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_complete_is_not_counted_whatever_its_shape() {
    let peer = TcpListener::bind(ANY).await.unwrap();
    let address = peer.local_addr().unwrap();
    let proxy = sidecar(address, |_| {}).await;
    let ours = format!(r#"{{"foo":"{address}"}}"#);
    let refused = r#"{"foo":"169.254.169.254:80"}"#;
    tokio::spawn(async move {
        loop {
            let (mut peer, _) = peer.accept().await.unwrap();
            tokio::spawn(async move {
                let head = read_head(&mut peer).await;
                let answer = match head.split(' ').nth(1).unwrap() {
                    "/length" => "200 OK\r\ncontent-length: 5\r\n\r\nhello",
                    "/head" => "200 OK\r\ncontent-length: 5\r\n\r\n",
                    "/chunks" => {
                        "200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
                    }
                    "/trailers" => {
                        "200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx: y\r\n\r\n"
                    }
                    "/empty" => "200 OK\r\ncontent-length: 0\r\n\r\n",
                    "/204" => "204 No Content\r\n\r\n",
                    "/304" => "304 Not Modified\r\ncontent-length: 5\r\n\r\n",
                    "/close" => "200 OK\r\n\r\nhello",
                    path => panic!("{path}"),
                };
                let answer = format!("HTTP/1.1 {answer}");
                peer.write_all(answer.as_bytes()).await.unwrap();
                let _ = peer.shutdown().await;
                let _ = peer.read(&mut [0; 8]).await;
            });
        }
    });
    for contract in ["{}", &ours, refused] {
        for (method, path) in [
            ("GET", "/length"),
            ("HEAD", "/head"),
            ("GET", "/chunks"),
            ("GET", "/trailers"),
            ("GET", "/empty"),
            ("GET", "/204"),
            ("GET", "/304"),
            ("GET", "/close"),
        ] {
            let head = format!(
                "{method} {path} HTTP/1.1\r\nhost: foo\r\nconnection: close\r\n\
                 x-devroute: {contract}\r\n\r\n"
            );
            let (head, _) = answer(proxy.address, &head).await;
            assert!(head.starts_with("http/1.1 "), "{head}");
            let mut client = h2_client(proxy.address).await;
            let request = Request::builder()
                .method(method)
                .uri(format!("http://foo{path}"))
                .header("x-devroute", contract)
                .body(Empty::new());
            let response = client.send_request(request.unwrap()).await.unwrap();
            let body = response.into_body().collect().await;
            body.unwrap_or_else(|error| panic!("{method} {path} {contract}: {error:?}"));
        }
    }
    // One that does count, and is the only one: what is behind it has been counted by now.
    let mut client = TcpStream::connect(proxy.address).await.unwrap();
    let baseline = "GET /length HTTP/1.1\r\nhost: foo\r\n\r\n";
    client.write_all(baseline.as_bytes()).await.unwrap();
    read_head(&mut client).await;
    client.read_exact(&mut [0; 5]).await.unwrap();
    drop(client);
    let open = r#"devroute_open_connections{listener="proxy"}"#;
    counted(&proxy, open, 0.0).await;
    for sample in [GONE_BEFORE, GONE_WITHIN, CUT] {
        assert_eq!(proxy.sample(sample).await, 0.0, "{sample}");
    }
    for record in proxy.records.latest(None) {
        assert_eq!(record.ended, None, "{record:?}");
    }
}

/// A body that says nothing about its length.
struct Frames(VecDeque<Frame<Bytes>>);

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(Ok))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_to_head_over_http_2_has_no_body() {
    let baseline = Server::says("baseline").await;
    let proxy = sidecar(baseline.address, |config| {
        config.process.limits.headers = 1;
    })
    .await;
    let mut client = h2_client(proxy.address).await;
    let request = Request::head("http://foo/").header("x-a", "1");
    let request = request.header("x-b", "2").body(Empty::new()).unwrap();
    let response = client.send_request(request).await.unwrap();
    assert_eq!(response.status(), 431);
    let length = response.headers()["content-length"].to_str().unwrap();
    assert!(length.parse::<u32>().unwrap() > 100, "{length}");
    let body = response.into_body().collect().await.unwrap();
    assert_eq!(body.to_bytes(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_replaced_is_not_counted_as_one_that_the_client_has_left() {
    let baseline = Server::says("baseline").await;
    let proxy = sidecar(baseline.address, |config| {
        config.process.limits.body = Some(4);
    })
    .await;
    let request = "POST / HTTP/1.1\r\nhost: foo\r\nconnection: close\r\n\
                   transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let (head, _) = answer(proxy.address, request).await;
    assert!(head.starts_with("http/1.1 413 "), "{head}");
    let open = r#"devroute_open_connections{listener="proxy"}"#;
    counted(&proxy, open, 0.0).await;
    for sample in [GONE_BEFORE, GONE_WITHIN, CUT] {
        assert_eq!(proxy.sample(sample).await, 0.0, "{sample}");
    }
}

const REQUEST_TRAILERS: &str = r#"devroute_trailers_dropped_total{direction="request"}"#;
const RESPONSE_TRAILERS: &str = r#"devroute_trailers_dropped_total{direction="response"}"#;

#[tokio::test(flavor = "multi_thread")]
async fn trailers_that_a_client_does_not_take_are_counted() {
    let peer = TcpListener::bind(ANY).await.unwrap();
    let address = peer.local_addr().unwrap();
    let proxy = sidecar(address, |_| {}).await;
    let ours = format!(r#"{{"foo":"{address}"}}"#);
    let mut dropped = 0.0;
    for contract in ["{}", &ours] {
        for (te, announced, passes) in [
            ("trailers", "x-sum", true),
            ("gzip, Trailers", "X-Sum, x-more", true),
            ("trailers", "x-more", false),
            ("trailers", "", false),
            ("gzip", "x-sum", false),
            ("", "x-sum", false),
        ] {
            let mut client = TcpStream::connect(proxy.address).await.unwrap();
            let head = format!(
                "GET / HTTP/1.1\r\nhost: foo\r\nconnection: te, close\r\nte: {te}\r\n\
                 x-devroute: {contract}\r\n\r\n"
            );
            client.write_all(head.as_bytes()).await.unwrap();
            let (mut peer, _) = peer.accept().await.unwrap();
            read_head(&mut peer).await;
            let answer = format!(
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: {announced}\r\n\
                 connection: close\r\n\r\n2\r\nhi\r\n0\r\nx-sum: 6\r\n\r\n"
            );
            peer.write_all(answer.as_bytes()).await.unwrap();
            let answer = rest(&mut client).await;
            assert_eq!(
                answer.ends_with("\r\n0\r\nx-sum: 6\r\n\r\n"),
                passes,
                "{answer}"
            );
            dropped += if passes { 0.0 } else { 1.0 };
            counted(&proxy, RESPONSE_TRAILERS, dropped).await;
        }
        // HTTP/2 takes them without being asked.
        let mut client = h2_client(proxy.address).await;
        let begin = async {
            let (mut peer, _) = peer.accept().await.unwrap();
            read_head(&mut peer).await;
            let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n\
                          2\r\nhi\r\n0\r\nx-sum: 6\r\n\r\n";
            peer.write_all(answer.as_bytes()).await.unwrap();
        };
        let ((), response) = tokio::join!(begin, client.send_request(h2_get(contract)));
        let body = response.unwrap().into_body().collect().await.unwrap();
        assert_eq!(body.trailers().unwrap()["x-sum"], "6");
    }
    assert_eq!(proxy.sample(RESPONSE_TRAILERS).await, dropped);
    assert_eq!(proxy.sample(REQUEST_TRAILERS).await, 0.0);
    assert_eq!(proxy.sample(GONE_WITHIN).await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_that_a_target_does_not_take_are_counted() {
    let peer = TcpListener::bind(ANY).await.unwrap();
    let address = peer.local_addr().unwrap();
    let proxy = sidecar(address, |_| {}).await;
    let ours = format!(r#"{{"foo":"{address}"}}"#);
    let mut dropped = 0.0;
    for contract in ["{}", &ours] {
        for (name, field, passes) in [
            ("trailer", "x-sum", true),
            ("trailer", "x-more", false),
            ("x-none", "", false),
        ] {
            let io = TokioIo::new(TcpStream::connect(proxy.address).await.unwrap());
            let (mut sender, connection) =
                http2::handshake(TokioExecutor::new(), io).await.unwrap();
            tokio::spawn(connection);
            let mut trailers = HeaderMap::new();
            trailers.insert("x-sum", HeaderValue::from_static("6"));
            let body = Frames([Frame::data(Bytes::from("hi")), Frame::trailers(trailers)].into());
            let request = Request::post("http://foo/")
                .header("x-devroute", contract)
                .header(name, field)
                .body(body)
                .unwrap();
            let take = async {
                let (mut peer, _) = peer.accept().await.unwrap();
                let mut seen = read_head(&mut peer).await;
                while !seen.ends_with("\r\n0\r\n") {
                    seen.push(char::from(peer.read_u8().await.unwrap()));
                }
                let mut behind = vec![0; if passes { 12 } else { 0 }];
                peer.read_exact(&mut behind).await.unwrap();
                let answer = "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";
                peer.write_all(answer.as_bytes()).await.unwrap();
                String::from_utf8(behind).unwrap()
            };
            let (behind, response) = tokio::join!(take, sender.send_request(request));
            assert_eq!(response.unwrap().status(), 204);
            assert_eq!(behind, if passes { "x-sum: 6\r\n\r\n" } else { "" });
            dropped += if passes { 0.0 } else { 1.0 };
            counted(&proxy, REQUEST_TRAILERS, dropped).await;
        }
    }
    assert_eq!(proxy.sample(RESPONSE_TRAILERS).await, 0.0);
}
