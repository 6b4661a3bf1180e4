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
}
