//! TLS on the listener, to the service, and to targets; with the switches that the binary has.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use devroute_proxy::config::ListenerTls;
use devroute_proxy::server::Certificates;
use http::{Request, StatusCode, Version};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;

use crate::support::binary::Running;
use crate::support::tls::{Authority, Identity, directory, shown};
use crate::support::{ANY, Client, Devroute, Proxy, Server, sidecar, until};

/// A sidecar whose listener shows `identity`, and looks at its files all the time.
async fn tls_sidecar(upstream: SocketAddr, identity: &Identity) -> Proxy {
    let certificates = Certificates::load(&identity.cert, &identity.key).unwrap();
    sidecar(upstream, |config| {
        let mut tls = ListenerTls::new(certificates);
        tls.reload = Duration::from_millis(1);
        config.process.tls = Some(tls);
    })
    .await
}

/// GETs `/` over a connection of HTTP/1.1 that stays open.
async fn get(stream: &mut TlsStream<TcpStream>, headers: &str) -> String {
    let request = format!("GET / HTTP/1.1\r\nhost: foo\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    let mut answer = String::new();
    while !answer.ends_with("baseline") && !answer.ends_with("laptop") {
        answer.push(char::from(stream.read_u8().await.unwrap()));
    }
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_speak_http_1_and_2_as_alpn_has_it() {
    let authority = Authority::new(&directory("alpn"));
    let baseline = Server::says("baseline").await;
    let proxy = tls_sidecar(baseline.address, &authority.issue("server", &["127.0.0.1"])).await;

    let mut stream = authority.connect(proxy.address, "http/1.1").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    assert!(get(&mut stream, "").await.starts_with("HTTP/1.1 200 OK"));

    let stream = authority.connect(proxy.address, "h2").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let io = TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = Request::get("https://foo/").body(Empty::<Bytes>::new());
    let response = sender.send_request(request.unwrap()).await.unwrap();
    assert_eq!(response.version(), Version::HTTP_2);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "baseline");
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_16_a_target_is_told_that_the_client_came_by_tls() {
    let authority = Authority::new(&directory("proto"));
    let (baseline, laptop) = (Server::says("baseline").await, Server::says("laptop").await);
    let proxy = tls_sidecar(baseline.address, &authority.issue("server", &["127.0.0.1"])).await;
    let mut stream = authority.connect(proxy.address, "http/1.1").await.unwrap();
    let contract = format!("x-devroute: {{\"foo\":\"{}\"}}\r\n", laptop.address);
    assert!(get(&mut stream, &contract).await.ends_with("laptop"));
    assert_eq!(laptop.only().headers["x-forwarded-proto"], "https");
    // The service itself is told nothing.
    assert!(get(&mut stream, "").await.ends_with("baseline"));
    assert!(!baseline.only().headers.contains_key("x-forwarded-proto"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_replaced_without_a_restart_and_a_broken_one_is_not_taken() {
    let authority = Authority::new(&directory("reload"));
    let baseline = Server::says("baseline").await;
    let first = authority.issue("server", &["127.0.0.1"]);
    let proxy = tls_sidecar(baseline.address, &first).await;
    let served = async || shown(&authority.connect(proxy.address, "http/1.1").await.unwrap());
    let mut open = authority.connect(proxy.address, "http/1.1").await.unwrap();
    assert_eq!(shown(&open), first.der);

    let second = authority.issue("server", &["127.0.0.1"]);
    until("the new one is served", async || {
        served().await == second.der
    })
    .await;
    assert!(get(&mut open, "").await.ends_with("baseline"), "as it was");

    // Neither garbage, nor a key of another, nor a file that is gone.
    let other = authority.issue("other", &["127.0.0.1"]);
    let certificates = Certificates::load(&second.cert, &second.key).unwrap();
    let refused = |what: &str| {
        let error = certificates.reload().unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
        assert!(!certificates.reload().unwrap(), "it is said once");
    };
    let key = fs::read(&second.key).unwrap();
    fs::write(&second.key, "garbage").unwrap();
    refused("there is no private key in it");
    fs::copy(&other.key, &second.key).unwrap();
    refused("it is not the key of");
    fs::remove_file(&second.key).unwrap();
    refused("it cannot be read");
    assert_eq!(served().await, second.der);
    fs::write(&second.key, key).unwrap();
    assert!(certificates.reload().unwrap());

    let third = authority.issue("server", &["127.0.0.1"]);
    until("it recovers", async || served().await == third.der).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_speak_tls_is_sent_away_and_counted() {
    let authority = Authority::new(&directory("plain"));
    let baseline = Server::says("baseline").await;
    let proxy = tls_sidecar(baseline.address, &authority.issue("server", &["127.0.0.1"])).await;
    let mut plain = TcpStream::connect(proxy.address).await.unwrap();
    plain
        .write_all(b"GET / HTTP/1.1\r\nhost: foo\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    assert!(baseline.seen().is_empty());
    let failures = "devroute_tls_handshake_failures_total";
    until("it is counted", async || {
        proxy.sample(failures).await == 1.0
    })
    .await;
    proxy.shut_down();
    assert_eq!(proxy.drained().await.abandoned, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_17_an_upgrade_is_tunnelled_from_tls() {
    let authority = Authority::new(&directory("upgrade"));
    let listener = TcpListener::bind(ANY).await.unwrap();
    let baseline = listener.local_addr().unwrap();
    let proxy = tls_sidecar(baseline, &authority.issue("server", &["127.0.0.1"])).await;
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\
                       upgrade: websocket\r\n\r\n";
        stream.write_all(answer).await.unwrap();
        let (mut read, mut write) = stream.split();
        tokio::io::copy(&mut read, &mut write).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let mut stream = authority.connect(proxy.address, "http/1.1").await.unwrap();
    let request =
        "GET / HTTP/1.1\r\nhost: foo\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "));
    stream.write_all(b"there and back").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut echoed = String::new();
    stream.read_to_string(&mut echoed).await.unwrap();
    assert_eq!(echoed, "there and back");
}

async fn serve(line: String) -> Running {
    tokio::task::spawn_blocking(move || Devroute::new(&line).serve())
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_is_believed_by_its_authority_or_by_the_named_switch() {
    let authority = Authority::new(&directory("target"));
    let identity = authority.issue("laptop", &["127.0.0.1"]);
    let laptop = Server::says_by_tls("laptop", &identity).await;
    let contract = format!(r#"{{"foo":"https://{}"}}"#, laptop.address);
    let ca = authority.ca.display();
    for (switch, expected) in [
        (String::new(), StatusCode::BAD_GATEWAY),
        (format!("--target-ca {ca}"), StatusCode::OK),
        ("--target-insecure".to_owned(), StatusCode::OK),
        (
            "--target-insecure=false".to_owned(),
            StatusCode::BAD_GATEWAY,
        ),
    ] {
        let line = format!("router --listen 127.0.0.1:0 --admin off --allow loopback {switch}");
        let mut router = serve(line).await;
        let request = Client::get(router.address, "/").contract(&contract);
        let answer = request.header("x-devroute-matched", "foo").send().await;
        assert_eq!(answer.status, expected, "{switch}: {}", answer.text);
        if expected == StatusCode::OK {
            assert_eq!(answer.text, "laptop");
        } else {
            let problem = answer.json();
            assert_eq!(problem["cause"], "tls_certificate");
            let help = problem["help"].as_str().unwrap();
            assert!(help.contains("--target-ca FILE"), "{help}");
        }
        if switch == "--target-insecure" {
            let log = tokio::task::block_in_place(|| router.log_line());
            assert_eq!(log["level"], "WARN", "{log}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_itself_can_speak_tls_and_is_not_believed_by_the_switch_for_targets() {
    let authority = Authority::new(&directory("upstream"));
    let identity = authority.issue("service", &["foo.internal", "localhost"]);
    let service = Server::says_by_tls("baseline", &identity).await;
    let (address, port) = (service.address, service.address.port());
    let ca = authority.ca.display();
    for (switches, expected) in [
        (format!("https://localhost:{port} --upstream-ca {ca}"), 200),
        (
            format!("https://{address} --upstream-ca {ca} --upstream-name foo.internal"),
            200,
        ),
        // The certificate is not for the address.
        (format!("https://{address} --upstream-ca {ca}"), 502),
        (
            format!("https://localhost:{port} --target-ca {ca} --target-insecure"),
            502,
        ),
    ] {
        let line =
            format!("sidecar --listen 127.0.0.1:0 --admin off --service foo --upstream {switches}");
        let sidecar = serve(line).await;
        let answer = Client::get(sidecar.address, "/a").send().await;
        assert_eq!(answer.status, expected, "{switches}: {}", answer.text);
        if expected == 502 {
            let help = answer.json()["help"].to_string();
            assert!(help.contains("--upstream-ca FILE"), "{help}");
        }
    }
    // Rule 17: it has chosen HTTP/2. Rule 16: the authority is the client's, whatever the service is
    // called.
    let seen = &service.seen()[0];
    assert_eq!(
        (&*seen.line, seen.version),
        ("GET https://foo.example/a", http::Version::HTTP_2)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_whose_name_has_no_address_is_502_and_reroutes_do_without() {
    let laptop = Server::says("laptop").await;
    let line = "sidecar --listen 127.0.0.1:0 --admin off --allow loopback --service foo \
                --upstream https://nobody.invalid";
    let sidecar = serve(line.to_owned()).await;
    let answer = Client::get(sidecar.address, "/").send().await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert!(
        answer
            .header("proxy-status")
            .starts_with("devroute; error=dns_error; ")
    );
    assert_eq!(answer.json()["cause"], "dns_failed");
    let contract = format!(r#"{{"foo":"{}"}}"#, laptop.address);
    let request = Client::get(sidecar.address, "/").contract(&contract);
    assert_eq!(request.send().await.text, "laptop");
}

/// What curl says, and its exit status; `None` where there is no curl.
#[allow(
    clippy::print_stderr,
    reason = "a test that does not run has to say so"
)]
fn curl(ca: &Path, arguments: &[&str]) -> Option<(Option<i32>, String)> {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--noproxy", "*", "--cacert"]);
    command.arg(ca).args(arguments).stdin(Stdio::null());
    match command.output() {
        Ok(output) => Some((
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        )),
        Err(error) => {
            eprintln!("SKIPPED: curl cannot be run: {error}");
            None
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_speaks_to_it_and_to_a_target_behind_it() {
    let directory = directory("curl");
    let authority = Authority::new(&directory);
    let identity = authority.issue("server", &["127.0.0.1"]);
    let laptop = Server::says_by_tls("laptop", &authority.issue("laptop", &["127.0.0.1"])).await;
    let baseline = Server::says("baseline").await;
    let line = format!(
        "sidecar --listen 127.0.0.1:0 --admin off --allow loopback --service foo --upstream \
         http://{} --tls-cert {} --tls-key {} --target-ca {}",
        baseline.address,
        identity.cert.display(),
        identity.key.display(),
        authority.ca.display(),
    );
    let sidecar = serve(line).await;
    assert_eq!(sidecar.started["tls"], true);
    let url = format!("https://{}/", sidecar.address);
    let contract = format!("x-devroute: {{\"foo\":\"https://{}\"}}", laptop.address);
    let stranger = Authority::new(&directory);
    tokio::task::spawn_blocking(move || {
        for version in ["--http1.1", "--http2"] {
            let write = ["--write-out", " %{http_version}"];
            let plain = [&[version, &*url][..], &write].concat();
            let Some((status, said)) = curl(&authority.ca, &plain) else {
                return;
            };
            let spoken = if version == "--http2" { "2" } else { "1.1" };
            assert_eq!((status, said), (Some(0), format!("baseline {spoken}")));
            let rerouted = [&[version, "--header", &*contract, &*url][..], &write].concat();
            let (status, said) = curl(&authority.ca, &rerouted).unwrap();
            assert_eq!((status, said), (Some(0), format!("laptop {spoken}")));
        }
        // Status 60: the certificate is not one that this client believes.
        assert_eq!(curl(&stranger.ca, &[&url]).unwrap().0, Some(60));
    })
    .await
    .unwrap();
}
