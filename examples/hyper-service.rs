//! A service on plain hyper, without a framework: any tower service takes the layer.
//!
//! ```console
//! $ cargo run --example hyper-service  # in the cluster
//! $ cargo run --example hyper-service -- 3010  # on the laptop
//! $ curl -d 'one tea' http://127.0.0.1:3000/cart
//! $ curl -d 'one tea' -H 'x-devroute: {"checkout":"127.0.0.1:3010"}' http://127.0.0.1:3000/cart
//! ```
//!
//! Where a mesh captures what the service sends, a second argument names the router that is asked instead:
//! `cargo run --example hyper-service -- 3000 10.96.7.1:8181`.

#![allow(clippy::print_stdout, reason = "says where it listens")]

use std::{env, error::Error, net::SocketAddr};

use devroute_tower::{ClientInfo, DevRouteLayer, core::TargetPolicy};
use http_body_util::BodyExt as _;
use hyper::{Request, Response, body::Incoming};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::net::TcpListener;
use tower::ServiceBuilder;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let port = env::args().nth(1).map_or(Ok(3000), |port| port.parse())?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let addr = listener.local_addr()?;

    // Always on, unlike `from_env`. Loopback is allowed because the laptop is this machine here.
    let mut layer =
        DevRouteLayer::new("checkout").policy(TargetPolicy::default().allow_loopback(true));
    if let Some(router) = env::args().nth(2) {
        layer = layer.via(router.parse()?);
    }
    let service = ServiceBuilder::new()
        .layer(layer)
        .service_fn(move |request| answer(addr, request));

    println!("listening on {addr}");
    loop {
        let (stream, peer) = listener.accept().await?;
        // For the `X-Forwarded-For` of rerouted requests.
        let service = service.clone().with_client(ClientInfo::new(peer));
        tokio::spawn(async move {
            // With upgrades, so that a rerouted WebSocket reaches the laptop. A client that goes away
            // in the middle is an error here, and no news.
            let _ = auto::Builder::new(TokioExecutor::new())
                .serve_connection_with_upgrades(
                    TokioIo::new(stream),
                    TowerToHyperService::new(service),
                )
                .await;
        });
    }
}

async fn answer(
    addr: SocketAddr,
    request: Request<Incoming>,
) -> Result<Response<String>, hyper::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let body = String::from_utf8_lossy(&body);
    let said = format!("checkout at {addr}: {} {}: {body}\n", head.method, head.uri);
    Ok(Response::new(said))
}
