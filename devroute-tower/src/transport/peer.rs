//! Who has to be at the other end of a connection.

use std::net::SocketAddr;

use http::uri::Scheme;

/// What one connection leads to. A connection to one peer never serves another: not the same
/// address without TLS, and not the same address under another name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Peer {
    addr: SocketAddr,
    #[cfg(feature = "tls")]
    name: Option<super::tls::TlsName>,
}

impl Peer {
    pub(super) fn plain(addr: SocketAddr) -> Self {
        Self {
            addr,
            #[cfg(feature = "tls")]
            name: None,
        }
    }

    /// By TLS, where the certificate has to be for `name`.
    #[cfg(feature = "tls")]
    pub(super) fn tls(addr: SocketAddr, name: super::tls::TlsName) -> Self {
        Self {
            addr,
            name: Some(name),
        }
    }

    /// The address that is dialled.
    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
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
