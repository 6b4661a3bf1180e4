//! The laptop's side: it dials a hub, answers what comes from there, and dials again.
//!
//! [`run`] keeps one connection to the hub. Each request for a service goes to the service that was [made](run) for it,
//! and what is not one of them is answered with 404: a hub reaches nothing on the laptop but what was named. The way out,
//! for the laptop's own requests, is a [`WayOut`].
//!
//! | the connection | |
//! |---|---|
//! | cannot be opened, or breaks off | is opened again, after a time that doubles up to [half a minute](Backoff), and is another one for each laptop |
//! | has no sign of the hub for [nine seconds](crate::hub::Liveness) | has broken off: the laptop was asleep, or has another Wi-Fi |
//! | is to a hub that is going away | is replaced by one to another hub, while requests in flight are still answered |
//! | is refused: the key, the offer, the certificate | is not opened again: somebody has to do something ([`Fatal`]) |

mod backoff;
mod dial;
mod run;
mod serve;
mod url;
mod way_out;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use devroute_tower::core::ServiceName;

pub use self::backoff::Backoff;
pub use self::run::run;
pub use self::url::{HubUrl, MalformedUrl};
pub use self::way_out::WayOut;
use crate::protocol::Grant;
use crate::streams::Liveness;

/// Signs for the laptop.
pub trait Signer: Send + Sync + 'static {
    /// Signs a message, with a key at hand or by an agent, which may ask its user first: it is called where it may
    /// block.
    ///
    /// # Errors
    ///
    /// When it cannot; the text is for a person, and says what to do.
    fn sign(&self, message: &[u8]) -> Result<Signed, String>;
}

/// A signature, and whose it is.
#[derive(Clone, Debug)]
pub struct Signed {
    /// The id of the key.
    pub key: String,
    /// The 64 bytes of RFC 8032.
    pub signature: Vec<u8>,
}

/// How a laptop dials in.
#[non_exhaustive]
#[derive(Clone)]
pub struct Config {
    /// The hub.
    pub hub: HubUrl,
    /// How TLS is spoken, where the hub has `https`.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// Whether the hub may be spoken to in plain text though it is not on this machine.
    pub plain: bool,
    /// Who signs, where the hub asks for a signature.
    pub signer: Option<Arc<dyn Signer>>,
    /// What is offered.
    pub services: Vec<ServiceName>,
    /// The name of the session.
    pub name: String,
    /// The way out, where one is wanted.
    pub way_out: Option<WayOut>,
    /// How it is found out that the hub is gone.
    pub liveness: Liveness,
    /// How long it waits before it dials again.
    pub backoff: Backoff,
    /// Requests at a time.
    pub streams: u32,
    /// How long requests in flight may finish when it ends.
    pub drain: Duration,
}

impl Config {
    /// Offers `services` at `hub`, in a session with this name, with defaults for everything else.
    #[must_use]
    pub fn new(hub: HubUrl, services: Vec<ServiceName>, name: impl Into<String>) -> Self {
        Self {
            hub,
            tls: None,
            plain: false,
            signer: None,
            services,
            name: name.into(),
            way_out: None,
            liveness: Liveness::default(),
            backoff: Backoff::default(),
            streams: 256,
            drain: Duration::from_secs(10),
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("hub", &self.hub)
            .field("services", &self.services)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// What becomes of the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// It is up, and this is where the services are.
    Connected(Grant),
    /// It is gone; it is opened again after a while.
    Lost {
        /// Why.
        why: String,
        /// After how long.
        retry: Duration,
    },
    /// It could not be opened; this is tried again after a while.
    Failed {
        /// Why.
        why: String,
        /// After how long.
        retry: Duration,
    },
    /// The hub is going away; another connection is opened.
    Draining,
}

/// A request that came through the tunnel; in its extensions.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tunnelled {
    /// The service that it is for.
    pub service: ServiceName,
    /// Who sent it to the hub.
    pub caller: Option<SocketAddr>,
}

/// Why it is of no use to dial again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fatal(String);

impl fmt::Display for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Fatal {}
