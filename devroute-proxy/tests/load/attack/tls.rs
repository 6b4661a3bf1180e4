//! A certificate that lives for one run, and what clients do to a server of TLS.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::sleep;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Ground, Result, pace};

/// The flags of a proxy that shows the certificate, and a client that believes it.
pub(crate) fn identity() -> (Vec<String>, TlsConnector) {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("attack");
    std::fs::create_dir_all(&directory).unwrap();
    let (cert, key) = (directory.join("cert.pem"), directory.join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Each handshake is a whole one.
    config.resumption = rustls::client::Resumption::disabled();
    let flags = vec![
        format!("--tls-cert={}", cert.display()),
        format!("--tls-key={}", key.display()),
    ];
    (flags, TlsConnector::from(Arc::new(config)))
}

pub(crate) async fn connect(
    connector: &TlsConnector,
    address: SocketAddr,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let name = std::net::IpAddr::from([127, 0, 0, 1]).into();
    connector.connect(name, stream).await
}

/// Handshakes that are for nothing: complete, cut off in the middle, never finished, and no TLS at all.
pub(super) async fn handshakes(ground: Ground, connector: TlsConnector, index: usize) -> Result {
    for round in 0..20 {
        ground.count(1);
        match (index + round) % 4 {
            0 => drop(connect(&connector, ground.proxy).await?),
            1 => {
                let handshake = connect(&connector, ground.proxy);
                let _ = tokio::time::timeout(Duration::from_micros(200), handshake).await;
            }
            2 => {
                let mut stream = TcpStream::connect(ground.proxy).await?;
                stream.write_all(&[0x16, 3, 1, 2, 0, 1]).await?;
                let _ = stream.read(&mut [0; 64]).await;
            }
            _ => {
                let mut stream = TcpStream::connect(ground.proxy).await?;
                stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await?;
                let _ = stream.read(&mut [0; 64]).await;
            }
        }
        sleep(pace(2)).await;
    }
    Ok(())
}
