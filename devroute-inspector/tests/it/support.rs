//! A page that is open, a client that asks it, and bodies made of frames.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use devroute_inspector::{Inspector, Limits, Page};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// Far longer than anything takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// An inspector with its page, which is served, and watched by somebody where it is `open`.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) inspector: Inspector,
    pub(crate) address: SocketAddr,
    pub(crate) token: String,
    /// What keeps the page open.
    _events: Option<Incoming>,
}

impl Desk {
    pub(crate) async fn closed(limits: Limits) -> Self {
        let inspector = Inspector::with_limits(limits);
        let page = Page::bind(&inspector, "127.0.0.1:0".parse().unwrap())
            .await
            .unwrap();
        let (address, url) = (page.address(), page.url());
        let (before, token) = url.split_once('#').unwrap();
        assert_eq!(before, format!("http://{address}/"));
        tokio::spawn(page.serve());
        Self {
            inspector,
            address,
            token: token.to_owned(),
            _events: None,
        }
    }

    pub(crate) async fn open() -> Self {
        Self::open_with(Limits::default()).await
    }

    pub(crate) async fn open_with(limits: Limits) -> Self {
        let mut desk = Self::closed(limits).await;
        let mut events = desk.events().await;
        // The first event says that it records from now on.
        let first = events.frame().await.unwrap().unwrap();
        assert!(first.data_ref().unwrap().starts_with(b"event: all\n"));
        desk._events = Some(events);
        assert!(desk.inspector.is_watched());
        desk
    }

    pub(crate) async fn events(&self) -> Incoming {
        self.send("GET", "/api/events", &self.headers())
            .await
            .into_body()
    }

    /// The fields that the page itself sends.
    pub(crate) fn headers(&self) -> Vec<(&'static str, String)> {
        vec![
            ("host", self.address.to_string()),
            ("x-devroute-token", self.token.clone()),
            ("origin", format!("http://{}", self.address)),
        ]
    }

    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, String)],
    ) -> Response<Incoming> {
        let io = TokioIo::new(TcpStream::connect(self.address).await.unwrap());
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        let answered = tokio::time::timeout(PATIENCE, sender.send_request(request));
        answered.await.expect("the page answers").unwrap()
    }

    /// Asks as the page does.
    pub(crate) async fn ask(&self, method: &str, path: &str) -> (StatusCode, Value) {
        let response = self.send(method, path, &self.headers()).await;
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    /// All of one exchange, once it has ended.
    pub(crate) async fn exchange(&self, id: u64) -> Value {
        let ended = async {
            loop {
                let (status, exchange) = self.ask("GET", &format!("/api/exchanges/{id}")).await;
                if status == StatusCode::OK && !exchange["summary"]["end_ms"].is_null() {
                    return exchange;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, ended)
            .await
            .expect("it ends")
    }

    /// The numbers of those that a text is in.
    pub(crate) async fn search(&self, text: &str) -> Vec<u64> {
        let (_, found) = self.ask("GET", &format!("/api/search?q={text}")).await;
        serde_json::from_value(found["ids"].clone()).unwrap()
    }
}

/// A body that is these frames, of which some may be late, and has a length or not.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    frames: std::collections::VecDeque<Result<Frame<Bytes>, &'static str>>,
    length: Option<u64>,
}

impl Frames {
    pub(crate) fn of(parts: &[&'static str]) -> Self {
        let frames = parts.iter().map(|part| Ok(Frame::data(Bytes::from(*part))));
        Self {
            frames: frames.collect(),
            length: None,
        }
    }

    pub(crate) fn length(mut self, length: u64) -> Self {
        self.length = Some(length);
        self
    }

    pub(crate) fn trailer(mut self, name: &'static str, value: &'static str) -> Self {
        let mut trailers = HeaderMap::new();
        trailers.insert(name, value.parse().unwrap());
        self.frames.push_back(Ok(Frame::trailers(trailers)));
        self
    }

    pub(crate) fn fails(mut self, why: &'static str) -> Self {
        self.frames.push_back(Err(why));
        self
    }
}

impl Body for Frames {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        Poll::Ready(self.frames.pop_front())
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}

/// Reads the request, and answers with `body`.
pub(crate) async fn answering<B>(
    request: Request<B>,
    body: Frames,
) -> Result<Response<Frames>, Infallible>
where
    B: Body,
    B::Error: std::fmt::Debug,
{
    // Where it breaks off the test looks at what was recorded.
    let _ = request.into_body().collect().await;
    Ok(Response::new(body))
}
