//! Networks and port ranges, as the rules of a policy write them.

use std::error::Error;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;

use crate::target::parse_port;

/// A network, and optionally a port or a range of ports.
///
/// `10.0.0.0/8`, `10.0.0.5`, `fd00::/8`; with ports `10.0.0.0/8:8000-8999`, `[fd00::/8]:8000`. Bits behind the
/// prefix must be zero: `10.0.0.5/8` is more likely a slip than a network. A network inside `::ffff:0:0/96` is
/// the IPv4 network that it maps.
///
/// ```
/// use devroute_core::NetworkRule;
///
/// let rule: NetworkRule = "10.0.0.0/8:8000-8999".parse()?;
/// assert!(rule.matches(([10, 1, 2, 3], 8001).into()));
/// assert!(!rule.matches(([10, 1, 2, 3], 9000).into()));
/// assert!("10.0.0.5/8".parse::<NetworkRule>().is_err());
/// # Ok::<(), devroute_core::NetworkRuleError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NetworkRule {
    network: Network,
    ports: Option<RangeInclusive<u16>>,
}

impl NetworkRule {
    /// Whether the address is in the network and its port in the range.
    ///
    /// An IPv4-mapped IPv6 address is the IPv4 address that it holds.
    #[must_use]
    pub fn matches(&self, addr: SocketAddr) -> bool {
        self.covers(addr.ip().to_canonical(), addr.port())
    }

    /// What [`matches`](Self::matches) says of a canonical address.
    pub(super) fn covers(&self, ip: IpAddr, port: u16) -> bool {
        self.network.contains(ip)
            && self
                .ports
                .as_ref()
                .is_none_or(|ports| ports.contains(&port))
    }

    /// Whether it is about some ports only.
    #[must_use]
    pub fn names_port(&self) -> bool {
        self.ports.is_some()
    }

    pub(super) fn network(&self) -> &Network {
        &self.network
    }
}

impl From<IpAddr> for NetworkRule {
    /// One address, all ports.
    fn from(ip: IpAddr) -> Self {
        let ip = ip.to_canonical();
        Self {
            network: Network {
                base: ip,
                prefix: width(ip),
            },
            ports: None,
        }
    }
}

impl FromStr for NetworkRule {
    type Err = NetworkRuleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = |expected| NetworkRuleError { expected };
        let (network, ports) = if let Some(inner) = text.strip_prefix('[') {
            let (network, after) = inner
                .split_once(']')
                .ok_or_else(|| error("a `]` after the network"))?;
            match after.strip_prefix(':') {
                Some(ports) => (network, Some(ports)),
                None if after.is_empty() => (network, None),
                None => return Err(error("`:` and ports, or nothing, after the `]`")),
            }
        } else {
            match text.split_once(':') {
                // A second colon: IPv6, which takes ports only behind its bracket.
                Some((_, ports)) if ports.contains(':') => (text, None),
                Some((network, ports)) => (network, Some(ports)),
                None => (text, None),
            }
        };
        let ports = match ports {
            Some(ports) => Some(
                parse_ports(ports)
                    .ok_or_else(|| error("a port or a range of ports such as 8000-8999"))?,
            ),
            None => None,
        };
        Ok(Self {
            network: network.parse()?,
            ports,
        })
    }
}

impl fmt::Display for NetworkRule {
    /// The inverse of `FromStr`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(ports) = &self.ports else {
            return self.network.fmt(f);
        };
        match self.network.base {
            IpAddr::V4(_) => write!(f, "{}:", self.network)?,
            IpAddr::V6(_) => write!(f, "[{}]:", self.network)?,
        }
        match (ports.start(), ports.end()) {
            (first, last) if first == last => first.fmt(f),
            (first, last) => write!(f, "{first}-{last}"),
        }
    }
}

/// Why some text is not a [`NetworkRule`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkRuleError {
    expected: &'static str,
}

impl fmt::Display for NetworkRuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid network: expected {}", self.expected)
    }
}

impl Error for NetworkRuleError {}

/// An address and how many of its leading bits count; the others are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Network {
    base: IpAddr,
    prefix: u8,
}

impl Network {
    pub(super) const fn v4(base: Ipv4Addr, prefix: u8) -> Self {
        Self {
            base: IpAddr::V4(base),
            prefix,
        }
    }

    pub(super) const fn v6(base: Ipv6Addr, prefix: u8) -> Self {
        Self {
            base: IpAddr::V6(base),
            prefix,
        }
    }

    pub(super) fn contains(&self, ip: IpAddr) -> bool {
        match (self.base, ip) {
            (IpAddr::V4(base), IpAddr::V4(ip)) => {
                let hidden = 32_u32.saturating_sub(self.prefix.into());
                let differing = base.to_bits() ^ ip.to_bits();
                differing.checked_shr(hidden).unwrap_or_default() == 0
            }
            (IpAddr::V6(base), IpAddr::V6(ip)) => {
                let hidden = 128_u32.saturating_sub(self.prefix.into());
                let differing = base.to_bits() ^ ip.to_bits();
                differing.checked_shr(hidden).unwrap_or_default() == 0
            }
            _ => false,
        }
    }

    pub(super) fn contains_network(&self, other: &Self) -> bool {
        other.prefix >= self.prefix && self.contains(other.base)
    }
}

impl FromStr for Network {
    type Err = NetworkRuleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = |expected| NetworkRuleError { expected };
        let (ip, prefix) = match text.split_once('/') {
            Some((ip, prefix)) => (ip, Some(prefix)),
            None => (text, None),
        };
        let Ok(ip) = ip.parse::<IpAddr>() else {
            return Err(error(
                "an IPv4 address of four decimal parts, or an IPv6 address",
            ));
        };
        let prefix = match prefix {
            None => width(ip),
            Some(prefix) => parse_prefix(prefix)
                .filter(|prefix| *prefix <= width(ip))
                .ok_or_else(|| error("a prefix length of at most 32 (IPv4) or 128 (IPv6)"))?,
        };
        let zeros = match ip {
            IpAddr::V4(ip) => ip.to_bits().trailing_zeros(),
            IpAddr::V6(ip) => ip.to_bits().trailing_zeros(),
        };
        if zeros < u32::from(width(ip) - prefix) {
            return Err(error("zeros behind the prefix length, as in 10.0.0.0/8"));
        }
        match ip.to_canonical() {
            IpAddr::V4(mapped) if ip.is_ipv6() && prefix >= 96 => Ok(Self {
                base: mapped.into(),
                prefix: prefix - 96,
            }),
            _ => Ok(Self { base: ip, prefix }),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.base.fmt(f)?;
        if self.prefix < width(self.base) {
            write!(f, "/{}", self.prefix)?;
        }
        Ok(())
    }
}

const fn width(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// Digits only, without leading zeros: `/08` is not obviously `/8` to everybody.
fn parse_prefix(text: &str) -> Option<u8> {
    match text.as_bytes() {
        [b'0'] => Some(0),
        [b'1'..=b'9', ..] => text.parse().ok(),
        _ => None,
    }
}

fn parse_ports(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (parse_port(first)?, parse_port(last)?);
    (first <= last).then_some(first..=last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_contains_those_inside_it_and_no_wider_one() {
        let network = |text: &str| text.parse::<Network>().unwrap();
        let ten = network("10.0.0.0/8");
        for (other, inside) in [
            ("10.0.0.0/8", true),
            ("10.1.0.0/16", true),
            ("10.0.0.0/7", false),
            ("11.0.0.0/16", false),
            ("::/8", false),
        ] {
            assert_eq!(ten.contains_network(&network(other)), inside, "{other}");
        }
    }

    #[test]
    fn what_is_no_network_is_told_what_would_be_one() {
        for (text, expected) in [
            ("10.0.0", "an IPv4 address of four decimal parts"),
            ("10.0.0.0/33", "a prefix length"),
            ("10.1.0.0/8", "zeros behind the prefix length"),
        ] {
            let error = text.parse::<Network>().unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn display_is_the_inverse_of_parsing() {
        for text in [
            "10.0.0.0/8",
            "10.0.0.5",
            "0.0.0.0/0",
            "10.0.0.0/8:8000-8999",
            "10.0.0.5:80",
            "fd00::/8",
            "::1",
            "::/0",
            "[fd00::/8]:8000",
            "[::1]:1-65535",
        ] {
            assert_eq!(text.parse::<NetworkRule>().unwrap().to_string(), text);
        }
        for (text, shortest) in [
            ("10.0.0.5/32", "10.0.0.5"),
            ("[fd00::/8]", "fd00::/8"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("[::ffff:10.0.0.5]:80-80", "10.0.0.5:80"),
        ] {
            assert_eq!(text.parse::<NetworkRule>().unwrap().to_string(), shortest);
        }
    }

    #[test]
    fn what_is_not_a_network_is_refused() {
        for text in [
            "",
            "/",
            "/8",
            "10",
            "10.0.0/8",
            "10.0.0.0/33",
            "10.0.0.0/",
            "10.0.0.0/08",
            "10.0.0.0/+8",
            "10.0.0.5/8",
            "010.0.0.0/8",
            "10.0.0.0/8:",
            "10.0.0.0/8:0",
            "10.0.0.0/8:80-",
            "10.0.0.0/8:-80",
            "10.0.0.0/8:90-80",
            "10.0.0.0/8:80-65536",
            "[10.0.0.0/8",
            "[fd00::/8]80",
            "[fd00::/8]:",
            "fd00::1/8",
            "fd00::/129",
            "fe80::1%eth0",
            "laptop",
            "10.0.0.0/8 ",
        ] {
            assert!(text.parse::<NetworkRule>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_network_contains_its_edges_and_no_more() {
        let rule: NetworkRule = "10.4.0.0/14:80-81".parse().unwrap();
        for (addr, inside) in [
            ("10.4.0.0:80", true),
            ("10.7.255.255:81", true),
            ("[::ffff:10.7.0.1]:81", true),
            ("10.3.255.255:80", false),
            ("10.8.0.0:80", false),
            ("10.4.0.0:79", false),
            ("10.4.0.0:82", false),
            ("[a04::]:80", false),
        ] {
            assert_eq!(rule.matches(addr.parse().unwrap()), inside, "{addr}");
        }
        let all: NetworkRule = "::/0".parse().unwrap();
        assert!(all.matches("[ffff::1]:1".parse().unwrap()));
        assert!(
            !all.matches("10.0.0.1:1".parse().unwrap()),
            "IPv4 is not part of ::/0"
        );
    }
}
