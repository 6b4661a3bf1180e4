//! A process drains: what is in flight finishes, what is new is refused.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use devroute_proxy::config::{Bind, ListenerTls};
use devroute_proxy::metrics::Metrics;
use devroute_proxy::{server, shutdown};
use http::{Request, Response, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use crate::support::tls::{Authority, directory};
use crate::support::{ANY, Client, Devroute, PATIENCE, Server, sidecar, until, until_refused};

const OPEN: &str = r#"devroute_open_connections{listener="proxy"}"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_request_in_flight_finishes_and_new_connections_are_refused() {
    let baseline = Server::holding("baseline").await;
    let sidecar = sidecar(baseline.address, |_| {}).await;
    let in_flight = tokio::spawn(sidecar.get("/").send());
    baseline.arrived().await;

    sidecar.shut_down();
    until_refused(sidecar.address).await;
    let readiness = sidecar.admin("/_readyz").send().await;
    assert_eq!(readiness.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(
        sidecar.admin("/_healthz").send().await.status,
        StatusCode::OK
    );

    baseline.release();
    assert_eq!(in_flight.await.unwrap().text, "baseline");
    assert_eq!(sidecar.drained().await.abandoned, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_outlasts_the_drain_is_cut_and_counted() {
    let baseline = Server::holding("baseline").await;
    let timeout = Duration::from_millis(50);
    let sidecar = sidecar(baseline.address, |config| {
        config.process.drain.timeout = timeout
    })
    .await;
    let in_flight = tokio::spawn(sidecar.get("/").send());
    baseline.arrived().await;
    sidecar.shut_down();
    assert_eq!(sidecar.drained().await.abandoned, 1);
    assert!(
        in_flight.await.is_err(),
        "the client's connection was closed"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_does_not_hold_the_drain() {
    let baseline = Server::says("baseline").await;
    let sidecar = sidecar(baseline.address, |_| {}).await;
    let mut idle = TcpStream::connect(sidecar.address).await.unwrap();
    idle.write_all(b"GET / HTTP/1.1\r\nhost: foo\r\n\r\n")
        .await
        .unwrap();
    let mut answer = [0; 1024];
    assert_ne!(idle.read(&mut answer).await.unwrap(), 0);
    let silent = TcpStream::connect(sidecar.address).await.unwrap();
    until("both are open", async || sidecar.sample(OPEN).await == 2.0).await;
    sidecar.shut_down();
    assert_eq!(sidecar.drained().await.abandoned, 0);
    drop(silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_goes_before_connections_are_refused() {
    let baseline = Server::says("baseline").await;
    let sidecar = sidecar(baseline.address, |config| {
        config.process.drain.delay = Duration::from_secs(2);
    })
    .await;
    sidecar.shut_down();
    let readiness = sidecar.admin("/_readyz").send().await;
    assert_eq!(readiness.status, StatusCode::SERVICE_UNAVAILABLE);
    let answer = sidecar.get("/").send().await;
    assert_eq!(answer.text, "baseline");
    // Nobody is sent away to an address that is still answered by this process.
    assert_eq!(answer.header("connection"), "");
    until_refused(sidecar.address).await;
    assert_eq!(sidecar.drained().await.abandoned, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_after_the_listener_has_closed_says_that_it_is_the_last() {
    let listener = server::bind(Bind::Address(ANY)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (trigger, signal) = shutdown::channel();
    let (entered, has_entered) = oneshot::channel();
    let (release, released) = std::sync::mpsc::channel();
    // It holds up the thread of the second worker, which has no turn then to be told anything.
    let step = Mutex::new(Some((entered, released)));
    let answer = Arc::new(move || {
        if std::thread::current().name() == Some("worker-0") {
            return Response::new(String::new());
        }
        let (entered, released) = step.lock().unwrap().take().unwrap();
        entered.send(()).unwrap();
        released.recv().unwrap();
        Response::new(String::new())
    });
    let mut options = server::Options::default();
    options.workers = 2.try_into().unwrap();
    let metrics = Metrics::new("test", 2);
    let serving = server::serve(listener, options, metrics, signal, move |_worker| {
        let answer = Arc::clone(&answer);
        move |_client| {
            let answer = Arc::clone(&answer);
            tower::service_fn(move |_: Request<server::RequestBody>| {
                std::future::ready(Ok::<_, Infallible>(answer()))
            })
        }
    });
    let serving = tokio::spawn(serving);
    Client::get(address, "/").send().await;
    let asked = tokio::spawn(Client::get(address, "/").send());
    has_entered.await.unwrap();
    trigger.shut_down();
    until_refused(address).await;
    release.send(()).unwrap();
    assert_eq!(asked.await.unwrap().header("connection"), "close");
    assert_eq!(serving.await.unwrap().unwrap().abandoned, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_client_in_its_tls_handshake_does_not_hold_the_drain() {
    let baseline = Server::says("baseline").await;
    let certificates = Authority::new(&directory("silent")).certificates();
    let sidecar = sidecar(baseline.address, |config| {
        config.process.tls = Some(ListenerTls::new(certificates));
        config.process.timers.head = Duration::from_secs(3600);
        config.process.drain.timeout = Duration::from_secs(3600);
        config.process.drain.grace = Duration::from_millis(50);
    })
    .await;
    let silent = TcpStream::connect(sidecar.address).await.unwrap();
    until("it is open", async || sidecar.sample(OPEN).await == 1.0).await;
    sidecar.shut_down();
    assert_eq!(sidecar.drained().await.abandoned, 0);
    drop(silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_is_cut_at_the_end_of_the_drain() {
    let listener = tokio::net::TcpListener::bind(ANY).await.unwrap();
    let sidecar = sidecar(listener.local_addr().unwrap(), |config| {
        config.process.drain.timeout = Duration::from_millis(50);
    })
    .await;
    let mut client = TcpStream::connect(sidecar.address).await.unwrap();
    let upgrade = "connection: upgrade\r\nupgrade: websocket\r\n\r\n";
    let request = format!("GET / HTTP/1.1\r\nhost: foo\r\n{upgrade}");
    client.write_all(request.as_bytes()).await.unwrap();
    let (mut service, _) = listener.accept().await.unwrap();
    // An answer that is there before the request has been written is none.
    let mut asked = Vec::new();
    while !asked.ends_with(b"\r\n\r\n") {
        asked.push(service.read_u8().await.unwrap());
    }
    let answer = format!("HTTP/1.1 101 Switching Protocols\r\n{upgrade}");
    service.write_all(answer.as_bytes()).await.unwrap();
    let mut head = vec![0; 12];
    client.read_exact(&mut head).await.unwrap();
    assert_eq!(head, b"HTTP/1.1 101");

    sidecar.shut_down();
    assert_eq!(sidecar.drained().await.abandoned, 1);
    let mut rest = Vec::new();
    let cut = tokio::time::timeout(PATIENCE, client.read_to_end(&mut rest)).await;
    cut.expect("it is cut").unwrap_or_default();
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_go_to_each_worker_in_turn() {
    let listener = server::bind(Bind::Address(ANY)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut options = server::Options::default();
    options.workers = 3.try_into().unwrap();
    let (trigger, signal) = shutdown::channel();
    let serving = server::serve(
        listener,
        options,
        Metrics::new("test", 3),
        signal,
        |_worker| {
            |_client| {
                tower::service_fn(|_: Request<server::RequestBody>| async {
                    let name = std::thread::current().name().unwrap_or_default().to_owned();
                    Ok::<_, Infallible>(Response::new(name))
                })
            }
        },
    );
    let serving = tokio::spawn(serving);
    let mut workers = Vec::new();
    for _ in 0..6 {
        workers.push(Client::get(address, "/").send().await.text);
    }
    let once = ["worker-0", "worker-1", "worker-2"];
    assert_eq!(workers, [once, once].concat());
    trigger.shut_down();
    assert_eq!(serving.await.unwrap().unwrap().abandoned, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_drains_and_the_process_ends_with_0() {
    let baseline = Server::holding("baseline").await;
    let line = format!(
        "sidecar --service foo --listen 127.0.0.1:0 --admin off --workers 2 --upstream http://{}",
        baseline.address
    );
    let process = tokio::task::spawn_blocking(move || Devroute::new(&line).serve())
        .await
        .unwrap();
    let in_flight = tokio::spawn(Client::get(process.address, "/").send());
    baseline.arrived().await;
    process.signal("TERM");
    until_refused(process.address).await;
    baseline.release();
    assert_eq!(in_flight.await.unwrap().text, "baseline");
    let (status, log) = tokio::task::spawn_blocking(move || process.wait())
        .await
        .unwrap();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.contains("SIGTERM") && log.contains("drained"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_does_not_wait() {
    let baseline = Server::holding("baseline").await;
    let line = format!(
        "sidecar --service foo --listen 127.0.0.1:0 --admin off --upstream http://{}",
        baseline.address
    );
    let mut process = tokio::task::spawn_blocking(move || Devroute::new(&line).serve())
        .await
        .unwrap();
    let in_flight = tokio::spawn(Client::get(process.address, "/").send());
    baseline.arrived().await;
    process.signal("INT");
    let log = tokio::task::block_in_place(|| process.log_line());
    assert_eq!(log["signal"], "SIGINT", "{log}");
    process.signal("INT");
    let waiting = tokio::task::spawn_blocking(move || process.wait());
    let (status, _) = tokio::time::timeout(PATIENCE, waiting)
        .await
        .expect("it ends")
        .unwrap();
    assert_eq!(status.code(), Some(130));
    assert!(in_flight.await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_log_line_says_what_listens_where() {
    let line = "sidecar --service foo --listen 127.0.0.1:0 --admin 127.0.0.1:0 \
                --upstream h2c://127.0.0.1:1 --via 127.0.0.1:2";
    let process = tokio::task::spawn_blocking(|| Devroute::new(line).serve())
        .await
        .unwrap();
    let started = &process.started;
    assert_eq!(started["message"], "sidecar listens");
    assert_eq!(started["service"], "foo");
    assert_eq!(started["upstream"], "h2c://127.0.0.1:1");
    assert_eq!(started["via"], "127.0.0.1:2");
    let admin = started["admin"].as_str().unwrap().parse().unwrap();
    assert_eq!(Client::get(admin, "/_readyz").send().await.text, "OK");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reroute_is_one_log_line_with_its_run_and_nothing_twice() {
    let laptop = Server::says("laptop").await;
    let line = "router --listen 127.0.0.1:0 --admin off --allow loopback";
    let mut process = tokio::task::spawn_blocking(|| Devroute::new(line).serve())
        .await
        .unwrap();
    let contract = format!(r#"{{"foo":"{}","$id":"run-7"}}"#, laptop.address);
    let request = Client::get(process.address, "/").contract(&contract);
    request.header("x-devroute-matched", "foo").send().await;
    let log = tokio::task::block_in_place(|| process.log_line());
    assert_eq!(log["message"], "rerouted");
    assert_eq!(log["id"], "run-7");
    assert_eq!(log["target"], laptop.address.to_string());
    assert_eq!(log["status"], 200);
}
