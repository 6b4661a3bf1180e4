//! A service of its own that speaks TLS, behind [`Upstream`].

use devroute_tower::transport::{
    Body, ErrorKind, HttpTransport, Upstream, UpstreamAddr, UpstreamFailure,
};
use http::Request;
use tower::{Layer as _, ServiceExt as _};

use crate::{
    support::{echo, get, layer, serve_hyper},
    tls_support::{Authority, serve_tls},
};

#[tokio::test]
async fn an_upstream_can_speak_tls() {
    let authority = Authority::new();
    let server = authority
        .issue(&["foo.test"])
        .server_config(&["http/1.1", "h2"]);
    let (addr, handshakes) = serve_tls(server, echo("service")).await;
    let transport = HttpTransport::new().tls(authority.trusted());
    let upstream = |name: &str| Upstream::new(transport.clone(), addr).tls(name.parse().unwrap());

    let sidecar = serve_hyper(layer().layer(upstream("foo.test"))).await;
    let answer = get(sidecar, "").await;
    assert_eq!(answer.body, "service GET /path?q=1 ");
    assert_eq!(answer.field("echo-host"), sidecar.to_string());
    assert_eq!(handshakes.all()[0].0.as_deref(), Some("foo.test"));

    let sidecar = serve_hyper(layer().layer(upstream("bar.test"))).await;
    let answer = get(sidecar, "").await;
    assert_eq!(answer.problem()["cause"], "tls_certificate");
    let request = Request::get("/").body(Body::empty()).unwrap();
    let response = upstream("bar.test").oneshot(request).await.unwrap();
    let failure = response.extensions().get::<UpstreamFailure>().unwrap();
    assert_eq!(failure.kind(), ErrorKind::TlsCertificate);
}

#[tokio::test]
async fn an_upstream_is_spoken_to_in_the_version_it_chooses() {
    let authority = Authority::new();
    let version = axum::Router::new().fallback(|request: axum::extract::Request| async move {
        let host = request.headers().get("host").cloned();
        format!(
            "{:?} {:?} {host:?}",
            request.version(),
            request.uri().authority()
        )
    });
    for alpn in ["h2", "http/1.1"] {
        let server = authority.issue(&["foo.test"]).server_config(&[alpn]);
        let (addr, _) = serve_tls(server, version.clone()).await;
        let transport = HttpTransport::new().tls(authority.trusted());
        let upstream = Upstream::new(transport, addr).tls("foo.test".parse().unwrap());
        let sidecar = serve_hyper(layer().layer(upstream)).await;
        let expected = match alpn {
            "h2" => format!("HTTP/2.0 Some({sidecar}) None"),
            _ => format!("HTTP/1.1 None Some({:?})", sidecar.to_string()),
        };
        assert_eq!(get(sidecar, "").await.body, expected);
    }
}

#[tokio::test]
async fn an_upstream_can_move() {
    let authority = Authority::new();
    let server = |name| {
        let config = authority.issue(&["foo.test"]).server_config(&[]);
        serve_tls(config, echo(name))
    };
    let (first, _) = server("first").await;
    let (second, _) = server("second").await;
    let addr = UpstreamAddr::new(first);
    let transport = HttpTransport::new().tls(authority.trusted());
    let upstream = Upstream::follow(transport, addr.clone()).tls("foo.test".parse().unwrap());
    let sidecar = serve_hyper(layer().layer(upstream)).await;
    assert_eq!(get(sidecar, "").await.body, "first GET /path?q=1 ");
    addr.set(second);
    assert_eq!(get(sidecar, "").await.body, "second GET /path?q=1 ");
}
