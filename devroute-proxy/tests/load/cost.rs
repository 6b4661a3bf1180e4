//! What a router takes: of a core for a request, and of memory for one that waits at a breakpoint.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use http::{Method, Request, StatusCode};
use http_body_util::Full;
use hyper::body::Bytes;
use tokio::task::JoinSet;

use crate::Settings;
use crate::asking::{Connection, request};
use crate::idle::allowed;
use crate::peers;
use crate::proxy::Proxy;

/// What a request that waits may take, in bytes: two connections' buffers, its head and its futures.
const LIMIT: u64 = 64 * 1024;
const MIB: usize = 1024 * 1024;

/// What is asked for, over and over.
struct Kind {
    what: &'static str,
    http2: bool,
    connections: usize,
    /// Requests at a time on each of them.
    at_once: usize,
    request: fn(&str) -> Request<Full<Bytes>>,
    length: usize,
}

const KINDS: [Kind; 3] = [
    Kind {
        what: "HTTP/1.1",
        http2: false,
        connections: 64,
        at_once: 1,
        request: |contract| rerouted(Method::GET, "/", contract, &[], Bytes::new()),
        length: "laptop".len(),
    },
    Kind {
        what: "gRPC",
        http2: true,
        connections: 8,
        at_once: 8,
        request: |contract| {
            let grpc = [("content-type", "application/grpc")];
            let message = Bytes::from_static(b"\0\0\0\0\x05hello");
            rerouted(Method::POST, "/a.B/C", contract, &grpc, message)
        },
        length: 10,
    },
    Kind {
        what: "HTTP/1.1, 1 MiB there and back",
        http2: false,
        connections: 8,
        at_once: 1,
        request: |contract| {
            rerouted(
                Method::POST,
                "/echo",
                contract,
                &[],
                Bytes::from_static(&[b'x'; MIB]),
            )
        },
        length: MIB,
    },
];

pub(crate) async fn run(settings: &Settings) -> bool {
    // The laptop is in this process, too.
    let (_, waiting) = allowed(&Settings {
        connections: 0,
        active: settings.connections,
        ..*settings
    });
    let laptop = peers::service("laptop").await;
    let contract = format!("{{\"foo\":\"{laptop}\",\"$id\":\"load\"}}");
    let router = Proxy::start_mode("router", &["--allow", "loopback"], &[]);
    let mut failures = 0;
    for kind in &KINDS {
        let time = Duration::from_secs(settings.seconds);
        let (answers, took, failed) = ask(&router, kind, &contract, time).await;
        failures += failed;
        let each = took.as_secs_f64() * 1e6 / answers.max(1) as f64;
        println!(
            "{}: {each:.1} us of a core each, {:.0} a second and core; {answers} answers",
            kind.what,
            1e6 / each.max(0.1),
        );
    }

    let before = (router.memory(), router.files());
    let (held, failed) = hold(router.address, waiting, &contract).await;
    failures += failed;
    let each = router.memory().saturating_sub(before.0) / held.len().max(1) as u64;
    let files = (router.files() - before.1) as f64 / held.len().max(1) as f64;
    println!(
        "{} requests that wait: {each} bytes of memory and {files:.1} files each",
        held.len()
    );
    drop(held);
    failures += u64::from(!answers(router.address, &contract).await);
    println!("{failures} failures");
    if each > LIMIT {
        println!("that is more than {LIMIT} bytes each");
    }
    router.stop() && failures == 0 && each <= LIMIT
}

fn rerouted(
    method: Method,
    path: &str,
    contract: &str,
    fields: &[(&str, &str)],
    body: Bytes,
) -> Request<Full<Bytes>> {
    let ours = [("x-devroute", contract), ("x-devroute-matched", "foo")];
    request(method, path, &[&ours, fields].concat(), body)
}

/// Asks without a pause; the answers, the time of a core that the router took, and the failures.
async fn ask(router: &Proxy, kind: &Kind, contract: &str, time: Duration) -> (u64, Duration, u64) {
    let stop = Arc::new(AtomicBool::new(false));
    let answers = Arc::new(AtomicU64::new(0));
    let mut asking = JoinSet::new();
    for _ in 0..kind.connections {
        let connection = if kind.http2 {
            Connection::http2(router.address).await
        } else {
            Connection::http1(router.address).await
        };
        let connection = connection.unwrap();
        for client in connection.shared(kind.at_once) {
            let (stop, answers) = (Arc::clone(&stop), Arc::clone(&answers));
            let (make, length, contract) = (kind.request, kind.length, contract.to_owned());
            asking.spawn(
                async move { until(client, stop, answers, || make(&contract), length).await },
            );
        }
    }
    // What the first requests make it allocate and connect is not counted.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = (router.cpu(), answers.load(Ordering::Relaxed));
    tokio::time::sleep(time).await;
    let after = (router.cpu(), answers.load(Ordering::Relaxed));
    stop.store(true, Ordering::Relaxed);
    let mut failures = 0;
    while let Some(asked) = asking.join_next().await {
        if let Err(error) | Ok(Err(error)) = asked.map_err(|error| error.to_string()) {
            println!("failed: {}: {error}", kind.what);
            failures += 1;
        }
    }
    (after.1 - before.1, after.0 - before.0, failures)
}

async fn until(
    mut client: Connection,
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicU64>,
    make: impl Fn() -> Request<Full<Bytes>>,
    length: usize,
) -> Result<(), String> {
    while !stop.load(Ordering::Relaxed) {
        let answer = client
            .send(make())
            .await
            .map_err(|error| error.to_string())?;
        if answer.status != StatusCode::OK || answer.body.len() != length {
            return Err(format!("{} and {} bytes", answer.status, answer.body.len()));
        }
        answers.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Requests that nobody answers, each on a connection of its own; and those that were answered all the same.
async fn hold(router: SocketAddr, count: usize, contract: &str) -> (JoinSet<()>, u64) {
    let (mut held, mut failures) = (JoinSet::new(), 0);
    for _ in 0..count {
        let mut connection = Connection::http1(router).await.unwrap();
        let asked = rerouted(Method::GET, "/hold", contract, &[], Bytes::new());
        held.spawn(async move {
            let answer = connection.send(asked).await;
            println!("failed: one that was to wait: {answer:?}");
        });
    }
    peers::held(count).await;
    while held.try_join_next().is_some() {
        failures += 1;
    }
    (held, failures)
}

async fn answers(router: SocketAddr, contract: &str) -> bool {
    let mut connection = Connection::http1(router).await.unwrap();
    let asked = rerouted(Method::GET, "/", contract, &[], Bytes::new());
    connection
        .send(asked)
        .await
        .is_ok_and(|answer| answer.body == "laptop")
}
