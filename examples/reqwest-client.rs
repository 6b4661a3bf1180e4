//! reqwest: the contract goes along by a middleware or by hand, and does not leave with a redirect.
//!
//! `frontend` asks `checkout` in three ways:
//!
//! ```console
//! $ cargo run --example reqwest-client
//! $ curl -H 'x-devroute: {"checkout":"127.0.0.1:3002"}' http://127.0.0.1:3000/middleware
//! $ curl -H 'x-devroute: {"checkout":"127.0.0.1:3002"}' http://127.0.0.1:3000/by-hand
//! $ curl -H 'x-devroute: {"somebody":"10.0.0.7:80"}' http://127.0.0.1:3000/redirect
//! ```
//!
//! A port as the argument replaces 3000; the others follow it.

#![allow(clippy::print_stdout, reason = "says where it listens")]

use std::{env, error::Error, net::SocketAddr};

use axum::{Router, extract::State, http::StatusCode, response::Redirect, routing::get};
use devroute_tower::{
    DevRouteLayer,
    core::TargetPolicy,
    outbound::{InternalHosts, outgoing_headers},
    reqwest::{DevRouteMiddleware, redirect_policy},
};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware};
use tokio::net::TcpListener;

#[derive(Clone)]
struct Frontend {
    checkout: SocketAddr,
    client: ClientWithMiddleware,
    plain: reqwest::Client,
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

    let plain = reqwest::Client::builder()
        // With this, a redirect that leads outside is not followed when there is a contract.
        .redirect(redirect_policy(InternalHosts::default()))
        // This world has no outside and no proxy; your client needs neither line.
        .resolve("outside.example", checkout)
        .no_proxy()
        .build()?;
    let client = ClientBuilder::new(plain.clone())
        .with(DevRouteMiddleware::new())
        .build();
    let frontend = Frontend {
        checkout,
        client,
        plain,
    };

    // The inbound layer remembers the contract for the clients.
    let app = Router::new()
        .route("/middleware", get(middleware))
        .route("/by-hand", get(by_hand))
        .route("/redirect", get(redirect))
        .with_state(frontend)
        .layer(DevRouteLayer::new("frontend"));
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    println!("listening on {}", listener.local_addr()?);
    axum::serve(listener, app).await?;
    Ok(())
}

/// With reqwest-middleware there is nothing to do for a request.
async fn middleware(State(frontend): State<Frontend>) -> Answer {
    let url = format!("http://{}/", frontend.checkout);
    let answer = frontend.client.get(url).send().await.map_err(bad_gateway)?;
    answer.text().await.map_err(bad_gateway)
}

/// Without it, two lines: make the fields, and add them.
async fn by_hand(State(frontend): State<Frontend>) -> Answer {
    let url = format!("http://{}/", frontend.checkout);
    let headers = outgoing_headers(&url.parse().map_err(bad_gateway)?);
    let request = frontend.plain.get(url).headers(headers);
    let answer = request.send().await.map_err(bad_gateway)?;
    answer.text().await.map_err(bad_gateway)
}

/// `/away` redirects to a host outside; see who answered in the end.
async fn redirect(State(frontend): State<Frontend>) -> Answer {
    let url = format!("http://{}/away", frontend.checkout);
    let answer = frontend.client.get(url).send().await.map_err(bad_gateway)?;
    Ok(format!("{} by {}\n", answer.status(), answer.url()))
}

fn bad_gateway(error: impl Error) -> (StatusCode, String) {
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
