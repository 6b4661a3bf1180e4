//! The settings of a sidecar's outbound listener.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use devroute_tower::core::{HostSuffix, NetworkRule};
use devroute_tower::correlation::Correlations;
use devroute_tower::outbound::InternalHosts;

use super::{ConfigError, Settings, value};

/// Where the application sends its own requests.
#[derive(Args, Debug)]
#[command(next_help_heading = "Outbound")]
#[non_exhaustive]
#[allow(
    missing_docs,
    reason = "a field is a setting; its help text is its documentation"
)]
pub struct OutboundArgs {
    /// Also listen here for the application's own requests: as its http_proxy, or by Host
    #[arg(long, env = "DEVROUTE_OUTBOUND", value_name = "ADDR")]
    pub outbound: Option<String>,
    /// Let --outbound be an address that other machines can reach: an open proxy for all of them
    /// [default: false]
    #[arg(
        long,
        env = "DEVROUTE_OUTBOUND_EXPOSED",
        value_name = "true|false",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub outbound_exposed: Option<String>,
    /// Reroute the application's requests here already, taking the first label of the host for the
    /// service: for services without a sidecar [default: false]
    #[arg(
        long,
        env = "DEVROUTE_OUTBOUND_REROUTE",
        value_name = "true|false",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub outbound_reroute: Option<String>,
    /// Where else contracts may go than to single labels, .svc, .local, .internal, .localhost and
    /// private networks; `none` leaves these out (lists take commas or repeat)
    #[arg(
        long,
        env = "DEVROUTE_INTERNAL",
        value_name = ".DOMAIN|CIDR|none",
        value_delimiter = ','
    )]
    pub internal: Vec<String>,
    /// How long an id still tells the contract of the request that brought it, after that request's
    /// answer [default: 30s]
    #[arg(long, env = "DEVROUTE_CORRELATION_GRACE", value_name = "TIME")]
    pub correlation_grace: Option<String>,
    /// How many ids are remembered at most [default: 16384]
    #[arg(long, env = "DEVROUTE_CORRELATION_ENTRIES", value_name = "N")]
    pub correlation_entries: Option<String>,
    /// How much memory they take at most [default: 16MiB]
    #[arg(long, env = "DEVROUTE_CORRELATION_SIZE", value_name = "SIZE")]
    pub correlation_size: Option<String>,
}

/// How a sidecar treats the requests of its own application.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct OutboundConfig {
    /// Where they come in.
    pub listen: SocketAddr,
    /// Whether they are rerouted here already.
    pub reroute: bool,
    /// Where a contract may go.
    pub internal: InternalHosts,
    /// How long, and how many, ids are remembered.
    pub correlation: CorrelationConfig,
}

/// What is remembered of the requests that come to the application, so that its own get their contract.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct CorrelationConfig {
    /// How long an id lives after the last request that brought it.
    pub grace: Duration,
    /// Ids at a time.
    pub entries: usize,
    /// Bytes that ids and contracts take, about.
    pub bytes: usize,
}

impl Default for CorrelationConfig {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(30),
            entries: 16 * 1024,
            bytes: 16 * 1024 * 1024,
        }
    }
}

impl CorrelationConfig {
    fn parse(settings: &Settings) -> Result<Self, ConfigError> {
        let default = Self::default();
        let entries = |text: &str| value::number(text, 1..=1 << 20);
        Ok(Self {
            grace: settings
                .one("correlation-grace", value::duration)?
                .unwrap_or(default.grace),
            entries: settings
                .one("correlation-entries", entries)?
                .unwrap_or(default.entries),
            bytes: settings
                .one("correlation-size", value::table_size)?
                .unwrap_or(default.bytes),
        })
    }

    /// An empty table.
    pub(crate) fn table(self) -> Correlations {
        Correlations::new()
            .grace(self.grace)
            .max_entries(self.entries)
            .max_bytes(self.bytes)
    }
}

impl OutboundConfig {
    /// A listener at `listen`, and defaults for everything else.
    #[must_use]
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            reroute: false,
            internal: InternalHosts::default(),
            correlation: CorrelationConfig::default(),
        }
    }

    pub(super) fn parse(settings: &Settings) -> Result<Option<Self>, ConfigError> {
        let exposed = settings
            .one("outbound-exposed", value::boolean)?
            .unwrap_or(false);
        let listen = |text: &str| match value::address(text)? {
            address if exposed || address.ip().is_loopback() => Ok(address),
            _ => Err(format!(
                "{text:?} is an address that other machines can reach, and whoever reaches it can use \
                 the proxy; listen on 127.0.0.1, or say --outbound-exposed=true"
            )),
        };
        let Some(listen) = settings.one("outbound", listen)? else {
            return Ok(None);
        };
        Ok(Some(Self {
            reroute: settings
                .one("outbound-reroute", value::boolean)?
                .unwrap_or(false),
            internal: internal(&settings.many("internal", internal_host)?),
            correlation: CorrelationConfig::parse(settings)?,
            listen,
        }))
    }

    /// Whether only this machine can reach it.
    pub(crate) fn is_private(&self) -> bool {
        self.listen.ip().is_loopback()
    }
}

/// One entry of the list of internal hosts.
#[derive(Clone, Debug)]
pub(super) enum Internal {
    None,
    Suffix(HostSuffix),
    Network(NetworkRule),
}

pub(super) fn internal_host(text: &str) -> Result<Internal, String> {
    if text == "none" {
        return Ok(Internal::None);
    }
    if let Ok(network) = text.parse() {
        return Ok(Internal::Network(network));
    }
    text.parse().map(Internal::Suffix).map_err(|_unparsable| {
        format!(
            "{text:?} is neither a domain nor a network (such as .corp.example, 10.0.0.0/8), nor `none`"
        )
    })
}

pub(super) fn internal(list: &[Internal]) -> InternalHosts {
    let start = if list.iter().any(|it| matches!(it, Internal::None)) {
        InternalHosts::none()
    } else {
        InternalHosts::default()
    };
    list.iter()
        .cloned()
        .fold(start, |hosts, entry| match entry {
            Internal::None => hosts,
            Internal::Suffix(suffix) => hosts.suffix(suffix),
            Internal::Network(network) => hosts.network(network),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(list: &[&str]) -> Result<InternalHosts, String> {
        let list: Result<Vec<_>, _> = list.iter().map(|text| internal_host(text)).collect();
        Ok(internal(&list?))
    }

    #[test]
    fn the_list_adds_to_the_default_unless_it_says_none() {
        let more = hosts(&[".corp.example", "192.0.2.0/24"]).unwrap();
        for host in ["a.corp.example", "192.0.2.7", "foo", "10.0.0.1"] {
            assert!(more.contains_host(host), "{host}");
        }
        assert!(!more.contains_host("example.com"));
        let only = hosts(&["none", ".corp.example"]).unwrap();
        assert!(only.contains_host("a.corp.example"));
        for host in ["foo", "foo.svc", "10.0.0.1"] {
            assert!(!only.contains_host(host), "{host}");
        }
        assert!(hosts(&["http://foo/"]).unwrap_err().contains("`none`"));
    }
}
