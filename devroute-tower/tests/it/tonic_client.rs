//! A tonic `Channel` below the layer: what the gRPC server receives.

use std::net::SocketAddr;

use devroute_tower::{DevRouteClientLayer, context};
use http::{Request, Uri};
use tokio::net::TcpListener;
use tonic::{
    body::Body,
    transport::{Channel, Endpoint, Server, server::TcpIncoming},
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tower::{ServiceBuilder, util::MapRequestLayer};

use crate::outbound_support::{Received, assert_carries, assert_carries_nothing, contract};

async fn serve_grpc() -> (SocketAddr, Received) {
    let received = Received::default();
    let log = received.clone();
    let record = MapRequestLayer::new(move |request: Request<Body>| {
        let (parts, body) = request.into_parts();
        log.add(parts.clone());
        Request::from_parts(parts, body)
    });
    let (_reporter, health) = tonic_health::server::health_reporter();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::builder()
        .layer(record)
        .add_service(health)
        .serve_with_incoming(TcpIncoming::from(listener));
    tokio::spawn(server);
    (address, received)
}

fn channel(server: SocketAddr) -> (Channel, Uri) {
    let uri: Uri = format!("http://{server}").parse().unwrap();
    (Endpoint::from(uri.clone()).connect_lazy(), uri)
}

fn check() -> HealthCheckRequest {
    HealthCheckRequest {
        service: String::new(),
    }
}

#[tokio::test]
async fn above_a_channel_the_contract_needs_a_destination() {
    let (server, received) = serve_grpc().await;
    let (channel, uri) = channel(server);

    // Nobody says where the channel leads: nothing is attached, and the call works.
    let untold = ServiceBuilder::new()
        .layer(DevRouteClientLayer::new())
        .service(channel.clone());
    let mut client = HealthClient::new(untold);
    context::scope(contract(1), client.check(check()))
        .await
        .unwrap();
    assert_carries_nothing(&received.one().headers);

    let told = ServiceBuilder::new()
        .layer(DevRouteClientLayer::new().destination(&uri))
        .service(channel.clone());
    let mut client = HealthClient::new(told);
    let answer = context::scope(contract(2), client.check(check()))
        .await
        .unwrap();
    assert_eq!(answer.into_inner().status(), ServingStatus::Serving);
    assert_carries(&received.one().headers, 2);

    let outside = "https://grpc.example.com".parse().unwrap();
    let told = ServiceBuilder::new()
        .layer(DevRouteClientLayer::new().destination(&outside))
        .service(channel);
    let mut client = HealthClient::new(told);
    context::scope(contract(3), client.check(check()))
        .await
        .unwrap();
    assert_carries_nothing(&received.one().headers);
}

#[tokio::test]
async fn an_origin_given_to_the_client_is_a_destination_too() {
    let (server, received) = serve_grpc().await;
    let (channel, uri) = channel(server);
    let service = ServiceBuilder::new()
        .layer(DevRouteClientLayer::new())
        .service(channel);
    let mut client = HealthClient::with_origin(service, uri);
    context::scope(contract(1), client.check(check()))
        .await
        .unwrap();
    assert_carries(&received.one().headers, 1);
}

#[tokio::test]
async fn metadata_set_by_the_application_comes_first() {
    let (server, received) = serve_grpc().await;
    let (channel, uri) = channel(server);
    let service = ServiceBuilder::new()
        .layer(DevRouteClientLayer::new().destination(&uri))
        .service(channel);
    let mut client = HealthClient::new(service);
    let mut request = tonic::Request::new(check());
    let own = crate::outbound_support::text(3).parse().unwrap();
    request.metadata_mut().insert("x-devroute", own);
    context::scope(contract(1), client.check(request))
        .await
        .unwrap();
    assert_carries(&received.one().headers, 3);
}

#[tokio::test]
async fn a_streaming_call_carries_the_contract_of_its_start() {
    let (server, received) = serve_grpc().await;
    let (channel, uri) = channel(server);
    let service = ServiceBuilder::new()
        .layer(DevRouteClientLayer::new().destination(&uri))
        .service(channel);
    let mut client = HealthClient::new(service);
    let stream = context::scope(contract(1), client.watch(check())).await;
    let first = stream.unwrap().into_inner().message().await.unwrap();
    assert_eq!(first.unwrap().status(), ServingStatus::Serving);
    assert_carries(&received.one().headers, 1);
}

#[test]
fn the_layered_channel_is_what_generated_clients_take() {
    fn takes<S>()
    where
        S: tonic::client::GrpcService<Body> + Clone + Send + Sync,
    {
    }
    takes::<devroute_tower::DevRouteClient<Channel>>();
}
