//! Receiving requests over a connection that somebody else has opened.

use std::convert::Infallible;
use std::pin::pin;

use bytes::Bytes;
use devroute_tower::transport::Body;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::Settings;
use crate::BoxError;

/// Answers the requests that come over `io` with `answer`, each in a task, until the connection ends; from `stop` on no
/// new ones are taken.
///
/// # Errors
///
/// When the connection breaks off.
pub(crate) async fn receive<I, F, B>(
    io: I,
    settings: Settings,
    answer: impl Fn(Request<Body>) -> F,
    stop: impl Future<Output = ()>,
) -> hyper::Result<()>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let service = service_fn(|request: Request<Incoming>| {
        let answer = answer(request.map(Body::new));
        async { Ok::<_, Infallible>(answer.await) }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(settings.liveness.interval)
        .keep_alive_timeout(settings.liveness.timeout)
        .initial_stream_window_size(Settings::STREAM_WINDOW)
        .initial_connection_window_size(settings.connection_window())
        .max_concurrent_streams(settings.all_streams())
        .max_header_list_size(settings.head_size)
        .max_send_buf_size(Settings::SEND_BUFFER)
        .enable_connect_protocol()
        // What is passed on has its own.
        .auto_date_header(false)
        .serve_connection(TokioIo::new(io), service);
    let mut connection = pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = stop => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}
