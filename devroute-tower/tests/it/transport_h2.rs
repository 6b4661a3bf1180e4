//! The transport over HTTP/2, to peers that do what no library lets them do.

use std::net::SocketAddr;

use devroute_tower::transport::{Body, Destination, ErrorKind, HttpTransport, Protocol};
use http::Request;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
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
