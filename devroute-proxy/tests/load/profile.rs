//! The work that a release is to be quick at, for a compiler that is shown where the program spends its time.
//!
//! What is never done here is laid out as if it were never done: a kind of request that is asked for often has to be
//! among these, and what is hostile or fails has not. `deploy/image/build` runs it on a program that counts.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use devroute_tower::core::signature::{PrivateKeyFile, SigningKey};
use devroute_tower::core::{Contract, carrier};
use http::header::{CONTENT_TYPE, HOST, TE, USER_AGENT};
use http::{Method, Request};
use http_body_util::Full;
use hyper::body::Bytes;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::asking::Connection;
use crate::attack::tls;
use crate::proxy::Proxy;
use crate::{Settings, cost, mixed, peers, tunnel};

const MIB: usize = 1024 * 1024;
/// Clients of each kind, all of them at once; of those with large bodies, which are slow, there is one.
const CLIENTS: usize = 4;
/// Requests on a connection before there is another one.
const KEPT: usize = 50;

/// Whose contracts are obeyed by TLS, and the key that they are signed with.
const KEYS: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../devroute-core/tests/vectors/alice.pub"
);
const KEY: &[u8] = include_bytes!("../../../devroute-core/tests/vectors/alice");

/// How a connection is made.
#[derive(Clone)]
enum By {
    Http1(SocketAddr),
    Http2(SocketAddr),
    Tls(SocketAddr, TlsConnector),
}

impl By {
    async fn connect(&self) -> Connection {
        match self {
            Self::Http1(address) => Connection::http1(*address).await.unwrap(),
            Self::Http2(address) => Connection::http2(*address).await.unwrap(),
            Self::Tls(address, connector) => {
                let stream = tls::connect(connector, *address).await.unwrap();
                Connection::http1_over(stream).await.unwrap()
            }
        }
    }
}

/// One kind of request.
#[derive(Clone)]
struct Kind {
    what: &'static str,
    by: By,
    /// Requests on a connection.
    kept: usize,
    method: Method,
    uri: String,
    fields: Vec<(&'static str, String)>,
    body: usize,
    /// How long the answer is.
    length: usize,
}

pub(crate) async fn run(settings: &Settings) -> bool {
    let time = Duration::from_secs(settings.seconds);
    let passed = each(time).await;
    // What these judge is for the program that is released. This one counts, and is slower and larger.
    mixed::run(time).await;
    let few = Settings {
        connections: 20,
        ..*settings
    };
    cost::run(&few).await;
    tunnel::run(&few).await;
    passed
}

async fn each(time: Duration) -> bool {
    let (mut flags, connector) = tls::identity();
    flags.extend(["--authorized-keys".to_owned(), KEYS.to_owned()]);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let service = peers::service("service").await;
    let laptop = peers::service("laptop").await;
    let outbound = ["--outbound", "127.0.0.1:0", "--internal", "loopback"];
    let plain = Proxy::start(service, &outbound);
    let secure = Proxy::start(service, &flags);
    let kinds = kinds(&plain, &secure, &connector, service, laptop);
    let asked: Vec<_> = kinds.iter().map(|_| Arc::<AtomicU64>::default()).collect();
    let mut clients = JoinSet::new();
    for (kind, asked) in kinds.iter().zip(&asked) {
        let clients_of_it = if kind.length < MIB { CLIENTS } else { 1 };
        for _ in 0..clients_of_it {
            clients.spawn(until(Instant::now() + time, kind.clone(), asked.clone()));
        }
    }
    let mut passed = true;
    while let Some(ended) = clients.join_next().await {
        passed &= ended.is_ok_and(|answered| answered);
    }
    for (kind, asked) in kinds.iter().zip(&asked) {
        println!("{}: {} requests", kind.what, asked.load(Ordering::Relaxed));
    }
    plain.stop() & secure.stop() && passed
}

fn kinds(
    plain: &Proxy,
    secure: &Proxy,
    connector: &TlsConnector,
    service: SocketAddr,
    laptop: SocketAddr,
) -> Vec<Kind> {
    let others = r#""bar":"10.1.2.3:9000","baz":"192.168.1.12:8001""#;
    let ours = format!(r#"{{"foo":"{laptop}",{others}}}"#);
    let theirs = format!(r#"{{{others},"$id":"run-42"}}"#);
    let contract: Contract = ours.parse().unwrap();
    let member = format!("devroute={}", carrier::baggage::encode(&contract));
    let Ok(PrivateKeyFile::Plain(key)) = SigningKey::from_openssh(KEY) else {
        panic!("it is not encrypted")
    };
    let hour = SystemTime::now() + Duration::from_secs(3600);
    let signed = key.sign_contract(&contract, hour).unwrap().to_string();
    let named = |contract: &str| vec![("x-devroute", contract.to_owned())];
    let grpc = ("content-type", "application/grpc".to_owned());
    let by = By::Http1(plain.address);
    let get = Kind {
        what: "a request without a contract",
        by: by.clone(),
        kept: KEPT,
        method: Method::GET,
        uri: "/some/where?that=is&long=enough".to_owned(),
        fields: Vec::new(),
        body: 0,
        length: "service".len(),
    };
    let rerouted = Kind {
        what: "rerouted",
        fields: named(&ours),
        length: "laptop".len(),
        ..get.clone()
    };
    let http2 = |what, kind: &Kind| Kind {
        what,
        by: By::Http2(plain.address),
        uri: "http://foo/some/where".to_owned(),
        ..kind.clone()
    };
    let upload = Kind {
        what: "a body that comes back",
        kept: 5,
        method: Method::POST,
        uri: "/echo".to_owned(),
        body: MIB,
        length: MIB,
        ..get.clone()
    };
    let call = Kind {
        what: "gRPC",
        method: Method::POST,
        fields: vec![grpc.clone()],
        body: 100,
        length: 100,
        ..http2("gRPC", &get)
    };
    vec![
        Kind {
            what: "a contract for others",
            fields: named(&theirs),
            ..get.clone()
        },
        Kind {
            what: "a contract in baggage",
            fields: vec![("baggage", member)],
            ..rerouted.clone()
        },
        http2("HTTP/2", &get),
        http2("HTTP/2, rerouted", &rerouted),
        Kind {
            what: "gRPC, rerouted",
            fields: [named(&ours), vec![grpc]].concat(),
            ..call.clone()
        },
        call,
        Kind {
            what: "an answer of 1 MiB",
            kept: 5,
            uri: "/big".to_owned(),
            length: MIB,
            ..get.clone()
        },
        Kind {
            what: "a body that comes back from a laptop",
            fields: named(&ours),
            ..upload.clone()
        },
        upload,
        Kind {
            what: "on a connection of its own",
            kept: 1,
            ..get.clone()
        },
        Kind {
            what: "by TLS",
            by: By::Tls(secure.address, connector.clone()),
            ..get.clone()
        },
        Kind {
            what: "by TLS, signed and rerouted",
            by: By::Tls(secure.address, connector.clone()),
            fields: named(&signed),
            ..rerouted.clone()
        },
        Kind {
            what: "a request of the service's own",
            by: By::Http1(plain.outbound.unwrap()),
            uri: format!("http://{service}/"),
            fields: named(&theirs),
            ..get.clone()
        },
        Kind {
            what: "the same, whose contract is remembered by its trace",
            by: By::Http1(plain.outbound.unwrap()),
            uri: format!("http://{service}/"),
            ..get.clone()
        },
        rerouted,
        get,
    ]
}

/// Asks until it is time; whether all was answered as it should be.
async fn until(end: Instant, kind: Kind, asked: Arc<AtomicU64>) -> bool {
    let body = Bytes::from(vec![b'x'; kind.body]);
    while Instant::now() < end {
        let mut connection = kind.by.connect().await;
        for _ in 0..kind.kept {
            match connection.send(request(&kind, &body)).await {
                Ok(answer) if answer.status.is_success() && answer.body.len() == kind.length => {
                    asked.fetch_add(1, Ordering::Relaxed);
                }
                other => {
                    println!("failed: {}: {:?}", kind.what, other.map(|it| it.status));
                    return false;
                }
            }
        }
    }
    true
}

/// With the fields that requests have.
fn request(kind: &Kind, body: &Bytes) -> Request<Full<Bytes>> {
    let mut request = Request::builder()
        .method(&kind.method)
        .uri(&kind.uri)
        .header(HOST, "foo")
        .header(USER_AGENT, "devroute-load/0.1")
        .header("accept", "*/*")
        .header(
            "traceparent",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        );
    if kind
        .fields
        .iter()
        .any(|(name, _)| *name == CONTENT_TYPE.as_str())
    {
        request = request.header(TE, "trailers");
    }
    for (name, value) in &kind.fields {
        request = request.header(*name, value);
    }
    request.body(Full::new(body.clone())).unwrap()
}
