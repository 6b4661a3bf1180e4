//! reqwest 0.12, or any client that shows its requests: the contract goes along by one call, and does
//! not leave with a redirect.
//!
//! The feature `reqwest` is for the current release of reqwest. What it does is three lines for every
//! other one, because they all speak the types of the `http` crate.
//!
//! ```console
//! $ cargo run --example reqwest-0-12-client
//! $ curl -H 'x-devroute: {"checkout":"127.0.0.1:3002"}' http://127.0.0.1:3000/
//! $ curl -H 'x-devroute: {"somebody":"10.0.0.7:80"}' http://127.0.0.1:3000/redirect
//! ```
//!
//! A port as the argument replaces 3000; the others follow it.

#![allow(clippy::print_stdout, reason = "says where it listens")]

use std::{env, error::Error, net::SocketAddr};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, Uri},
    response::Redirect,
    routing::get,
};
use devroute_tower::{
    DevRouteClientLayer, DevRouteLayer, core::TargetPolicy, outbound::InternalHosts,
};
use reqwest_0_12::{Client, Response, redirect::Policy};
use tokio::net::TcpListener;

#[derive(Clone)]
struct Frontend {
    checkout: SocketAddr,
    client: Client,
    contract: DevRouteClientLayer,
}

type Answer = Result<String, (StatusCode, String)>;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let port: u16 = env::args().nth(1).map_or(Ok(3000), |port| port.parse())?;
    // Port 0 is any port, for all of them.
    let port_after = |n| if port == 0 { 0 } else { port + n };

    let checkout = serve_checkout(port_after(1), "the cluster's checkout\n").await?;
    println!("the cluster's checkout: listening on {checkout}");
    let laptop = serve_checkout(port_after(2), "the laptop's checkout\n").await?;
    println!("the laptop's checkout: listening on {laptop}");

    let hosts = InternalHosts::default();
    let client = Client::builder()
        .redirect(stay_inside(hosts.clone()))
        // This world has no outside and no proxy; your client needs neither line.
        .resolve("outside.example", checkout)
        .no_proxy()
        .build()?;
    let frontend = Frontend {
        checkout,
        client,
        contract: DevRouteClientLayer::new().internal_hosts(hosts),
    };

    // The inbound layer remembers the contract for the client.
    let app = Router::new()
        .route("/", get(ask))
        .route("/redirect", get(redirect))
        .with_state(frontend)
        .layer(DevRouteLayer::new("frontend"));
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    println!("listening on {}", listener.local_addr()?);
    axum::serve(listener, app).await?;
    Ok(())
}

/// Follows redirects as reqwest does, but not where the contract would leave.
fn stay_inside(hosts: InternalHosts) -> Policy {
    let default = Policy::default();
    Policy::custom(move |attempt| {
        let from = attempt.previous().first().map_or("", |url| url.as_str());
        // What is no URI has no host, and is outside.
        let [from, to] = [from, attempt.url().as_str()].map(|url| url.parse().unwrap_or_default());
        if hosts.may_follow(&from, &to) {
            default.redirect(attempt)
        } else {
            attempt.stop()
        }
    })
}

/// Sends a GET request that carries the contract on.
async fn send(frontend: &Frontend, url: &str) -> Result<Response, Box<dyn Error + Send + Sync>> {
    let uri: Uri = url.parse()?;
    let mut request = frontend.client.get(url).build()?;
    frontend.contract.prepare(&uri, request.headers_mut());
    Ok(frontend.client.execute(request).await?)
}

async fn ask(State(frontend): State<Frontend>) -> Answer {
    let url = format!("http://{}/", frontend.checkout);
    let answer = send(&frontend, &url).await.map_err(bad_gateway)?;
    answer.text().await.map_err(bad_gateway)
}

/// `/away` redirects to a host outside; see who answered in the end.
async fn redirect(State(frontend): State<Frontend>) -> Answer {
    let url = format!("http://{}/away", frontend.checkout);
    let answer = send(&frontend, &url).await.map_err(bad_gateway)?;
    Ok(format!("{} by {}\n", answer.status(), answer.url()))
}

fn bad_gateway(error: impl std::fmt::Display) -> (StatusCode, String) {
    (StatusCode::BAD_GATEWAY, format!("{error}\n"))
}

async fn serve_checkout(port: u16, name: &'static str) -> Result<SocketAddr, Box<dyn Error>> {
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let addr = listener.local_addr()?;
    let outside = format!("http://outside.example:{}/", addr.port());
    let app = Router::new()
        .route("/", get(move || async move { name }))
        .route(
            "/away",
            get(move || async move { Redirect::temporary(&outside) }),
        )
        // Loopback is allowed because the laptop is this machine here; leave it out elsewhere.
        .layer(DevRouteLayer::new("checkout").policy(TargetPolicy::default().allow_loopback(true)));
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(addr)
}
