//! Who answers: a service that does as it is told by the path, and targets that do not do well.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_TYPE, HeaderValue, UPGRADE};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

static BIG: [u8; 1 << 20] = [b'x'; 1 << 20];

type Body = UnsyncBoxBody<Bytes, hyper::Error>;

/// A service that answers with `says`, echoes what is posted, and speaks gRPC and WebSocket as far as
/// a proxy sees of them.
pub(crate) async fn service(says: &'static str) -> SocketAddr {
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let _ = stream.set_nodelay(true);
            tokio::spawn(async move {
                let service = service_fn(move |request| answer(request, says));
                let builder = auto::Builder::new(TokioExecutor::new());
                let _ = builder
                    .serve_connection_with_upgrades(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    address
}

/// The same, in a thread of its own that it does not share with those who ask.
pub(crate) fn service_apart(says: &'static str) -> SocketAddr {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            tell.send(service(says).await).unwrap();
            std::future::pending::<()>().await;
        });
    });
    told.recv().unwrap()
}

/// A target that says `answer` to whatever comes, and closes.
pub(crate) async fn closing(answer: &'static [u8]) -> SocketAddr {
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(answer).await;
            });
        }
    });
    address
}

/// An address that nothing listens at, nor will: given back, it was somebody else's within half an hour.
pub(crate) fn nobody() -> SocketAddr {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    Box::leak(Box::new(socket)).local_addr().unwrap()
}

async fn listen() -> (TcpListener, SocketAddr) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(4096).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

async fn answer(
    mut request: Request<Incoming>,
    says: &'static str,
) -> Result<Response<Body>, Infallible> {
    let full = |bytes: Bytes| {
        Full::new(bytes)
            .map_err(|never| match never {})
            .boxed_unsync()
    };
    let headers = request.headers();
    if headers
        .get(CONTENT_TYPE)
        .is_some_and(|kind| kind == "application/grpc")
    {
        return Ok(grpc(request));
    }
    if headers.contains_key(UPGRADE) {
        let upgraded = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            if let Ok(upgraded) = upgraded.await {
                let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded));
                let _ = tokio::io::copy(&mut read, &mut write).await;
            }
        });
        let mut response = Response::new(full(Bytes::new()));
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        return Ok(response);
    }
    match request.uri().path() {
        "/big" => Ok(Response::new(full(Bytes::from_static(&BIG)))),
        "/never" => std::future::pending().await,
        "/echo" => Ok(Response::new(request.into_body().boxed_unsync())),
        "/slow" => {
            tokio::time::sleep(Duration::from_millis(200)).await;
            Ok(Response::new(full(says.into())))
        }
        "/hold" => {
            HELD.fetch_add(1, Ordering::Relaxed);
            std::future::pending().await
        }
        _ => Ok(Response::new(full(says.into()))),
    }
}

/// How many requests have come for what is never answered.
static HELD: AtomicUsize = AtomicUsize::new(0);

/// Waits until so many have.
pub(crate) async fn held(count: usize) {
    while HELD.load(Ordering::Relaxed) < count {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Sends every message back, and a status behind them.
fn grpc(request: Request<Incoming>) -> Response<Body> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let status = std::future::ready(Some(Ok(trailers)));
    let mut response = Response::new(request.into_body().with_trailers(status).boxed_unsync());
    let grpc = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(CONTENT_TYPE, grpc);
    response
}
