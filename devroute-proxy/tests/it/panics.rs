//! A panic costs the connection that it is in, and says nothing of what came on it.
//!
//! No request is known that makes the proxy panic. Here its log does, in the middle of what it says about requests that
//! are full of secrets, in a process of its own whose standard error is read.

use std::convert::Infallible;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use devroute_proxy::config::{OutboundConfig, SidecarConfig};
use devroute_proxy::metrics::Metrics;
use devroute_proxy::server::{self, Options, RequestBody};
use devroute_proxy::shutdown;
use devroute_proxy::sidecar::Sidecar;
use http::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::support::{ANY, Client, PATIENCE, Server, closed, until};

const UPSTREAM: &str = "DEVROUTE_TEST_UPSTREAM";
const PROVOKED: &str = "a panic that was asked for";

/// What nothing may repeat, by where it is sent.
const SECRETS: [&str; 8] = [
    "sEcReT-authorization",
    "sEcReT-cookie",
    "sEcReT-baggage",
    "sEcReT-query",
    "sEcReT-body",
    "sEcReT-service",
    "sEcReT-member",
    "sEcReT-malformed",
];

const FIELDS: [(&str, &str); 3] = [
    ("authorization", "Bearer sEcReT-authorization"),
    ("cookie", "session=sEcReT-cookie"),
    ("baggage", "user=sEcReT-baggage"),
];

fn repeated(said: &str) -> Vec<&'static str> {
    let found = |secret: &&'static str| said.contains(*secret);
    SECRETS.into_iter().filter(found).collect()
}

fn contract(target: impl std::fmt::Display) -> String {
    format!(r#"{{"foo":"{target}","sEcReT-service":"10.1.2.3:4","$later":"sEcReT-member"}}"#)
}

/// Makes every third line about a request a panic, for as long as it is armed.
struct Provoker {
    armed: Arc<AtomicBool>,
    lines: AtomicUsize,
}

impl<S: tracing::Subscriber> Layer<S> for Provoker {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let is_ours = event.metadata().target().starts_with("devroute");
        let in_a_worker = thread::current()
            .name()
            .is_some_and(|name| name.starts_with("worker-"));
        if is_ours && in_a_worker && self.armed.load(Ordering::SeqCst) && !thread::panicking() {
            let line = self.lines.fetch_add(1, Ordering::SeqCst);
            assert!(line % 3 != 0, "{PROVOKED}");
        }
    }
}

#[test]
#[ignore = "a program: the test below runs it in a process of its own"]
fn a_sidecar_whose_log_panics() {
    let upstream = std::env::var(UPSTREAM).expect("the test below says where the service is");
    let armed = Arc::new(AtomicBool::new(true));
    tracing_subscriber::registry()
        .with(
            tracing_subscriber::fmt::layer()
                .with_writer(std::io::stderr)
                .json(),
        )
        .with(Provoker {
            armed: Arc::clone(&armed),
            lines: AtomicUsize::new(0),
        })
        .init();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let mut config = SidecarConfig::new("foo".parse().unwrap(), ANY, upstream.parse().unwrap());
        config.process.admin = Some(ANY);
        config.process.workers = 2.try_into().unwrap();
        config.reroute.policy = config.reroute.policy.allow_loopback(true);
        let mut outbound = OutboundConfig::new(ANY);
        outbound.reroute = true;
        config.outbound = Some(outbound);
        let sidecar = Sidecar::bind(config).await.unwrap();
        let addresses = [
            sidecar.address(),
            sidecar.admin_address().unwrap(),
            sidecar.outbound_address().unwrap(),
        ];
        println!("\nlistens {addresses:?}");
        let (trigger, signal) = shutdown::channel();
        let serving = tokio::spawn(sidecar.serve(signal));
        // A line ends the panics, and the end of the input the process.
        let mut lines = BufReader::new(std::io::stdin()).lines();
        lines.next().unwrap().unwrap();
        armed.store(false, Ordering::SeqCst);
        println!("calm");
        assert!(lines.next().is_none());
        trigger.shut_down();
        serving.await.unwrap().unwrap();
    });
}

/// Sends a request of HTTP/1, and reads what is answered until there is no more.
async fn ask(address: SocketAddr, fields: &str) -> String {
    let own: String = FIELDS
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    let body = "sEcReT-body";
    let request = format!(
        "POST /?token=sEcReT-query HTTP/1.1\r\nconnection: close\r\ncontent-length: {}\r\n{own}{fields}\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut answer = Vec::new();
    let exchange = async {
        let _ = stream.write_all(request.as_bytes()).await;
        let _ = stream.read_to_end(&mut answer).await;
    };
    tokio::time::timeout(PATIENCE, exchange)
        .await
        .expect("the connection ends");
    String::from_utf8_lossy(&answer).into_owned()
}

/// The same by HTTP/2, as far as there is an answer.
async fn ask_h2(address: SocketAddr, contract: &str) -> String {
    let exchange = async {
        let io = TokioIo::new(TcpStream::connect(address).await.unwrap());
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
        tokio::spawn(connection);
        let request =
            Request::post("http://foo/?token=sEcReT-query").header("x-devroute", contract);
        let request = FIELDS.iter().fold(request, |request, (name, value)| {
            request.header(*name, *value)
        });
        let answer = sender
            .send_request(request.body("sEcReT-body".to_owned()).unwrap())
            .await?;
        let (head, body) = answer.into_parts();
        let body = http_body_util::BodyExt::collect(body).await?.to_bytes();
        Ok::<_, hyper::Error>(format!("{head:?}{}", String::from_utf8_lossy(&body)))
    };
    let answer = tokio::time::timeout(PATIENCE, exchange).await;
    answer.expect("the stream ends").unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_costs_one_connection_and_repeats_nothing_of_its_request() {
    let service = Server::says("service").await;
    let laptop = Server::says("laptop").await;
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "panics::a_sidecar_whose_log_panics"])
        .args(["--ignored", "--nocapture"])
        .env(UPSTREAM, service.address.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let said = thread::spawn(move || {
        let mut said = String::new();
        stderr.read_to_string(&mut said).unwrap();
        said
    });
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut line_with = |start: &str| {
        lines
            .find_map(|line| line.unwrap().strip_prefix(start).map(str::to_owned))
            .unwrap_or_else(|| panic!("it never said {start:?}"))
    };
    let addresses: Vec<SocketAddr> = line_with("listens ")
        .trim_matches(['[', ']'])
        .split(", ")
        .map(|address| address.parse().unwrap())
        .collect();
    let [inbound, admin, outbound] = addresses[..] else {
        panic!("{addresses:?}");
    };

    let targets = [
        contract(laptop.address),
        contract(closed().await),
        contract("203.0.113.9:80"),
        r#"{"foo":"sEcReT-malformed"#.to_owned(),
    ];
    let (mut answers, mut unanswered) = (Vec::new(), 0);
    for _ in 0..3 {
        for address in [inbound, outbound] {
            for target in &targets {
                answers.push(ask(address, &format!("host: foo\r\nx-devroute: {target}\r\n")).await);
                answers.push(ask_h2(address, target).await);
            }
            answers.push(ask(address, "").await);
            answers.push(ask(address, "host: foo\r\nhost: foo\r\n").await);
        }
    }
    for answer in &answers {
        unanswered += usize::from(answer.is_empty());
        // What is wrong with a contract is told to who sent it.
        let others = repeated(answer)
            .into_iter()
            .filter(|it| *it != "sEcReT-malformed");
        assert_eq!(others.collect::<Vec<_>>(), [""; 0], "{answer}");
    }

    // From here on nothing panics, and every worker is there.
    let mut input = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut input, b"\n").unwrap();
    line_with("calm");
    for _ in 0..8 {
        assert_eq!(Client::get(inbound, "/").send().await.text, "service");
        let rerouted = Client::get(inbound, "/").contract(&contract(laptop.address));
        assert_eq!(rerouted.send().await.text, "laptop");
        let rerouted = Client::get(outbound, "/").host("foo");
        let rerouted = rerouted.contract(&contract(laptop.address));
        assert_eq!(rerouted.send().await.text, "laptop");
    }
    until("no connection is left open", async || {
        let metrics = Client::get(admin, "/metrics").send().await.text;
        ["proxy", "outbound"].iter().all(|listener| {
            metrics.contains(&format!(
                "\ndevroute_open_connections{{listener=\"{listener}\"}} 0\n"
            ))
        })
    })
    .await;
    for page in ["/metrics", "/reroutes", "/"] {
        let page = Client::get(admin, page).send().await.text;
        assert_eq!(repeated(&page), [""; 0], "{page}");
    }
    drop(input);
    let said = tokio::task::spawn_blocking(|| said.join().unwrap())
        .await
        .unwrap();
    assert!(child.wait().unwrap().success(), "{said}");
    let panics = said.matches(PROVOKED).count();
    assert!(panics >= 10 && unanswered > 0, "{panics}, {unanswered}");
    for line in said.lines() {
        assert_eq!(repeated(line), [""; 0], "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_cannot_be_made_costs_its_own_connection() {
    let listener = server::bind(devroute_proxy::config::Bind::Address(ANY))
        .await
        .unwrap();
    let address = listener.local_addr().unwrap();
    let metrics = Metrics::new("test", 1);
    let (trigger, signal) = shutdown::channel();
    let serving = server::serve(listener, Options::default(), metrics, signal, |_worker| {
        let made = AtomicUsize::new(0);
        move |_client| {
            assert!(made.fetch_add(1, Ordering::SeqCst) != 1, "{PROVOKED}");
            tower::service_fn(async |_: Request<RequestBody>| {
                Ok::<_, Infallible>(Response::new(String::from("hello")))
            })
        }
    });
    let serving = tokio::spawn(serving);

    let io = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let (mut first, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let request = || {
        Request::get("/")
            .header("host", "a")
            .body(String::new())
            .unwrap()
    };
    assert_eq!(first.send_request(request()).await.unwrap().status(), 200);

    let mut second = TcpStream::connect(address).await.unwrap();
    let mut nothing = Vec::new();
    let _ = second.read_to_end(&mut nothing).await;
    assert!(nothing.is_empty());

    // The one before it is served, and so is the one behind it.
    first.ready().await.unwrap();
    assert_eq!(first.send_request(request()).await.unwrap().status(), 200);
    drop(first);
    assert_eq!(Client::get(address, "/").send().await.text, "hello");
    trigger.shut_down();
    let drained = tokio::time::timeout(PATIENCE, serving).await.unwrap();
    assert_eq!(drained.unwrap().unwrap().abandoned, 0);
}
