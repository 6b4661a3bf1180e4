//! Settles the one address that a rerouted request is sent to.

use std::net::SocketAddr;

use devroute_core::{Host, Permit, Refusal, Target};

use super::Settings;
use crate::transport::{Error, ErrorKind};

/// Why there is none.
pub(super) enum NoAddress {
    Refused(Refusal),
    Error(Error),
}

/// The one address that is dialled: judged, and not looked up again afterwards.
pub(super) async fn address(
    settings: &Settings,
    target: &Target,
    permit: Permit,
) -> Result<SocketAddr, NoAddress> {
    if let Some(via) = settings.via {
        return Ok(via);
    }
    match permit {
        Permit::Address(addr) => Ok(addr),
        _ => resolve(settings, target).await,
    }
}

/// Rule 3: every address of a name is judged, and one that is refused refuses the name.
async fn resolve(settings: &Settings, target: &Target) -> Result<SocketAddr, NoAddress> {
    let name = match target.host() {
        Host::Name(name) => name.as_str().to_owned(),
        Host::Ip(ip) => ip.to_string(),
    };
    let found = settings
        .lookups
        .find(name.into(), target.port(), settings.resolve_timeout)
        .await
        .map_err(NoAddress::Error)?;
    let mut first = None;
    for addr in found {
        let addr = settings
            .policy
            .judge_addr(addr)
            .map_err(NoAddress::Refused)?;
        first = first.or(Some(addr));
    }
    first.ok_or_else(|| NoAddress::Error(Error::without_addr(ErrorKind::DnsFailed)))
}
