//! Who may call the addresses of services, and where these may be.

use std::net::{IpAddr, SocketAddr};

use devroute_tower::core::{NetworkRule, TargetPolicy};

/// The networks that requests to the addresses of services are taken from: this machine and the private ones, unless
/// others are named.
///
/// ```
/// use devroute_tunnel::hub::Sources;
///
/// assert!(Sources::default().contains("10.1.2.3".parse()?));
/// assert!(!Sources::default().contains("203.0.113.7".parse()?));
/// let pods = Sources::default().only("10.244.0.0/16".parse()?);
/// assert!(!pods.contains("10.1.2.3".parse()?));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Sources(Vec<NetworkRule>);

impl Sources {
    /// Takes them from `network`, and from others that are named, and nowhere else.
    #[must_use]
    pub fn only(mut self, network: NetworkRule) -> Self {
        self.0.push(network);
        self
    }

    /// Whether requests from there are taken.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        let at = SocketAddr::new(ip.to_canonical(), 0);
        if self.0.is_empty() {
            is_private(ip)
        } else {
            self.0.iter().any(|network| network.matches(at))
        }
    }
}

/// Whether it is an address of this machine or a private network, and not one that the internet reaches.
pub(crate) fn is_private(ip: IpAddr) -> bool {
    let policy = TargetPolicy::default().allow_loopback(true);
    policy
        .judge_addr(SocketAddr::new(ip.to_canonical(), 1))
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_what_the_internet_does_not_reach() {
        let default = Sources::default();
        for ip in [
            "127.0.0.1",
            "::1",
            "192.168.1.1",
            "fd00::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(default.contains(ip.parse().unwrap()), "{ip}");
        }
        for ip in [
            "0.0.0.0",
            "8.8.8.8",
            "169.254.169.254",
            "100.64.0.1",
            "2001:db8::1",
        ] {
            assert!(!default.contains(ip.parse().unwrap()), "{ip}");
        }
        let named = Sources::default().only("100.64.0.0/10".parse().unwrap());
        assert!(named.contains("100.64.0.1".parse().unwrap()));
        assert!(!named.contains("127.0.0.1".parse().unwrap()));
    }
}
