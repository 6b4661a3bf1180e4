//! Where a service's answer comes from instead: `address:port`, optionally behind a scheme.
//!
//! [`Target`] is what rule 3 calls well-formed: `192.168.1.12:8001`, `[fd7a::1]:8001`,
//! `h2c://10.8.0.7:9000`, `laptop.tail1234.ts.net:8001`. IPv4 in any form but four decimal parts, zone ids,
//! upper-case schemes, and anything after the port are refused, so that one text means one address to
//! everybody who reads it. Whether a target is *allowed* is the business of
//! [`TargetPolicy`](crate::TargetPolicy).

mod decimal;
mod host_name;
mod read;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use self::decimal::Decimal;
pub use self::host_name::HostName;
pub(crate) use self::read::{TargetRef, parse_port};
use crate::error::TargetError;

/// The `address:port` that replaces a service's baseline, and how to speak to it.
///
/// A target with an IP address never allocates. `Display` is the inverse of `FromStr`.
///
/// ```
/// use devroute_core::{Scheme, Target};
///
/// let target: Target = "h2c://10.8.0.7:9000".parse()?;
/// assert_eq!(target.scheme(), Some(Scheme::H2c));
/// assert_eq!(target.socket_addr(), Some(([10, 8, 0, 7], 9000).into()));
/// assert_eq!(target.to_string(), "h2c://10.8.0.7:9000");
/// assert!("10.8.7:9000".parse::<Target>().is_err());
/// # Ok::<(), devroute_core::TargetError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    scheme: Option<Scheme>,
    host: Host,
    port: u16,
}

impl Target {
    /// How to speak to the target, where the contract says so (rule 17 says what happens otherwise).
    #[must_use]
    pub fn scheme(&self) -> Option<Scheme> {
        self.scheme
    }

    /// The address or name in front of the port.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Address and port, unless the target is a host name.
    #[must_use]
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        match self.host {
            Host::Ip(ip) => Some(SocketAddr::new(ip, self.port)),
            Host::Name(_) => None,
        }
    }

    /// The same target behind `scheme`.
    #[must_use]
    pub fn with_scheme(mut self, scheme: Scheme) -> Self {
        self.scheme = Some(scheme);
        self
    }
}

impl From<SocketAddr> for Target {
    /// The target at `addr`, without a scheme; an IPv6 scope id is dropped.
    ///
    /// Port 0 makes a target that no contract can hold and no policy allows.
    fn from(addr: SocketAddr) -> Self {
        Self {
            scheme: None,
            host: Host::Ip(addr.ip()),
            port: addr.port(),
        }
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        TargetRef::parse(text).map(TargetRef::to_target)
    }
}

impl TryFrom<&str> for Target {
    type Error = TargetError;

    fn try_from(text: &str) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(scheme) = self.scheme {
            write!(f, "{scheme}://")?;
        }
        match &self.host {
            Host::Ip(IpAddr::V4(ip)) => {
                f.write_str(Decimal::default().ip(*ip).port(self.port).as_str())
            }
            Host::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
            host => write!(f, "{host}:{}", self.port),
        }
    }
}

/// How to speak to a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Scheme {
    /// HTTP/1.1 over TCP.
    Http,
    /// HTTP/2 with prior knowledge over TCP (RFC 9113 section 3.3).
    H2c,
    /// HTTP over TLS.
    Https,
}

impl Scheme {
    /// The scheme as a contract writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::H2c => "h2c",
            Self::Https => "https",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Http, Self::H2c, Self::Https]
            .into_iter()
            .find(|scheme| scheme.as_str() == text)
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What stands in front of a target's port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// An IP address.
    Ip(IpAddr),
    /// A name that has to be resolved, and every address of it judged.
    Name(HostName),
}

impl fmt::Display for Host {
    /// The host without brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(IpAddr::V4(ip)) => f.write_str(Decimal::default().ip(*ip).as_str()),
            Self::Ip(IpAddr::V6(ip)) => ip.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::TargetErrorKind::{
        HostName as Name, Ipv4, Ipv6, MissingPort, Port, Scheme as BadScheme,
    };

    #[test]
    fn a_scheme_is_there_where_one_is_written() {
        for (text, scheme) in [
            ("10.8.0.7:9000", None),
            ("laptop:9000", None),
            ("http://10.8.0.7:9000", Some(Scheme::Http)),
            ("h2c://laptop:9000", Some(Scheme::H2c)),
            ("https://[fd00::1]:9000", Some(Scheme::Https)),
        ] {
            assert_eq!(text.parse::<Target>().unwrap().scheme(), scheme, "{text}");
        }
    }

    #[test]
    fn display_is_the_inverse_of_parsing() {
        for text in [
            "192.168.1.12:8001",
            "0.0.0.0:1",
            "[::1]:65535",
            "[fd7a:115c:a1e0::1]:8001",
            "[::ffff:10.0.0.1]:80",
            "http://10.8.0.7:9000",
            "h2c://10.8.0.7:9000",
            "https://[fd00::1]:443",
            "laptop:8001",
            "my_host.tail-1.ts.net:8001",
            "10.0.0.1.example.com:80",
            "0xbeef.example:80",
        ] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
        let target: Target = "https://Laptop.TS.net:1".parse().unwrap();
        assert_eq!(
            target.to_string(),
            "https://laptop.ts.net:1",
            "names compare without case"
        );
    }

    #[test]
    fn what_is_not_a_target_says_where() {
        for (text, kind, offset) in [
            ("", MissingPort, 0),
            ("10.0.0.1", MissingPort, 8),
            ("192.168.10.20_9001", MissingPort, 18),
            ("[::1]", MissingPort, 5),
            ("[::1]80", MissingPort, 5),
            ("10.0.0.1:", Port, 9),
            ("10.0.0.1:0", Port, 9),
            ("10.0.0.1:080", Port, 9),
            ("10.0.0.1:+80", Port, 9),
            ("10.0.0.1:-1", Port, 9),
            ("10.0.0.1:65536", Port, 9),
            ("10.0.0.1:99999999999", Port, 9),
            ("10.0.0.1:80/", Port, 9),
            ("10.0.0.1:80/path", Port, 9),
            ("10.0.0.1:80 ", Port, 9),
            ("10.0.0.1:80?x", Port, 9),
            ("10.0.0.1:٣", Port, 9),
            (" 10.0.0.1:80", Ipv4, 0),
            ("10.0.0.01:80", Ipv4, 0),
            ("010.0.0.1:80", Ipv4, 0),
            ("10.0.1:80", Ipv4, 0),
            ("10.0.0.0.1:80", Ipv4, 0),
            ("167772161:80", Ipv4, 0),
            ("0x0a000001:80", Ipv4, 0),
            ("0x:80", Ipv4, 0),
            ("10.0.0.0X1:80", Ipv4, 0),
            ("10.0.0.256:80", Ipv4, 0),
            ("foo.1:80", Ipv4, 0),
            ("::1:80", Ipv6, 0),
            ("fd00::1:80", Ipv6, 0),
            ("[fe80::1%eth0]:80", Ipv6, 0),
            ("[::1:80", Ipv6, 0),
            ("[10.0.0.1]:80", Ipv6, 0),
            ("[laptop]:80", Ipv6, 0),
            (":80", Name, 0),
            ("foo.:80", Name, 0),
            (".foo:80", Name, 0),
            ("a..b:80", Name, 0),
            ("user@host:80", Name, 0),
            ("füü:80", Name, 0),
            ("a/b:80", Name, 0),
            ("HTTP://10.0.0.1:80", BadScheme, 0),
            ("ftp://10.0.0.1:80", BadScheme, 0),
            ("://10.0.0.1:80", BadScheme, 0),
            ("http://http://10.0.0.1:80", Ipv6, 7),
            ("http:10.0.0.1:80", Ipv6, 0),
            ("http://10.0.0.1", MissingPort, 15),
            ("http://10.0.0.1:x", Port, 16),
        ] {
            let error = text.parse::<Target>().unwrap_err();
            assert_eq!(
                (error.kind(), error.offset()),
                (kind, Some(offset)),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn a_socket_address_becomes_a_target() {
        let addr: SocketAddr = "[fd00::1]:80".parse().unwrap();
        let target = Target::from(addr).with_scheme(Scheme::Http);
        assert_eq!(target.to_string(), "http://[fd00::1]:80");
        assert_eq!(target.socket_addr(), Some(addr));
        assert_eq!("foo:80".parse::<Target>().unwrap().socket_addr(), None);
    }
}
