//! What kind of address an address is, by the registries of special-purpose addresses (RFC 6890).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::network::Network;
use super::refusal::RefusalReason;

/// How a policy treats an address; the blocks are those that only a rule inside them opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Refused whatever is switched on.
    Never(RefusalReason),
    /// Allowed unless denied.
    Private,
    Loopback(Network),
    Cgnat(Network),
    Benchmarking(Network),
    /// Everything else: allowed by a rule only.
    Public,
}

/// Classifies an address, which must not be an IPv4-mapped one.
pub(super) fn classify(ip: IpAddr) -> &'static Class {
    table(ip)
        .iter()
        .find(|(network, _)| network.contains(ip))
        .map_or(&Class::Public, |(_, class)| class)
}

fn table(ip: IpAddr) -> &'static [(Network, Class)] {
    match ip {
        IpAddr::V4(_) => V4,
        IpAddr::V6(_) => V6,
    }
}

const fn v4(parts: [u8; 4], prefix: u8) -> Network {
    let [a, b, c, d] = parts;
    Network::v4(Ipv4Addr::new(a, b, c, d), prefix)
}

/// A network by the bits in front of the address' zeros.
const fn v6(parts: [u16; 8], prefix: u8) -> Network {
    let [a, b, c, d, e, f, g, h] = parts;
    Network::v6(Ipv6Addr::new(a, b, c, d, e, f, g, h), prefix)
}

const fn never(network: Network, reason: RefusalReason) -> (Network, Class) {
    (network, Class::Never(reason))
}

const LOOPBACK_V4: Network = v4([127, 0, 0, 0], 8);
const LOOPBACK_V6: Network = v6([0, 0, 0, 0, 0, 0, 0, 1], 128);
const CGNAT: Network = v4([100, 64, 0, 0], 10);
const BENCHMARKING: Network = v4([198, 18, 0, 0], 15);

/// The first match counts, so what lies inside another network stands before it.
const V4: &[(Network, Class)] = &[
    (v4([10, 0, 0, 0], 8), Class::Private),
    (v4([172, 16, 0, 0], 12), Class::Private),
    (v4([192, 168, 0, 0], 16), Class::Private),
    // AWS, Azure, Google and most others; Alibaba; Azure's host agent; Oracle.
    never(v4([169, 254, 169, 254], 32), RefusalReason::Metadata),
    never(v4([100, 100, 100, 200], 32), RefusalReason::Metadata),
    never(v4([168, 63, 129, 16], 32), RefusalReason::Metadata),
    never(v4([192, 0, 0, 192], 32), RefusalReason::Metadata),
    (LOOPBACK_V4, Class::Loopback(LOOPBACK_V4)),
    (CGNAT, Class::Cgnat(CGNAT)),
    (BENCHMARKING, Class::Benchmarking(BENCHMARKING)),
    // "This network" (RFC 791); many systems take any of it for the local machine.
    never(v4([0, 0, 0, 0], 8), RefusalReason::Unspecified),
    never(v4([169, 254, 0, 0], 16), RefusalReason::LinkLocal),
    never(v4([192, 0, 0, 0], 24), RefusalReason::Reserved),
    never(v4([192, 0, 2, 0], 24), RefusalReason::Documentation),
    never(v4([198, 51, 100, 0], 24), RefusalReason::Documentation),
    never(v4([203, 0, 113, 0], 24), RefusalReason::Documentation),
    // The relays of 6to4 (RFC 7526).
    never(v4([192, 88, 99, 0], 24), RefusalReason::Reserved),
    never(v4([224, 0, 0, 0], 4), RefusalReason::Multicast),
    never(v4([255, 255, 255, 255], 32), RefusalReason::Broadcast),
    never(v4([240, 0, 0, 0], 4), RefusalReason::Reserved),
];

/// The first match counts, so what lies inside another network stands before it.
const V6: &[(Network, Class)] = &[
    // Inside the private range: the services of AWS (metadata, pod identity, names, time), and the metadata of
    // Google, Oracle, Alibaba, Akamai and Scaleway.
    never(
        v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0], 32),
        RefusalReason::Metadata,
    ),
    never(
        v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128),
        RefusalReason::Metadata,
    ),
    never(
        v6([0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe], 128),
        RefusalReason::Metadata,
    ),
    never(
        v6([0xfd00, 0x100, 0, 0, 0, 0, 0x100, 0x200], 128),
        RefusalReason::Metadata,
    ),
    never(
        v6([0xfd00, 0xa9fe, 0xa9fe, 0, 0, 0, 0, 1], 128),
        RefusalReason::Metadata,
    ),
    never(
        v6([0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42], 128),
        RefusalReason::Metadata,
    ),
    (v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7), Class::Private),
    (LOOPBACK_V6, Class::Loopback(LOOPBACK_V6)),
    never(
        v6([0, 0, 0, 0, 0, 0, 0, 0], 128),
        RefusalReason::Unspecified,
    ),
    // Addresses that hold an IPv4 address, which the rules for IPv4 would not see: IPv4-compatible
    // (RFC 4291), IPv4-translated (RFC 2765), NAT64 (RFC 6052, RFC 8215), 6to4 (RFC 3056), Teredo (RFC 4380).
    never(
        v6([0, 0, 0, 0, 0, 0, 0, 0], 96),
        RefusalReason::EmbeddedIpv4,
    ),
    never(
        v6([0, 0, 0, 0, 0xffff, 0, 0, 0], 96),
        RefusalReason::EmbeddedIpv4,
    ),
    never(
        v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96),
        RefusalReason::EmbeddedIpv4,
    ),
    never(
        v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48),
        RefusalReason::EmbeddedIpv4,
    ),
    never(
        v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16),
        RefusalReason::EmbeddedIpv4,
    ),
    never(
        v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 32),
        RefusalReason::EmbeddedIpv4,
    ),
    // The rest of what begins with a zero byte, the discard-only prefix, IETF protocol assignments, SRv6, and
    // the site-local addresses of old.
    never(v6([0, 0, 0, 0, 0, 0, 0, 0], 8), RefusalReason::Reserved),
    never(
        v6([0x100, 0, 0, 0, 0, 0, 0, 0], 64),
        RefusalReason::Reserved,
    ),
    never(
        v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23),
        RefusalReason::Reserved,
    ),
    never(
        v6([0x5f00, 0, 0, 0, 0, 0, 0, 0], 16),
        RefusalReason::Reserved,
    ),
    never(
        v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10),
        RefusalReason::Reserved,
    ),
    never(
        v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32),
        RefusalReason::Documentation,
    ),
    never(
        v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20),
        RefusalReason::Documentation,
    ),
    never(
        v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10),
        RefusalReason::LinkLocal,
    ),
    never(
        v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8),
        RefusalReason::Multicast,
    ),
];
