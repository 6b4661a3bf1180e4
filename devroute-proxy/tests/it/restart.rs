//! One process takes over from another under load, and no request fails.
//!
//! The processes are real, and so is the load: clients that keep their connections, as the HTTP
//! libraries of services do. What they do right is what any of them does: they open a new connection
//! when an answer said `connection: close`, and when they see that theirs has ended before they send.
//!
//! All of them are on one thread. On several, hyper's client may call a request unprocessed that it
//! has sent: a GOAWAY that is read by one thread while the other one is between handing the request
//! to h2 and asking whether the connection is ready (`ClientTask::poll` of hyper 1.12) fails the
//! request with that GOAWAY, and no server can tell such a client the truth. (`HttpTransport` drives
//! a connection in one task for that reason.)

use std::error::Error as _;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::support::binary::Running;
use crate::support::{Client, Devroute, Server, until};

/// What the clients have seen so far.
#[derive(Debug, Default)]
struct Tally {
    answers: AtomicUsize,
    connections: AtomicUsize,
    stop: AtomicBool,
}

/// Clients that do not stop asking.
#[derive(Debug)]
struct Load {
    tally: Arc<Tally>,
    clients: Vec<JoinHandle<Vec<String>>>,
    /// Its thread ends with this.
    _running: oneshot::Sender<()>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// Asks again as soon as it is answered.
    Eager,
    /// Thinks in between, so that its connection is idle now and then.
    Pensive,
    /// As eager, over HTTP/2.
    Http2,
    /// Opens a connection for each request.
    Forgetful,
}

impl Load {
    fn on(address: SocketAddr, kinds: &[Kind]) -> Self {
        let tally = Arc::new(Tally::default());
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().unwrap();
        let clients = kinds
            .iter()
            .map(|&kind| runtime.spawn(ask(address, kind, Arc::clone(&tally))))
            .collect();
        let (_running, over) = oneshot::channel();
        std::thread::spawn(move || runtime.block_on(over));
        Self {
            tally,
            clients,
            _running,
        }
    }

    /// Waits for so many more answers.
    async fn goes_on(&self, answers: usize) {
        let until_then = self.tally.answers.load(Ordering::Relaxed) + answers;
        until("more requests are answered", async || {
            tokio::time::sleep(Duration::from_millis(1)).await;
            self.tally.answers.load(Ordering::Relaxed) >= until_then
                || self.clients.iter().any(JoinHandle::is_finished)
        })
        .await;
    }

    /// Stops it; what went wrong.
    async fn failures(self) -> Vec<String> {
        self.tally.stop.store(true, Ordering::Relaxed);
        let mut failures = Vec::new();
        for client in self.clients {
            failures.extend(client.await.unwrap());
        }
        failures
    }
}

enum Sender {
    Http1(hyper::client::conn::http1::SendRequest<Empty<Bytes>>),
    Http2(hyper::client::conn::http2::SendRequest<Empty<Bytes>>),
}

impl Sender {
    async fn connect(address: SocketAddr, kind: Kind) -> Result<Self, String> {
        let stream = TcpStream::connect(address).await;
        let io = TokioIo::new(stream.map_err(|error| format!("connect: {error}"))?);
        if let Kind::Http2 = kind {
            let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await;
            let (sender, connection) = handshake.map_err(|error| format!("h2: {error}"))?;
            tokio::spawn(connection);
            return Ok(Self::Http2(sender));
        }
        let handshake = hyper::client::conn::http1::handshake(io).await;
        let (sender, connection) = handshake.map_err(|error| format!("h1: {error}"))?;
        tokio::spawn(connection);
        Ok(Self::Http1(sender))
    }

    /// Sends a request; nothing where the connection has ended before it was sent.
    async fn send(&mut self) -> Result<Option<Response<Incoming>>, hyper::Error> {
        let request = Request::get("http://foo/").header("host", "foo");
        let request = request.body(Empty::new()).unwrap();
        let ready = match self {
            Self::Http1(sender) => sender.ready().await,
            Self::Http2(sender) => sender.ready().await,
        };
        if ready.is_err() {
            return Ok(None);
        }
        let sent = match self {
            Self::Http1(sender) => sender.try_send_request(request).await,
            Self::Http2(sender) => sender.try_send_request(request).await,
        };
        sent.map(Some)
            .or_else(|mut error| match error.take_message() {
                Some(_unsent) => Ok(None),
                None if is_unprocessed(error.error()) => Ok(None),
                None => Err(error.into_error()),
            })
    }
}

/// Whether the server has said that it did nothing with the request (RFC 9113, section 6.8).
///
/// A client that was just about to send it asks again, as those of gRPC and Go do. That nothing was
/// done with it is checked by the count at the service.
fn is_unprocessed(error: &hyper::Error) -> bool {
    let h2 = error.source().and_then(|source| source.downcast_ref());
    h2.is_some_and(|error: &h2::Error| error.is_go_away() && error.is_remote())
}

/// Asks until it is told to stop, or until a request fails; what failed.
async fn ask(address: SocketAddr, kind: Kind, tally: Arc<Tally>) -> Vec<String> {
    let mut sender = None;
    let mut failures = Vec::new();
    while !tally.stop.load(Ordering::Relaxed) && failures.len() < 5 {
        let connected = match sender.take() {
            Some(connected) => Ok(connected),
            None => {
                tally.connections.fetch_add(1, Ordering::Relaxed);
                Sender::connect(address, kind).await
            }
        };
        let mut connected = match connected {
            Ok(connected) => connected,
            Err(error) => {
                failures.push(error);
                continue;
            }
        };
        let response = match connected.send().await {
            Ok(Some(response)) => response,
            Ok(None) => continue,
            Err(error) => {
                failures.push(format!("{kind:?}: {error:?}"));
                continue;
            }
        };
        let last = response.headers().get("connection").is_some();
        let status = response.status();
        let body = response.into_body().collect().await;
        match body.map(http_body_util::Collected::to_bytes) {
            Ok(body) if status == StatusCode::OK && body == "baseline" => {
                tally.answers.fetch_add(1, Ordering::Relaxed);
            }
            other => failures.push(format!("{kind:?}: {status} {other:?}")),
        }
        match kind {
            Kind::Forgetful => continue,
            _ if last => continue,
            Kind::Pensive => tokio::time::sleep(Duration::from_millis(30)).await,
            Kind::Eager | Kind::Http2 => {}
        }
        sender = Some(connected);
    }
    failures
}

const KEEPERS: [Kind; 10] = [
    Kind::Eager,
    Kind::Eager,
    Kind::Pensive,
    Kind::Pensive,
    Kind::Pensive,
    Kind::Pensive,
    Kind::Http2,
    Kind::Http2,
    Kind::Http2,
    Kind::Http2,
];

async fn start(devroute: Devroute) -> Running {
    tokio::task::spawn_blocking(|| devroute.serve())
        .await
        .unwrap()
}

/// Replaces processes one after the other, each of which listens before the one before it is told
/// to stop, and checks that all of them end well and no request fails.
async fn roll(baseline: Server, kinds: &[Kind], first: Running, next: impl Fn() -> Devroute) {
    let address = first.address;
    let load = Load::on(address, kinds);
    load.goes_on(200).await;
    let mut current = first;
    for _ in 0..5 {
        let successor = start(next()).await;
        assert_eq!(successor.address, address);
        current.signal("TERM");
        let old = std::mem::replace(&mut current, successor);
        let ended = tokio::task::spawn_blocking(|| old.wait());
        load.goes_on(200).await;
        let (status, log) = ended.await.unwrap();
        assert_eq!(status.code(), Some(0), "{log}");
        assert!(log.contains("\"drained\""), "{log}");
    }
    load.goes_on(200).await;
    let tally = Arc::clone(&load.tally);
    assert_eq!(load.failures().await, Vec::<String>::new());
    let answers = tally.answers.load(Ordering::Relaxed);
    let seen = baseline.seen().len();
    assert_eq!(seen, answers, "each was asked once");
    let connections = tally.connections.load(Ordering::Relaxed);
    assert!(
        connections >= 6 * kinds.len(),
        "all had to move: {connections}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_while_processes_hand_on_their_listener() {
    let baseline = Server::says("baseline").await;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let line = format!(
        "sidecar --service foo --admin off --workers 2 --upstream http://{}",
        baseline.address
    );
    let next = || Devroute::activated(&line, &[&listener]);
    let first = start(next()).await;
    let mut kinds = KEEPERS.to_vec();
    kinds.push(Kind::Forgetful);
    roll(baseline, &kinds, first, next).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_while_processes_share_their_address() {
    let baseline = Server::says("baseline").await;
    let line = |address| {
        format!(
            "sidecar --service foo --listen {address} --reuse-port --admin off --workers 2 \
             --upstream http://{}",
            baseline.address
        )
    };
    let first = start(Devroute::new(&line("127.0.0.1:0".to_owned()))).await;
    let line = line(first.address.to_string());
    roll(baseline, &KEEPERS, first, || Devroute::new(&line)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_socket_that_is_passed_is_the_admin_listener() {
    let bind = || TcpListener::bind("127.0.0.1:0").unwrap();
    let (traffic, admin) = (bind(), bind());
    let line = "router --listen 192.0.2.1:80 --admin 192.0.2.1:81";
    let running = start(Devroute::activated(line, &[&traffic, &admin])).await;
    assert_eq!(running.address, traffic.local_addr().unwrap());
    let ready = Client::get(admin.local_addr().unwrap(), "/_readyz");
    assert_eq!(ready.send().await.text, "OK");
    assert_eq!(
        Client::get(running.address, "/_healthz").send().await.text,
        "OK"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_for_somebody_else_are_not_taken() {
    let line = "router --listen 127.0.0.1:0 --admin off";
    let devroute = Devroute::new(line)
        .env("LISTEN_FDS", "1")
        .env("LISTEN_PID", "1");
    let running = start(devroute).await;
    assert_eq!(
        Client::get(running.address, "/_healthz").send().await.text,
        "OK"
    );
}

#[test]
fn what_is_passed_has_to_be_a_socket() {
    let output = Devroute::new("router --admin off")
        .env("LISTEN_FDS", "1")
        .run();
    assert_eq!(output.status, Some(1), "{output:?}");
}
