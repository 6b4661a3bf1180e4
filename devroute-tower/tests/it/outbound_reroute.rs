//! Rerouting at the caller: the client layer with a transport.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{Router, body::Body};
use devroute_core::{Contract, ServiceName, TargetPolicy};
use devroute_tower::{
    DevRouteClientLayer, Mode, OnFailure, Outcome, OutcomeKind, ResponseBody, context,
    outbound::{DevRouteClientReroute, DevRouteClientRerouteLayer, InternalHosts},
    transport::{self, HttpTransport},
};
use http::{HeaderMap, Request, Response, uri::Authority};
use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use tower::{Layer as _, ServiceExt as _, service_fn};

use crate::support::{echo, nobody, policy, serve};

fn layer() -> DevRouteClientRerouteLayer<HttpTransport> {
    DevRouteClientLayer::new()
        .reroute(HttpTransport::new())
        .policy(policy())
}

fn contract(service: &str, target: SocketAddr) -> Contract {
    format!(r#"{{"{service}":"{target}"}}"#).parse().unwrap()
}

fn get(uri: &str) -> Request<Body> {
    Request::get(uri).body(Body::empty()).unwrap()
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    outcome: Option<Outcome>,
    text: String,
}

impl Answer {
    fn field(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }
}

/// Sends `request` through `layer`. The client below it answers `inner PATH`, echoes the request's
/// fields like the servers do, and is never on the network.
async fn send<T, R>(layer: &DevRouteClientRerouteLayer<T>, request: Request<Body>) -> Answer
where
    T: tower::Service<Request<transport::Body>, Response = Response<R>> + Clone + Send + 'static,
    T::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    T::Future: Send,
    R: http_body::Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>>
        + Send
        + 'static,
{
    let inner = service_fn(|request: Request<Body>| async move {
        let path = request.uri().path().to_owned();
        let fields = request.headers().clone();
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let text = format!("inner {path} {}", String::from_utf8_lossy(&body));
        let mut response = Response::new(Body::from(text));
        for (name, value) in &fields {
            let name = http::HeaderName::try_from(format!("echo-{name}")).unwrap();
            response.headers_mut().append(name, value.clone());
        }
        Ok::<_, Infallible>(response)
    });
    let response = layer.layer(inner).oneshot(request).await.unwrap();
    let (parts, body): (_, ResponseBody<Body>) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Answer {
        status: parts.status.as_u16(),
        headers: parts.headers,
        outcome: parts.extensions.get().cloned(),
        text: String::from_utf8_lossy(&body).into_owned(),
    }
}

#[tokio::test]
async fn a_layer_that_carries_obeys_no_contract() {
    let laptop = serve(echo("laptop")).await;
    for (mode, expected) in [
        (Mode::On, "laptop GET /a "),
        (Mode::Carry, "inner /a "),
        (Mode::Off, "inner /a "),
    ] {
        let layer = DevRouteClientLayer::new()
            .mode(mode)
            .reroute(HttpTransport::new())
            .policy(policy());
        let sent = send(&layer, get("http://foo/a"));
        let answer = context::scope(contract("foo", laptop), sent).await;
        assert_eq!(answer.text, expected, "{mode:?}");
        let carried = answer.headers.contains_key("echo-x-devroute");
        assert_eq!(carried, mode != Mode::Off, "{mode:?}");
    }
}

#[tokio::test]
async fn a_request_for_a_named_service_goes_to_its_target() {
    let laptop = serve(echo("laptop")).await;
    let request = Request::post("http://checkout.qa.svc:8080/cart?x=%2F")
        .body(Body::from("body"))
        .unwrap();
    let contract = contract("checkout", laptop);
    let answer = context::scope(contract.clone(), send(&layer(), request)).await;

    assert_eq!(answer.status, 200);
    assert_eq!(answer.text, "laptop POST /cart?x=%2F body");
    // Rule 16: the host that the application meant; rules 7 and 10: marked, and in both carriers.
    assert_eq!(answer.field("echo-host"), "checkout.qa.svc:8080");
    assert_eq!(answer.field("echo-x-devroute-matched"), "checkout");
    assert_eq!(answer.field("echo-x-devroute"), contract.to_string());
    assert!(answer.field("echo-baggage").starts_with("devroute="));
    assert_eq!(answer.field("echo-via"), "1.1 devroute");
    // Rule 14.
    assert_eq!(
        answer.field("x-devroute-routed"),
        format!("checkout={laptop}")
    );
    assert_eq!(answer.outcome.unwrap().kind(), OutcomeKind::Rerouted);
}

#[tokio::test]
async fn whose_own_request_it_is_stands_in_via() {
    let laptop = serve(echo("laptop")).await;
    let layer = layer().caller(ServiceName::new("bar").unwrap());
    let sent = send(&layer, get("http://foo/"));
    let answer = context::scope(contract("foo", laptop), sent).await;
    assert_eq!(answer.field("echo-via"), "1.1 devroute (bar)");
}

#[tokio::test]
async fn a_request_for_another_service_goes_to_the_inner_client() {
    let laptop = serve(echo("laptop")).await;
    let contract = contract("checkout", laptop);
    let answer = context::scope(contract.clone(), send(&layer(), get("http://search/"))).await;
    assert_eq!(answer.text, "inner / ");
    assert_eq!(answer.field("echo-x-devroute"), contract.to_string());
    assert!(!answer.headers.contains_key("x-devroute-routed"));
    assert!(answer.outcome.is_none());
}

#[tokio::test]
async fn without_a_contract_the_inner_client_gets_the_request_as_it_is() {
    let answer = send(&layer(), get("http://checkout/a")).await;
    assert_eq!(answer.text, "inner /a ");
    assert!(answer.headers.is_empty(), "{:?}", answer.headers);
}

#[tokio::test]
async fn rule_11_external_hosts_are_never_rerouted() {
    let laptop = serve(echo("laptop")).await;
    for uri in ["http://checkout.example.com/", "/"] {
        let answer = context::scope(contract("checkout", laptop), send(&layer(), get(uri))).await;
        assert_eq!(answer.text, "inner / ", "{uri}");
        assert!(!answer.headers.contains_key("echo-x-devroute"));
    }
    let request = Request::get("http://checkout.example.com/")
        .header("x-devroute", contract("checkout", laptop).header_value())
        .body(Body::empty())
        .unwrap();
    let answer = send(&layer(), request).await;
    assert_eq!(answer.text, "inner / ");
    assert!(!answer.headers.contains_key("echo-x-devroute"));
}

#[tokio::test]
async fn rule_07_a_copied_matched_field_does_not_keep_a_request_from_its_target() {
    let laptop = serve(echo("laptop")).await;
    let mut request = get("http://checkout/");
    let copied = "checkout".parse().unwrap();
    request.headers_mut().insert("x-devroute-matched", copied);
    let answer = context::scope(contract("checkout", laptop), send(&layer(), request)).await;
    assert_eq!(answer.text, "laptop GET / ");
}

#[tokio::test]
async fn the_service_is_the_first_label_and_an_address_has_none() {
    let laptop = serve(echo("laptop")).await;
    for (uri, rerouted) in [
        ("http://checkout/", true),
        ("http://CheckOut:80/", true),
        ("http://user@checkout.svc/", true),
        ("http://10.0.0.1/", false),
        ("http://[fd00::1]/", false),
        ("http://checkout2/", false),
    ] {
        let answer = context::scope(contract("checkout", laptop), send(&layer(), get(uri))).await;
        assert_eq!(answer.text.starts_with("laptop"), rerouted, "{uri}");
    }
    // What the first label of an address would be is a valid service name.
    let answer = context::scope(
        contract("10", laptop),
        send(&layer(), get("http://10.0.0.1/")),
    )
    .await;
    assert_eq!(answer.text, "inner / ");
}

#[tokio::test]
async fn the_service_can_be_named_by_a_closure() {
    let laptop = serve(echo("laptop")).await;
    let layer = layer().service_name(|authority: &Authority| match authority.port_u16() {
        Some(8001) => ServiceName::new("checkout").ok(),
        _ => None,
    });
    let contract = contract("checkout", laptop);
    let answer = context::scope(contract.clone(), send(&layer, get("http://gateway:8001/"))).await;
    assert_eq!(answer.text, "laptop GET / ");
    let answer = context::scope(contract, send(&layer, get("http://checkout:8002/"))).await;
    assert_eq!(answer.text, "inner / ");
}

#[tokio::test]
async fn the_destination_that_the_layer_is_told_is_named_to_the_target() {
    let laptop = serve(echo("laptop")).await;
    let layer = DevRouteClientLayer::new()
        .destination(&"http://greeter:50051".parse().unwrap())
        .reroute(HttpTransport::new())
        .policy(policy());
    let answer = context::scope(contract("greeter", laptop), send(&layer, get("/hello"))).await;
    assert_eq!(answer.text, "laptop GET /hello ");
    assert_eq!(answer.field("echo-host"), "greeter:50051");
}

#[tokio::test]
async fn rule_11_the_internal_hosts_of_the_layer_count_for_rerouting() {
    let laptop = serve(echo("laptop")).await;
    let layer = DevRouteClientLayer::new()
        .internal_hosts(InternalHosts::none().suffix(".corp.example".parse().unwrap()))
        .reroute(HttpTransport::new())
        .policy(policy());
    let contract = contract("checkout", laptop);
    let inside = send(&layer, get("http://checkout.corp.example/"));
    assert_eq!(
        context::scope(contract.clone(), inside).await.text,
        "laptop GET / "
    );
    let outside = send(&layer, get("http://checkout/"));
    assert_eq!(context::scope(contract, outside).await.text, "inner / ");
}

#[tokio::test]
async fn rule_12_an_unreachable_target_is_a_problem_not_an_error() {
    let dead = nobody().await;
    let answer = context::scope(
        contract("checkout", dead),
        send(&layer(), get("http://checkout/")),
    )
    .await;
    assert_eq!(answer.status, 502);
    assert_eq!(answer.field("content-type"), "application/problem+json");
    assert!(
        answer.text.contains("checkout") && answer.text.contains(&dead.to_string()),
        "{}",
        answer.text
    );
    assert!(answer.field("proxy-status").contains("connection_refused"));
    assert_eq!(
        answer.field("x-devroute-routed"),
        "checkout=none; reason=connection_refused"
    );

    let hidden = layer().reveal_addresses(false);
    let answer = context::scope(
        contract("checkout", dead),
        send(&hidden, get("http://checkout/")),
    )
    .await;
    assert_eq!(answer.status, 502);
    let all = format!("{:?} {}", answer.headers, answer.text);
    assert!(!all.contains(&dead.to_string()), "{all}");
}

#[tokio::test]
async fn rule_12_a_refused_target_is_403_and_a_malformed_contract_400() {
    let public: Contract = r#"{"checkout":"69.145.32.56:9001"}"#.parse().unwrap();
    let answer = context::scope(public, send(&layer(), get("http://checkout/"))).await;
    assert_eq!(answer.status, 403);

    // Loopback is not allowed unless the deployment says so.
    let layer_of_production = layer().policy(TargetPolicy::default());
    let own: Contract = r#"{"checkout":"127.0.0.1:9001"}"#.parse().unwrap();
    let answer = context::scope(own, send(&layer_of_production, get("http://checkout/"))).await;
    assert_eq!(answer.status, 403);

    let mut request = get("http://checkout/");
    request
        .headers_mut()
        .insert("x-devroute", "{".parse().unwrap());
    assert_eq!(send(&layer(), request).await.status, 400);
}

#[tokio::test]
async fn rule_12_grpc_gets_trailers_only() {
    let dead = nobody().await;
    let mut request = get("http://checkout/pkg.Service/Method");
    request
        .headers_mut()
        .insert("content-type", "application/grpc".parse().unwrap());
    let answer = context::scope(contract("checkout", dead), send(&layer(), request)).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.field("grpc-status"), "14");
    assert!(answer.field("grpc-message").contains("checkout"));
}

#[tokio::test]
async fn rule_13_under_fallback_the_inner_client_gets_the_same_request() {
    let dead = nobody().await;
    let layer = layer().on_failure(OnFailure::Fallback);
    let request = Request::put("http://checkout/cart")
        .header("x-own", "1")
        .body(Body::from("the body"))
        .unwrap();
    let contract = contract("checkout", dead);
    let answer = context::scope(contract.clone(), send(&layer, request)).await;
    assert_eq!(answer.text, "inner /cart the body");
    assert_eq!(answer.field("echo-x-own"), "1");
    assert_eq!(answer.field("echo-x-devroute"), contract.to_string());
    for added in [
        "echo-x-devroute-matched",
        "echo-via",
        "echo-host",
        "echo-x-forwarded-host",
    ] {
        assert!(!answer.headers.contains_key(added), "{added}");
    }
    assert_eq!(
        answer.field("x-devroute-routed"),
        "checkout=baseline; reason=connection_refused"
    );
    assert_eq!(answer.outcome.unwrap().kind(), OutcomeKind::FellBack);

    // What was added for the target only is gone as well.
    let layer = DevRouteClientLayer::new()
        .destination(&"http://checkout".parse().unwrap())
        .reroute(HttpTransport::new())
        .policy(policy())
        .on_failure(OnFailure::Fallback);
    let answer = context::scope(contract, send(&layer, get("/"))).await;
    assert_eq!(answer.text, "inner / ");
    assert!(!answer.headers.contains_key("echo-host"));
}

#[tokio::test]
async fn rule_19_via_a_router_the_target_is_not_dialled_by_us() {
    let router = serve(echo("router")).await;
    // The router judges it; here nothing is asked.
    let public: Contract = r#"{"checkout":"69.145.32.56:9001"}"#.parse().unwrap();
    let answer = context::scope(public, send(&layer().via(router), get("http://checkout/"))).await;
    assert_eq!(answer.text, "router GET / ");
    assert_eq!(answer.field("echo-x-devroute-matched"), "checkout");
}

#[tokio::test]
async fn rule_17_an_upgrade_is_handed_to_the_caller() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let laptop = listener.local_addr().unwrap();
    let app = Router::new().fallback(|mut request: Request<Body>| async move {
        assert_eq!(request.headers()["upgrade"], "websocket");
        tokio::spawn(async move {
            let upgraded = hyper::upgrade::on(&mut request).await.unwrap();
            let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded));
            tokio::io::copy(&mut read, &mut write).await.unwrap();
            write.shutdown().await.unwrap();
        });
        Response::builder()
            .status(101)
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .body(Body::empty())
            .unwrap()
    });
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });

    let inner = service_fn(|_: Request<Body>| async {
        Ok::<_, Infallible>(Response::new(Body::from("inner")))
    });
    let request = Request::get("http://checkout/socket")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .body(Body::empty())
        .unwrap();
    let call = layer().layer(inner).oneshot(request);
    let response = context::scope(contract("checkout", laptop), call)
        .await
        .unwrap();
    assert_eq!(response.status(), 101);
    assert_eq!(response.headers()["upgrade"], "websocket");

    let mut socket = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    socket.write_all(b"ping").await.unwrap();
    socket.shutdown().await.unwrap();
    let mut echoed = String::new();
    socket.read_to_string(&mut echoed).await.unwrap();
    assert_eq!(echoed, "ping");
}

#[tokio::test]
async fn a_custom_transport_is_one_service_away() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let transport = service_fn(move |request: Request<transport::Body>| {
        counted.fetch_add(1, Ordering::Relaxed);
        async move { Ok::<_, Infallible>(Response::new(request.uri().to_string())) }
    });
    let layer = DevRouteClientLayer::new().reroute(transport);
    let own: Contract = r#"{"checkout":"10.1.2.3:8001"}"#.parse().unwrap();
    let answer = context::scope(own, send(&layer, get("http://checkout/a?b"))).await;
    assert_eq!(answer.text, "http://10.1.2.3:8001/a?b");
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn the_inner_client_need_not_be_ready_to_be_cloned() {
    // A service that is only ready once a call: the clone that was made ready must be the one that
    // is called, under fallback too.
    #[derive(Default)]
    struct Strict {
        ready: bool,
    }
    impl Clone for Strict {
        fn clone(&self) -> Self {
            Self::default()
        }
    }
    impl tower::Service<Request<Body>> for Strict {
        type Response = Response<Body>;
        type Error = Infallible;
        type Future = std::future::Ready<Result<Response<Body>, Infallible>>;
        fn poll_ready(
            &mut self,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Result<(), Infallible>> {
            self.ready = true;
            std::task::Poll::Ready(Ok(()))
        }
        fn call(&mut self, _: Request<Body>) -> Self::Future {
            assert!(std::mem::take(&mut self.ready), "called without poll_ready");
            std::future::ready(Ok(Response::new(Body::empty())))
        }
    }
    let dead = nobody().await;
    let service = layer()
        .on_failure(OnFailure::Fallback)
        .layer(Strict::default());
    for uri in ["http://checkout/", "http://search/", "http://example.com/"] {
        let call = service.clone().oneshot(get(uri));
        let response = context::scope(contract("checkout", dead), call).await;
        assert_eq!(response.unwrap().status(), 200, "{uri}");
    }
}

#[test]
fn auto_traits() {
    fn layer<T: Clone + Send + Sync + 'static>() {}
    layer::<DevRouteClientRerouteLayer<HttpTransport>>();
    layer::<DevRouteClientReroute<(), HttpTransport>>();
    fn future<T: Send>() {}
    future::<
        devroute_tower::outbound::ResponseFuture<
            std::future::Ready<Result<Response<Body>, Infallible>>,
            Body,
            Infallible,
        >,
    >();
}
