//! An axum service with both layers: it can be replaced itself, and tells the services it calls what
//! else is.
//!
//! `checkout` says where it runs, and asks `stock`, which says what contract reached it. The layer
//! obeys `DEVROUTE`, so try the service in every mode:
//!
//! ```console
//! $ DEVROUTE=on cargo run --example axum-service  # in the cluster
//! $ DEVROUTE=on cargo run --example axum-service -- 3010  # on the laptop
//! $ curl http://127.0.0.1:3000/
//! $ curl -H 'x-devroute: {"checkout":"127.0.0.1:3010"}' http://127.0.0.1:3000/
//! ```
//!
//! Without `DEVROUTE` the layer is off, and with `DEVROUTE=carry` it passes the contract on to `stock`
//! without obeying it.

#![allow(clippy::print_stdout, reason = "says where it listens")]

use std::{env, error::Error, net::SocketAddr};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, StatusCode},
    routing::get,
};
use devroute_tower::{DevRouteClient, DevRouteClientLayer, DevRouteLayer, core::TargetPolicy};
use http_body_util::BodyExt as _;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::net::TcpListener;
use tower::{ServiceBuilder, ServiceExt as _};

#[derive(Clone)]
struct Checkout {
    addr: SocketAddr,
    stock: SocketAddr,
    client: DevRouteClient<Client<HttpConnector, Body>>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let port = env::args().nth(1).map_or(Ok(3000), |port| port.parse())?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let addr = listener.local_addr()?;

    // Outbound: the contract goes on to internal hosts.
    let client = ServiceBuilder::new()
        .layer(DevRouteClientLayer::new())
        .service(Client::builder(TokioExecutor::new()).build_http());
    let checkout = Checkout {
        addr,
        stock: serve_stock().await?,
        client,
    };

    // Inbound. Loopback is allowed because the laptop is this machine here; leave it out elsewhere.
    let layer =
        DevRouteLayer::from_env("checkout").policy(TargetPolicy::default().allow_loopback(true));
    let app = Router::new()
        .route("/", get(answer))
        .with_state(checkout)
        .layer(layer);

    println!("listening on {addr}");
    axum::serve(listener, app).await?;
    Ok(())
}

async fn answer(State(checkout): State<Checkout>) -> Result<String, (StatusCode, String)> {
    let said = ask_stock(&checkout)
        .await
        .map_err(|error| (StatusCode::BAD_GATEWAY, error.to_string()))?;
    Ok(format!("checkout at {}; {said}", checkout.addr))
}

async fn ask_stock(checkout: &Checkout) -> Result<String, Box<dyn Error + Send + Sync>> {
    let request = Request::get(format!("http://{}/", checkout.stock)).body(Body::empty())?;
    let answer = checkout.client.clone().oneshot(request).await?;
    let body = answer.into_body().collect().await?.to_bytes();
    Ok(String::from_utf8(body.into())?)
}

/// A service further on, which only shows what reaches it.
async fn serve_stock() -> Result<SocketAddr, Box<dyn Error>> {
    let app = Router::new().route("/", get(stock));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(addr)
}

async fn stock(headers: HeaderMap) -> String {
    let contract = headers.get("x-devroute").map(|value| value.as_bytes());
    let contract = String::from_utf8_lossy(contract.unwrap_or(b"no contract"));
    format!("stock got {contract}\n")
}
