//! Who asks.

use std::net::SocketAddr;

use http::header::{HOST, TE};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A connection that is kept.
#[derive(Debug)]
pub(crate) enum Connection {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// What was answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
    /// Whether the connection cannot be used again.
    pub(crate) last: bool,
}

impl Connection {
    pub(crate) async fn http1(address: SocketAddr) -> Result<Self, BoxError> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Self::http1_over(stream).await
    }

    /// Over a stream that is open already.
    pub(crate) async fn http1_over<I>(stream: I) -> Result<Self, BoxError>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self::Http1(sender))
    }

    pub(crate) async fn http2(address: SocketAddr) -> Result<Self, BoxError> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let io = TokioIo::new(stream);
        let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
        tokio::spawn(connection);
        Ok(Self::Http2(sender))
    }

    /// The same connection for so many clients at once, where its version has that.
    pub(crate) fn shared(self, clients: usize) -> Vec<Self> {
        match self {
            Self::Http2(sender) => (0..clients).map(|_| Self::Http2(sender.clone())).collect(),
            Self::Http1(_) => vec![self],
        }
    }

    pub(crate) async fn get(&mut self, path: &str) -> Result<Answer, BoxError> {
        self.send(request(Method::GET, path, &[], Bytes::new()))
            .await
    }

    pub(crate) async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Answer, BoxError> {
        let response = match self {
            Self::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Self::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
        };
        let status = response.status();
        let last = response.headers().contains_key("connection");
        let body = response.into_body().collect().await?;
        Ok(Answer {
            status,
            last,
            trailers: body.trailers().cloned(),
            body: body.to_bytes(),
        })
    }
}

/// A request for foo, whatever the version.
pub(crate) fn request(
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: Bytes,
) -> Request<Full<Bytes>> {
    let request = Request::builder()
        .method(method)
        .uri(format!("http://foo{path}"))
        .header(HOST, "foo")
        .header(TE, "trailers");
    headers
        .iter()
        .fold(request, |request, (name, value)| {
            request.header(*name, *value)
        })
        .body(Full::new(body))
        .unwrap()
}

/// Opens a tunnel, sends `bytes` through it, and reads them back.
pub(crate) async fn tunnel(address: SocketAddr, bytes: &[u8]) -> Result<Vec<u8>, BoxError> {
    let mut stream = TcpStream::connect(address).await?;
    let upgrade =
        "GET / HTTP/1.1\r\nhost: foo\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    stream.write_all(upgrade.as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    if !head.starts_with(b"HTTP/1.1 101 ") {
        return Err(String::from_utf8_lossy(&head).into());
    }
    let (mut read, mut write) = stream.split();
    let mut echoed = vec![0; bytes.len()];
    tokio::try_join!(write.write_all(bytes), read.read_exact(&mut echoed))?;
    Ok(echoed)
}
