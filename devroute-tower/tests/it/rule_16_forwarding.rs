//! Rule 16: nothing changes on the way but what has to.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use axum::{Router, body::Body, extract::Request as AxumRequest, response::Response};
use bytes::Bytes;
use devroute_tower::{
    ClientInfo, DevRouteLayer, ForwardedFields, Mode, OnFailure,
    transport::{HttpTransport, Upstream},
};
use http::{HeaderMap, HeaderValue, Request};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tower::{Layer as _, ServiceExt as _};

use crate::support::{
    Then, client, contract, echo, h2_client, layer, nobody, raw_target, read_head, send, serve,
    serve_hyper,
};

async fn sidecar(service: std::net::SocketAddr) -> std::net::SocketAddr {
    let upstream = Upstream::new(HttpTransport::new(), service);
    serve_hyper(layer().write_carriers(true).layer(upstream)).await
}

/// What a raw target receives for a raw request through a sidecar: as baseline, or rerouted.
async fn received(request: &str, rerouted: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap();
    let addr = sidecar(target).await;
    let mut request = request.to_owned();
    if rerouted {
        let field = format!("x-devroute: {}\r\n\r\n", contract("foo", target));
        request = request.replacen("\r\n\r\n", &format!("\r\n{field}"), 1);
    }
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let (mut target, _) = listener.accept().await.unwrap();
    let head = read_head(&mut target).await;
    target
        .write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
        .await
        .unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 204");
    head
}

#[tokio::test]
async fn the_baseline_gets_what_was_sent() {
    let head = received(
        "GET /a%2f/../b?x=%20y HTTP/1.1\r\nhost: foo.qa\r\nx-a: 1\r\nx-a: \r\n\r\n",
        false,
    );
    assert_eq!(
        head.await,
        "GET /a%2f/../b?x=%20y HTTP/1.1\r\nhost: foo.qa\r\nx-a: 1\r\nx-a: \r\n\r\n"
    );
}

#[tokio::test]
async fn asterisk_form_and_absolute_form() {
    for rerouted in [false, true] {
        let head = received("OPTIONS * HTTP/1.1\r\nhost: foo.qa\r\n\r\n", rerouted).await;
        assert!(
            head.starts_with("OPTIONS * HTTP/1.1\r\nhost: foo.qa\r\n"),
            "{head}"
        );
        let head = received(
            "GET http://foo.qa/x HTTP/1.1\r\nhost: evil\r\n\r\n",
            rerouted,
        )
        .await;
        assert!(
            head.starts_with("GET /x HTTP/1.1\r\nhost: foo.qa\r\n"),
            "{head}"
        );
    }
}

#[tokio::test]
async fn the_rerouted_request_says_who_asked() {
    let laptop = serve(echo("laptop")).await;
    let service = serve(echo("baseline")).await;
    let upstream = Upstream::new(HttpTransport::new(), service);
    let client_addr = "10.9.8.7:1234".parse().unwrap();
    let service = layer()
        .layer(upstream)
        .with_client(ClientInfo::new(client_addr));
    let addr = serve_hyper(service).await;
    let request = Request::get(format!("http://{addr}/"))
        .header("x-devroute", contract("foo", laptop))
        .header("x-forwarded-for", "1.2.3.4")
        .body(Body::empty())
        .unwrap();
    let answer = send(&client(), request).await;
    assert_eq!(answer.field("echo-x-forwarded-for"), "1.2.3.4, 10.9.8.7");
    assert_eq!(answer.field("echo-x-forwarded-proto"), "http");
    assert_eq!(answer.field("echo-x-forwarded-host"), addr.to_string());
    assert_eq!(answer.field("echo-via"), "1.1 devroute");
}

/// What a target or baseline is told by `layer`, of a client that asks for `http://foo.qa:81/`.
async fn told(layer: DevRouteLayer, contract: &str, version: http::Version) -> Vec<String> {
    let service = serve(echo("service")).await;
    let upstream = Upstream::new(HttpTransport::new(), service);
    let client = ClientInfo::new("[2001:db8::7]:1234".parse().unwrap()).with_tls(true);
    let sent = contract.replace("SERVICE", &service.to_string());
    // In absolute-form, whose host counts whatever the field says.
    let request = Request::get("http://foo.qa:81/")
        .version(version)
        .header("x-devroute", sent)
        .header("host", "evil")
        .header("via", "1.1 edge")
        .header("forwarded", "for=unknown")
        .body(Body::empty())
        .unwrap();
    let service = layer.layer(upstream).with_client(client);
    let response = service.oneshot(request).await.unwrap();
    let field = |name: &str| {
        let lines = response.headers().get_all(format!("echo-{name}"));
        let lines: Vec<_> = lines.iter().map(|it| it.to_str().unwrap()).collect();
        (!lines.is_empty()).then(|| format!("{name}: {}", lines.join(" | ")))
    };
    assert_eq!(response.status(), 200);
    let names = ["for", "host", "proto"].map(|name| format!("x-forwarded-{name}"));
    let names = names.iter().map(String::as_str);
    names
        .chain(["forwarded", "via"])
        .filter_map(field)
        .collect()
}

const X_FORWARDED: [&str; 3] = [
    "x-forwarded-for: 2001:db8::7",
    "x-forwarded-host: foo.qa:81",
    "x-forwarded-proto: https",
];
const FORWARDED: &str =
    r#"forwarded: for=unknown, for="[2001:db8::7]";host="foo.qa:81";proto=https"#;
const AS_IT_CAME: [&str; 2] = ["forwarded: for=unknown", "via: 1.1 edge"];

#[tokio::test]
async fn the_fields_that_say_who_asked_can_be_chosen() {
    for (version, via) in [
        (http::Version::HTTP_11, "via: 1.1 edge | 1.1 devroute"),
        (http::Version::HTTP_2, "via: 1.1 edge | 2 devroute"),
    ] {
        for (fields, expected) in [
            (ForwardedFields::None, vec![AS_IT_CAME[0], via]),
            (
                ForwardedFields::XForwarded,
                [&X_FORWARDED[..], &[AS_IT_CAME[0], via]].concat(),
            ),
            (ForwardedFields::Forwarded, vec![FORWARDED, via]),
            (
                ForwardedFields::Both,
                [&X_FORWARDED[..], &[FORWARDED, via]].concat(),
            ),
        ] {
            let chosen = layer().forwarded_fields(fields);
            let told = told(chosen, r#"{"foo":"SERVICE"}"#, version).await;
            assert_eq!(told, expected, "{version:?} {fields:?}");
        }
    }
}

#[tokio::test]
async fn the_baseline_is_told_who_asked_where_that_is_switched_on() {
    let nobody = nobody().await;
    let fell_back = contract("foo", nobody);
    let expected = [
        &X_FORWARDED[..],
        &[AS_IT_CAME[0], "via: 1.1 edge | 1.1 devroute"],
    ]
    .concat();
    let version = http::Version::HTTP_11;
    for sent in ["{}", r#"{"bar":"10.0.0.1:1"}"#, &fell_back] {
        let fallback = || layer().on_failure(OnFailure::Fallback);
        assert_eq!(told(fallback(), sent, version).await, AS_IT_CAME, "{sent}");
        let switched_on = fallback().forwarded_to_baseline(true);
        assert_eq!(told(switched_on, sent, version).await, expected, "{sent}");
    }
    for (mode, expected) in [(Mode::Carry, &expected[..]), (Mode::Off, &AS_IT_CAME)] {
        let layer = layer().mode(mode).forwarded_to_baseline(true);
        let told = told(layer, "{}", version).await;
        assert_eq!(told, expected, "{mode:?}");
    }
    // Without a contract, from a client that only the extensions of the request know.
    let upstream = Upstream::new(HttpTransport::new(), serve(echo("baseline")).await);
    let mut request = Request::get("/").body(Body::empty()).unwrap();
    request
        .extensions_mut()
        .insert(ClientInfo::new("10.9.8.7:1".parse().unwrap()));
    let service = layer()
        .forwarded_fields(ForwardedFields::Forwarded)
        .forwarded_to_baseline(true)
        .layer(upstream);
    let response = service.oneshot(request).await.unwrap();
    assert_eq!(
        response.headers()["echo-forwarded"],
        "for=10.9.8.7;proto=http"
    );
    assert_eq!(response.headers()["echo-via"], "1.1 devroute");
}

#[tokio::test]
async fn several_set_cookies_and_odd_bytes_keep_order_and_form() {
    let app = Router::new().fallback(|| async {
        let mut response = Response::new(Body::empty());
        for value in [&b"a=1"[..], b"b=2", b"a=\xff\xfe"] {
            let value = HeaderValue::from_bytes(value).unwrap();
            response.headers_mut().append("set-cookie", value);
        }
        response
    });
    let target = serve(app).await;
    let addr = sidecar(target).await;
    for sent in ["{}".to_owned(), contract("foo", target)] {
        let request = Request::get(format!("http://{addr}/"))
            .header("x-devroute", sent)
            .body(Body::empty())
            .unwrap();
        let answer = send(&client(), request).await;
        let cookies: Vec<_> = answer
            .headers
            .get_all("set-cookie")
            .iter()
            .map(HeaderValue::as_bytes)
            .collect();
        assert_eq!(cookies, [&b"a=1"[..], b"b=2", b"a=\xff\xfe"]);
    }
}

/// Answers a body of two chunks, and trailers that say what trailers came in.
async fn trailing(request: AxumRequest) -> Response {
    let body = request.into_body().collect().await.unwrap();
    let came = body.trailers().and_then(|it| it.get("x-in").cloned());
    let mut trailers = HeaderMap::new();
    trailers.insert(
        "x-out",
        came.unwrap_or_else(|| HeaderValue::from_static("none")),
    );
    let frames = [
        Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from_static(b"one "))),
        Ok(Frame::data(Bytes::from_static(b"two"))),
        Ok(Frame::trailers(trailers)),
    ];
    let mut response = Response::new(Body::new(StreamBody::new(futures_util::stream::iter(
        frames,
    ))));
    response
        .headers_mut()
        .insert("trailer", HeaderValue::from_static("x-out"));
    response
}

#[tokio::test]
async fn trailers_pass_over_http_2_and_where_announced_over_http_1() {
    let target = serve(Router::new().fallback(trailing)).await;
    let addr = sidecar(target).await;
    let body = || {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-in", HeaderValue::from_static("in"));
        Body::new(StreamBody::new(futures_util::stream::iter([
            Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from_static(b"x"))),
            Ok(Frame::trailers(trailers)),
        ])))
    };
    for scheme in ["", "h2c://"] {
        let request = Request::post(format!("http://{addr}/"))
            .header("x-devroute", contract("foo", format!("{scheme}{target}")))
            .header("te", "trailers")
            .header("trailer", "x-in")
            .body(body())
            .unwrap();
        let answer = send(&h2_client(), request).await;
        assert_eq!(answer.body, "one two", "{scheme}");
        let trailers = answer
            .trailers
            .unwrap_or_else(|| panic!("no trailers: {scheme}"));
        assert_eq!(trailers["x-out"], "in", "{scheme}");
    }
}

#[tokio::test]
async fn trailers_that_are_dropped_are_told_of() {
    let target = serve(Router::new().fallback(trailing)).await;
    let told = Arc::new(AtomicUsize::new(0));
    let transport = HttpTransport::new().on_trailers_dropped({
        let told = Arc::clone(&told);
        move || {
            told.fetch_add(1, Ordering::Relaxed);
        }
    });
    let service = layer().transport(transport.clone());
    let addr = serve_hyper(service.layer(Upstream::new(transport, target))).await;
    for (to, trailer, arrives) in [
        ("{}".to_owned(), "x-in", true),
        ("{}".to_owned(), "x-other", false),
        (contract("foo", target), "x-in", true),
        (contract("foo", target), "x-other", false),
        (contract("foo", format!("h2c://{target}")), "x-other", true),
    ] {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-in", HeaderValue::from_static("in"));
        let body = futures_util::stream::iter([
            Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from_static(b"x"))),
            Ok(Frame::trailers(trailers)),
        ]);
        let request = Request::post(format!("http://{addr}/"))
            .header("x-devroute", &to)
            .header("te", "trailers")
            .header("trailer", trailer)
            .body(Body::new(StreamBody::new(body)))
            .unwrap();
        let answer = send(&h2_client(), request).await;
        let arrived = if arrives { "in" } else { "none" };
        assert_eq!(answer.trailers.unwrap()["x-out"], arrived, "{to} {trailer}");
        let told = told.swap(0, Ordering::Relaxed);
        assert_eq!(told, usize::from(!arrives), "{to} {trailer}");
    }
}

#[tokio::test]
async fn a_get_with_a_body_of_unknown_length_keeps_it() {
    let target = serve(echo("laptop")).await;
    let addr = sidecar(target).await;
    for sent in ["{}".to_owned(), contract("foo", target)] {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let request = format!(
            "GET / HTTP/1.1\r\nhost: foo\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\
             x-devroute: {sent}\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("laptop GET / hello"), "{answer}");
    }
}

#[tokio::test]
async fn lengths_are_kept_where_they_were() {
    let target = serve(Router::new().fallback(|| async { "12345" })).await;
    let addr = sidecar(target).await;
    for (method, body) in [("GET", "12345"), ("HEAD", "")] {
        for sent in ["{}".to_owned(), contract("foo", target)] {
            let request = Request::builder()
                .method(method)
                .uri(format!("http://{addr}/"))
                .header("x-devroute", sent)
                .body(Body::empty())
                .unwrap();
            let answer = send(&client(), request).await;
            assert_eq!(answer.field("content-length"), "5", "{method}");
            assert_eq!(answer.body, body);
            assert!(!answer.headers.contains_key("transfer-encoding"));
        }
    }
}

#[tokio::test]
async fn connect_is_refused_and_reaches_nobody() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap();
    let addr = sidecar(target).await;
    for sent in ["{}".to_owned(), contract("foo", target)] {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let request =
            format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\nx-devroute: {sent}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 501 "));
    }
    assert!(futures_util::FutureExt::now_or_never(listener.accept()).is_none());
}

#[tokio::test]
async fn max_forwards_is_counted_down_and_ends_here_at_zero() {
    let target = serve(echo("target")).await;
    let addr = sidecar(target).await;
    for sent in ["{}".to_owned(), contract("foo", target)] {
        let ask = |method: &'static str, max_forwards: &'static str| {
            let request = Request::builder()
                .method(method)
                .uri(format!("http://{addr}/"))
                .header("x-devroute", sent.as_str())
                .header("max-forwards", max_forwards)
                .body(Body::empty())
                .unwrap();
            async move { send(&client(), request).await }
        };
        assert_eq!(ask("OPTIONS", "5").await.field("echo-max-forwards"), "4");
        // It says nothing about other methods, and a word is no number.
        assert_eq!(ask("GET", "0").await.field("echo-max-forwards"), "0");
        assert_eq!(
            ask("OPTIONS", "few").await.field("echo-max-forwards"),
            "few"
        );
        for (method, status) in [("OPTIONS", 204), ("TRACE", 405)] {
            let answer = ask(method, "0").await;
            assert_eq!(
                (answer.status, answer.body.as_str()),
                (status, ""),
                "{method}"
            );
            assert_eq!(answer.field("allow"), "OPTIONS");
        }
    }
}

#[tokio::test]
async fn a_request_of_http_1_0_without_a_host_leaves_with_one() {
    let target = serve(echo("target")).await;
    let addr = sidecar(target).await;
    for sent in ["{}".to_owned(), contract("foo", target)] {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let request = format!("GET /old HTTP/1.0\r\nx-devroute: {sent}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(
            answer.contains(&format!("echo-host: {target}\r\n")),
            "{answer}"
        );
        assert!(answer.ends_with("target GET /old "), "{answer}");
    }
}

#[tokio::test]
async fn an_answer_before_the_body_was_wanted_says_that_the_connection_ends() {
    let refusal = b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 2\r\n\r\nno";
    let target = raw_target(refusal, Then::Hold).await;
    let addr = sidecar(target).await;
    for sent in ["{}".to_owned(), contract("foo", target)] {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let request = format!(
            "POST / HTTP/1.1\r\nhost: foo\r\ncontent-length: 9\r\nexpect: 100-continue\r\n\
             x-devroute: {sent}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
        assert!(answer.contains("connection: close\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\nno"), "{answer}");
    }
}
