//! Answering what comes from a hub, over one connection.

use std::convert::Infallible;
use std::future::poll_fn;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use devroute_tower::core::ServiceName;
use devroute_tower::hop::Problem;
use devroute_tower::transport::{Body, ResponseBody};
use http::{Request, Response, StatusCode};
use hyper::ext::Protocol;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::sync::{mpsc, watch};
use tower_service::Service;

use super::{Tunnelled, WayOut};
use crate::protocol::{
    CALLER, CONTROL, FromHub, FromLaptop, LineReader, LineSender, OUTBOUND, SERVICE, lines,
    remove_private,
};
use crate::streams::{Settings, Wanted, from_stream, receive, switched};
use crate::{BoxError, shown};

/// What all connections of a laptop share.
pub(super) struct Laptop<S> {
    pub(super) services: Vec<(ServiceName, S)>,
    pub(super) way_out: Option<WayOut>,
    pub(super) settings: Settings,
}

/// One connection, while it lasts.
struct Here<S> {
    laptop: Arc<Laptop<S>>,
    /// Where the hub hears of the laptop, once it has asked.
    lines: OnceLock<LineSender>,
    events: mpsc::UnboundedSender<FromHub>,
}

/// Answers what comes over `io`, to its end; `stop` says good-bye to the hub, and lets requests in flight finish. Why it
/// has ended, in words for a person.
pub(super) async fn serve<S, B>(
    io: Upgraded,
    laptop: Arc<Laptop<S>>,
    events: mpsc::UnboundedSender<FromHub>,
    mut stop: watch::Receiver<bool>,
) -> String
where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let settings = laptop.settings;
    let here = Arc::new(Here {
        laptop,
        lines: OnceLock::new(),
        events,
    });
    let answering = Arc::clone(&here);
    let answer = move |request| Arc::clone(&answering).answer(request);
    let stopped = async {
        // One that is never told to stop is dropped instead.
        if stop.wait_for(|stop| *stop).await.is_err() {
            std::future::pending::<()>().await;
        }
        if let Some(lines) = here.lines.get() {
            lines.send(&FromLaptop::Bye);
        }
    };
    match receive(TokioIo::new(io), settings, answer, stopped).await {
        Ok(()) => "the hub has closed the connection".to_owned(),
        Err(error) => shown(&error),
    }
}

impl<S, B> Here<S>
where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    async fn answer(self: Arc<Self>, request: Request<Body>) -> Response<ResponseBody> {
        if request.headers().contains_key(CONTROL) {
            let protocol = request.extensions().get::<Protocol>();
            return match protocol.map(Protocol::as_str) {
                Some(OUTBOUND) => self.way_out(request),
                Some(_) => status(StatusCode::NOT_FOUND),
                None => self.control(request.into_body()),
            };
        }
        let (mut parts, body) = request.into_parts();
        let named = parts.headers.get(SERVICE);
        let found = self.laptop.services.iter().find(|(service, _)| {
            named.is_some_and(|named| named.as_bytes() == service.as_str().as_bytes())
        });
        let Some((name, service)) = found else {
            return Problem::new(
                StatusCode::NOT_FOUND,
                "not_offered",
                "destination_not_found",
            )
            .detail("The laptop does not offer this service.")
            .help("Name it to `devroute connect` there.")
            .answer(&parts.method, &parts.headers);
        };
        let caller = parts.headers.get(CALLER);
        let caller = caller.and_then(|caller| caller.to_str().ok()?.parse().ok());
        let tunnelled = Tunnelled {
            service: name.clone(),
            caller,
        };
        parts.extensions.insert(tunnelled);
        let upgrades = from_stream(&mut parts);
        let body = Wanted::of(&mut parts, body, self.lines.get());
        remove_private(&mut parts.headers);
        let mut service = service.clone();
        let answered = match poll_fn(|cx| service.poll_ready(cx)).await {
            Ok(()) => service.call(Request::from_parts(parts, body)).await,
            Err(never) => match never {},
        };
        let (mut parts, body) = match answered {
            Ok(response) => response.into_parts(),
            Err(never) => match never {},
        };
        if upgrades {
            switched(&mut parts);
        }
        Response::from_parts(parts, ResponseBody::new(body))
    }

    /// The hub's stream for events.
    fn control(&self, body: Body) -> Response<ResponseBody> {
        let (sender, lines) = lines();
        if self.lines.set(sender).is_err() {
            return status(StatusCode::CONFLICT);
        }
        let events = self.events.clone();
        tokio::spawn(async move {
            let mut reader = LineReader::new(body);
            while let Ok(Some(event)) = reader.next::<FromHub>().await {
                if events.send(event).is_err() {
                    return;
                }
            }
        });
        Response::new(ResponseBody::new(lines))
    }

    /// The hub's stream for the laptop's own requests.
    fn way_out(&self, mut request: Request<Body>) -> Response<ResponseBody> {
        let upgrade = request.extensions_mut().remove::<OnUpgrade>();
        let (Some(way), Some(upgrade)) = (self.laptop.way_out.clone(), upgrade) else {
            return status(StatusCode::NOT_FOUND);
        };
        tokio::spawn(way.lead(upgrade, self.laptop.settings));
        Response::new(ResponseBody::empty())
    }
}

fn status(status: StatusCode) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::empty());
    *response.status_mut() = status;
    response
}
