//! Targets that swallow what is sent to them: a sidecar and a router, with the counters.

use std::net::SocketAddr;
use std::time::Duration;

use devroute_tower::transport::Connects;
use http::StatusCode;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;

use crate::support::{Proxy, Server, router, sidecar, until};

const OPENING: &str = r#"devroute_target_connects{state="opening"}"#;
const WAITING: &str = r#"devroute_target_connects{state="waiting"}"#;
const LIMITED: &str = r#"devroute_target_connects_spared_total{reason="limit"}"#;
const REMEMBERED: &str = r#"devroute_target_connects_spared_total{reason="timed_out"}"#;
/// Long enough to look at what waits for it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// A listener whose queue is full: the system drops what comes, and says nothing.
struct BlackHole {
    _listener: TcpListener,
    _filling: Vec<TcpStream>,
    address: SocketAddr,
}

impl BlackHole {
    async fn dig() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut filling = Vec::new();
        let short = Duration::from_millis(200);
        while let Ok(connected) = tokio::time::timeout(short, TcpStream::connect(address)).await {
            filling.push(connected.unwrap());
        }
        Self {
            _listener: listener,
            _filling: filling,
            address,
        }
    }
}

/// Asks 50 times for what is in a black hole, and for a laptop that is not, where 3 connections may be
/// opened at a time and 5 wait for that.
async fn swallowed(proxy: &Proxy, matched: Option<&str>) {
    let hole = BlackHole::dig().await;
    let laptop = Server::says("laptop").await;
    let get = |target: SocketAddr| {
        let request = proxy
            .get("/")
            .contract(&format!("{{\"foo\":\"{target}\"}}"));
        match matched {
            Some(service) => request.header("x-devroute-matched", service),
            None => request,
        }
    };
    let mut asking = JoinSet::new();
    for _ in 0..50 {
        asking.spawn(get(hole.address).send());
    }
    for _ in 0..42 {
        let answer = asking.join_next().await.unwrap().unwrap();
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.json()["cause"], "connect_limit");
    }
    assert_eq!(proxy.sample(OPENING).await, 3.0);
    assert_eq!(proxy.sample(WAITING).await, 5.0);
    assert_eq!(proxy.sample(LIMITED).await, 42.0);
    assert_eq!(get(laptop.address).send().await.text, "laptop");
    while let Some(answer) = asking.join_next().await {
        let answer = answer.unwrap();
        assert_eq!(answer.status, StatusCode::GATEWAY_TIMEOUT);
        assert_eq!(answer.json()["cause"], "connect_timeout");
    }
    assert_eq!(proxy.sample(REMEMBERED).await, 5.0);
    until("nothing is being opened", async || {
        proxy.sample(OPENING).await + proxy.sample(WAITING).await == 0.0
    })
    .await;
    let timed_out = r#"devroute_reroute_failures_total{cause="connect_timeout"}"#;
    assert_eq!(proxy.sample(timed_out).await, 8.0);
    let limited = r#"devroute_reroute_failures_total{cause="connect_limit"}"#;
    assert_eq!(proxy.sample(limited).await, 42.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_12_at_a_sidecar_whose_workers_share_the_limits() {
    let baseline = Server::says("baseline").await;
    let proxy = sidecar(baseline.address, |config| {
        config.process.workers = 2.try_into().unwrap();
        config.reroute.connect_timeout = CONNECT_TIMEOUT;
        config.reroute.connects = Connects::new().per_target(3).line(5);
    })
    .await;
    swallowed(&proxy, None).await;
    assert_eq!(proxy.get("/").send().await.text, "baseline");
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_12_at_a_router() {
    let proxy = router(|config| {
        config.reroute.connect_timeout = CONNECT_TIMEOUT;
        config.reroute.connects = Connects::new().per_target(3).line(5);
    })
    .await;
    swallowed(&proxy, Some("foo")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_itself_is_not_limited_and_not_remembered() {
    let hole = BlackHole::dig().await;
    let proxy = sidecar(hole.address, |config| {
        config.reroute.connect_timeout = Duration::from_millis(300);
        config.reroute.connects = Connects::new().per_target(1).line(0);
    })
    .await;
    let mut asking = JoinSet::new();
    for _ in 0..10 {
        asking.spawn(proxy.get("/").send());
    }
    for answer in asking.join_all().await {
        assert_eq!(answer.json()["cause"], "connect_timeout");
    }
    assert_eq!(
        proxy.get("/").send().await.json()["cause"],
        "connect_timeout"
    );
    assert_eq!(proxy.sample(REMEMBERED).await, 0.0);
}
