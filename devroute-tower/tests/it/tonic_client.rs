//! A tonic `Channel` below the layer: what the gRPC server receives.

use std::net::SocketAddr;

use devroute_core::{Contract, TargetPolicy};
use devroute_tower::{
    DevRouteClient, DevRouteClientLayer, context, outbound::DevRouteClientReroute,
    transport::HttpTransport,
};
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

#[tokio::test]
async fn a_call_is_rerouted_at_the_caller_and_its_trailers_come_back() {
    let (baseline, at_baseline) = serve_grpc().await;
    let (laptop, at_laptop) = serve_grpc().await;
    let (channel, _) = channel(baseline);
    let greeter = "http://greeter.qa.svc:50051".parse().unwrap();
    let service = ServiceBuilder::new()
        .layer(
            DevRouteClientLayer::new()
                .destination(&greeter)
                .reroute(HttpTransport::new())
                .policy(TargetPolicy::default().allow_loopback(true)),
        )
        .service(channel);
    let mut client = HealthClient::new(service);
    let contract: Contract = format!(r#"{{"greeter":"{laptop}"}}"#).parse().unwrap();

    context::scope(contract.clone(), async {
        let answer = client.check(check()).await.unwrap();
        assert_eq!(answer.get_ref().status(), ServingStatus::Serving);
        let routed = answer.metadata().get("x-devroute-routed").unwrap();
        assert_eq!(*routed, *format!("greeter={laptop}"));
        let parts = at_laptop.one();
        assert_eq!(parts.version, http::Version::HTTP_2);
        assert_eq!(parts.uri.authority().unwrap(), "greeter.qa.svc:50051");

        let mut stream = client.watch(check()).await.unwrap().into_inner();
        let first = stream.message().await.unwrap().unwrap();
        assert_eq!(first.status(), ServingStatus::Serving);
        drop(stream);

        // NOT_FOUND rides in the trailers.
        let unknown = HealthCheckRequest {
            service: "unknown".to_owned(),
        };
        let status = client.check(unknown).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::NotFound);
    })
    .await;
    assert_eq!(at_laptop.take().len(), 2);
    assert!(at_baseline.take().is_empty());

    // Without a contract the channel leads where it always led.
    client.check(check()).await.unwrap();
    assert_carries_nothing(&at_baseline.one().headers);
}

#[tokio::test]
async fn rule_12_a_target_that_is_down_is_a_status() {
    let dead = crate::support::nobody().await;
    let (baseline, _) = serve_grpc().await;
    let (channel, _) = channel(baseline);
    let greeter = "http://greeter".parse().unwrap();
    let layer = DevRouteClientLayer::new()
        .destination(&greeter)
        .reroute(HttpTransport::new())
        .policy(TargetPolicy::default().allow_loopback(true));
    let mut client = HealthClient::new(ServiceBuilder::new().layer(layer).service(channel));
    let contract: Contract = format!(r#"{{"greeter":"{dead}"}}"#).parse().unwrap();
    let status = context::scope(contract, client.check(check()))
        .await
        .unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable);
    assert!(status.message().contains(&dead.to_string()), "{status}");
}

#[test]
fn the_layered_channel_is_what_generated_clients_take() {
    fn takes<S>()
    where
        S: tonic::client::GrpcService<Body> + Clone + Send + Sync,
    {
    }
    takes::<DevRouteClient<Channel>>();
    takes::<DevRouteClientReroute<Channel, HttpTransport>>();
}
