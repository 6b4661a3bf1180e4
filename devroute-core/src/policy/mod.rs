//! Which targets may answer (rule 5): see [`TargetPolicy`].
//!
//! `network` has the rules that a deployment writes, `ranges` what kind of address an address is, `suffix` the
//! host names that may be resolved, and `refusal` the reasons in words. Nothing here does I/O.

mod network;
mod ranges;
mod refusal;
mod suffix;

use std::net::{IpAddr, SocketAddr};

pub use self::network::{NetworkRule, NetworkRuleError};
pub use self::refusal::{Refusal, RefusalReason};
pub use self::suffix::{HostSuffix, HostSuffixError};

use self::network::Network;
use self::ranges::Class;
use crate::target::{Host, Target};

/// The ports of the Kubernetes API server, the kubelet and etcd.
const KUBERNETES_PORTS: [u16; 4] = [6443, 10250, 2379, 2380];

/// Decides which targets may answer.
///
/// The setters are meant to be chained. Every judgement is a walk over short lists and allocates nothing.
///
/// A contract comes from whoever sends the request, so a target in it is a wish. [`TargetPolicy`] is the
/// deployment's answer, given without any I/O:
///
/// 1. Private addresses (RFC 1918, `fc00::/7`) are allowed.
/// 2. Loopback, and 100.64.0.0/10 (carrier-grade NAT, which Tailscale uses), are one switch each.
/// 3. Public addresses need a rule that [allows](Self::allow) their network; so does 198.18.0.0/15.
/// 4. Host names need an [allowed suffix](Self::allow_suffix); then every address that the name resolves
///    to is judged like one that stood in the contract.
/// 5. Rules that [deny](Self::deny) win over everything that allows.
/// 6. Nothing opens the rest: unspecified, link-local, multicast, broadcast, reserved and documentation
///    addresses, addresses that hide an IPv4 address, the metadata services of clouds, and the
///    [own listeners](Self::own_listener) of the process.
///
/// ```
/// use devroute_core::{Permit, RefusalReason, Target, TargetPolicy};
///
/// let policy = TargetPolicy::default().allow_loopback(true).deny("10.9.0.0/16".parse()?);
///
/// let laptop: Target = "192.168.1.12:8001".parse()?;
/// assert_eq!(policy.judge(&laptop)?, Permit::Address("192.168.1.12:8001".parse()?));
///
/// let refused = |target: &str| policy.judge(&target.parse().unwrap()).unwrap_err().reason();
/// assert_eq!(refused("69.145.32.56:9001"), RefusalReason::Public);
/// assert_eq!(refused("169.254.169.254:80"), RefusalReason::Metadata);
/// assert_eq!(refused("10.9.1.1:80"), RefusalReason::Denied);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct TargetPolicy {
    loopback: bool,
    cgnat: bool,
    allow: Vec<NetworkRule>,
    deny: Vec<NetworkRule>,
    suffixes: Vec<HostSuffix>,
    own_listeners: Vec<SocketAddr>,
    own_addresses: Vec<IpAddr>,
    kubernetes: Option<Kubernetes>,
    delegated: bool,
}

#[derive(Clone, Copy, Debug)]
struct Kubernetes {
    api_server: Option<IpAddr>,
}

/// What a policy allows.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Permit {
    /// Dial exactly this address; an IPv4-mapped IPv6 address has become the IPv4 address it holds.
    Address(SocketAddr),
    /// Resolve the host name, put every address through [`TargetPolicy::judge_addr`], and dial exactly one that
    /// passed.
    Resolve,
    /// Hand the request to a router, which judges the target (rule 19); nothing was judged here.
    Delegated,
}

impl TargetPolicy {
    /// Judges nothing, because a router does (rule 19): every target is [`Permit::Delegated`].
    ///
    /// It is only for whoever hands rerouted requests to a router and dials nothing else.
    #[must_use]
    pub fn delegated() -> Self {
        Self {
            delegated: true,
            ..Self::default()
        }
    }

    /// Allows 127.0.0.0/8 and `::1`. Off by default: there, a target is a neighbour in the same pod or machine.
    #[must_use]
    pub fn allow_loopback(mut self, allow: bool) -> Self {
        self.loopback = allow;
        self
    }

    /// Allows 100.64.0.0/10 (RFC 6598), where Tailscale puts its machines. Off by default.
    #[must_use]
    pub fn allow_cgnat(mut self, allow: bool) -> Self {
        self.cgnat = allow;
        self
    }

    /// Allows a network.
    ///
    /// Loopback, 100.64.0.0/10 and 198.18.0.0/15 are opened only by a network that lies inside them, so
    /// `0.0.0.0/0` does not open them by accident. What is always refused stays refused. A rule never narrows
    /// what is allowed anyway: that is what [`deny`](Self::deny) is for.
    #[must_use]
    pub fn allow(mut self, rule: NetworkRule) -> Self {
        self.allow.push(rule);
        self
    }

    /// Refuses a network, whatever else allows it.
    #[must_use]
    pub fn deny(mut self, rule: NetworkRule) -> Self {
        self.deny.push(rule);
        self
    }

    /// Lets host names with this suffix be resolved.
    #[must_use]
    pub fn allow_suffix(mut self, suffix: HostSuffix) -> Self {
        self.suffixes.push(suffix);
        self
    }

    /// Refuses an address that this process listens on, so that a contract cannot make it call itself.
    ///
    /// A listener on all addresses (`0.0.0.0:8080`, `[::]:8080`) covers every address of this machine that is
    /// known without asking the system: loopback, the addresses of the other own listeners, and those named by
    /// [`own_address`](Self::own_address). Whoever dials should also refuse a connection whose peer address
    /// equals its local one on such a port: that catches the addresses that nobody named.
    #[must_use]
    pub fn own_listener(mut self, addr: SocketAddr) -> Self {
        self.own_listeners.push(normalize(addr));
        self
    }

    /// Names an address of this machine, for listeners on all addresses (see
    /// [`own_listener`](Self::own_listener)); in Kubernetes, the pod's address.
    #[must_use]
    pub fn own_address(mut self, ip: IpAddr) -> Self {
        self.own_addresses.push(ip.to_canonical());
        self
    }

    /// Refuses what runs a Kubernetes cluster: its API server (the value of `KUBERNETES_SERVICE_HOST`), and the
    /// ports 6443, 10250, 2379 and 2380 at every address.
    ///
    /// A rule that [allows](Self::allow) the network *and names the port* in its range is the exception.
    #[must_use]
    pub fn kubernetes(mut self, api_server: Option<IpAddr>) -> Self {
        let api_server = api_server.map(|ip| ip.to_canonical());
        self.kubernetes = Some(Kubernetes { api_server });
        self
    }

    /// Judges a target.
    ///
    /// # Errors
    ///
    /// When the target is refused; the refusal says why, and which switch or rule would open it, if any.
    pub fn judge(&self, target: &Target) -> Result<Permit, Refusal> {
        if self.delegated {
            return Ok(Permit::Delegated);
        }
        match target.host() {
            Host::Ip(ip) => {
                let (ip, port) = (ip.to_canonical(), target.port());
                match self.judge_inner(ip, port) {
                    Ok(()) => Ok(Permit::Address(SocketAddr::new(ip, port))),
                    Err(reason) => Err(Refusal::of_target(reason, target.clone())),
                }
            }
            Host::Name(name) => {
                if self
                    .suffixes
                    .iter()
                    .any(|suffix| suffix.matches(name.as_str()))
                {
                    Ok(Permit::Resolve)
                } else {
                    Err(Refusal::of_target(RefusalReason::HostName, target.clone()))
                }
            }
        }
    }

    /// Judges one address, say one that a name resolved to, and returns it as it is to be dialled.
    ///
    /// # Errors
    ///
    /// When the address is refused.
    pub fn judge_addr(&self, addr: SocketAddr) -> Result<SocketAddr, Refusal> {
        let normal = normalize(addr);
        match self.judge_inner(normal.ip(), normal.port()) {
            Ok(()) => Ok(normal),
            Err(reason) => Err(Refusal::of_addr(reason, addr)),
        }
    }

    /// Judges a canonical address.
    ///
    /// It comes as address and port because those stay in registers; a `SocketAddr` goes through memory.
    fn judge_inner(&self, ip: IpAddr, port: u16) -> Result<(), RefusalReason> {
        if port == 0 {
            return Err(RefusalReason::PortZero);
        }
        let class = ranges::classify(ip);
        if let Class::Never(reason) = class {
            return Err(*reason);
        }
        if self.is_own(ip, port) {
            return Err(RefusalReason::OwnListener);
        }
        if self.deny.iter().any(|rule| rule.covers(ip, port)) {
            return Err(RefusalReason::Denied);
        }
        if let Some(reason) = self
            .kubernetes
            .and_then(|kubernetes| kubernetes.refuses(ip, port))
        {
            if !self
                .allow
                .iter()
                .any(|rule| rule.names_port() && rule.covers(ip, port))
            {
                return Err(reason);
            }
        }
        let is_opened = |block| self.is_opened(ip, port, block);
        match class {
            Class::Private => Ok(()),
            Class::Loopback(block) if self.loopback || is_opened(Some(block)) => Ok(()),
            Class::Loopback(_) => Err(RefusalReason::Loopback),
            Class::Cgnat(block) if self.cgnat || is_opened(Some(block)) => Ok(()),
            Class::Cgnat(_) => Err(RefusalReason::Cgnat),
            Class::Benchmarking(block) if is_opened(Some(block)) => Ok(()),
            Class::Benchmarking(_) => Err(RefusalReason::Benchmarking),
            Class::Public if is_opened(None) => Ok(()),
            Class::Public => Err(RefusalReason::Public),
            Class::Never(reason) => Err(*reason),
        }
    }

    /// Whether a rule opens the address; a rule opens a `block` only from inside.
    fn is_opened(&self, ip: IpAddr, port: u16, block: Option<&Network>) -> bool {
        self.allow.iter().any(|rule| {
            rule.covers(ip, port)
                && block.is_none_or(|block| block.contains_network(rule.network()))
        })
    }

    fn is_own(&self, ip: IpAddr, port: u16) -> bool {
        self.own_listeners
            .iter()
            .filter(|own| own.port() == port)
            .any(|own| {
                own.ip() == ip
                    || own.ip().is_unspecified()
                        && (ip.is_loopback()
                            || self.own_addresses.contains(&ip)
                            || self.own_listeners.iter().any(|other| other.ip() == ip))
            })
    }
}

impl Kubernetes {
    fn refuses(self, ip: IpAddr, port: u16) -> Option<RefusalReason> {
        if self.api_server == Some(ip) {
            Some(RefusalReason::KubernetesApi)
        } else if KUBERNETES_PORTS.contains(&port) {
            Some(RefusalReason::KubernetesPort)
        } else {
            None
        }
    }
}

/// The address as it is judged and dialled: IPv4-mapped becomes IPv4, flow label and scope id go.
fn normalize(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}
