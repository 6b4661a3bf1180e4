//! Section "Policy": rule 5, every range at its edges.

use std::net::{IpAddr, SocketAddr};

use devroute_core::{NetworkRule, Permit, RefusalReason, Target, TargetPolicy};

fn target(text: &str) -> Target {
    text.parse().unwrap()
}

fn rule(text: &str) -> NetworkRule {
    text.parse().unwrap()
}

/// The address without a port, judged at port 8001.
fn judge(policy: &TargetPolicy, ip: &str) -> Result<SocketAddr, RefusalReason> {
    let addr = SocketAddr::new(ip.parse().unwrap(), 8001);
    let judged = policy.judge_addr(addr).map_err(|refusal| refusal.reason());
    let as_target = policy
        .judge(&Target::from(addr))
        .map_err(|refusal| refusal.reason());
    assert_eq!(
        as_target,
        judged.map(Permit::Address),
        "both ways to judge agree on {ip}"
    );
    judged
}

/// Everything that can be switched on.
fn everything() -> TargetPolicy {
    [
        "0.0.0.0/0",
        "::/0",
        "127.0.0.0/8",
        "100.64.0.0/10",
        "198.18.0.0/15",
        "::1",
    ]
    .iter()
    .fold(TargetPolicy::default(), |policy, network| {
        policy.allow(rule(network))
    })
    .allow_loopback(true)
    .allow_cgnat(true)
}

#[test]
fn rule_05_private_addresses_are_allowed_and_their_neighbours_are_not() {
    let policy = TargetPolicy::default();
    for ip in [
        "10.0.0.0",
        "10.255.255.255",
        "172.16.0.0",
        "172.31.255.255",
        "192.168.0.0",
        "192.168.255.255",
        "fc00::",
        "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        "fd7a:115c:a1e0::1",
    ] {
        assert_eq!(
            judge(&policy, ip),
            Ok(SocketAddr::new(ip.parse().unwrap(), 8001))
        );
    }
    for ip in [
        "9.255.255.255",
        "11.0.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "192.167.255.255",
        "192.169.0.0",
        "8.8.8.8",
        "69.145.32.56",
        "fbff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        "fe00::",
        "2600::1",
        "2001:4860:4860::8888",
    ] {
        assert_eq!(judge(&policy, ip), Err(RefusalReason::Public), "{ip}");
    }
}

#[test]
fn rule_05_loopback_and_cgnat_are_one_switch_each() {
    let policy = TargetPolicy::default();
    let loopback = policy.clone().allow_loopback(true);
    for ip in ["127.0.0.0", "127.0.0.1", "127.255.255.255", "::1"] {
        assert_eq!(judge(&policy, ip), Err(RefusalReason::Loopback), "{ip}");
        assert!(judge(&loopback, ip).is_ok(), "{ip}");
    }
    assert_eq!(
        judge(&loopback, "126.255.255.255"),
        Err(RefusalReason::Public)
    );
    assert_eq!(judge(&loopback, "128.0.0.0"), Err(RefusalReason::Public));
    assert_eq!(judge(&loopback, "100.64.0.0"), Err(RefusalReason::Cgnat));

    let cgnat = policy.clone().allow_cgnat(true);
    for ip in ["100.64.0.0", "100.127.255.255"] {
        assert_eq!(judge(&policy, ip), Err(RefusalReason::Cgnat), "{ip}");
        assert!(judge(&cgnat, ip).is_ok(), "{ip}");
    }
    assert_eq!(judge(&cgnat, "100.63.255.255"), Err(RefusalReason::Public));
    assert_eq!(judge(&cgnat, "100.128.0.0"), Err(RefusalReason::Public));
    assert_eq!(judge(&cgnat, "127.0.0.1"), Err(RefusalReason::Loopback));
    assert_eq!(
        judge(&loopback.allow_loopback(false), "::1"),
        Err(RefusalReason::Loopback)
    );
}

#[test]
fn rule_05_special_blocks_are_opened_only_from_inside() {
    for (ip, inside, reason) in [
        ("127.0.0.5", "127.0.0.0/24", RefusalReason::Loopback),
        ("::1", "::1/128", RefusalReason::Loopback),
        ("100.64.3.4", "100.64.0.0/10", RefusalReason::Cgnat),
        ("198.18.0.0", "198.18.0.0/15", RefusalReason::Benchmarking),
        (
            "198.19.255.255",
            "198.19.0.0/16",
            RefusalReason::Benchmarking,
        ),
    ] {
        let wide = TargetPolicy::default()
            .allow(rule("0.0.0.0/0"))
            .allow(rule("::/0"));
        assert_eq!(judge(&wide, ip), Err(reason), "{ip}");
        assert!(judge(&wide.allow(rule(inside)), ip).is_ok(), "{ip}");
    }
    let wide = TargetPolicy::default()
        .allow(rule("96.0.0.0/4"))
        .allow(rule("198.16.0.0/14"));
    assert_eq!(judge(&wide, "100.64.3.4"), Err(RefusalReason::Cgnat));
    assert!(judge(&wide, "198.17.255.255").is_ok());
    assert_eq!(judge(&wide, "198.18.0.0"), Err(RefusalReason::Benchmarking));
    assert_eq!(judge(&wide, "198.20.0.0"), Err(RefusalReason::Public));
}

#[test]
fn rule_05_nothing_opens_what_is_always_refused() {
    use RefusalReason::{
        Broadcast, Documentation, EmbeddedIpv4, LinkLocal, Metadata, Multicast, Reserved,
        Unspecified,
    };
    let policy = everything();
    for (ip, reason) in [
        ("0.0.0.0", Unspecified),
        ("0.255.255.255", Unspecified),
        ("169.254.0.0", LinkLocal),
        ("169.254.169.253", LinkLocal),
        ("169.254.169.254", Metadata),
        ("169.254.170.2", LinkLocal),
        ("169.254.255.255", LinkLocal),
        ("168.63.129.16", Metadata),
        ("100.100.100.200", Metadata),
        ("192.0.0.192", Metadata),
        ("192.0.0.0", Reserved),
        ("192.0.0.255", Reserved),
        ("192.0.2.0", Documentation),
        ("192.0.2.255", Documentation),
        ("198.51.100.0", Documentation),
        ("198.51.100.255", Documentation),
        ("203.0.113.0", Documentation),
        ("203.0.113.255", Documentation),
        ("192.88.99.0", Reserved),
        ("192.88.99.255", Reserved),
        ("224.0.0.0", Multicast),
        ("239.255.255.255", Multicast),
        ("240.0.0.0", Reserved),
        ("255.255.255.254", Reserved),
        ("255.255.255.255", Broadcast),
        ("::", Unspecified),
        ("::2", EmbeddedIpv4),
        ("::10.0.0.1", EmbeddedIpv4),
        ("::ffff:0:10.0.0.1", EmbeddedIpv4),
        ("64:ff9b::", EmbeddedIpv4),
        ("64:ff9b::10.0.0.1", EmbeddedIpv4),
        ("64:ff9b:1::", EmbeddedIpv4),
        ("64:ff9b:1:ffff:ffff:ffff:ffff:ffff", EmbeddedIpv4),
        ("64:ff9b:2::", Reserved),
        ("1::", Reserved),
        ("ff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Reserved),
        ("100::", Reserved),
        ("100::ffff:ffff:ffff:ffff", Reserved),
        ("2001::", EmbeddedIpv4),
        ("2001:0:ffff:ffff:ffff:ffff:ffff:ffff", EmbeddedIpv4),
        ("2001:1::", Reserved),
        ("2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff", Reserved),
        ("2001:db8::", Documentation),
        ("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", Documentation),
        ("2002::", EmbeddedIpv4),
        ("2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff", EmbeddedIpv4),
        ("3fff::", Documentation),
        ("3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff", Documentation),
        ("5f00::", Reserved),
        ("5f00:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Reserved),
        ("fd00:ec2::", Metadata),
        ("fd00:ec2::254", Metadata),
        ("fd00:ec2:ffff:ffff:ffff:ffff:ffff:ffff", Metadata),
        ("fd20:ce::254", Metadata),
        ("fd00:c1::a9fe:a9fe", Metadata),
        ("fd00:100::100:200", Metadata),
        ("fd00:a9fe:a9fe::1", Metadata),
        ("fd00:42::42", Metadata),
        ("fe80::", LinkLocal),
        ("febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff", LinkLocal),
        ("fec0::", Reserved),
        ("feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Reserved),
        ("ff00::", Multicast),
        ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Multicast),
    ] {
        assert_eq!(judge(&policy, ip), Err(reason), "{ip}");
        // Named as precisely as can be, it still stays refused.
        let ip_rule = NetworkRule::from(ip.parse::<IpAddr>().unwrap());
        assert_eq!(
            judge(&policy.clone().allow(ip_rule), ip),
            Err(reason),
            "{ip}"
        );
    }
    for neighbour in [
        "1.0.0.0",
        "169.253.255.255",
        "169.255.0.0",
        "168.63.129.15",
        "192.0.1.0",
        "192.0.3.0",
        "100.100.100.199",
        "192.88.98.255",
        "192.88.100.0",
        "223.255.255.255",
        "100:0:0:1::",
        "200::",
        "2001:200::",
        "2001:db7:ffff::",
        "2001:db9::",
        "2003::",
        "3ffe::",
        "3fff:1000::",
        "5eff::",
        "5f01::",
        "fd00:ec1:ffff::",
        "fd00:ec3::",
        "fe00::",
        "fe7f::",
    ] {
        assert!(judge(&policy, neighbour).is_ok(), "{neighbour}");
    }
}

#[test]
fn rule_05_a_mapped_address_is_judged_and_dialled_as_ipv4() {
    let policy = TargetPolicy::default();
    let permit = policy.judge(&target("[::ffff:10.0.0.1]:80")).unwrap();
    assert_eq!(permit, Permit::Address("10.0.0.1:80".parse().unwrap()));
    for (mapped, reason) in [
        ("::ffff:127.0.0.1", RefusalReason::Loopback),
        ("::ffff:169.254.169.254", RefusalReason::Metadata),
        ("::ffff:0.0.0.0", RefusalReason::Unspecified),
        ("::ffff:8.8.8.8", RefusalReason::Public),
        ("::ffff:100.64.0.1", RefusalReason::Cgnat),
    ] {
        assert_eq!(judge(&policy, mapped), Err(reason), "{mapped}");
    }
}

#[test]
fn rule_05_deny_wins_over_everything_that_allows() {
    let policy = everything()
        .deny(rule("10.1.0.0/16"))
        .deny(rule("8.8.8.0/24"))
        .deny(rule("127.0.0.1:8001"))
        .deny(rule("192.168.0.0/16:22"));
    for ip in ["10.1.2.3", "8.8.8.8", "127.0.0.1", "::ffff:10.1.2.3"] {
        assert_eq!(judge(&policy, ip), Err(RefusalReason::Denied), "{ip}");
    }
    for text in [
        "10.2.0.0:80",
        "8.8.9.1:80",
        "127.0.0.1:8002",
        "192.168.1.1:23",
    ] {
        assert!(policy.judge(&target(text)).is_ok(), "{text}");
    }
    assert!(policy.judge(&target("192.168.1.1:22")).is_err());
}

#[test]
fn rule_05_allow_opens_networks_and_ports() {
    let policy = TargetPolicy::default().allow(rule("69.145.32.0/24:9000-9009"));
    for (text, allowed) in [
        ("69.145.32.56:9000", true),
        ("69.145.32.56:9009", true),
        ("69.145.32.56:8999", false),
        ("69.145.32.56:9010", false),
        ("69.145.33.56:9000", false),
    ] {
        assert_eq!(policy.judge(&target(text)).is_ok(), allowed, "{text}");
    }
}

#[test]
fn rule_05_kubernetes_is_refused_unless_named_with_its_port() {
    let plain = TargetPolicy::default();
    let policy = plain.clone().kubernetes(Some("10.96.0.1".parse().unwrap()));
    let reason = |policy: &TargetPolicy, text: &str| {
        policy
            .judge(&target(text))
            .err()
            .map(|refusal| refusal.reason())
    };
    for port in [6443, 10250, 2379, 2380] {
        let text = format!("10.0.0.5:{port}");
        assert_eq!(reason(&plain, &text), None);
        assert_eq!(reason(&policy, &text), Some(RefusalReason::KubernetesPort));
    }
    assert_eq!(reason(&policy, "10.0.0.5:6442"), None);
    assert_eq!(
        reason(&policy, "10.96.0.1:443"),
        Some(RefusalReason::KubernetesApi)
    );
    assert_eq!(
        reason(&policy, "[::ffff:10.96.0.1]:443"),
        Some(RefusalReason::KubernetesApi)
    );
    assert_eq!(reason(&policy, "10.96.0.2:443"), None);

    let wide = policy.clone().allow(rule("10.0.0.0/8"));
    assert_eq!(
        reason(&wide, "10.0.0.5:6443"),
        Some(RefusalReason::KubernetesPort)
    );
    let named = policy
        .allow(rule("10.0.0.0/16:6443"))
        .allow(rule("10.96.0.1:443"));
    assert_eq!(reason(&named, "10.0.0.5:6443"), None);
    assert_eq!(
        reason(&named, "10.1.0.5:6443"),
        Some(RefusalReason::KubernetesPort)
    );
    assert_eq!(reason(&named, "10.96.0.1:443"), None);
    assert_eq!(
        reason(&named, "10.96.0.1:80"),
        Some(RefusalReason::KubernetesApi)
    );

    let without = TargetPolicy::default().kubernetes(None);
    assert_eq!(
        reason(&without, "10.0.0.5:10250"),
        Some(RefusalReason::KubernetesPort)
    );
}

#[test]
fn rule_05_own_listeners_are_never_a_target() {
    let own = |addr: &str| everything().own_listener(addr.parse().unwrap());
    let is_own = |policy: &TargetPolicy, text: &str| {
        policy
            .judge(&target(text))
            .is_err_and(|refusal| refusal.reason() == RefusalReason::OwnListener)
    };
    let one = own("10.0.0.5:8080").allow(rule("10.0.0.5:8080"));
    assert!(is_own(&one, "10.0.0.5:8080"));
    assert!(is_own(&one, "[::ffff:10.0.0.5]:8080"));
    assert!(!is_own(&one, "10.0.0.5:8081"));
    assert!(!is_own(&one, "10.0.0.6:8080"));
    assert!(!is_own(&one, "127.0.0.1:8080"));

    for all in ["0.0.0.0:8080", "[::]:8080", "[::ffff:0.0.0.0]:8080"] {
        let all = own(all)
            .own_listener("10.0.0.7:9090".parse().unwrap())
            .own_address("10.0.0.5".parse().unwrap());
        for text in [
            "127.0.0.1:8080",
            "127.9.9.9:8080",
            "[::1]:8080",
            "10.0.0.5:8080",
            "10.0.0.7:8080",
        ] {
            assert!(is_own(&all, text), "{text}");
        }
        for text in ["127.0.0.1:8081", "10.0.0.6:8080", "10.0.0.5:9090"] {
            assert!(!is_own(&all, text), "{text}");
        }
    }
}

#[test]
fn rule_03_host_names_need_a_listed_suffix() {
    let policy = TargetPolicy::default();
    let name = target("laptop.tail1234.ts.net:8001");
    let refusal = policy.judge(&name).unwrap_err();
    assert_eq!(refusal.reason(), RefusalReason::HostName);
    assert_eq!(refusal.target(), Some(&name));
    assert_eq!(refusal.addr(), None);

    let listed = policy.allow_suffix(".ts.net".parse().unwrap());
    assert_eq!(listed.judge(&name), Ok(Permit::Resolve));
    assert_eq!(
        listed.judge(&target("LAPTOP.TS.NET:1")),
        Ok(Permit::Resolve)
    );
    for text in [
        "ts.net:80",
        "evilts.net:80",
        "laptop.ts.net.evil.com:80",
        "localhost:80",
    ] {
        assert!(listed.judge(&target(text)).is_err(), "{text}");
    }
    // What the name resolves to is judged like anything else.
    assert!(
        listed
            .judge_addr("169.254.169.254:80".parse().unwrap())
            .is_err()
    );
}

#[test]
fn rule_05_a_refusal_says_what_to_do() {
    let policy = TargetPolicy::default();
    let say = |text: &str| policy.judge(&target(text)).unwrap_err().to_string();
    assert!(say("127.0.0.1:80").starts_with("127.0.0.1:80 is refused: "));
    assert!(say("127.0.0.1:80").contains("can allow `loopback`"));
    assert!(say("100.64.0.1:80").contains("can allow `cgnat`"));
    assert!(say("169.254.169.254:80").contains("nothing can allow it"));
    let refusal = policy
        .judge_addr("10.0.0.1:0".parse().unwrap())
        .unwrap_err();
    assert_eq!(refusal.reason(), RefusalReason::PortZero);
    assert_eq!(refusal.addr(), Some("10.0.0.1:0".parse().unwrap()));
}

#[test]
fn rule_19_what_a_router_judges_is_not_judged_here() {
    let policy = TargetPolicy::delegated();
    for text in [
        "10.0.0.1:80",
        "169.254.169.254:80",
        "laptop.ts.net:80",
        "[::1]:80",
    ] {
        assert_eq!(policy.judge(&target(text)), Ok(Permit::Delegated), "{text}");
    }
    assert_eq!(
        judge_addr(&policy, "169.254.169.254:80"),
        Err(RefusalReason::Metadata),
        "an address is judged all the same"
    );
}

fn judge_addr(policy: &TargetPolicy, addr: &str) -> Result<SocketAddr, RefusalReason> {
    let judged = policy.judge_addr(addr.parse().unwrap());
    judged.map_err(|refusal| refusal.reason())
}

#[test]
fn rule_05_scope_and_flow_label_do_not_survive_the_judgement() {
    let scoped = std::net::SocketAddrV6::new("fd00::1".parse().unwrap(), 80, 7, 3);
    let judged = TargetPolicy::default().judge_addr(scoped.into()).unwrap();
    assert_eq!(judged, "[fd00::1]:80".parse().unwrap());
}

#[test]
fn a_refusal_says_what_to_do_with_the_address_and_without() {
    let target = "203.0.113.9:80".parse().unwrap();
    let refusal = TargetPolicy::default().judge(&target).unwrap_err();
    let advice = "an address reserved for documentation; nothing can allow it";
    assert_eq!(refusal.advice(), advice);
    assert_eq!(
        refusal.to_string(),
        format!("203.0.113.9:80 is refused: {advice}")
    );
    assert_eq!(refusal.reason().to_string(), refusal.reason().as_str());
}
