//! Reading targets, borrowed from the text they stand in.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::host_name::{HostName, has_numeric_end, is_host_name};
use super::{Host, Scheme, Target};
use crate::error::{TargetError, TargetErrorKind};

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
    /// `IPv4:port` up to a quote, which nearly all targets are, in one go; and how many bytes that was.
    ///
    /// What it does not take may still be a target. Inlined, so that what it returns never goes through memory:
    /// to build it there field by field and read it back at once costs as much as to parse it.
    #[inline(always)]
    pub(crate) fn plain(text: &[u8]) -> Option<(Self, usize)> {
        let (a, rest) = parse_octet(text, b'.')?;
        let (b, rest) = parse_octet(rest, b'.')?;
        let (c, rest) = parse_octet(rest, b'.')?;
        let (d, rest) = parse_octet(rest, b':')?;
        let (port, rest) = parse_quoted_port(rest)?;
        let target = Self {
            scheme: None,
            host: HostRef::Ip(Ipv4Addr::new(a, b, c, d).into()),
            port,
        };
        Some((target, text.len() - rest.len()))
    }

    pub(crate) fn parse(text: &'a str) -> Result<Self, TargetError> {
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
#[inline(always)]
fn parse_octet(text: &[u8], end: u8) -> Option<(u8, &[u8])> {
    // The shapes are spelled out: this runs four times for every entry of every contract. In front of a port and a
    // quote no octet has fewer than four bytes from its first one on, so one look at the length will do.
    let [a, b, c, d, ..] = text else {
        return None;
    };
    let a = digit(*a)?;
    if *b == end {
        return Some((a, text.get(2..)?));
    }
    let b = digit(*b).filter(|_| a > 0)?;
    if *c == end {
        return Some((a * 10 + b, text.get(3..)?));
    }
    let c = digit(*c).filter(|_| *d == end)?;
    let octet = u16::from(a) * 100 + u16::from(b * 10 + c);
    Some((u8::try_from(octet).ok()?, text.get(4..)?))
}

fn digit(byte: u8) -> Option<u8> {
    let digit = byte.wrapping_sub(b'0');
    (digit <= 9).then_some(digit)
}

/// A port, and the quote behind it with all that follows.
#[inline(always)]
fn parse_quoted_port(text: &[u8]) -> Option<(u16, &[u8])> {
    const MAX_DIGITS: usize = 5;
    let (first @ b'1'..=b'9', mut rest) = text.split_first()? else {
        return None;
    };
    let mut port = u32::from(first - b'0');
    while let [digit @ b'0'..=b'9', after @ ..] = rest {
        // What wraps around has more digits than a port.
        port = port.wrapping_mul(10).wrapping_add(u32::from(digit - b'0'));
        rest = after;
    }
    let is_whole = text.len() - rest.len() <= MAX_DIGITS && rest.starts_with(b"\"");
    let port = u16::try_from(port).ok().filter(|_| is_whole)?;
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

/// 1 to 65535; unlike `u16::from_str` neither `+80` nor `080`.
pub(crate) fn parse_port(text: &str) -> Option<u16> {
    let starts_well = matches!(text.as_bytes(), [b'1'..=b'9', ..]);
    if starts_well { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_way_and_the_long_way_agree() {
        for host in ["0.0.0.0", "255.255.255.255", "1.2.3.4", "10.200.99.100"] {
            for port in ["1", "80", "8080", "65535"] {
                let text = format!("{host}:{port}");
                let long = TargetRef::parse(&text).unwrap().to_target();
                let quoted = format!("{text}\", more");
                let (short, len) = TargetRef::plain(quoted.as_bytes()).unwrap();
                assert_eq!((short.to_target(), len), (long, text.len()));
            }
        }
        for text in [
            "256.0.0.1:1",
            "299.0.0.1:1",
            "00.0.0.1:1",
            "01.0.0.1:1",
            "1.1.1:1",
            "1.1.1.1.1:1",
            "999.1.1.1:1",
            "1.1.1.1000:1",
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
            "1.1.1.1:4294967376", // 80 in 32 bits
        ] {
            let quoted = format!("{text}\"");
            assert!(TargetRef::plain(quoted.as_bytes()).is_none(), "{text}");
            assert!(TargetRef::plain(text.as_bytes()).is_none(), "{text}");
            assert!(TargetRef::parse(text).is_err(), "{text}");
        }
    }
}
