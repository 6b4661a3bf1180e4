//! The transport: which connections it opens, keeps and drops, and when bytes move.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Body as AxumBody, extract::Request as AxumRequest};
use bytes::Bytes;
use devroute_tower::transport::{Body, ErrorKind, HttpTransport};
use http::{HeaderValue, Request};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::mpsc,
};
use tower::ServiceExt as _;

use crate::support::{read_head, serve};

/// Counts the connections that come in before they reach `app`.
async fn counted(app: Router) -> (SocketAddr, Arc<AtomicUsize>) {
    let target = serve(app).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    tokio::spawn(async move {
        loop {
            let (mut inbound, _) = listener.accept().await.unwrap();
            counter.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let mut outbound = tokio::net::TcpStream::connect(target).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut inbound, &mut outbound).await;
            });
        }
    });
    (addr, count)
}

fn get(addr: SocketAddr) -> Request<Body> {
    Request::get(format!("http://{addr}/"))
        .body(Body::empty())
        .unwrap()
}

async fn text(transport: &HttpTransport, request: Request<Body>) -> String {
    let response = transport.clone().oneshot(request).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.into()).unwrap()
}

/// Waits until `condition` holds; fails loudly where it never does.
async fn eventually(condition: impl Fn() -> bool) {
    tokio::time::timeout(Duration::from_secs(10), async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn one_connection_serves_requests_in_a_row() {
    let (addr, connections) = counted(Router::new().fallback(|| async { "hello" })).await;
    let transport = HttpTransport::new();
    for _ in 0..5 {
        assert_eq!(text(&transport, get(addr)).await, "hello");
    }
    // So does one whose answers have no length, no body, or an empty one.
    assert_eq!(connections.load(Ordering::SeqCst), 1);
    assert_eq!(transport.open_connections(), 1);
}

#[tokio::test]
async fn answers_of_every_shape_return_the_connection() {
    let app = Router::new().fallback(|request: AxumRequest| async move {
        match request.uri().path() {
            "/chunked" => AxumBody::new(StreamBody::new(futures_util::stream::iter([
                Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from_static(b"a"))),
                Ok(Frame::data(Bytes::from_static(b"b"))),
            ]))),
            "/long" => AxumBody::from(vec![b'x'; 3_000_000]),
            _ => AxumBody::empty(),
        }
    });
    let (addr, connections) = counted(app).await;
    let transport = HttpTransport::new();
    for (method, path, length) in [
        ("GET", "/chunked", 2),
        ("HEAD", "/long", 0),
        ("GET", "/long", 3_000_000),
        ("GET", "/empty", 0),
        ("OPTIONS", "/chunked", 2),
    ] {
        let request = Request::builder()
            .method(method)
            .uri(format!("http://{addr}{path}"))
            .body(Body::empty())
            .unwrap();
        assert_eq!(
            text(&transport, request).await.len(),
            length,
            "{method} {path}"
        );
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_reader_that_counts_and_stops_returns_the_connection_too() {
    let (addr, connections) = counted(Router::new().fallback(|| async { "hello" })).await;
    let transport = HttpTransport::new();
    for _ in 0..3 {
        let response = transport.clone().oneshot(get(addr)).await.unwrap();
        let mut body = response.into_body();
        // The length is known, so nobody asks for the end.
        assert_eq!(
            body.frame().await.unwrap().unwrap().into_data().unwrap(),
            "hello"
        );
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn http_2_requests_share_one_connection() {
    let (addr, connections) = counted(Router::new().fallback(|| async { "hello" })).await;
    let transport = HttpTransport::new();
    let request = || {
        let mut request = get(addr);
        request.headers_mut().insert(
            "content-type",
            http::HeaderValue::from_static("application/grpc"),
        );
        request
    };
    assert_eq!(text(&transport, request()).await, "hello");
    let all = (0..20).map(|_| text(&transport, request()));
    assert!(
        futures_util::future::join_all(all)
            .await
            .iter()
            .all(|it| it == "hello")
    );
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_answer_that_is_dropped_closes_its_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let transport = HttpTransport::new();
    let target = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_head(&mut stream).await;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")
            .await
            .unwrap();
        stream
    };
    let (response, mut stream) = tokio::join!(transport.clone().oneshot(get(addr)), target);
    let mut body = response.unwrap().into_body();
    assert_eq!(
        body.frame().await.unwrap().unwrap().into_data().unwrap(),
        "half"
    );
    drop(body);
    assert_eq!(
        stream.read(&mut [0]).await.unwrap_or(0),
        0,
        "the target sees the end"
    );
    assert_eq!(transport.open_connections(), 0);
}

#[tokio::test]
async fn a_request_that_is_dropped_closes_its_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let transport = HttpTransport::new();
    let sent = tokio::spawn(transport.clone().oneshot(get(addr)));
    let (mut stream, _) = listener.accept().await.unwrap();
    read_head(&mut stream).await;
    sent.abort();
    assert_eq!(
        stream.read(&mut [0]).await.unwrap_or(0),
        0,
        "the target sees the end"
    );
    eventually(|| transport.open_connections() == 0).await;
}

#[tokio::test]
async fn a_pooled_connection_that_the_target_has_closed_is_not_used() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_head(&mut stream).await;
            // Keep-alive is promised, and not kept.
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
            stream.write_all(answer).await.unwrap();
        }
    });
    let transport = HttpTransport::new();
    for _ in 0..50 {
        assert_eq!(text(&transport, get(addr)).await, "ok");
        // Wait for the end to arrive: the kernel has it, the pool does not know yet.
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn idle_connections_that_were_closed_do_not_linger() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let transport = HttpTransport::new();
    let target = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_head(&mut stream).await;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            .await
            .unwrap();
        stream
    };
    let (answer, stream) = tokio::join!(text(&transport, get(addr)), target);
    assert_eq!(answer, "ok");
    assert_eq!(transport.open_connections(), 1);
    drop(stream);
    // No further request comes: the sweeper finds it.
    eventually(|| transport.open_connections() == 0).await;
}

#[tokio::test]
async fn an_upload_goes_on_while_nobody_reads_the_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (chunks, uploaded) = mpsc::channel(1);
    let body = Body::new(StreamBody::new(futures_util::stream::unfold(
        uploaded,
        |mut uploaded: mpsc::Receiver<Bytes>| async {
            let chunk = uploaded.recv().await?;
            Some((
                Ok::<_, std::convert::Infallible>(Frame::data(chunk)),
                uploaded,
            ))
        },
    )));
    let mut request = Request::post(format!("http://{addr}/")).body(body).unwrap();
    request
        .headers_mut()
        .insert("transfer-encoding", "chunked".parse().unwrap());
    let transport = HttpTransport::new();
    let target = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_head(&mut stream).await;
        // The answer begins before the upload has.
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n")
            .await
            .unwrap();
        stream
    };
    let (response, mut stream) = tokio::join!(transport.clone().oneshot(request), target);
    let response = response.unwrap();
    for _ in 0..100 {
        chunks
            .send(Bytes::from_static(b"0123456789"))
            .await
            .unwrap();
    }
    drop(chunks);
    let mut received = Vec::new();
    while !received.ends_with(b"0\r\n\r\n") {
        received.push(stream.read_u8().await.unwrap());
    }
    assert_eq!(received.iter().filter(|byte| **byte == b'9').count(), 100);
    stream.write_all(b"done").await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "done");
    // The exchange is complete on both sides: the connection waits for the next one.
    eventually(|| transport.open_connections() == 1).await;
}

#[tokio::test]
async fn a_slow_reader_slows_the_target() {
    let (progress, written) = (Arc::new(AtomicUsize::new(0)), 64 * 1024 * 1024);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let counter = Arc::clone(&progress);
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_head(&mut stream).await;
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {written}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let chunk = vec![0; 64 * 1024];
        for _ in 0..written / chunk.len() {
            stream.write_all(&chunk).await.unwrap();
            counter.fetch_add(chunk.len(), Ordering::SeqCst);
        }
    });
    let response = HttpTransport::new().oneshot(get(addr)).await.unwrap();
    let mut body = response.into_body();
    body.frame().await.unwrap().unwrap();
    // Nobody reads on: the target stands still once the buffers of the kernel are full.
    let mut before = usize::MAX;
    while before != progress.load(Ordering::SeqCst) {
        before = progress.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(before < written, "everything was taken in: {before}");
    let rest = body.collect().await.unwrap().to_bytes().len();
    assert!(rest > written - 1024 * 1024, "{rest}");
}

#[tokio::test]
async fn errors_have_their_kind() {
    let refused = crate::support::nobody().await;
    let error = HttpTransport::new()
        .oneshot(get(refused))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    assert_eq!(error.addr(), Some(refused));
    assert!(std::error::Error::source(&error).is_some());
}

#[test]
fn a_transport_outlives_the_runtime_that_swept_it() {
    let transport = HttpTransport::new();
    for _ in 0..2 {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (addr, stop) = {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let addr = listener.local_addr().unwrap();
                let server = tokio::spawn(async move {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    read_head(&mut stream).await;
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                    stream.write_all(answer).await.unwrap();
                    stream
                });
                (addr, server)
            };
            assert_eq!(text(&transport, get(addr)).await, "ok");
            drop(stop.await.unwrap());
            // The sweeper of this runtime finds it, although the first one ended with its runtime.
            eventually(|| transport.open_connections() == 0).await;
            let (addr, _keep) = counted(Router::new().fallback(|| async { "ok" })).await;
            assert_eq!(text(&transport, get(addr)).await, "ok");
        });
    }
}

/// A target whose first connection serves one request and is reset as the second comes in; what
/// arrives on every later one is answered. Returns the heads that were seen.
async fn resetting() -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let seen = Arc::<Mutex<Vec<String>>>::default();
    let heads = Arc::clone(&seen);
    let see = move |head| heads.lock().unwrap().push(head);
    tokio::spawn(async move {
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        let (mut first, _) = listener.accept().await.unwrap();
        see(read_head(&mut first).await);
        first.write_all(answer).await.unwrap();
        see(read_head(&mut first).await);
        first.set_zero_linger().unwrap();
        drop(first);
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            see(read_head(&mut stream).await);
            stream.write_all(answer).await.unwrap();
        }
    });
    (addr, seen)
}

#[tokio::test]
async fn a_written_request_is_repeated_only_where_that_is_safe() {
    for (method, body, repeated) in [
        ("GET", "", true),
        ("DELETE", "", true),
        ("POST", "", false),
        ("PUT", "body", false),
    ] {
        let (addr, seen) = resetting().await;
        let transport = HttpTransport::new();
        assert_eq!(text(&transport, get(addr)).await, "ok");
        let request = Request::builder()
            .method(method)
            .uri(format!("http://{addr}/a%2Fb?c=d"))
            .header("host", "foo.qa")
            .header("cookie", "a=1")
            .header("x-long", "x".repeat(10_000))
            .header("cookie", "b=2")
            .header("x-latin", HeaderValue::from_bytes(b"\xe9").unwrap())
            .body(Body::new(body.to_owned()))
            .unwrap();
        let answer = transport.clone().oneshot(request).await;
        assert_eq!(answer.is_ok(), repeated, "{method} {body}");
        let seen = seen.lock().unwrap();
        assert_eq!(seen.len(), 2 + usize::from(repeated), "{method}");
        let begins = format!("{method} /a%2Fb?c=d HTTP/1.1\r\nhost: foo.qa\r\n");
        assert!(seen[1].starts_with(&begins), "{}", seen[1]);
        if repeated {
            assert_eq!(seen[1], seen[2], "to the byte");
        }
    }
}

#[tokio::test]
async fn a_request_whose_answer_had_begun_is_not_repeated() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_head(&mut stream).await;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            .await
            .unwrap();
        read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 2").await.unwrap();
    });
    let transport = HttpTransport::new();
    assert_eq!(text(&transport, get(addr)).await, "ok");
    let error = transport.oneshot(get(addr)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionClosed);
}

#[tokio::test]
async fn a_flood_of_informational_answers_ends() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_head(&mut stream).await;
        let flood = b"HTTP/1.1 102 Processing\r\n\r\n".repeat(1000);
        while stream.write_all(&flood).await.is_ok() {}
    });
    let error = HttpTransport::new().oneshot(get(addr)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol);
}

#[tokio::test]
async fn a_flood_in_place_of_an_upgrade_ends() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_head(&mut stream).await;
        let flood = b"HTTP/1.1 102 Processing\r\n\r\n".repeat(1000);
        while stream.write_all(&flood).await.is_ok() {}
    });
    let mut request = get(addr);
    let fields = request.headers_mut();
    fields.insert("connection", "upgrade".parse().unwrap());
    fields.insert("upgrade", "websocket".parse().unwrap());
    let error = HttpTransport::new().oneshot(request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol);
}

#[tokio::test]
async fn an_answer_that_comes_all_at_once_is_no_flood() {
    const LENGTH: usize = 16 * 1024 * 1024;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_head(&mut stream).await;
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {LENGTH}\r\n\r\n");
        let answer = [head.into_bytes(), vec![b'x'; LENGTH]].concat();
        stream.write_all(&answer).await.unwrap();
    });
    assert_eq!(text(&HttpTransport::new(), get(addr)).await.len(), LENGTH);
}

/// A body that remembers whether anybody asked for it.
struct Asked(Arc<AtomicUsize>, Option<Bytes>);

impl http_body::Body for Asked {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        std::task::Poll::Ready(self.1.take().map(|data| Ok(Frame::data(data))))
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(self.1.as_ref().map_or(0, |it| it.len() as u64))
    }
}

fn expecting(addr: SocketAddr, asked: &Arc<AtomicUsize>) -> Request<Body> {
    Request::post(format!("http://{addr}/"))
        .header("expect", "100-continue")
        .body(Body::new(Asked(
            Arc::clone(asked),
            Some(Bytes::from_static(b"body")),
        )))
        .unwrap()
}

#[tokio::test]
async fn a_body_is_not_asked_for_before_the_target_has_said_100() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let sent = HttpTransport::new().oneshot(expecting(addr, &asked));
    let target = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let head = read_head(&mut stream).await;
        assert!(head.contains("expect: 100-continue\r\n"), "{head}");
        assert_eq!(asked.load(Ordering::SeqCst), 0);
        stream
            .write_all(b"HTTP/1.1 100 Continue\r\n\r\n")
            .await
            .unwrap();
        let mut body = [0; 4];
        stream.read_exact(&mut body).await.unwrap();
        assert_eq!(&body, b"body");
        stream
            .write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
            .await
            .unwrap();
        stream
    };
    let (answer, _stream) = tokio::join!(sent, target);
    assert_eq!(answer.unwrap().status(), 204);
}

#[tokio::test]
async fn a_body_that_the_target_refuses_is_never_asked_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let transport = HttpTransport::new();
    let sent = async {
        let answer = transport
            .clone()
            .oneshot(expecting(addr, &asked))
            .await
            .unwrap();
        let status = answer.status();
        (
            status,
            answer.into_body().collect().await.unwrap().to_bytes(),
        )
    };
    let target = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_head(&mut stream).await;
        let answer = b"HTTP/1.1 417 Expectation Failed\r\ncontent-length: 2\r\n\r\nno";
        stream.write_all(answer).await.unwrap();
        stream
    };
    let ((status, body), _stream) = tokio::join!(sent, target);
    assert_eq!((status.as_u16(), &body[..]), (417, &b"no"[..]));
    assert_eq!(asked.load(Ordering::SeqCst), 0);
    // A connection on which the target may still wait for a body is not used again.
    assert_eq!(transport.open_connections(), 0);
}

#[tokio::test]
async fn a_target_that_knows_no_expectations_gets_the_body_after_a_second() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let sent = HttpTransport::new().oneshot(expecting(addr, &asked));
    let target = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_head(&mut stream).await;
        let mut body = [0; 4];
        stream.read_exact(&mut body).await.unwrap();
        stream
            .write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
            .await
            .unwrap();
        stream
    };
    let (answer, _stream) = tokio::join!(sent, target);
    assert_eq!(answer.unwrap().status(), 204);
}
