//! gRPC with tonic: a server that can be replaced, and a client that carries the contract to it.
//!
//! An HTTP service asks `greeter` for its health through a `Channel`. The `greeter` of the cluster is
//! healthy and the laptop's is not, which tells them apart.
//!
//! ```console
//! $ cargo run --example tonic-service
//! $ curl http://127.0.0.1:3000/
//! $ curl -H 'x-devroute: {"greeter":"127.0.0.1:3002"}' http://127.0.0.1:3000/
//! ```
//!
//! A port as the argument replaces 3000; the others follow it.

#![allow(clippy::print_stdout, reason = "says where it listens")]

use std::{env, error::Error, net::SocketAddr};

use axum::{Router, extract::State, http::Uri, routing::get};
use devroute_tower::{DevRouteClient, DevRouteClientLayer, DevRouteLayer, core::TargetPolicy};
use tokio::net::TcpListener;
use tonic::transport::{Channel, Server, server::TcpIncoming};
use tonic_health::{
    ServingStatus,
    pb::{HealthCheckRequest, health_client::HealthClient},
};
use tower::ServiceBuilder;

type Greeter = HealthClient<DevRouteClient<Channel>>;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let port: u16 = env::args().nth(1).map_or(Ok(3000), |port| port.parse())?;
    // Port 0 is any port, for all of them.
    let port_after = |n| if port == 0 { 0 } else { port + n };

    let cluster = serve_greeter(port_after(1), ServingStatus::Serving).await?;
    println!("the cluster's greeter: listening on {cluster}");
    let laptop = serve_greeter(port_after(2), ServingStatus::NotServing).await?;
    println!("the laptop's greeter: listening on {laptop}");

    let uri: Uri = format!("http://{cluster}").parse()?;
    // Requests above a channel have no authority, so the layer is told where the channel leads.
    let channel = ServiceBuilder::new()
        .layer(DevRouteClientLayer::new().destination(&uri))
        .service(Channel::builder(uri).connect_lazy());

    // The inbound layer remembers the contract for the client above.
    let app = Router::new()
        .route("/", get(ask))
        .with_state(HealthClient::new(channel))
        .layer(DevRouteLayer::new("frontend"));
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    println!("listening on {}", listener.local_addr()?);
    axum::serve(listener, app).await?;
    Ok(())
}

async fn ask(State(mut greeter): State<Greeter>) -> String {
    match greeter.check(HealthCheckRequest::default()).await {
        Ok(answer) => {
            let routed = answer.metadata().get("x-devroute-routed");
            let by = routed.and_then(|value| value.to_str().ok());
            let by = by.unwrap_or("greeter=baseline").to_owned();
            format!("{by} is {:?}\n", answer.into_inner().status())
        }
        // Where the laptop cannot be reached, this says so.
        Err(status) => format!("{:?}: {}\n", status.code(), status.message()),
    }
}

async fn serve_greeter(port: u16, status: ServingStatus) -> Result<SocketAddr, Box<dyn Error>> {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_service_status("", status).await;

    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let addr = listener.local_addr()?;
    // Loopback is allowed because the laptop is this machine here; leave it out elsewhere.
    let layer = DevRouteLayer::new("greeter").policy(TargetPolicy::default().allow_loopback(true));
    let server = Server::builder().layer(layer).add_service(health);
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    Ok(addr)
}
