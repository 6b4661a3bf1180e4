//! A whole connection: bytes in, through the server and the stack of a sidecar, to a target that reads by the letter.
//!
//! What the target gets are requests, each of which the client has sent, in their order; and of what is refused it
//! gets no request. Both sides are read by `tests/it/abuse/reader.rs`, which knows nothing of the proxy.

#![no_main]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use devroute_proxy::config::SidecarConfig;
use devroute_proxy::server::HalfClose;
use devroute_proxy::sidecar;
use devroute_tower::core::TargetPolicy;
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

#[path = "../../tests/it/abuse/reader.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod reader;
#[path = "../../tests/it/abuse/same.rs"]
mod same;

use reader::{End, Request};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Nothing waits for anything here but for what is never sent.
const PATIENCE: Duration = Duration::from_secs(10);

/// What there is once for all connections.
struct World {
    runtime: Runtime,
    config: SidecarConfig,
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
    /// The connections to the target that are open.
    open: watch::Sender<usize>,
}

thread_local! {
    static WORLD: World = World::new();
}

fuzz_target!(|data: &[u8]| {
    let Some((cut, sent)) = data.split_first() else {
        return;
    };
    WORLD.with(|world| world.runtime.block_on(world.converse(*cut, sent)));
});

impl World {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let seen = Arc::<Mutex<Vec<Vec<u8>>>>::default();
        let open = watch::Sender::new(0);
        let (shared, counted) = (Arc::clone(&seen), open.clone());
        let address = runtime.block_on(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
            let address: SocketAddr = listener.local_addr().expect("an address");
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    counted.send_modify(|open| *open += 1);
                    let (shared, counted) = (Arc::clone(&shared), counted.clone());
                    tokio::spawn(async move {
                        let bytes = record(stream).await;
                        shared.lock().expect("no panic").push(bytes);
                        counted.send_modify(|open| *open -= 1);
                    });
                }
            });
            address
        });
        let any = "127.0.0.1:0".parse().expect("an address");
        let mut config = SidecarConfig::new("foo".parse().expect("a name"), any, address);
        config.process.half_close = HalfClose::Keep;
        // What a contract says leads nowhere.
        let nowhere = TargetPolicy::default()
            .deny("0.0.0.0/0".parse().expect("a network"))
            .deny("::/0".parse().expect("a network"));
        config.reroute.policy = nowhere;
        Self {
            runtime,
            config,
            seen,
            open,
        }
    }

    async fn converse(&self, cut: u8, sent: &[u8]) {
        let (mut client, server) = tokio::io::duplex(64 * 1024);
        let serving = sidecar::serve_stream(&self.config, server);
        let asking = async {
            // In pieces, whose reader sees each of them before the next.
            let size = if cut == 0 {
                sent.len()
            } else {
                usize::from(cut)
            };
            for piece in sent.chunks(size.max(1)) {
                if client.write_all(piece).await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            let _ = client.shutdown().await;
            let mut answered = Vec::new();
            let _ = client.read_to_end(&mut answered).await;
        };
        let both = async { tokio::join!(serving, asking) };
        if tokio::time::timeout(PATIENCE, both).await.is_err() {
            panic!("the connection does not end");
        }
        // What is open to the target ends with the stack that has opened it.
        let mut open = self.open.subscribe();
        let ended = open.wait_for(|open| *open == 0);
        let ended = tokio::time::timeout(PATIENCE, ended).await;
        assert!(ended.is_ok(), "a connection to the target is left open");
        let seen = std::mem::take(&mut *self.seen.lock().expect("no panic"));
        judge(sent, &seen);
    }
}

/// Answers each request with 200; all bytes that came.
async fn record(mut stream: TcpStream) -> Vec<u8> {
    let (mut all, mut unread) = (Vec::new(), Vec::new());
    loop {
        let before = unread.len();
        if !matches!(stream.read_buf(&mut unread).await, Ok(1..)) {
            return all;
        }
        all.extend_from_slice(&unread[before..]);
        let reading = reader::read(&unread);
        unread.drain(..reading.length);
        if matches!(&reading.end, End::BadHead | End::BadBody(_)) {
            // Whoever waits for an answer to that is not kept: it is judged.
            return all;
        }
        if matches!(&reading.end, End::Incomplete(Some(it)) if !it.all("expect").is_empty()) {
            let _ = stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await;
        }
        let answers =
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".repeat(reading.requests.len());
        if stream.write_all(answers.as_bytes()).await.is_err() {
            return all;
        }
    }
}

/// Holds what the target got against what was sent.
fn judge(sent: &[u8], seen: &[Vec<u8>]) {
    let mut got = Vec::new();
    let mut begun = Vec::new();
    for bytes in seen {
        let reading = reader::read(bytes);
        got.extend(reading.requests);
        match reading.end {
            End::Clean | End::Incomplete(None) => {}
            // An upgrade that was not to be, behind which nothing may come.
            End::Last if reading.length == bytes.len() => {}
            End::Incomplete(Some(request)) => begun.push(request),
            end => panic!("the target got {end:?}"),
        }
    }
    if PREFACE.starts_with(&sent[..sent.len().min(PREFACE.len())]) || sent.starts_with(PREFACE) {
        // Of HTTP/2 it has to be requests, and no more.
        return;
    }
    let reading = reader::read(sent);
    let partly = match &reading.end {
        End::Incomplete(Some(request)) | End::BadBody(request) => Some(request),
        _ => None,
    };
    // A contract may have kept some of them back.
    let mut left = reading.requests.iter();
    for request in &got {
        let found = left.any(|sent| same::same(sent, request).is_ok());
        assert!(
            found,
            "nobody has sent {request:?}, or not then: {reading:?}"
        );
    }
    for request in &begun {
        let is_begun = |whole: &&Request| {
            let mut head = (*whole).clone();
            head.body = request.body.clone();
            whole.body.starts_with(&request.body) && same::same(&head, request).is_ok()
        };
        let found = reading
            .requests
            .iter()
            .chain(partly)
            .any(|it| is_begun(&it));
        assert!(found, "nobody has begun {request:?}: {reading:?}");
    }
}
