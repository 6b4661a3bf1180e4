//! Time-outs and limits from outside; the timers themselves are tested in paused time where they are.

use std::num::NonZeroUsize;
use std::time::Duration;

use devroute_proxy::config::ListenerTls;
use devroute_proxy::server;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::tls::{Authority, directory};
use crate::support::{ANY, Client, PATIENCE, Server, router, sidecar, until};

const OPEN: &str = r#"devroute_open_connections{listener="proxy"}"#;
const HEAD_LIMIT: &str = r#"devroute_limits_reached_total{limit="head"}"#;
const HEAD_TIMER: &str = r#"devroute_client_timeouts_total{timer="head"}"#;
const CLIENT_LIMIT: &str = r#"devroute_limits_reached_total{limit="client_connections"}"#;
const STREAM_LIMIT: &str = r#"devroute_limits_reached_total{limit="streams"}"#;
const FLOOD_LIMIT: &str = r#"devroute_limits_reached_total{limit="flood"}"#;
const CONNECTION_LIMIT: &str = r#"devroute_limits_reached_total{limit="connections"}"#;

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_too_many_is_told_to_come_back() {
    let baseline = Server::holding("baseline").await;
    let proxy = sidecar(baseline.address, |config| {
        config.process.limits.connections = Some(1);
        config.process.workers = NonZeroUsize::new(2).unwrap();
    })
    .await;
    let in_flight = tokio::spawn(proxy.get("/").send());
    baseline.arrived().await;

    for refused in [
        proxy.get("/").send().await,
        proxy.get("/").h2().send().await,
    ] {
        assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(refused.header("retry-after"), "1");
        assert_eq!(refused.header("content-type"), "application/problem+json");
        assert_eq!(refused.json()["cause"], "too_many_connections");
    }
    assert_eq!(proxy.sample(CONNECTION_LIMIT).await, 2.0);

    baseline.release();
    assert_eq!(in_flight.await.unwrap().text, "baseline");
    until("the first connection has gone", async || {
        proxy.sample(OPEN).await == 0.0
    })
    .await;
    assert_eq!(proxy.get("/").send().await.text, "baseline");
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_is_told_in_its_own_words_that_there_are_too_many() {
    let baseline = Server::says("baseline").await;
    let proxy = sidecar(baseline.address, |config| {
        config.process.limits.connections = Some(0);
    })
    .await;
    let request = proxy
        .get("/")
        .h2()
        .header("content-type", "application/grpc");
    let refused = request.send().await;
    assert_eq!(refused.status, StatusCode::OK);
    assert_eq!(refused.header("grpc-status"), "14");
    assert!(baseline.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_has_a_size() {
    let baseline = Server::says("baseline").await;
    let proxy = sidecar(baseline.address, |config| {
        config.process.limits.head_size = 16 * 1024;
    })
    .await;
    let sized = |size| proxy.get("/").header("x-large", &"x".repeat(size));
    assert_eq!(sized(15 * 1024).send().await.text, "baseline");
    assert_eq!(sized(15 * 1024).h2().send().await.text, "baseline");
    let large = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
    assert_eq!(sized(17 * 1024).send().await.status, large);
    assert_eq!(sized(17 * 1024).h2().send().await.status, large);
    // Far more than is read before the answer, which arrives all the same.
    assert_eq!(sized(1024 * 1024).send().await.status, large);
    until("it is counted", async || {
        proxy.sample(HEAD_LIMIT).await == 3.0
    })
    .await;
    assert_eq!(baseline.seen().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_431_of_http_2_is_counted_and_what_looks_like_it_is_not() {
    // Answers whose last frame is one field, as the 431 is.
    let answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: grpc-status\r\n\r\n\
                   0\r\ngrpc-status: 0\r\n\r\n";
    let baseline = TcpListener::bind(ANY).await.unwrap();
    let address = baseline.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = baseline.accept().await {
            tokio::spawn(async move {
                let mut read = Vec::new();
                while let Ok(byte) = stream.read_u8().await {
                    read.push(byte);
                    if read.ends_with(b"hello") {
                        stream.write_all(answer).await.unwrap();
                    }
                }
            });
        }
    });
    let proxy = sidecar(address, |config| {
        config.process.limits.head_size = 16 * 1024;
        config.process.limits.headers = 20;
    })
    .await;
    let io = TokioIo::new(TcpStream::connect(proxy.address).await.unwrap());
    let (mut client, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
        .await
        .unwrap();
    tokio::spawn(connection);
    let mut ask = async |request: http::request::Builder| {
        let request = request.uri("http://foo/").header("te", "trailers");
        let request = request.body(Full::new(Bytes::from("hello"))).unwrap();
        client.ready().await.unwrap();
        let (head, body) = client.send_request(request).await.unwrap().into_parts();
        (head.status.as_u16(), body.collect().await.unwrap())
    };
    let large = |method: &str| {
        let value = "x".repeat(17 * 1024);
        Request::builder().method(method).header("x-large", value)
    };
    let many = || {
        let request = Request::builder();
        (0..25).fold(request, |request, index| {
            request.header(format!("x-{index}"), "x")
        })
    };
    for round in 1..=3 {
        for method in ["GET", "POST"] {
            let (status, body) = ask(large(method)).await;
            assert_eq!((status, body.to_bytes()), (431, Bytes::new()));
            let (status, body) = ask(Request::builder()).await;
            assert_eq!(status, 200);
            assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
        }
        // The one with a body, which is counted where it is made.
        let (status, body) = ask(many()).await;
        assert_eq!(status, 431);
        assert!(!body.to_bytes().is_empty());
        until("all of them are counted", async || {
            proxy.sample(HEAD_LIMIT).await == f64::from(3 * round)
        })
        .await;
    }
    assert_eq!(proxy.sample(FLOOD_LIMIT).await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_of_http_2_that_is_not_worth_reading_on_is_counted_once() {
    let proxy = router(|config| config.process.limits.head_size = 16 * 1024).await;
    let mut client = TcpStream::connect(proxy.address).await.unwrap();
    let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    // A field of 17 KiB, and behind it one of two megabytes: HEADERS, and CONTINUATION until the end.
    let mut block = [&[0, 1, b'a', 0x7f, 0x81, 0x87, 1][..], &[b'x'; 17_408]].concat();
    block.resize(17_408 + 7, b'x');
    block.extend([0, 1, b'b', 0x7f, 0x81, 0x87, 0x7a]);
    block.resize(100_000, b'x');
    for (index, piece) in block.chunks(10_000).enumerate() {
        let length = u32::try_from(piece.len()).unwrap().to_be_bytes();
        let kind = if index == 0 { 1 } else { 9 };
        sent.extend([length[1], length[2], length[3], kind, 0, 0, 0, 0, 1]);
        sent.extend(piece);
    }
    client.write_all(&sent).await.unwrap();
    let closed = tokio::time::timeout(PATIENCE, client.read_to_end(&mut Vec::new())).await;
    closed.expect("it is closed").unwrap();
    until("it is counted", async || {
        proxy.sample(HEAD_LIMIT).await == 1.0
    })
    .await;

    // What cannot be decoded is no head that is too large.
    let mut client = TcpStream::connect(proxy.address).await.unwrap();
    let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    sent.extend([0, 0, 1, 1, 5, 0, 0, 0, 1, 0xff]);
    client.write_all(&sent).await.unwrap();
    let closed = tokio::time::timeout(PATIENCE, client.read_to_end(&mut Vec::new())).await;
    closed.expect("it is closed").unwrap();
    until("the connection has gone", async || {
        proxy.sample(OPEN).await == 0.0
    })
    .await;
    assert_eq!(proxy.sample(HEAD_LIMIT).await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_has_a_number_of_fields() {
    for limit in [20, 100] {
        let baseline = Server::says("baseline").await;
        let proxy = sidecar(baseline.address, |config| {
            config.process.limits.headers = limit;
        })
        .await;
        let fields = |count| {
            (0..count).fold(proxy.get("/"), |request, index| {
                request.header(&format!("x-{index}"), "x")
            })
        };
        assert_eq!(fields(limit / 2).send().await.text, "baseline");
        assert_eq!(fields(limit / 2).h2().send().await.text, "baseline");
        let refused = fields(limit + 1).send().await;
        assert_eq!(refused.status, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
        let refused = fields(limit + 1).h2().send().await;
        assert_eq!(refused.status, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
        assert_eq!(refused.json()["cause"], "too_many_fields");
        until("both are counted", async || {
            proxy.sample(HEAD_LIMIT).await == 2.0
        })
        .await;
        assert_eq!(baseline.seen().len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_fields_than_by_default_can_be_allowed() {
    let proxy = router(|config| config.process.limits.headers = 200).await;
    for fields in [150, 250] {
        let request = (0..fields).fold(proxy.get("/_healthz"), |request, index| {
            request.header(&format!("x-{index}"), "x")
        });
        let expected = if fields < 200 { 200 } else { 431 };
        assert_eq!(request.send().await.status.as_u16(), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_has_a_number_of_streams() {
    let baseline = Server::holding("baseline").await;
    let proxy = sidecar(baseline.address, |config| {
        config.process.limits.streams = 1;
    })
    .await;
    let io = TokioIo::new(TcpStream::connect(proxy.address).await.unwrap());
    let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
        .await
        .unwrap();
    tokio::spawn(connection);
    let send = |path: &str| {
        let uri = format!("http://foo{path}");
        let request = Request::get(uri).body(Empty::<Bytes>::new()).unwrap();
        let mut sender = sender.clone();
        tokio::spawn(async move {
            let response = sender.send_request(request).await.unwrap();
            response.into_body().collect().await.unwrap().to_bytes()
        })
    };
    let first = send("/first");
    baseline.arrived().await;
    let second = send("/second");
    // A request on a connection of its own shows that the second one could have come.
    let other = tokio::spawn(proxy.get("/other").send());
    baseline.arrived().await;
    let lines = baseline.seen().into_iter().map(|seen| seen.line);
    assert_eq!(lines.collect::<Vec<_>>(), ["GET /first", "GET /other"]);
    baseline.release();
    assert_eq!(first.await.unwrap(), "baseline");
    assert_eq!(second.await.unwrap(), "baseline");
    assert_eq!(other.await.unwrap().text, "baseline");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_too_many_is_refused_to_a_client_that_does_not_count() {
    let baseline = Server::holding("baseline").await;
    let proxy = sidecar(baseline.address, |config| {
        config.process.limits.streams = 1;
    })
    .await;
    let mut client = TcpStream::connect(proxy.address).await.unwrap();
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    // `GET http://foo/`, on one stream and on another (RFC 7541, appendix A).
    let get = |stream| {
        [
            0, 0, 8, 1, 5, 0, 0, 0, stream, 0x82, 0x86, 0x84, 0x41, 3, b'f', b'o', b'o',
        ]
    };
    let preface: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    client.write_all(preface).await.unwrap();
    client.write_all(&settings).await.unwrap();
    client.write_all(&get(1)).await.unwrap();
    baseline.arrived().await;
    client.write_all(&get(3)).await.unwrap();
    let refused = b"\0\0\x04\x03\0\0\0\0\x03\0\0\0\x07";
    let mut read = Vec::new();
    let reading = async {
        while !read.ends_with(refused) {
            read.push(client.read_u8().await.unwrap());
        }
    };
    let refusal = tokio::time::timeout(PATIENCE, reading).await;
    refusal.expect("it is refused");
    assert_eq!(baseline.seen().len(), 1);
    // By the one who has sent it, and behind that.
    until("it is counted", async || {
        proxy.sample(STREAM_LIMIT).await == 1.0
    })
    .await;
    assert_eq!(proxy.sample(FLOOD_LIMIT).await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_resets_what_it_asks_for_in_the_same_breath_is_told_to_calm_down() {
    let baseline = Server::holding("baseline").await;
    let proxy = sidecar(baseline.address, |_| {}).await;
    let mut client = TcpStream::connect(proxy.address).await.unwrap();
    let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    for stream in (1..200).step_by(2) {
        // `GET http://foo/`, and RST_STREAM (CANCEL).
        sent.extend([0, 0, 8, 1, 5, 0, 0, 0, stream]);
        sent.extend([0x82, 0x86, 0x84, 0x41, 3, b'f', b'o', b'o']);
        sent.extend([0, 0, 4, 3, 0, 0, 0, 0, stream, 0, 0, 0, 8]);
    }
    client.write_all(&sent).await.unwrap();
    let mut told = Vec::new();
    let closed = tokio::time::timeout(PATIENCE, client.read_to_end(&mut told)).await;
    closed.expect("it is closed").unwrap();
    let calm_down = b"\0\0\0\x0btoo_many_resets";
    assert!(told.windows(calm_down.len()).any(|it| it == calm_down));
    until("it is counted", async || {
        proxy.sample(FLOOD_LIMIT).await == 1.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_gives_up_all_it_asks_for_is_told_to_go() {
    let baseline = Server::holding("baseline").await;
    let proxy = sidecar(baseline.address, |_| {}).await;
    let io = TokioIo::new(TcpStream::connect(proxy.address).await.unwrap());
    let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
        .await
        .unwrap();
    tokio::spawn(connection);
    let mut given_up = 0;
    // Each has come to the service when it is reset.
    while !sender.is_closed() {
        let request = Request::get("http://foo/")
            .body(Empty::<Bytes>::new())
            .unwrap();
        let mut sender = sender.clone();
        let asking = tokio::spawn(async move { sender.send_request(request).await });
        tokio::select! {
            () = baseline.arrived() => asking.abort(),
            // It met the end.
            () = until("the connection is closed", async || asking.is_finished()) => {}
        }
        given_up += 1;
        assert!(given_up < 1500, "it is told to go after about a thousand");
    }
    assert!(given_up >= 1000, "{given_up}");
    assert_eq!(proxy.sample(FLOOD_LIMIT).await, 1.0);
    baseline.release();
    assert_eq!(proxy.get("/").h2().send().await.text, "baseline");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_client_may_be_kept_from_taking_every_place() {
    let baseline = Server::holding("baseline").await;
    let proxy = sidecar(baseline.address, |config| {
        config.process.limits.client_connections = Some(2);
    })
    .await;
    let mut greedy = Vec::new();
    for _ in 0..2 {
        greedy.push(tokio::spawn(proxy.get("/").send()));
        baseline.arrived().await;
    }
    let refused = proxy.get("/").send().await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.json()["cause"], "too_many_connections");
    assert_eq!(proxy.sample(CLIENT_LIMIT).await, 1.0);
    assert_eq!(proxy.sample(CONNECTION_LIMIT).await, 0.0);

    // Another address of this machine is another client.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut other = socket.connect(proxy.address).await.unwrap();
    let get = b"GET / HTTP/1.1\r\nhost: foo\r\nconnection: close\r\n\r\n";
    other.write_all(get).await.unwrap();
    baseline.arrived().await;
    baseline.release();
    let mut answer = String::new();
    other.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    for answer in greedy {
        assert_eq!(answer.await.unwrap().text, "baseline");
    }
    until("there is a place again", async || {
        proxy.get("/").send().await.status == StatusCode::OK
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_may_have_a_time_to_answer_in_and_a_laptop_has_none() {
    let timeout = Duration::from_millis(50);
    let baseline = Server::holding("baseline").await;
    let laptop = Server::holding("laptop").await;
    let proxy = sidecar(baseline.address, |config| {
        config.response_timeout = Some(timeout);
    })
    .await;
    let contract = format!("{{\"foo\":\"{}\"}}", laptop.address);
    let rerouted = tokio::spawn(proxy.get("/").contract(&contract).send());
    laptop.arrived().await;

    let late = proxy.get("/").send().await;
    assert_eq!(late.status, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(late.header("content-type"), "application/problem+json");
    assert_eq!(late.json()["cause"], "response_timeout");
    let proxy_status = late.header("proxy-status");
    assert!(
        proxy_status.contains("error=http_response_timeout"),
        "{proxy_status}"
    );
    let failures = r#"devroute_upstream_failures_total{cause="response_timeout"}"#;
    assert_eq!(proxy.sample(failures).await, 1.0);

    let grpc = proxy
        .get("/")
        .h2()
        .header("content-type", "application/grpc");
    assert_eq!(grpc.send().await.header("grpc-status"), "14");

    // By now the laptop has had more than twice the time of the service.
    laptop.release();
    assert_eq!(rerouted.await.unwrap().text, "laptop");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_does_not_end_closes_the_connection() {
    let proxy = router(|config| config.process.timers.head = Duration::from_millis(50)).await;
    let mut client = TcpStream::connect(proxy.address).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nhost:").await.unwrap();
    let closed = tokio::time::timeout(PATIENCE, client.read(&mut [0; 8])).await;
    assert!(matches!(closed.expect("it is closed"), Ok(0) | Err(_)));
    assert_eq!(proxy.sample(HEAD_TIMER).await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_says_nothing_is_closed() {
    let proxy = router(|config| config.process.timers.first_byte = Duration::from_millis(50)).await;
    let mut client = TcpStream::connect(proxy.address).await.unwrap();
    let closed = tokio::time::timeout(PATIENCE, client.read(&mut [0; 8])).await;
    assert!(matches!(closed.expect("it is closed"), Ok(0) | Err(_)));
    let first_byte = r#"devroute_client_timeouts_total{timer="first_byte"}"#;
    assert_eq!(proxy.sample(first_byte).await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_a_request_is_closed() {
    let proxy = router(|config| config.process.timers.idle = Some(Duration::from_millis(50))).await;
    let mut client = TcpStream::connect(proxy.address).await.unwrap();
    let probe = b"GET /_healthz HTTP/1.1\r\nhost: foo\r\n\r\n";
    client.write_all(probe).await.unwrap();
    let mut answer = String::new();
    let read = tokio::time::timeout(PATIENCE, client.read_to_string(&mut answer)).await;
    read.expect("it is closed").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(!answer.contains("connection: close"), "{answer}");
    let idle = r#"devroute_client_timeouts_total{timer="idle"}"#;
    until("it is counted", async || proxy.sample(idle).await == 1.0).await;
}

#[test]
fn the_documentation_has_the_defaults() {
    let guide = include_str!("../../../docs/operations.md");
    let server::Options {
        timers,
        limits,
        drain,
        ..
    } = server::Options::default();
    let seconds = |time: Duration| format!("{} s", time.as_secs());
    for (flag, default) in [
        ("first-byte-timeout", seconds(timers.first_byte)),
        ("head-timeout", seconds(timers.head)),
        (
            "idle-timeout",
            format!("{} min", timers.idle.unwrap().as_secs() / 60),
        ),
        ("max-connections", server::Limits::CONNECTIONS.to_string()),
        ("max-connections-per-client", "off".to_owned()),
        ("max-streams", limits.streams.to_string()),
        ("max-head-size", format!("{} KiB", limits.head_size / 1024)),
        ("max-headers", limits.headers.to_string()),
        (
            "max-body",
            limits
                .body
                .map_or("off".to_owned(), |size| size.to_string()),
        ),
    ] {
        let row = format!("| `--{flag}` | {default}");
        assert!(guide.contains(&row), "{row}");
    }
    for (flag, default) in [
        ("drain-delay", drain.delay),
        ("drain-grace", drain.grace),
        ("drain-timeout", drain.timeout),
    ] {
        let told = format!("`--{flag}` ({})", seconds(default));
        assert!(guide.contains(&told), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tls_handshake_has_the_time_of_a_head() {
    let baseline = Server::says("baseline").await;
    let certificates = Authority::new(&directory("handshake-time")).certificates();
    let proxy = sidecar(baseline.address, |config| {
        config.process.tls = Some(ListenerTls::new(certificates));
        config.process.timers.head = Duration::from_millis(50);
    })
    .await;
    let mut silent = TcpStream::connect(proxy.address).await.unwrap();
    let closed = tokio::time::timeout(PATIENCE, silent.read(&mut [0; 8])).await;
    assert!(matches!(closed.expect("it is closed"), Ok(0) | Err(_)));
    assert_eq!(proxy.sample(HEAD_TIMER).await, 1.0);
    let failures = "devroute_tls_handshake_failures_total";
    assert_eq!(proxy.sample(failures).await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_a_place_closes_what_it_cannot_tell() {
    let proxy = router(|config| config.process.limits.connections = Some(0)).await;
    let mut silent = Vec::new();
    // More than are told: they say nothing, and hold the places of those who are.
    while proxy.sample(CONNECTION_LIMIT).await < 200.0 {
        silent.push(TcpStream::connect(proxy.address).await.unwrap());
    }
    // None of them is left hanging, even so.
    for mut client in silent {
        let closed = tokio::time::timeout(PATIENCE, client.read(&mut [0; 8])).await;
        assert!(matches!(closed.expect("it is closed"), Ok(0) | Err(_)));
    }
    let refused = Client::get(proxy.address, "/").send().await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
}
