//! A target that takes raw bytes, reads them by the letter, and remembers what they were.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::reader::{self, End, Request};
use crate::support::ANY;

#[derive(Debug)]
pub(crate) struct Recorder {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

/// What came in since it was last asked for.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// The requests that came whole, in their order.
    pub(crate) requests: Vec<Request>,
    /// How connections ended in which there was anything else.
    pub(crate) ends: Vec<End>,
}

impl Recorder {
    /// One that answers each request with 200.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind(ANY).await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Mutex<Seen>>::default();
        let shared = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Self {
            address,
            seen,
            task,
        }
    }

    pub(crate) fn take(&self) -> Seen {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, seen: Arc<Mutex<Seen>>) {
    let mut unread = Vec::new();
    loop {
        let more = stream.read_buf(&mut unread).await;
        let reading = reader::read(&unread);
        unread.drain(..reading.length);
        let answers = reading.requests.len();
        let is_over = !matches!(more, Ok(1..));
        let is_bad = matches!(reading.end, End::BadHead | End::BadBody(_));
        {
            let mut seen = seen.lock().unwrap();
            seen.requests.extend(reading.requests);
            if is_bad || (is_over && reading.end != End::Clean) {
                seen.ends.push(reading.end);
            }
        }
        if is_over || is_bad {
            return;
        }
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".repeat(answers);
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}
