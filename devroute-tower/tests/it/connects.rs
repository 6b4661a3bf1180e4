//! Targets that swallow what is sent to them, and everybody else.
//!
//! A black hole on loopback: a listener whose queue is full drops what comes, and says nothing.

use std::{net::SocketAddr, time::Duration};

use devroute_tower::{
    OnFailure,
    transport::{Connects, HttpTransport},
};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinSet,
    time::{Instant, timeout},
};

use crate::support::{contract, echo, get, layer, serve};

/// Long enough for a busy machine, and short enough to wait for.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

struct BlackHole {
    listener: TcpListener,
    /// What fills its queue.
    filling: Vec<TcpStream>,
    addr: SocketAddr,
}

impl BlackHole {
    async fn dig() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let addr = listener.local_addr().unwrap();
        let mut filling = Vec::new();
        while let Ok(connected) =
            timeout(Duration::from_millis(200), TcpStream::connect(addr)).await
        {
            filling.push(connected.unwrap());
        }
        Self {
            listener,
            filling,
            addr,
        }
    }

    /// Somebody answers there from now on.
    fn wake(self) {
        drop(self.filling);
        let app = axum::serve(self.listener, echo("laptop"));
        tokio::spawn(async move { app.await.unwrap() });
    }
}

fn transport(connects: &Connects) -> HttpTransport {
    HttpTransport::new()
        .connect_timeout(CONNECT_TIMEOUT)
        .connects(connects.clone())
}

#[tokio::test]
async fn rule_12_a_black_hole_takes_its_share_and_nobody_elses() {
    let hole = BlackHole::dig().await;
    let laptop = serve(echo("laptop")).await;
    let connects = Connects::new().per_target(4).line(8);
    let addr = serve(echo("baseline").layer(layer().transport(transport(&connects)))).await;
    let lost = contract("foo", hole.addr);

    let mut asking = JoinSet::new();
    for _ in 0..100 {
        let lost = lost.clone();
        asking.spawn(async move { get(addr, &lost).await });
    }
    // 4 are tried, 8 wait, and the rest hears at once that there is no place.
    let began = Instant::now();
    for _ in 0..88 {
        let answer = asking.join_next().await.unwrap().unwrap();
        assert_eq!(answer.status, 503, "{answer:?}");
        assert_eq!(answer.problem()["cause"], "connect_limit");
        let proxy_status = answer.field("proxy-status");
        assert!(proxy_status.contains("error=connection_limit_reached;"));
        assert_eq!(
            answer.field("x-devroute-routed"),
            "foo=none; reason=connect_limit"
        );
    }
    assert!(began.elapsed() < CONNECT_TIMEOUT);
    assert_eq!((connects.opening(), connects.waiting()), (4, 8));
    assert_eq!(
        get(addr, &contract("foo", laptop)).await.body,
        "laptop GET /path?q=1 "
    );
    assert_eq!(get(addr, "").await.body, "baseline GET /path?q=1 ");

    // The line hears of the first time-out, and does not wait for one of its own.
    while let Some(answer) = asking.join_next().await {
        let answer = answer.unwrap();
        assert_eq!(answer.status, 504, "{answer:?}");
        assert_eq!(answer.problem()["cause"], "connect_timeout");
    }
    assert_eq!((connects.opening(), connects.waiting()), (0, 0));
    assert_eq!(connects.limited(), 88);
    assert_eq!(connects.remembered(), 8);
}

#[tokio::test]
async fn rule_18_a_connection_has_its_whole_time_after_a_line() {
    const TIME: Duration = Duration::from_secs(1);
    let hole = BlackHole::dig().await;
    let connects = Connects::new().per_target(1).memory(Duration::ZERO);
    let transport = transport(&connects).connect_timeout(TIME);
    let addr = serve(echo("baseline").layer(layer().transport(transport))).await;
    let lost = contract("foo", hole.addr);
    let first = {
        let lost = lost.clone();
        tokio::spawn(async move { get(addr, &lost).await })
    };
    while connects.opening() == 0 {
        tokio::task::yield_now().await;
    }
    // Most of the first one's time has gone by when the second one comes.
    tokio::time::sleep(TIME * 7 / 10).await;
    let began = Instant::now();
    let second = get(addr, &lost).await;
    assert_eq!(second.status, 504, "{second:?}");
    assert!(
        began.elapsed() >= TIME * 12 / 10,
        "what it waited in the line is not taken off: {:?}",
        began.elapsed()
    );
    assert_eq!(first.await.unwrap().status, 504);
}

#[tokio::test]
async fn rule_12_a_time_out_is_told_to_others_at_once_until_it_is_too_old() {
    let hole = BlackHole::dig().await;
    let connects = Connects::new().memory(Duration::from_secs(1));
    let addr = serve(echo("baseline").layer(layer().transport(transport(&connects)))).await;
    let lost = contract("foo", hole.addr);
    assert_eq!(get(addr, &lost).await.status, 504);
    let began = Instant::now();
    let told = get(addr, &lost).await;
    if began.elapsed() < CONNECT_TIMEOUT {
        let problem = told.problem();
        assert_eq!(
            (told.status, &problem["cause"]),
            (504, &"connect_timeout".into())
        );
        let detail = problem["detail"].as_str().unwrap();
        assert!(
            detail.contains("did not answer a connection attempt "),
            "{detail}"
        );
        assert!(detail.contains(" ms ago"), "{detail}");
        assert_eq!(connects.remembered(), 1);
    }
    // Whoever comes back is asked again after that second, and no later.
    hole.wake();
    while get(addr, &lost).await.status != 200 {
        assert!(began.elapsed() < Duration::from_secs(30));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let again = [(); 8].map(|()| get(addr, &lost));
    for answer in again {
        assert_eq!(answer.await.body, "laptop GET /path?q=1 ");
    }
}

#[tokio::test]
async fn rule_13_the_baseline_answers_where_a_target_is_not_even_tried() {
    let hole = BlackHole::dig().await;
    let connects = Connects::new().per_target(1).line(0);
    let layer = layer()
        .transport(transport(&connects))
        .on_failure(OnFailure::Fallback);
    let addr = serve(echo("baseline").layer(layer)).await;
    let lost = contract("foo", hole.addr);
    let first = tokio::spawn({
        let lost = lost.clone();
        async move { get(addr, &lost).await }
    });
    while connects.opening() == 0 {
        tokio::task::yield_now().await;
    }
    let limited = get(addr, &lost).await;
    assert_eq!(limited.body, "baseline GET /path?q=1 ");
    assert_eq!(
        limited.field("x-devroute-routed"),
        "foo=baseline; reason=connect_limit"
    );
    let timed_out = "foo=baseline; reason=connect_timeout";
    assert_eq!(first.await.unwrap().field("x-devroute-routed"), timed_out);
    let remembered = get(addr, &lost).await;
    assert_eq!(remembered.field("x-devroute-routed"), timed_out);
}

#[tokio::test]
async fn a_refusal_is_never_remembered() {
    let connects = Connects::new().memory(Duration::from_secs(3600));
    let addr = serve(echo("baseline").layer(layer().transport(transport(&connects)))).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let restarting = contract("foo", socket.local_addr().unwrap());
    for _ in 0..10 {
        assert_eq!(
            get(addr, &restarting).await.problem()["cause"],
            "connection_refused"
        );
    }
    let listener = socket.listen(16).unwrap();
    tokio::spawn(async move { axum::serve(listener, echo("laptop")).await.unwrap() });
    assert_eq!(get(addr, &restarting).await.body, "laptop GET /path?q=1 ");
}

#[tokio::test]
async fn many_black_holes_leave_room_for_those_who_were_reached_before() {
    let laptop = serve(echo("laptop")).await;
    let connects = Connects::new().in_all(3);
    // No connection is kept, so each request opens one.
    let transport = transport(&connects).max_idle(0);
    let addr = serve(echo("baseline").layer(layer().transport(transport))).await;
    assert_eq!(get(addr, &contract("foo", laptop)).await.status, 200);
    let mut holes = Vec::new();
    let mut asking = JoinSet::new();
    for _ in 0..3 {
        let hole = BlackHole::dig().await;
        let lost = contract("foo", hole.addr);
        holes.push(hole);
        asking.spawn(async move { get(addr, &lost).await.status });
    }
    while connects.opening() < 3 {
        tokio::task::yield_now().await;
    }
    let stranger = serve(echo("stranger")).await;
    let answer = get(addr, &contract("foo", stranger)).await;
    assert_eq!(answer.problem()["cause"], "connect_limit");
    assert_eq!(get(addr, &contract("foo", laptop)).await.status, 200);
    assert_eq!(asking.join_all().await, [504; 3]);
    assert_eq!(get(addr, &contract("foo", stranger)).await.status, 200);
}
