//! "Can you reach me?": what a router says to whoever asks, and what `contract --router` makes of it.

use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use devroute_proxy::authorized::AuthorizedFile;
use devroute_tower::core::TargetPolicy;
use http::StatusCode;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::client::Answer;
use crate::support::desk::{ALICE, ALICE_PUB, Desk};
use crate::support::proxy::Proxy;
use crate::support::tls::{self, Authority};
use crate::support::{Client, Devroute, Server, closed, router};

async fn ask(router: &Proxy, port: u16) -> Answer {
    asking(router, &format!("port={port}")).send().await
}

fn asking(router: &Proxy, query: &str) -> Client {
    router.get(&format!("/_reach?{query}")).post("")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_dials_back_and_neither_sends_nor_reads() {
    let router = router(|_| {}).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let accepted = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut read = Vec::new();
        stream.read_to_end(&mut read).await.unwrap();
        read
    });
    let answer = ask(&router, port).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    let expected = serde_json::json!({"finding": "reachable", "port": port, "peer": "127.0.0.1"});
    assert_eq!(answer.json(), expected);
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(accepted.await.unwrap(), b"", "closed, with nothing said");

    let nobody = closed().await.port();
    assert_eq!(ask(&router, nobody).await.json()["finding"], "refused");
    for finding in ["reachable", "refused"] {
        let sample = format!("devroute_reach_backs_total{{finding=\"{finding}\"}}");
        assert!((router.sample(&sample).await - 1.0).abs() < 0.1);
    }
    let none = "devroute_requests_total{decision=\"none\"}";
    assert!(router.sample(none).await < 0.1, "it is no request");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_dialled_but_whoever_asks() {
    let router = router(|_| {}).await;
    let other = Server::says("other").await;
    for query in [
        format!("port={}&host=127.0.0.2", other.address.port()),
        format!("host={}", other.address),
        format!("port={}", other.address),
        "port=0".to_owned(),
        String::new(),
    ] {
        let answer = asking(&router, &query).send().await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{query}");
        assert_eq!(answer.json()["cause"], "malformed_port");
    }
    // What a field says about where it comes from is not believed: it ends the matter.
    for field in ["x-forwarded-for", "forwarded", "x-real-ip", "via"] {
        let asking = asking(&router, "port=1").header(field, "127.0.0.2");
        let answer = asking.send().await.json();
        assert_eq!(answer["finding"], "intermediary", "{answer}");
        assert_eq!(answer["reason"], field);
        assert_eq!(answer["peer"], "127.0.0.1");
    }
    assert!(other.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_of_the_router_judges_and_its_switch_is_named() {
    let router = router(|config| config.reroute.policy = Default::default()).await;
    let answer = ask(&router, 8001).await.json();
    assert_eq!(answer["finding"], "not_allowed");
    assert_eq!(answer["reason"], "loopback");
    assert_eq!(answer["switch"], "--allow loopback");

    let router = crate::support::router(|_| {}).await;
    for own in [router.address, router.admin] {
        let answer = ask(&router, own.port()).await.json();
        assert_eq!(answer["finding"], "not_allowed");
        assert_eq!(answer["reason"], "own_listener");
        assert_eq!(answer.get("switch"), None, "nothing opens it");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_may_have_the_same_path() {
    let laptop = Server::says("laptop").await;
    let router = router(|_| {}).await;
    let contract = format!(r#"{{"foo":"{}"}}"#, laptop.address);
    let request = asking(&router, "port=1").contract(&contract);
    let answer = request.header("x-devroute-matched", "foo").send().await;
    assert_eq!(answer.text, "laptop");
    assert_eq!(laptop.only().line, "POST /_reach?port=1");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_can_be_switched_off_and_is_for_no_web_page() {
    let off = router(|config| config.reach_back = false).await;
    let answer = ask(&off, 8001).await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    assert_eq!(answer.json()["cause"], "reach_back_off");

    let router = router(|_| {}).await;
    let page = asking(&router, "port=8001").header("origin", "https://example.org");
    assert_eq!(page.send().await.status, StatusCode::FORBIDDEN);
    let get = router.get("/_reach?port=8001").send().await;
    assert_eq!(get.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(get.header("allow"), "POST");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_not_revealed_is_not_in_the_answer() {
    let router = router(|config| config.reroute.reveal_addresses = false).await;
    let nobody = closed().await.port();
    let answer = ask(&router, nobody).await;
    let expected = serde_json::json!({"finding": "refused", "port": nobody});
    assert_eq!(answer.json(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_are_told_when_to_come_back() {
    let router = router(|_| {}).await;
    let nobody = closed().await.port();
    let mut told = None;
    // A burst, and ten a second behind it: no machine asks so slowly that it is never met.
    for _ in 0..2000 {
        let answer = ask(&router, nobody).await;
        if answer.status == StatusCode::TOO_MANY_REQUESTS {
            told = Some(answer);
            break;
        }
    }
    let told = told.expect("the limit is met");
    assert_eq!(told.json()["cause"], "too_many_reach_backs");
    assert_eq!(told.header("retry-after"), "3");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_asked_over_http2_as_well() {
    let router = router(|_| {}).await;
    let nobody = closed().await.port();
    let answer = asking(&router, &format!("port={nobody}")).h2().send().await;
    assert_eq!(answer.json()["finding"], "refused");
}

/// Runs the binary, and returns its status and its output as JSON.
async fn contract(arguments: String) -> (Option<i32>, Value) {
    let run = move || Devroute::new(&format!("contract {arguments} --json")).run();
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    let json = serde_json::from_str(&output.out);
    let json = json.unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (output.status, json)
}

fn only(json: &Value) -> &Value {
    let entries = json["reach"]["entries"].as_array().unwrap();
    assert_eq!(entries.len(), 1, "{json}");
    &entries[0]
}

fn advice(entry: &Value) -> String {
    let lines = entry["advice"].as_array().unwrap();
    let lines: Vec<&str> = lines.iter().map(|line| line.as_str().unwrap()).collect();
    lines.join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_the_router_reaches_is_in_the_contract_as_the_router_sees_it() {
    let laptop = Server::says("laptop").await;
    let router = router(|_| {}).await;
    let port = laptop.address.port();
    let (status, json) = contract(format!("foo={port} --router http://{}", router.address)).await;
    assert_eq!(status, Some(0), "{json}");
    assert_eq!(only(&json)["finding"], "reachable");
    assert_eq!(json["reach"]["peer"], "127.0.0.1");
    let contract = json["header"]["value"].as_str().unwrap();
    assert_eq!(contract, format!(r#"{{"foo":"127.0.0.1:{port}"}}"#));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_nobody_listens_on_says_so() {
    let router = router(|_| {}).await;
    let nobody = closed().await.port();
    let (status, json) = contract(format!("foo={nobody} --router http://{}", router.address)).await;
    assert_eq!(status, Some(1), "{json}");
    assert_eq!(only(&json)["finding"], "refused");
    assert!(advice(only(&json)).contains("start foo"), "{json}");
}

/// A private address that this machine has for others, if there is one; no packet is sent.
fn outside() -> Option<IpAddr> {
    let towards = |any: &str, there: &str| {
        let socket = UdpSocket::bind(any).ok()?;
        socket.connect(there).ok()?;
        socket.local_addr().ok()
    };
    let addresses = [
        towards("0.0.0.0:0", "10.0.0.1:9"),
        towards("[::]:0", "[fd00::1]:9"),
    ];
    let mut addresses = addresses.into_iter().flatten();
    let policy = TargetPolicy::default();
    let private = addresses.find(|&address| policy.judge_addr(address).is_ok())?;
    Some(private.ip())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_on_loopback_only_is_found_here() {
    let Some(outside) = outside() else {
        return eprintln!("this machine has no private address: not tested");
    };
    let router = router(|config| {
        let address = SocketAddr::new(outside, 0);
        config.process.listen = devroute_proxy::config::Bind::Address(address);
    })
    .await;
    let application = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = application.local_addr().unwrap().port();
    let (status, json) = contract(format!("foo={port} --router http://{}", router.address)).await;
    assert_eq!(status, Some(1), "{json}");
    assert_eq!(only(&json)["finding"], "refused", "{json}");
    let advice = advice(only(&json));
    assert!(advice.contains("bound to loopback only"), "{advice}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_switch_is_named() {
    let router = router(|config| config.reroute.policy = Default::default()).await;
    let (status, json) = contract(format!("foo=8001 --router http://{}", router.address)).await;
    assert_eq!(status, Some(1), "{json}");
    let advice = advice(only(&json));
    assert!(advice.contains("--allow loopback"), "{advice}");
    assert!(advice.contains("devroute connect foo=8001"), "{advice}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_machine_is_not_asked_about() {
    let router = router(|_| {}).await;
    let line = format!("foo=10.255.1.2:8001 --router http://{}", router.address);
    let (status, json) = contract(line).await;
    assert_eq!(status, Some(1), "{json}");
    assert_eq!(only(&json)["finding"], "not_asked");
    let text = only(&json)["text"].as_str().unwrap();
    assert!(text.contains("another machine"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_no_router_is_told_apart() {
    let nobody = closed().await;
    let website = Server::says("hello").await;
    let old = old_router().await;
    let off = router(|config| config.reach_back = false).await;
    let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hangs_up = mute.local_addr().unwrap();
    tokio::spawn(async move { while mute.accept().await.is_ok() {} });
    for (router, expected) in [
        (format!("http://{nobody}"), "refused"),
        (
            format!("http://{}", website.address),
            "no devroute router: status 200",
        ),
        (format!("http://{old}"), "update it"),
        (format!("http://{}", off.address), "does not dial back"),
        (format!("http://{hangs_up}"), "begins with https://"),
        (format!("https://{}", off.address), "begins with http://"),
        ("http://nowhere.invalid".to_owned(), "has no address"),
    ] {
        let (status, json) = contract(format!("foo=8001 --router {router}")).await;
        assert_eq!(status, Some(1), "{json}");
        assert_eq!(only(&json)["finding"], "not_asked");
        let text = only(&json)["text"].as_str().unwrap();
        assert!(text.contains(expected), "{router}: {text}");
        assert!(json["header"]["value"].is_string(), "the contract is made");
    }
}

/// Says what routers say that have never been asked this.
async fn old_router() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let problem = r#"{"cause":"missing_contract","detail":"There is no contract."}"#;
        let answer = format!(
            "HTTP/1.1 400 Bad Request\r\ncontent-length: {}\r\n\r\n{problem}",
            problem.len()
        );
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            asked.push(stream.read_u8().await.unwrap());
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
        let _ = stream.read_u8().await;
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_15_with_keys_whoever_asks_has_to_sign() {
    let desk = Desk::new("reach");
    let keys = AuthorizedFile::load(&desk.write("keys", ALICE_PUB)).unwrap();
    let router = router(|config| config.reroute.signatures = Some(keys)).await;
    let laptop = Server::says("laptop").await;
    let port = laptop.address.port();
    let answer = ask(&router, port).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN, "{}", answer.text);
    assert_eq!(answer.json()["cause"], "signature_missing");
    let unsigned = asking(&router, &format!("port={port}")).contract(r#"{"foo":"10.0.0.1:1"}"#);
    assert_eq!(unsigned.send().await.status, StatusCode::FORBIDDEN);

    let line = format!("foo={port} --router http://{}", router.address);
    let (_, json) = contract(line.clone()).await;
    let text = only(&json)["text"].as_str().unwrap();
    assert!(text.contains("--sign --router"), "{text}");
    let key = desk.write("key", ALICE);
    let (status, json) = contract(format!("{line} --sign {}", key.display())).await;
    assert_eq!(status, Some(0), "{json}");
    assert_eq!(only(&json)["finding"], "reachable");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_by_tls_is_believed_by_its_certificate() {
    let directory = tls::directory("reach");
    let authority = Authority::new(&directory);
    let router = router(|config| {
        let certificates = authority.certificates();
        config.process.tls = Some(devroute_proxy::config::ListenerTls::new(certificates));
    })
    .await;
    let laptop = Server::says("laptop").await;
    let line = format!(
        "foo={} --router https://{}",
        laptop.address.port(),
        router.address
    );
    let (status, json) = contract(line.clone()).await;
    assert_eq!(status, Some(1), "{json}");
    let text = only(&json)["text"].as_str().unwrap();
    assert!(text.contains("--router-ca"), "{text}");
    let trusting = format!("{line} --router-ca {}", authority.ca.display());
    let (status, json) = contract(trusting).await;
    assert_eq!(status, Some(0), "{json}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_to_a_person() {
    let laptop = Server::says("laptop").await;
    let router = router(|_| {}).await;
    let (port, nobody) = (laptop.address.port(), closed().await.port());
    let line = format!(
        "contract foo={port} bar={nobody} --router http://{}",
        router.address
    );
    let run = move || Devroute::new(&line).run();
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    assert_eq!(output.status, Some(1), "{output:?}");
    let said: Vec<&str> = output
        .out
        .lines()
        .skip_while(|it| !it.starts_with("router"))
        .collect();
    assert_eq!(
        said,
        [
            &*format!("router   http://{} sees you as 127.0.0.1", router.address),
            &*format!(
                "reach    foo: reachable: the router opened a connection to 127.0.0.1:{port}"
            ),
            &*format!(
                "reach    bar: refused: nobody takes the router's connection to 127.0.0.1:{nobody}"
            ),
            "         - the router sees this request come from 127.0.0.1: through `kubectl \
             port-forward` or the like, or it runs on this machine",
            &*format!(
                "         - nothing listens on port {nobody} of this machine: start bar, and ask again"
            ),
            &*format!(
                "         - `devroute connect bar={nobody} --hub URL` needs no connection to this machine"
            ),
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dial_that_gets_no_answer_ends_after_the_connect_timeout() {
    // A backlog that is full swallows what comes; where it does not, the kernel has grown it.
    let router = router(|config| config.reroute.connect_timeout = Duration::from_millis(300)).await;
    let full = socket_with_full_backlog().await;
    let answer = ask(&router, full.address.port()).await.json();
    assert_eq!(answer["finding"], "timed_out", "{answer}");
}

/// A listener that has as many connections waiting as it may.
struct Full {
    address: SocketAddr,
    _listener: tokio::net::TcpListener,
    _waiting: Vec<tokio::net::TcpStream>,
}

async fn socket_with_full_backlog() -> Full {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    loop {
        let connected = tokio::net::TcpStream::connect(address);
        match tokio::time::timeout(Duration::from_millis(500), connected).await {
            Ok(stream) => waiting.push(stream.unwrap()),
            Err(_elapsed) => break,
        }
    }
    Full {
        address,
        _listener: listener,
        _waiting: waiting,
    }
}
