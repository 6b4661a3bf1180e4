//! Dialling a hub, up to where the roles turn.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    AUTHORIZATION, CONNECTION, HOST, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use rustls::ProtocolVersion;
use rustls::pki_types::ServerName;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::Config;
use crate::auth::{ChannelBinding, Statement};
use crate::protocol::{self, Challenge, OFFER, Offer};
use crate::shown;

/// How long each of the addresses of a hub may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a hub may take to answer, behind an ingress that may be slow.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// How often it is asked: without a signature, with one, perhaps by the other name of the upgrade, and again as often as a
/// nonce turns out to be another hub's, where several are behind one name.
const MAX_ATTEMPTS: usize = 8;
/// The most that is read of an answer that says no.
const MAX_PROBLEM: usize = 16 * 1024;

/// Why there is no connection.
#[derive(Debug)]
pub(super) struct DialError {
    pub(super) why: String,
    pub(super) kind: Kind,
    /// Whether a hub has said so, and nothing in between.
    from_hub: bool,
}

/// Whether it is of use to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// It is.
    Passing,
    /// It is not, unless it has worked before: then it is something that passes, such as an ingress that is being
    /// changed.
    Setting,
    /// It is not: the hub itself has said no.
    Refused,
}

impl DialError {
    fn new(kind: Kind, why: impl Into<String>) -> Self {
        Self {
            why: why.into(),
            kind,
            from_hub: false,
        }
    }
}

/// Dials the hub with an offer.
pub(super) async fn dial(config: &Config, offer: &Offer) -> Result<Upgraded, DialError> {
    let mut challenge: Option<Challenge> = None;
    let mut connection: Option<Connection> = None;
    let mut upgrade = protocol::UPGRADE;
    for _ in 0..MAX_ATTEMPTS {
        let mut open = match connection.take() {
            Some(open) => open,
            None => Connection::open(config).await?,
        };
        // The challenge may have been the last answer on its connection.
        if open.sender.ready().await.is_err() {
            open = Connection::open(config).await?;
        }
        let mut request = request(config, offer, upgrade)?;
        if let Some(challenge) = &challenge {
            let signed = sign(config, offer, challenge, open.binding).await?;
            request.headers_mut().insert(AUTHORIZATION, signed);
        }
        let sent = timeout(ANSWER_TIMEOUT, open.sender.send_request(request)).await;
        let response = match sent {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(DialError::new(Kind::Passing, shown(&error))),
            Err(_elapsed) => return Err(DialError::new(Kind::Passing, "the hub does not answer")),
        };
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let is_ours = response
                .headers()
                .get(UPGRADE)
                .is_some_and(|switched| switched == upgrade);
            if !is_ours {
                let why = "what answers there has switched to something else: it is no hub";
                return Err(DialError::new(Kind::Setting, why));
            }
            return hyper::upgrade::on(response)
                .await
                .map_err(|error| DialError::new(Kind::Passing, shown(&error)));
        }
        let next = challenge_in(response.headers());
        let error = refused(response).await;
        match next {
            Some(next) => {
                challenge = Some(next);
                connection = Some(open);
            }
            // An ingress may pass no upgrade but the one that everybody wants it to pass.
            None if upgrade == protocol::UPGRADE
                && error.kind == Kind::Setting
                && !error.from_hub =>
            {
                upgrade = protocol::WEBSOCKET;
            }
            None => return Err(error),
        }
    }
    let why = "the hub asks for one signature after the other";
    Err(DialError::new(Kind::Passing, why))
}

fn challenge_in(headers: &HeaderMap) -> Option<Challenge> {
    headers
        .get_all(WWW_AUTHENTICATE)
        .iter()
        .find_map(Challenge::parse)
}

fn request(
    config: &Config,
    offer: &Offer,
    upgrade: &'static str,
) -> Result<Request<Empty<Bytes>>, DialError> {
    let wrong = |_error| DialError::new(Kind::Refused, "the offer is no header field");
    let offer = HeaderValue::from_str(offer.as_str()).map_err(wrong)?;
    let host = HeaderValue::from_str(config.hub.authority())
        .map_err(|_error| DialError::new(Kind::Refused, "the hub has no valid host"))?;
    let uri = config
        .hub
        .path()
        .parse()
        .map_err(|_error| DialError::new(Kind::Refused, "the hub has no valid path"))?;
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = uri;
    let headers = request.headers_mut();
    headers.insert(HOST, host);
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(upgrade));
    if upgrade == protocol::WEBSOCKET {
        let subprotocol = HeaderValue::from_static(protocol::SUBPROTOCOL);
        headers.insert(SEC_WEBSOCKET_PROTOCOL, subprotocol);
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        // It is there for caches, which there are none of here.
        let key = HeaderValue::from_static("ZGV2cm91dGUtdHVubmVsLg==");
        headers.insert(SEC_WEBSOCKET_KEY, key);
    }
    headers.insert(OFFER, offer);
    Ok(request)
}

/// Answers a challenge.
async fn sign(
    config: &Config,
    offer: &Offer,
    challenge: &Challenge,
    binding: Option<ChannelBinding>,
) -> Result<HeaderValue, DialError> {
    let refused = |why: String| DialError::new(Kind::Refused, why);
    let Some(signer) = config.signer.clone() else {
        return Err(refused(
            "the hub asks for a signature, and there is no key".into(),
        ));
    };
    let binding = match (challenge.bound, binding) {
        (false, _) => None,
        (true, Some(binding)) => Some(binding),
        (true, None) => {
            let why =
                "the hub wants the TLS session signed, and this connection has none that could be";
            return Err(refused(why.into()));
        }
    };
    let statement = Statement {
        nonce: &challenge.nonce,
        host: config.hub.authority(),
        binding,
        offer,
    };
    let message = statement.message();
    // An agent may ask its user.
    let signed = tokio::task::spawn_blocking(move || signer.sign(&message)).await;
    let signed = signed
        .map_err(|error| refused(error.to_string()))?
        .map_err(refused)?;
    let credentials = statement.credentials(&signed.key, &signed.signature);
    HeaderValue::try_from(credentials.to_string())
        .map_err(|_error| refused("the key has no valid id".into()))
}

/// What an answer says that is neither a switch nor a challenge.
async fn refused(response: Response<Incoming>) -> DialError {
    #[derive(Deserialize)]
    struct Problem {
        cause: String,
        detail: String,
        #[serde(default)]
        help: String,
    }
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_PROBLEM).collect();
    let body = match timeout(ANSWER_TIMEOUT, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        _ => Bytes::new(),
    };
    let kind = |status: StatusCode| match status {
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Kind::Passing,
        status if status.is_server_error() => Kind::Passing,
        _ => Kind::Setting,
    };
    match serde_json::from_slice::<Problem>(&body) {
        Ok(Problem {
            cause,
            detail,
            help,
        }) => {
            let is_final = [
                "unknown_key",
                "signature_invalid",
                "service_not_allowed",
                "malformed_offer",
            ]
            .contains(&&*cause);
            let kind = if is_final {
                Kind::Refused
            } else {
                kind(status)
            };
            let text = format!("{detail} {help}");
            // It ends up on somebody's terminal.
            let text = text.trim().chars().filter(|c| !c.is_control()).take(500);
            DialError {
                from_hub: true,
                ..DialError::new(kind, text.collect::<String>())
            }
        }
        Err(_none) => DialError::new(
            kind(status),
            format!("what answers there is no hub, or something in front of it: {status}"),
        ),
    }
}

/// A connection of HTTP/1.1.
struct Connection {
    sender: http1::SendRequest<Empty<Bytes>>,
    binding: Option<ChannelBinding>,
}

impl Connection {
    async fn open(config: &Config) -> Result<Self, DialError> {
        let stream = connect(config).await?;
        if !config.hub.is_tls() {
            return Self::speak(stream, None).await;
        }
        let Some(tls) = &config.tls else {
            return Err(DialError::new(
                Kind::Refused,
                "there is no TLS to dial an https:// hub with",
            ));
        };
        let name = ServerName::try_from(config.hub.host().to_owned())
            .map_err(|error| DialError::new(Kind::Refused, shown(&error)))?;
        let handshake = TlsConnector::from(Arc::clone(tls)).connect(name, stream);
        let stream = match timeout(ANSWER_TIMEOUT, handshake).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(DialError::new(kind_of_tls(&error), shown(&error))),
            Err(_elapsed) => {
                return Err(DialError::new(
                    Kind::Passing,
                    "the TLS handshake takes too long",
                ));
            }
        };
        let (_, session) = stream.get_ref();
        // Before TLS 1.3 the value is unique with an extension only (RFC 9266, section 3).
        let binding = (session.protocol_version() == Some(ProtocolVersion::TLSv1_3))
            .then(|| {
                session
                    .export_keying_material([0; 32], ChannelBinding::LABEL, None)
                    .ok()
            })
            .flatten()
            .map(ChannelBinding::new);
        Self::speak(stream, binding).await
    }

    async fn speak<I>(io: I, binding: Option<ChannelBinding>) -> Result<Self, DialError>
    where
        I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http1::handshake(TokioIo::new(io))
            .await
            .map_err(|error| DialError::new(Kind::Passing, shown(&error)))?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a connection to a hub ended early");
            }
        });
        Ok(Self { sender, binding })
    }
}

fn kind_of_tls(error: &io::Error) -> Kind {
    let tls = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::InvalidMessage(_)) => {
            Kind::Setting
        }
        _ => Kind::Passing,
    }
}

/// Opens a connection to one of the addresses of the hub.
async fn connect(config: &Config) -> Result<TcpStream, DialError> {
    let (host, port) = (config.hub.host(), config.hub.port());
    let found = match timeout(CONNECT_TIMEOUT, tokio::net::lookup_host((host, port))).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => {
            return Err(DialError::new(Kind::Passing, format!("{host}: {error}")));
        }
        Err(_elapsed) => {
            let why = format!("{host}: it is not found out where that is");
            return Err(DialError::new(Kind::Passing, why));
        }
    };
    let mut last = DialError::new(Kind::Passing, format!("{host} has no address"));
    for address in found {
        if !config.hub.is_tls() && !config.plain && !address.ip().is_loopback() {
            let why = format!(
                "{} is not on this machine, and is to be spoken to in plain text, which everybody on the way can read \
                 and change: use https://, or kubectl port-forward",
                config.hub
            );
            return Err(DialError::new(Kind::Refused, why));
        }
        last = match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // Small frames must not wait for an acknowledgement.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(error)) => DialError::new(Kind::Passing, format!("{address}: {error}")),
            Err(_elapsed) => DialError::new(Kind::Passing, format!("{address}: no answer")),
        };
    }
    Err(last)
}
