//! A service in the middle of a chain, which nobody has changed: it has never heard of contracts.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Barrier;
use tokio::task::JoinHandle;

use super::{ANY, Proxy};

/// Answers each request with what the next service says, which it asks through a proxy.
#[derive(Debug)]
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    /// The fields that it passes on.
    passes: &'static [&'static str],
    next: String,
    proxy: OnceLock<SocketAddr>,
    /// As many requests are under way before it asks for the first of them.
    together: Barrier,
}

impl Relay {
    /// One that passes on nothing but `passes` to the URI `next`.
    pub(crate) async fn to(next: &str, passes: &'static [&'static str]) -> Self {
        Self::together(next, passes, 1).await
    }

    /// One that has `requests` of them under way before it asks for any.
    pub(crate) async fn together(
        next: &str,
        passes: &'static [&'static str],
        requests: usize,
    ) -> Self {
        let listener = TcpListener::bind(ANY).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            passes,
            next: next.to_owned(),
            proxy: OnceLock::new(),
            together: Barrier::new(requests),
        });
        let task = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self {
            address,
            shared,
            task,
        }
    }

    /// Sets its `http_proxy`.
    pub(crate) fn through(&self, proxy: &Proxy) {
        self.shared.proxy.set(proxy.outbound()).unwrap();
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(request, Arc::clone(&shared)));
            let builder = auto::Builder::new(TokioExecutor::new());
            let _ = builder
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    shared: Arc<Shared>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut asked = Request::get(&shared.next);
    for name in shared.passes {
        for value in request.headers().get_all(*name) {
            asked = asked.header(*name, value);
        }
    }
    let asked = asked.header("host", "next").body(Empty::<Bytes>::new());
    shared.together.wait().await;
    let proxy = *shared.proxy.get().expect("it has its http_proxy");
    let io = TokioIo::new(TcpStream::connect(proxy).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let answer = sender.send_request(asked.unwrap()).await.unwrap();
    let (parts, body) = answer.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = parts.status;
    Ok(answer)
}
