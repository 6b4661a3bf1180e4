//! A session: a laptop, whether it is there, and the addresses of its services.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use devroute_tower::core::ServiceName;
use ring::digest;
use tokio::sync::watch;

use super::Closed;
use super::tunnel::Tunnel;
use crate::auth::Identity;
use crate::protocol::Offer;

/// Who holds an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The comment of the key; none where the hub asks for none.
    pub who: Option<Arc<str>>,
    /// The name of the session.
    pub session: Arc<str>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.who {
            Some(who) if **who == *self.session => f.write_str(who),
            Some(who) => write!(f, "{who} (session {})", self.session),
            None => f.write_str(&self.session),
        }
    }
}

/// A session, as it is shown.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SessionView {
    /// Whose it is.
    pub holder: Holder,
    /// Where each service is.
    pub services: BTreeMap<ServiceName, SocketAddr>,
    /// Since when the laptop is gone; none where it is there.
    pub gone: Option<SystemTime>,
    /// Requests in flight.
    pub streams: usize,
}

#[derive(Debug)]
pub(super) struct Session {
    pub(super) identity: Option<Identity>,
    token: Mutex<Token>,
    holder: RwLock<Holder>,
    presence: RwLock<Presence>,
    /// The number of the latest connection that was let in.
    epoch: AtomicU64,
    services: Mutex<BTreeMap<ServiceName, Address>>,
    pub(super) streams: Arc<AtomicUsize>,
}

/// Tokens are compared by what they hash to, so that the time it takes tells nothing of them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Token([u8; 32]);

impl Token {
    pub(super) fn of(offer: &Offer) -> Self {
        let hash = digest::digest(&digest::SHA256, offer.token().as_bytes());
        Self(hash.as_ref().try_into().unwrap_or_default())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

#[derive(Debug)]
struct Address {
    at: SocketAddr,
    /// Closes the listener when it is dropped or told to.
    closed: watch::Sender<bool>,
}

/// Whether the laptop is there.
#[derive(Clone, Debug)]
pub(super) enum Presence {
    Here(Arc<Tunnel>),
    Gone { since: SystemTime, at: Instant },
}

impl Session {
    pub(super) fn new(identity: Option<Identity>, offer: &Offer) -> Self {
        let holder = Holder {
            who: identity.as_ref().map(|identity| Arc::clone(&identity.who)),
            session: offer.name().into(),
        };
        Self {
            identity,
            token: Mutex::new(Token::of(offer)),
            holder: RwLock::new(holder),
            presence: RwLock::new(Presence::Gone {
                since: SystemTime::now(),
                at: Instant::now(),
            }),
            epoch: AtomicU64::new(0),
            services: Mutex::default(),
            streams: Arc::default(),
        }
    }

    /// Whether a laptop that offers this is the one that had this session.
    ///
    /// It is if it has its key and token; or, as a process that was started anew has another token, its key and name,
    /// where nobody else has the session now.
    pub(super) fn is_of(&self, identity: Option<&Identity>, offer: &Offer) -> bool {
        let key = |identity: &Identity| Arc::clone(&identity.key);
        if self.identity.as_ref().map(key) != identity.map(key) {
            return false;
        }
        *self.lock_token() == Token::of(offer)
            || (identity.is_some()
                && &*self.holder().session == offer.name()
                && matches!(self.presence(), Presence::Gone { .. }))
    }

    /// The laptop has been let in (again), as this; the number of the connection that is to come up.
    pub(super) fn resume(&self, offer: &Offer) -> u64 {
        *self.lock_token() = Token::of(offer);
        self.holder
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .session = offer.name().into();
        self.epoch.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A connection of the laptop is up, and takes the place of the one before, which is a dead one; false where a
    /// later one has been let in.
    pub(super) fn arrive(&self, tunnel: Arc<Tunnel>) -> bool {
        let is_latest = tunnel.epoch == self.epoch.load(Ordering::Relaxed);
        if is_latest {
            self.set(Presence::Here(tunnel));
        }
        is_latest
    }

    /// A connection of the laptop has ended; false where there is another one.
    pub(super) fn leave(&self, left: u64) -> bool {
        let mut presence = self
            .presence
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let is_its = match &*presence {
            Presence::Here(tunnel) => tunnel.epoch == left,
            Presence::Gone { .. } => false,
        };
        if is_its {
            *presence = Presence::Gone {
                since: SystemTime::now(),
                at: Instant::now(),
            };
        }
        is_its
    }

    /// Cuts the laptop off.
    pub(super) fn cut(&self) {
        self.set(Presence::Gone {
            since: SystemTime::now(),
            at: Instant::now(),
        });
    }

    pub(super) fn presence(&self) -> Presence {
        self.presence
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set(&self, presence: Presence) {
        let before = std::mem::replace(
            &mut *self
                .presence
                .write()
                .unwrap_or_else(PoisonError::into_inner),
            presence,
        );
        if let Presence::Here(tunnel) = before {
            tunnel.cut();
        }
    }

    pub(super) fn holder(&self) -> Holder {
        self.holder
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// For how long the laptop has been gone.
    pub(super) fn away(&self) -> Option<Duration> {
        match self.presence() {
            Presence::Here(_) => None,
            Presence::Gone { at, .. } => Some(at.elapsed()),
        }
    }

    /// Where each service is.
    pub(super) fn addresses(&self) -> BTreeMap<ServiceName, SocketAddr> {
        let services = self.lock_services();
        services
            .iter()
            .map(|(service, address)| (service.clone(), address.at))
            .collect()
    }

    /// A service has an address; what it gives is when the listener there is to close.
    pub(super) fn add(&self, service: ServiceName, at: SocketAddr) -> Closed {
        let (closed, closing) = watch::channel(false);
        self.lock_services().insert(service, Address { at, closed });
        Closed(closing)
    }

    /// Closes the addresses of what is not offered any more.
    pub(super) fn keep_only(&self, offered: &[ServiceName]) {
        self.lock_services()
            .retain(|service, _closes| offered.contains(service));
    }

    /// Lets the listeners close, and keeps the laptop.
    pub(super) fn close_listeners(&self) {
        for address in self.lock_services().values() {
            address.closed.send_replace(true);
        }
    }

    pub(super) fn view(&self) -> SessionView {
        SessionView {
            holder: self.holder(),
            services: self.addresses(),
            gone: match self.presence() {
                Presence::Here(_) => None,
                Presence::Gone { since, .. } => Some(since),
            },
            streams: self.streams.load(Ordering::Relaxed),
        }
    }

    fn lock_services(&self) -> MutexGuard<'_, BTreeMap<ServiceName, Address>> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_token(&self) -> MutexGuard<'_, Token> {
        self.token.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
