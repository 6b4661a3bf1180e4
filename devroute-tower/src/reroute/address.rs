//! Settles the address that a rerouted request is sent to.

use std::net::SocketAddr;

use devroute_core::{Host, Permit, Refusal, Target};

use super::Settings;
use crate::transport::{Error, ErrorKind};

/// The most addresses of a name that are tried: they share the time there is for connecting.
const MAX_ADDRESSES: usize = 4;

/// Why there is none.
pub(super) enum NoAddress {
    Refused(Refusal),
    Error(Error),
}

/// The address that is dialled, and those that may be dialled where it does not answer: each judged, and
/// not looked up again afterwards.
pub(super) async fn address(
    settings: &Settings,
    target: &Target,
    permit: &Permit,
) -> Result<(SocketAddr, Vec<SocketAddr>), NoAddress> {
    if let Some(via) = &settings.via {
        let unknown = || NoAddress::Error(Error::without_addr(ErrorKind::DnsFailed));
        return via.get().map(|via| (via, Vec::new())).ok_or_else(unknown);
    }
    match permit {
        Permit::Address(addr) => Ok((*addr, Vec::new())),
        // In a box, since nearly every target is an address, and its future is moved with each request.
        _ => Box::pin(resolve(settings, target)).await,
    }
}

/// Rule 3: every address of a name is judged, and one that is refused refuses the name.
async fn resolve(
    settings: &Settings,
    target: &Target,
) -> Result<(SocketAddr, Vec<SocketAddr>), NoAddress> {
    let name = match target.host() {
        Host::Name(name) => name.as_str().to_owned(),
        Host::Ip(ip) => ip.to_string(),
    };
    let found = settings
        .lookups
        .find(name.into(), target.port(), settings.resolve_timeout)
        .await
        .map_err(NoAddress::Error)?;
    let mut judged = Vec::new();
    for addr in found {
        let addr = settings
            .policy
            .judge_addr(addr)
            .map_err(NoAddress::Refused)?;
        if judged.len() < MAX_ADDRESSES && !judged.contains(&addr) {
            judged.push(addr);
        }
    }
    if judged.is_empty() {
        return Err(NoAddress::Error(Error::without_addr(ErrorKind::DnsFailed)));
    }
    Ok((judged.remove(0), judged))
}
