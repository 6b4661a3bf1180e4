//! Who has to be at the other end of a connection.

use std::{cmp::Ordering, fmt, net::SocketAddr, sync::Arc};

use http::uri::Scheme;

/// What one connection leads to. A connection to one peer never serves another: not the same
/// address without TLS, and not the same address under another name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    place: Place,
    #[cfg(feature = "tls")]
    name: Option<super::tls::TlsName>,
}

/// What is dialled.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// Exactly this address.
    Address(SocketAddr),
    /// One of these, which are all one name's: the first that a connection can be opened to.
    Addresses(Arc<[SocketAddr]>),
    /// Whatever address the name has when a connection is opened.
    Host(HostPort),
}

/// A host by its name, in lower case, and a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct HostPort {
    pub(super) host: Arc<str>,
    pub(super) port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl Peer {
    pub(super) fn plain(addr: SocketAddr) -> Self {
        Self::at(Place::Address(addr))
    }

    /// Wherever the name that led to the address led to as well.
    pub(super) fn or(mut self, others: &[SocketAddr]) -> Self {
        if let (Place::Address(first), false) = (&self.place, others.is_empty()) {
            let all = std::iter::once(first).chain(others).copied();
            self.place = Place::Addresses(all.collect());
        }
        self
    }

    /// By name, which only a forward proxy does: a target is an address that has been judged.
    pub(super) fn host(host: HostPort) -> Self {
        Self::at(Place::Host(host))
    }

    fn at(place: Place) -> Self {
        Self {
            place,
            #[cfg(feature = "tls")]
            name: None,
        }
    }

    /// By TLS, where the certificate has to be for `name`.
    #[cfg(feature = "tls")]
    pub(super) fn tls(addr: SocketAddr, name: super::tls::TlsName) -> Self {
        Self {
            place: Place::Address(addr),
            name: Some(name),
        }
    }

    /// What is dialled.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// The address that is dialled first, where it is known beforehand.
    pub(super) fn addr(&self) -> Option<SocketAddr> {
        match &self.place {
            Place::Address(addr) => Some(*addr),
            Place::Addresses(addrs) => addrs.first().copied(),
            Place::Host(_) => None,
        }
    }

    /// The name that the certificate has to be for; `None` without TLS.
    #[cfg(feature = "tls")]
    pub(super) fn name(&self) -> Option<&super::tls::TlsName> {
        self.name.as_ref()
    }

    /// The scheme of a request to it.
    pub(super) fn scheme(&self) -> Scheme {
        #[cfg(feature = "tls")]
        if self.name.is_some() {
            return Scheme::HTTPS;
        }
        Scheme::HTTP
    }
}

impl Ord for Peer {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_place = self.place.cmp(&other.place);
        #[cfg(feature = "tls")]
        if by_place.is_eq() && self.name != other.name {
            // Two names at one address: seldom, so the text will do. It ignores case, as equality does.
            let text = |peer: &Self| {
                let name = peer.name.as_ref().map(ToString::to_string);
                name.map(|name| name.to_ascii_lowercase())
            };
            return text(self).cmp(&text(other));
        }
        by_place
    }
}

impl PartialOrd for Peer {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.place, self.addr()) {
            (Place::Host(host), _) => host.fmt(f),
            (_, Some(addr)) => addr.fmt(f),
            (_, None) => f.write_str("nowhere"),
        }
    }
}
