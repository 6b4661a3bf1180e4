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

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 443))
    }

    /// A pool is a tree of these: two that are one there would share their connections.
    #[track_caller]
    fn assert_in_order(peers: &[Peer]) {
        for (one, first) in peers.iter().enumerate() {
            for (two, second) in peers.iter().enumerate() {
                assert_eq!(first.cmp(second), one.cmp(&two), "{first:?} {second:?}");
                assert_eq!(first.partial_cmp(second), Some(one.cmp(&two)));
                assert_eq!(first == second, one == two);
            }
        }
    }

    #[test]
    fn addresses_are_told_apart() {
        assert_in_order(&[
            Peer::plain(addr(1)),
            Peer::plain(addr(2)),
            Peer::plain(addr(1)).or(&[addr(2)]),
            Peer::plain(addr(1)).or(&[addr(3)]),
        ]);
        assert_eq!(Peer::plain(addr(1)).or(&[]), Peer::plain(addr(1)));
    }

    #[cfg(feature = "tls")]
    #[test]
    fn so_are_names_at_one_address_and_tls_from_none() {
        let tls = |last, name: &str| Peer::tls(addr(last), name.parse().unwrap());
        assert_in_order(&[
            Peer::plain(addr(1)),
            tls(1, "bar.test"),
            tls(1, "foo.test"),
            Peer::plain(addr(2)),
            tls(2, "bar.test"),
        ]);
        let (lower, upper) = (tls(1, "foo.test"), tls(1, "FOO.test"));
        assert_eq!(lower, upper);
        assert_eq!(lower.cmp(&upper), Ordering::Equal);
        assert_eq!(lower.name(), Some(&"foo.test".parse().unwrap()));
        assert_eq!(lower.scheme(), Scheme::HTTPS);
        assert_eq!(Peer::plain(addr(1)).scheme(), Scheme::HTTP);
    }
}
