//! Rule 11: which destinations are internal.

use devroute_tower::outbound::InternalHosts;

#[test]
fn rule_11_internal_by_default() {
    let hosts = InternalHosts::default();
    for host in [
        // Single labels.
        "checkout",
        "CheckOut",
        "check_out-2",
        "localhost",
        "checkout.",
        "xn--bcher-kva",
        // Names of the cluster and of the machine.
        "checkout.qa.svc",
        "checkout.qa.SVC.",
        "checkout.qa.svc.cluster.local",
        "printer.local",
        "metadata-store.internal",
        "a.b.c.internal.",
        "app.localhost",
        "2.internal",
        // Private addresses.
        "10.0.0.0",
        "10.255.255.255",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.0.1",
        "127.0.0.1",
        "127.255.255.255",
        "100.64.0.0",
        "100.127.255.255",
        "[::1]",
        "::1",
        "[fc00::1]",
        "[fdff:ffff::1]",
        "[::ffff:10.0.0.1]",
        "[::ffff:7f00:1]",
    ] {
        assert!(hosts.contains_host(host), "{host} should be internal");
    }
}

/// Where clouds keep credentials, inside and outside of what is private.
const METADATA: &[&str] = &[
    "169.254.169.254",
    "169.254.170.2",
    "169.254.0.1",
    "100.100.100.200",
    "192.0.0.192",
    "168.63.129.16",
    "[fd00:ec2::254]",
    "[fd00:ec2::23]",
    "[fd00:ec2::255]",
    "fd20:ce::254",
    "[fd00:c1::a9fe:a9fe]",
    "[fd00:100::100:200]",
    "[fd00:a9fe:a9fe::1]",
    "[fd00:42::42]",
    "[::ffff:100.100.100.200]",
    "[fe80::1]",
    "metadata.google.internal",
    "Metadata.Google.Internal.",
    "instance-data.ec2.internal",
];

#[test]
fn rule_11_metadata_services_are_external_whatever_is_listed() {
    let everything = InternalHosts::default()
        .network("0.0.0.0/0".parse().unwrap())
        .network("::/0".parse().unwrap())
        .network("100.100.100.200".parse().unwrap())
        .suffix(".google.internal".parse().unwrap());
    for neighbour in [
        "100.100.100.201",
        "[fd00:ec3::254]",
        "[fd20:ce::255]",
        "x.google.internal",
    ] {
        assert!(everything.contains_host(neighbour), "{neighbour}");
    }
    for metadata in METADATA {
        assert!(!everything.contains_host(metadata), "{metadata}");
    }
}

#[test]
fn rule_11_external_by_default() {
    let hosts = InternalHosts::default();
    for host in [
        "",
        ".",
        "example.com",
        "checkout.example.com",
        // The suffix as a prefix, in the middle, or without its dot.
        "svc.example.com",
        "a.svc.example.com",
        "notinternal.com",
        "evilsvc.com",
        "a.notlocal",
        "a.localhost.evil",
        // Public and link-local addresses, just outside the private ranges.
        "8.8.8.8",
        "9.255.255.255",
        "11.0.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "192.167.255.255",
        "192.169.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.0",
        "169.254.169.254",
        "0.0.0.0",
        "[::]",
        "[fe80::1]",
        "[2001:db8::1]",
        "[::ffff:8.8.8.8]",
        "[::127.0.0.1]",
        "[64:ff9b::10.0.0.1]",
        "[fbff::1]",
        "[fe00::1]",
        // Spellings of an address that only some resolvers take for one.
        "2130706433",
        "017700000001",
        "0x7f000001",
        "0X7F000001",
        "127.1",
        "127.0.1",
        "0x7f.1",
        "10.0.0.0x1",
        "10.0.0",
        "10.0.0.1.",
        "010.0.0.1",
        "10.0.0.256",
        "10.0.0.1.1",
        "checkout.1",
        "0x",
        // Not a host name.
        "check out",
        "checkout..svc",
        ".svc",
        "checkout..",
        "a%2Einternal",
        "a/internal",
        "bücher",
        "checkout:8080",
        "user@checkout",
        "[checkout]",
        "[10.0.0.1]",
        "[fd00::1",
        "fd00::1]",
        "[fd00::1%25eth0]",
        "[v1.fd00]",
    ] {
        assert!(!hosts.contains_host(host), "{host} should be external");
    }
    for metadata in METADATA {
        assert!(
            !hosts.contains_host(metadata),
            "{metadata} should be external"
        );
    }
    let long = format!("{}.internal", "a".repeat(64));
    assert!(!hosts.contains_host(&long));
    let long = format!("{}internal", "a.".repeat(124));
    assert!(!hosts.contains_host(&long));
}

#[test]
fn rule_11_user_information_and_port_do_not_matter() {
    let hosts = InternalHosts::default();
    for (authority, internal) in [
        ("checkout:8080", true),
        ("user:secret@checkout:8080", true),
        ("10.0.0.1:80", true),
        ("[fd00::1]:80", true),
        ("[::ffff:10.0.0.1]:80", true),
        ("checkout@example.com", false),
        ("checkout:80@example.com", false),
        ("10.0.0.1@8.8.8.8:80", false),
        ("example.com:10", false),
    ] {
        let parsed = authority.parse().unwrap();
        assert_eq!(hosts.contains(&parsed), internal, "{authority}");
    }
}

#[test]
fn rule_11_the_list_is_the_deployments() {
    let none = InternalHosts::none();
    for host in ["checkout", "a.svc", "10.0.0.1", "[::1]", "localhost"] {
        assert!(!none.contains_host(host), "{host}");
    }

    let own = none
        .suffix(".corp.example".parse().unwrap())
        .suffix("Intern.Example".parse().unwrap())
        .network("203.0.113.0/24".parse().unwrap())
        .network("2001:db8::/32".parse().unwrap());
    for (host, internal) in [
        ("build.corp.example", true),
        ("BUILD.CORP.EXAMPLE.", true),
        ("corp.example", false),
        ("notcorp.example", false),
        ("intern.example", true),
        ("a.intern.example", false),
        ("notintern.example", false),
        ("203.0.113.255", true),
        ("[::ffff:203.0.113.1]", true),
        ("203.0.114.0", false),
        ("[2001:db8:ffff::1]", true),
        ("[2001:db9::1]", false),
        ("checkout", false),
        ("10.0.0.1", false),
    ] {
        assert_eq!(own.contains_host(host), internal, "{host}");
    }
}

#[test]
fn rule_11_a_network_with_ports_needs_the_port() {
    let hosts = InternalHosts::none().network("203.0.113.0/24:8000-8999".parse().unwrap());
    for (authority, internal) in [
        ("203.0.113.1:8000", true),
        ("203.0.113.1:8999", true),
        ("203.0.113.1:9000", false),
        ("203.0.113.1", false),
    ] {
        assert_eq!(
            hosts.contains(&authority.parse().unwrap()),
            internal,
            "{authority}"
        );
    }
    assert!(!hosts.contains_host("203.0.113.1"));
}

#[test]
fn rule_11_defaults_can_be_narrowed() {
    let hosts = InternalHosts::default()
        .single_label(false)
        .private_addresses(false);
    assert!(!hosts.contains_host("checkout"));
    assert!(!hosts.contains_host("10.0.0.1"));
    assert!(hosts.contains_host("checkout.svc"));
}
