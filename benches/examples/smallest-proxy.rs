//! The smallest proxy that hyper makes: one thread, one upstream, and nothing else. No header is
//! looked at, no time runs out, nothing is counted. `benches/compare` shows what that costs.
//!
//! ```console
//! cargo run --release -p devroute-benches --example smallest-proxy -- 127.0.0.1:8000 127.0.0.1:8080
//! ```

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};

type Error = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let mut addresses = std::env::args().skip(1);
    let (Some(listen), Some(upstream)) = (addresses.next(), addresses.next()) else {
        return Err("give the address to listen on, and the one to forward to".into());
    };
    let client = Client::builder(TokioExecutor::new()).build_http::<hyper::body::Incoming>();
    let listener = tokio::net::TcpListener::bind(listen).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (client, upstream) = (client.clone(), upstream.clone());
        let service = service_fn(move |mut request: http::Request<_>| {
            let path = request.uri().path_and_query().map_or("/", |it| it.as_str());
            let uri = format!("http://{upstream}{path}").parse::<http::Uri>();
            let client = client.clone();
            async move {
                *request.uri_mut() = uri?;
                Ok::<_, Error>(client.request(request).await?)
            }
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}
