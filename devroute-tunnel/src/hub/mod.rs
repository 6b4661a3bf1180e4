//! The cluster's side: sessions, the addresses of their services, and the way of a request to a laptop.
//!
//! | a request to the address of a service | |
//! |---|---|
//! | the laptop is there | goes to it as one stream; bodies stream, trailers, upgrades and resets pass |
//! | the laptop is gone | 502 at once, which says whose and since when |
//! | from a network that was not named | 403 |
//! | a rerouted one for another service | 421: the address had another holder when the contract was made |
//! | more at a time than the session may have | 503 |
//!
//! A session is known by the key and the token of its laptop. When the connection ends, its addresses are
//! [held](Config::hold) for it, and a laptop that comes back in that time is where it was; after that they are free, the one
//! that has been free the longest first. A laptop that says good-bye is forgotten at once, and one whose key is no
//! longer authorized is cut off.
//!
//! The hub opens listeners and does not serve them: whoever composes it does ([`Serve`]), with the server and the layers
//! it has for everything else.

mod access;
mod answer;
mod forward;
mod ports;
mod register;
mod session;
mod stats;
mod sweep;
mod tunnel;

use std::net::IpAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;

pub use self::access::Sources;
pub use self::forward::{Forward, ForwardBody};
use self::ports::Ports;
pub use self::ports::{MalformedRange, PortRange};
pub use self::register::Registrar;
use self::session::Session;
pub use self::session::{Holder, SessionView};
use self::stats::Counters;
pub use self::stats::{Limit, Stats};
pub use self::tunnel::WayIn;
use crate::auth::Authenticator;
pub use crate::streams::Liveness;

/// What a hub may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Sessions, those that are held for a laptop that is gone included.
    pub sessions: usize,
    /// Sessions of one key.
    pub sessions_per_key: usize,
    /// Services of a session.
    pub services: usize,
    /// Requests at a time to one laptop.
    pub streams: u32,
    /// Laptops that are dialling in at a time, between their request and the first stream.
    pub pending: usize,
    /// Bytes of a header list.
    pub head_size: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sessions: 1024,
            sessions_per_key: 16,
            services: 16,
            streams: 128,
            pending: 128,
            head_size: 64 * 1024,
        }
    }
}

/// How a hub runs.
#[derive(Debug)]
#[non_exhaustive]
pub struct Config {
    /// Where addresses of services are opened.
    pub ip: IpAddr,
    /// Their ports.
    pub ports: PortRange,
    /// Who may dial in; nobody is asked where there is none.
    pub authenticator: Option<Authenticator>,
    /// Who may call the addresses of services.
    pub sources: Sources,
    /// How long an address is kept for a laptop that is gone.
    pub hold: Duration,
    /// How it is found out that a laptop is gone.
    pub liveness: Liveness,
    /// What it may take.
    pub limits: Limits,
    /// Whether requests of laptops are taken.
    pub outbound: bool,
}

impl Config {
    /// How long an address is kept where nothing else is said: a laptop that is carried to another room has time
    /// enough, and who closes it for the night is forgotten.
    pub const HOLD: Duration = Duration::from_secs(10 * 60);

    /// Opens addresses at `ip`, and has defaults for everything else: nobody is asked for a key.
    #[must_use]
    pub fn new(ip: IpAddr) -> Self {
        Self {
            ip,
            ports: PortRange::default(),
            authenticator: None,
            sources: Sources::default(),
            hold: Self::HOLD,
            liveness: Liveness::default(),
            limits: Limits::default(),
            outbound: false,
        }
    }
}

/// What serves the listeners that a hub opens. It is asked in the task, and so in the thread, of the laptop's
/// connection: what is served there stays with it.
pub trait Serve: Send + Sync + 'static {
    /// Serves the address of a service with `forward`, until `closed`.
    fn listen(&self, listener: TcpListener, forward: Forward, closed: Closed);

    /// Serves the requests of a laptop, which come by `way`.
    fn outbound(&self, way: WayIn);
}

/// When a listener is to close.
#[derive(Clone, Debug)]
pub struct Closed(watch::Receiver<bool>);

impl Closed {
    /// Waits for it.
    pub async fn wait(mut self) {
        let _ = self.0.wait_for(|closed| *closed).await;
    }
}

/// A hub. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Hub(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: Config,
    ports: Ports,
    sessions: Mutex<Vec<Arc<Session>>>,
    counters: Counters,
    draining: AtomicBool,
    /// Shared with what answers in place of a laptop.
    sources: Arc<Sources>,
}

impl Hub {
    /// A hub without a session.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self(Arc::new(Inner {
            ports: Ports::new(config.ip, config.ports),
            sessions: Mutex::default(),
            counters: Counters::default(),
            draining: AtomicBool::new(false),
            sources: Arc::new(config.sources.clone()),
            config,
        }))
    }

    /// What answers laptops that dial in; what the hub opens for them is served by `serve`.
    #[must_use]
    pub fn registrar(&self, serve: Arc<dyn Serve>) -> Registrar {
        Registrar::new(self.clone(), serve)
    }

    /// What has been counted.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let sessions = self.sessions();
        self.0.counters.stats(&sessions)
    }

    /// The sessions there are.
    #[must_use]
    pub fn list(&self) -> Vec<SessionView> {
        self.sessions()
            .iter()
            .map(|session| session.view())
            .collect()
    }

    fn sessions(&self) -> MutexGuard<'_, Vec<Arc<Session>>> {
        self.0
            .sessions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
