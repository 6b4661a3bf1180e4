//! The egress guard: which destinations a contract may travel to.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use devroute_core::{HostSuffix, NetworkRule, RefusalReason, TargetPolicy};
use http::{Uri, uri::Authority};

use crate::context;

/// The hosts that count as internal: the only ones that a contract is sent to.
///
/// A contract names addresses inside the organisation, and whoever receives one can act on it. So
/// it goes to internal destinations only, and is taken off a request to any other. By default
/// these are internal:
///
/// 1. host names of a single label (`checkout`, `localhost`);
/// 2. names below `.svc`, `.local` (so `.svc.cluster.local` as well), `.internal` and
///    `.localhost`;
/// 3. private addresses: RFC 1918, unique local IPv6 (`fc00::/7`), loopback, and `100.64.0.0/10`,
///    which carrier-grade NAT and Tailscale share.
///
/// Link-local addresses and the metadata services of clouds are never internal, whatever is listed: not
/// `169.254.0.0/16`, not those that hide inside private space (`100.100.100.200`, `fd00:ec2::254` and
/// the others that no [target policy](TargetPolicy) allows), not `metadata.google.internal` or
/// `instance-data.ec2.internal`.
///
/// What is not plainly one of these is external: an address in a spelling that only some resolvers
/// take (`2130706433`, `127.1`, `0x7f.1`, `010.0.0.1`), an IPv6 address with a zone, a name with an
/// empty label or with characters that host names do not have. Names are compared without regard
/// to case, one trailing dot is ignored, and an IPv4 address inside an IPv6 one
/// (`::ffff:10.0.0.1`) is judged as the IPv4 address.
///
/// ```
/// use devroute_tower::outbound::InternalHosts;
///
/// let hosts = InternalHosts::default().suffix(".corp.example".parse()?);
/// assert!(hosts.contains_host("checkout"));
/// assert!(hosts.contains_host("checkout.qa.svc.cluster.local."));
/// assert!(hosts.contains_host("build.CORP.example"));
/// assert!(hosts.contains_host("[fd00::1]"));
/// assert!(!hosts.contains_host("corp.example.org"));
/// assert!(!hosts.contains_host("2130706433"));
///
/// let only = InternalHosts::none().network("10.20.0.0/16".parse()?);
/// assert!(only.contains(&"10.20.3.4:8080".parse()?));
/// assert!(!only.contains(&"checkout:8080".parse()?));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct InternalHosts {
    rules: Arc<Rules>,
}

impl InternalHosts {
    /// Starts from an empty list: every destination is external.
    #[must_use]
    pub fn none() -> Self {
        Self {
            rules: Arc::new(Rules {
                single_label: false,
                private_addresses: false,
                suffixes: Vec::new(),
                networks: Vec::new(),
            }),
        }
    }

    /// Says whether names of a single label are internal.
    #[must_use]
    pub fn single_label(mut self, internal: bool) -> Self {
        Arc::make_mut(&mut self.rules).single_label = internal;
        self
    }

    /// Says whether private addresses are internal.
    #[must_use]
    pub fn private_addresses(mut self, internal: bool) -> Self {
        Arc::make_mut(&mut self.rules).private_addresses = internal;
        self
    }

    /// Adds the names below a suffix, or one name.
    #[must_use]
    pub fn suffix(mut self, suffix: HostSuffix) -> Self {
        Arc::make_mut(&mut self.rules).suffixes.push(suffix);
        self
    }

    /// Adds a network, or one address.
    ///
    /// A rule with ports holds only for a destination that spells its port.
    #[must_use]
    pub fn network(mut self, network: NetworkRule) -> Self {
        Arc::make_mut(&mut self.rules).networks.push(network);
        self
    }

    /// Says whether the host of `authority` is internal; user information does not matter.
    #[must_use]
    pub fn contains(&self, authority: &Authority) -> bool {
        self.contains_at(authority.host(), authority.port_u16())
    }

    /// Says whether a client may follow a redirect from `from` to `to`, repeating the fields of the
    /// request: not where a contract is in scope and would leave the internal hosts (rule 11).
    ///
    /// For clients that follow redirects *below* the place where the contract is attached: the
    /// policies of reqwest in any version, or tower-http's `FollowRedirect` inside of the layer.
    /// Where a client shows the whole chain, `from` is its first place, since that is where the
    /// contract was attached. A place without an authority is outside.
    ///
    /// ```
    /// use devroute_tower::{context, outbound::InternalHosts};
    ///
    /// let hosts = InternalHosts::default();
    /// let inside = "http://checkout:8080/cart".parse()?;
    /// let outside = "http://example.com/".parse()?;
    /// let contract: devroute_core::Contract = r#"{"foo":"192.168.1.12:8001"}"#.parse()?;
    ///
    /// assert!(hosts.may_follow(&inside, &outside)); // nothing is in scope
    /// context::sync_scope(contract, || {
    ///     assert!(hosts.may_follow(&inside, &inside));
    ///     assert!(!hosts.may_follow(&inside, &outside));
    ///     assert!(hosts.may_follow(&outside, &outside)); // it never was on this request
    /// });
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn may_follow(&self, from: &Uri, to: &Uri) -> bool {
        let internal = |uri: &Uri| uri.authority().is_some_and(|place| self.contains(place));
        context::current().is_none() || internal(to) || !internal(from)
    }

    /// Says whether `host` is internal: a name, an IPv4 address, or an IPv6 address with or without
    /// brackets.
    #[must_use]
    pub fn contains_host(&self, host: &str) -> bool {
        self.contains_at(host, None)
    }

    pub(crate) fn contains_at(&self, host: &str, port: Option<u16>) -> bool {
        match Host::parse(host) {
            // No rule with ports includes port 0.
            Some(Host::Address(ip)) => self.rules.address((ip, port.unwrap_or(0)).into()),
            Some(Host::Name(name)) => self.rules.name(name),
            None => false,
        }
    }
}

impl Default for InternalHosts {
    fn default() -> Self {
        let hosts = Self::none().single_label(true).private_addresses(true);
        [".svc", ".local", ".internal", ".localhost"]
            .into_iter()
            .filter_map(|suffix| suffix.parse().ok())
            .fold(hosts, Self::suffix)
    }
}

#[derive(Clone, Debug)]
struct Rules {
    single_label: bool,
    private_addresses: bool,
    suffixes: Vec<HostSuffix>,
    networks: Vec<NetworkRule>,
}

impl Rules {
    fn address(&self, addr: SocketAddr) -> bool {
        let listed = (self.private_addresses && is_private(addr.ip()))
            || self.networks.iter().any(|network| network.matches(addr));
        listed && !is_metadata(addr.ip())
    }

    fn name(&self, name: &str) -> bool {
        let listed = (self.single_label && !name.contains('.'))
            || self.suffixes.iter().any(|suffix| suffix.matches(name));
        listed
            && !METADATA_NAMES
                .iter()
                .any(|metadata| metadata.eq_ignore_ascii_case(name))
    }
}

/// A host, told apart the careful way: what could be an address to some resolver is not a name.
pub(super) enum Host<'a> {
    Address(IpAddr),
    /// A syntactically valid name, without the trailing dot.
    Name(&'a str),
}

impl<'a> Host<'a> {
    pub(super) fn parse(host: &'a str) -> Option<Self> {
        if let Some(inner) = host.strip_prefix('[') {
            let address: Ipv6Addr = inner.strip_suffix(']')?.parse().ok()?;
            return Some(Self::Address(address.to_canonical()));
        }
        if let Ok(address) = host.parse::<IpAddr>() {
            return Some(Self::Address(address.to_canonical()));
        }
        let name = host.strip_suffix('.').unwrap_or(host);
        let last = name.rsplit('.').next()?;
        let valid = name.len() <= 253 && name.split('.').all(is_label) && !is_number(last);
        valid.then_some(Self::Name(name))
    }
}

fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && label
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// Whether a last label makes the whole name an address for `inet_aton` and for URL parsers.
fn is_number(label: &str) -> bool {
    let hex = label
        .strip_prefix("0x")
        .or_else(|| label.strip_prefix("0X"))
        .is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    hex || label.bytes().all(|byte| byte.is_ascii_digit())
}

/// The names of metadata services below `.internal`, of Google Cloud and of AWS.
const METADATA_NAMES: [&str; 2] = ["metadata.google.internal", "instance-data.ec2.internal"];

/// What is no target whatever is switched on, because machines keep their credentials there.
fn is_metadata(ip: IpAddr) -> bool {
    // One list of them, in the policy. It judges no port that is zero.
    let judged = TargetPolicy::default().judge_addr((ip, 80).into());
    judged.is_err_and(|refusal| {
        matches!(
            refusal.reason(),
            RefusalReason::Metadata | RefusalReason::LinkLocal
        )
    })
}

/// Expects an address in canonical form: no IPv4 inside IPv6.
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [first, second, ..] = v4.octets();
            let shared = first == 100 && (64..128).contains(&second);
            v4.is_private() || v4.is_loopback() || shared
        }
        IpAddr::V6(v6) => v6.is_unique_local() || v6.is_loopback(),
    }
}
