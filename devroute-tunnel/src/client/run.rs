//! One connection after the other.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::ready;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64ct::{Base64UrlUnpadded, Encoding as _};
use bytes::Bytes;
use devroute_tower::core::ServiceName;
use devroute_tower::transport::Body;
use http::{Request, Response};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tower_service::Service;

use super::dial::{Kind, dial};
use super::serve::{Laptop, serve};
use super::{Config, Event, Fatal};
use crate::BoxError;
use crate::protocol::{FromHub, Offer};
use crate::streams::Settings;

/// A connection that has lasted so long was a good one: the waits begin anew.
const GOOD: Duration = Duration::from_secs(10);
const HEAD_SIZE: u32 = 64 * 1024;

type Serving = Pin<Box<dyn Future<Output = String> + Send>>;

/// Keeps a connection to the hub until `stop`, answers the requests for each service with what `make` makes for it, once,
/// and tells what becomes of the connection.
///
/// The services get requests with [`Tunnelled`](super::Tunnelled) in their extensions. One that asks for an upgrade is of
/// HTTP/1.1 and has hyper's `OnUpgrade` there, as from its servers.
///
/// # Errors
///
/// When the hub refuses the laptop, or is none.
pub async fn run<S, B>(
    config: Config,
    make: impl Fn(&ServiceName) -> S,
    mut tell: impl FnMut(Event),
    stop: impl Future<Output = ()>,
) -> Result<(), Fatal>
where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let laptop = Arc::new(Laptop {
        services: config
            .services
            .iter()
            .map(|service| (service.clone(), make(service)))
            .collect(),
        way_out: config.way_out.clone(),
        settings: Settings {
            liveness: config.liveness,
            streams: config.streams,
            head_size: HEAD_SIZE,
        },
    });
    let token = token()?;
    let (stopping, stopped) = watch::channel(false);
    let mut stop = pin!(stop);
    let mut connections = JoinSet::new();
    let mut had = BTreeMap::new();
    let (mut failed, mut ever) = (0, false);
    loop {
        let offer = Offer::again(
            &config.services,
            &config.name,
            &token,
            config.way_out.is_some(),
            &had,
        )
        .map_err(|error| Fatal(error.to_string()))?;
        let dialled = tokio::select! {
            () = &mut stop => break,
            dialled = dial(&config, &offer) => dialled,
        };
        let io = match dialled {
            Ok(io) => io,
            Err(error) if error.kind == Kind::Refused || (error.kind == Kind::Setting && !ever) => {
                return Err(Fatal(error.why));
            }
            Err(error) => {
                let retry = config.backoff.after(failed);
                failed += 1;
                tell(Event::Failed {
                    why: error.why,
                    retry,
                });
                tokio::select! {
                    () = &mut stop => break,
                    () = tokio::time::sleep(retry) => continue,
                }
            }
        };
        let since = Instant::now();
        let (events, mut heard) = mpsc::unbounded_channel();
        let serving = serve(io, Arc::clone(&laptop), events, stopped.clone());
        let mut serving: Serving = Box::pin(serving);
        let mut granted = false;
        let why = loop {
            tokio::select! {
                () = &mut stop => break None,
                why = &mut serving => break Some(why),
                Some(event) = heard.recv() => match event {
                    FromHub::Grant(grant) => {
                        (granted, ever) = (true, true);
                        had = addresses(&grant.services);
                        tell(Event::Connected(grant));
                    }
                    FromHub::Draining => {
                        tell(Event::Draining);
                        // It answers what is in flight, while another one is opened.
                        connections.spawn(std::mem::replace(&mut serving, Box::pin(ready(String::new()))));
                        break Some(String::new());
                    }
                },
            }
        };
        let Some(why) = why else {
            connections.spawn(serving);
            break;
        };
        if granted && since.elapsed() >= GOOD {
            failed = 0;
        }
        let retry = config.backoff.after(failed);
        failed += 1;
        if !why.is_empty() {
            tell(Event::Lost { why, retry });
        }
        tokio::select! {
            () = &mut stop => break,
            () = tokio::time::sleep(retry) => {}
        }
    }
    stopping.send_replace(true);
    let finished = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(config.drain, finished).await;
    Ok(())
}

/// What the hub knows the session by: 32 random bytes.
fn token() -> Result<String, Fatal> {
    let mut token = [0; 32];
    getrandom::fill(&mut token).map_err(|error| Fatal(format!("no random numbers: {error}")))?;
    Ok(Base64UrlUnpadded::encode_string(&token))
}

fn addresses(services: &BTreeMap<String, String>) -> BTreeMap<String, SocketAddr> {
    services
        .iter()
        .filter_map(|(service, address)| Some((service.clone(), address.parse().ok()?)))
        .collect()
}
