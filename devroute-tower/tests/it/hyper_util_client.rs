//! hyper-util's client below the layer: what a server on loopback receives.

use bytes::Bytes;
use devroute_tower::{DevRouteClientLayer, context};
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tower::{ServiceBuilder, ServiceExt as _};

use crate::outbound_support::{assert_carries, assert_carries_nothing, connector, contract, serve};

#[tokio::test]
async fn the_contract_reaches_internal_hosts_and_no_other() {
    let (server, received) = serve().await;
    let port = server.port();
    let client = Client::builder(TokioExecutor::new()).build(connector());
    let client = ServiceBuilder::new()
        .layer(DevRouteClientLayer::new())
        .service(client);
    let get = |uri: String| {
        let request = Request::get(uri).body(Empty::<Bytes>::new()).unwrap();
        let response = client.clone().oneshot(request);
        async { response.await.unwrap().into_body().collect().await.unwrap() }
    };

    context::scope(contract(1), get(format!("http://checkout.qa.svc:{port}/a"))).await;
    assert_carries(&received.one().headers, 1);

    context::scope(contract(2), get(format!("http://127.0.0.1:{port}/b"))).await;
    assert_carries(&received.one().headers, 2);

    // The same pooled client, no contract: nothing is left over from the requests before.
    get(format!("http://127.0.0.1:{port}/c")).await;
    assert_carries_nothing(&received.one().headers);

    context::scope(contract(3), get(format!("http://outside.example:{port}/d"))).await;
    assert_carries_nothing(&received.one().headers);
}

#[tokio::test]
async fn the_contract_travels_over_http2_as_well() {
    let (server, received) = serve().await;
    let client = Client::builder(TokioExecutor::new())
        .http2_only(true)
        .build(connector());
    let client = ServiceBuilder::new()
        .layer(DevRouteClientLayer::new())
        .service(client);
    let request = Request::get(format!("http://checkout:{}/", server.port()))
        .body(Empty::<Bytes>::new())
        .unwrap();
    let response = context::scope(contract(1), client.oneshot(request)).await;
    assert_eq!(response.unwrap().version(), http::Version::HTTP_2);
    assert_carries(&received.one().headers, 1);
}
