//! Settles the address that a rerouted request is sent to.

use std::net::SocketAddr;

use devroute_core::{Host, Permit, Refusal, Target, TargetPolicy};

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
    let mut judged = judged(found, &settings.policy).map_err(NoAddress::Refused)?;
    if judged.is_empty() {
        return Err(NoAddress::Error(Error::without_addr(ErrorKind::DnsFailed)));
    }
    Ok((judged.remove(0), judged))
}

/// Those that are dialled, each once; judged are those too that are not.
fn judged(found: Vec<SocketAddr>, policy: &TargetPolicy) -> Result<Vec<SocketAddr>, Refusal> {
    let mut judged = Vec::new();
    for addr in found {
        let addr = policy.judge_addr(addr)?;
        if judged.len() < MAX_ADDRESSES && !judged.contains(&addr) {
            judged.push(addr);
        }
    }
    Ok(judged)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(found: &[&str]) -> Result<Vec<String>, SocketAddr> {
        let found = found.iter().map(|addr| addr.parse().unwrap()).collect();
        match judged(found, &TargetPolicy::default()) {
            Ok(judged) => Ok(judged.iter().map(ToString::to_string).collect()),
            Err(refusal) => Err(refusal.addr().unwrap()),
        }
    }

    #[test]
    fn rule_03_four_addresses_of_a_name_are_dialled_each_once() {
        let four = ["10.0.0.1:80", "[fd00::1]:80", "10.0.0.2:80", "10.0.0.3:80"];
        assert_eq!(judge(&four).unwrap(), four);
        let more = [&four[..], &["10.0.0.4:80", "10.0.0.5:80"]].concat();
        assert_eq!(judge(&more).unwrap(), four);
        let twice = ["10.0.0.1:80", "10.0.0.1:80", "[::ffff:10.0.0.1]:80"];
        assert_eq!(judge(&twice).unwrap(), four[..1]);
        assert_eq!(judge(&[]).unwrap(), [""; 0]);
    }

    #[test]
    fn rule_03_one_address_that_is_refused_refuses_the_name_also_where_it_is_not_dialled() {
        let metadata = "169.254.169.254:80";
        for place in 0..6 {
            let mut found = [
                "10.0.0.1:80",
                "10.0.0.2:80",
                "10.0.0.3:80",
                "10.0.0.4:80",
                "10.0.0.5:80",
            ]
            .to_vec();
            found.insert(place, metadata);
            assert_eq!(judge(&found), Err(metadata.parse().unwrap()), "{place}");
        }
    }
}
