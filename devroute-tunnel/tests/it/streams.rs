//! What passes through, and what is refused on the way.

use std::convert::Infallible;

use bytes::Bytes;
use devroute_tower::transport::Body;
use devroute_tunnel::client::{Fatal, Tunnelled, WayOut};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, StreamBody};
use tower::ServiceExt as _;

use crate::support::{Laptop, echo, get, start, until};

#[tokio::test]
async fn a_request_comes_with_its_service_and_who_sent_it_and_nothing_of_the_tunnels() {
    let (_hub, address) = start(|_| {}).await;
    let told = async |request: Request<Body>| {
        let tunnelled = request.extensions().get::<Tunnelled>().unwrap();
        let caller = tunnelled.caller.unwrap();
        assert!(caller.ip().is_loopback());
        assert_eq!(tunnelled.service.as_str(), "foo");
        let names: Vec<_> = request.headers().keys().map(ToString::to_string).collect();
        let host = request.uri().host().unwrap_or_default();
        Response::new(Body::new(format!("{host} {names:?}")))
    };
    let mut laptop = Laptop::start(address, |_| {}, told);
    let foo = laptop.foo().await;
    assert_eq!(get(foo, "/").await, (StatusCode::OK, "foo []".to_owned()));
}

#[tokio::test]
async fn a_laptop_may_have_so_many_requests_and_no_more() {
    let (hub, address) = start(|config| config.limits.streams = 1).await;
    let mut laptop = Laptop::start(address, |_| {}, |_request| std::future::pending());
    let foo = laptop.foo().await;
    let first = tokio::spawn(async move { get(foo, "/").await });
    until(|| hub.stats().streams == 1).await;
    let (status, problem) = get(foo, "/").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(problem.contains("too_many_requests_to_laptop"), "{problem}");
    // Whoever goes away makes room.
    first.abort();
    until(|| hub.stats().streams == 0).await;
    assert_eq!(hub.stats().limits.iter().sum::<u64>(), 1);
}

#[tokio::test]
async fn requests_of_a_laptop_go_out_where_it_has_a_hub() {
    let (_hub, address) = start(|config| config.outbound = true).await;
    let way = WayOut::new();
    let ask = |way: WayOut| async move {
        let request = Request::get("http://bar.qa/").body(Full::<Bytes>::default());
        let response = way.oneshot(request.unwrap()).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    };
    let (status, problem) = ask(way.clone()).await;
    assert_eq!(status, StatusCode::BAD_GATEWAY);
    assert!(problem.contains("no_hub"), "{problem}");

    let out = way.clone();
    let mut laptop = Laptop::start(address, move |config| config.way_out = Some(out), echo);
    assert!(laptop.connected().await.outbound);
    let went = async {
        loop {
            let (status, host) = ask(way.clone()).await;
            if status == StatusCode::OK {
                break host;
            }
            tokio::task::yield_now().await;
        }
    };
    let host = tokio::time::timeout(crate::support::PATIENCE, went).await;
    assert_eq!(host.unwrap(), "bar.qa");
}

#[tokio::test]
async fn trailers_come_back() {
    let (_hub, address) = start(|_| {}).await;
    let with_trailers = async |_request: Request<Body>| {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "7".parse().unwrap());
        let frames = [
            http_body::Frame::data(Bytes::from_static(b"data")),
            http_body::Frame::trailers(trailers),
        ];
        let body = StreamBody::new(futures_util::stream::iter(frames.map(Ok::<_, Infallible>)));
        let mut response = Response::new(Body::new(body));
        response
            .headers_mut()
            .insert("trailer", "x-sum".parse().unwrap());
        response
    };
    let mut laptop = Laptop::start(address, |_| {}, with_trailers);
    let foo = laptop.foo().await;
    let stream = tokio::net::TcpStream::connect(foo).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("/")
        .header("host", "foo")
        .header("te", "trailers");
    let request = request.body(Full::<Bytes>::default()).unwrap();
    let response = sender.send_request(request).await.unwrap();
    let body = response.into_body().collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["x-sum"], "7");
    assert_eq!(body.to_bytes(), "data");
}

#[tokio::test]
async fn what_is_no_hub_is_not_dialled_again() {
    let (_hub, address) = start(|_| {}).await;
    // An address of a service is none.
    let mut laptop = Laptop::start(
        address,
        |_| {},
        async |_request: Request<Body>| {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NOT_FOUND;
            response
        },
    );
    let foo = laptop.foo().await;
    let second = Laptop::start(foo, |_| {}, echo);
    let ended = tokio::time::timeout(crate::support::PATIENCE, second.running).await;
    let fatal: Fatal = ended.unwrap().unwrap().unwrap_err();
    assert!(fatal.to_string().contains("no hub"), "{fatal}");
}

#[tokio::test]
async fn dialling_in_is_a_get_with_an_offer_and_an_upgrade() {
    let (_hub, address) = start(|_| {}).await;
    let offer = r#"{"services":["foo"],"name":"a","token":"c2VjcmV0IG9mIHRoaXMgc2Vzc2lvbg"}"#;
    let path = devroute_tunnel::protocol::PATH;
    for (method, path, offer, expected) in [
        (Method::GET, "/", Some(offer), StatusCode::NOT_FOUND),
        (
            Method::POST,
            path,
            Some(offer),
            StatusCode::METHOD_NOT_ALLOWED,
        ),
        (Method::GET, path, None, StatusCode::BAD_REQUEST),
        (Method::GET, path, Some("{}"), StatusCode::BAD_REQUEST),
        (Method::GET, path, Some(offer), StatusCode::UPGRADE_REQUIRED),
    ] {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let io = hyper_util::rt::TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "hub");
        if let Some(offer) = offer {
            request = request.header("devroute-offer", offer);
        }
        let request = request.body(Full::<Bytes>::default()).unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), expected);
        assert!(response.headers().contains_key("proxy-status"));
    }
}
