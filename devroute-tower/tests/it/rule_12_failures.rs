//! Rule 12: a reroute that fails is an answer that says what, where, why and what to do.

use std::time::Duration;

use axum::body::Body;
use devroute_tower::{DevRouteLayer, transport::HttpTransport, transport::Upstream};
use http::Request;
use tower::Layer as _;

use crate::support::{
    Then, client, contract, echo, get, h2_client, layer, nobody, policy, raw_target, send, serve,
    serve_hyper,
};

#[tokio::test]
async fn a_malformed_contract_is_400_whoever_it_is_for() {
    let addr = serve(echo("baseline").layer(layer())).await;
    for malformed in [
        "{",
        r#"{"foo":[1,2,3]}"#,
        r#"{"bar":"192.168.10.20_9001"}"#,
        r#"{"foo":"10.0.0.1:1","foo":"10.0.0.1:1"}"#,
    ] {
        let answer = get(addr, malformed).await;
        assert_eq!(answer.status, 400, "{malformed}");
        let problem = answer.problem();
        assert_eq!(problem["cause"], "malformed");
        assert!(
            problem["detail"].as_str().unwrap().contains("byte"),
            "{problem}"
        );
        assert!(
            answer
                .field("proxy-status")
                .starts_with("devroute; error=http_request_error")
        );
    }
}

#[tokio::test]
async fn a_target_that_is_not_allowed_is_403_and_never_dialled() {
    let laptop = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = laptop.local_addr().unwrap();
    let addr = serve(echo("baseline").layer(DevRouteLayer::new("foo"))).await;
    let answer = get(addr, &contract("foo", target)).await;
    assert_eq!(answer.status, 403);
    let problem = answer.problem();
    assert_eq!(problem["cause"], "loopback");
    assert_eq!(problem["service"], "foo");
    assert_eq!(problem["target"], target.to_string());
    assert!(!problem["help"].as_str().unwrap().is_empty());
    assert_eq!(
        answer.field("x-devroute-routed"),
        "foo=none; reason=loopback"
    );
    // Nobody has knocked: the queue of the listener is empty.
    assert!(futures_util::FutureExt::now_or_never(laptop.accept()).is_none());
}

#[tokio::test]
async fn a_laptop_that_is_down_is_502_with_service_address_and_cause() {
    let down = nobody().await;
    let addr = serve(echo("baseline").layer(layer())).await;
    let answer = get(addr, &contract("foo", down)).await;
    assert_eq!(answer.status, 502);
    let problem = answer.problem();
    assert_eq!(problem["status"], 502);
    assert_eq!(problem["title"], "Bad Gateway");
    assert_eq!(problem["service"], "foo");
    assert_eq!(problem["target"], down.to_string());
    assert_eq!(problem["cause"], "connection_refused");
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("refused the connection")
    );
    assert_eq!(
        answer.field("x-devroute-routed"),
        "foo=none; reason=connection_refused"
    );
    let status = answer.field("proxy-status");
    assert!(
        status.starts_with(&format!(
            "devroute; error=connection_refused; next-hop=\"{down}\"; details=\""
        )),
        "{status}"
    );
}

#[tokio::test]
async fn a_target_that_takes_no_connection_in_time_is_504() {
    // A full queue: the listener accepts nothing, so the next connection gets no answer.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let full = listener.local_addr().unwrap();
    let mut queued = Vec::new();
    while let Ok(Ok(stream)) = tokio::time::timeout(
        Duration::from_millis(200),
        tokio::net::TcpStream::connect(full),
    )
    .await
    {
        queued.push(stream);
        assert!(queued.len() < 64, "the queue never fills");
    }
    let transport = HttpTransport::new().connect_timeout(Duration::from_millis(100));
    let addr = serve(echo("baseline").layer(layer().transport(transport))).await;
    let answer = get(addr, &contract("foo", full)).await;
    assert_eq!(answer.status, 504);
    assert_eq!(answer.problem()["cause"], "connect_timeout");
    assert!(
        answer
            .field("proxy-status")
            .contains("error=connection_timeout")
    );
}

#[tokio::test]
async fn a_target_that_closes_resets_or_talks_nonsense_is_502() {
    let addr = serve(echo("baseline").layer(layer())).await;
    for (answer, then, cause) in [
        (&b""[..], Then::Close, "connection_closed"),
        (b"", Then::Reset, "connection_closed"),
        (b"HTTP/1.1 200 O", Then::Close, "connection_closed"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", Then::Hold, "protocol_error"),
        (
            b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n",
            Then::Hold,
            "protocol_error",
        ),
    ] {
        let target = raw_target(answer, then).await;
        let got = get(addr, &contract("foo", target)).await;
        assert_eq!(got.status, 502, "{answer:?} {then:?}");
        assert_eq!(got.problem()["cause"], cause, "{answer:?} {then:?}");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_not_a_complete_one() {
    let target = raw_target(
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",
        Then::Close,
    )
    .await;
    let addr = serve(echo("baseline").layer(layer())).await;
    let request = Request::get(format!("http://{addr}/"))
        .header("x-devroute", contract("foo", target))
        .body(Body::empty())
        .unwrap();
    // The server may not even have written the head when it learns that there is no more.
    let whole = async {
        let response = client()
            .request(request)
            .await
            .map_err(|error| error.to_string())?;
        http_body_util::BodyExt::collect(response.into_body())
            .await
            .map_err(|error| error.to_string())
    };
    assert!(whole.await.is_err());
}

#[tokio::test]
async fn grpc_gets_trailers_only() {
    let addr = serve(echo("baseline").layer(layer())).await;
    let down = nobody().await;
    for (sent, status) in [
        ("{".to_owned(), "3"),
        (contract("foo", "69.145.32.56:9001"), "7"),
        (contract("foo", down), "14"),
    ] {
        let request = Request::post(format!("http://{addr}/pkg.Service/Method"))
            .header("content-type", "application/grpc+proto")
            .header("te", "trailers")
            .header("x-devroute", sent)
            .body(Body::empty())
            .unwrap();
        let answer = send(&h2_client(), request).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.field("content-type"), "application/grpc");
        assert_eq!(answer.field("grpc-status"), status);
        assert!(!answer.field("grpc-message").is_empty());
        assert!(!answer.field("proxy-status").is_empty());
        assert_eq!((answer.body.as_str(), answer.trailers), ("", None));
    }
    // grpc-web is HTTP as far as failures go.
    let request = Request::post(format!("http://{addr}/"))
        .header("content-type", "application/grpc-web")
        .header("x-devroute", "{")
        .body(Body::empty())
        .unwrap();
    assert_eq!(send(&client(), request).await.status, 400);
}

#[tokio::test]
async fn what_failed_says_that_it_is_not_to_be_sent_again() {
    let addr = serve(echo("baseline").layer(layer())).await;
    let down = contract("foo", nobody().await);
    let final_to_envoy = "x-envoy-ratelimited";
    for sent in ["{", r#"{"foo":"69.145.32.56:9001"}"#, &down] {
        let answer = get(addr, sent).await;
        assert_eq!(answer.field(final_to_envoy), "true", "{sent}");
        assert!(!answer.headers.contains_key("grpc-retry-pushback-ms"));
    }
    let request = Request::post(format!("http://{addr}/pkg.Service/Method"))
        .header("content-type", "application/grpc")
        .header("x-devroute", &down)
        .body(Body::empty())
        .unwrap();
    let answer = send(&h2_client(), request).await;
    assert_eq!(answer.field(final_to_envoy), "true");
    assert_eq!(answer.field("grpc-retry-pushback-ms"), "-1");

    for (head, is_final) in [
        ("HTTP/1.1 200 OK", false),
        ("HTTP/1.1 404 Not Found", false),
        ("HTTP/1.1 503 Service Unavailable", true),
        ("HTTP/1.1 200 OK\r\ngrpc-status: 14", true),
    ] {
        let answer = format!("{head}\r\ncontent-length: 0\r\n\r\n");
        let target = raw_target(answer.leak().as_bytes(), Then::Close).await;
        let answer = get(addr, &contract("foo", target)).await;
        let marked = answer.headers.contains_key(final_to_envoy);
        assert_eq!(marked, is_final, "{head}");
    }
}

#[tokio::test]
async fn a_baseline_that_is_down_may_be_asked_again() {
    let down = Upstream::new(HttpTransport::new(), nobody().await);
    let addr = serve_hyper(layer().layer(down)).await;
    for sent in ["{}", r#"{"bar":"192.168.1.12:8001"}"#] {
        let answer = get(addr, sent).await;
        assert_eq!(answer.status, 502);
        assert!(!answer.headers.contains_key("x-envoy-ratelimited"));
    }
}

#[tokio::test]
async fn addresses_can_be_kept_back() {
    let down = nobody().await;
    let laptop = serve(echo("laptop")).await;
    let addr = serve(echo("baseline").layer(layer().reveal_addresses(false))).await;
    for target in [down.to_string(), "69.145.32.56:9001".into()] {
        let answer = get(addr, &contract("foo", &target)).await;
        let ip = target.split(':').next().unwrap();
        assert!(answer.status >= 400);
        assert!(!answer.body.contains(ip), "{answer:?}");
        assert!(!format!("{:?}", answer.headers).contains(ip), "{answer:?}");
        assert_eq!(answer.problem()["service"], "foo");
    }
    let answer = get(addr, &contract("foo", laptop)).await;
    assert_eq!(answer.field("x-devroute-routed"), "foo=target");
}

#[tokio::test]
async fn a_router_answers_400_to_what_it_cannot_route() {
    let never = Upstream::new(HttpTransport::new(), nobody().await);
    let addr = serve_hyper(DevRouteLayer::router().policy(policy()).layer(never)).await;
    let laptop = serve(echo("laptop")).await;
    let ours = contract("foo", laptop);
    for (matched, sent, status, cause) in [
        ("foo", "", 400, "missing_contract"),
        ("", ours.as_str(), 400, "missing_service"),
        ("bar", &ours, 400, "no_entry"),
        ("b a r", &ours, 400, "missing_service"),
        ("foo", r#"{"foo": [1,2,3]}"#, 400, "malformed"),
        ("foo", r#"{"foo":"192.168.10.20_9001"}"#, 400, "malformed"),
        ("foo", r#"{"foo":"69.145.32.56:9001"}"#, 403, "public"),
    ] {
        let mut request = Request::get(format!("http://{addr}/"));
        if !matched.is_empty() {
            request = request.header("x-devroute-matched", matched);
        }
        if !sent.is_empty() {
            request = request.header("x-devroute", sent);
        }
        let answer = send(&client(), request.body(Body::empty()).unwrap()).await;
        assert_eq!(answer.status, status, "{matched} {sent}");
        assert_eq!(answer.problem()["cause"], cause, "{matched} {sent}");
    }
    let request = Request::get(format!("http://{addr}/"))
        .header("x-devroute-matched", "foo")
        .header("x-devroute", ours)
        .body(Body::empty())
        .unwrap();
    assert!(send(&client(), request).await.body.starts_with("laptop"));
}

#[tokio::test]
async fn a_proxy_never_reaches_itself_by_another_address_of_the_host() {
    // The policy does not know that this address is ours; the connection shows it.
    let listener = tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let transport =
        HttpTransport::new().own_listener(std::net::SocketAddr::from(([0, 0, 0, 0], port)));
    let app = echo("baseline").layer(layer().transport(transport));
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    let addr = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let answer = get(addr, &contract("foo", addr)).await;
    assert_eq!(answer.status, 403, "{answer:?}");
    assert_eq!(answer.problem()["cause"], "own_listener");
}

#[tokio::test]
async fn tls_is_not_spoken_unless_it_is_configured_and_nothing_is_dialled() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap();
    let addr = serve(axum::Router::new().layer(layer())).await;
    let answer = get(addr, &contract("foo", format!("https://{target}"))).await;
    assert_eq!(answer.status, 502);
    assert_eq!(answer.problem()["cause"], "tls_unavailable");
    assert!(
        answer
            .field("proxy-status")
            .contains("error=proxy_configuration_error")
    );
    let nobody_came = tokio::time::timeout(std::time::Duration::from_millis(50), listener.accept());
    assert!(nobody_came.await.is_err());
}

#[tokio::test]
async fn an_answer_to_head_has_the_length_of_the_problem_and_no_body() {
    let down = contract("foo", nobody().await);
    let baseline = tower::service_fn(|_: http::Request<hyper::body::Incoming>| {
        std::future::ready(Ok::<_, std::convert::Infallible>(http::Response::new(
            String::new(),
        )))
    });
    // No server in between that would hold the body back.
    let addr = serve_hyper(layer().layer(baseline)).await;
    for sent in [&*down, "{", r#"{"foo":"1.1.1.1:1"}"#] {
        for client in [client(), h2_client()] {
            let ask = |method: &str| {
                let request = http::Request::builder()
                    .method(method)
                    .uri(format!("http://{addr}/"))
                    .header("x-devroute", sent);
                request.body(axum::body::Body::empty()).unwrap()
            };
            let get = send(&client, ask("GET")).await;
            let head = send(&client, ask("HEAD")).await;
            assert_eq!(head.status, get.status, "{sent}");
            assert_eq!(head.body, "");
            assert_eq!(head.field("content-length"), get.body.len().to_string());
            assert_eq!(head.field("proxy-status"), get.field("proxy-status"));
        }
    }
}
