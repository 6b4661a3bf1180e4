//! The payloads of HTTP/1, on each way that a request can take.

use std::net::SocketAddr;
use std::time::Duration;

use devroute_proxy::config::OutboundConfig;
use devroute_proxy::server::HalfClose;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::payloads::{self, Payload};
use super::reader::{self, End, Reading, Request};
use super::recorder::Recorder;
use super::same::same;
use crate::support::{ANY, Proxy, router, sidecar};

/// Far longer than an exchange takes on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is sent behind each payload: it is answered where the payload has left the connection as it was,
/// and swallowed where it has not.
const LAST: &str = "GET /last HTTP/1.1\r\nHost: foo\r\n¤Connection: close\r\n\r\n";

/// A way to the recorder.
struct Way {
    proxy: Proxy,
    address: SocketAddr,
    recorder: Recorder,
    /// What leads there.
    fields: String,
    /// The host of a request that is sent on, where only one is.
    host: Option<String>,
    needs_fields: bool,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_sends_on_what_is_one_request_to_everybody() {
    let recorder = Recorder::start().await;
    let proxy = sidecar(recorder.address, |config| {
        config.process.half_close = HalfClose::Keep;
    })
    .await;
    let address = proxy.address;
    Way {
        proxy,
        address,
        recorder,
        fields: String::new(),
        host: None,
        needs_fields: false,
    }
    .holds()
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_reroutes_what_is_one_request_to_everybody() {
    let recorder = Recorder::start().await;
    // What is smuggled would have no contract, and come to the baseline.
    let proxy = sidecar(recorder.address, |config| {
        config.process.half_close = HalfClose::Keep;
    })
    .await;
    let address = proxy.address;
    let fields = format!("X-Devroute: {{\"foo\":\"{}\"}}\r\n", recorder.address);
    Way {
        proxy,
        address,
        recorder,
        fields,
        host: None,
        needs_fields: false,
    }
    .holds()
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_sends_on_what_is_one_request_to_everybody() {
    let recorder = Recorder::start().await;
    let proxy = router(|config| config.process.half_close = HalfClose::Keep).await;
    let address = proxy.address;
    let fields = format!(
        "X-Devroute: {{\"foo\":\"{}\"}}\r\nX-Devroute-Matched: foo\r\n",
        recorder.address
    );
    Way {
        proxy,
        address,
        recorder,
        fields,
        host: None,
        needs_fields: true,
    }
    .holds()
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_outbound_listener_sends_on_what_is_one_request_to_everybody() {
    let recorder = Recorder::start().await;
    let proxy = sidecar(ANY, |config| {
        config.process.half_close = HalfClose::Keep;
        config.outbound = Some(OutboundConfig::new(ANY));
    })
    .await;
    let address = proxy.outbound();
    let host = Some(recorder.address.to_string());
    Way {
        proxy,
        address,
        recorder,
        fields: String::new(),
        host,
        needs_fields: false,
    }
    .holds()
    .await;
}

impl Way {
    async fn holds(self) {
        let mut wrong = Vec::new();
        let payloads = payloads::of("requests.jsonl");
        assert!(payloads.len() > 900, "{}", payloads.len());
        for payload in &payloads {
            if let Err(why) = self.one(payload).await {
                wrong.push(format!("{}: {why}", payload.name));
            }
        }
        self.proxy.shut_down();
        let count = wrong.len();
        assert!(wrong.is_empty(), "{count} are wrong:\n{}", wrong.join("\n"));
    }

    /// Sends a payload, and holds what came of it against what it is.
    async fn one(&self, payload: &Payload) -> Result<(), String> {
        let mut sent = payload.bytes(&self.fields);
        sent.extend(payloads::latin_1(&LAST.replace('¤', &self.fields)));
        if let Some(host) = &self.host {
            sent = replace(
                &sent,
                b"Host: foo\r\n",
                format!("Host: {host}\r\n").as_bytes(),
            );
        }
        let reading = reader::read(&sent);
        if !self.stays_here(&reading) {
            return Ok(());
        }
        let answers = exchange(self.address, &sent, &reading.end).await?;
        let seen = self.recorder.take();
        if let Some(bad) = seen
            .ends
            .iter()
            .find(|end| matches!(end, End::BadHead | End::BadBody(_)))
        {
            return Err(format!("the target got what is no request: {bad:?}"));
        }
        let expected: Vec<&Request> = reading
            .requests
            .iter()
            .filter(|it| self.is_sent_on(it))
            .collect();
        if seen.requests.len() > expected.len() {
            return Err(format!(
                "{} requests in, and {:?} out",
                expected.len(),
                seen.requests
            ));
        }
        for (sent, got) in expected.iter().zip(&seen.requests) {
            same(sent, got)?;
        }
        let is_payload = |it: &&Request| it.target != b"/last";
        let got = seen.requests.iter().filter(is_payload).count();
        if got != payload.want && !self.needs_fields && self.host.is_none() {
            return Err(format!(
                "{got} requests came, and not {}; answered with {answers:?}",
                payload.want
            ));
        }
        match (&reading.end, answers.last()) {
            (End::BadHead, Some(400..=499 | 501 | 505)) => Ok(()),
            (End::BadHead, last) => Err(format!("a head that is none was answered with {last:?}")),
            _ => Ok(()),
        }
    }

    /// Whether its requests lead to nobody else.
    fn stays_here(&self, reading: &Reading) -> bool {
        let Some(host) = &self.host else {
            return true;
        };
        let partly = match &reading.end {
            End::Incomplete(Some(request)) | End::BadBody(request) => Some(request),
            _ => None,
        };
        reading
            .requests
            .iter()
            .chain(partly)
            .all(|it| it.place().0 == host.as_bytes() && it.method != "CONNECT")
    }

    /// Whether the recorder is who is asked.
    fn is_sent_on(&self, request: &Request) -> bool {
        request.method != "CONNECT"
            && (!self.needs_fields || !request.all("x-devroute-matched").is_empty())
    }
}

/// Sends bytes, and reads the statuses of what is answered until the connection is closed.
async fn exchange(address: SocketAddr, sent: &[u8], end: &End) -> Result<Vec<u16>, String> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut answered = Vec::new();
    let exchange = async {
        let (mut read, mut write) = stream.split();
        let send = async {
            // It may be refused before all of it is there.
            let _ = write.write_all(sent).await;
            if matches!(end, End::Incomplete(_)) {
                let _ = write.shutdown().await;
            }
        };
        let receive = async {
            let _ = read.read_to_end(&mut answered).await;
        };
        tokio::join!(send, receive);
    };
    let ended = tokio::time::timeout(PATIENCE, exchange).await;
    let text = String::from_utf8_lossy(&answered).into_owned();
    if ended.is_err() {
        return Err(format!("the connection is still open, after {text:?}"));
    }
    Ok(statuses(&text))
}

/// The statuses of the answers in `text`, but those before the last one of each.
fn statuses(text: &str) -> Vec<u16> {
    text.match_indices("HTTP/1.1 ")
        .filter_map(|(at, start)| text.get(at + start.len()..)?.get(..3)?.parse().ok())
        .filter(|status| *status >= 200)
        .collect()
}

fn replace(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut replaced = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        if let Some(behind) = rest.strip_prefix(from) {
            replaced.extend_from_slice(to);
            rest = behind;
        } else {
            replaced.push(rest[0]);
            rest = &rest[1..];
        }
    }
    replaced
}
