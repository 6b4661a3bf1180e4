//! The forward proxy: where a request goes that names its own destination, and what is added to it.

use devroute_tower::core::{ServiceName, TargetPolicy};
use devroute_tower::transport::{ErrorKind, Forwarder, HttpTransport, UpstreamFailure};
use http::{Method, Request, Version};
use http_body_util::{BodyExt as _, Empty};
use tower::ServiceExt as _;

use crate::support::{Answer, echo, nobody, serve};

type Body = Empty<bytes::Bytes>;

async fn ask(forwarder: &Forwarder, request: Request<Body>) -> (Answer, Option<ErrorKind>) {
    let response = forwarder.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let answer = Answer {
        status: parts.status.as_u16(),
        headers: parts.headers,
        body: String::from_utf8(body.into()).unwrap(),
        trailers: None,
    };
    let failure = parts.extensions.get::<UpstreamFailure>();
    (answer, failure.map(|failure| failure.kind()))
}

fn forwarder() -> Forwarder {
    Forwarder::new(HttpTransport::new())
}

fn get(uri: impl std::fmt::Display) -> http::request::Builder {
    Request::get(uri.to_string())
}

#[tokio::test]
async fn rule_16_an_absolute_target_decides_and_goes_on_as_origin_form() {
    let foo = serve(echo("foo")).await;
    let uri = format!("http://user:secret@{foo}/a%2Fb?c=d");
    let request = get(uri).header("host", "elsewhere").body(Body::new());
    let (answer, _) = ask(&forwarder(), request.unwrap()).await;
    assert_eq!(answer.body, "foo GET /a%2Fb?c=d ");
    assert_eq!(answer.field("echo-host"), foo.to_string());
}

#[tokio::test]
async fn a_name_is_looked_up_and_its_connection_is_used_again() {
    let foo = serve(echo("foo")).await;
    let transport = HttpTransport::new();
    let forwarder = Forwarder::new(transport.clone());
    for host in ["localhost", "LOCALHOST", "localhost"] {
        let request = get("/x").header("host", format!("{host}:{}", foo.port()));
        let (answer, _) = ask(&forwarder, request.body(Body::new()).unwrap()).await;
        assert_eq!(answer.body, "foo GET /x ");
        assert_eq!(
            answer.field("echo-host"),
            format!("{host}:{}", foo.port()),
            "as the client sent it"
        );
    }
    assert_eq!(transport.open_connections(), 1);
}

#[tokio::test]
async fn the_version_of_the_client_is_kept() {
    let foo = serve(echo("foo")).await;
    for (version, expected) in [(Version::HTTP_2, "2"), (Version::HTTP_11, "1.1")] {
        let request = get(format!("http://{foo}/")).version(version);
        let (answer, _) = ask(&forwarder(), request.body(Body::new()).unwrap()).await;
        assert_eq!(answer.field("echo-via"), format!("{expected} devroute"));
        // `Host` is what HTTP/1 has and HTTP/2 has not.
        assert_eq!(
            answer.field("echo-host").is_empty(),
            version == Version::HTTP_2
        );
    }
}

#[tokio::test]
async fn whose_own_requests_they_are_is_said_where_a_contract_goes() {
    let foo = serve(echo("foo")).await;
    let named = forwarder().caller(ServiceName::new("bar").unwrap());
    let contract = ("x-devroute", r#"{"foo":"10.0.0.1:80"}"#);
    for (field, forwarder, expected) in [
        (contract, &named, "1.1 devroute (bar)"),
        (("baggage", "devroute=%7B%7D"), &named, "1.1 devroute (bar)"),
        (("baggage", "other=devroute"), &named, "1.1 devroute"),
        (contract, &forwarder(), "1.1 devroute"),
    ] {
        let request = get(format!("http://{foo}/")).header(field.0, field.1);
        let (answer, _) = ask(forwarder, request.body(Body::new()).unwrap()).await;
        assert_eq!(answer.field("echo-via"), expected, "{field:?}");
    }
}

#[tokio::test]
async fn fields_for_the_proxy_end_at_the_proxy() {
    let foo = serve(echo("foo")).await;
    let request = get(format!("http://{foo}/"))
        .header("proxy-authorization", "Basic c2VjcmV0")
        .header("proxy-connection", "keep-alive")
        .header("authorization", "Basic Zm9y")
        .body(Body::new());
    let (answer, _) = ask(&forwarder(), request.unwrap()).await;
    assert_eq!(answer.field("echo-proxy-authorization"), "");
    assert_eq!(answer.field("echo-proxy-connection"), "");
    assert_eq!(answer.field("echo-authorization"), "Basic Zm9y");
}

#[tokio::test]
async fn rule_08_what_has_come_round_sixteen_times_is_508() {
    let foo = serve(echo("foo")).await;
    for (hops, status) in [(15, 200), (16, 508)] {
        let mut request = get(format!("http://{foo}/"));
        for _ in 0..hops {
            request = request.header("via", "1.1 devroute");
        }
        let (answer, _) = ask(&forwarder(), request.body(Body::new()).unwrap()).await;
        assert_eq!(answer.status, status, "{}", answer.body);
    }
}

#[tokio::test]
async fn what_cannot_be_reached_is_answered_for() {
    let refused = nobody().await;
    let own = serve(echo("own")).await;
    for (uri, status, kind) in [
        (
            format!("http://{refused}/"),
            502,
            ErrorKind::ConnectionRefused,
        ),
        ("http://nowhere.invalid/".into(), 502, ErrorKind::DnsFailed),
        (format!("http://{own}/"), 403, ErrorKind::OwnListener),
        (
            format!("http://localhost:{}/", own.port()),
            403,
            ErrorKind::OwnListener,
        ),
    ] {
        let forwarder = Forwarder::new(HttpTransport::new().own_listener(own));
        let (answer, failure) = ask(&forwarder, get(&uri).body(Body::new()).unwrap()).await;
        assert_eq!((answer.status, failure), (status, Some(kind)), "{uri}");
        let problem = answer.problem();
        assert_eq!(problem["cause"], kind.as_str());
        let host = uri.strip_prefix("http://").unwrap().trim_end_matches('/');
        assert!(
            problem["detail"].as_str().unwrap().contains(host),
            "{problem}"
        );
    }
}

#[tokio::test]
async fn an_address_that_the_policy_refuses_is_not_dialled_by_name_either() {
    let foo = serve(echo("foo")).await;
    // Loopback is not among what it allows.
    let forwarder = Forwarder::new(HttpTransport::new().policy(TargetPolicy::default()));
    for host in ["127.0.0.1", "localhost"] {
        let uri = format!("http://{host}:{}/", foo.port());
        let (answer, failure) = ask(&forwarder, get(uri).body(Body::new()).unwrap()).await;
        assert_eq!((answer.status, failure), (403, Some(ErrorKind::Prohibited)));
    }
}

#[tokio::test]
async fn what_names_no_host_is_400() {
    let two = |uri: &str, host: Option<&str>| {
        let mut request = get(uri);
        if let Some(host) = host {
            request = request.header("host", host);
        }
        request.body(Body::new()).unwrap()
    };
    let mut connect = two("foo.example", None);
    *connect.method_mut() = Method::CONNECT;
    for (request, cause) in [
        (two("/", None), "no_destination"),
        (two("/", Some("")), "no_destination"),
        (two("/", Some("foo:0")), "no_destination"),
        (two("/", Some("foo:70000")), "no_destination"),
        (two("https://foo/", None), "scheme"),
    ] {
        let (answer, failure) = ask(&forwarder(), request).await;
        assert_eq!((answer.status, failure), (400, None));
        assert_eq!(answer.problem()["cause"], cause);
    }
    let (answer, _) = ask(&forwarder(), connect).await;
    assert_eq!(answer.status, 400);
}
