//! TLS to targets: whom to trust, and what a failed handshake means.
//!
//! A target that says `https://` is spoken to by TLS 1.2 or 1.3. Its certificate has to be for the
//! name in the contract, or for the address where the contract has an address (RFC 9525, section
//! 6), and from an issuer that [`TlsConfig`] trusts. There is no way round that but
//! [`danger_accept_any_certificate`](TlsConfig::danger_accept_any_certificate).
//!
//! HTTP/2 is spoken where ALPN agrees on `h2` and not otherwise (RFC 9113, section 3.2): each
//! protocol offers itself alone, so a target that prefers the other still takes it where it can.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
};

use rustls::{
    AlertDescription, CertificateError, ClientConfig, ConfigBuilder, InvalidMessage, RootCertStore,
    WantsVerifier,
    client::WebPkiServerVerifier,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{Error, ErrorKind, Protocol, verify::Verifier};
use crate::BoxError;

const H2: &[u8] = b"h2";
const HTTP_1_1: &[u8] = b"http/1.1";

/// Which certificates a target may have.
///
/// ```
/// use devroute_tower::transport::{HttpTransport, TlsConfig};
///
/// # fn example() -> Result<HttpTransport, devroute_tower::transport::TlsConfigError> {
/// // What this machine trusts, and the authority that issues the laptops' certificates.
/// let tls = TlsConfig::system_roots()?.ca_file("/etc/devroute/laptops.pem")?;
/// let transport = HttpTransport::new().tls(tls);
/// # Ok(transport)
/// # }
/// assert!(TlsConfig::empty()?.trusts_nobody());
/// let error = TlsConfig::empty()?.ca_pem(b"no certificate").unwrap_err();
/// assert_eq!(error.to_string(), "there is no certificate in it: PEM is expected");
/// # Ok::<(), devroute_tower::transport::TlsConfigError>(())
/// ```
#[derive(Clone)]
pub struct TlsConfig {
    builder: ConfigBuilder<ClientConfig, WantsVerifier>,
    roots: RootCertStore,
    given: Vec<CertificateDer<'static>>,
    accept_any: bool,
}

impl TlsConfig {
    /// Trusts nobody until it is told whom.
    ///
    /// # Errors
    ///
    /// When the cryptography cannot be set up.
    pub fn empty() -> Result<Self, TlsConfigError> {
        // Named here, so that neither what else is compiled in nor what the process has installed
        // as its default decides.
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsConfigError::new("TLS cannot be set up", error))?;
        Ok(Self {
            builder,
            roots: RootCertStore::empty(),
            given: Vec::new(),
            accept_any: false,
        })
    }

    /// Trusts the authorities that this machine trusts; `SSL_CERT_FILE` and `SSL_CERT_DIR` name
    /// others in their place, as they do for OpenSSL.
    ///
    /// # Errors
    ///
    /// When the machine names none, as in an image without the package `ca-certificates`.
    pub fn system_roots() -> Result<Self, TlsConfigError> {
        let mut config = Self::empty()?;
        let found = rustls_native_certs::load_native_certs();
        // Among the many that a system has there are some that are not for us; that is normal.
        let (added, _ignored) = config.roots.add_parsable_certificates(found.certs);
        if added > 0 {
            return Ok(config);
        }
        let what = "this machine names no certificate authority";
        Err(match found.errors.into_iter().next() {
            Some(error) => TlsConfigError::new(what, error),
            None => TlsConfigError::of(what),
        })
    }

    /// Trusts the certificates in a PEM file too: those that an authority among them has issued,
    /// and each of them itself.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or is not what [`ca_pem`](Self::ca_pem) takes.
    pub fn ca_file(self, path: impl AsRef<Path>) -> Result<Self, TlsConfigError> {
        let path = path.as_ref();
        let at = |mut error: TlsConfigError| {
            error.what = format!("{}: {}", path.display(), error.what);
            error
        };
        let pem = std::fs::read(path)
            .map_err(|error| at(TlsConfigError::new("it cannot be read", error)))?;
        self.ca_pem(&pem).map_err(at)
    }

    /// Trusts certificates in PEM (RFC 7468) too: those that an authority among them has issued,
    /// and each of them itself, which makes a self-signed one its own authority.
    ///
    /// # Errors
    ///
    /// When there is none, or one is not a certificate.
    pub fn ca_pem(mut self, pem: impl AsRef<[u8]>) -> Result<Self, TlsConfigError> {
        let before = self.given.len();
        for certificate in CertificateDer::pem_slice_iter(pem.as_ref()) {
            let wrong = "there is something in it that is not a certificate";
            let certificate = certificate.map_err(|error| TlsConfigError::new(wrong, error))?;
            self.roots
                .add(certificate.clone())
                .map_err(|error| TlsConfigError::new(wrong, error))?;
            self.given.push(certificate);
        }
        if self.given.len() == before {
            return Err(TlsConfigError::of(
                "there is no certificate in it: PEM is expected",
            ));
        }
        Ok(self)
    }

    /// Whether every certificate is refused, because nobody is trusted.
    #[must_use]
    pub fn trusts_nobody(&self) -> bool {
        self.roots.is_empty() && !self.accept_any
    }

    /// Takes any certificate for any name: whoever answers at the address is believed.
    ///
    /// For laptops with a certificate that nobody has issued. The connection is encrypted, and
    /// everybody on the way can still read it by standing in for the target.
    #[must_use]
    pub fn danger_accept_any_certificate(mut self) -> Self {
        self.accept_any = true;
        self
    }
}

impl fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsConfig")
            .field("roots", &self.roots.len())
            .field("accept_any", &self.accept_any)
            .finish()
    }
}

/// Why there is no [`TlsConfig`].
#[derive(Debug)]
pub struct TlsConfigError {
    what: String,
    source: Option<BoxError>,
}

impl TlsConfigError {
    fn of(what: &str) -> Self {
        Self {
            what: what.to_owned(),
            source: None,
        }
    }

    fn new(what: &str, source: impl Into<BoxError>) -> Self {
        Self {
            source: Some(source.into()),
            ..Self::of(what)
        }
    }
}

impl fmt::Display for TlsConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        match &self.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for TlsConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// Whom a certificate has to be for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Name(Arc<ServerName<'static>>);

impl Name {
    /// The name where there is one, else the address, which no client tells the server (RFC 6066,
    /// section 3).
    pub(super) fn new(name: Option<&str>, addr: SocketAddr) -> Result<Self, Error> {
        let name = match name {
            Some(name) => ServerName::try_from(name.to_owned()).map_err(|error| {
                Error::new(ErrorKind::TlsCertificate, addr)
                    .with_detail("is asked for by a name that no certificate can have")
                    .with_source(error)
            })?,
            None => ServerName::from(match addr.ip() {
                IpAddr::V6(ip) => ip.to_canonical(),
                ip @ IpAddr::V4(_) => ip,
            }),
        };
        Ok(Self(Arc::new(name)))
    }
}

/// Turns connections into encrypted ones.
#[derive(Clone)]
pub(super) struct Handshaker {
    h1: TlsConnector,
    h2: TlsConnector,
}

impl Handshaker {
    pub(super) fn new(config: TlsConfig) -> Self {
        let provider: Arc<CryptoProvider> = Arc::clone(config.builder.crypto_provider());
        // Fails only without a single root: then there is nobody to ask.
        let inner = WebPkiServerVerifier::builder_with_provider(
            Arc::new(config.roots),
            Arc::clone(&provider),
        )
        .build()
        .ok();
        let verifier = Verifier::new(provider, inner, config.given, config.accept_any);
        let mut h1 = config
            .builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        let mut h2 = h1.clone();
        h1.alpn_protocols = vec![HTTP_1_1.to_vec()];
        h2.alpn_protocols = vec![H2.to_vec()];
        Self {
            h1: Arc::new(h1).into(),
            h2: Arc::new(h2).into(),
        }
    }

    /// Makes sure of the other end, and that it speaks `protocol`.
    pub(super) async fn handshake(
        &self,
        stream: TcpStream,
        addr: SocketAddr,
        Name(name): &Name,
        protocol: Protocol,
    ) -> Result<TlsStream<TcpStream>, Error> {
        let connector = match protocol {
            Protocol::Http1 => &self.h1,
            Protocol::Http2 => &self.h2,
        };
        let stream = connector
            .connect(ServerName::clone(name), stream)
            .await
            .map_err(|error| failed(addr, name, protocol, error))?;
        let (_, session) = stream.get_ref();
        // A server without ALPN speaks HTTP/1.1.
        if protocol == Protocol::Http2 && session.alpn_protocol() != Some(H2) {
            return Err(Error::new(ErrorKind::TlsProtocol, addr)
                .with_detail("does not speak HTTP/2 over TLS"));
        }
        Ok(stream)
    }
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
    fn an_address_is_a_name_of_its_own() {
        let name = |name, addr: &str| Name::new(name, addr.parse().unwrap()).unwrap();
        let addr = "10.0.0.1:443";
        assert_eq!(name(None, addr), name(None, "[::ffff:10.0.0.1]:443"));
        assert_ne!(name(None, addr), name(Some("foo.qa"), addr));
        assert_eq!(name(Some("Foo.qa"), addr), name(Some("foo.qa"), addr));
        let error = Name::new(Some("no name"), addr.parse().unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TlsCertificate);
    }

    #[test]
    fn what_a_certificate_says_is_escaped_and_short() {
        assert_eq!(shown("a\nb"), "a\\nb");
        assert_eq!(shown(&"x".repeat(500)).chars().count(), 201);
    }

    #[test]
    fn what_is_no_authority_is_refused_with_its_place() {
        let error = TlsConfig::empty()
            .unwrap()
            .ca_file("/nowhere.pem")
            .unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("/nowhere.pem: it cannot be read: "),
            "{error}"
        );
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let error = TlsConfig::empty().unwrap().ca_pem(broken).unwrap_err();
        assert!(error.to_string().contains("not a certificate"), "{error}");
    }
}
