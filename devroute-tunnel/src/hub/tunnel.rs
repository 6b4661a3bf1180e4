//! The connection of a laptop that is there.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use devroute_tower::transport::Body;
use http::{Method, Request, Response, Uri, Version};
use hyper::ext::Protocol;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tower_service::Service;

use super::register::Pending;
use super::session::{Holder, Session};
use super::{Hub, Serve};
use crate::protocol::{
    CONTROL, FromHub, FromLaptop, Grant, LineReader, LineSender, OUTBOUND, VERSION, lines,
    remove_private,
};
use crate::streams::{
    Breaker, Gates, Sender, Settings, as_http1, breakable, from_stream, open, receive, switched,
};
use crate::{BoxError, shown};

/// How long a laptop may take from its upgrade to the first answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long one that has said good-bye may go on answering.
const GOOD_BYE: Duration = Duration::from_secs(30);

/// A laptop that is there.
#[derive(Debug)]
pub(super) struct Tunnel {
    /// Tells this connection of the session from those before and after.
    pub(super) epoch: u64,
    pub(super) sender: Sender,
    pub(super) gates: Gates,
    lines: LineSender,
    breaker: Mutex<Option<Breaker>>,
}

impl Tunnel {
    /// Ends it: whatever is in flight fails.
    pub(super) fn cut(&self) {
        *self.breaker.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Tells the laptop.
    pub(super) fn say(&self, event: &FromHub) {
        self.lines.send(event);
    }
}

/// A laptop that has been let in, from its upgrade to its end.
pub(super) struct Arrival {
    pub(super) hub: Hub,
    pub(super) session: Arc<Session>,
    pub(super) epoch: u64,
    pub(super) grant: Grant,
    pub(super) serve: Arc<dyn Serve>,
    pub(super) pending: Pending,
}

impl Arrival {
    /// Serves the connection to its end.
    pub(super) async fn live(self, upgrade: OnUpgrade) {
        let (hub, session, epoch) = (self.hub.clone(), Arc::clone(&self.session), self.epoch);
        let ended = self.through(upgrade).await;
        let holder = session.holder();
        let why = match &ended {
            Ok(()) => "it has closed the connection".to_owned(),
            Err(error) => shown(&**error),
        };
        if session.leave(epoch) {
            hub.0.counters.disconnected();
            tracing::info!(session = %holder.session, who = holder.who.as_deref(), why, "a laptop is gone");
        } else {
            tracing::debug!(%holder, why, "a connection of a laptop has ended that was no longer the one");
        }
    }

    async fn through(self, upgrade: OnUpgrade) -> Result<(), BoxError> {
        let Self {
            hub,
            session,
            epoch,
            grant,
            serve,
            pending,
        } = self;
        let config = &hub.0.config;
        let settings = Settings {
            liveness: config.liveness,
            streams: config.limits.streams,
            head_size: config.limits.head_size,
        };
        let begin = async {
            let io = upgrade.await?;
            let (breaker, io) = breakable(TokioIo::new(io));
            let (sender, connection) = open(io, settings).await?;
            let connection = tokio::spawn(connection);
            let (lines, body) = lines();
            let request = own(Method::POST, body);
            let answer = sender.send(request).await;
            let answer = answer.map_err(|_closed| "it does not answer on the control stream")?;
            Ok::<_, BoxError>((breaker, sender, connection, lines, answer))
        };
        let begun = tokio::time::timeout(PATIENCE, begin).await;
        let (breaker, sender, mut connection, lines, answer) =
            begun.map_err(|_elapsed| "it did not begin in time")??;
        drop(pending);

        let tunnel = Arc::new(Tunnel {
            epoch,
            sender: sender.clone(),
            gates: Gates::default(),
            lines: lines.clone(),
            breaker: Mutex::new(Some(breaker)),
        });
        if !session.arrive(Arc::clone(&tunnel)) {
            return Err("another connection has taken its place".into());
        }
        let outbound = grant.outbound;
        lines.send(&FromHub::Grant(grant));
        drop(lines);
        if outbound {
            let way = ask_for_way(&sender, settings, session.holder()).await?;
            serve.outbound(way);
        }
        drop(sender);

        let mut events = LineReader::new(Body::new(answer.into_body()));
        let reading = async {
            loop {
                match events.next::<FromLaptop>().await? {
                    Some(FromLaptop::Bye) => return Ok(true),
                    Some(FromLaptop::Continue(number)) => tunnel.gates.open(number),
                    None => return Ok::<_, BoxError>(false),
                }
            }
        };
        let ended = reading.await;
        if matches!(ended, Ok(true)) && session.leave(epoch) {
            let holder = session.holder();
            tracing::info!(session = %holder.session, who = holder.who.as_deref(), "a laptop says good-bye");
            hub.0.counters.disconnected();
            hub.release(&session);
            // It still answers what it has begun to answer.
            let finished = tokio::time::timeout(GOOD_BYE, &mut connection).await;
            if finished.is_ok() {
                return Ok(());
            }
        }
        tunnel.cut();
        match connection.await {
            // What it says is better than what a stream in it says.
            Ok(Err(error)) => Err(error.into()),
            _ => ended.map(|_bye| ()),
        }
    }
}

/// A request of the hub's own.
fn own<B>(method: Method, body: B) -> Request<Body>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let mut request = Request::new(Body::new(body));
    *request.method_mut() = method;
    *request.uri_mut() = Uri::from_static("http://laptop/");
    *request.version_mut() = Version::HTTP_2;
    let control = http::HeaderValue::from_static("1");
    request.headers_mut().insert(CONTROL, control);
    request
}

/// Asks the laptop for its own requests.
async fn ask_for_way(
    sender: &Sender,
    settings: Settings,
    holder: Holder,
) -> Result<WayIn, BoxError> {
    let mut request = own(Method::CONNECT, Body::empty());
    request.extensions_mut().insert(Protocol::from(OUTBOUND));
    let answer = sender.send(request).await;
    let mut answer = answer.map_err(|_closed| "it does not answer about its own requests")?;
    let upgrade = answer.extensions_mut().remove::<OnUpgrade>();
    let upgrade = upgrade.ok_or("it has no requests of its own after all")?;
    Ok(WayIn {
        io: upgrade.await?,
        settings,
        holder,
    })
}

/// Requests of a laptop, on their way into the cluster.
#[derive(Debug)]
pub struct WayIn {
    io: Upgraded,
    settings: Settings,
    holder: Holder,
}

impl WayIn {
    /// Whose they are.
    #[must_use]
    pub fn holder(&self) -> &Holder {
        &self.holder
    }

    /// Lets `service` answer them, to the end of the laptop's connection.
    ///
    /// A request for an upgrade comes as one of HTTP/1.1, and CONNECT as itself; both have hyper's `OnUpgrade` in
    /// their extensions, as they have from its servers.
    pub async fn serve<S, B>(self, service: S)
    where
        S: Service<Request<Body>, Response = Response<B>, Error = std::convert::Infallible>,
        S: Clone + Send + 'static,
        S::Future: Send + 'static,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let answer = move |request: Request<Body>| {
            let mut service = service.clone();
            async move {
                let (mut parts, body) = request.into_parts();
                let upgrades = from_stream(&mut parts);
                if parts.headers.contains_key(VERSION) {
                    as_http1(&mut parts);
                }
                remove_private(&mut parts.headers);
                let ready = std::future::poll_fn(|cx| service.poll_ready(cx)).await;
                let answered = match ready {
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
                Response::from_parts(parts, body)
            }
        };
        let io = TokioIo::new(self.io);
        let ended = receive(io, self.settings, answer, std::future::pending()).await;
        if let Err(error) = ended {
            tracing::debug!(holder = %self.holder, %error, "a laptop's way out ended early");
        }
    }
}
