//! What laptop and hub say to each other.
//!
//! ```text
//! GET /.well-known/devroute-tunnel HTTP/1.1        401, www-authenticate: DevRoute nonce="…", binding="tls-exporter"
//!
//! GET /.well-known/devroute-tunnel HTTP/1.1        101 Switching Protocols
//! connection: upgrade                              upgrade: devroute-tunnel/1
//! upgrade: devroute-tunnel/1
//! authorization: DevRoute key="…", nonce="…", sig="…"
//! devroute-offer: {"services":["foo","bar"],"name":"alice@laptop","token":"…"}
//! ```
//!
//! From then on it is HTTP/2 with the roles turned, and the hub opens:
//!
//! 1. one stream with [`CONTROL`], whose bodies are lines of JSON: the hub says [`FromHub`], the laptop [`FromLaptop`];
//! 2. where the laptop asked for it, one extended CONNECT (RFC 8441) for [`OUTBOUND`], on which another connection of
//!    HTTP/2 runs the other way: the laptop's own requests;
//! 3. one stream for each request to a service, which [`SERVICE`] names. What asks for an upgrade is an extended CONNECT
//!    for that protocol.
//!
//! Where something in between answers the upgrade itself, and with no, it is asked for once more as one to WebSocket with the
//! subprotocol [`SUBPROTOCOL`]: Envoy passes only upgrades that it is told of, and that one is what it is told of.
//!
//! A hub that asks for no keys takes the second request at once. Fields that begin with `devroute-tunnel-` are between
//! these two: a hub removes what callers send of them, and a laptop passes none on.
//!
//! ```
//! use devroute_tunnel::protocol::Offer;
//!
//! let offer = Offer::parse(br#"{"services":["foo"],"name":"alice@laptop","token":"c2VjcmV0IG9mIHRoaXMgc2Vzc2lvbg"}"#)?;
//! assert_eq!(offer.services()[0].as_str(), "foo");
//! assert!(Offer::parse(br#"{"services":[],"name":"a","token":"b"}"#).is_err());
//! # Ok::<(), devroute_tunnel::protocol::MalformedOffer>(())
//! ```

mod challenge;
mod lines;
mod offer;

use http::HeaderName;

pub use self::challenge::{Challenge, Credentials};
pub use self::lines::{FromHub, FromLaptop, Grant};
pub(crate) use self::lines::{LineReader, LineSender, lines};
pub use self::offer::{MAX_NAME, MAX_OFFER, MAX_SERVICES, MalformedOffer, Offer};

/// Where a hub is asked.
pub const PATH: &str = "/.well-known/devroute-tunnel";
/// What the connection is upgraded to.
pub const UPGRADE: &str = "devroute-tunnel/1";
/// What it is upgraded to where something between the two passes no other upgrade than this: what follows are the same
/// bytes, and no frames of WebSocket.
pub const WEBSOCKET: &str = "websocket";
/// The subprotocol that tells such an upgrade from one to WebSocket itself.
pub const SUBPROTOCOL: &str = "devroute-tunnel.1";
/// The field with the laptop's [`Offer`].
pub const OFFER: HeaderName = HeaderName::from_static("devroute-offer");
/// The protocol of the extended CONNECT for the laptop's own requests.
pub const OUTBOUND: &str = "devroute-outbound";

/// On the stream for events.
pub const CONTROL: HeaderName = HeaderName::from_static("devroute-tunnel-control");
/// The service that a request is for.
pub const SERVICE: HeaderName = HeaderName::from_static("devroute-tunnel-service");
/// The address that a request came from.
pub const CALLER: HeaderName = HeaderName::from_static("devroute-tunnel-caller");
/// The method of a request that became an extended CONNECT.
pub(crate) const METHOD: HeaderName = HeaderName::from_static("devroute-tunnel-method");
/// On a request that came in HTTP/1.1, where whoever answers it may not speak HTTP/2.
pub(crate) const VERSION: HeaderName = HeaderName::from_static("devroute-tunnel-version");
/// The status of an answer that does not switch protocols, where HTTP/2 would take it for one that does.
pub(crate) const STATUS: HeaderName = HeaderName::from_static("devroute-tunnel-status");
/// What the target has switched to.
pub(crate) const SWITCHED: HeaderName = HeaderName::from_static("devroute-tunnel-switched");
/// On a request whose body is wanted only once the laptop says so (RFC 9110, section 10.1.1).
pub(crate) const EXPECT: HeaderName = HeaderName::from_static("devroute-tunnel-expect");

const PRIVATE: &str = "devroute-tunnel-";

/// Removes the fields that are between laptop and hub.
pub(crate) fn remove_private(headers: &mut http::HeaderMap) {
    // Nearly always there are none.
    if !headers
        .keys()
        .any(|name| name.as_str().starts_with(PRIVATE))
    {
        return;
    }
    let private: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with(PRIVATE))
        .cloned()
        .collect();
    for name in private {
        headers.remove(name);
    }
}
