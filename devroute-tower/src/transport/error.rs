//! What can go wrong on the way to a target, and whose fault it is.

use std::{borrow::Cow, error::Error as StdError, fmt, io, net::SocketAddr};

use h2::Reason;
use http::StatusCode;

use super::{peer::Peer, received::FLOOD};
use crate::BoxError;

/// Why a request could not be answered by the address it was sent to.
///
/// A transport of your own may return any error: it is answered with 502 and never falls back.
/// One that has this error anywhere in its [source chain](std::error::Error::source) is answered
/// with the [status](ErrorKind::status) and the `Proxy-Status` of its [kind](Self::kind), and the
/// baseline may answer instead where [that kind](ErrorKind::is_before_request) allows it.
///
/// ```
/// use devroute_tower::transport::{Error, ErrorKind};
///
/// let error = Error::new(ErrorKind::ConnectionRefused, "192.168.1.12:8001".parse()?);
/// assert_eq!(error.kind().status(), 502);
/// assert!(error.kind().is_before_request());
/// assert_eq!(error.to_string(), "192.168.1.12:8001 refused the connection");
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    addr: Option<SocketAddr>,
    /// What this one target did, where that says more than the kind.
    detail: Option<Cow<'static, str>>,
    source: Option<BoxError>,
}

/// The classes of [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Nothing listens at the address.
    ConnectionRefused,
    /// The address gave no answer to the connection attempt in time.
    ConnectTimeout,
    /// There is no route to the address, or the network says that the host is not there.
    Unreachable,
    /// The connection could not be opened for another reason, such as exhausted descriptors.
    ConnectFailed,
    /// So many connections are being opened to it, or to unknown addresses in all, that this one was
    /// not tried ([`Connects`](super::Connects)).
    ConnectLimit,
    /// The host name has no address, or the name service failed.
    DnsFailed,
    /// The name service did not answer in time.
    DnsTimeout,
    /// So many names are being looked up that this one was not.
    DnsLimit,
    /// The address turned out to be a listener of this very process.
    OwnListener,
    /// The address is one that requests must not be sent to from here.
    Prohibited,
    /// The target asks for TLS and this transport speaks none.
    TlsUnavailable,
    /// The target's certificate is not one to trust: its issuer, its name or its time is wrong.
    TlsCertificate,
    /// The target broke off the TLS handshake with an alert.
    TlsAlert,
    /// The target does not speak TLS, or not for the HTTP version that is to be spoken.
    TlsProtocol,
    /// The connection ended before the answer began.
    ConnectionClosed,
    /// The answer did not begin in the time that was allowed for it.
    ResponseTimeout,
    /// What came back is not HTTP as it should be.
    Protocol,
    /// The body of the request failed while it was sent.
    RequestBody,
}

impl Error {
    /// An error of this kind at `addr`.
    #[must_use]
    pub fn new(kind: ErrorKind, addr: SocketAddr) -> Self {
        Self {
            kind,
            addr: Some(addr),
            detail: None,
            source: None,
        }
    }

    /// The same error with its cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Says what this target did, in place of what all of its kind do. It is shown to clients, so
    /// what comes from the wire is escaped in it.
    pub(super) fn with_detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    pub(crate) fn without_addr(kind: ErrorKind) -> Self {
        Self {
            kind,
            addr: None,
            detail: None,
            source: None,
        }
    }

    /// What class of failure this is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The address that was dialled; `None` where the failure came before one was known.
    #[must_use]
    pub fn addr(&self) -> Option<SocketAddr> {
        self.addr
    }

    /// Finds an error of this type in `error` or in its sources.
    #[must_use]
    pub fn find<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Self> {
        let mut next = Some(error);
        // A chain that goes round must not hang the request it belongs to.
        for _ in 0..32 {
            let error = next?;
            if let Some(found) = error.downcast_ref() {
                return Some(found);
            }
            next = error.source();
        }
        None
    }

    pub(crate) fn connect(addr: SocketAddr, error: io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::ConnectionRefused => ErrorKind::ConnectionRefused,
            io::ErrorKind::TimedOut => ErrorKind::ConnectTimeout,
            io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::AddrNotAvailable => ErrorKind::Unreachable,
            _ => ErrorKind::ConnectFailed,
        };
        Self::new(kind, addr).with_source(error)
    }

    /// An error of this kind with whoever `peer` is.
    pub(super) fn of_peer(kind: ErrorKind, peer: &Peer) -> Self {
        Self {
            addr: peer.addr(),
            ..Self::without_addr(kind)
        }
    }

    pub(super) fn exchange(peer: &Peer, error: hyper::Error) -> Self {
        let kind = if error.is_user() {
            ErrorKind::RequestBody
        } else if error.is_parse() || is_flood(&error) || h2_error(&error).is_some_and(is_protocol)
        {
            ErrorKind::Protocol
        } else {
            ErrorKind::ConnectionClosed
        };
        let this = Self::of_peer(kind, peer);
        #[cfg(feature = "tls")]
        if let Some(detail) = super::tls::alert_after_handshake(&error) {
            return this.with_detail(detail).with_source(error);
        }
        this.with_source(error)
    }
}

/// Whether the target has said that it did nothing with the request: its stream was refused, or is
/// one of those that a GOAWAY leaves out (RFC 9113, sections 6.8 and 8.7).
pub(super) fn is_unprocessed(error: &hyper::Error) -> bool {
    h2_error(error).is_some_and(|error| {
        error.is_remote() && (error.is_go_away() || error.reason() == Some(Reason::REFUSED_STREAM))
    })
}

/// hyper keeps the reason of an HTTP/2 failure in the source.
fn h2_error(error: &hyper::Error) -> Option<&h2::Error> {
    error.source()?.downcast_ref()
}

/// Whether reading was given up because of how much came; of an error of the stream, h2 keeps the kind.
fn is_flood(error: &hyper::Error) -> bool {
    let io = error.source().and_then(|it| it.downcast_ref::<io::Error>());
    io.is_some_and(|io| io.kind() == FLOOD)
}

/// Whether the two sides do not understand each other, as opposed to one that has ended it. What this
/// side has noticed itself is always the other one's mistake.
fn is_protocol(error: &h2::Error) -> bool {
    error.is_library()
        || error.reason().is_some_and(|reason| {
            matches!(
                reason,
                Reason::PROTOCOL_ERROR
                    | Reason::FLOW_CONTROL_ERROR
                    | Reason::FRAME_SIZE_ERROR
                    | Reason::COMPRESSION_ERROR
                    | Reason::HTTP_1_1_REQUIRED
            )
        })
}

impl ErrorKind {
    /// The status of the answer that reports this failure (502, 503, 504 or 403).
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::ConnectTimeout | Self::DnsTimeout | Self::ResponseTimeout => {
                StatusCode::GATEWAY_TIMEOUT
            }
            Self::ConnectLimit | Self::DnsLimit => StatusCode::SERVICE_UNAVAILABLE,
            Self::OwnListener | Self::Prohibited => StatusCode::FORBIDDEN,
            Self::RequestBody => StatusCode::BAD_REQUEST,
            _ => StatusCode::BAD_GATEWAY,
        }
    }

    /// The error type of the `Proxy-Status` field (RFC 9209, section 2.3).
    #[must_use]
    pub fn proxy_status(self) -> &'static str {
        match self {
            Self::ConnectionRefused => "connection_refused",
            Self::ConnectTimeout => "connection_timeout",
            Self::Unreachable => "destination_ip_unroutable",
            Self::ConnectFailed => "destination_unavailable",
            Self::ConnectLimit => "connection_limit_reached",
            Self::DnsFailed | Self::DnsLimit => "dns_error",
            Self::DnsTimeout => "dns_timeout",
            Self::OwnListener | Self::Prohibited => "destination_ip_prohibited",
            Self::TlsUnavailable => "proxy_configuration_error",
            Self::TlsCertificate => "tls_certificate_error",
            Self::TlsAlert => "tls_alert_received",
            Self::TlsProtocol => "tls_protocol_error",
            Self::ConnectionClosed => "connection_terminated",
            Self::ResponseTimeout => "http_response_timeout",
            Self::Protocol => "http_protocol_error",
            Self::RequestBody => "http_request_error",
        }
    }

    /// A short, stable label for logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ConnectionRefused => "connection_refused",
            Self::ConnectTimeout => "connect_timeout",
            Self::Unreachable => "unreachable",
            Self::ConnectFailed => "connect_failed",
            Self::ConnectLimit => "connect_limit",
            Self::DnsFailed => "dns_failed",
            Self::DnsTimeout => "dns_timeout",
            Self::DnsLimit => "dns_limit",
            Self::OwnListener => "own_listener",
            Self::Prohibited => "prohibited",
            Self::TlsUnavailable => "tls_unavailable",
            Self::TlsCertificate => "tls_certificate",
            Self::TlsAlert => "tls_alert",
            Self::TlsProtocol => "tls_protocol",
            Self::ConnectionClosed => "connection_closed",
            Self::ResponseTimeout => "response_timeout",
            Self::Protocol => "protocol_error",
            Self::RequestBody => "request_body",
        }
    }

    /// Whether no byte of the request can have reached the target, so that another may answer it.
    #[must_use]
    pub fn is_before_request(self) -> bool {
        match self {
            Self::ConnectionRefused
            | Self::ConnectTimeout
            | Self::Unreachable
            | Self::ConnectFailed
            | Self::ConnectLimit
            | Self::DnsFailed
            | Self::DnsTimeout
            | Self::DnsLimit
            | Self::TlsUnavailable
            | Self::TlsCertificate
            | Self::TlsAlert
            | Self::TlsProtocol => true,
            Self::OwnListener
            | Self::Prohibited
            | Self::ConnectionClosed
            | Self::ResponseTimeout
            | Self::Protocol
            | Self::RequestBody => false,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.addr {
            Some(addr) => write!(f, "{addr} ")?,
            None => f.write_str("the target ")?,
        }
        if let Some(detail) = &self.detail {
            return f.write_str(detail);
        }
        f.write_str(match self.kind {
            ErrorKind::ConnectionRefused => "refused the connection",
            ErrorKind::ConnectTimeout => "did not accept the connection in time",
            ErrorKind::Unreachable => "cannot be reached from here",
            ErrorKind::ConnectFailed => "could not be connected to",
            ErrorKind::ConnectLimit => "has too many connections being opened to it already",
            ErrorKind::DnsFailed => "has a name without an address",
            ErrorKind::DnsTimeout => "has a name that was not resolved in time",
            ErrorKind::DnsLimit => "has a name, and too many are being looked up already",
            ErrorKind::OwnListener => "is a listener of this process itself",
            ErrorKind::Prohibited => "is no address to send requests to from here",
            ErrorKind::TlsUnavailable => "asks for TLS, which this transport does not speak",
            ErrorKind::TlsCertificate => "has a certificate that is not trusted here",
            ErrorKind::TlsAlert => "broke off the TLS handshake",
            ErrorKind::TlsProtocol => "failed in the TLS handshake",
            ErrorKind::ConnectionClosed => "closed the connection before it answered",
            ErrorKind::ResponseTimeout => "did not answer in time",
            ErrorKind::Protocol => "answered with something that is not valid HTTP",
            ErrorKind::RequestBody => "did not get the whole request, whose body failed",
        })
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_found_under_other_errors() {
        #[derive(Debug)]
        struct Outer(Error);
        impl fmt::Display for Outer {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("outer")
            }
        }
        impl StdError for Outer {
            fn source(&self) -> Option<&(dyn StdError + 'static)> {
                Some(&self.0)
            }
        }
        let addr = SocketAddr::from(([10, 0, 0, 1], 80));
        let boxed: BoxError = Box::new(Outer(Error::new(ErrorKind::DnsTimeout, addr)));
        assert_eq!(Error::find(&*boxed).unwrap().kind(), ErrorKind::DnsTimeout);
        assert!(Error::find(&io::Error::other("x")).is_none());
    }

    #[test]
    fn a_request_that_may_have_been_seen_never_falls_back() {
        for kind in [
            ErrorKind::ConnectionClosed,
            ErrorKind::ResponseTimeout,
            ErrorKind::Protocol,
            ErrorKind::RequestBody,
        ] {
            assert!(!kind.is_before_request(), "{kind:?}");
        }
    }

    #[test]
    fn io_errors_tell_refused_from_unreachable() {
        let addr = SocketAddr::from(([10, 0, 0, 1], 80));
        let kind = |kind: io::ErrorKind| Error::connect(addr, kind.into()).kind();
        assert_eq!(
            kind(io::ErrorKind::ConnectionRefused),
            ErrorKind::ConnectionRefused
        );
        assert_eq!(kind(io::ErrorKind::HostUnreachable), ErrorKind::Unreachable);
        assert_eq!(kind(io::ErrorKind::OutOfMemory), ErrorKind::ConnectFailed);
    }
}
