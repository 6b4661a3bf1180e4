//! Many connections that wait, and some that do not.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::task::JoinSet;

use crate::Settings;
use crate::asking::{Connection, request};
use crate::peers;
use crate::proxy::Proxy;

/// What an idle connection may take, in bytes, besides what the kernel has for it.
const LIMIT: u64 = 16 * 1024;
/// The same where a long body has been read on it: hyper keeps the buffer, which is as large as a head may be
/// (64 KiB). The rest is what an allocator has put aside, which differs from run to run.
const LIMIT_AFTER_BODY: u64 = 128 * 1024;
/// Connections on which one is sent, and its bytes.
const POSTING: usize = 100;
const BODY: usize = 1 << 20;
/// Connections that are opened at a time.
const AT_ONCE: usize = 100;

pub(crate) async fn run(settings: &Settings) -> bool {
    let (connections, active) = allowed(settings);
    let service = peers::service("service").await;
    let places = (connections + active + 100).to_string();
    let proxy = Proxy::start(service, &["--max-connections", &places]);
    if proxy.max_connections < places.parse().unwrap() {
        println!("the proxy takes {} connections only", proxy.max_connections);
        return false;
    }

    // What any load makes it allocate, once.
    let warm = open(proxy.address, AT_ONCE * 4).await;
    drop(warm);
    settle().await;
    let before = (proxy.memory(), proxy.files());
    let began = Instant::now();
    let (mut idle, mut failures) = open(proxy.address, connections).await;
    let opened = began.elapsed();
    settle().await;
    let taken = proxy.memory().saturating_sub(before.0);
    let each = taken / idle.len().max(1) as u64;
    println!(
        "{} idle connections, opened in {opened:.1?}: {each} bytes of memory each, {} files",
        idle.len(),
        proxy.files() - before.1
    );

    let seconds = Duration::from_secs(settings.seconds);
    let (answers, slowest, failed) = ask(proxy.address, active, seconds).await;
    failures += failed;
    println!(
        "{active} active connections for {seconds:.0?}: {} requests a second, the slowest took \
         {slowest:.0?}",
        answers / settings.seconds.max(1)
    );

    // Those that waited are still there.
    for connection in &mut idle {
        match connection.get("/").await {
            Ok(answer) if answer.body == "service" => {}
            other => failures += report(&format!("after a while: {other:?}")),
        }
    }
    // What the first of them make it allocate for all: the connections to the service have such buffers, too.
    let warm = (idle.len() / 2).min(POSTING / 4);
    failures += post(&mut idle[..warm]).await;
    settle().await;
    let before_bodies = proxy.memory();
    let posting = (idle.len() - warm).min(POSTING);
    failures += post(&mut idle[warm..warm + posting]).await;
    settle().await;
    let after_body = proxy.memory().saturating_sub(before_bodies) / posting.max(1) as u64;
    println!("{posting} of them after a body of {BODY} bytes: {after_body} more each");
    drop(idle);
    settle().await;
    println!(
        "after them: {} KiB more than before, {} files more",
        proxy.memory().saturating_sub(before.0) / 1024,
        proxy.files().saturating_sub(before.1)
    );
    println!("{failures} failures");
    let stopped = proxy.stop();
    if each > LIMIT {
        println!("that is more than {LIMIT} bytes each");
    }
    if after_body > LIMIT_AFTER_BODY {
        println!("that is more than {LIMIT_AFTER_BODY} bytes each after a body");
    }
    failures == 0 && each <= LIMIT && after_body <= LIMIT_AFTER_BODY && stopped
}

/// Sends a long body on each of the connections, one after the other; the number of those that failed.
async fn post(connections: &mut [Connection]) -> u64 {
    let body = Bytes::from(vec![b'x'; BODY]);
    let mut failures = 0;
    for connection in connections {
        let post = request(Method::POST, "/echo", &[], body.clone());
        match connection.send(post).await {
            Ok(answer) if answer.body == body => {}
            other => failures += report(&format!("a long body: {:?}", other.map(|it| it.status))),
        }
    }
    failures
}

/// As many connections as are asked for, or as this process may open.
pub(crate) fn allowed(settings: &Settings) -> (usize, usize) {
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit {
        current: limit.maximum,
        ..limit
    };
    let _ = setrlimit(Resource::Nofile, wanted);
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let files = usize::try_from(files)
        .unwrap_or(usize::MAX)
        .saturating_sub(500);
    // The service is in this process, too.
    let needed = settings.connections + 2 * settings.active;
    if needed <= files {
        return (settings.connections, settings.active);
    }
    let active = settings.active.min(files / 5);
    let connections = settings.connections.min(files - 2 * active);
    println!(
        "SKIPPED IN PART: the limit of open files allows {connections} idle and {active} active \
         connections only"
    );
    (connections, active)
}

/// Opens connections that have one request each; and the number of those that failed.
async fn open(address: SocketAddr, count: usize) -> (Vec<Connection>, u64) {
    let mut opened = Vec::with_capacity(count);
    let mut failures = 0;
    let mut opening = JoinSet::new();
    for _ in 0..count {
        if opening.len() == AT_ONCE {
            keep(opening.join_next().await, &mut opened, &mut failures);
        }
        opening.spawn(async move {
            let mut connection = Connection::http1(address).await?;
            let answer = connection.get("/").await?;
            if answer.body == "service" {
                Ok(connection)
            } else {
                Err(format!("{answer:?}").into())
            }
        });
    }
    while let Some(joined) = opening.join_next().await {
        keep(Some(joined), &mut opened, &mut failures);
    }
    (opened, failures)
}

type Opened = Result<Connection, Box<dyn std::error::Error + Send + Sync>>;

fn keep(
    joined: Option<Result<Opened, tokio::task::JoinError>>,
    opened: &mut Vec<Connection>,
    failures: &mut u64,
) {
    match joined {
        Some(Ok(Ok(connection))) => opened.push(connection),
        other => *failures += report(&format!("{other:?}")),
    }
}

/// Asks on `count` connections without a pause; answers, the longest wait for one, and failures.
async fn ask(address: SocketAddr, count: usize, time: Duration) -> (u64, Duration, u64) {
    let (connections, mut failures) = open(address, count).await;
    let stop = Arc::new(AtomicBool::new(false));
    let answers = Arc::new(AtomicU64::new(0));
    let mut asking = JoinSet::new();
    for mut connection in connections {
        let (stop, answers) = (Arc::clone(&stop), Arc::clone(&answers));
        asking.spawn(async move {
            let mut slowest = Duration::ZERO;
            while !stop.load(Ordering::Relaxed) {
                let began = Instant::now();
                match connection.get("/").await {
                    Ok(answer) if answer.body == "service" && !answer.last => {}
                    other => {
                        report(&format!("{other:?}"));
                        return Err(());
                    }
                }
                slowest = slowest.max(began.elapsed());
                answers.fetch_add(1, Ordering::Relaxed);
            }
            Ok(slowest)
        });
    }
    tokio::time::sleep(time).await;
    stop.store(true, Ordering::Relaxed);
    let mut slowest = Duration::ZERO;
    while let Some(asked) = asking.join_next().await {
        match asked {
            Ok(Ok(took)) => slowest = slowest.max(took),
            _ => failures += 1,
        }
    }
    (answers.load(Ordering::Relaxed), slowest, failures)
}

/// Lets the proxy see what has been closed, and its pools grow old.
async fn settle() {
    tokio::time::sleep(Duration::from_secs(2)).await;
}

fn report(failure: &str) -> u64 {
    println!("failed: {failure}");
    1
}
