//! The whole idea in one process: `a` asks `b`, `b` asks `c`, and one request has `b` answered by a
//! laptop.
//!
//! ```console
//! $ cargo run --example three-services
//! $ curl http://127.0.0.1:3000/
//! $ curl -H 'x-devroute: {"b":"127.0.0.1:3003"}' http://127.0.0.1:3000/
//! ```
//!
//! Nothing here reads the header: the layers carry it from `a` to `b`, and from the laptop to `c`. A
//! port as the argument replaces 3000; the others follow it.

#![allow(clippy::print_stdout, reason = "says where it listens")]

use std::{env, error::Error, net::SocketAddr};

use axum::{Router, body::Body, extract::Request, http::StatusCode, routing::get};
use devroute_tower::{DevRouteClient, DevRouteClientLayer, DevRouteLayer, core::TargetPolicy};
use http_body_util::BodyExt as _;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::net::TcpListener;
use tower::{BoxError, ServiceBuilder, ServiceExt as _};

type HttpClient = DevRouteClient<Client<HttpConnector, Body>>;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let port: u16 = env::args().nth(1).map_or(Ok(3000), |port| port.parse())?;
    // Port 0 is any port, for all of them.
    let port_after = |n| if port == 0 { 0 } else { port + n };

    let c = serve("c", "c", port_after(2), None).await?;
    let b = serve("b", "b", port_after(1), Some(c)).await?;
    // The laptop runs the same program, and knows the cluster's `c`.
    let laptop = serve("b", "b on the laptop", port_after(3), Some(c)).await?;
    println!("the cluster's c: listening on {c}");
    println!("the cluster's b: listening on {b}");
    println!("the laptop's b: listening on {laptop}");
    let a = serve("a", "a", port, Some(b)).await?;
    println!("listening on {a}");

    std::future::pending().await
}

/// Starts an instance of `service`, which calls itself `name` and asks the service at `next`.
async fn serve(
    service: &str,
    name: &'static str,
    port: u16,
    next: Option<SocketAddr>,
) -> Result<SocketAddr, Box<dyn Error>> {
    let client = ServiceBuilder::new()
        .layer(DevRouteClientLayer::new())
        .service(Client::builder(TokioExecutor::new()).build_http());
    let answer = move || async move {
        let Some(next) = next else {
            return Ok(format!("{name}\n"));
        };
        match ask(client, next).await {
            Ok((StatusCode::OK, rest)) => Ok(format!("{name} -> {rest}")),
            Ok(failed) => Err(failed),
            Err(error) => Err((StatusCode::BAD_GATEWAY, format!("{error}\n"))),
        }
    };
    // Loopback is allowed because the laptop is this machine here; leave it out elsewhere.
    let policy = TargetPolicy::default().allow_loopback(true);
    let app = Router::new()
        .route("/", get(answer))
        .layer(DevRouteLayer::try_new(service)?.policy(policy));

    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let addr = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(addr)
}

async fn ask(client: HttpClient, next: SocketAddr) -> Result<(StatusCode, String), BoxError> {
    let request = Request::get(format!("http://{next}/")).body(Body::empty())?;
    let (head, body) = client.oneshot(request).await?.into_parts();
    let body = body.collect().await?.to_bytes();
    Ok((head.status, String::from_utf8(body.into())?))
}
