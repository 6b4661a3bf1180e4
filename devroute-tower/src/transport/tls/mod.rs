//! TLS to targets: whom to trust, and what a failed handshake means.
//!
//! A target that says `https://` is spoken to by TLS 1.2 or 1.3. Its certificate has to be for the
//! name in the contract, or for the address where the contract has an address (RFC 9525, section
//! 6), and from an issuer that [`TlsConfig`] trusts. There is no way round that but
//! [`danger_accept_any_certificate`](TlsConfig::danger_accept_any_certificate).
//!
//! HTTP/2 is spoken where ALPN agrees on `h2` and not otherwise (RFC 9113, section 3.2): each
//! protocol offers itself alone, so a target that prefers the other still takes it where it can.

mod config;
mod name;
mod verify;

use std::{fmt, net::SocketAddr, sync::Arc};

use rustls::{AlertDescription, CertificateError, InvalidMessage, pki_types::ServerName};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

pub use self::{
    config::{TlsConfig, TlsConfigError},
    name::{ParseTlsNameError, TlsName},
};
use super::{Error, ErrorKind, Protocol};

const H2: &[u8] = b"h2";
const HTTP_1_1: &[u8] = b"http/1.1";

/// Turns connections into encrypted ones.
#[derive(Clone)]
pub(super) struct Handshaker {
    h1: TlsConnector,
    h2: TlsConnector,
    either: TlsConnector,
}

impl Handshaker {
    pub(super) fn new(config: TlsConfig) -> Self {
        let mut h1 = config.into_client_config(&[]);
        let mut h2 = h1.clone();
        let mut either = h1.clone();
        h1.alpn_protocols = vec![HTTP_1_1.to_vec()];
        h2.alpn_protocols = vec![H2.to_vec()];
        either.alpn_protocols = vec![H2.to_vec(), HTTP_1_1.to_vec()];
        Self {
            h1: Arc::new(h1).into(),
            h2: Arc::new(h2).into(),
            either: Arc::new(either).into(),
        }
    }

    /// Makes sure of the other end, and that it speaks `protocol`.
    pub(super) async fn handshake(
        &self,
        stream: TcpStream,
        addr: SocketAddr,
        name: &TlsName,
        protocol: Protocol,
    ) -> Result<TlsStream<TcpStream>, Error> {
        let name = name.as_server_name();
        let connector = match protocol {
            Protocol::Http1 => &self.h1,
            Protocol::Http2 => &self.h2,
            Protocol::Negotiated => &self.either,
        };
        let stream = connector
            .connect(ServerName::clone(name), stream)
            .await
            .map_err(|error| failed(addr, name, protocol, error))?;
        // A server without ALPN speaks HTTP/1.1.
        if protocol == Protocol::Http2 && !is_h2(&stream) {
            return Err(Error::new(ErrorKind::TlsProtocol, addr)
                .with_detail("does not speak HTTP/2 over TLS"));
        }
        Ok(stream)
    }
}

/// Whether HTTP/2 has been agreed on.
pub(super) fn is_h2(stream: &TlsStream<TcpStream>) -> bool {
    let (_, session) = stream.get_ref();
    session.alpn_protocol() == Some(H2)
}

impl fmt::Debug for Handshaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handshaker").finish_non_exhaustive()
    }
}

/// What a handshake that came to nothing says about the target.
fn failed(
    addr: SocketAddr,
    name: &ServerName<'_>,
    protocol: Protocol,
    error: std::io::Error,
) -> Error {
    let Some(cause) = tls_error(&error) else {
        return Error::new(ErrorKind::TlsProtocol, addr)
            .with_detail("closed the connection during the TLS handshake")
            .with_source(error);
    };
    let (kind, detail) = match cause {
        rustls::Error::InvalidCertificate(wrong) => {
            (ErrorKind::TlsCertificate, certificate_detail(wrong, name))
        }
        rustls::Error::NoCertificatesPresented => {
            (ErrorKind::TlsCertificate, "has no certificate".to_owned())
        }
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => (
            ErrorKind::TlsProtocol,
            "answered with something that is not TLS".to_owned(),
        ),
        rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol) => {
            let detail = match protocol {
                Protocol::Http1 => "does not speak HTTP/1.1 over TLS",
                Protocol::Http2 => "does not speak HTTP/2 over TLS",
                Protocol::Negotiated => "speaks neither HTTP/2 nor HTTP/1.1 over TLS",
            };
            (ErrorKind::TlsProtocol, detail.to_owned())
        }
        rustls::Error::AlertReceived(alert) => (
            ErrorKind::TlsAlert,
            format!("broke off the TLS handshake: {}", alert_name(*alert)),
        ),
        // These are rustls's own words about bytes from the wire.
        other => (
            ErrorKind::TlsProtocol,
            format!("failed in the TLS handshake: {}", shown(&other.to_string())),
        ),
    };
    Error::new(kind, addr)
        .with_detail(detail)
        .with_source(error)
}

fn certificate_detail(wrong: &CertificateError, name: &ServerName<'_>) -> String {
    let name = name.to_str();
    match wrong {
        CertificateError::UnknownIssuer => {
            "has a certificate from an issuer that is not trusted here".to_owned()
        }
        CertificateError::BadSignature => {
            "has a certificate that its issuer has signed with another key than the one trusted here"
                .to_owned()
        }
        // webpki's word for what `openssl req -x509` makes; it is no type that can be named here.
        CertificateError::Other(other) if other.to_string() == "CaUsedAsEndEntity" => {
            "has a certificate that is self-signed, and not trusted here itself".to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "has a certificate that has expired".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "has a certificate that is not valid yet".to_owned()
        }
        CertificateError::NotValidForNameContext { presented, .. } if !presented.is_empty() => {
            let theirs = shown(&presented.join(", "));
            format!("has a certificate that is not for {name} but for {theirs}")
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!("has a certificate that is not for {name}")
        }
        other => format!(
            "has a certificate that is not valid: {}",
            shown(&other.to_string())
        ),
    }
}

/// What an answer that never came says, where the target gave its reason in an alert: it may
/// refuse a client without a certificate only after the handshake (RFC 8446, section 4.4.2.4).
pub(super) fn alert_after_handshake(error: &hyper::Error) -> Option<String> {
    let io = std::error::Error::source(error)?.downcast_ref::<std::io::Error>()?;
    match tls_error(io)? {
        rustls::Error::AlertReceived(alert) => Some(format!(
            "closed the connection before it answered: {}",
            alert_name(*alert)
        )),
        _ => None,
    }
}

fn tls_error(error: &std::io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// As RFC 8446, section 6 has it, in words; what it has not is a number.
fn alert_name(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::CertificateRequired => {
            "it asks for a client certificate, and there is none".to_owned()
        }
        AlertDescription::UnrecognisedName => {
            "it does not know the name it was asked for".to_owned()
        }
        AlertDescription::HandshakeFailure => "nothing that both ends can do (alert 40)".to_owned(),
        AlertDescription::ProtocolVersion => "no version that both ends speak".to_owned(),
        other => format!("alert {}", u8::from(other)),
    }
}

/// What came from the other side, safe to log and short (rule 7).
fn shown(text: &str) -> String {
    const LONGEST: usize = 200;
    let mut shown: String = text
        .chars()
        .take(LONGEST)
        .flat_map(char::escape_debug)
        .collect();
    if text.chars().nth(LONGEST).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_certificate_says_is_escaped_and_short() {
        assert_eq!(shown("a\nb"), "a\\nb");
        assert_eq!(shown(&"x".repeat(500)).chars().count(), 201);
    }
}
