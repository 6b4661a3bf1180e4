//! Services that pass on one id and nothing else: the contract is with what they ask all the same.

use std::net::SocketAddr;
use std::time::Duration;

use devroute_proxy::config::OutboundConfig;
use http::StatusCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{ANY, Client, Devroute, Proxy, Relay, Server, sidecar, until};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const HALF: &str = "a3ce929d0e0e4736";

/// A sidecar of foo in front of `service`, with an outbound listener.
async fn with_outbound(service: SocketAddr, grace: Duration) -> Proxy {
    sidecar(service, |config| {
        let mut outbound = OutboundConfig::new(ANY);
        outbound.correlation.grace = grace;
        config.outbound = Some(outbound);
    })
    .await
}

/// A chain: a sidecar of foo, foo itself, its outbound listener, a sidecar of bar, bar.
struct Chain {
    foo: Proxy,
    laptop: Server,
    _service: Relay,
    _bar: (Proxy, Server),
}

async fn chain(passes: &'static [&'static str]) -> Chain {
    let baseline = Server::says("baseline of bar").await;
    let bar = sidecar(baseline.address, |config| {
        config.service = "bar".parse().unwrap();
    })
    .await;
    let service = Relay::to(&format!("http://{}/", bar.address), passes).await;
    let foo = with_outbound(service.address, Duration::from_secs(30)).await;
    service.through(&foo);
    Chain {
        foo,
        laptop: Server::says("laptop").await,
        _service: service,
        _bar: (bar, baseline),
    }
}

impl Chain {
    async fn ask(&self, fields: &[(&str, &str)]) -> String {
        let contract = format!(r#"{{"bar":"{}"}}"#, self.laptop.address);
        let request = self.foo.get("/").contract(&contract);
        let request = fields.iter().fold(request, |request, (name, value)| {
            request.header(name, value)
        });
        request.send().await.text
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_id_carries_a_contract_through_a_service_to_the_laptop() {
    let traceparent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    let b3 = format!("{HALF}-00f067aa0ba902b7-1");
    for (passes, value) in [
        (&["traceparent"][..], &*traceparent),
        (&["x-request-id"], "a-b-c"),
        (&["b3"], &*b3),
        (&["x-b3-traceid"], HALF),
        (&["x-b3-traceid"], TRACE),
        (&["uber-trace-id"], "a3ce929d0e0e4736:1:0:1"),
        (&["x-datadog-trace-id"], "1311768467463790320"),
        (&["x-cloud-trace-context"], TRACE),
    ] {
        let chain = chain(passes).await;
        let name = passes[0];
        assert_eq!(chain.ask(&[(name, value)]).await, "laptop", "{name}");
        let sample = format!(r#"devroute_contracts_restored_total{{id="{name}"}}"#);
        assert_eq!(chain.foo.sample(&sample).await, 1.0);
        // It gets what it got, and nothing of ours but the carriers.
        assert_eq!(chain.laptop.only().headers[name], value);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_id_comes_in_a_trace_begins() {
    let chain = chain(&["traceparent"]).await;
    assert_eq!(chain.ask(&[]).await, "laptop");
    assert_eq!(
        chain.foo.sample("devroute_traceparents_added_total").await,
        1.0
    );
    let answer = chain.foo.get("/").send().await;
    assert_eq!(answer.text, "baseline of bar");
    assert_eq!(
        chain.foo.sample("devroute_traceparents_added_total").await,
        1.0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_passes_on_nothing_is_named() {
    let chain = chain(&[]).await;
    assert_eq!(chain.ask(&[("x-request-id", "1")]).await, "baseline of bar");
    let lost = r#"devroute_propagation_lost_total{service="foo",reason="no_id"}"#;
    assert_eq!(chain.foo.sample(lost).await, 1.0);
    // Without a contract there is nothing to lose.
    chain.foo.get("/").send().await;
    assert_eq!(chain.foo.sample(lost).await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_says_where_a_contract_was_lost_and_what_to_do() {
    let next = Server::says("next").await;
    let service = Server::holding("service").await;
    let mut sidecar = Devroute::new(&format!(
        "sidecar --listen 127.0.0.1:0 --admin off --service foo --upstream http://{} --outbound 127.0.0.1:0",
        service.address
    ))
    .serve();
    let outbound: SocketAddr = sidecar.started["outbound"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let asking = Client::get(sidecar.address, "/").contract(r#"{"bar":"10.0.0.1:1"}"#);
    let in_flight = tokio::spawn(asking.header("x-request-id", "1").send());
    service.arrived().await;

    let uri = format!("http://{}/", next.address);
    Client::get(outbound, &uri)
        .header("x-request-id", "2")
        .send()
        .await;
    let line = tokio::task::spawn_blocking(move || (sidecar.log_line(), sidecar));
    let (line, _sidecar) = line.await.unwrap();
    assert_eq!(line["level"], "WARN", "{line}");
    assert_eq!(line["service"], "foo");
    assert_eq!(line["reason"], "unknown_id");
    assert_eq!(line["host"], "127.0.0.1");
    let message = line["message"].as_str().unwrap();
    assert!(
        message.contains("lost") && message.contains("traceparent"),
        "{message}"
    );
    service.release();
    in_flight.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_with_two_contracts_restores_neither() {
    let next = Server::says("next").await;
    let service = Server::holding("service").await;
    let proxy = with_outbound(service.address, Duration::from_secs(30)).await;
    let mut in_flight = Vec::new();
    for port in [1, 2] {
        let contract = format!(r#"{{"bar":"10.0.0.1:{port}"}}"#);
        let request = proxy
            .get("/")
            .contract(&contract)
            .header("x-request-id", "1");
        in_flight.push(tokio::spawn(request.send()));
        service.arrived().await;
    }
    let uri = format!("http://{}/", next.address);
    proxy.out(&uri).header("x-request-id", "1").send().await;
    assert!(!next.only().headers.contains_key("x-devroute"));
    assert_eq!(
        proxy.sample("devroute_correlation_ambiguous_total").await,
        1.0
    );
    let lost = r#"devroute_propagation_lost_total{service="foo",reason="ambiguous_id"}"#;
    assert_eq!(proxy.sample(lost).await, 1.0);
    service.release();
    for request in in_flight {
        assert_eq!(request.await.unwrap().status, StatusCode::OK);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_thousand_requests_at_once_each_keeps_its_contract() {
    const REQUESTS: usize = 1000;
    let next = Server::says_the_contract().await;
    let uri = format!("http://{}/", next.address);
    let service = Relay::together(&uri, &["x-request-id"], REQUESTS).await;
    let proxy = sidecar(service.address, |config| {
        config.process.workers = 2.try_into().unwrap();
        config.outbound = Some(OutboundConfig::new(ANY));
    })
    .await;
    service.through(&proxy);
    let mut asked = Vec::new();
    for number in 0..REQUESTS {
        let contract = format!(r#"{{"bar":"10.0.{}.{}:80"}}"#, number / 250, number % 250);
        let request = proxy
            .get("/")
            .header("x-request-id", &format!("id-{number}"));
        let request = request.contract(&contract);
        asked.push(tokio::spawn(async move {
            (request.send().await.text, contract)
        }));
    }
    for request in asked {
        let (seen, sent) = request.await.unwrap();
        assert_eq!(seen, sent);
    }
    let restored = r#"devroute_contracts_restored_total{id="x-request-id"}"#;
    assert_eq!(proxy.sample(restored).await, REQUESTS as f64);
    assert_eq!(
        proxy.sample("devroute_correlation_entries").await,
        REQUESTS as f64
    );
    assert_eq!(
        proxy.sample("devroute_correlation_evicted_total").await,
        0.0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_is_in_flight_until_it_is_closed() {
    let listener = TcpListener::bind(ANY).await.unwrap();
    let next = Server::says("next").await;
    let proxy = with_outbound(listener.local_addr().unwrap(), Duration::ZERO).await;
    let mut client = TcpStream::connect(proxy.address).await.unwrap();
    let upgrade = "connection: upgrade\r\nupgrade: websocket\r\n";
    let fields = "x-devroute: {\"bar\":\"10.0.0.1:1\"}\r\nx-request-id: 1\r\n";
    let asked = format!("GET / HTTP/1.1\r\nhost: foo\r\n{upgrade}{fields}\r\n");
    client.write_all(asked.as_bytes()).await.unwrap();
    let (mut service, _) = listener.accept().await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(service.read_u8().await.unwrap());
    }
    let answer = format!("HTTP/1.1 101 Switching Protocols\r\n{upgrade}\r\n");
    service.write_all(answer.as_bytes()).await.unwrap();
    head.clear();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.unwrap());
    }
    client.write_all(b"over the tunnel").await.unwrap();
    service.read_exact(&mut [0; 15]).await.unwrap();

    let uri = format!("http://{}/", next.address);
    proxy.out(&uri).header("x-request-id", "1").send().await;
    assert!(next.only().headers.contains_key("x-devroute"));
    drop((client, service));
    until("the id is forgotten", async || {
        proxy.sample("devroute_correlation_entries").await == 0.0
    })
    .await;
}
