//! The settings of TLS: towards targets, towards the service itself, and on the listener.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use devroute_tower::transport::TlsConfig;

use super::{ConfigError, Settings, Upstream, value};
use crate::server::Certificates;

/// TLS on the listener.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ListenerTls {
    /// What it shows to clients.
    pub certificates: Certificates,
    /// How often the files are looked at.
    pub reload: Duration,
}

impl ListenerTls {
    /// Serves `certificates`, and looks at their files every ten seconds.
    #[must_use]
    pub fn new(certificates: Certificates) -> Self {
        Self {
            certificates,
            reload: DEFAULT_RELOAD,
        }
    }
}

const DEFAULT_RELOAD: Duration = Duration::from_secs(10);

/// Certificate and key make sense together only.
pub(super) fn listener(settings: &Settings) -> Result<Option<ListenerTls>, ConfigError> {
    let certificate = settings.one("tls-cert", |path| match File::open(path) {
        Ok(_readable) => Ok(PathBuf::from(path)),
        Err(error) => Err(format!("{path}: it cannot be read: {error}")),
    })?;
    let certificates = settings.one("tls-key", |key| match &certificate {
        Some(certificate) => {
            Certificates::load(certificate, Path::new(key)).map_err(|error| error.to_string())
        }
        None => Err("is the key of a certificate: give that with --tls-cert".to_owned()),
    })?;
    if certificates.is_none() {
        settings.one("tls-cert", |_path| {
            Err::<(), _>("is worth nothing without its key: give that with --tls-key".to_owned())
        })?;
    }
    let reload = settings.one("tls-reload", value::positive_duration)?;
    Ok(certificates.map(|certificates| ListenerTls {
        certificates,
        reload: reload.unwrap_or(DEFAULT_RELOAD),
    }))
}

/// Whom to believe to be a target.
pub(super) fn targets(settings: &Settings) -> Result<TlsConfig, ConfigError> {
    let tls = trusting(settings, "target-ca")?;
    let insecure = settings.one("target-insecure", value::boolean)?;
    Ok(if insecure.unwrap_or(false) {
        tls.danger_accept_any_certificate()
    } else {
        tls
    })
}

/// Whom to believe to be the service; nothing where it is spoken to in plain text.
pub(super) fn upstream(
    settings: &Settings,
    upstream: &mut Upstream,
) -> Result<Option<TlsConfig>, ConfigError> {
    let Some(name) = &mut upstream.tls_name else {
        for setting in ["upstream-ca", "upstream-name"] {
            settings.one(setting, |_value| {
                Err::<(), _>("is for an upstream that begins with https://".to_owned())
            })?;
        }
        return Ok(None);
    };
    if let Some(other) = settings.one("upstream-name", value::tls_name)? {
        *name = other;
    }
    trusting(settings, "upstream-ca").map(Some)
}

/// What this machine trusts, and the authorities in the files that `setting` names.
///
/// A machine without any is no error: the images that hold one binary have none, and most that run
/// there never meet TLS.
pub(crate) fn trusting(settings: &Settings, setting: &str) -> Result<TlsConfig, ConfigError> {
    let unusable = |error| ConfigError::new(format!("TLS: {error}"));
    let mut tls = TlsConfig::system_roots()
        .or_else(|_none| TlsConfig::empty())
        .map_err(unusable)?;
    for pem in settings.many(setting, authorities)? {
        tls = tls.ca_pem(pem).map_err(unusable)?;
    }
    Ok(tls)
}

/// The content of a file of authorities.
fn authorities(path: &str) -> Result<Vec<u8>, String> {
    let pem = std::fs::read(path).map_err(|error| format!("{path}: {error}"))?;
    TlsConfig::empty()
        .and_then(|tls| tls.ca_pem(&pem))
        .map_err(|error| format!("{path}: {error}"))?;
    Ok(pem)
}
