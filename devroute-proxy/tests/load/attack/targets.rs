//! What targets do to a proxy: somebody's contract names them.

use std::net::SocketAddr;
use std::time::Duration;

use http::Method;
use hyper::body::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};

use super::frames::{DATA, END_HEADERS, GOAWAY, HEADERS, PREFACE, RST_STREAM, SETTINGS, frame};
use super::{Ground, Result, pace};
use crate::asking::{self, Connection};

/// What one of them says when it is asked: once, and then again and again.
#[derive(Clone, Debug, Default)]
pub(super) struct Says {
    first: Vec<u8>,
    then: Vec<u8>,
    pause: Duration,
    is_http2: bool,
    /// Whether the connection is reset behind what is said first.
    resets: bool,
}

impl Says {
    fn http1(first: &str, then: &str) -> Self {
        Self {
            first: first.into(),
            then: then.repeat(1000).into_bytes(),
            pause: pace(10),
            is_http2: false,
            resets: false,
        }
    }

    fn http2(first: Vec<u8>, then: &[u8]) -> Self {
        Self {
            first,
            then: then.repeat(100),
            pause: pace(10),
            is_http2: true,
            resets: false,
        }
    }

    pub(super) fn drip() -> Self {
        Self {
            first: b"HTTP/1.1 200 OK\r\nx-slow: ".into(),
            then: b"x".into(),
            pause: Duration::from_millis(50),
            is_http2: false,
            resets: false,
        }
    }

    pub(super) fn informational() -> Self {
        Self::http1("", "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n")
    }

    pub(super) fn fields() -> Self {
        Self::http1("HTTP/1.1 200 OK\r\n", "x-more: x\r\n")
    }

    pub(super) fn trailers() -> Self {
        let first = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-more\r\n\r\n0\r\n";
        Self::http1(first, "x-more: x\r\n")
    }

    pub(super) fn extension() -> Self {
        let first = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5;";
        Self::http1(first, "xxxxxxxxxxxxxxxx")
    }

    pub(super) fn hpack() -> Self {
        // `:status: 200`, `x` with 3,000 bytes into the table, and 10,000 times more.
        let mut bomb = vec![0x88, 0x40, 1, b'x', 0x7f, 0xb9, 0x16];
        bomb.extend([b'x'; 3000]);
        bomb.extend([0xbe; 10_000]);
        Self::http2(frame(HEADERS, END_HEADERS, 1, &bomb), &[])
    }

    pub(super) fn goaway() -> Self {
        Self::http2(frame(GOAWAY, 0, 0, &[0; 8]), &[])
    }

    pub(super) fn resets() -> Self {
        let answer = frame(HEADERS, END_HEADERS, 1, &[0x88]);
        let internal_error = [0, 0, 0, 2];
        let reset = frame(RST_STREAM, 0, 1, &internal_error);
        Self::http2([answer, reset.clone()].concat(), &reset)
    }

    /// A reset of TCP behind `first`, or right behind the accept where it is empty.
    fn reset_behind(first: &str) -> Self {
        Self {
            resets: true,
            ..Self::http1(first, "")
        }
    }

    pub(super) fn reset_first() -> Self {
        Self::reset_behind("")
    }

    pub(super) fn reset_head() -> Self {
        Self::reset_behind("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
    }

    pub(super) fn reset_body() -> Self {
        let body = "x".repeat(500);
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n";
        Self::reset_behind(&format!("{head}{body}"))
    }

    pub(super) fn empty_data() -> Self {
        let answer = frame(HEADERS, END_HEADERS, 1, &[0x88]);
        Self::http2(answer, &frame(DATA, 0, 1, &[]))
    }

    /// Listens; the contract that leads there.
    pub(super) async fn listen(self) -> String {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1024).unwrap();
        let address = listener.local_addr().unwrap();
        let scheme = if self.is_http2 { "h2c://" } else { "" };
        tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    continue;
                };
                let says = self.clone();
                tokio::spawn(async move {
                    let _ = says.answer(stream).await;
                });
            }
        });
        format!("{{\"foo\":\"{scheme}{address}\"}}")
    }

    async fn answer(self, mut stream: TcpStream) -> std::io::Result<()> {
        if self.resets {
            // A socket that is closed so sends no FIN.
            stream.set_zero_linger()?;
            if self.first.is_empty() {
                return Ok(());
            }
        }
        if self.is_http2 {
            let mut preface = [0; PREFACE.len()];
            stream.read_exact(&mut preface).await?;
            stream.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
            // Whatever comes then has the first request in it.
            while !asks(&mut stream).await? {}
        } else {
            let _ = stream.read(&mut [0; 4096]).await?;
        }
        stream.write_all(&self.first).await?;
        if self.resets {
            // For what was said to arrive first.
            sleep(self.pause).await;
            return Ok(());
        }
        loop {
            sleep(self.pause).await;
            if self.then.is_empty() {
                // Until the proxy has closed it.
                if stream.read(&mut [0; 4096]).await? == 0 {
                    return Ok(());
                }
                continue;
            }
            stream.write_all(&self.then).await?;
        }
    }
}

/// Reads one frame; whether it begins a request.
async fn asks(stream: &mut TcpStream) -> std::io::Result<bool> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; usize::try_from(length).unwrap()];
    stream.read_exact(&mut payload).await?;
    Ok(head[3] == HEADERS)
}

/// Sends requests to a target, as many as it answers.
pub(super) async fn ask(ground: Ground, contract: String) -> Result {
    let mut connection = Connection::http1(ground.proxy).await?;
    for _ in 0..100 {
        let headers = [("x-devroute", &*contract)];
        let request = asking::request(Method::GET, "/", &headers, Bytes::new());
        ground.count(1);
        let answered = connection.send(request).await;
        sleep(pace(20)).await;
        if answered?.last {
            return Ok(());
        }
    }
    Ok(())
}

/// Addresses that swallow everything: listeners whose queues are full.
#[derive(Debug)]
pub(super) struct BlackHoles {
    _holes: Vec<(TcpListener, Vec<TcpStream>)>,
    pub(super) contracts: Vec<String>,
}

impl BlackHoles {
    pub(super) async fn dig(count: usize) -> Self {
        let (mut holes, mut contracts) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
            let listener = socket.listen(1).unwrap();
            let address: SocketAddr = listener.local_addr().unwrap();
            let mut filling = Vec::new();
            while let Ok(Ok(connected)) =
                timeout(Duration::from_millis(100), TcpStream::connect(address)).await
            {
                filling.push(connected);
            }
            holes.push((listener, filling));
            contracts.push(format!("{{\"foo\":\"{address}\"}}"));
        }
        Self {
            _holes: holes,
            contracts,
        }
    }
}
