//! Why a target is refused, in words that say what to do about it.

use std::error::Error;
use std::fmt;
use std::net::SocketAddr;

use crate::target::Target;

/// Why a policy refuses a target or an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    reason: RefusalReason,
    subject: Subject,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Subject {
    Target(Target),
    Addr(SocketAddr),
}

/// The reasons of a [`Refusal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RefusalReason {
    /// Loopback, which is not switched on.
    Loopback,
    /// 100.64.0.0/10, which is not switched on.
    Cgnat,
    /// 198.18.0.0/15, which no rule inside it allows.
    Benchmarking,
    /// A public address that no rule allows.
    Public,
    /// A host name whose suffix is not listed.
    HostName,
    /// A rule denies it.
    Denied,
    /// The Kubernetes API server.
    KubernetesApi,
    /// A port of the Kubernetes control plane.
    KubernetesPort,
    /// A listener of this very process.
    OwnListener,
    /// The metadata service of a cloud.
    Metadata,
    /// 169.254.0.0/16 or `fe80::/10`.
    LinkLocal,
    /// The unspecified address, or another one of 0.0.0.0/8.
    Unspecified,
    /// 224.0.0.0/4 or `ff00::/8`.
    Multicast,
    /// 255.255.255.255.
    Broadcast,
    /// Reserved for protocols or for the future.
    Reserved,
    /// Reserved for documentation.
    Documentation,
    /// An IPv6 address that holds an IPv4 address: IPv4-compatible, IPv4-translated, NAT64, 6to4 or Teredo.
    EmbeddedIpv4,
    /// Port 0, which only an address that did not come from a contract can have.
    PortZero,
}

impl RefusalReason {
    /// A stable `snake_case` label, for metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Loopback => "loopback",
            Self::Cgnat => "cgnat",
            Self::Benchmarking => "benchmarking",
            Self::Public => "public",
            Self::HostName => "host_name",
            Self::Denied => "denied",
            Self::KubernetesApi => "kubernetes_api",
            Self::KubernetesPort => "kubernetes_port",
            Self::OwnListener => "own_listener",
            Self::Metadata => "metadata",
            Self::LinkLocal => "link_local",
            Self::Unspecified => "unspecified",
            Self::Multicast => "multicast",
            Self::Broadcast => "broadcast",
            Self::Reserved => "reserved",
            Self::Documentation => "documentation",
            Self::EmbeddedIpv4 => "embedded_ipv4",
            Self::PortZero => "port_zero",
        }
    }

    /// What it is, and what to do about it.
    const fn advice(self) -> &'static str {
        match self {
            Self::Loopback => {
                "loopback is not allowed here; the deployment can allow `loopback`, \
                 or use an address that the cluster can reach"
            }
            Self::Cgnat => {
                "100.64.0.0/10 (Tailscale) is not allowed here; the deployment can allow `cgnat`"
            }
            Self::Benchmarking => {
                "198.18.0.0/15 is not allowed here; the deployment can allow a network inside it"
            }
            Self::Public => {
                "a public address is not allowed here; use a private one, \
                 or the deployment can allow its network"
            }
            Self::HostName => {
                "the host name has no allowed suffix; use an IP address, \
                 or the deployment can allow the suffix"
            }
            Self::Denied => "the deployment denies this network or port",
            Self::KubernetesApi => {
                "this is the Kubernetes API server; \
                 the deployment can allow the address with its port"
            }
            Self::KubernetesPort => {
                "this is a port of the Kubernetes control plane; use another port, \
                 or the deployment can allow the network with this port"
            }
            Self::OwnListener => {
                "this is a listener of the process that would dial it; nothing can allow it"
            }
            Self::Metadata => "this is a cloud's metadata service; nothing can allow it",
            Self::LinkLocal => "a link-local address; nothing can allow it",
            Self::Unspecified => "an unspecified address names no machine; nothing can allow it",
            Self::Multicast => "a multicast address; nothing can allow it",
            Self::Broadcast => "the broadcast address; nothing can allow it",
            Self::Reserved => "a reserved address; nothing can allow it",
            Self::Documentation => "an address reserved for documentation; nothing can allow it",
            Self::EmbeddedIpv4 => {
                "an IPv6 address that hides an IPv4 address; nothing can allow it, \
                 use the IPv4 address itself"
            }
            Self::PortZero => "port 0 cannot be dialled; nothing can allow it",
        }
    }
}

impl fmt::Display for RefusalReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Refusal {
    pub(super) fn of_target(reason: RefusalReason, target: Target) -> Self {
        Self {
            reason,
            subject: Subject::Target(target),
        }
    }

    pub(super) fn of_addr(reason: RefusalReason, addr: SocketAddr) -> Self {
        Self {
            reason,
            subject: Subject::Addr(addr),
        }
    }

    /// Why.
    #[must_use]
    pub fn reason(&self) -> RefusalReason {
        self.reason
    }

    /// The target, where one was judged.
    #[must_use]
    pub fn target(&self) -> Option<&Target> {
        match &self.subject {
            Subject::Target(target) => Some(target),
            Subject::Addr(_) => None,
        }
    }

    /// The address that was judged; none for a host name.
    #[must_use]
    pub fn addr(&self) -> Option<SocketAddr> {
        match &self.subject {
            Subject::Target(target) => target.socket_addr(),
            Subject::Addr(addr) => Some(*addr),
        }
    }

    /// The sentence of the `Display` form without the address, for answers that must not show addresses.
    #[must_use]
    pub fn advice(&self) -> &'static str {
        self.reason.advice()
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.subject {
            Subject::Target(target) => target.fmt(f)?,
            Subject::Addr(addr) => addr.fmt(f)?,
        }
        write!(f, " is refused: {}", self.reason.advice())
    }
}

impl Error for Refusal {}
