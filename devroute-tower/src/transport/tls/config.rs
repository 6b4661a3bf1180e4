//! Which certificates a target may have.

use std::{fmt, path::Path, sync::Arc};

use rustls::{
    ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier,
    client::WebPkiServerVerifier,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject as _},
};

use super::verify::Verifier;
use crate::BoxError;

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
    /// Shared: a machine trusts many, and a process may have a transport a thread.
    roots: Arc<RootCertStore>,
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
            roots: Arc::new(RootCertStore::empty()),
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
        let (added, _ignored) =
            Arc::make_mut(&mut config.roots).add_parsable_certificates(found.certs);
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
            Arc::make_mut(&mut self.roots)
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

    /// The same as a configuration of rustls, which offers `alpn` (RFC 7301): for connections that are opened in
    /// another way than by a transport.
    #[must_use]
    pub fn into_client_config(self, alpn: &[&[u8]]) -> ClientConfig {
        let provider = Arc::clone(self.builder.crypto_provider());
        // Fails only without a single root: then there is nobody to ask.
        let inner = WebPkiServerVerifier::builder_with_provider(self.roots, Arc::clone(&provider))
            .build()
            .ok();
        let verifier = Verifier::new(provider, inner, self.given, self.accept_any);
        let mut config = self
            .builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        config
    }

    /// Whether every certificate is refused, because nobody is trusted.
    #[must_use]
    pub fn trusts_nobody(&self) -> bool {
        self.roots.is_empty() && !self.accept_any
    }

    /// Whether every certificate is taken
    /// ([`danger_accept_any_certificate`](Self::danger_accept_any_certificate)).
    #[must_use]
    pub fn accepts_any(&self) -> bool {
        self.accept_any
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

#[cfg(test)]
mod tests {
    use super::*;

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
