//! The certificate of a listener, and how it is replaced while the listener runs.
//!
//! Certificates expire, and whoever issues them (cert-manager, an ACME client) writes the new one over
//! the old. The files are read again every now and then and compared by content, since neither the
//! time of a file nor a notification survives the symbolic links that Kubernetes mounts secrets by.
//! Connections that are open stay as they are; a new one gets the new certificate.
//!
//! What is refused: a certificate without its key, and a key that is not the certificate's. Found
//! while the listener runs, that leaves the old pair in use, and is logged once until the files change.
//!
//! ```
//! use devroute_proxy::server::Certificates;
//!
//! let error = Certificates::load("nowhere.pem".as_ref(), "nowhere.key".as_ref()).unwrap_err();
//! assert!(error.to_string().starts_with("nowhere.pem: "));
//! ```

use std::error::Error as StdError;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_rustls::TlsAcceptor;

use super::BoxError;
use crate::shutdown::Signal;

/// A certificate chain and its key, as two PEM files have them. Clones share what is in use.
#[derive(Clone)]
pub struct Certificates {
    files: Arc<Files>,
    current: Arc<Current>,
    acceptor: TlsAcceptor,
}

impl Certificates {
    /// Reads the chain, the server's own certificate first, and the key of that one.
    ///
    /// # Errors
    ///
    /// When a file cannot be read, has nothing of its kind in it, or the two do not belong together.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, CertificateError> {
        let files = Files {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            provider: ring::default_provider(),
            seen: Mutex::default(),
        };
        let read = files.read()?;
        let pair = files.parse(&read)?;
        *files.seen.lock().unwrap_or_else(PoisonError::into_inner) = read;

        let current = Arc::new(Current(RwLock::new(Arc::new(pair))));
        let unusable = |error| CertificateError::new(certificate, "TLS cannot be set up", error);
        let mut config = ServerConfig::builder_with_provider(Arc::new(files.provider.clone()))
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&current) as Arc<dyn ResolvesServerCert>);
        // A client that has no other in its list than ours is sent away (RFC 7301, section 3.2), so
        // everything is there that is spoken.
        config.alpn_protocols = [&b"h2"[..], b"http/1.1", b"http/1.0"]
            .map(<[u8]>::to_vec)
            .into();
        Ok(Self {
            files: Arc::new(files),
            current,
            acceptor: Arc::new(config).into(),
        })
    }

    /// Reads the files again, and serves what is in them from the next connection on; whether
    /// anything had changed.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load), and once for each content: what was in use stays in use.
    pub fn reload(&self) -> Result<bool, CertificateError> {
        let read = self.files.read();
        let mut seen = self
            .files
            .seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let read = match read {
            Ok(read) if read == *seen => return Ok(false),
            // That a file is gone is said once as well.
            Err(_) if seen.is_empty() => return Ok(false),
            Ok(read) => read,
            Err(error) => {
                seen.clear();
                return Err(error);
            }
        };
        let parsed = self.files.parse(&read);
        *seen = read;
        let pair = Arc::new(parsed?);
        *self
            .current
            .0
            .write()
            .unwrap_or_else(PoisonError::into_inner) = pair;
        Ok(true)
    }

    /// Reloads whenever `period` is over, until `signal`.
    pub(crate) async fn watch(self, period: Duration, mut signal: Signal) {
        loop {
            tokio::select! {
                () = signal.wait() => return,
                () = tokio::time::sleep(period) => {}
            }
            let certificates = self.clone();
            // A file may be on a network; the accept loop must not wait for it.
            let reloaded = tokio::task::spawn_blocking(move || certificates.reload()).await;
            match reloaded {
                Ok(Ok(true)) => tracing::info!(
                    certificate = %self.files.certificate.display(),
                    "the certificate was replaced"
                ),
                Ok(Ok(false)) => {}
                Ok(Err(error)) => {
                    tracing::error!(%error, "the certificate was not replaced; the old one stays");
                }
                Err(error) => tracing::error!(%error, "the certificate was not looked at"),
            }
        }
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        self.acceptor.clone()
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates")
            .field("certificate", &self.files.certificate)
            .finish_non_exhaustive()
    }
}

/// Where a pair comes from.
struct Files {
    certificate: PathBuf,
    key: PathBuf,
    provider: CryptoProvider,
    /// What was in the files when they were last looked at, good or not.
    seen: Mutex<Content>,
}

/// What is in the two files.
#[derive(Default, Eq, PartialEq)]
struct Content {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Content {
    fn is_empty(&self) -> bool {
        self.certificate.is_empty() && self.key.is_empty()
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Files {
    fn read(&self) -> Result<Content, CertificateError> {
        let read = |path: &Path| {
            std::fs::read(path)
                .map_err(|error| CertificateError::new(path, "it cannot be read", error))
        };
        Ok(Content {
            certificate: read(&self.certificate)?,
            key: read(&self.key)?,
        })
    }

    fn parse(&self, content: &Content) -> Result<CertifiedKey, CertificateError> {
        let (at, no) = (&*self.certificate, "there is no certificate in it");
        let chain = CertificateDer::pem_slice_iter(&content.certificate)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| CertificateError::new(at, no, error))?;
        if chain.is_empty() {
            return Err(CertificateError::new(at, no, "PEM is expected"));
        }
        let key = PrivateKeyDer::from_pem_slice(&content.key).map_err(|error| {
            CertificateError::new(&self.key, "there is no private key in it", error)
        })?;
        CertifiedKey::from_der(chain, key, &self.provider).map_err(|error| {
            let wrong = format!("it is not the key of {}", self.certificate.display());
            CertificateError::new(&self.key, &wrong, error)
        })
    }
}

/// The pair that the next connection gets, whatever name it asks for.
#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let current = self.0.read().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(&current))
    }
}

/// Why a certificate cannot be served; names the file.
#[derive(Debug)]
pub struct CertificateError {
    what: String,
    source: BoxError,
}

impl CertificateError {
    fn new(path: &Path, what: &str, source: impl Into<BoxError>) -> Self {
        Self {
            what: format!("{}: {what}", path.display()),
            source: source.into(),
        }
    }
}

impl fmt::Display for CertificateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.source)
    }
}

impl StdError for CertificateError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.source)
    }
}
