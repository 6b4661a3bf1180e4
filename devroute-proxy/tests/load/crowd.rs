//! Targets that say who they are, and misbehave where the request asks for it.
//!
//! A request is `/NONCE/BEHAVIOUR`, with the nonce once more in its contract and in `authorization`:
//! where these differ, two requests have been mixed, and the answer says so. The right answer is one
//! that only this target can give to this request ([`text`]).

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What a target does once it has a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub(crate) enum Behaviour {
    Answer,
    AnswerInChunks,
    AnswerAtLength,
    AnswerSlowly,
    /// Says that it closes, and does.
    Close,
    /// Closes behind the answer, and does not say so.
    CloseSilently,
    ResetBehind,
    ResetInstead,
    /// Breaks off in the body.
    Cut,
    /// Sends a second answer with the first, to a request that nobody has sent.
    TwoAnswers,
    /// Sends a body where there must be none.
    BodyOf204,
    /// Sends what is no HTTP when the connection has been idle for a moment.
    LateBytes,
}

impl Behaviour {
    pub(crate) const FAULTS: [Self; 8] = [
        Self::Close,
        Self::CloseSilently,
        Self::ResetBehind,
        Self::ResetInstead,
        Self::Cut,
        Self::TwoAnswers,
        Self::BodyOf204,
        Self::LateBytes,
    ];
    const ALL: [Self; 12] = [
        Self::Answer,
        Self::AnswerInChunks,
        Self::AnswerAtLength,
        Self::AnswerSlowly,
        Self::Close,
        Self::CloseSilently,
        Self::ResetBehind,
        Self::ResetInstead,
        Self::Cut,
        Self::TwoAnswers,
        Self::BodyOf204,
        Self::LateBytes,
    ];

    pub(crate) fn number(self) -> u8 {
        self as u8
    }
}

/// What only target `who` answers to request `nonce`, which brought `body`.
pub(crate) fn text(who: usize, nonce: u64, behaviour: Behaviour, body: &[u8]) -> String {
    let sum = body.iter().fold(nonce, |sum, byte| {
        sum.rotate_left(5).wrapping_add(u64::from(*byte))
    });
    let filler = match behaviour {
        Behaviour::AnswerAtLength => 20_000 + nonce % 50_000,
        _ => nonce % 100,
    };
    let filler = char::from(b'a' + (nonce % 26) as u8)
        .to_string()
        .repeat(filler as usize);
    format!("{who} {nonce} {sum} {filler}")
}

/// Starts target number `who`; its address.
pub(crate) async fn target(who: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let _ = stream.set_nodelay(true);
            tokio::spawn(Conn::new(stream, who, address).serve());
        }
    });
    address
}

struct Conn {
    stream: TcpStream,
    buffer: Vec<u8>,
    who: usize,
    /// What a contract that leads here holds.
    entry: String,
}

struct Asked {
    nonce: u64,
    behaviour: Behaviour,
    /// Why this is not one request as it was sent.
    mixed: Option<&'static str>,
    body: Vec<u8>,
}

impl Conn {
    fn new(stream: TcpStream, who: usize, address: SocketAddr) -> Self {
        Self {
            stream,
            buffer: Vec::with_capacity(8 * 1024),
            who,
            entry: format!("\"foo\":\"{address}\""),
        }
    }

    async fn serve(mut self) {
        // Whoever is reset or left has gone.
        while let Ok(true) = self.exchange().await {}
    }

    /// One request and its answer; whether there can be another one.
    async fn exchange(&mut self) -> io::Result<bool> {
        let Some(asked) = self.request().await? else {
            return Ok(false);
        };
        if let Some(mixed) = asked.mixed {
            let length = mixed.len();
            let answer = format!("HTTP/1.1 500 Mixed\r\ncontent-length: {length}\r\n\r\n{mixed}");
            self.stream.write_all(answer.as_bytes()).await?;
            return Ok(true);
        }
        let text = text(self.who, asked.nonce, asked.behaviour, &asked.body);
        let length = text.len();
        let head = |fields: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
        let plain = head(&format!("content-length: {length}\r\n")) + &text;
        match asked.behaviour {
            Behaviour::Answer | Behaviour::AnswerAtLength => self.say(&plain).await?,
            Behaviour::AnswerInChunks => {
                let (one, two) = text.split_at(length / 2);
                let (m, n) = (one.len(), two.len());
                let head = head("transfer-encoding: chunked\r\n");
                let whole = format!("{head}{m:x}\r\n{one}\r\n{n:x};x=1\r\n{two}\r\n0\r\n\r\n");
                self.say(&whole).await?;
            }
            Behaviour::AnswerSlowly => {
                let (one, two) = plain.split_at(plain.len() - length / 2);
                self.say(one).await?;
                tokio::time::sleep(Duration::from_millis(5)).await;
                self.say(two).await?;
            }
            Behaviour::Close => {
                let fields = format!("content-length: {length}\r\nconnection: close\r\n");
                self.say(&(head(&fields) + &text)).await?;
                return Ok(false);
            }
            Behaviour::CloseSilently => {
                self.say(&plain).await?;
                return Ok(false);
            }
            Behaviour::ResetBehind => {
                self.say(&plain).await?;
                self.reset();
                return Ok(false);
            }
            Behaviour::ResetInstead => {
                self.reset();
                return Ok(false);
            }
            Behaviour::Cut => {
                self.say(&plain[..plain.len() - 2]).await?;
                return Ok(false);
            }
            Behaviour::TwoAnswers => {
                let second = head("content-length: 5\r\n") + "wrong";
                self.say(&(plain + &second)).await?;
            }
            Behaviour::BodyOf204 => {
                let second = head("content-length: 5\r\n") + "wrong";
                let length = second.len();
                self.say(&format!(
                    "HTTP/1.1 204 No Content\r\ncontent-length: {length}\r\n\r\n{second}"
                ))
                .await?;
            }
            Behaviour::LateBytes => {
                self.say(&plain).await?;
                tokio::time::sleep(Duration::from_millis(2)).await;
                self.say("\0 no HTTP\r\n\r\n").await?;
            }
        }
        Ok(true)
    }

    async fn say(&mut self, text: &str) -> io::Result<()> {
        self.stream.write_all(text.as_bytes()).await
    }

    /// Lets the end of the connection be a reset.
    fn reset(&self) {
        let _ = self.stream.set_zero_linger();
    }

    async fn request(&mut self) -> io::Result<Option<Asked>> {
        let head = loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                break self.take(end + 4);
            }
            if !self.more().await? {
                return Ok(None);
            }
        };
        let head = String::from_utf8(head).map_err(io::Error::other)?;
        let (mut length, mut chunked, mut authorization, mut contract) = (0, false, "", "");
        for line in head.split("\r\n").skip(1) {
            let Some((name, value)) = line.split_once(": ") else {
                continue;
            };
            match name {
                "content-length" => length = value.parse().map_err(io::Error::other)?,
                "transfer-encoding" => chunked = true,
                "authorization" => authorization = value,
                "x-devroute" => contract = value,
                _ => {}
            }
        }
        let mut path = head
            .split(' ')
            .nth(1)
            .unwrap_or_default()
            .split('/')
            .skip(1);
        let nonce_text = path.next().unwrap_or_default();
        let nonce = nonce_text.parse().map_err(io::Error::other)?;
        let number: usize = path
            .next()
            .unwrap_or_default()
            .parse()
            .map_err(io::Error::other)?;
        let own = format!("\"{nonce_text}\"");
        let mixed = if authorization != nonce_text {
            Some("the authorization is another request's")
        } else if !contract.is_empty() && !contract.contains(&own) {
            Some("the contract is another request's")
        } else if !contract.is_empty() && self.who > 0 && !contract.contains(&self.entry) {
            Some("the contract leads somewhere else")
        } else if contract.is_empty() && self.who > 0 {
            Some("the contract is lost")
        } else {
            None
        };
        let body = if chunked {
            self.chunks().await?
        } else {
            self.exactly(length).await?
        };
        Ok(Some(Asked {
            nonce,
            behaviour: Behaviour::ALL[number],
            mixed,
            body,
        }))
    }

    async fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = loop {
                if let Some(end) = find(&self.buffer, b"\r\n") {
                    break self.take(end + 2);
                }
                if !self.more().await? {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            };
            let line = String::from_utf8(line).map_err(io::Error::other)?;
            let length = usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
            let data = self.exactly(length + 2).await?;
            if length == 0 {
                return Ok(body);
            }
            body.extend_from_slice(&data[..length]);
        }
    }

    async fn exactly(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < length {
            if !self.more().await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.take(length))
    }

    fn take(&mut self, length: usize) -> Vec<u8> {
        let rest = self.buffer.split_off(length);
        std::mem::replace(&mut self.buffer, rest)
    }

    async fn more(&mut self) -> io::Result<bool> {
        Ok(self.stream.read_buf(&mut self.buffer).await? > 0)
    }
}

/// Where `what` begins.
pub(crate) fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
