//! One connection, from its first byte to its end.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use devroute_tunnel::auth::ChannelBinding;
use http::{Request, Response};
use hyper::body::Body;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ProtocolVersion;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::server::TlsStream;
use tower_service::Service;

use super::activity::{Activity, Version};
use super::admission::Admitted;
use super::exchange::Exchange;
use super::lifetime::{self, Draining, Patience};
use super::stream::Stream;
use super::strict::Strict;
use super::watched::Watched;
use super::{BoxError, Certificates, HalfClose, Limits, Options, RequestBody, Timers};
use crate::metrics::Limit;

/// What a connection that is one too many gets for the head of its request.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);
/// The least that hyper takes for a head.
const LEAST_HEAD: u32 = 8 * 1024;

/// The connections of one runtime, which end together.
pub(crate) struct Connections {
    builders: Arc<Builders>,
    tls: Option<Certificates>,
    patience: Patience,
    limits: Limits,
    wants_binding: bool,
    draining: Arc<Draining>,
    /// Every connection holds a receiver: tunnels, too, which are no connections of HTTP any more.
    alive: watch::Sender<()>,
}

impl Connections {
    pub(crate) fn new(options: &Options) -> Self {
        let Options { limits, timers, .. } = options;
        let head_size = limits.head_size.max(LEAST_HEAD);
        Self {
            builders: Arc::new(Builders::new(options, head_size)),
            tls: options.tls.clone(),
            patience: Patience {
                timers: *timers,
                grace: options.drain.grace,
                head_size,
            },
            limits: *limits,
            wants_binding: options.channel_binding,
            draining: Arc::default(),
            alive: watch::Sender::new(()),
        }
    }

    /// Lets them hear of their end together with those of other runtimes.
    pub(super) fn ending_with(mut self, draining: Arc<Draining>) -> Self {
        self.draining = draining;
        self
    }

    /// Serves `stream` in a task of its own.
    pub(crate) fn spawn<S, B>(&self, stream: TcpStream, service: S, admitted: Admitted)
    where
        S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible>,
        S: Clone + Send + 'static,
        S::Future: Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let connection = self.admit(admitted, service);
        let Some(tls) = &self.tls else {
            tokio::spawn(connection.serve(Stream::Tcp(stream)));
            return;
        };
        let acceptor = tls.acceptor();
        tokio::spawn(async move {
            let mut connection = connection;
            let handshake = acceptor.accept(stream).into_fallible();
            let (activity, patience) = (&connection.activity, connection.patience);
            match lifetime::shake_hands(handshake, activity, patience).await {
                Ok(stream) => {
                    if connection.wants_binding {
                        connection.binding = binding(&stream);
                    }
                    connection.serve(Stream::Tls(Box::new(stream))).await;
                }
                Err(error) => tracing::debug!(error = &*error, "a TLS handshake failed"),
            }
        });
    }

    /// Serves `stream` here, to its end.
    pub(super) async fn serve<I, S, B>(&self, stream: I, service: S, admitted: Admitted)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible>,
        S: Clone + Send + 'static,
        S::Future: Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        self.admit(admitted, service).serve(stream).await;
    }

    /// What becomes a connection when it gets its stream.
    fn admit<S>(&self, admitted: Admitted, service: S) -> Connection<S> {
        let refused = admitted.is_refused();
        let mut patience = self.patience;
        if refused {
            patience.timers = Timers {
                first_byte: REFUSAL_TIMEOUT,
                head: REFUSAL_TIMEOUT,
                idle: Some(REFUSAL_TIMEOUT),
            };
        }
        let alive = self.alive.subscribe();
        let activity = Activity::new(admitted, Arc::clone(&self.draining), alive);
        Connection {
            builders: Arc::clone(&self.builders),
            activity,
            patience,
            service,
            refused,
            limits: self.limits,
            wants_binding: self.wants_binding,
            binding: None,
        }
    }

    /// Lets requests in flight and tunnels finish, for so long; whether all of them did.
    pub(crate) async fn drain(&self, timeout: Duration) -> bool {
        self.draining.begin();
        tokio::time::timeout(timeout, self.alive.closed())
            .await
            .is_ok()
    }
}

/// How connections of either version are served.
#[derive(Debug)]
struct Builders {
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
}

impl Builders {
    fn new(options: &Options, head_size: u32) -> Self {
        let limits = &options.limits;
        let mut http1 = http1::Builder::new();
        let most = usize::try_from(head_size).unwrap_or(usize::MAX);
        // Its timer cuts what is idle as well; ours does not (see `lifetime`).
        http1
            .header_read_timeout(None)
            .half_close(options.half_close == HalfClose::Keep)
            .max_header_size(most)
            // Of a body no more is read at a time either: a connection keeps its buffer while it is idle.
            .max_buf_size(most);
        if limits.headers != Limits::HEADERS {
            // Not for the default, which hyper keeps on the stack.
            http1.max_headers(limits.headers);
        }
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        // No PING is sent: a laptop at a breakpoint does not answer one.
        http2
            .timer(TokioTimer::new())
            .max_header_list_size(head_size)
            .max_concurrent_streams(limits.streams);
        Self { http1, http2 }
    }
}

/// Everything about a connection but its stream.
struct Connection<S> {
    builders: Arc<Builders>,
    activity: Arc<Activity>,
    patience: Patience,
    service: S,
    refused: bool,
    limits: Limits,
    wants_binding: bool,
    binding: Option<ChannelBinding>,
}

/// What the two ends of a TLS session have in common; before TLS 1.3 it is unique with an extension only (RFC 9266,
/// section 3).
fn binding(stream: &TlsStream<TcpStream>) -> Option<ChannelBinding> {
    let (_, session) = stream.get_ref();
    if session.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
        return None;
    }
    let exported = session.export_keying_material([0; 32], ChannelBinding::LABEL, None);
    exported.ok().map(ChannelBinding::new)
}

impl<S> Connection<S> {
    async fn serve<I, B>(self, io: I)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible>,
        S: Clone + Send + 'static,
        S::Future: Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let activity = Arc::clone(&self.activity);
        if let Err(error) = self.live(io).await {
            if is_head_too_large(&*error) {
                activity.open().limit_reached(Limit::Head);
            } else if is_malformed(&*error) {
                activity.open().malformed();
            }
            // Nearly always a client that has gone; what matters to somebody is told elsewhere.
            tracing::debug!(error = &*error, "connection ended early");
        }
    }

    async fn live<I, B>(self, io: I) -> Result<(), BoxError>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible>,
        S: Clone + Send + 'static,
        S::Future: Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (activity, patience) = (&self.activity, self.patience);
        let mut io = Watched::new(io, Arc::clone(activity));
        let Some(version) = lifetime::open(&mut io, activity, patience).await? else {
            return Ok(());
        };
        let service = Exchange::new(self.service, Arc::clone(activity), self.limits);
        let service = service.refused(self.refused).binding(self.binding);
        // In a box each, since a connection of HTTP/1 is half the size of one of HTTP/2.
        match version {
            Version::Http1 => {
                let io = TokioIo::new(Strict::new(io, Arc::clone(activity)));
                let connection = self.builders.http1.serve_connection(io, service);
                let connection = Box::pin(connection.with_upgrades());
                // It has no word for that but `connection: close`, which `Exchange` says.
                lifetime::live(connection, |_| {}, activity, patience).await
            }
            Version::Http2 => {
                let io = TokioIo::new(io);
                let connection = Box::pin(self.builders.http2.serve_connection(io, service));
                let go_away = http2::Connection::graceful_shutdown;
                lifetime::live(connection, go_away, activity, patience).await
            }
        }
    }
}

/// Whether hyper has answered 431.
fn is_head_too_large(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    error
        .downcast_ref::<hyper::Error>()
        .is_some_and(hyper::Error::is_parse_too_large)
}

/// Whether hyper has answered 400.
fn is_malformed(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    error
        .downcast_ref::<hyper::Error>()
        .is_some_and(|error| error.is_parse() && !error.is_parse_too_large())
}

#[cfg(test)]
mod tests {
    use std::future::{Ready, ready};

    use http_body_util::Full;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
    use tokio::time::{Instant, sleep};

    use super::*;
    use crate::metrics::Metrics;

    const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

    /// One connection in paused time, whose requests are answered as long after they came as their
    /// path says, in seconds.
    struct Fixture {
        client: DuplexStream,
        connections: Option<Connections>,
        metrics: Arc<Metrics>,
        began: Instant,
    }

    fn fixture(adapt: impl FnOnce(&mut Options)) -> Fixture {
        let mut options = Options {
            timers: Timers {
                first_byte: Duration::from_secs(30),
                head: Duration::from_secs(10),
                idle: Some(Duration::from_secs(100)),
            },
            ..Options::default()
        };
        adapt(&mut options);
        let metrics = Metrics::new("test", 1);
        let connections = Connections::new(&options);
        let (client, server) = tokio::io::duplex(1024);
        let open = metrics.worker(0).connections().opened();
        let service = tower::service_fn(async |request: Request<RequestBody>| {
            let seconds = request.uri().path().trim_start_matches('/').parse();
            sleep(Duration::from_secs(seconds.unwrap_or_default())).await;
            let body = "x".repeat(if request.uri().query().is_some() {
                10_000
            } else {
                2
            });
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(body)))
        });
        tokio::spawn(connections.admit(open.into(), service).serve(server));
        Fixture {
            client,
            connections: Some(connections),
            metrics,
            began: Instant::now(),
        }
    }

    impl Fixture {
        async fn send(&mut self, bytes: &[u8]) {
            self.client.write_all(bytes).await.unwrap();
        }

        /// Reads an answer with a body of two bytes.
        async fn answer(&mut self) -> String {
            let mut read = String::new();
            while !read.ends_with("\r\n\r\nxx") {
                let byte = self.client.read_u8().await.unwrap();
                read.push(char::from(byte));
            }
            read
        }

        /// Waits for the end of the connection; what came before it, and the time since the
        /// beginning.
        async fn end(&mut self) -> (Vec<u8>, u64) {
            let mut read = Vec::new();
            let _ = self.client.read_to_end(&mut read).await;
            (read, self.began.elapsed().as_secs())
        }

        fn counted(&self, sample: &str) -> bool {
            self.metrics.render().contains(sample)
        }

        fn drain(&mut self, timeout: u64) -> tokio::task::JoinHandle<bool> {
            let connections = self.connections.take().unwrap();
            tokio::spawn(async move { connections.drain(Duration::from_secs(timeout)).await })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_a_connection() {
        for sent in [&b""[..], b"P", b"PRI * HTTP/2.0\r\n"] {
            let mut fixture = fixture(|_| {});
            fixture.send(sent).await;
            assert_eq!(fixture.end().await, (vec![], 30));
            assert!(fixture.counted("client_timeouts_total{timer=\"first_byte\"} 1"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_has_its_time_from_its_first_byte() {
        let mut fixture = fixture(|_| {});
        sleep(Duration::from_secs(20)).await;
        fixture.send(b"GET / HTTP/1.1\r\n").await;
        sleep(Duration::from_secs(6)).await;
        fixture.send(b"host: a\r\n").await;
        assert_eq!(
            fixture.end().await,
            (vec![], 30),
            "20 of silence, 10 of head"
        );
        assert!(fixture.counted("client_timeouts_total{timer=\"head\"} 1"));
    }

    #[tokio::test(start_paused = true)]
    async fn the_second_head_has_its_time_as_well() {
        let mut fixture = fixture(|_| {});
        fixture.send(GET).await;
        fixture.answer().await;
        sleep(Duration::from_secs(80)).await;
        fixture.send(b"GET").await;
        assert_eq!(fixture.end().await, (vec![], 90));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_head_that_is_finished_in_time_is_answered() {
        let mut fixture = fixture(|_| {});
        for byte in GET {
            fixture.send(&[*byte]).await;
            sleep(Duration::from_millis(300)).await;
        }
        fixture.answer().await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_ends_after_its_time_or_a_quarter_more() {
        for requests in [1, 5] {
            let mut fixture = fixture(|_| {});
            for _ in 0..requests {
                sleep(Duration::from_secs(10)).await;
                fixture.send(GET).await;
                fixture.answer().await;
            }
            let idle_since = fixture.began.elapsed().as_secs();
            let (rest, end) = fixture.end().await;
            assert!(rest.is_empty());
            assert!((100..=125).contains(&(end - idle_since)), "{end}");
            assert!(fixture.counted("client_timeouts_total{timer=\"idle\"} 1"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_timer_runs_while_an_answer_is_awaited() {
        let mut fixture = fixture(|_| {});
        for _ in 0..2 {
            fixture.send(b"GET /7200 HTTP/1.1\r\nhost: a\r\n\r\n").await;
            fixture.answer().await;
        }
        assert!(fixture.began.elapsed() >= Duration::from_secs(4 * 3600));
    }

    #[tokio::test(start_paused = true)]
    async fn no_timer_runs_while_a_body_is_awaited_or_an_answer_is_not_read() {
        let mut fixture = fixture(|_| {});
        fixture
            .send(b"POST /1?long HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\n")
            .await;
        // The service does not read it; the answer is larger than what the client takes.
        sleep(Duration::from_secs(7200)).await;
        let mut head = [0; 17];
        fixture.client.read_exact(&mut head).await.unwrap();
        assert_eq!(&head, b"HTTP/1.1 200 OK\r\n");
        let (rest, _) = fixture.end().await;
        assert!(rest.len() > 10_000);
    }

    #[tokio::test(start_paused = true)]
    async fn without_an_idle_time_a_connection_stays() {
        let mut fixture = fixture(|options| options.timers.idle = None);
        fixture.send(GET).await;
        fixture.answer().await;
        sleep(Duration::from_secs(100_000)).await;
        fixture.send(GET).await;
        fixture.answer().await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_http2_connection_is_told_before_it_ends() {
        let mut fixture = fixture(|_| {});
        fixture.send(PREFACE).await;
        let (read, end) = fixture.end().await;
        let goaway = b"\x07\0\0\0\0\0\x7f\xff\xff\xff\0\0\0\0";
        assert!(read.windows(goaway.len()).any(|bytes| bytes == goaway));
        // This client does not answer the PING that comes with it, and is not waited for for ever.
        assert!((200..=250).contains(&end), "{end}");
        assert!(fixture.counted("client_timeouts_total{timer=\"idle\"} 1"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_answers_what_is_in_flight_and_says_that_it_was_the_last() {
        let mut fixture = fixture(|_| {});
        fixture.send(b"GET /20 HTTP/1.1\r\nhost: a\r\n\r\n").await;
        sleep(Duration::from_secs(5)).await;
        let drained = fixture.drain(30);
        let answer = fixture.answer().await;
        assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
        assert_eq!(fixture.end().await, (vec![], 20));
        assert!(drained.await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_takes_one_more_request_on_an_idle_connection() {
        let mut fixture = fixture(|_| {});
        fixture.send(GET).await;
        let first = fixture.answer().await;
        assert!(!first.contains("connection: close"), "{first}");
        let drained = fixture.drain(30);
        sleep(Duration::from_secs(1)).await;
        fixture.send(GET).await;
        let answer = fixture.answer().await;
        assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
        assert_eq!(fixture.end().await, (vec![], 1));
        assert!(drained.await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_ends_what_stays_idle_after_a_grace() {
        for sent in [&b""[..], GET] {
            let mut fixture = fixture(|_| {});
            fixture.send(sent).await;
            if !sent.is_empty() {
                fixture.answer().await;
            }
            let drained = fixture.drain(30);
            assert_eq!(fixture.end().await, (vec![], 2));
            assert!(drained.await.unwrap());
            assert!(fixture.counted("client_timeouts_total{timer=\"idle\"} 0"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_began_before_the_drain_leaves_a_grace_behind_it() {
        let mut fixture = fixture(|_| {});
        fixture
            .send(b"GET /0?long HTTP/1.1\r\nhost: a\r\n\r\n")
            .await;
        sleep(Duration::from_secs(1)).await;
        let drained = fixture.drain(30);
        sleep(Duration::from_secs(10)).await;
        // The answer has not said that it is the last, so a request may be behind it.
        let mut read = Vec::new();
        while !read.ends_with(&[b'x'; 10_000]) {
            read.push(fixture.client.read_u8().await.unwrap());
        }
        fixture.send(GET).await;
        let answer = fixture.answer().await;
        assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
        assert!(drained.await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_tells_http2_at_once() {
        let mut fixture = fixture(|_| {});
        fixture.send(PREFACE).await;
        sleep(Duration::from_secs(1)).await;
        let drained = fixture.drain(30);
        sleep(Duration::from_secs(1)).await;
        let mut read = vec![0; 1024];
        let count = fixture.client.read(&mut read).await.unwrap();
        let goaway = b"\x07\0\0\0\0\0\x7f\xff\xff\xff\0\0\0\0";
        assert!(
            read[..count]
                .windows(goaway.len())
                .any(|bytes| bytes == goaway)
        );
        assert!(
            !drained.await.unwrap(),
            "it does not go, and is cut with the runtime"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_one_too_many_is_told_so_and_let_go() {
        let options = Options::default();
        let metrics = Metrics::new("test", 1);
        let connections = Connections::new(&options);
        let admission = super::super::admission::Admission::new(0, None);
        let (mut client, server) = tokio::io::duplex(1024);
        let admitted = Admitted {
            open: metrics.worker(0).connections().opened(),
            place: admission.admit(std::net::Ipv4Addr::LOCALHOST.into(), true),
        };
        let service = tower::service_fn(|_: Request<RequestBody>| -> Ready<_> {
            ready(Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())))
        });
        tokio::spawn(connections.admit(admitted, service).serve(server));
        client.write_all(GET).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.contains("\r\nretry-after: 1\r\n"), "{answer}");
        assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
        assert!(answer.contains("too_many_connections"), "{answer}");
    }
}
