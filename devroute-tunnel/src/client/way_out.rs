//! The laptop's own requests, on their way through the hub.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use devroute_tower::hop::{self, Problem};
use devroute_tower::transport::{Body, Protocol, ResponseBody, Tunnel};
use http::uri::{PathAndQuery, Scheme};
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header, request,
};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tower_service::Service;

use crate::BoxError;
use crate::protocol::{VERSION, remove_private};
use crate::streams::{SendError, Sender, Settings, answered, into_stream, open};

/// Sends requests out of the hub, to the host that each of them names, as a
/// [`Forwarder`](devroute_tower::transport::Forwarder) there does; clones send over the same connection.
///
/// An upgrade is tunnelled, and so is CONNECT. Whether a host may be asked is the hub's to say. While there is no
/// connection to a hub, requests are answered with 502.
#[derive(Clone, Debug, Default)]
pub struct WayOut(Arc<Mutex<Option<Sender>>>);

type Answer = Pin<Box<dyn Future<Output = Result<Response<ResponseBody>, Infallible>> + Send>>;

impl WayOut {
    /// One that leads nowhere yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn sender(&self) -> Option<Sender> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Leads through `upgrade` from now on, to its end.
    pub(super) async fn lead(self, upgrade: OnUpgrade, settings: Settings) {
        let leading = async {
            let io = upgrade.await?;
            let (sender, connection) = open(TokioIo::new(io), settings).await?;
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
            connection.await?;
            Ok::<(), BoxError>(())
        };
        if let Err(error) = leading.await {
            tracing::debug!(%error, "the way out has ended");
        }
    }
}

impl<B> Service<Request<B>> for WayOut
where
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Answer {
        let (mut parts, body) = request.into_parts();
        let body = Body::new(body);
        let sender = self.sender();
        Box::pin(async move {
            let (method, headers) = (parts.method.clone(), parts.headers.clone());
            let Some(sender) = sender else {
                return Ok(failed(None, &method, &headers));
            };
            let sent = if parts.method == Method::CONNECT {
                connect(&sender, parts).await
            } else {
                let upgrade = prepare(&mut parts, &body);
                let sent = sender.send(Request::from_parts(parts, body)).await;
                match sent {
                    Ok(response) => {
                        let response = answered(response, upgrade, ()).await;
                        Ok(response.map(|answered| answered.body))
                    }
                    Err(error) => Err(error),
                }
            };
            Ok(sent.unwrap_or_else(|error| failed(Some(error), &method, &headers)))
        })
    }
}

/// Makes the head that the hub gets.
fn prepare(parts: &mut request::Parts, body: &Body) -> Option<hop::Upgrade> {
    let upgrade = if http_body::Body::is_end_stream(body) {
        hop::Upgrade::take(parts)
    } else {
        None
    };
    let authority = hop::authority(parts);
    hop::request(parts, body, Protocol::Http2, upgrade.as_ref());
    remove_private(&mut parts.headers);
    parts.headers.remove(header::HOST);
    if parts.version < Version::HTTP_2 {
        let version = HeaderValue::from_static("1.1");
        parts.headers.insert(VERSION, version);
    }
    let mut uri = http::uri::Parts::default();
    uri.path_and_query = Some(
        parts
            .uri
            .path_and_query()
            .cloned()
            .unwrap_or(PathAndQuery::from_static("/")),
    );
    if authority.is_some() {
        uri.scheme = Some(Scheme::HTTP);
        uri.authority = authority;
    }
    if let Ok(uri) = Uri::from_parts(uri) {
        parts.uri = uri;
    }
    parts.version = Version::HTTP_2;
    if let Some(upgrade) = &upgrade {
        into_stream(parts, upgrade);
    }
    upgrade
}

/// Asks the hub for a tunnel, and joins the client with it.
async fn connect(
    sender: &Sender,
    mut parts: request::Parts,
) -> Result<Response<ResponseBody>, SendError> {
    let client = parts.extensions.remove::<OnUpgrade>();
    let mut request = Request::new(Body::empty());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = parts.uri;
    *request.version_mut() = Version::HTTP_2;
    let mut response = sender.send(request).await?;
    let half = response.extensions_mut().remove::<OnUpgrade>();
    if let (StatusCode::OK, Some(client), Some(half)) = (response.status(), client, half) {
        tokio::spawn(async move {
            let both = async { Ok::<_, hyper::Error>((half.await?, client.await?)) };
            match both.await {
                Ok((half, client)) => {
                    let (mut half, mut client) = (TokioIo::new(half), TokioIo::new(client));
                    let copied = tokio::io::copy_bidirectional(&mut client, &mut half).await;
                    if let Err(error) = copied {
                        tracing::debug!(%error, "a tunnel ended early");
                    }
                }
                Err(error) => tracing::debug!(%error, "a tunnel did not come about"),
            }
        });
        let mut response = Response::new(ResponseBody::empty());
        response.extensions_mut().insert(Tunnel);
        return Ok(response);
    }
    let (mut parts, body) = response.into_parts();
    hop::response(&mut parts);
    Ok(Response::from_parts(parts, ResponseBody::new(body)))
}

fn failed(
    error: Option<SendError>,
    method: &Method,
    headers: &HeaderMap,
) -> Response<ResponseBody> {
    let (cause, detail) = match error {
        None => (
            "no_hub",
            "The request was to go out through the hub, and there is no connection to it.",
        ),
        Some(SendError::Closed) => (
            "hub_disconnected",
            "The request was on its way through the hub when the connection to it ended.",
        ),
        Some(SendError::Refused) => (
            "hub_busy",
            "The hub takes no more requests at a time from this laptop.",
        ),
        Some(SendError::Reset) => ("hub_reset", "The hub has given up on the request."),
    };
    Problem::new(StatusCode::BAD_GATEWAY, cause, "destination_unavailable")
        .detail(detail)
        .help("See what `devroute connect` says: it dials the hub again by itself.")
        .answer(method, headers)
}
