//! Everything at once, for as long as one likes.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use hyper::body::Bytes;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::asking::{self, Connection};
use crate::peers;
use crate::proxy::Proxy;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How much more memory there may be in the end than when everything was warm: what a pool or a heap
/// moves by, and far less than what a leak of one byte a request comes to in half an hour.
const SLACK: u64 = 4 * 1024 * 1024;

/// What has happened so far.
#[derive(Debug, Default)]
struct Tally {
    done: Mutex<BTreeMap<&'static str, u64>>,
    failures: AtomicU64,
    stop: AtomicBool,
}

/// Who is there to be asked.
#[derive(Clone, Debug)]
struct Peers {
    proxy: SocketAddr,
    laptop: String,
    nobody: String,
    cut_head: String,
    cut_body: String,
    garbage: String,
}

pub(crate) async fn run(time: Duration) -> bool {
    let service = peers::service("service").await;
    let proxy = Proxy::start(service, &[]);
    let contract = |address| format!("{{\"foo\":\"{address}\",\"$id\":\"load\"}}");
    let peers = Peers {
        proxy: proxy.address,
        laptop: contract(peers::service("laptop").await),
        nobody: contract(peers::nobody()),
        cut_head: contract(peers::closing(b"HTTP/1.1 200 OK\r\ncontent-").await),
        cut_body: contract(
            peers::closing(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf").await,
        ),
        garbage: contract(peers::closing(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n").await),
    };
    let tally = Arc::new(Tally::default());
    let mut clients = JoinSet::new();
    for _ in 0..8 {
        go(&mut clients, &tally, "HTTP/1.1", &peers, http1);
        go(&mut clients, &tally, "HTTP/2", &peers, http2);
        go(&mut clients, &tally, "gRPC", &peers, grpc);
        go(&mut clients, &tally, "WebSocket", &peers, websocket);
        go(&mut clients, &tally, "reroute", &peers, reroute);
        go(&mut clients, &tally, "fault", &peers, fault);
        go(&mut clients, &tally, "client gone", &peers, gone);
    }

    // A fifth of the time to get warm: pools, tables, the record of reroutes.
    let began = Instant::now();
    let warm = began + time / 5;
    let mut samples = Vec::new();
    while began.elapsed() < time {
        tokio::time::sleep((time / 100).clamp(Duration::from_millis(200), Duration::from_secs(10)))
            .await;
        if Instant::now() >= warm {
            samples.push((proxy.memory(), proxy.files()));
        }
    }
    tally.stop.store(true, Ordering::Relaxed);
    clients.join_all().await;

    for (what, count) in &*tally.done.lock().unwrap() {
        println!("{what:>12}: {count}");
    }
    let failures = tally.failures.load(Ordering::Relaxed);
    println!("{failures} failures");
    let third = (samples.len() / 3).max(1);
    let (first, last) = (&samples[..third], &samples[samples.len() - third..]);
    let memory = (median(first, |s| s.0), median(last, |s| s.0));
    let files = (median(first, |s| s.1 as u64), median(last, |s| s.1 as u64));
    println!(
        "memory: {} KiB in the first third, {} KiB in the last; open files: {}, {}",
        memory.0 / 1024,
        memory.1 / 1024,
        files.0,
        files.1
    );
    let flat = memory.1 <= memory.0 + memory.0 / 10 + SLACK && files.1 <= files.0 + 50;
    if !flat {
        println!("that is not flat");
    }
    proxy.stop() && failures == 0 && flat
}

fn median(samples: &[(u64, usize)], of: impl Fn(&(u64, usize)) -> u64) -> u64 {
    let mut values: Vec<u64> = samples.iter().map(of).collect();
    values.sort_unstable();
    values[values.len() / 2]
}

/// Does `what` over and over in a task of its own.
fn go<F, R>(
    clients: &mut JoinSet<()>,
    tally: &Arc<Tally>,
    what: &'static str,
    peers: &Peers,
    once: F,
) where
    F: Fn(Peers, usize) -> R + Send + 'static,
    R: Future<Output = Result<u64, BoxError>> + Send + 'static,
{
    let (tally, peers) = (Arc::clone(tally), peers.clone());
    clients.spawn(async move {
        let mut round = 0;
        while !tally.stop.load(Ordering::Relaxed) {
            match once(peers.clone(), round).await {
                Ok(count) => *tally.done.lock().unwrap().entry(what).or_default() += count,
                Err(error) => {
                    println!("failed: {what}: {error}");
                    tally.failures.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
            round += 1;
        }
    });
}

/// Fails where something else was answered.
fn expect(answer: &asking::Answer, status: StatusCode, body: &[u8]) -> Result<(), BoxError> {
    if answer.status == status && answer.body == body {
        return Ok(());
    }
    Err(format!("{answer:?}").into())
}

/// A connection that is kept for some requests, and bodies of every size on it.
async fn http1(peers: Peers, round: usize) -> Result<u64, BoxError> {
    let mut connection = Connection::http1(peers.proxy).await?;
    several(&mut connection, round).await
}

async fn http2(peers: Peers, round: usize) -> Result<u64, BoxError> {
    let mut connection = Connection::http2(peers.proxy).await?;
    several(&mut connection, round).await
}

async fn several(connection: &mut Connection, round: usize) -> Result<u64, BoxError> {
    for size in [1, 100, 10_000, 200_000] {
        let body = Bytes::from(vec![b'x'; size + round % 100]);
        let request = asking::request(Method::POST, "/echo", &[], body.clone());
        expect(&connection.send(request).await?, StatusCode::OK, &body)?;
    }
    for path in ["/", "/slow", "/"] {
        expect(&connection.get(path).await?, StatusCode::OK, b"service")?;
    }
    Ok(7)
}

async fn grpc(peers: Peers, round: usize) -> Result<u64, BoxError> {
    let mut connection = Connection::http2(peers.proxy).await?;
    for _ in 0..5 {
        let message = Bytes::from(vec![0; 5 + round % 1000]);
        let headers = [("content-type", "application/grpc")];
        let request = asking::request(Method::POST, "/a.B/C", &headers, message.clone());
        let answer = connection.send(request).await?;
        expect(&answer, StatusCode::OK, &message)?;
        let status = answer
            .trailers
            .as_ref()
            .and_then(|map| map.get("grpc-status"));
        if status.is_none_or(|status| status != "0") {
            return Err(format!("{answer:?}").into());
        }
    }
    Ok(5)
}

async fn websocket(peers: Peers, round: usize) -> Result<u64, BoxError> {
    let bytes = vec![7; 50_000 + round % 1000];
    if asking::tunnel(peers.proxy, &bytes).await? == bytes {
        return Ok(1);
    }
    Err("other bytes came back".into())
}

async fn reroute(peers: Peers, _round: usize) -> Result<u64, BoxError> {
    let mut connection = Connection::http1(peers.proxy).await?;
    for _ in 0..10 {
        let headers = [("x-devroute", &*peers.laptop)];
        let request = asking::request(Method::GET, "/", &headers, Bytes::new());
        expect(&connection.send(request).await?, StatusCode::OK, b"laptop")?;
    }
    Ok(10)
}

/// What fails is answered with 502, and what fails in a body breaks off.
async fn fault(peers: Peers, round: usize) -> Result<u64, BoxError> {
    let mut connection = Connection::http1(peers.proxy).await?;
    for contract in [&peers.nobody, &peers.cut_head, &peers.garbage] {
        let headers = [("x-devroute", &**contract)];
        let body = Bytes::from(vec![b'x'; round % 1000]);
        let request = asking::request(Method::POST, "/", &headers, body);
        let answer = connection.send(request).await?;
        if answer.status != StatusCode::BAD_GATEWAY {
            return Err(format!("{answer:?}").into());
        }
        if answer.last {
            connection = Connection::http1(peers.proxy).await?;
        }
    }
    let headers = [("x-devroute", &*peers.cut_body)];
    let request = asking::request(Method::GET, "/", &headers, Bytes::new());
    match connection.send(request).await {
        Err(_broken_off) => Ok(4),
        Ok(answer) => Err(format!("half a body looks complete: {answer:?}").into()),
    }
}

/// A client that does not wait for its answer, or not even for the end of its request.
async fn gone(peers: Peers, round: usize) -> Result<u64, BoxError> {
    let mut stream = TcpStream::connect(peers.proxy).await?;
    let head: &[u8] = match round % 3 {
        0 => b"GET /slow HTTP/1.1\r\nhost: foo\r\n\r\n",
        1 => b"POST /echo HTTP/1.1\r\nhost: foo\r\ncontent-length: 100\r\n\r\nhalf",
        _ => b"GET /slow HTT",
    };
    stream.write_all(head).await?;
    tokio::time::sleep(Duration::from_millis(20)).await;
    Ok(1)
}
