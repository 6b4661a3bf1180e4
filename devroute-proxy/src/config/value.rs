//! What a setting's text means.
//!
//! Each function takes the text of one value and returns it typed, or the sentence that says what
//! was expected. The sentence never says where the value came from: the caller knows and adds it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use devroute_tower::core::{HostSuffix, NetworkRule, ServiceName};
use devroute_tower::transport::TlsName;
use devroute_tower::{ForwardedFields, OnFailure};
use tracing_subscriber::filter::{LevelFilter, Targets};

use super::{Allow, Location, LogFormat, Upstream};
use crate::server::HalfClose;

/// An address and port, both numbers.
pub(crate) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_unparsable| {
        expected(
            text,
            "an address and port",
            "127.0.0.1:8080, 0.0.0.0:8080 or [::]:8080",
        )
    })
}

/// An address and port, or `off`.
pub(crate) fn address_or_off(text: &str) -> Result<Option<SocketAddr>, String> {
    if text == "off" {
        return Ok(None);
    }
    address(text)
        .map(Some)
        .map_err(|message| format!("{message}, or `off`"))
}

/// An address without a port.
pub(crate) fn ip(text: &str) -> Result<IpAddr, String> {
    text.parse()
        .map_err(|_unparsable| expected(text, "an IP address", "192.168.1.12"))
}

/// A port that can be listened on.
pub(crate) fn port(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(format!("{text:?} is not a port (1 to 65535)")),
    }
}

/// A whole number in `range`.
pub(crate) fn number<T>(text: &str, range: RangeInclusive<T>) -> Result<T, String>
where
    T: FromStr + PartialOrd + fmt::Display,
{
    match text.parse() {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => Err(format!(
            "{text:?} is not a number from {} to {}",
            range.start(),
            range.end()
        )),
    }
}

/// A number from 1, or `off`.
pub(crate) fn number_or_off(text: &str) -> Result<Option<usize>, String> {
    if text == "off" {
        return Ok(None);
    }
    number(text, 1..=1 << 20)
        .map(Some)
        .map_err(|message| format!("{message}, or `off`"))
}

/// A number of bytes that a head may have.
pub(crate) fn head_size(text: &str) -> Result<u32, String> {
    size(text)
        .and_then(|size| u32::try_from(size).ok())
        .filter(|size| (8 * 1024..=1024 * 1024).contains(size))
        .ok_or_else(|| format!("{text:?} is not a size from 8KiB to 1MiB (such as 64KiB)"))
}

/// A number of bytes that a table may take.
pub(crate) fn table_size(text: &str) -> Result<usize, String> {
    size(text)
        .filter(|size| (1024 * 1024..=1024 * 1024 * 1024).contains(size))
        .ok_or_else(|| format!("{text:?} is not a size from 1MiB to 1024MiB (such as 16MiB)"))
}

/// A number of bytes that a body may have, or `off`.
pub(crate) fn body_size(text: &str) -> Result<Option<usize>, String> {
    if text == "off" {
        return Ok(None);
    }
    match size(text) {
        Some(size) => Ok(Some(size)),
        None => Err(format!(
            "{text:?} is neither a size (such as 100MiB) nor `off`"
        )),
    }
}

/// A number with its unit.
fn size(text: &str) -> Option<usize> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let unit = match unit {
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.parse::<usize>().ok()?.checked_mul(unit)
}

/// A positive count.
pub(crate) fn count(text: &str) -> Result<NonZeroUsize, String> {
    match text.parse::<NonZeroUsize>() {
        Ok(count) if count.get() <= 1024 => Ok(count),
        _ => Err(format!("{text:?} is not a number from 1 to 1024")),
    }
}

/// `true` or `false`.
pub(crate) fn boolean(text: &str) -> Result<bool, String> {
    text.parse()
        .map_err(|_unparsable| format!("{text:?} is neither `true` nor `false`"))
}

/// A whole number with its unit.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let expected = || expected(text, "a time with its unit", "500ms, 2s, 1m or 1h");
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits).ok_or_else(expected)?;
    let number: u64 = number.parse().map_err(|_unparsable| expected())?;
    let milliseconds = match unit {
        "ms" => Some(1),
        "s" => Some(1000),
        "m" => Some(60 * 1000),
        "h" => Some(60 * 60 * 1000),
        _ => None,
    };
    milliseconds
        .and_then(|unit| number.checked_mul(unit))
        // Timers count on a monotonic clock that a time far beyond any use would overflow.
        .filter(|&time| time <= 24 * 60 * 60 * 1000)
        .map(Duration::from_millis)
        .ok_or_else(expected)
}

/// [`duration`], but not zero.
pub(crate) fn positive_duration(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err(format!("{text:?} leaves no time at all")),
        time => Ok(time),
    }
}

/// The time that a signed contract is good for: [`positive_duration`], or up to 30 days.
pub(crate) fn lifetime(text: &str) -> Result<Duration, String> {
    let Some(days) = text.strip_suffix('d') else {
        return positive_duration(text);
    };
    match days.parse::<u64>() {
        Ok(days) if (1..=30).contains(&days) => Ok(Duration::from_secs(days * 24 * 60 * 60)),
        _ => Err(format!("{text:?} is not a number of days from 1d to 30d")),
    }
}

/// [`positive_duration`], or `off`.
pub(crate) fn positive_duration_or_off(text: &str) -> Result<Option<Duration>, String> {
    if text == "off" {
        return Ok(None);
    }
    positive_duration(text)
        .map(Some)
        .map_err(|message| format!("{message}, or `off`"))
}

/// The service's own instance.
pub(crate) fn upstream(text: &str) -> Result<Upstream, String> {
    let expected = || {
        expected(
            text,
            "an upstream",
            "http://127.0.0.1:8080, h2c://localhost:8080 or https://foo.example",
        )
    };
    let (scheme, rest) = text.split_once("://").ok_or_else(expected)?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let default_port = match scheme {
        "http" | "h2c" => 80,
        "https" => 443,
        _ => return Err(expected()),
    };
    let (host, port) = host_and_port(rest).ok_or_else(expected)?;
    let port = port.unwrap_or(default_port);
    // What no certificate can be for is no host either.
    let name = tls_name(host)?;
    let at = match host.parse::<IpAddr>() {
        Ok(ip) => Location::Address(SocketAddr::new(ip, port)),
        Err(_name) => Location::Name(host.to_owned(), port),
    };
    if let Location::Address(address) = at {
        if address.port() == 0 || address.ip().is_unspecified() {
            return Err(format!(
                "{text:?} is not an address that can be connected to"
            ));
        }
    }
    Ok(Upstream {
        at,
        h2c: scheme == "h2c",
        tls_name: (scheme == "https").then_some(name),
    })
}

/// Something else that listens, at an address or by name, and always with its port.
pub(crate) fn location(text: &str) -> Result<Location, String> {
    let expected = || {
        expected(
            text,
            "an address or a name, and a port",
            "10.0.0.7:8080, [fd00::7]:8080 or devroute-router.devroute.svc:8080",
        )
    };
    let (host, Some(port)) = host_and_port(text).ok_or_else(expected)? else {
        return Err(expected());
    };
    let at = match host.parse::<IpAddr>() {
        Ok(ip) => Location::Address(SocketAddr::new(ip, port)),
        // What is no host in a certificate is none here.
        Err(_name) => tls_name(host).map(|_| Location::Name(host.to_owned(), port))?,
    };
    if port == 0 || matches!(at, Location::Address(addr) if addr.ip().is_unspecified()) {
        return Err(format!(
            "{text:?} is not an address that can be connected to"
        ));
    }
    Ok(at)
}

/// A host, without the brackets of an IPv6 address, and the port behind it.
fn host_and_port(text: &str) -> Option<(&str, Option<u16>)> {
    let bracketed = text.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let (host, port) = match bracketed {
        Some((host, "")) => return Some((host, None)),
        Some((host, rest)) => (host, rest.strip_prefix(':')?),
        None => match text.split_once(':') {
            None => return Some((text, None)),
            Some(split) => split,
        },
    };
    let port = port.parse().ok().filter(|&port| port > 0)?;
    Some((host, Some(port)))
}

/// A name that a certificate can be for.
pub(crate) fn tls_name(text: &str) -> Result<TlsName, String> {
    text.parse().map_err(|error| format!("{text:?} is {error}"))
}

/// The name of a service, by rule 2 of the contract.
pub(crate) fn service(text: &str) -> Result<ServiceName, String> {
    ServiceName::new(text).map_err(|error| error.to_string())
}

/// Something the policy is to allow.
pub(crate) fn allow(text: &str) -> Result<Allow, String> {
    match text {
        "loopback" => Ok(Allow::Loopback),
        "cgnat" | "tailscale" => Ok(Allow::Cgnat),
        _ => network(text).map(Allow::Network).map_err(|message| {
            format!("{message}; `loopback`, `cgnat` and `tailscale` are names for theirs")
        }),
    }
}

/// A network, with or without a range of ports.
pub(crate) fn network(text: &str) -> Result<NetworkRule, String> {
    text.parse().map_err(|error| format!("{error}"))
}

/// The ending of host names.
pub(crate) fn suffix(text: &str) -> Result<HostSuffix, String> {
    text.parse().map_err(|error| format!("{error}"))
}

/// What happens when a reroute fails.
pub(crate) fn on_failure(text: &str) -> Result<OnFailure, String> {
    match text {
        "fail" => Ok(OnFailure::Fail),
        "fallback" => Ok(OnFailure::Fallback),
        _ => Err(format!("{text:?} is neither `fail` nor `fallback`")),
    }
}

/// [`on_failure`] where there is no baseline.
pub(crate) fn only_fail(text: &str) -> Result<(), String> {
    match on_failure(text)? {
        OnFailure::Fail => Ok(()),
        _ => Err(
            "a router has no baseline to fall back to; set `fallback` at the sidecar or layer \
                  that sends to it"
                .to_owned(),
        ),
    }
}

/// What tells a target who asked.
pub(crate) fn forwarded(text: &str) -> Result<ForwardedFields, String> {
    match text {
        "x-forwarded" => Ok(ForwardedFields::XForwarded),
        "forwarded" => Ok(ForwardedFields::Forwarded),
        "both" => Ok(ForwardedFields::Both),
        "none" => Ok(ForwardedFields::None),
        _ => Err(format!(
            "{text:?} is none of `x-forwarded`, `forwarded`, `both` and `none`"
        )),
    }
}

/// Whether all requests tell who asked, and not the rerouted ones alone.
pub(crate) fn forwarded_on_all(text: &str) -> Result<bool, String> {
    match text {
        "all" => Ok(true),
        "rerouted" => Ok(false),
        _ => Err(format!("{text:?} is neither `rerouted` nor `all`")),
    }
}

/// What the end of a client's half of its connection means.
pub(crate) fn half_close(text: &str) -> Result<HalfClose, String> {
    match text {
        "gone" => Ok(HalfClose::Gone),
        "keep" => Ok(HalfClose::Keep),
        _ => Err(format!("{text:?} is neither `gone` nor `keep`")),
    }
}

/// How log lines look.
pub(crate) fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "human" => Ok(LogFormat::Human),
        "json" => Ok(LogFormat::Json),
        "auto" => Ok(LogFormat::Auto),
        _ => Err(format!("{text:?} is none of `human`, `json` and `auto`")),
    }
}

/// Which log lines are written.
pub(crate) fn log_filter(text: &str) -> Result<Targets, String> {
    let wrong = || {
        let example = "info, or warn,devroute_proxy=debug";
        expected(
            text,
            "a level (off, error, warn, info, debug, trace) or a list",
            example,
        )
    };
    // The filter's own parser takes a word that is no level for a module, and then logs nothing.
    let has_level = |part: &str| {
        let level = part.rsplit_once('=').map_or(part, |(_, level)| level);
        !level.trim().is_empty() && level.trim().parse::<LevelFilter>().is_ok()
    };
    if !text.split(',').all(has_level) {
        return Err(wrong());
    }
    text.parse().map_err(|_unparsable| wrong())
}

fn expected(text: &str, what: &str, example: &str) -> String {
    format!("{text:?} is not {what} (such as {example})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_of_a_head_has_its_unit_and_its_bounds() {
        assert_eq!(head_size("8KiB"), Ok(8 * 1024));
        assert_eq!(head_size("1MiB"), Ok(1024 * 1024));
        for wrong in [
            "",
            "KiB",
            "8",
            "7KiB",
            "2MiB",
            "64kB",
            "9999999999KiB",
            "-8KiB",
        ] {
            assert!(head_size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_number_is_in_its_range() {
        assert_eq!(number("1", 1..=5_u32), Ok(1));
        assert_eq!(number("5", 1..=5_u32), Ok(5));
        for wrong in ["0", "6", "-1", "", "one", "1.5"] {
            assert!(number(wrong, 1..=5_u32).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_can_be_off_is_a_time_otherwise() {
        assert_eq!(positive_duration_or_off("off"), Ok(None));
        let second = Duration::from_secs(1);
        assert_eq!(positive_duration_or_off("1s"), Ok(Some(second)));
        for wrong in ["0s", "OFF", "never"] {
            let error = positive_duration_or_off(wrong).unwrap_err();
            assert!(error.ends_with(", or `off`"), "{error}");
        }
    }

    #[test]
    fn a_time_needs_its_unit() {
        assert_eq!(duration("1500ms"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("2s"), Ok(Duration::from_secs(2)));
        assert_eq!(duration("1m"), Ok(Duration::from_secs(60)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        for wrong in [
            "",
            "2",
            "s",
            "-1s",
            "1.5s",
            "2 s",
            "2S",
            "25h",
            "18446744073709551615h",
        ] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        assert!(positive_duration("0ms").is_err());
    }

    #[test]
    fn an_upstream_is_an_address_or_a_name_with_a_scheme() {
        let parsed = |text| upstream(text).map(|it| (it.at, it.h2c, it.tls_name));
        let address = |text: &str| Location::Address(text.parse().unwrap());
        let name = |name: &str| Some(name.parse().unwrap());
        for (text, expected) in [
            (
                "http://127.0.0.1:81",
                (address("127.0.0.1:81"), false, None),
            ),
            ("h2c://127.0.0.1:81/", (address("127.0.0.1:81"), true, None)),
            ("http://127.0.0.1", (address("127.0.0.1:80"), false, None)),
            (
                "http://localhost:81",
                (Location::Name("localhost".to_owned(), 81), false, None),
            ),
            (
                "https://[::1]:81",
                (address("[::1]:81"), false, name("::1")),
            ),
            ("https://[::1]", (address("[::1]:443"), false, name("::1"))),
            (
                "https://foo.example/",
                (
                    Location::Name("foo.example".to_owned(), 443),
                    false,
                    name("foo.example"),
                ),
            ),
            (
                "https://foo:81",
                (Location::Name("foo".to_owned(), 81), false, name("foo")),
            ),
        ] {
            assert_eq!(parsed(text), Ok(expected), "{text}");
        }
        for wrong in [
            "127.0.0.1:81",
            "http://0.0.0.0:81",
            "http://foo/bar",
            "h2c://foo:0",
            "ftp://127.0.0.1",
            "https://",
            "https://0.0.0.0",
            "https://foo:0",
            "https://foo:x",
            "https://foo/bar",
            "https://me@foo",
            "https://[::1",
            "https://[::1]81",
        ] {
            assert!(upstream(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_address_is_numbers_and_has_a_port() {
        let addr = "127.0.0.1:80".parse().unwrap();
        assert_eq!(address("127.0.0.1:80"), Ok(addr));
        assert_eq!(address_or_off("127.0.0.1:80"), Ok(Some(addr)));
        assert_eq!(address_or_off("off"), Ok(None));
        assert_eq!(ip("fd00::1"), Ok("fd00::1".parse().unwrap()));
        for wrong in ["", "127.0.0.1", "localhost:80", "127.0.0.1:65536", "OFF"] {
            let error = address(wrong).unwrap_err();
            assert!(error.contains("such as 127.0.0.1:8080"), "{error}");
            assert_eq!(address_or_off(wrong), Err(format!("{error}, or `off`")));
        }
        for wrong in ["127.0.0.1:80", "[::1]", "localhost"] {
            assert!(ip(wrong).unwrap_err().contains(wrong));
        }
    }

    #[test]
    fn a_number_ends_where_it_may() {
        assert_eq!((port("1"), port("65535")), (Ok(1), Ok(65535)));
        for wrong in ["0", "65536", "-1", "", "http"] {
            assert!(port(wrong).is_err(), "{wrong}");
        }
        assert_eq!(count("1").map(NonZeroUsize::get), Ok(1));
        assert_eq!(count("1024").map(NonZeroUsize::get), Ok(1024));
        for wrong in ["0", "1025", "-1", ""] {
            assert!(count(wrong).is_err(), "{wrong}");
        }
        assert_eq!(number_or_off("off"), Ok(None));
        assert_eq!(number_or_off("1"), Ok(Some(1)));
        assert_eq!(number_or_off("1048576"), Ok(Some(1_048_576)));
        for wrong in ["0", "1048577", "OFF"] {
            let error = number_or_off(wrong).unwrap_err();
            assert!(error.ends_with(", or `off`"), "{error}");
        }
    }

    #[test]
    fn a_size_has_its_unit() {
        const MIB: usize = 1_048_576;
        assert_eq!(table_size("1MiB"), Ok(MIB));
        assert_eq!(table_size("1024KiB"), Ok(MIB));
        assert_eq!(table_size("1GiB"), Ok(1024 * MIB));
        for wrong in ["1023KiB", "1025MiB", "16", "16MB", "off"] {
            assert!(table_size(wrong).is_err(), "{wrong}");
        }
        assert_eq!(body_size("off"), Ok(None));
        assert_eq!(body_size("0KiB"), Ok(Some(0)));
        assert_eq!(body_size("3MiB"), Ok(Some(3 * MIB)));
        for wrong in ["", "3", "MiB", "OFF", "18446744073709551615KiB"] {
            assert!(body_size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_lifetime_may_be_days() {
        let hours = |hours: u64| Ok(Duration::from_secs(hours * 60 * 60));
        assert_eq!(duration("1h"), hours(1));
        assert_eq!(duration("24h"), hours(24));
        assert!(duration("86400001ms").is_err());
        assert_eq!(lifetime("8h"), hours(8));
        assert_eq!(lifetime("1d"), hours(24));
        assert_eq!(lifetime("30d"), hours(30 * 24));
        for wrong in ["0d", "31d", "d", "1.5d", "-1d", "0s", "25h"] {
            assert!(lifetime(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_location_has_a_port_and_can_be_connected_to() {
        for addr in ["10.0.0.7:8080", "[fd00::7]:1"] {
            let expected = Location::Address(addr.parse().unwrap());
            assert_eq!(location(addr), Ok(expected));
        }
        let name = Location::Name("devroute-router.devroute.svc".to_owned(), 8080);
        assert_eq!(location("devroute-router.devroute.svc:8080"), Ok(name));
        for wrong in [
            "",
            "10.0.0.7",
            "[fd00::7]",
            "foo",
            "foo:0",
            "10.0.0.7:0",
            "0.0.0.0:80",
            "[::]:80",
            "a b:80",
            "http://foo:80",
        ] {
            assert!(location(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_word_means_one_thing_and_others_are_refused() {
        assert_eq!((boolean("true"), boolean("false")), (Ok(true), Ok(false)));
        assert_eq!(on_failure("fail"), Ok(OnFailure::Fail));
        assert_eq!(on_failure("fallback"), Ok(OnFailure::Fallback));
        assert_eq!(only_fail("fail"), Ok(()));
        assert!(only_fail("fallback").unwrap_err().contains("no baseline"));
        assert_eq!(forwarded("x-forwarded"), Ok(ForwardedFields::XForwarded));
        assert_eq!(forwarded("forwarded"), Ok(ForwardedFields::Forwarded));
        assert_eq!(forwarded("both"), Ok(ForwardedFields::Both));
        assert_eq!(forwarded("none"), Ok(ForwardedFields::None));
        assert_eq!(forwarded_on_all("all"), Ok(true));
        assert_eq!(forwarded_on_all("rerouted"), Ok(false));
        assert_eq!(half_close("gone"), Ok(HalfClose::Gone));
        assert_eq!(half_close("keep"), Ok(HalfClose::Keep));
        assert_eq!(log_format("human"), Ok(LogFormat::Human));
        assert_eq!(log_format("json"), Ok(LogFormat::Json));
        assert_eq!(log_format("auto"), Ok(LogFormat::Auto));
        for wrong in ["", "yes", "Fail"] {
            let said = format!("{wrong:?} is n");
            for error in [
                boolean(wrong).unwrap_err(),
                on_failure(wrong).unwrap_err(),
                only_fail(wrong).unwrap_err(),
                forwarded(wrong).unwrap_err(),
                forwarded_on_all(wrong).unwrap_err(),
                half_close(wrong).unwrap_err(),
                log_format(wrong).unwrap_err(),
            ] {
                assert!(error.starts_with(&said), "{error}");
            }
        }
    }

    #[test]
    fn names_and_networks_are_those_of_the_contract() {
        assert_eq!(service("foo").unwrap(), "foo");
        assert!(service("foo bar").unwrap_err().contains("at byte 3"));
        assert_eq!(network("10.0.0.0/8").unwrap().to_string(), "10.0.0.0/8");
        assert!(network("10.0.0.5/8").is_err());
        assert_eq!(suffix(".ts.net").unwrap().to_string(), ".ts.net");
        assert!(suffix("..").is_err());
        assert!(tls_name("foo.example").is_ok());
        assert!(
            tls_name("foo/bar")
                .unwrap_err()
                .starts_with("\"foo/bar\" is ")
        );
        assert!(matches!(allow("loopback"), Ok(Allow::Loopback)));
        assert!(matches!(allow("cgnat"), Ok(Allow::Cgnat)));
    }

    #[test]
    fn a_filter_is_made_of_levels() {
        for right in [
            "debug",
            "OFF",
            "warn,devroute_proxy=debug",
            "info, devroute_tower=trace",
        ] {
            assert!(log_filter(right).is_ok(), "{right}");
        }
        for wrong in [
            "",
            "loud",
            "devroute_proxy",
            "info,devroute_proxy=loud",
            "info,,debug",
        ] {
            assert!(log_filter(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn tailscale_is_another_name_for_cgnat() {
        assert!(matches!(allow("tailscale"), Ok(Allow::Cgnat)));
        assert!(matches!(allow("10.0.0.0/8:80"), Ok(Allow::Network(_))));
        assert!(allow("everything").unwrap_err().contains("`loopback`"));
    }
}
