//! Sending requests over a connection that somebody else has opened.

use std::error::Error as StdError;

use devroute_tower::transport::Body;
use h2::Reason;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::Settings;

/// Sends requests; clones send over the same connection.
#[derive(Clone, Debug)]
pub(crate) struct Sender(http2::SendRequest<Body>);

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SendError {
    /// The connection has ended, or is about to.
    Closed,
    /// The other end takes no more streams at a time.
    Refused,
    /// The other end has given up on this one.
    Reset,
}

/// Speaks first on `io`; the future has to be polled for as long as the connection is to live.
///
/// # Errors
///
/// When the connection ends right away.
pub(crate) async fn open<I>(
    io: I,
    settings: Settings,
) -> hyper::Result<(Sender, impl Future<Output = hyper::Result<()>>)>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Settings {
        liveness,
        streams,
        head_size,
    } = settings;
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(liveness.interval)
        .keep_alive_timeout(liveness.timeout)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(Settings::STREAM_WINDOW)
        .initial_connection_window_size(settings.connection_window())
        .initial_max_send_streams(usize::try_from(streams).unwrap_or(usize::MAX))
        .max_header_list_size(head_size)
        .max_send_buf_size(Settings::SEND_BUFFER)
        .handshake(TokioIo::new(io))
        .await?;
    Ok((Sender(sender), connection))
}

impl Sender {
    /// Sends a request; the stream is reset when the future or the body of the answer is dropped.
    ///
    /// # Errors
    ///
    /// When there is no answer.
    pub(crate) async fn send(
        &self,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, SendError> {
        // It is a handle.
        let mut sender = self.0.clone();
        let sent = sender.try_send_request(request).await;
        sent.map_err(|mut failed| {
            let unsent = failed.take_message().is_some();
            let error = failed.into_error();
            let reason = StdError::source(&error)
                .and_then(|source| source.downcast_ref::<h2::Error>())
                .filter(|error| error.is_reset())
                .and_then(h2::Error::reason);
            match reason {
                Some(Reason::REFUSED_STREAM) => SendError::Refused,
                Some(_) => SendError::Reset,
                None => {
                    tracing::debug!(%error, unsent, "a tunnel has no answer");
                    SendError::Closed
                }
            }
        })
    }
}
