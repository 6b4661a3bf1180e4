//! A hub that listens, a laptop that dials it, and a link between them that can be held up.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use devroute_tower::core::ServiceName;
use devroute_tower::transport::Body;
use devroute_tunnel::client::{self, Backoff, Event, HubUrl};
use devroute_tunnel::hub::{Closed, Config, Forward, Hub, Liveness, Serve, WayIn};
use devroute_tunnel::protocol::Grant;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tower_service::Service;

pub(crate) const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Longer than anything takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Quick to find out that the other end is gone, and to come back.
pub(crate) fn quick() -> (Liveness, Backoff) {
    let liveness = Liveness::new(Duration::from_millis(200), Duration::from_millis(400));
    let mut backoff = Backoff::default();
    backoff.first = Duration::from_millis(20);
    backoff.longest = Duration::from_millis(200);
    (liveness, backoff)
}

/// Starts a hub; where laptops dial in.
pub(crate) async fn start(adapt: impl FnOnce(&mut Config)) -> (Hub, SocketAddr) {
    let mut config = Config::new(LOCALHOST);
    config.liveness = quick().0;
    // Each test has ports of its own, as far as there are free ones.
    config.ports = "20000-29999".parse().unwrap();
    adapt(&mut config);
    let hub = Hub::new(config);
    let listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let registrar = hub.registrar(Arc::new(Plain));
    tokio::spawn(accept(listener, move |stream, _client| {
        serve(stream, registrar.clone());
    }));
    let sweeping = hub.clone();
    tokio::spawn(async move { sweeping.sweep().await });
    (hub, address)
}

/// Serves what a hub opens by hyper alone.
struct Plain;

impl Serve for Plain {
    fn listen(&self, listener: TcpListener, forward: Forward, closed: Closed) {
        tokio::spawn(async move {
            let accepting = accept(listener, move |stream, client| {
                serve(stream, forward.with_client(client));
            });
            tokio::select! {
                () = accepting => {}
                () = closed.wait() => {}
            }
        });
    }

    fn outbound(&self, way: WayIn) {
        tokio::spawn(way.serve(tower::service_fn(async |request: Request<Body>| {
            let host = request.uri().host().unwrap_or("nobody").to_owned();
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(host)))
        })));
    }
}

async fn accept(listener: TcpListener, mut take: impl FnMut(TcpStream, SocketAddr)) {
    while let Ok((stream, client)) = listener.accept().await {
        take(stream, client);
    }
}

fn serve<S, B>(stream: TcpStream, service: S)
where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let mut service = service.clone();
        service.call(request.map(Body::new))
    });
    let connection =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    tokio::spawn(connection.with_upgrades());
}

/// A laptop that runs.
pub(crate) struct Laptop {
    events: mpsc::UnboundedReceiver<Event>,
    stop: Option<oneshot::Sender<()>>,
    pub(crate) running: tokio::task::JoinHandle<Result<(), client::Fatal>>,
}

impl Laptop {
    /// Dials `hub` with `foo`, whose requests `answer` answers.
    pub(crate) fn start<F>(
        hub: SocketAddr,
        adapt: impl FnOnce(&mut client::Config),
        answer: impl Fn(Request<Body>) -> F + Clone + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let url: HubUrl = format!("http://{hub}").parse().unwrap();
        let services = vec![ServiceName::new("foo").unwrap()];
        let mut config = client::Config::new(url, services, "alice");
        (config.liveness, config.backoff) = quick();
        adapt(&mut config);
        let service = tower::service_fn(move |request| {
            let answered = answer(request);
            async { Ok::<_, Infallible>(answered.await) }
        });
        let (sender, events) = mpsc::unbounded_channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(client::run(
            config,
            move |_service| service.clone(),
            move |event| {
                let _ = sender.send(event);
            },
            async {
                let _ = stopped.await;
            },
        ));
        Self {
            events,
            stop: Some(stop),
            running,
        }
    }

    pub(crate) async fn event(&mut self) -> Event {
        let event = tokio::time::timeout(PATIENCE, self.events.recv()).await;
        event.expect("in time").expect("it runs")
    }

    /// Waits until it is connected.
    pub(crate) async fn connected(&mut self) -> Grant {
        loop {
            if let Event::Connected(grant) = self.event().await {
                return grant;
            }
        }
    }

    /// Where foo is.
    pub(crate) async fn foo(&mut self) -> SocketAddr {
        self.connected().await.services["foo"].parse().unwrap()
    }

    /// Ends it as it is meant to end.
    pub(crate) async fn stop(mut self) {
        drop(self.stop.take());
        let ended = tokio::time::timeout(PATIENCE, self.running).await;
        assert_eq!(ended.unwrap().unwrap(), Ok(()));
    }
}

/// Answers with the path that was asked for.
pub(crate) async fn echo(request: Request<Body>) -> Response<Body> {
    Response::new(Body::new(request.uri().path().to_owned()))
}

/// Status and body of an answer.
pub(crate) async fn get(address: SocketAddr, path: &str) -> (StatusCode, String) {
    let asked = async {
        let stream = TcpStream::connect(address).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get(path).header("host", "foo");
        let request = request.body(Full::<Bytes>::default()).unwrap();
        let response = sender.send_request(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    };
    tokio::time::timeout(PATIENCE, asked)
        .await
        .expect("in time")
}

/// Waits until `condition` holds.
pub(crate) async fn until(condition: impl Fn() -> bool) {
    let holds = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, holds)
        .await
        .expect("in time");
}

async fn becomes(held: &mut watch::Receiver<bool>, wanted: bool) {
    let _ = held.wait_for(|held| *held == wanted).await;
}

/// A link to `hub` that passes everything on, until it is held up: then nothing comes through, and nobody is told.
pub(crate) struct Link {
    pub(crate) address: SocketAddr,
    held: watch::Sender<bool>,
}

impl Link {
    pub(crate) async fn to(hub: SocketAddr) -> Self {
        let listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (held, holding) = watch::channel(false);
        tokio::spawn(accept(listener, move |near, _client| {
            let mut holding = holding.clone();
            tokio::spawn(async move {
                let mut near = near;
                let is_held = *holding.borrow();
                if is_held {
                    return;
                }
                let mut far = TcpStream::connect(hub).await.unwrap();
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut near, &mut far) => return,
                    () = becomes(&mut holding, true) => {}
                }
                // Both ends stay open, and hear nothing.
                becomes(&mut holding, false).await;
            });
        }));
        Self { address, held }
    }

    pub(crate) fn hold(&self, held: bool) {
        self.held.send_replace(held);
    }
}
