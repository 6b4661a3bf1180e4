//! The transport over HTTP/2, to peers that do what no library lets them do.

use std::{
    convert::Infallible,
    future::poll_fn,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use devroute_tower::transport::{Body, Destination, ErrorKind, HttpTransport, Protocol};
use h2::Reason;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    time::timeout,
};
use tower::ServiceExt as _;

/// An empty SETTINGS frame.
const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
/// HEADERS of stream 1: END_HEADERS, and `:status: 103` as a literal (RFC 7541, section 6.2.2).
const EARLY_HINTS: [u8; 14] = *b"\0\0\x05\x01\x04\0\0\0\x01\x08\x03103";

fn post(addr: SocketAddr) -> Request<Body> {
    Request::post(format!("http://{addr}/"))
        .extension(Destination::new(Protocol::Http2))
        .body(Body::empty())
        .unwrap()
}

/// A peer that has said `SETTINGS`, and has seen that somebody speaks.
async fn accept(listener: TcpListener) -> TcpStream {
    let (mut stream, _) = listener.accept().await.unwrap();
    stream.write_all(&SETTINGS).await.unwrap();
    stream.read_u8().await.unwrap();
    stream
}

#[tokio::test]
async fn a_flood_of_informational_answers_ends() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut read, mut write) = accept(listener).await.into_split();
        tokio::spawn(
            async move { while read.read(&mut [0; 1024]).await.is_ok_and(|it| it > 0) {} },
        );
        let flood = EARLY_HINTS.repeat(1000);
        while write.write_all(&flood).await.is_ok() {}
    });
    let error = HttpTransport::new().oneshot(post(addr)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol);
}

/// Answers for some time, and then says GOAWAY.
async fn answer_and_go_away(stream: TcpStream, asked: Arc<AtomicUsize>) {
    let service = service_fn(move |_| {
        asked.fetch_add(1, Ordering::Relaxed);
        async { Ok::<_, Infallible>(Response::new(String::new())) }
    });
    let connection =
        http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    tokio::select! {
        _ = &mut connection => return,
        () = tokio::time::sleep(Duration::from_millis(5)) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_request_is_asked_once_however_many_connections_go_away_under_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&asked);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(answer_and_go_away(stream, Arc::clone(&seen)));
        }
    });
    let transport = HttpTransport::new();
    let asking = (0..8).map(|_| {
        let transport = transport.clone();
        tokio::spawn(async move {
            let mut answered = 0;
            for _ in 0..300 {
                match transport.clone().oneshot(post(addr)).await {
                    Ok(_) => answered += 1,
                    // Refused twice: nobody did anything with it.
                    Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionClosed),
                }
            }
            answered
        })
    });
    let mut answered = 0;
    for asking in asking.collect::<Vec<_>>() {
        answered += asking.await.unwrap();
    }
    assert_eq!(asked.load(Ordering::Relaxed), answered);
}

/// The driver may have seen what it is before the request is handed to it, and then hyper says only that
/// there is no connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_of_another_protocol_is_told_from_one_that_left() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream
                .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                .await
                .unwrap();
            tokio::spawn(
                async move { while stream.read(&mut [0; 64]).await.is_ok_and(|it| it > 0) {} },
            );
        }
    });
    for _ in 0..200 {
        let answer = HttpTransport::new().oneshot(post(addr));
        // Not at all, where the connection ends as the request is handed to it.
        let answer = timeout(PATIENCE, answer).await;
        let error = answer.expect("it is told").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol);
    }
}

/// A peer that takes no byte of a body; `answers` says whether it begins to answer all the same. Tells
/// what it was reset with.
async fn takes_no_body(
    answers: bool,
) -> (SocketAddr, oneshot::Receiver<()>, oneshot::Receiver<Reason>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (asked, was_asked) = oneshot::channel();
    let (reset, was_reset) = oneshot::channel();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut builder = h2::server::Builder::new();
        builder.initial_window_size(0);
        let mut connection = builder.handshake::<_, Bytes>(stream).await.unwrap();
        let (_request, mut respond) = connection.accept().await.unwrap().unwrap();
        tokio::spawn(async move { while connection.accept().await.is_some() {} });
        asked.send(()).unwrap();
        let reason = if answers {
            let mut answer = respond.send_response(Response::new(()), false).unwrap();
            poll_fn(|cx| answer.poll_reset(cx)).await
        } else {
            poll_fn(|cx| respond.poll_reset(cx)).await
        };
        let _ = reset.send(reason.unwrap());
    });
    (addr, was_asked, was_reset)
}

fn upload(addr: SocketAddr) -> Request<Body> {
    post(addr).map(|_empty| Body::new(Full::<Bytes>::from(vec![b'x'; 100_000])))
}

const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_request_that_is_given_up_takes_its_upload_with_it() {
    let (addr, asked, was_reset) = takes_no_body(false).await;
    let asking = tokio::spawn(HttpTransport::new().oneshot(upload(addr)));
    asked.await.unwrap();
    asking.abort();
    let reason = timeout(PATIENCE, was_reset).await.expect("it is reset");
    assert_eq!(reason.unwrap(), Reason::CANCEL);
}

#[tokio::test]
async fn an_answer_that_nobody_reads_any_more_takes_its_upload_with_it() {
    let (addr, _asked, was_reset) = takes_no_body(true).await;
    // The connection outlives the answer, as it does in a pool.
    let transport = HttpTransport::new();
    let answer = transport.clone().oneshot(upload(addr)).await.unwrap();
    drop(answer);
    let reason = timeout(PATIENCE, was_reset).await.expect("it is reset");
    assert_eq!(reason.unwrap(), Reason::CANCEL);
}
