//! The addresses of this machine, as its interfaces have them. No packet is sent to find out.

use std::io;
use std::net::IpAddr;

use devroute_tower::core::{Target, TargetPolicy};

/// An address that others might reach this machine at.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Address {
    pub(crate) ip: IpAddr,
    pub(crate) interface: String,
}

/// The addresses that leave this machine, the likeliest first.
///
/// # Errors
///
/// When the system does not tell its interfaces.
pub(crate) fn addresses() -> io::Result<Vec<Address>> {
    let mut found: Vec<(Likelihood, Address)> = if_addrs::get_if_addrs()?
        .into_iter()
        .filter(|interface| !interface.is_loopback() && !interface.is_link_local())
        .map(|interface| {
            let ip = interface.ip();
            let rank = likelihood(ip, &interface.name, interface.is_p2p());
            (
                rank,
                Address {
                    ip,
                    interface: interface.name,
                },
            )
        })
        .collect();
    // Stable: among equals, the order of the system.
    found.sort_by_key(|(likelihood, _)| *likelihood);
    Ok(found.into_iter().map(|(_, address)| address).collect())
}

/// How likely a cluster reaches it; the least value is the likeliest.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Likelihood {
    /// A private address at the end of a tunnel: where there is a VPN, it is the way to the cluster.
    Vpn,
    Private,
    /// Tailscale and the like, which the policy allows only when told to.
    Cgnat,
    PrivateV6,
    /// What the default policy refuses.
    Other,
    /// Bridges of containers and virtual machines: another network, on this machine alone.
    Bridge,
}

fn likelihood(ip: IpAddr, interface: &str, is_point_to_point: bool) -> Likelihood {
    const BRIDGES: [&str; 14] = [
        "bridge", "br-", "cali", "cilium", "cni", "docker", "flannel", "lxc", "lxd", "podman",
        "vboxnet", "veth", "virbr", "vmnet",
    ];
    let target = Target::from(std::net::SocketAddr::new(ip, 1));
    let is_private = TargetPolicy::default().judge(&target).is_ok();
    let is_shared = TargetPolicy::default()
        .allow_cgnat(true)
        .judge(&target)
        .is_ok();
    if BRIDGES.iter().any(|bridge| interface.starts_with(bridge)) {
        Likelihood::Bridge
    } else if is_private && ip.is_ipv4() {
        if is_point_to_point {
            Likelihood::Vpn
        } else {
            Likelihood::Private
        }
    } else if is_private {
        Likelihood::PrivateV6
    } else if is_shared {
        Likelihood::Cgnat
    } else {
        Likelihood::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vpn_comes_first_and_a_bridge_of_containers_last() {
        let mut ranked = [
            ("172.17.0.1", "docker0", false),
            ("203.0.113.7", "eth1", false),
            ("fd00::7", "eth0", false),
            ("100.101.102.103", "tailscale0", true),
            ("192.168.1.12", "eth0", false),
            ("10.8.0.7", "tun0", true),
        ];
        ranked.sort_by_key(|(ip, name, p2p)| likelihood(ip.parse().unwrap(), name, *p2p));
        let names = ranked.map(|(ip, ..)| ip);
        assert_eq!(
            names,
            [
                "10.8.0.7",
                "192.168.1.12",
                "100.101.102.103",
                "fd00::7",
                "203.0.113.7",
                "172.17.0.1"
            ]
        );
    }
}
