//! Where a service's answer comes from instead: `address:port`, optionally behind a scheme.
//!
//! [`Target`] is what rule 3 calls well-formed: `192.168.1.12:8001`, `[fd7a::1]:8001`,
//! `h2c://10.8.0.7:9000`, `laptop.tail1234.ts.net:8001`. IPv4 in any form but four decimal parts, zone ids,
//! upper-case schemes, and anything after the port are refused, so that one text means one address to
//! everybody who reads it. Whether a target is *allowed* is the business of
//! [`TargetPolicy`](crate::TargetPolicy).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use crate::error::{TargetError, TargetErrorKind};

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
            Self::Ip(ip) => ip.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// A host name in lower case: at most 253 bytes, labels of 1 to 63 of `a-z 0-9 - _`, no dot at the end.
///
/// The last label is neither all digits nor begins with `0x`: some resolvers read such names as IPv4
/// addresses (as does the URL standard).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(Arc<str>);

impl HostName {
    /// The name as text, in lower case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HostName {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if is_host_name(text) {
            Ok(Self::from_checked(text))
        } else {
            Err(TargetError::new(TargetErrorKind::HostName, 0, text))
        }
    }
}

impl HostName {
    fn from_checked(text: &str) -> Self {
        Self(text.to_ascii_lowercase().into())
    }
}

impl AsRef<str> for HostName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// A target that borrows its host name: the parser checks all entries and keeps one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TargetRef<'a> {
    scheme: Option<Scheme>,
    host: HostRef<'a>,
    port: u16,
}

#[derive(Clone, Copy, Debug)]
enum HostRef<'a> {
    Ip(IpAddr),
    Name(&'a str),
}

impl<'a> TargetRef<'a> {
    pub(crate) fn parse(text: &'a str) -> Result<Self, TargetError> {
        if let Some((target, _)) = TargetRef::plain(text.as_bytes(), None) {
            return Ok(target);
        }
        Self::parse_any(text)
    }

    /// `IPv4:port`, which nearly all targets are, in one go: up to `end`, and how many bytes that was.
    ///
    /// What it does not take may still be a target.
    pub(crate) fn plain(text: &[u8], end: Option<u8>) -> Option<(Self, usize)> {
        let (a, rest) = parse_octet(text, b'.')?;
        let (b, rest) = parse_octet(rest, b'.')?;
        let (c, rest) = parse_octet(rest, b'.')?;
        let (d, rest) = parse_octet(rest, b':')?;
        let (port, rest) = parse_leading_port(rest)?;
        if rest.first().copied() != end {
            return None;
        }
        let host = HostRef::Ip(Ipv4Addr::new(a, b, c, d).into());
        Some((
            Self {
                scheme: None,
                host,
                port,
            },
            text.len() - rest.len(),
        ))
    }

    fn parse_any(text: &'a str) -> Result<Self, TargetError> {
        let error = |kind, rest: &str| TargetError::new(kind, text.len() - rest.len(), rest);

        let (scheme, rest) = match split_scheme(text) {
            None => (None, text),
            Some((scheme, rest)) => match Scheme::parse(scheme) {
                Some(scheme) => (Some(scheme), rest),
                None => return Err(error(TargetErrorKind::Scheme, text)),
            },
        };

        let (host, port) = if let Some(inner) = rest.strip_prefix('[') {
            let (ip, after) = inner
                .split_once(']')
                .ok_or_else(|| error(TargetErrorKind::Ipv6, rest))?;
            let ip: Ipv6Addr = parse_ip(ip).ok_or_else(|| error(TargetErrorKind::Ipv6, rest))?;
            let port = after
                .strip_prefix(':')
                .ok_or_else(|| error(TargetErrorKind::MissingPort, after))?;
            (HostRef::Ip(ip.into()), port)
        } else {
            // The first colon: what follows an IPv4 address or a name up to there is all port, so an
            // IPv6 address without brackets cannot lend its last group to the port.
            let (host, port) = rest
                .split_once(':')
                .ok_or_else(|| error(TargetErrorKind::MissingPort, ""))?;
            if port.contains(':') {
                return Err(error(TargetErrorKind::Ipv6, rest));
            }
            let host = parse_host(host).map_err(|kind| error(kind, rest))?;
            (host, port)
        };

        let port = parse_port(port).ok_or_else(|| error(TargetErrorKind::Port, port))?;
        Ok(Self { scheme, host, port })
    }

    pub(crate) fn to_target(self) -> Target {
        let host = match self.host {
            HostRef::Ip(ip) => Host::Ip(ip),
            HostRef::Name(name) => Host::Name(HostName::from_checked(name)),
        };
        Target {
            scheme: self.scheme,
            host,
            port: self.port,
        }
    }
}

/// A decimal number up to 255 without leading zeros, and what follows `end` after it.
fn parse_octet(text: &[u8], end: u8) -> Option<(u8, &[u8])> {
    // The shapes are spelled out: this runs four times for every entry of every contract.
    match text {
        [a @ b'0'..=b'9', e, rest @ ..] if *e == end => Some((a - b'0', rest)),
        [a @ b'1'..=b'9', b @ b'0'..=b'9', e, rest @ ..] if *e == end => {
            Some(((a - b'0') * 10 + (b - b'0'), rest))
        }
        [
            a @ b'1'..=b'2',
            b @ b'0'..=b'9',
            c @ b'0'..=b'9',
            e,
            rest @ ..,
        ] if *e == end => {
            let [a, b, c] = [a, b, c].map(|digit| u16::from(digit - b'0'));
            Some((u8::try_from(a * 100 + b * 10 + c).ok()?, rest))
        }
        _ => None,
    }
}

/// A port at the beginning of `text`, and what follows it.
fn parse_leading_port(text: &[u8]) -> Option<(u16, &[u8])> {
    let (first @ b'1'..=b'9', mut rest) = text.split_first()? else {
        return None;
    };
    let mut port = u16::from(first - b'0');
    while let [digit @ b'0'..=b'9', after @ ..] = rest {
        port = port.checked_mul(10)?.checked_add(u16::from(digit - b'0'))?;
        rest = after;
    }
    Some((port, rest))
}

/// Splits at `://`, if that is where the first colon is.
fn split_scheme(text: &str) -> Option<(&str, &str)> {
    // Not `split_once("://")`: a search for three bytes costs more than all the rest of a target.
    let (scheme, rest) = text.split_once(':')?;
    Some((scheme, rest.strip_prefix("//")?))
}

fn parse_host(host: &str) -> Result<HostRef<'_>, TargetErrorKind> {
    if let Some(ip) = parse_ip::<Ipv4Addr>(host) {
        return Ok(HostRef::Ip(ip.into()));
    }
    if has_numeric_end(host) {
        return Err(TargetErrorKind::Ipv4);
    }
    if is_host_name(host) {
        return Ok(HostRef::Name(host));
    }
    Err(TargetErrorKind::HostName)
}

/// The standard library takes exactly the four-part decimal form and no zone ids; both are pinned by tests here.
fn parse_ip<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

fn is_host_name(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    text.len() <= 253 && text.split('.').all(is_label) && !has_numeric_end(text)
}

fn has_numeric_end(host: &str) -> bool {
    let last = host.rsplit('.').next().unwrap_or(host);
    let is_hex = matches!(last.as_bytes(), [b'0', b'x' | b'X', ..]);
    is_hex || (!last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit()))
}

/// 1 to 65535; unlike `u16::from_str` neither `+80` nor `080`.
pub(crate) fn parse_port(text: &str) -> Option<u16> {
    let starts_well = matches!(text.as_bytes(), [b'1'..=b'9', ..]);
    if starts_well { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use TargetErrorKind::{HostName as Name, Ipv4, Ipv6, MissingPort, Port, Scheme as BadScheme};

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
    fn the_short_way_and_the_long_way_agree() {
        for host in ["0.0.0.0", "255.255.255.255", "1.2.3.4", "10.200.99.100"] {
            for port in ["1", "80", "8080", "65535"] {
                let text = format!("{host}:{port}");
                let long = TargetRef::parse_any(&text).unwrap().to_target();
                let (short, len) = TargetRef::plain(text.as_bytes(), None).unwrap();
                assert_eq!((short.to_target(), len), (long, text.len()));

                let quoted = format!("{text}\", more");
                let (_, len) = TargetRef::plain(quoted.as_bytes(), Some(b'"')).unwrap();
                assert_eq!(len, text.len());
                assert!(TargetRef::plain(quoted.as_bytes(), None).is_none());
            }
        }
        for text in [
            "256.0.0.1:1",
            "299.0.0.1:1",
            "00.0.0.1:1",
            "01.0.0.1:1",
            "1.1.1:1",
            "1.1.1.1.1:1",
            "1.1.1.1:0",
            "1.1.1.1:01",
            "1.1.1.1:65536",
            "1.1.1.1:100000",
            "1.1.1.1:",
            "1.1.1.1",
            "1.1.1.1:1 ",
            "",
            ".",
            "1..1.1:1",
            "99999999999999999999.1.1.1:1",
            "1.1.1.1:9999999999999999999",
        ] {
            assert!(TargetRef::plain(text.as_bytes(), None).is_none(), "{text}");
            assert!(TargetRef::parse_any(text).is_err(), "{text}");
        }
    }

    #[test]
    fn host_names_have_the_lengths_of_dns() {
        let label = "a".repeat(63);
        let name = [&*label, &*label, &*label, &"a".repeat(61)].join(".");
        assert_eq!(name.len(), 253);
        assert!(format!("{name}:80").parse::<Target>().is_ok());
        assert!(format!("{name}a:80").parse::<Target>().is_err());
        assert!(format!("{label}a:80").parse::<Target>().is_err());
        assert!("a.9".parse::<HostName>().is_err());
        assert!("a.0x9".parse::<HostName>().is_err());
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
