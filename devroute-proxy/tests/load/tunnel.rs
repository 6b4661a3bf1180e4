//! Laptops on one hub: what they take of its memory, and what the way through it costs.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use devroute_tower::core::ServiceName;
use devroute_tower::transport::{Body, HttpTransport, ResponseBody, Upstream};
use devroute_tunnel::client::{self, Event};
use http::{Method, Request, Response};
use hyper::body::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tower::ServiceExt as _;

use crate::Settings;
use crate::asking::{Connection, request};
use crate::peers;
use crate::proxy::Proxy;

/// What a hub may take for 500 laptops with 5 requests each.
const MEMORY: u64 = 512 * 1024 * 1024;
/// Processor time of a request at a hub, in that of one at a router that dials the target itself.
const COST: f64 = 2.0;
/// What the way through hub and laptop may add to the time of a request, by the median.
const ADDED: Duration = Duration::from_micros(300);
/// Requests in flight to each laptop.
const STREAMS: usize = 5;

pub(crate) async fn run(settings: &Settings) -> bool {
    let laptops = settings.connections.min(500);
    let sessions = (laptops + 10).to_string();
    let hub = Proxy::start_mode(
        "hub",
        &[
            "--insecure-no-auth",
            "--address",
            "127.0.0.1",
            "--ports",
            "20000-31999",
        ],
        &["--max-sessions", &sessions, "--max-pending", &sessions],
    );
    let passed =
        memory(&hub, laptops).await & cost(&hub, Duration::from_secs(settings.seconds)).await;
    hub.stop() && passed
}

/// Many laptops, each of which has some requests that it does not answer yet.
async fn memory(hub: &Proxy, laptops: usize) -> bool {
    let before = hub.memory();
    let (release, released) = watch::channel(false);
    let mut running = JoinSet::new();
    let mut asking = JoinSet::new();
    for number in 0..laptops {
        let released = released.clone();
        let service = tower::service_fn(move |_request: Request<Body>| {
            let mut released = released.clone();
            async move {
                let _ = released.wait_for(|now| *now).await;
                Ok::<_, Infallible>(Response::new(ResponseBody::empty()))
            }
        });
        let address = dial(&mut running, hub.address, number, service).await;
        for _ in 0..STREAMS {
            asking.spawn(async move { Connection::http1(address).await?.get("/").await });
        }
    }
    let with_connections = hub.memory();
    // As soon as all of them are on their way to a laptop nothing changes any more.
    let (mut last, mut same) = (0, 0);
    while same < 5 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = hub.memory();
        same = if now == last { same + 1 } else { 0 };
        last = now;
    }
    println!(
        "{laptops} laptops with {STREAMS} requests each: the hub has {} MiB, and had {} MiB before, {} MiB with the \
         laptops alone",
        last >> 20,
        before >> 20,
        with_connections >> 20
    );
    release.send_replace(true);
    let mut failures = 0;
    while let Some(answer) = asking.join_next().await {
        match answer {
            Ok(Ok(answer)) if answer.status.is_success() => {}
            other => {
                failures += 1;
                println!("not answered: {other:?}");
            }
        }
    }
    running.shutdown().await;
    last < MEMORY && failures == 0
}

/// The same requests by a router that dials the target, and through hub and laptop.
async fn cost(hub: &Proxy, time: Duration) -> bool {
    let service = peers::service("service").await;
    let router = Proxy::start_mode("router", &["--allow", "loopback"], &[]);
    let mut running = JoinSet::new();
    let upstream = Upstream::new(HttpTransport::new(), service);
    let through =
        tower::service_fn(move |request: Request<Body>| upstream.clone().oneshot(request));
    let tunnelled = dial(&mut running, hub.address, 1_000, through).await;
    let contract = format!("{{\"foo\":\"{service}\"}}");
    let by_router: [(&str, &str); 2] = [("x-devroute", &contract), ("x-devroute-matched", "foo")];

    let alone = median(service, &[], time / 8).await;
    let routed = median(router.address, &by_router, time / 8).await;
    let through = median(tunnelled, &[], time / 8).await;
    println!(
        "the median of a request, one after the other: {alone:?} to the service itself, {routed:?} by a router, \
         {through:?} through hub and laptop"
    );
    let mut rounds = Vec::new();
    for _ in 0..3 {
        let of_router = processor(&router, router.address, &by_router, time / 8).await;
        let of_hub = processor(hub, tunnelled, &[], time / 8).await;
        rounds.push((of_hub / of_router, of_hub, of_router));
    }
    rounds.sort_by(|left, right| left.0.total_cmp(&right.0));
    let (ratio, of_hub, of_router) = rounds[1];
    println!(
        "processor time of a request: {of_hub:.1} us at the hub, {of_router:.1} us at a router: {ratio:.2} times"
    );
    running.shutdown().await;
    let stopped = router.stop();
    if cfg!(debug_assertions) {
        println!("this is no release build: what the way costs is not judged");
        return stopped;
    }
    stopped && ratio <= COST && through.saturating_sub(alone) <= ADDED
}

/// Starts a laptop with the one service `foo`; where that is reached.
async fn dial<S>(
    running: &mut JoinSet<()>,
    hub: SocketAddr,
    number: usize,
    service: S,
) -> SocketAddr
where
    S: tower::Service<Request<Body>, Response = Response<ResponseBody>, Error = Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    let url = format!("http://{hub}").parse().unwrap();
    let services = vec![ServiceName::new("foo").unwrap()];
    let config = client::Config::new(url, services, format!("laptop-{number}"));
    let (tell, mut told) = mpsc::unbounded_channel();
    running.spawn(async move {
        let tell = move |event| {
            let _ = tell.send(event);
        };
        let never = std::future::pending();
        let ended = client::run(config, |_service| service.clone(), tell, never).await;
        println!("a laptop has ended: {ended:?}");
    });
    loop {
        if let Event::Connected(grant) = told.recv().await.unwrap() {
            return grant.services["foo"].parse().unwrap();
        }
    }
}

/// The median time of requests that are sent one after the other.
async fn median(address: SocketAddr, fields: &[(&str, &str)], time: Duration) -> Duration {
    let mut connection = Connection::http1(address).await.unwrap();
    let mut times = Vec::new();
    let began = Instant::now();
    while began.elapsed() < time {
        let sent = Instant::now();
        let request = request(Method::GET, "/", fields, Bytes::new());
        let answer = connection.send(request).await.unwrap();
        assert!(answer.status.is_success(), "{answer:?}");
        times.push(sent.elapsed());
    }
    times.sort_unstable();
    times[times.len() / 2]
}

/// The processor time that `proxy` takes for a request, in microseconds, with 16 at a time.
async fn processor(
    proxy: &Proxy,
    address: SocketAddr,
    fields: &[(&str, &str)],
    time: Duration,
) -> f64 {
    let before = proxy.cpu();
    let mut asking = JoinSet::new();
    for _ in 0..16 {
        let fields: Vec<(String, String)> = fields
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        asking.spawn(async move {
            let fields: Vec<(&str, &str)> = fields
                .iter()
                .map(|(name, value)| (&**name, &**value))
                .collect();
            let mut connection = Connection::http1(address).await.unwrap();
            let (began, mut answers) = (Instant::now(), 0_u64);
            while began.elapsed() < time {
                let request = request(Method::GET, "/", &fields, Bytes::new());
                let answer = connection.send(request).await.unwrap();
                assert!(answer.status.is_success(), "{answer:?}");
                answers += 1;
            }
            answers
        });
    }
    let answers: u64 = asking.join_all().await.into_iter().sum();
    let taken = proxy.cpu() - before;
    taken.as_secs_f64() * 1e6 / answers as f64
}
