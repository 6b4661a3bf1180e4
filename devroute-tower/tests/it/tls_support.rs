//! A certificate authority that lives for one test, and servers with certificates of it.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::Router;
use devroute_tower::transport::TlsConfig;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer},
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// Whoever trusts `pem` trusts what it has issued.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

/// A certificate and its key.
pub(crate) struct Identity {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) key: KeyPair,
    pub(crate) pem: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        Self::named(&NEXT.fetch_add(1, Ordering::Relaxed).to_string())
    }

    pub(crate) fn named(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        Self { issuer, pem }
    }

    /// A certificate for host names and addresses.
    pub(crate) fn issue(&self, names: &[&str]) -> Identity {
        self.issue_with(names, |_| ())
    }

    pub(crate) fn issue_with(
        &self,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Identity {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Identity {
            pem: certificate.pem(),
            certificate: certificate.into(),
            key,
        }
    }

    pub(crate) fn trusted(&self) -> TlsConfig {
        TlsConfig::empty().unwrap().ca_pem(&self.pem).unwrap()
    }
}

impl Identity {
    /// What `openssl req -x509` makes: a certificate that is its own authority.
    pub(crate) fn self_signed(names: &[&str]) -> Self {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self {
            pem: certificate.pem(),
            certificate: certificate.into(),
            key,
        }
    }

    pub(crate) fn server_config(&self, alpn: &[&str]) -> ServerConfig {
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], self.private_key())
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|it| it.as_bytes().to_vec()).collect();
        config
    }

    pub(crate) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::try_from(self.key.serialize_der()).unwrap()
    }
}

/// What each handshake with a server was about.
#[derive(Clone, Default)]
pub(crate) struct Handshakes(Arc<Mutex<Vec<Handshake>>>);

/// The server name that the client asked for, and the protocol that was agreed on.
pub(crate) type Handshake = (Option<String>, Option<String>);

impl Handshakes {
    pub(crate) fn all(&self) -> MutexGuard<'_, Vec<Handshake>> {
        self.0.lock().unwrap()
    }

    fn note(&self, stream: &TlsStream<TcpStream>) {
        let (_, session) = stream.get_ref();
        let alpn = session.alpn_protocol();
        self.all().push((
            session.server_name().map(ToOwned::to_owned),
            alpn.map(|it| String::from_utf8_lossy(it).into_owned()),
        ));
    }
}

/// Hands every connection whose handshake succeeds to `serve`.
pub(crate) async fn listen<F>(
    config: ServerConfig,
    serve: impl Fn(TlsStream<TcpStream>) -> F + Clone + Send + 'static,
) -> (SocketAddr, Handshakes)
where
    F: Future<Output = ()> + Send + 'static,
{
    listen_at("127.0.0.1:0", config, serve).await
}

/// The same at an address or name of the test's choice.
pub(crate) async fn listen_at<F>(
    at: &str,
    config: ServerConfig,
    serve: impl Fn(TlsStream<TcpStream>) -> F + Clone + Send + 'static,
) -> (SocketAddr, Handshakes)
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind(at).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let handshakes = Handshakes::default();
    let seen = handshakes.clone();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (acceptor, seen, serve) = (acceptor.clone(), seen.clone(), serve.clone());
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    seen.note(&stream);
                    serve(stream).await;
                }
            });
        }
    });
    (addr, handshakes)
}

/// Serves `app` by TLS.
pub(crate) async fn serve_tls(config: ServerConfig, app: Router) -> (SocketAddr, Handshakes) {
    serve_tls_at("127.0.0.1:0", config, app).await
}

/// The same at an address or name of the test's choice.
pub(crate) async fn serve_tls_at(
    at: &str,
    config: ServerConfig,
    app: Router,
) -> (SocketAddr, Handshakes) {
    listen_at(at, config, move |stream| {
        let service = hyper_util::service::TowerToHyperService::new(app.clone());
        async move {
            let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            let _ = builder
                .serve_connection_with_upgrades(TokioIo::new(stream), service)
                .await;
        }
    })
    .await
}
