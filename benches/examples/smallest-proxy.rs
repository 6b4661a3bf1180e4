//! The smallest proxy that hyper makes: one thread, one upstream, and nothing else. No header is
//! looked at, no time runs out, nothing is counted, and what fails ends its connection.
//!
//! A connection to the upstream is polled by the exchange that uses it, as devroute does, instead of a task of
//! its own, which is what hyper-util's client does and takes a third more. So what devroute takes beyond this
//! is what it does for it: `benches/compare` and `benches/instructions` show both.
//!
//! ```console
//! cargo run --release -p devroute-benches --example smallest-proxy -- 127.0.0.1:8000 127.0.0.1:8080
//! ```

use std::cell::RefCell;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1 as client;
use hyper::server::conn::http1 as server;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// As devroute has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let mut addresses = std::env::args().skip(1);
    let (Some(listen), Some(upstream)) = (addresses.next(), addresses.next()) else {
        return Err("give the address to listen on, and the one to forward to".into());
    };
    let listener = TcpListener::bind(listen).await?;
    let upstream = Upstream {
        addr: upstream.parse()?,
        idle: Rc::default(),
    };
    LocalSet::new().run_until(serve(listener, upstream)).await
}

async fn serve(listener: TcpListener, upstream: Upstream) -> Result<(), Error> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let upstream = upstream.clone();
        let service = service_fn(move |request| upstream.clone().send(request));
        tokio::task::spawn_local(
            server::Builder::new().serve_connection(TokioIo::new(stream), service),
        );
    }
}

/// Where all requests go, and the connections that wait for the next one.
#[derive(Clone)]
struct Upstream {
    addr: SocketAddr,
    #[expect(
        clippy::vec_box,
        reason = "it is moved with each request, and is large"
    )]
    idle: Rc<RefCell<Vec<Box<Connection>>>>,
}

struct Connection {
    sender: client::SendRequest<Incoming>,
    io: client::Connection<TokioIo<TcpStream>, Incoming>,
}

impl Upstream {
    async fn send(self, request: Request<Incoming>) -> Result<Response<Answer>, Error> {
        let idle = self.idle.borrow_mut().pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let Connection { sender, io } = &mut *connection;
        let mut sent = pin!(sender.send_request(request));
        let response = std::future::poll_fn(|cx| {
            let ended = Pin::new(&mut *io).poll(cx);
            match sent.as_mut().poll(cx) {
                Poll::Pending if ended.is_ready() => Poll::Ready(Err("it was closed".into())),
                polled => polled.map_err(Error::from),
            }
        });
        let response = response.await?;
        Ok(response.map(|body| Answer {
            body,
            connection: Some(connection),
            upstream: self,
        }))
    }

    async fn connect(&self) -> Result<Box<Connection>, Error> {
        let stream = TcpStream::connect(self.addr).await?;
        stream.set_nodelay(true)?;
        let (sender, io) = client::handshake(TokioIo::new(stream)).await?;
        Ok(Box::new(Connection { sender, io }))
    }
}

/// The body of an answer, which moves its connection on and gives it back at the end.
struct Answer {
    body: Incoming,
    connection: Option<Box<Connection>>,
    upstream: Upstream,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        let mut frame = Pin::new(&mut this.body).poll_frame(cx);
        if let (true, Some(connection)) = (frame.is_pending(), &mut this.connection) {
            if Pin::new(&mut connection.io).poll(cx).is_ready() {
                this.connection = None;
            }
            frame = Pin::new(&mut this.body).poll_frame(cx);
        }
        let frame = ready!(frame);
        if frame.is_none() || this.body.is_end_stream() {
            let open = this.connection.take().filter(|it| !it.sender.is_closed());
            this.upstream.idle.borrow_mut().extend(open);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
