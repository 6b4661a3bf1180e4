//! `https://` targets: who is believed, what is spoken, and what a person is told when it fails.

use std::{net::SocketAddr, process::Stdio, time::Duration};

use axum::{Router, body::Body as AxumBody, extract::Request as AxumRequest};
use devroute_tower::{
    DevRouteLayer, OnFailure,
    transport::{Body, Destination, ErrorKind, HttpTransport, Protocol, TlsConfig},
};
use http::Request;
use http_body_util::BodyExt as _;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ServerConfig, crypto::ring, server::WebPkiClientVerifier, version::TLS12};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};
use tower::ServiceExt as _;

use crate::{
    support::{
        Answer, client, contract, echo, get, h2_client, layer, nobody, policy, read_head, send,
        serve,
    },
    tls_support::{Authority, Identity, listen, serve_tls, serve_tls_at},
};

/// Service `foo`, whose transport speaks TLS.
fn tls_layer(config: TlsConfig) -> DevRouteLayer {
    let transport = HttpTransport::new()
        .connect_timeout(Duration::from_secs(5))
        .tls(config);
    DevRouteLayer::new("foo")
        .policy(policy())
        .transport(transport)
}

/// GETs through a layer that has `config`, from a target that has `identity`.
async fn through(config: TlsConfig, identity: &Identity) -> Answer {
    let server = identity.server_config(&["http/1.1", "h2"]);
    let (target, _) = serve_tls(server, echo("laptop")).await;
    let addr = serve(echo("baseline").layer(tls_layer(config))).await;
    get(addr, &contract("foo", format!("https://{target}"))).await
}

fn assert_certificate_error(answer: &Answer, detail: &str) {
    assert_eq!(answer.status, 502, "{answer:?}");
    let problem = answer.problem();
    assert_eq!(problem["cause"], "tls_certificate");
    let told = problem["detail"].as_str().unwrap();
    assert!(told.contains(detail), "{told}");
    let help = problem["help"].as_str().unwrap();
    for switch in ["--target-ca", "--target-insecure", "http://"] {
        assert!(help.contains(switch), "{help}");
    }
    let status = answer.field("proxy-status");
    assert!(
        status.starts_with("devroute; error=tls_certificate_error;"),
        "{status}"
    );
}

#[tokio::test]
async fn a_certificate_of_a_trusted_authority_for_the_address_is_taken() {
    let authority = Authority::new();
    let answer = through(authority.trusted(), &authority.issue(&["127.0.0.1"])).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.body, "laptop GET /path?q=1 ");
    // The request came by plain HTTP, whatever leads to the target.
    assert_eq!(
        answer.field("echo-x-forwarded-host"),
        answer.field("echo-host")
    );
}

#[tokio::test]
async fn rule_03_a_target_with_a_name_has_to_have_a_certificate_for_it_and_is_asked_by_it() {
    let authority = Authority::new();
    for (certified, expected) in [("localhost", 200), ("127.0.0.1", 502)] {
        let server = authority.issue(&[certified]).server_config(&["http/1.1"]);
        // The address that a look-up has first, too.
        let (target, handshakes) = serve_tls_at("localhost:0", server, echo("laptop")).await;
        let policy = policy().allow_suffix("localhost".parse().unwrap());
        let layer = tls_layer(authority.trusted()).policy(policy);
        let addr = serve(echo("baseline").layer(layer)).await;
        let named = format!("https://localhost:{}", target.port());
        let answer = get(addr, &contract("foo", named)).await;
        assert_eq!(answer.status, expected, "{answer:?}");
        if expected == 200 {
            let asked = handshakes.all()[0].0.clone();
            assert_eq!(asked.as_deref(), Some("localhost"));
        }
    }
}

#[tokio::test]
async fn an_authority_can_be_a_file() {
    let authority = Authority::new();
    let path = std::env::temp_dir().join(format!("devroute-ca-{}.pem", std::process::id()));
    std::fs::write(&path, &authority.pem).unwrap();
    let config = TlsConfig::empty().unwrap().ca_file(&path);
    std::fs::remove_file(&path).unwrap();
    let answer = through(config.unwrap(), &authority.issue(&["127.0.0.1"])).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[tokio::test]
async fn rule_12_an_unknown_authority_is_refused_and_the_switches_are_named() {
    let identity = Authority::new().issue(&["127.0.0.1"]);
    let unknown = "has a certificate from an issuer that is not trusted here";
    let answer = through(Authority::new().trusted(), &identity).await;
    assert_certificate_error(&answer, unknown);
    // The same name, made anew with another key.
    let (old, new) = (Authority::named("laptops"), Authority::named("laptops"));
    let answer = through(old.trusted(), &new.issue(&["127.0.0.1"])).await;
    assert_certificate_error(&answer, "with another key than the one trusted here");
    // Nobody at all is trusted.
    let answer = through(TlsConfig::empty().unwrap(), &identity).await;
    assert_certificate_error(&answer, unknown);
}

#[tokio::test]
async fn rule_12_a_certificate_for_another_name_is_refused_with_both_names() {
    let authority = Authority::new();
    let identity = authority.issue(&["bar.test", "10.1.2.3"]);
    let answer = through(authority.trusted(), &identity).await;
    assert_certificate_error(&answer, "not for 127.0.0.1 but for ");
    assert_certificate_error(&answer, "bar.test");
}

#[tokio::test]
async fn rule_12_a_certificate_out_of_its_time_is_refused() {
    let authority = Authority::new();
    let expired = authority.issue_with(&["127.0.0.1"], |params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    });
    let answer = through(authority.trusted(), &expired).await;
    assert_certificate_error(&answer, "has a certificate that has expired");
    let early = authority.issue_with(&["127.0.0.1"], |params| {
        params.not_before = rcgen::date_time_ymd(4000, 1, 1);
    });
    let answer = through(authority.trusted(), &early).await;
    assert_certificate_error(&answer, "has a certificate that is not valid yet");
}

#[tokio::test]
async fn the_named_switch_takes_any_certificate() {
    let expired = Authority::new().issue_with(&["bar.test"], |params| {
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    });
    let config = TlsConfig::empty().unwrap();
    let answer = through(config.danger_accept_any_certificate(), &expired).await;
    assert_eq!(answer.body, "laptop GET /path?q=1 ", "{answer:?}");
}

#[tokio::test]
async fn a_self_signed_certificate_can_be_trusted_itself_but_only_for_its_name() {
    let trusting = |identity: &Identity| {
        let config = TlsConfig::empty().unwrap();
        config.ca_pem(&identity.pem).unwrap()
    };
    let identity = Identity::self_signed(&["127.0.0.1"]);
    let answer = through(trusting(&identity), &identity).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let other = Identity::self_signed(&["bar.test"]);
    assert_certificate_error(
        &through(trusting(&other), &other).await,
        "not for 127.0.0.1",
    );
    let answer = through(trusting(&other), &identity).await;
    assert_certificate_error(&answer, "self-signed, and not trusted here");
}

#[tokio::test]
async fn rule_12_addresses_and_certificates_are_kept_back_where_addresses_are() {
    let server = Authority::new().issue(&["bar.test"]).server_config(&[]);
    let (target, _) = serve_tls(server, echo("laptop")).await;
    let layer = tls_layer(TlsConfig::empty().unwrap()).reveal_addresses(false);
    let addr = serve(echo("baseline").layer(layer)).await;
    let answer = get(addr, &contract("foo", format!("https://{target}"))).await;
    assert_eq!(answer.problem()["cause"], "tls_certificate");
    assert!(!answer.body.contains("127.0.0.1"), "{answer:?}");
}

#[tokio::test]
async fn rule_17_grpc_is_http_2_and_the_rest_http_1_agreed_on_by_alpn() {
    let authority = Authority::new();
    let identity = authority.issue(&["127.0.0.1"]);
    let version = Router::new()
        .fallback(|request: AxumRequest| async move { format!("{:?}", request.version()) });
    let server = identity.server_config(&["http/1.1", "h2"]);
    let (target, handshakes) = serve_tls(server, version).await;
    let addr = serve(Router::new().layer(tls_layer(authority.trusted()))).await;
    for (content_type, expected) in [("text/plain", "HTTP/1.1"), ("application/grpc", "HTTP/2.0")] {
        let request = Request::get(format!("http://{addr}/"))
            .header("x-devroute", contract("foo", format!("https://{target}")))
            .header("content-type", content_type)
            .body(AxumBody::empty())
            .unwrap();
        assert_eq!(send(&client(), request).await.body, expected);
    }
    let alpn = |it: &str| (None, Some(it.to_owned()));
    assert_eq!(*handshakes.all(), [alpn("http/1.1"), alpn("h2")]);
}

/// Answers with the version, the fields that depend on it, and the body.
fn versions() -> Router {
    Router::new().fallback(|request: AxumRequest| async move {
        let (parts, body) = request.into_parts();
        let cookies: Vec<_> = parts.headers.get_all("cookie").iter().collect();
        let chunked = parts.headers.get("transfer-encoding");
        let text = format!("{:?} {cookies:?} {chunked:?} ", parts.version);
        let body = body.collect().await.unwrap().to_bytes();
        format!("{text}{}", String::from_utf8_lossy(&body))
    })
}

#[tokio::test]
async fn rule_17_what_the_target_chooses_is_spoken_and_its_connection_used_again() {
    let crumbs = [r#"HTTP/2.0 ["a=1", "b=2"] None hello"#, r#"["a=1; b=2"]"#];
    let h1 = format!(r#"HTTP/1.1 {} Some("chunked") hello"#, crumbs[1]);
    let authority = Authority::new();
    let identity = authority.issue(&["127.0.0.1"]);
    for (alpn, agreed, expected) in [
        (&["h2"][..], Some("h2"), crumbs[0]),
        (&["h2", "http/1.1"], Some("h2"), crumbs[0]),
        (&["http/1.1", "h2"], Some("http/1.1"), &*h1),
        (&["http/1.1"], Some("http/1.1"), &*h1),
        (&[], None, &*h1),
    ] {
        let (target, handshakes) = serve_tls(identity.server_config(alpn), versions()).await;
        let addr = serve(Router::new().layer(tls_layer(authority.trusted()))).await;
        for _ in 0..3 {
            let body = futures_util::stream::iter([Ok::<_, std::io::Error>("hello")]);
            let request = Request::get(format!("http://{addr}/"))
                .header("x-devroute", contract("foo", format!("https://{target}")))
                .header("cookie", "a=1")
                .header("cookie", "b=2")
                .body(AxumBody::from_stream(body))
                .unwrap();
            assert_eq!(send(&h2_client(), request).await.body, expected, "{alpn:?}");
        }
        let agreed = (None, agreed.map(ToOwned::to_owned));
        assert_eq!(*handshakes.all(), [agreed], "{alpn:?}");
    }
}

#[tokio::test]
async fn rule_17_a_target_may_choose_another_version_the_next_time() {
    let authority = Authority::new();
    let identity = authority.issue(&["127.0.0.1"]);
    let transport = HttpTransport::new().tls(authority.trusted());
    let mut at = "127.0.0.1:0".parse().unwrap();
    for (alpn, expected) in [
        ("h2", "HTTP/2.0"),
        ("http/1.1", "HTTP/1.1"),
        ("h2", "HTTP/2.0"),
    ] {
        let listener = listen_again(at).await;
        at = listener.local_addr().unwrap();
        let acceptor =
            tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(identity.server_config(&[alpn])));
        // One connection, which ends after its answer: nobody is told that it will.
        let serving = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            drop(listener);
            let stream = TokioIo::new(acceptor.accept(stream).await.unwrap());
            let service = hyper_util::service::TowerToHyperService::new(versions());
            let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            let _ = builder.serve_connection(stream, service).await;
        });
        let text = sent(&transport, at, None, Protocol::Negotiated).await;
        assert!(text.unwrap().starts_with(expected), "{alpn}");
        serving.abort();
        let _ = serving.await;
    }
}

/// A listener at an address that one was at before.
async fn listen_again(at: SocketAddr) -> TcpListener {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(at).unwrap();
    socket.listen(8).unwrap()
}

#[tokio::test]
async fn rule_17_an_upgrade_is_asked_for_in_http_1_alone() {
    let authority = Authority::new();
    let identity = authority.issue(&["127.0.0.1"]);
    for (alpn, status) in [(&["h2", "http/1.1"][..], 200), (&["h2"], 502)] {
        let (target, handshakes) = serve_tls(identity.server_config(alpn), echo("laptop")).await;
        let addr = serve(Router::new().layer(tls_layer(authority.trusted()))).await;
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let contract = contract("foo", format!("https://{target}"));
        let request = format!(
            "GET / HTTP/1.1\r\nhost: foo\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
             x-devroute: {contract}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let head = read_head(&mut stream).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        if status == 200 {
            assert!(head.contains("echo-upgrade: websocket\r\n"), "{head}");
            assert_eq!(handshakes.all()[0].1.as_deref(), Some("http/1.1"));
        } else {
            assert!(head.contains("does not speak HTTP/1.1 over TLS"), "{head}");
        }
    }
}

/// What the transport makes of a target that is asked for `protocol`.
async fn sent(
    transport: &HttpTransport,
    addr: SocketAddr,
    name: Option<&str>,
    protocol: Protocol,
) -> Result<String, devroute_tower::transport::Error> {
    let mut request = Request::get(format!("https://{addr}/"))
        .body(Body::empty())
        .unwrap();
    let mut destination = Destination::new(protocol);
    if let Some(name) = name {
        destination = destination.with_tls_name(name);
    }
    request.extensions_mut().insert(destination);
    let response = transport.clone().oneshot(request).await?;
    let body = response.into_body().collect().await.unwrap().to_bytes();
    Ok(String::from_utf8(body.into()).unwrap())
}

#[tokio::test]
async fn rule_17_a_target_without_the_protocol_is_told_from_one_without_tls() {
    let authority = Authority::new();
    let identity = authority.issue(&["127.0.0.1"]);
    let transport = HttpTransport::new().tls(authority.trusted());
    let no_h2 = "does not speak HTTP/2 over TLS";
    let no_h1 = "does not speak HTTP/1.1 over TLS";
    let neither = "speaks neither HTTP/2 nor HTTP/1.1 over TLS";
    for (alpn, protocol, expected) in [
        (&["http/1.1"][..], Protocol::Http2, Err(no_h2)),
        (&["h2"], Protocol::Http1, Err(no_h1)),
        (&["h3"], Protocol::Negotiated, Err(neither)),
        // A server without ALPN speaks HTTP/1.1.
        (&[], Protocol::Http2, Err(no_h2)),
        (&[], Protocol::Http1, Ok(())),
    ] {
        let (addr, _) = serve_tls(identity.server_config(alpn), echo("laptop")).await;
        let answer = sent(&transport, addr, None, protocol).await;
        match (answer, expected) {
            (Ok(_), Ok(())) => {}
            (Err(error), Err(expected)) => {
                assert_eq!(error.kind(), ErrorKind::TlsProtocol);
                assert_eq!(error.to_string(), format!("{addr} {expected}"));
            }
            (answer, _) => panic!("{alpn:?} {protocol:?}: {answer:?}"),
        }
    }

    let plain = serve(echo("plain")).await;
    let error = sent(&transport, plain, None, Protocol::Http1)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TlsProtocol);
    assert_eq!(
        error.to_string(),
        format!("{plain} answered with something that is not TLS")
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_u8().await.unwrap();
    });
    let error = sent(&transport, gone, None, Protocol::Http1)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TlsProtocol);
    assert!(
        error.to_string().contains("closed the connection"),
        "{error}"
    );
}

#[tokio::test]
async fn rule_18_the_limit_of_connecting_covers_the_handshake() {
    // Accepts, by the kernel's hand, and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = silent.local_addr().unwrap();
    let transport = HttpTransport::new()
        .connect_timeout(Duration::from_millis(50))
        .tls(TlsConfig::empty().unwrap());
    let error = sent(&transport, addr, None, Protocol::Http1)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectTimeout);
    assert_eq!(error.kind().status(), 504);
    assert!(error.to_string().contains("TLS handshake"), "{error}");
    assert_eq!(transport.open_connections(), 0);
}

#[tokio::test]
async fn rule_13_a_failed_handshake_falls_back_with_the_whole_request() {
    let plain = serve(echo("plain")).await;
    let unknown = Authority::new().issue(&["127.0.0.1"]);
    let (unknown, _) = serve_tls(unknown.server_config(&[]), echo("laptop")).await;
    let layer = tls_layer(TlsConfig::empty().unwrap()).on_failure(OnFailure::Fallback);
    let addr = serve(echo("baseline").layer(layer)).await;
    for (target, cause) in [
        (plain, "tls_protocol"),
        (unknown, "tls_certificate"),
        (nobody().await, "connection_refused"),
    ] {
        let request = Request::post(format!("http://{addr}/a"))
            .header("x-devroute", contract("foo", format!("https://{target}")))
            .body(AxumBody::from("the whole body"))
            .unwrap();
        let answer = send(&client(), request).await;
        assert_eq!(answer.body, "baseline POST /a the whole body");
        assert_eq!(
            answer.field("x-devroute-routed"),
            format!("foo=baseline; reason={cause}")
        );
    }
}

#[tokio::test]
async fn a_connection_that_was_trusted_for_one_name_serves_no_other() {
    let authority = Authority::new();
    let identity = authority.issue(&["a.test", "b.test", "127.0.0.1"]);
    let server = identity.server_config(&["h2", "http/1.1"]);
    let (addr, handshakes) = serve_tls(server, echo("laptop")).await;
    let transport = HttpTransport::new().tls(authority.trusted());
    for protocol in [Protocol::Http1, Protocol::Http2] {
        handshakes.all().clear();
        for name in [Some("a.test"), Some("b.test"), None] {
            // The second request to the same name is served by the same connection.
            for _ in 0..2 {
                sent(&transport, addr, name, protocol).await.unwrap();
            }
        }
        let names: Vec<_> = handshakes.all().iter().map(|it| it.0.clone()).collect();
        let expected = [Some("a.test".to_owned()), Some("b.test".to_owned()), None];
        assert_eq!(names, expected, "an address is no server name");
        // One that nobody has a certificate for is not let in by those that are open.
        let error = sent(&transport, addr, Some("c.test"), protocol).await;
        assert_eq!(error.unwrap_err().kind(), ErrorKind::TlsCertificate);
    }

    // Nor is a plain request, which would be answered if it rode on one of them.
    let plain = Request::get(format!("http://{addr}/"))
        .body(Body::empty())
        .unwrap();
    assert!(transport.clone().oneshot(plain).await.is_err());
    // What another configuration has let in is not kept.
    let stricter = transport.tls(TlsConfig::empty().unwrap());
    let error = sent(&stricter, addr, Some("a.test"), Protocol::Http1).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::TlsCertificate);
}

#[tokio::test]
async fn rule_17_an_upgrade_is_tunnelled_by_tls() {
    let authority = Authority::new();
    let identity = authority.issue(&["127.0.0.1"]);
    let (target, _) = listen(
        identity.server_config(&["http/1.1"]),
        |mut stream| async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let answer = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\
                       upgrade: websocket\r\n\r\nhi";
            stream.write_all(answer).await.unwrap();
            stream.flush().await.unwrap();
            let (mut read, mut write) = tokio::io::split(stream);
            tokio::io::copy(&mut read, &mut write).await.unwrap();
            write.shutdown().await.unwrap();
        },
    )
    .await;
    let addr = serve(Router::new().layer(tls_layer(authority.trusted()))).await;

    let mut stream = TcpStream::connect(addr).await.unwrap();
    let contract = contract("foo", format!("https://{target}"));
    let request = format!(
        "GET /ws HTTP/1.1\r\nhost: foo\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         x-devroute: {contract}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let head = read_head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    // Bytes pass as they are, and a half-close passes too.
    stream.write_all(b" there\x00\xff").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut echoed = Vec::new();
    stream.read_to_end(&mut echoed).await.unwrap();
    assert_eq!(echoed, b"hi there\x00\xff");
}

#[tokio::test]
async fn large_bodies_pass_both_ways_in_both_versions() {
    let authority = Authority::new();
    let server = authority
        .issue(&["127.0.0.1"])
        .server_config(&["h2", "http/1.1"]);
    let app = Router::new().fallback(|request: AxumRequest| async move { request.into_body() });
    let (addr, _) = serve_tls(server, app).await;
    let transport = HttpTransport::new().tls(authority.trusted());
    let sent: Vec<u8> = (0..3_000_000_u32).map(|it| it.to_le_bytes()[0]).collect();
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let mut request = Request::post(format!("https://{addr}/"))
            .body(Body::new(AxumBody::from(sent.clone())))
            .unwrap();
        request.extensions_mut().insert(Destination::new(protocol));
        let response = transport.clone().oneshot(request).await.unwrap();
        let back = response.into_body().collect().await.unwrap().to_bytes();
        assert!(back == sent, "{protocol:?}: {} bytes", back.len());
    }
}

#[tokio::test]
async fn an_answer_that_is_cut_off_is_not_taken_for_a_whole_one() {
    let authority = Authority::new();
    let identity = authority.issue(&["127.0.0.1"]);
    // Its end is the end of the connection, which has to be said (RFC 9112, section 9.8).
    let answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhalf";
    for says_so in [true, false] {
        let (addr, _) = listen(identity.server_config(&[]), move |mut stream| async move {
            let mut byte = [0];
            stream.read_exact(&mut byte).await.unwrap();
            stream.write_all(answer).await.unwrap();
            stream.flush().await.unwrap();
            if says_so {
                stream.shutdown().await.unwrap();
            }
        })
        .await;
        let transport = HttpTransport::new().tls(authority.trusted());
        let request = Request::get(format!("https://{addr}/"))
            .body(Body::empty())
            .unwrap();
        let response = transport.oneshot(request).await.unwrap();
        let body = response.into_body().collect().await;
        assert_eq!(body.is_ok(), says_so, "{body:?}");
    }
}

#[tokio::test]
async fn tls_1_2_is_spoken_too() {
    let authority = Authority::new();
    let identity = authority.issue(&["127.0.0.1"]);
    let mut config = ServerConfig::builder_with_provider(ring::default_provider().into())
        .with_protocol_versions(&[&TLS12])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![identity.certificate.clone()], identity.private_key())
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let (addr, _) = serve_tls(config, echo("laptop")).await;
    let transport = HttpTransport::new().tls(authority.trusted());
    assert!(sent(&transport, addr, None, Protocol::Http2).await.is_ok());
}

#[tokio::test]
async fn rule_12_a_target_that_asks_for_a_client_certificate_is_quoted() {
    let authority = Authority::new();
    let identity = authority.issue(&["127.0.0.1"]);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(identity.certificate.clone()).unwrap();
    let provider = std::sync::Arc::new(ring::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone())
        .build()
        .unwrap();
    let transport = HttpTransport::new().tls(authority.trusted());
    for (version, kind) in [
        (&TLS12, ErrorKind::TlsAlert),
        // It says so when the client has done its part already, and may have sent its request.
        (&rustls::version::TLS13, ErrorKind::ConnectionClosed),
    ] {
        let config = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_client_cert_verifier(clients.clone())
            .with_single_cert(vec![identity.certificate.clone()], identity.private_key())
            .unwrap();
        let (addr, _) = serve_tls(config, echo("laptop")).await;
        let error = sent(&transport, addr, None, Protocol::Http1)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        if kind == ErrorKind::ConnectionClosed {
            assert!(error.to_string().contains("client certificate"), "{error}");
        }
    }
}

#[tokio::test]
async fn rule_19_a_router_is_asked_in_plain_text_whatever_the_target_speaks() {
    let router = serve(echo("router")).await;
    let addr = serve(Router::new().layer(layer().via(router))).await;
    let sent = contract("foo", "https://10.1.2.3:8443");
    let answer = get(addr, &sent).await;
    assert_eq!(answer.body, "router GET /path?q=1 ", "{answer:?}");
    assert_eq!(answer.field("echo-x-devroute"), sent);
}

/// OpenSSL's own server, which shows what it was sent; `None` where OpenSSL is not to be had.
#[allow(
    clippy::print_stderr,
    reason = "a test that does not run has to say so"
)]
async fn openssl_server(identity: &Identity) -> Option<(SocketAddr, tokio::process::Child)> {
    let dir = std::env::temp_dir();
    let at = |kind: &str| {
        dir.join(format!(
            "devroute-openssl-{}-{kind}.pem",
            std::process::id()
        ))
    };
    let (certificate, key) = (at("certificate"), at("key"));
    std::fs::write(&certificate, &identity.pem).unwrap();
    std::fs::write(&key, identity.key.serialize_pem()).unwrap();
    let server = tokio::process::Command::new("openssl")
        .args(["s_server", "-accept", "127.0.0.1:0", "-www", "-cert"])
        .arg(&certificate)
        .arg("-key")
        .arg(&key)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn();
    let mut server = match server {
        Ok(server) => server,
        Err(error) => {
            eprintln!("SKIPPED: openssl cannot be run: {error}");
            return None;
        }
    };
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let addr = loop {
        let line = lines
            .next_line()
            .await
            .unwrap()
            .expect("openssl s_server ended");
        if let Some(addr) = line.strip_prefix("ACCEPT ") {
            break addr.parse().unwrap();
        }
    };
    for file in [certificate, key] {
        std::fs::remove_file(file).unwrap();
    }
    // Whoever reads its output keeps it from stopping.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Some((addr, server))
}

#[tokio::test]
async fn a_server_of_openssl_is_understood() {
    let authority = Authority::new();
    let Some((target, _server)) = openssl_server(&authority.issue(&["127.0.0.1"])).await else {
        return;
    };
    let sent_by = |config| async move {
        let addr = serve(Router::new().layer(tls_layer(config))).await;
        get(addr, &contract("foo", format!("https://{target}"))).await
    };
    let answer = sent_by(authority.trusted()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.body.contains("Cipher"), "{answer:?}");
    let answer = sent_by(Authority::new().trusted()).await;
    assert_certificate_error(&answer, "not trusted here");
}
