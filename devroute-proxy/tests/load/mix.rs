//! Whether two requests are ever mixed: a crowd of targets, each with a contract of its own.
//!
//! Each request has a number. It is in the path, in the contract and in `authorization`, and the right
//! answer can be given only by the target of the contract and only to this request (`crowd.rs`). Clients
//! keep their connections, pipeline, share one over HTTP/2, and go away in the middle; targets close,
//! reset, break off, and send more than they were asked for. A request may fail for that. What may not
//! happen is an answer that is another's.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::Settings;
use crate::crowd::{self, Behaviour, find};
use crate::proxy::Proxy;

/// Clients at a time; a third of them speak HTTP/2.
const CLIENTS: u64 = 24;
/// Streams at a time, of each client that speaks HTTP/2.
const STREAMS: usize = 12;
/// One request in so many asks for a fault, and one in so many is given up.
const FAULTS: u64 = 50;
const GONE: u64 = 200;

#[derive(Debug, Default)]
struct Tally {
    next: AtomicU64,
    right: AtomicU64,
    failed: AtomicU64,
    gone: AtomicU64,
    wrong: AtomicU64,
}

#[derive(Debug)]
struct Crowd {
    proxy: SocketAddr,
    /// The first one is the baseline.
    targets: Vec<SocketAddr>,
    requests: u64,
    tally: Tally,
}

pub(crate) async fn run(settings: &Settings) -> bool {
    let mut targets = Vec::new();
    for who in 0..=settings.targets {
        targets.push(crowd::target(who).await);
    }
    let proxy = Proxy::start(
        targets[0],
        &["--log-level", "warn,devroute_proxy::sidecar=info"],
    );
    let crowd = Arc::new(Crowd {
        proxy: proxy.address,
        targets,
        requests: settings.requests,
        tally: Tally::default(),
    });
    let began = Instant::now();
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let (crowd, random) = (Arc::clone(&crowd), Random(client + 1));
        if client % 3 == 0 {
            clients.spawn(http2(crowd, random));
        } else {
            clients.spawn(http1(crowd, random));
        }
    }
    let mut lost = 0;
    let mut reported = Instant::now();
    while !clients.is_empty() {
        let next = tokio::time::timeout(Duration::from_secs(60), clients.join_next()).await;
        if let Ok(Some(Err(error))) = next {
            println!("a client failed: {error}");
            lost += 1;
        }
        if reported.elapsed() > Duration::from_secs(60) {
            reported = Instant::now();
            println!("{}", crowd.tally.told(began.elapsed()));
        }
    }
    println!("{}", crowd.tally.told(began.elapsed()));
    let count = |it: &AtomicU64| it.load(Ordering::Relaxed);
    let tally = &crowd.tally;
    // If faults were all that there is, nothing would have been tried.
    let tried = count(&tally.right) >= settings.requests / 10 * 9;
    proxy.stop() && lost == 0 && count(&tally.wrong) == 0 && tried
}

impl Tally {
    fn told(&self, time: Duration) -> String {
        let count = |it: &AtomicU64| it.load(Ordering::Relaxed);
        format!(
            "{} answers in {time:.0?} that were right, {} requests that failed, {} that were given \
             up, {} wrong answers",
            count(&self.right),
            count(&self.failed),
            count(&self.gone),
            count(&self.wrong)
        )
    }

    fn failed(&self, requests: usize) {
        self.failed.fetch_add(requests as u64, Ordering::Relaxed);
    }

    fn wrong(&self, asked: &Asked, answer: &str) {
        // What is wrong is told, and not a thousand times.
        if self.wrong.fetch_add(1, Ordering::Relaxed) < 20 {
            println!("WRONG: {asked:?} was answered with {answer:.300}");
        }
    }
}

/// A request, and what it takes to judge its answer.
#[derive(Debug)]
struct Asked {
    nonce: u64,
    who: usize,
    behaviour: Behaviour,
    method: Method,
    fields: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Crowd {
    /// The next request, or `None` when all have been sent.
    fn ask(&self, random: &mut Random) -> Option<Asked> {
        let nonce = self.tally.next.fetch_add(1, Ordering::Relaxed);
        if nonce >= self.requests {
            return None;
        }
        let who = random.below(self.targets.len() as u64) as usize;
        let behaviour = if random.below(FAULTS) == 0 {
            Behaviour::FAULTS[random.below(8) as usize]
        } else {
            match random.below(100) {
                0 => Behaviour::AnswerSlowly,
                1 => Behaviour::AnswerAtLength,
                2..15 => Behaviour::AnswerInChunks,
                _ => Behaviour::Answer,
            }
        };
        let (method, body) = match random.below(4) {
            0 => (Method::POST, random.body()),
            1 => (Method::PUT, random.body()),
            _ => (Method::GET, Vec::new()),
        };
        let mut fields = vec![("authorization", nonce.to_string())];
        // The baseline is asked without a contract, or with one that is for others.
        if who > 0 || random.below(2) == 0 {
            fields.push(self.carrier(nonce, who, random));
        }
        if random.below(4) == 0 {
            fields.push(("cookie", format!("n={nonce}")));
        }
        Some(Asked {
            nonce,
            who,
            behaviour,
            method,
            fields,
            body,
        })
    }

    /// A contract of some size in one of its carriers.
    fn carrier(&self, nonce: u64, who: usize, random: &mut Random) -> (&'static str, String) {
        let mut entries = Vec::new();
        for other in 0..random.below(12) {
            let target = self.targets[random.below(self.targets.len() as u64) as usize];
            entries.push(format!("\"other-{other}\":\"{target}\""));
        }
        entries.push(format!("\"$id\":\"{nonce}\""));
        if who > 0 {
            let at = random.below(entries.len() as u64 + 1) as usize;
            entries.insert(at, format!("\"foo\":\"{}\"", self.targets[who]));
        }
        let contract = format!("{{{}}}", entries.join(","));
        if random.below(8) > 0 {
            return ("x-devroute", contract);
        }
        let encoded: String = contract
            .bytes()
            .map(|byte| format!("%{byte:02X}"))
            .collect();
        if encoded.len() > 3000 {
            return ("x-devroute", contract);
        }
        ("baggage", format!("a=1,devroute={encoded}"))
    }

    /// Judges an answer that came whole.
    fn judge(&self, asked: &Asked, status: u16, body: &[u8]) {
        let expected = crowd::text(asked.who, asked.nonce, asked.behaviour, &asked.body);
        let right = match asked.behaviour {
            Behaviour::BodyOf204 => status == 204 && body.is_empty(),
            _ => status == 200 && body == expected.as_bytes(),
        };
        // Our own answer, to a request whose target has failed.
        let failed = status == 502 && body.starts_with(b"{");
        if right {
            self.tally.right.fetch_add(1, Ordering::Relaxed);
        } else if failed {
            self.tally.failed(1);
        } else {
            let answer = format!("{status} {}", String::from_utf8_lossy(body));
            self.tally.wrong(asked, &answer);
        }
    }
}

/// Kept connections, with up to four requests on the way at once.
async fn http1(crowd: Arc<Crowd>, mut random: Random) {
    let mut connection: Option<(TcpStream, Vec<u8>)> = None;
    loop {
        let mut asked = Vec::new();
        for _ in 0..=random.below(4) {
            asked.extend(crowd.ask(&mut random));
        }
        if asked.is_empty() {
            return;
        }
        let (mut stream, mut buffer) = match connection.take() {
            Some(kept) => kept,
            None => {
                let stream = TcpStream::connect(crowd.proxy).await.unwrap();
                stream.set_nodelay(true).unwrap();
                (stream, Vec::with_capacity(32 * 1024))
            }
        };
        let bytes: Vec<u8> = asked
            .iter()
            .flat_map(|it| it.http1(crowd.proxy, &mut random))
            .collect();
        if stream.write_all(&bytes).await.is_err() {
            crowd.tally.failed(asked.len());
            continue;
        }
        if random.below(GONE) == 0 {
            let count = asked.len() as u64;
            crowd.tally.gone.fetch_add(count, Ordering::Relaxed);
            continue;
        }
        let mut asked = asked.iter();
        let kept = loop {
            let Some(asked) = asked.next() else {
                break true;
            };
            match answer(&mut stream, &mut buffer).await {
                Some((status, body)) => crowd.judge(asked, status, &body),
                None => {
                    crowd.tally.failed(1);
                    break false;
                }
            }
        };
        crowd.tally.failed(asked.len());
        if kept {
            if buffer.is_empty() {
                connection = Some((stream, buffer));
            } else {
                println!("WRONG: more came than was asked for");
                crowd.tally.wrong.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl Asked {
    fn path(&self) -> String {
        format!("/{}/{}", self.nonce, self.behaviour.number())
    }

    fn http1(&self, host: SocketAddr, random: &mut Random) -> Vec<u8> {
        let (method, path) = (&self.method, self.path());
        let mut bytes = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\n").into_bytes();
        for (name, value) in &self.fields {
            bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        let length = self.body.len();
        if length == 0 {
            bytes.extend_from_slice(b"\r\n");
        } else if random.below(3) == 0 {
            let head = format!("transfer-encoding: chunked\r\n\r\n{length:x}\r\n");
            bytes.extend_from_slice(head.as_bytes());
            bytes.extend_from_slice(&self.body);
            bytes.extend_from_slice(b"\r\n0\r\n\r\n");
        } else {
            bytes.extend_from_slice(format!("content-length: {length}\r\n\r\n").as_bytes());
            bytes.extend_from_slice(&self.body);
        }
        bytes
    }

    fn http2(&self) -> Request<Full<Bytes>> {
        let uri = format!("http://foo{}", self.path());
        let request = Request::builder().method(self.method.clone()).uri(uri);
        self.fields
            .iter()
            .fold(request, |request, (name, value)| {
                request.header(*name, value)
            })
            .body(Full::from(self.body.clone()))
            .unwrap()
    }
}

/// The next answer, or `None` where it breaks off.
async fn answer(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<(u16, Vec<u8>)> {
    let head = line(stream, buffer, b"\r\n\r\n").await?;
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let status = head.get(9..12)?.parse().unwrap();
    if head.contains("\r\ntransfer-encoding: chunked\r\n") {
        let mut body = Vec::new();
        loop {
            let size = line(stream, buffer, b"\r\n").await?;
            let size = usize::from_str_radix(String::from_utf8(size).unwrap().trim(), 16).unwrap();
            let data = exactly(stream, buffer, size + 2).await?;
            if size == 0 {
                return Some((status, body));
            }
            body.extend_from_slice(&data[..size]);
        }
    }
    if status == 204 {
        return Some((status, Vec::new()));
    }
    let length = head.split("\r\ncontent-length: ").nth(1)?;
    let length = length.split("\r\n").next()?.parse().unwrap();
    Some((status, exactly(stream, buffer, length).await?))
}

async fn line(stream: &mut TcpStream, buffer: &mut Vec<u8>, end: &[u8]) -> Option<Vec<u8>> {
    loop {
        if let Some(at) = find(buffer, end) {
            let rest = buffer.split_off(at + end.len());
            return Some(std::mem::replace(buffer, rest));
        }
        more(stream, buffer).await?;
    }
}

async fn exactly(stream: &mut TcpStream, buffer: &mut Vec<u8>, length: usize) -> Option<Vec<u8>> {
    while buffer.len() < length {
        more(stream, buffer).await?;
    }
    let rest = buffer.split_off(length);
    Some(std::mem::replace(buffer, rest))
}

async fn more(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<()> {
    matches!(stream.read_buf(buffer).await, Ok(1..)).then_some(())
}

/// One connection at a time, and many streams on it.
async fn http2(crowd: Arc<Crowd>, mut random: Random) {
    let mut sender: Option<http2::SendRequest<Full<Bytes>>> = None;
    let mut streams = JoinSet::new();
    while let Some(asked) = crowd.ask(&mut random) {
        if sender.as_ref().is_none_or(|sender| sender.is_closed()) || random.below(2000) == 0 {
            let stream = TcpStream::connect(crowd.proxy).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let io = TokioIo::new(stream);
            let (opened, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
            tokio::spawn(connection);
            sender = Some(opened);
        }
        while streams.len() >= STREAMS {
            streams.join_next().await;
        }
        let (crowd, mut sender) = (Arc::clone(&crowd), sender.clone().unwrap());
        let is_patient = random.below(GONE) > 0;
        streams.spawn(async move {
            let exchange = async {
                sender.ready().await.ok()?;
                let response = sender.send_request(asked.http2()).await.ok()?;
                let status = response.status().as_u16();
                let body = response.into_body().collect().await.ok()?.to_bytes();
                Some((status, body))
            };
            if !is_patient {
                let _ = tokio::time::timeout(Duration::from_micros(500), exchange).await;
                crowd.tally.gone.fetch_add(1, Ordering::Relaxed);
                return;
            }
            match exchange.await {
                Some((status, body)) => crowd.judge(&asked, status, &body),
                None => crowd.tally.failed(1),
            }
        });
    }
    streams.join_all().await;
}

/// SplitMix64: the same requests in each run, as far as the clients take turns in the same way.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn body(&mut self) -> Vec<u8> {
        let length = match self.below(50) {
            0 => self.below(60_000),
            _ => self.below(300),
        };
        let byte = self.below(256) as u8;
        (0..length).map(|at| byte.wrapping_add(at as u8)).collect()
    }
}
