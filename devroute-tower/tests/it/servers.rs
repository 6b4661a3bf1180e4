//! The layer in the servers that people use, and among other layers.

use std::{convert::Infallible, future::ready, time::Duration};

use axum::{Router, body::Body, routing::get as route};
use devroute_tower::{DevRouteClientLayer, DevRouteLayer, context};
use http::{Request, Response, StatusCode};
use tokio::net::TcpListener;
use tokio_test::assert_pending;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tower::{
    Layer as _, Service as _, ServiceBuilder, ServiceExt as _, limit::ConcurrencyLimitLayer,
    service_fn,
};

use crate::support::{
    client, contract, echo, get, layer, nobody, policy, send, serve, serve_hyper,
};

#[tokio::test]
async fn plain_hyper_through_tower_to_hyper_service() {
    let laptop = serve(echo("laptop")).await;
    let baseline = service_fn(|request: Request<hyper::body::Incoming>| {
        ready(Ok::<_, Infallible>(Response::new(format!(
            "baseline {}",
            request.uri()
        ))))
    });
    let addr = serve_hyper(layer().layer(baseline)).await;
    assert_eq!(get(addr, "").await.body, "baseline /path?q=1");
    assert_eq!(
        get(addr, &contract("foo", laptop)).await.body,
        "laptop GET /path?q=1 "
    );
}

/// A tonic server whose health service says `status` for service `x`.
async fn tonic(
    status: tonic_health::ServingStatus,
    layer: Option<DevRouteLayer>,
) -> std::net::SocketAddr {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_service_status("x", status).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    let mut server = tonic::transport::Server::builder();
    match layer {
        Some(layer) => {
            let server = server.layer(layer).add_service(health);
            tokio::spawn(server.serve_with_incoming(incoming))
        }
        None => tokio::spawn(server.add_service(health).serve_with_incoming(incoming)),
    };
    addr
}

#[tokio::test]
async fn tonic_server_and_channel_unary_and_streaming() {
    let laptop = tonic(tonic_health::ServingStatus::NotServing, None).await;
    let addr = tonic(tonic_health::ServingStatus::Serving, Some(layer())).await;
    let channel = tonic::transport::Channel::from_shared(format!("http://{addr}"))
        .unwrap()
        .connect()
        .await
        .unwrap();
    let channel = ServiceBuilder::new()
        .layer(DevRouteClientLayer::new().destination(&http::Uri::from_static("http://foo/")))
        .service(channel);
    let mut health = HealthClient::new(channel);
    let ask = || HealthCheckRequest {
        service: "x".into(),
    };

    let answer = health.check(ask()).await.unwrap().into_inner();
    assert_eq!(answer.status(), ServingStatus::Serving);

    let to_laptop = contract("foo", laptop).parse().unwrap();
    context::scope(to_laptop, async {
        let answer = health.check(ask()).await.unwrap();
        let mark = answer.metadata().get("x-devroute-routed").unwrap();
        assert_eq!(mark.to_str().unwrap(), format!("foo={laptop}"));
        assert_eq!(answer.into_inner().status(), ServingStatus::NotServing);
        // A stream that stays open delivers its first message at once.
        let mut stream = health.watch(ask()).await.unwrap().into_inner();
        let first = stream.message().await.unwrap().unwrap();
        assert_eq!(first.status(), ServingStatus::NotServing);
        // An error of the laptop's own arrives as that error.
        let missing = HealthCheckRequest {
            service: "missing".into(),
        };
        assert_eq!(
            health.check(missing).await.unwrap_err().code(),
            tonic::Code::NotFound
        );
    })
    .await;

    let down = contract("foo", nobody().await).parse().unwrap();
    let error = context::scope(down, health.check(ask())).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::Unavailable);
    assert!(
        error.message().contains("refused the connection"),
        "{error:?}"
    );
}

#[tokio::test]
async fn layers_inside_do_not_touch_a_rerouted_request() {
    let laptop = serve(Router::new().fallback(|| async {
        // Longer than the time-out inside.
        tokio::time::sleep(Duration::from_millis(150)).await;
        "laptop"
    }))
    .await;
    let unauthorized = axum::middleware::from_fn(|_: axum::extract::Request, _| async {
        StatusCode::UNAUTHORIZED
    });
    let app = Router::new()
        .route("/path", route(|| async { "baseline" }))
        .layer(
            ServiceBuilder::new()
                .layer(layer())
                .layer(tower_http::timeout::TimeoutLayer::with_status_code(
                    StatusCode::GATEWAY_TIMEOUT,
                    Duration::from_millis(20),
                ))
                .layer(unauthorized),
        );
    let addr = serve(app).await;
    assert_eq!(get(addr, "").await.status, 401);
    assert_eq!(get(addr, &contract("foo", laptop)).await.body, "laptop");
}

#[tokio::test]
async fn layers_outside_see_rerouted_requests_and_their_outcome() {
    let laptop = serve(echo("laptop")).await;
    let outside = axum::middleware::map_response(|mut response: axum::response::Response| async {
        let outcome = response.extensions().get::<devroute_tower::Outcome>();
        let kind = outcome.map_or("none", |outcome| outcome.kind().as_str());
        response
            .headers_mut()
            .insert("x-outcome", http::HeaderValue::from_static(kind));
        response
    });
    let app = echo("baseline").layer(layer()).layer(outside);
    let addr = serve(app).await;
    for (sent, expected) in [
        (String::new(), "none"),
        (contract("bar", "10.0.0.1:1"), "baseline"),
        (contract("foo", laptop), "rerouted"),
        (contract("foo", nobody().await), "failed"),
        (contract("foo", "1.1.1.1:1"), "refused"),
        ("{".into(), "refused"),
    ] {
        assert_eq!(
            get(addr, &sent).await.field("x-outcome"),
            expected,
            "{sent}"
        );
    }
}

#[tokio::test]
async fn a_route_added_after_the_layer_is_not_rerouted() {
    let laptop = serve(echo("laptop")).await;
    let app = echo("baseline")
        .layer(layer())
        .route("/path", route(|| async { "health" }));
    let addr = serve(app).await;
    assert_eq!(get(addr, &contract("foo", laptop)).await.body, "health");
    // A path without a route is the laptop's to know.
    let request = Request::get(format!("http://{addr}/unknown"))
        .header("x-devroute", contract("foo", laptop))
        .body(Body::empty())
        .unwrap();
    assert!(send(&client(), request).await.body.starts_with("laptop"));
}

#[tokio::test]
async fn a_short_circuit_keeps_the_permit_until_the_service_is_dropped() {
    let inner = ServiceBuilder::new()
        .layer(ConcurrencyLimitLayer::new(1))
        .service(service_fn(|_: Request<String>| {
            ready(Ok::<_, Infallible>(Response::new(String::new())))
        }));
    let mut first = DevRouteLayer::new("foo").policy(policy()).layer(inner);
    let mut second = first.clone();
    first.ready().await.unwrap();
    let refused = Request::get("/")
        .header("x-devroute", "{")
        .body(String::new())
        .unwrap();
    assert_eq!(first.call(refused).await.unwrap().status(), 400);
    assert_pending!(tokio_test::task::spawn(second.ready()).poll());
    drop(first);
    second.ready().await.unwrap();
}

#[test]
fn types_are_what_servers_ask_for() {
    fn layer<T: Clone + Send + Sync + 'static>() {}
    fn service<T: Clone + Send + Sync>() {}
    fn send<T: Send>() {}
    type Inner = tower::util::BoxCloneSyncService<Request<String>, Response<String>, Infallible>;
    layer::<DevRouteLayer>();
    layer::<DevRouteClientLayer>();
    service::<devroute_tower::DevRoute<Inner>>();
    service::<devroute_tower::transport::HttpTransport>();
    service::<devroute_tower::transport::Upstream>();
    send::<<devroute_tower::DevRoute<Inner> as tower::Service<Request<String>>>::Future>();
    send::<devroute_tower::ResponseBody<String>>();
    send::<devroute_tower::transport::ResponseBody>();
    send::<devroute_tower::transport::Body>();
}
