//! One request after the other through a whole sidecar, on loopback: what a proxy adds to the time of a request
//! where nothing else is going on.
//!
//! Run with `cargo bench -p devroute-benches --bench proxy`. Compare within a run: `proxy/plain` less
//! `proxy/service` is what the sidecar adds, most of it two more ways through the system and two threads to be
//! woken. What it takes of a core under load is another question, which `benches/compare/run` answers.
//!
//! | id | the request |
//! |---|---|
//! | `proxy/service` | to the service itself |
//! | `proxy/plain` | through a sidecar, without a contract |
//! | `proxy/rerouted` | through a sidecar, to the laptop that its contract names |
//! | `proxy/body` | through a sidecar, with an answer of 1 MiB |
#![expect(clippy::unwrap_used, reason = "the inputs are constants of this file")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use devroute_proxy::config::SidecarConfig;
use devroute_proxy::shutdown;
use devroute_proxy::sidecar::Sidecar;

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const SHORT: usize = 62;
const LONG: usize = 1 << 20;

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    proxy(&mut criterion);
    criterion.final_summary();
}

fn proxy(c: &mut Criterion) {
    let (service, laptop) = (serve("service"), serve("laptop"));
    let (sidecar, _running) = sidecar(service);
    let contract = format!(
        "x-devroute: {{\"foo\":\"{laptop}\",\"bar\":\"10.1.2.3:9000\",\"baz\":\"192.168.1.12:8001\"}}\r\n"
    );

    let mut group = c.benchmark_group("proxy");
    for (id, address, path, fields, expected, size) in [
        ("service", service, "/", "", "service", SHORT),
        ("plain", sidecar, "/", "", "service", SHORT),
        ("rerouted", sidecar, "/", &*contract, "laptop", SHORT),
        ("body", sidecar, "/long", "", "service", LONG),
    ] {
        let mut client = Client::new(address);
        let request = format!("GET {path} HTTP/1.1\r\nhost: foo\r\naccept: */*\r\n{fields}\r\n");
        // That it is the right one who answers, and with all of it.
        assert_eq!(client.ask(&request), (expected.to_owned(), size), "{id}");
        if size == LONG {
            group.throughput(Throughput::Bytes(size as u64));
        }
        group.bench_function(id, |b| b.iter(|| client.ask(&request)));
    }
}

/// Someone who answers every request with their name in a field; where they listen.
fn serve(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind(ANY).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            client.set_nodelay(true).unwrap();
            thread::spawn(move || {
                let mut requests = BufReader::new(client.try_clone().unwrap());
                while let Some(head) = head(&mut requests) {
                    let is_long = head.starts_with("GET /long ");
                    let size = if is_long { LONG } else { SHORT };
                    let answer = format!(
                        "HTTP/1.1 200 OK\r\nserver: {name}\r\ncontent-length: {size}\r\n\r\n"
                    );
                    let answer = [answer.as_bytes(), &vec![b'x'; size]].concat();
                    if client.write_all(&answer).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// A sidecar in front of `upstream` that may reroute to this machine, and what keeps it running.
fn sidecar(upstream: SocketAddr) -> (SocketAddr, shutdown::Trigger) {
    let mut config = SidecarConfig::new("foo".parse().unwrap(), ANY, upstream);
    config.reroute.policy = config.reroute.policy.allow_loopback(true);
    let (trigger, signal) = shutdown::channel();
    let (bound, address) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(async {
            let sidecar = Sidecar::bind(config).await.unwrap();
            bound.send(sidecar.address()).unwrap();
            sidecar.serve(signal).await.unwrap()
        })
    });
    (address.recv().unwrap(), trigger)
}

/// A client that keeps its connection.
struct Client {
    requests: TcpStream,
    answers: BufReader<TcpStream>,
}

impl Client {
    fn new(address: SocketAddr) -> Self {
        let requests = TcpStream::connect(address).unwrap();
        requests.set_nodelay(true).unwrap();
        let answers = BufReader::with_capacity(64 * 1024, requests.try_clone().unwrap());
        Self { requests, answers }
    }

    /// Who has answered, and how many bytes the body had.
    fn ask(&mut self, request: &str) -> (String, usize) {
        self.requests.write_all(request.as_bytes()).unwrap();
        let head = head(&mut self.answers).unwrap();
        let field = |name: &str| {
            let mut lines = head.lines();
            lines.find_map(|line| line.strip_prefix(name)).unwrap()
        };
        let size: usize = field("content-length: ").parse().unwrap();
        let mut left = vec![0; size];
        self.answers.read_exact(&mut left).unwrap();
        (field("server: ").to_owned(), left.len())
    }
}

/// The next head, if there is one.
fn head(from: &mut BufReader<TcpStream>) -> Option<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if from.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    Some(head)
}
