//! How a laptop is let in.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use base64ct::{Base64, Encoding as _};
use devroute_tower::hop::Problem;
use devroute_tower::transport::{Body, ResponseBody};
use http::header::{
    AUTHORIZATION, CONNECTION, HOST, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, UPGRADE, WWW_AUTHENTICATE,
};
use http::{HeaderValue, Method, Request, Response, StatusCode, request};
use hyper::upgrade::OnUpgrade;
use ring::digest;
use tower_service::Service;

use super::session::Session;
use super::stats::Limit;
use super::tunnel::Arrival;
use super::{Forward, Hub, Serve};
use crate::auth::{Authenticator, ChannelBinding, Denied, Identity, Statement};
use crate::protocol::{self, Challenge, Credentials, Grant, OFFER, Offer, PATH};

/// Answers laptops that dial in at [`PATH`], and everything else with 404.
///
/// Where TLS ends at this process, the requests have a [`ChannelBinding`] in their extensions.
#[derive(Clone)]
pub struct Registrar {
    hub: Hub,
    serve: Arc<dyn Serve>,
}

impl std::fmt::Debug for Registrar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registrar")
            .field("hub", &self.hub)
            .finish_non_exhaustive()
    }
}

/// A laptop that is dialling in; dropped when it is there, or not coming.
#[derive(Debug)]
pub(super) struct Pending(Arc<AtomicUsize>);

impl Pending {
    fn begin(pending: &Arc<AtomicUsize>, limit: usize) -> Option<Self> {
        let before = pending.fetch_add(1, Ordering::Relaxed);
        let this = Self(Arc::clone(pending));
        (before < limit).then_some(this)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Registrar {
    pub(super) fn new(hub: Hub, serve: Arc<dyn Serve>) -> Self {
        Self { hub, serve }
    }

    /// Lets a laptop in.
    fn register(&self, mut parts: request::Parts) -> Result<Response<ResponseBody>, Refusal> {
        // An ingress may have it below a path of its own.
        if !parts.uri.path().ends_with(PATH) {
            return Err(Refusal::new(
                StatusCode::NOT_FOUND,
                "not_found",
                "There is nothing here: this is a hub, where laptops dial in.",
                "Dial in with `devroute connect --hub URL`; services are at addresses of their own.",
            ));
        }
        if parts.method != Method::GET {
            return Err(Refusal::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method",
                "A laptop dials in with GET.",
                "Use `devroute connect`.",
            ));
        }
        if self.hub.is_draining() {
            return Err(Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "draining",
                "This hub is going away.",
                "Dial in again: there may be another.",
            ));
        }
        let Some(offer) = parts.headers.get(OFFER) else {
            return Err(Refusal::new(
                StatusCode::BAD_REQUEST,
                "no_offer",
                "The request offers nothing (devroute-offer).",
                "Use `devroute connect`.",
            ));
        };
        let offer = Offer::parse(offer.as_bytes()).map_err(|error| {
            Refusal::of(
                StatusCode::BAD_REQUEST,
                "malformed_offer",
                format!("The request is refused: {error}."),
            )
        })?;
        let identity = match &self.hub.0.config.authenticator {
            Some(authenticator) => Some(authenticate(authenticator, &parts, &offer)?),
            None => None,
        };
        let Some(asked) = Asked::by(&parts) else {
            return Err(Refusal::new(
                StatusCode::UPGRADE_REQUIRED,
                "no_upgrade",
                "A laptop dials in with an upgrade to devroute-tunnel/1 over HTTP/1.1, and this request asks for none.",
                "Let what stands in front of the hub pass `Upgrade`, as it does for WebSocket.",
            ));
        };
        let Some(upgrade) = parts.extensions.remove::<OnUpgrade>() else {
            return Err(Refusal::new(
                StatusCode::UPGRADE_REQUIRED,
                "no_upgrade",
                "This connection cannot be upgraded.",
                "Dial in over HTTP/1.1.",
            ));
        };
        let limits = &self.hub.0.config.limits;
        let counters = &self.hub.0.counters;
        let Some(pending) = Pending::begin(&counters.pending, limits.pending) else {
            return Err(self.limited(Limit::Pending, "Too many laptops are dialling in."));
        };
        let (session, epoch, grant) = self.admit(identity, &offer)?;
        let arrival = Arrival {
            hub: self.hub.clone(),
            session,
            epoch,
            grant,
            serve: Arc::clone(&self.serve),
            pending,
        };
        tokio::spawn(arrival.live(upgrade));
        Ok(asked.agreed())
    }

    /// Finds the session of the laptop, or begins one, and opens the addresses that it lacks.
    fn admit(
        &self,
        identity: Option<Identity>,
        offer: &Offer,
    ) -> Result<(Arc<Session>, u64, Grant), Refusal> {
        let hub = &self.hub.0;
        let limits = &hub.config.limits;
        if offer.services().len() > limits.services {
            return Err(self.limited(Limit::Services, "A session may not have as many services."));
        }
        // For as long as it is not among the others, nobody else finds it.
        let mut sessions = self.hub.sessions();
        let known = sessions
            .iter()
            .find(|session| session.is_of(identity.as_ref(), offer))
            .cloned();
        let resumed = known.is_some();
        let session = match known {
            Some(session) => session,
            None => {
                if sessions.len() >= limits.sessions {
                    return Err(self.limited(
                        Limit::Sessions,
                        "There are as many sessions as there may be.",
                    ));
                }
                let same_key = sessions
                    .iter()
                    .filter(|session| identity.is_some() && session.identity == identity)
                    .count();
                if same_key >= limits.sessions_per_key {
                    return Err(self.limited(
                        Limit::SessionsPerKey,
                        "This key has as many sessions as it may have.",
                    ));
                }
                Arc::new(Session::new(identity, offer))
            }
        };
        session.keep_only(offer.services());
        let there = session.addresses();
        let mut opened = Vec::new();
        for service in offer.services() {
            if there.contains_key(service) {
                continue;
            }
            let listener = hub.ports.open(offer.had(service)).map_err(|error| {
                tracing::warn!(%error, ports = %hub.config.ports, "no port of the range can be opened");
                self.limited(Limit::Ports, "There is no port left for a service.")
            })?;
            let address = listener.local_addr().map_err(|_error| {
                self.limited(Limit::Ports, "There is no port left for a service.")
            })?;
            opened.push((service.clone(), address, listener));
        }
        let epoch = session.resume(offer);
        let holder = session.holder();
        let mut is_new = !resumed;
        for (service, address, listener) in opened {
            tracing::info!(session = %holder.session, who = holder.who.as_deref(), %service, %address, "holds");
            is_new = true;
            let closed = session.add(service.clone(), address);
            let forward = Forward::new(self.hub.clone(), Arc::clone(&session), service);
            self.serve.listen(listener, forward, closed);
        }
        if !resumed {
            sessions.push(Arc::clone(&session));
        }
        drop(sessions);
        hub.counters.registered(resumed);
        if !is_new {
            tracing::info!(session = %holder.session, who = holder.who.as_deref(), "a laptop is back");
        }
        let text = |address: &SocketAddr| address.to_string();
        let grant = Grant {
            name: holder.session.to_string(),
            who: holder.who.map(|who| who.to_string()),
            services: session
                .addresses()
                .iter()
                .map(|(service, address)| (service.to_string(), text(address)))
                .collect(),
            resumed,
            hold: hub.config.hold.as_secs(),
            outbound: offer.outbound() && hub.config.outbound,
        };
        Ok((session, epoch, grant))
    }

    fn limited(&self, limit: Limit, detail: &'static str) -> Refusal {
        self.hub.0.counters.limit(limit);
        Refusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "limit_reached",
            detail,
            "End sessions that nobody needs, or allow more at the hub (--max-sessions, --max-services, --ports and others).",
        )
    }
}

/// Says who dials in.
fn authenticate(
    authenticator: &Authenticator,
    parts: &request::Parts,
    offer: &Offer,
) -> Result<Identity, Refusal> {
    let binding = parts.extensions.get::<ChannelBinding>().copied();
    let challenge = || Challenge {
        nonce: authenticator.challenge(),
        bound: binding.is_some(),
    };
    let credentials = parts.headers.get(AUTHORIZATION);
    let Some(credentials) = credentials.and_then(Credentials::parse) else {
        return Err(Refusal {
            challenge: Some(challenge()),
            ..Refusal::new(
                StatusCode::UNAUTHORIZED,
                "no_credentials",
                "Laptops are known by their SSH keys here.",
                "Use `devroute connect`, with a key that is authorized (--key).",
            )
        });
    };
    let host = parts
        .headers
        .get(HOST)
        .and_then(|host| host.to_str().ok())
        .unwrap_or_default();
    let statement = Statement {
        nonce: &credentials.nonce,
        host,
        binding,
        offer,
    };
    authenticator
        .authenticate(&credentials, &statement)
        .map_err(|denied| {
            let (status, help) = match denied {
                Denied::Nonce => (StatusCode::UNAUTHORIZED, "Sign the new one."),
                Denied::Busy => (StatusCode::SERVICE_UNAVAILABLE, "Try again in a minute."),
                Denied::Signature => (
                    StatusCode::FORBIDDEN,
                    "Where something between laptop and hub changes the Host field, let it pass it on as it is.",
                ),
                Denied::Key => (
                    StatusCode::FORBIDDEN,
                    "Have the key added to the hub's --authorized-keys, or use one that is there (--key).",
                ),
                Denied::Service(..) => (
                    StatusCode::FORBIDDEN,
                    "Offer other services, or have this one allowed at the hub (--offer).",
                ),
            };
            Refusal {
                challenge: (denied == Denied::Nonce).then(challenge),
                help,
                ..Refusal::of(status, denied.as_str(), format!("The laptop is not let in: {denied}."))
            }
        })
}

/// What is asked for is spoken here, by either name.
enum Asked {
    Tunnel,
    /// With its key.
    WebSocket(HeaderValue),
}

impl Asked {
    fn by(parts: &request::Parts) -> Option<Self> {
        let lists = |name, token: &str| {
            parts.headers.get_all(name).iter().any(|line| {
                line.as_bytes()
                    .split(|byte| *byte == b',')
                    .any(|item| item.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
            })
        };
        if !lists(CONNECTION, "upgrade") {
            return None;
        }
        if lists(UPGRADE, protocol::UPGRADE) {
            return Some(Self::Tunnel);
        }
        let is_ours = lists(UPGRADE, protocol::WEBSOCKET)
            && lists(SEC_WEBSOCKET_PROTOCOL, protocol::SUBPROTOCOL);
        let key = parts.headers.get(SEC_WEBSOCKET_KEY).filter(|_| is_ours)?;
        Some(Self::WebSocket(key.clone()))
    }

    /// The answer that switches.
    fn agreed(self) -> Response<ResponseBody> {
        let mut response = Response::new(ResponseBody::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        let upgrade = match self {
            Self::Tunnel => protocol::UPGRADE,
            Self::WebSocket(key) => {
                let subprotocol = HeaderValue::from_static(protocol::SUBPROTOCOL);
                headers.insert(SEC_WEBSOCKET_PROTOCOL, subprotocol);
                if let Ok(accept) = HeaderValue::try_from(accept(&key)) {
                    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
                }
                protocol::WEBSOCKET
            }
        };
        headers.insert(UPGRADE, HeaderValue::from_static(upgrade));
        response
    }
}

/// What says that the key of a WebSocket handshake was understood (RFC 6455, section 4.2.2).
fn accept(key: &HeaderValue) -> String {
    let mut hash = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key.as_bytes());
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    Base64::encode_string(hash.finish().as_ref())
}

/// Why a laptop is not let in.
struct Refusal {
    status: StatusCode,
    cause: &'static str,
    detail: String,
    help: &'static str,
    challenge: Option<Challenge>,
}

impl Refusal {
    fn new(status: StatusCode, cause: &'static str, detail: &str, help: &'static str) -> Self {
        Self {
            status,
            cause,
            detail: detail.to_owned(),
            help,
            challenge: None,
        }
    }

    fn of(status: StatusCode, cause: &'static str, detail: String) -> Self {
        Self {
            detail,
            ..Self::new(status, cause, "", "")
        }
    }

    fn response(self, parts: &(Method, http::HeaderMap)) -> Response<ResponseBody> {
        let problem = Problem::new(self.status, self.cause, "http_request_denied")
            .detail(self.detail)
            .help(self.help);
        let mut response = problem.answer(&parts.0, &parts.1);
        if let Some(challenge) = self.challenge {
            if let Ok(challenge) = HeaderValue::try_from(challenge.to_string()) {
                response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
            }
        }
        if self.status == StatusCode::UPGRADE_REQUIRED {
            let upgrade = HeaderValue::from_static(protocol::UPGRADE);
            response.headers_mut().insert(UPGRADE, upgrade);
            let connection = HeaderValue::from_static("upgrade");
            response.headers_mut().insert(CONNECTION, connection);
        }
        response
    }
}

impl Service<Request<Body>> for Registrar {
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (parts, _body) = request.into_parts();
        let asked = (parts.method.clone(), http::HeaderMap::new());
        let response = self.register(parts).unwrap_or_else(|refusal| {
            if refusal.challenge.is_none() || refusal.cause != "no_credentials" {
                self.hub.0.counters.refused(refusal.cause);
                tracing::info!(
                    cause = refusal.cause,
                    detail = refusal.detail,
                    "a laptop was not let in"
                );
            }
            refusal.response(&asked)
        });
        ready(Ok(response))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_accepted_as_rfc_6455_has_it() {
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(accept(&key), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn websocket_itself_is_not_spoken_here() {
        let request = |subprotocol: &str| {
            let request = Request::get(PATH)
                .header(CONNECTION, "keep-alive, Upgrade")
                .header(UPGRADE, "WebSocket")
                .header(SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ==")
                .header(SEC_WEBSOCKET_PROTOCOL, subprotocol);
            request.body(()).unwrap().into_parts().0
        };
        assert!(Asked::by(&request("chat")).is_none());
        let asked = Asked::by(&request("chat, devroute-tunnel.1")).unwrap();
        let agreed = asked.agreed();
        assert_eq!(agreed.headers()[UPGRADE], "websocket");
        assert_eq!(
            agreed.headers()[SEC_WEBSOCKET_PROTOCOL],
            "devroute-tunnel.1"
        );
    }
}
