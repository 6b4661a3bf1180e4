//! Rule 11, as a host outside sees it: a server on loopback that is reached under an outside name, and
//! remembers what came.

use std::fmt::Debug;

use bytes::Bytes;
use devroute_core::carrier;
use devroute_tower::{
    DevRouteClientLayer, context, outbound::InternalHosts, transport::HttpTransport,
};
use http::{HeaderMap, Request, Response, StatusCode, Uri};
use http_body_util::Empty;
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioIo},
};
use tokio::net::{TcpListener, TcpStream};
use tonic::transport::{Endpoint, Server, server::TcpIncoming};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tower::{
    Layer as _, Service, ServiceBuilder, ServiceExt as _, service_fn, util::MapRequestLayer,
};
use tower_http::follow_redirect::{
    FollowRedirectLayer,
    policy::{Action, Attempt, redirect_fn},
};

use crate::outbound_support::{
    Received, assert_carries, assert_carries_nothing, connector, contract, serve, text,
};

/// What the application puts on its requests: carriers of its own, and what is not ours.
fn own() -> HeaderMap {
    let member = carrier::baggage::encode(&contract(2));
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("x-devroute", text(2)),
        ("x-devroute-matched", "foo".to_owned()),
        (
            "baggage",
            format!("user=alice;ttl=1 ,devroute={member};p, team=a%20b"),
        ),
        ("x-request-id", "7".to_owned()),
    ] {
        headers.append(name, value.parse().unwrap());
    }
    headers
}

/// Asserts that of [`own`] only what is not ours came through, byte for byte.
#[track_caller]
fn assert_others_only(headers: &HeaderMap) {
    assert_carries_nothing(headers);
    assert_eq!(headers["baggage"], "user=alice;ttl=1 , team=a%20b");
    assert_eq!(headers["x-request-id"], "7");
}

/// GETs `uri` with the fields of [`own`], in the scope of contract 1.
async fn get<S, B>(client: S, uri: String) -> StatusCode
where
    S: Service<Request<Empty<Bytes>>, Response = Response<B>, Error: Debug>,
{
    let mut request = Request::get(uri).body(Empty::new()).unwrap();
    *request.headers_mut() = own();
    request.extensions_mut().insert(contract(3));
    let response = context::scope(contract(1), client.oneshot(request)).await;
    response.unwrap().status()
}

#[tokio::test]
async fn a_host_outside_gets_neither_field_nor_member_and_all_others() {
    let (server, received) = serve().await;
    let port = server.port();
    let plain = Client::builder(TokioExecutor::new()).build(connector());
    let client = DevRouteClientLayer::new().layer(plain.clone());
    let rerouting = DevRouteClientLayer::new()
        .reroute(HttpTransport::new())
        .layer(plain);
    for host in [
        "outside.example",
        "checkout.outside.example",
        "internal.example",
        "foo.com",
    ] {
        assert_eq!(
            get(client.clone(), format!("http://{host}:{port}/")).await,
            200
        );
        assert_others_only(&received.one().headers);
        // The first label is the name of a service in the contract, and outside it names nothing.
        assert_eq!(
            get(rerouting.clone(), format!("http://{host}:{port}/")).await,
            200
        );
        assert_others_only(&received.one().headers);
    }
}

#[tokio::test]
async fn the_list_says_what_is_outside() {
    let (server, received) = serve().await;
    let port = server.port();
    let hosts = InternalHosts::none().suffix(".partner.example".parse().unwrap());
    let client = DevRouteClientLayer::new()
        .internal_hosts(hosts)
        .layer(Client::builder(TokioExecutor::new()).build(connector()));
    get(
        client.clone(),
        format!("http://api.partner.example:{port}/"),
    )
    .await;
    assert_carries(&received.one().headers, 2);
    for host in [
        "checkout",
        "checkout.qa.svc",
        "127.0.0.1",
        "partner.example",
    ] {
        get(client.clone(), format!("http://{host}:{port}/")).await;
        assert_others_only(&received.one().headers);
    }
}

/// A `Channel` knows its host, the requests above it do not.
#[tokio::test]
async fn a_channel_that_leads_outside_takes_nothing_of_ours() {
    let received = Received::default();
    let log = received.clone();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let server = listener.local_addr().unwrap();
    let (_reporter, health) = tonic_health::server::health_reporter();
    let record = MapRequestLayer::new(move |request: Request<tonic::body::Body>| {
        let (parts, body) = request.into_parts();
        log.add(parts.clone());
        Request::from_parts(parts, body)
    });
    let serving = Server::builder()
        .layer(record)
        .add_service(health)
        .serve_with_incoming(TcpIncoming::from(listener));
    tokio::spawn(serving);

    for (uri, internal) in [
        ("http://grpc.example.com", false),
        ("http://greeter.qa.svc:50051", true),
    ] {
        let uri = Uri::from_static(uri);
        let connect =
            service_fn(
                move |_: Uri| async move { TcpStream::connect(server).await.map(TokioIo::new) },
            );
        let channel = Endpoint::from(uri.clone()).connect_with_connector_lazy(connect);
        let channel = ServiceBuilder::new()
            .layer(DevRouteClientLayer::new().destination(&uri))
            .service(channel);
        let mut request = tonic::Request::new(HealthCheckRequest::default());
        *request.metadata_mut() = tonic::metadata::MetadataMap::from_headers(own());
        let mut client = HealthClient::new(channel);
        context::scope(contract(1), client.check(request))
            .await
            .unwrap();
        let parts = received.one();
        assert_eq!(parts.uri.host(), uri.host());
        if internal {
            assert_carries(&parts.headers, 2);
        } else {
            assert_others_only(&parts.headers);
        }
    }
}

/// Inside of `FollowRedirect` each request goes through the layer, and is judged for itself.
#[tokio::test]
async fn a_redirect_that_leaves_takes_nothing_along_where_the_layer_is_inside() {
    let (inside, at_inside) = serve().await;
    let (outside, at_outside) = serve().await;
    let client = ServiceBuilder::new()
        .layer(FollowRedirectLayer::new())
        .layer(DevRouteClientLayer::new())
        .service(Client::builder(TokioExecutor::new()).build(connector()));
    let secret = format!("http://outside.example:{}/secret", outside.port());
    let uri = format!("http://checkout:{}/to?{secret}", inside.port());
    assert_eq!(get(client, uri).await, 200);
    assert_carries(&at_inside.one().headers, 2);
    assert_others_only(&at_outside.one().headers);
}

/// Outside of it the redirect repeats what the layer has written, so it must not be followed.
#[tokio::test]
async fn a_redirect_that_leaves_is_not_followed_where_the_layer_is_outside() {
    let (inside, at_inside) = serve().await;
    let (outside, at_outside) = serve().await;
    let hosts = InternalHosts::default();
    let stay_inside = redirect_fn(move |attempt: &Attempt<'_>| {
        if hosts.may_follow(attempt.previous(), attempt.location()) {
            Ok(Action::Follow)
        } else {
            Ok(Action::Stop)
        }
    });
    let client = ServiceBuilder::new()
        .layer(DevRouteClientLayer::new())
        .layer(FollowRedirectLayer::with_policy(stay_inside))
        .service(Client::builder(TokioExecutor::new()).build(connector()));
    let secret = format!("http://outside.example:{}/secret", outside.port());
    let base = format!("http://checkout:{}", inside.port());

    let uri = format!("{base}/to?{secret}");
    assert_eq!(
        get(client.clone(), uri).await,
        StatusCode::TEMPORARY_REDIRECT
    );
    let uri = format!("{base}/to?{base}/to?{secret}");
    assert_eq!(
        get(client.clone(), uri).await,
        StatusCode::TEMPORARY_REDIRECT
    );
    assert_eq!(at_inside.take().len(), 3);
    assert!(at_outside.take().is_empty());

    // What stays inside is followed, with the contract; a chain that began outside goes on outside.
    assert_eq!(
        get(client.clone(), format!("{base}/to?{base}/there")).await,
        200
    );
    for parts in at_inside.take() {
        assert_carries(&parts.headers, 2);
    }
    let uri = format!("http://outside.example:{0}/to?{secret}", outside.port());
    assert_eq!(get(client, uri).await, 200);
    for parts in at_outside.take() {
        assert_others_only(&parts.headers);
    }
}
