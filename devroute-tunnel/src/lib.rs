//! The tunnel of devroute: a laptop that the cluster cannot reach dials a hub, and is a member all the same.
//!
//! A contract needs an address that the cluster reaches, and laptops sit behind NAT, hotel Wi-Fi and VPN clients. So the
//! laptop makes one outgoing connection to a [`hub`], which ingresses pass as they pass WebSocket: an HTTP/1.1 upgrade.
//! Then the roles turn. The hub is the client of HTTP/2 on it and the laptop the server, and each request is one stream,
//! with flow control, trailers and cancellation by HTTP/2 itself.
//!
//! ```text
//! caller ── 10.0.3.7:43121 ─┐                                    ┌─ 127.0.0.1:8001  foo
//! caller ── 10.0.3.7:43122 ─┤ hub ══════ one connection ══════ laptop ─ 127.0.0.1:8002  bar
//! bar.qa ──────────────────◄┘     ◄── the laptop's own requests ─┘◄─ http_proxy
//! ```
//!
//! The hub opens an address of its own for each service of a session, so the contract stays an ordinary one,
//! `{"foo":"10.0.3.7:43121"}`, and nothing else in the cluster has to know of tunnels. Hubs share no state.
//!
//! | module | |
//! |---|---|
//! | [`protocol`] | what is said on the wire, and where its limits are |
//! | [`auth`] | who may dial in: a challenge that is signed with an SSH key, once |
//! | [`hub`] | the cluster's side: sessions, their addresses, and the way of a request to a laptop |
//! | [`client`] | the laptop's side: dialling, dialling again, and the way of a request to a local application |
//!
//! Refused: who is not authorized, a nonce that was used, a service that somebody may not offer, a public address to
//! listen on, callers from networks that were not named, and anything beyond the [limits](hub::Limits).
//!
//! It knows no flags, no files and no metrics: `devroute hub` and `devroute connect` of `devroute-proxy` compose it.

pub mod auth;
pub mod client;
pub mod hub;
pub mod protocol;
mod streams;

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// An error and what it comes from, in one line.
pub(crate) fn shown(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        // Some say what they come from themselves.
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        source = error.source();
    }
    text
}
