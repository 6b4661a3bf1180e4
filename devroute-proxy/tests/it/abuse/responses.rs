//! What a target answers that is more, or less, or something else than one answer: the client gets one
//! answer, and what is asked next gets its own.

use std::net::SocketAddr;
use std::time::Duration;

use http::StatusCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};

use super::payloads::{self, Payload};
use crate::support::{ANY, Client, Proxy, sidecar};

const PATIENCE: Duration = Duration::from_secs(20);
const SECOND: &str = "the second answer";

/// A target that answers `/payload` with what it is given, and everything else with [`SECOND`].
struct Target {
    address: SocketAddr,
    exchanges: mpsc::UnboundedSender<Exchange>,
}

/// What is to be answered next, and then; the number of the connection is said before each answer.
struct Exchange {
    answer: Vec<u8>,
    closes: bool,
    late: oneshot::Receiver<Vec<u8>>,
    has_sent: oneshot::Sender<()>,
}

impl Target {
    async fn start() -> Self {
        let listener = TcpListener::bind(ANY).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (exchanges, mut next) = mpsc::unbounded_channel::<Exchange>();
        let (asked, mut asking) = mpsc::unbounded_channel::<oneshot::Sender<Exchange>>();
        tokio::spawn(async move {
            while let (Some(asking), Some(exchange)) = (asking.recv().await, next.recv().await) {
                let _ = asking.send(exchange);
            }
        });
        tokio::spawn(async move {
            for number in 0.. {
                let Ok((stream, _)) = listener.accept().await else {
                    return;
                };
                tokio::spawn(serve(stream, number, asked.clone()));
            }
        });
        Self { address, exchanges }
    }
}

async fn serve(
    mut stream: TcpStream,
    number: usize,
    asked: mpsc::UnboundedSender<oneshot::Sender<Exchange>>,
) {
    let mut unread = Vec::new();
    loop {
        let end = unread.windows(4).position(|it| it == b"\r\n\r\n");
        let Some(end) = end else {
            match stream.read_buf(&mut unread).await {
                Ok(1..) => continue,
                _ => return,
            }
        };
        let head = String::from_utf8(unread.drain(..end + 4).collect()).unwrap();
        if !head.contains(" /payload ") {
            let body = format!("{SECOND} {number}");
            let length = body.len();
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}");
            stream.write_all(answer.as_bytes()).await.unwrap();
            continue;
        }
        let (ask, answer) = oneshot::channel();
        asked.send(ask).unwrap();
        let exchange = answer.await.unwrap();
        // Whoever has seen enough may have hung up.
        let _ = stream.write_all(&exchange.answer).await;
        if exchange.closes {
            return;
        }
        if let Ok(late) = exchange.late.await {
            // Whoever keeps the connection for later has seen it when it is closed. One that asks for
            // something in the moment before takes it for the answer: HTTP/1.1 does not tell.
            let _ = stream.write_all(&late).await;
            while let Ok(1..) = stream.read_buf(&mut unread).await {}
            return;
        }
        let _ = exchange.has_sent.send(());
    }
}

/// What a client of HTTP/1 reads, by the letter: status, body, and whether it broke off.
struct Answer {
    status: u16,
    body: Vec<u8>,
    is_whole: bool,
}

async fn read(stream: &mut TcpStream, to_head: bool) -> Result<Answer, String> {
    let mut unread = Vec::new();
    let head = loop {
        if let Some(end) = unread.windows(4).position(|it| it == b"\r\n\r\n") {
            break String::from_utf8(unread.drain(..end + 4).collect()).unwrap();
        }
        if !matches!(stream.read_buf(&mut unread).await, Ok(1..)) {
            return Err(format!("no answer but {unread:?}"));
        }
    };
    let head = head.to_lowercase();
    let status = head.get(9..12).unwrap().parse().unwrap();
    let fields: Vec<(&str, &str)> = head
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once(": "))
        .collect();
    let all = |name| fields.iter().filter(move |(field, _)| *field == name);
    let lengths: Vec<&str> = all("content-length").map(|(_, value)| *value).collect();
    let codings: Vec<&str> = all("transfer-encoding").map(|(_, value)| *value).collect();
    let bodiless = to_head || status == 204 || status == 304;
    let mut body = Vec::new();
    let mut is_whole = true;
    match (&lengths[..], &codings[..]) {
        ([] | [_], []) if bodiless => {
            if status == 204 && !lengths.is_empty() {
                return Err(format!("a 204 with a length: {head}"));
            }
        }
        ([], ["chunked"]) if to_head || !bodiless => {
            while is_whole && !bodiless {
                let Some(end) = unread.windows(2).position(|it| it == b"\r\n") else {
                    is_whole = matches!(stream.read_buf(&mut unread).await, Ok(1..));
                    continue;
                };
                let line = String::from_utf8(unread[..end].to_vec()).unwrap();
                let size = usize::from_str_radix(&line, 16).map_err(|e| format!("{e}: {line}"))?;
                while is_whole && unread.len() < end + size + 4 {
                    is_whole = matches!(stream.read_buf(&mut unread).await, Ok(1..));
                }
                if !is_whole {
                    break;
                }
                let chunk: Vec<u8> = unread.drain(..end + size + 4).collect();
                assert!(chunk.ends_with(b"\r\n"), "{chunk:?}");
                body.extend_from_slice(&chunk[end + 2..end + 2 + size]);
                if size == 0 {
                    break;
                }
            }
        }
        ([length], []) => {
            let length = length.parse().unwrap();
            while is_whole && unread.len() < length {
                is_whole = matches!(stream.read_buf(&mut unread).await, Ok(1..));
            }
            body = unread.drain(..length.min(unread.len())).collect();
        }
        _ => return Err(format!("framing that says two things: {head}")),
    }
    if !unread.is_empty() {
        return Err(format!("{unread:?} behind an answer"));
    }
    Ok(Answer {
        status,
        body,
        is_whole,
    })
}

/// Both ways: to the baseline, and rerouted.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_one_answer_to_one_request() {
    let target = Target::start().await;
    let proxy = sidecar(target.address, |_| {}).await;
    let fields = format!("X-Devroute: {{\"foo\":\"{}\"}}\r\n", target.address);
    let mut wrong = Vec::new();
    let payloads = payloads::of("responses.jsonl");
    assert!(payloads.len() > 100, "{}", payloads.len());
    for payload in &payloads {
        for fields in ["", &fields] {
            if payload.late().is_some() && !fields.is_empty() {
                // It takes as long as the pool lets it lie.
                continue;
            }
            let one = one(&target, &proxy, fields, payload);
            let done = tokio::time::timeout(PATIENCE, one).await;
            if let Err(why) = done.unwrap_or_else(|_| Err("it hangs".to_owned())) {
                wrong.push(format!("{}: {why}", payload.name));
            }
        }
    }
    proxy.shut_down();
    let count = wrong.len();
    assert!(wrong.is_empty(), "{count} are wrong:\n{}", wrong.join("\n"));
}

async fn one(
    target: &Target,
    proxy: &Proxy,
    fields: &str,
    payload: &Payload,
) -> Result<(), String> {
    // What an answer before has left behind is not what this is about.
    let (send_late, late) = oneshot::channel();
    let (has_sent, sent) = oneshot::channel();
    let exchange = Exchange {
        answer: payload.bytes(""),
        closes: payload.entry["closes"] == true,
        late,
        has_sent,
    };
    target.exchanges.send(exchange).ok().unwrap();
    let method = payload.entry["to"].as_str().unwrap_or("GET");
    let mut client = TcpStream::connect(proxy.address).await.unwrap();
    let request = format!("{method} /payload HTTP/1.1\r\nHost: foo\r\n{fields}\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
    let answer = match read(&mut client, method == "HEAD").await {
        // What breaks off at once has not begun.
        Err(_) if payload.entry["body"].is_null() => return Ok(()),
        answer => answer?,
    };
    if answer.status as usize != payload.want {
        return Err(format!("{} and not {}", answer.status, payload.want));
    }
    match payload.entry["body"].as_str() {
        Some(body) if answer.is_whole && answer.body == payloads::latin_1(body) => {}
        None if answer.status == 502 && answer.is_whole => {}
        None if answer.status == 200 && !answer.is_whole => {}
        _ => return Err(format!("{:?}, whole: {}", answer.body, answer.is_whole)),
    }
    match payload.late() {
        Some(bytes) => send_late.send(bytes).unwrap(),
        None => drop(send_late),
    }
    // Where it has closed, or been hung up on, there is nothing to wait for.
    let _ = sent.await;

    // On the same connection where it is still open, as most have to be.
    let request = format!("GET /second HTTP/1.1\r\nHost: foo\r\n{fields}\r\n");
    if !answer.is_whole {
        client = TcpStream::connect(proxy.address).await.unwrap();
    }
    client.write_all(request.as_bytes()).await.unwrap();
    let second = read(&mut client, false).await?;
    let body = String::from_utf8_lossy(&second.body).into_owned();
    if second.status != 200 || !body.starts_with(SECOND) {
        return Err(format!("what was asked next got {} {body}", second.status));
    }
    Ok(())
}

/// Connections are used again, or all of the above would say nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_in_order_is_used_again_and_no_other() {
    for payload in payloads::of("responses.jsonl") {
        if payload.late().is_some() {
            continue;
        }
        let target = Target::start().await;
        let proxy = sidecar(target.address, |config| {
            config.process.workers = std::num::NonZeroUsize::MIN;
        })
        .await;
        one(&target, &proxy, "", &payload).await.unwrap();
        let answer = Client::get(proxy.address, "/third")
            .host("foo")
            .send()
            .await;
        assert_eq!(answer.status, StatusCode::OK);
        let is_first = answer.text == format!("{SECOND} 0");
        let reused = payload.entry["reused"] == true;
        assert_eq!(is_first, reused, "{}: {}", payload.name, answer.text);
        proxy.shut_down();
    }
}
