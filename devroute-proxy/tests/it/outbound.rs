//! The outbound listener: the service's own requests get where they are meant to go, and contracts
//! only where they may.

use std::net::SocketAddr;

use devroute_proxy::config::{OutboundConfig, SidecarConfig};
use devroute_tower::OnFailure;
use devroute_tower::outbound::InternalHosts;
use http::{Method, Request, StatusCode, Version};
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{ANY, Client, Devroute, Proxy, Server, closed, sidecar, until, until_refused};

const CONTRACT: &str = r#"{"bar":"10.0.0.1:1"}"#;
const MEMBER: &str = "devroute=%7B%22bar%22%3A%2210.0.0.1%3A1%22%7D";

/// A sidecar whose service makes requests; `adapt` changes what a test is about.
async fn with_outbound(adapt: impl FnOnce(&mut OutboundConfig)) -> Proxy {
    with_service(closed().await, |config| {
        adapt(config.outbound.as_mut().unwrap());
    })
    .await
}

async fn with_service(service: SocketAddr, adapt: impl FnOnce(&mut SidecarConfig)) -> Proxy {
    sidecar(service, |config| {
        config.outbound = Some(OutboundConfig::new(ANY));
        adapt(config);
    })
    .await
}

fn names(headers: &http::HeaderMap) -> Vec<&str> {
    let mut names: Vec<_> = headers.keys().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_16_a_forward_proxy_sends_what_it_got_to_the_host_in_the_target() {
    let host = Server::says("host").await;
    let proxy = with_outbound(|_| {}).await;
    let answer = proxy
        .out(&format!("http://{}/a%2Fb?c=d", host.address))
        .header("x-custom", "1")
        .header("proxy-connection", "keep-alive")
        .post("a body")
        .send()
        .await;
    assert_eq!((answer.status, &*answer.text), (StatusCode::OK, "host"));
    let seen = host.only();
    assert_eq!(seen.line, "POST /a%2Fb?c=d");
    assert_eq!(seen.headers["host"], host.address.to_string());
    assert_eq!(seen.headers["via"], "1.1 devroute");
    assert_eq!(seen.body, "a body");
    let expected = ["content-length", "host", "via", "x-custom"];
    assert_eq!(names(&seen.headers), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn by_host_a_request_goes_where_it_would_have_gone() {
    let host = Server::says("host").await;
    let proxy = with_outbound(|_| {}).await;
    for host in [
        host.address.to_string(),
        format!("localhost:{}", host.address.port()),
    ] {
        assert_eq!(proxy.out("/x").host(&host).send().await.text, "host");
    }
    let authority = proxy.out("/y").host(&host.address.to_string()).h2();
    assert_eq!(authority.send().await.text, "host");
    let seen: Vec<_> = host
        .seen()
        .into_iter()
        .map(|seen| (seen.version, seen.line))
        .collect();
    let h2 = format!("GET http://{}/y", host.address);
    assert_eq!(
        seen,
        [
            (Version::HTTP_11, "GET /x".to_owned()),
            (Version::HTTP_11, "GET /x".to_owned()),
            (Version::HTTP_2, h2)
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_17_grpc_goes_as_http2() {
    let host = Server::says("").await;
    let proxy = with_outbound(|_| {}).await;
    let request = proxy.out("/grpc.health.v1.Health/Check");
    let request = request.header("content-type", "application/grpc").h2();
    request.host(&host.address.to_string()).send().await;
    assert_eq!(host.only().version, Version::HTTP_2);

    let request = proxy.out("/").host(&closed().await.to_string()).h2();
    let request = request.header("content-type", "application/grpc+proto");
    let answer = request.send().await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.header("grpc-status"), "14");
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_11_an_internal_host_gets_both_carriers_and_no_mark() {
    let host = Server::says("host").await;
    let proxy = with_outbound(|_| {}).await;
    let uri = format!("http://{}/", host.address);
    for (field, value) in [("x-devroute", CONTRACT), ("baggage", MEMBER)] {
        let request = proxy.out(&uri).header(field, value);
        request.header("x-devroute-matched", "foo").send().await;
    }
    for seen in host.seen() {
        assert_eq!(seen.headers["x-devroute"], CONTRACT);
        assert_eq!(seen.headers["baggage"], MEMBER);
        assert!(!seen.headers.contains_key("x-devroute-matched"));
        assert_eq!(seen.headers["via"], "1.1 devroute (foo)");
    }
    assert_eq!(host.seen().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_11_a_host_outside_gets_neither_field_nor_member() {
    let outside = Server::says("outside").await;
    let proxy = with_outbound(|outbound| outbound.internal = InternalHosts::none()).await;
    let request = proxy.out(&format!("http://{}/", outside.address));
    let request = request
        .contract(CONTRACT)
        .header("baggage", &format!("a=1,{MEMBER},b=2;p"));
    assert_eq!(request.send().await.text, "outside");
    let seen = outside.only();
    assert_eq!(seen.headers["baggage"], "a=1,b=2;p");
    assert_eq!(names(&seen.headers), ["baggage", "host", "via"]);
    // What services are called in here is nobody's business out there.
    assert_eq!(seen.headers["via"], "1.1 devroute");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_without_an_instance_is_replaced_where_that_is_switched_on() {
    let laptop = Server::says("laptop").await;
    let contract = format!(r#"{{"bar":"{}","$id":"run-7"}}"#, laptop.address);
    let uri = "http://bar.invalid.svc/x";

    let proxy = with_outbound(|outbound| outbound.reroute = true).await;
    let answer = proxy.out(uri).contract(&contract).send().await;
    assert_eq!((answer.status, &*answer.text), (StatusCode::OK, "laptop"));
    assert_eq!(
        answer.header("x-devroute-routed"),
        format!("bar={}", laptop.address)
    );
    let seen = laptop.only();
    assert_eq!(seen.headers["host"], "bar.invalid.svc");
    assert_eq!(seen.headers["x-devroute-matched"], "bar");
    let record = &proxy.records.latest(Some("run-7"))[0];
    assert_eq!(record.direction.as_str(), "outbound");
    let rerouted = r#"devroute_outbound_requests_total{decision="rerouted"}"#;
    assert_eq!(proxy.sample(rerouted).await, 1.0);
    let inbound = r#"devroute_requests_total{decision="rerouted"}"#;
    assert_eq!(proxy.sample(inbound).await, 0.0);

    let proxy = with_outbound(|_| {}).await;
    let answer = proxy.out(uri).contract(&contract).send().await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert_eq!(answer.json()["cause"], "dns_failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_05_the_policy_and_on_failure_hold_for_what_is_rerouted_here() {
    let host = Server::says("host").await;
    let proxy = with_service(closed().await, |config| {
        config.on_failure = OnFailure::Fallback;
        config.outbound.as_mut().unwrap().reroute = true;
    })
    .await;
    let uri = format!("http://localhost:{}/", host.address.port());
    let contract = |target: &str| format!(r#"{{"localhost":"{target}"}}"#);
    let request = proxy.out(&uri).contract(&contract("169.254.169.254:80"));
    assert_eq!(request.send().await.status, StatusCode::FORBIDDEN);

    let gone = closed().await.to_string();
    let answer = proxy.out(&uri).contract(&contract(&gone)).send().await;
    assert_eq!(answer.text, "host");
    let mark = "localhost=baseline; reason=connection_refused";
    assert_eq!(answer.header("x-devroute-routed"), mark);

    // A contract must not lead back to the listener that obeys it.
    let own = contract(&proxy.outbound().to_string());
    let answer = proxy.out(&uri).contract(&own).send().await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN, "{}", answer.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_reached_is_answered_for_and_counted() {
    let proxy = with_outbound(|_| {}).await;
    for (uri, status, cause) in [
        (
            format!("http://{}/", closed().await),
            502,
            "connection_refused",
        ),
        ("http://nowhere.invalid/".to_owned(), 502, "dns_failed"),
        (format!("http://{}/", proxy.outbound()), 403, "own_listener"),
        (
            format!("http://{}/metrics", proxy.admin),
            403,
            "own_listener",
        ),
    ] {
        let answer = proxy.out(&uri).send().await;
        assert_eq!(answer.status.as_u16(), status, "{uri}");
        assert_eq!(answer.json()["cause"], cause);
        let sample = format!(r#"devroute_outbound_failures_total{{cause="{cause}"}}"#);
        assert!(proxy.sample(&sample).await >= 1.0);
    }
    let looped = proxy.out(&format!("http://{}/", closed().await));
    let hops = ["1.1 devroute"; 16].join(",");
    let answer = looped.header("via", &hops).send().await;
    assert_eq!(answer.status, StatusCode::LOOP_DETECTED);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_service_sends_may_be_longer_than_what_is_sent_to_it() {
    let host = Server::says("host").await;
    let proxy = with_service(closed().await, |config| {
        config.process.limits.body = Some(1);
    })
    .await;
    let request = proxy.out(&format!("http://{}/", host.address));
    assert_eq!(request.post("long").send().await.text, "host");
    let request = proxy.get("/").post("long");
    assert_eq!(request.send().await.status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_may_ask_for_itself() {
    let service = Server::says("service").await;
    let proxy = with_service(service.address, |_| {}).await;
    let answer = proxy
        .out(&format!("http://{}/", proxy.address))
        .send()
        .await;
    assert_eq!(answer.text, "service");
}

/// Asks for a tunnel, and reads the head of the answer.
async fn connect(proxy: SocketAddr, to: &str, and: &[u8]) -> (TcpStream, String) {
    let mut client = TcpStream::connect(proxy).await.unwrap();
    let head = format!("CONNECT {to} HTTP/1.1\r\nhost: {to}\r\nx-devroute: {CONTRACT}\r\n\r\n");
    let asked = [head.as_bytes(), and].concat();
    client.write_all(&asked).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(client.read_u8().await.unwrap());
    }
    (client, String::from_utf8(answer).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn connect_is_a_tunnel_of_bytes_with_half_close() {
    let listener = TcpListener::bind(ANY).await.unwrap();
    let address = listener.local_addr().unwrap();
    let proxy = with_outbound(|_| {}).await;
    // The first bytes of the client need not wait for the answer.
    let first = b"GET / HTTP/1.1\r\nbaggage: devroute=%7B%7D\r\n\r\n";
    let (mut client, answer) = connect(proxy.outbound(), &address.to_string(), first).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let (mut server, _) = listener.accept().await.unwrap();

    let mut received = vec![0; first.len()];
    server.read_exact(&mut received).await.unwrap();
    assert_eq!(received, first);

    client.write_all(b"\0\xffmore").await.unwrap();
    client.shutdown().await.unwrap();
    let mut rest = Vec::new();
    server.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"\0\xffmore");
    // The other direction goes on.
    server.write_all(b"still here").await.unwrap();
    drop(server);
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"still here");
    assert_eq!(proxy.sample("devroute_outbound_tunnels_total").await, 1.0);
    let open = r#"devroute_open_connections{listener="outbound"}"#;
    until("the tunnel is closed", async || {
        proxy.sample(open).await == 0.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connect_to_nowhere_is_no_tunnel() {
    let proxy = with_outbound(|_| {}).await;
    for (to, status) in [
        (closed().await.to_string(), "502"),
        ("nowhere.invalid:443".to_owned(), "502"),
        (proxy.outbound().to_string(), "403"),
        ("127.0.0.1".to_owned(), "400"),
    ] {
        let (_, answer) = connect(proxy.outbound(), &to, b"").await;
        assert_eq!(answer.split(' ').nth(1), Some(status), "{to}: {answer}");
    }
    assert_eq!(proxy.sample("devroute_outbound_tunnels_total").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn connect_works_on_a_stream_of_http2() {
    let listener = TcpListener::bind(ANY).await.unwrap();
    let address = listener.local_addr().unwrap();
    let proxy = with_outbound(|_| {}).await;
    let io = TokioIo::new(TcpStream::connect(proxy.outbound()).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = Request::builder()
        .method(Method::CONNECT)
        .uri(address.to_string())
        .body(Empty::<Bytes>::new())
        .unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let mut client = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
    let (mut server, _) = listener.accept().await.unwrap();
    client.write_all(b"there").await.unwrap();
    client.shutdown().await.unwrap();
    let mut received = Vec::new();
    server.read_to_end(&mut received).await.unwrap();
    assert_eq!(received, b"there");
    server.write_all(b"and back").await.unwrap();
    drop(server);
    received.clear();
    client.read_to_end(&mut received).await.unwrap();
    assert_eq!(received, b"and back");
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_17_an_upgrade_is_tunnelled_to_the_host_and_to_its_replacement() {
    let listener = TcpListener::bind(ANY).await.unwrap();
    let address = listener.local_addr().unwrap();
    let proxy = with_outbound(|outbound| outbound.reroute = true).await;
    let rerouted = format!("x-devroute: {{\"bar\":\"{address}\"}}\r\n");
    for (target, fields) in [
        (format!("http://{address}/chat"), ""),
        ("http://bar.svc/chat".to_owned(), &*rerouted),
    ] {
        let mut client = TcpStream::connect(proxy.outbound()).await.unwrap();
        let upgrade = "connection: upgrade\r\nupgrade: websocket\r\n";
        let asked = format!("GET {target} HTTP/1.1\r\nhost: x\r\n{upgrade}{fields}\r\n");
        client.write_all(asked.as_bytes()).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(server.read_u8().await.unwrap());
        }
        assert!(head.starts_with(b"GET /chat HTTP/1.1\r\n"));
        let answer = format!("HTTP/1.1 101 Switching Protocols\r\n{upgrade}\r\nhello");
        server.write_all(answer.as_bytes()).await.unwrap();
        let mut received = Vec::new();
        while !received.ends_with(b"\r\n\r\nhello") {
            received.push(client.read_u8().await.unwrap());
        }
        client.write_all(b"ping").await.unwrap();
        let mut ping = [0; 4];
        server.read_exact(&mut ping).await.unwrap();
        assert_eq!(&ping, b"ping");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_can_make_requests_until_its_own_are_answered() {
    let (service, host) = (Server::holding("service").await, Server::says("host").await);
    let proxy = with_service(service.address, |_| {}).await;
    let in_flight = tokio::spawn(proxy.get("/").send());
    service.arrived().await;

    proxy.shut_down();
    until_refused(proxy.address).await;
    let uri = format!("http://{}/", host.address);
    let answer = proxy.out(&uri).send().await;
    assert_eq!(answer.text, "host");
    assert_eq!(answer.header("connection"), "", "nothing drains here yet");
    service.release();
    assert_eq!(in_flight.await.unwrap().text, "service");
    until_refused(proxy.outbound()).await;
    assert_eq!(proxy.drained().await.abandoned, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_of_the_service_in_flight_finishes() {
    let host = Server::holding("host").await;
    let proxy = with_outbound(|_| {}).await;
    let uri = format!("http://{}/", host.address);
    let in_flight = tokio::spawn(proxy.out(&uri).send());
    host.arrived().await;
    proxy.shut_down();
    until_refused(proxy.outbound()).await;
    host.release();
    assert_eq!(in_flight.await.unwrap().text, "host");
    assert_eq!(proxy.drained().await.abandoned, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_stream_in_both_directions() {
    let listener = TcpListener::bind(ANY).await.unwrap();
    let address = listener.local_addr().unwrap();
    let proxy = with_outbound(|_| {}).await;
    let mut client = TcpStream::connect(proxy.outbound()).await.unwrap();
    let head =
        format!("POST http://{address}/ HTTP/1.1\r\nhost: x\r\ncontent-length: 8\r\n\r\nhalf");
    client.write_all(head.as_bytes()).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    let mut received = Vec::new();
    while !received.ends_with(b"\r\n\r\nhalf") {
        received.push(server.read_u8().await.unwrap());
    }
    let begun = b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalf";
    server.write_all(begun).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\nhalf") {
        answer.push(client.read_u8().await.unwrap());
    }
    client.write_all(b"rest").await.unwrap();
    let mut rest = [0; 4];
    server.read_exact(&mut rest).await.unwrap();
    server.write_all(b"rest").await.unwrap();
    client.read_exact(&mut rest).await.unwrap();
    assert_eq!(&rest, b"rest");
}

/// A sidecar that is told to listen for its service's requests at `outbound`.
fn binary(outbound: &str) -> Devroute {
    let flags =
        "sidecar --listen 127.0.0.1:0 --admin off --upstream http://127.0.0.1:1 --service foo";
    Devroute::new(&format!("{flags} {outbound}"))
}

#[test]
fn an_open_proxy_needs_to_be_asked_for() {
    for (flag, variable) in [("--outbound 0.0.0.0:0", ""), ("", "[::]:0")] {
        let output = binary(flag).env("DEVROUTE_OUTBOUND", variable).run();
        assert_eq!(output.status, Some(64), "{output:?}");
        let source = if flag.is_empty() {
            "DEVROUTE_OUTBOUND: "
        } else {
            "--outbound: "
        };
        assert!(
            output.err.starts_with(&format!("devroute: {source}")),
            "{}",
            output.err
        );
        assert!(output.err.contains("--outbound-exposed"), "{}", output.err);
    }
    let exposed = binary("--outbound 0.0.0.0:0 --outbound-exposed").serve();
    assert!(
        exposed.started["outbound"]
            .as_str()
            .unwrap()
            .starts_with("0.0.0.0:")
    );
    let private = binary("--outbound [::1]:0").serve();
    assert!(
        private.started["outbound"]
            .as_str()
            .unwrap()
            .starts_with("[::1]:")
    );
}

#[test]
fn an_exposed_proxy_sends_nothing_to_metadata_services() {
    let exposed = binary("--outbound 0.0.0.0:0 --outbound-exposed").serve();
    let port: SocketAddr = exposed.started["outbound"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let port = port.port();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        for host in ["169.254.169.254", "[fd00:ec2::254]"] {
            let answer = Client::get(address, &format!("http://{host}/"))
                .send()
                .await;
            assert_eq!(answer.status, StatusCode::FORBIDDEN);
            assert_eq!(answer.json()["cause"], "prohibited");
        }
        let host = Server::says("host").await;
        let answer = Client::get(address, &format!("http://{}/", host.address))
            .send()
            .await;
        assert_eq!(answer.text, "host");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn reqwest_with_a_proxy_is_given_its_contract() {
    let (service, host) = (Server::holding("service").await, Server::says("host").await);
    let proxy = with_service(service.address, |_| {}).await;
    let asking = proxy
        .get("/")
        .contract(CONTRACT)
        .header("x-request-id", "1");
    let in_flight = tokio::spawn(asking.send());
    service.arrived().await;

    let through = reqwest::Proxy::http(format!("http://{}", proxy.outbound())).unwrap();
    let client = reqwest::Client::builder().proxy(through).build().unwrap();
    let request = client.get(format!("http://{}/x", host.address));
    let answer = request.header("x-request-id", "1").send().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "host");
    let seen = host.only();
    assert_eq!(seen.line, "GET /x");
    assert_eq!(seen.headers["x-devroute"], CONTRACT);
    service.release();
    in_flight.await.unwrap();
}
