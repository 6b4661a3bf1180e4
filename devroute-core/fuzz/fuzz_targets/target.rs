//! A target prints as what it was read from; none is permitted whose address the policy refuses, which is also held
//! against what the standard library knows of addresses, and against its own listeners.

#![no_main]

use std::net::IpAddr;

use devroute_core::{Contract, Permit, Target, TargetPolicy};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let parsed = text.parse::<Target>();
    if !text.contains(['"', '\\']) && !text.contains(char::is_control) && text.len() < 8000 {
        // The parser of contracts has a shorter way to read a target: it must be the same verdict.
        let inside = Contract::parse(format!(r#"{{"a":"{text}"}}"#).as_bytes());
        assert_eq!(inside.is_ok(), parsed.is_ok());
        assert_eq!(
            inside.ok().and_then(|contract| contract.get("a")),
            parsed.clone().ok()
        );
    }
    let Ok(target) = parsed else { return };
    assert_eq!(
        target
            .to_string()
            .parse::<Target>()
            .expect("a printed target is one"),
        target
    );

    if let Some(addr) = target.socket_addr() {
        let open = ["0.0.0.0/0", "::/0", "198.18.0.0/15"]
            .into_iter()
            .fold(TargetPolicy::default(), |policy, network| {
                policy.allow(network.parse().expect("a network"))
            })
            .allow_loopback(true)
            .allow_cgnat(true);
        let is_open = open.judge(&target).is_ok();
        assert!(!(is_open && is_never(addr.ip())), "{target}");
        // However it is spelled, it is not reached where it is an own listener, or denied.
        let mapped = match addr.ip() {
            IpAddr::V4(ip) => IpAddr::V6(ip.to_ipv6_mapped()),
            ip => ip,
        };
        let own = open.clone().own_listener((mapped, addr.port()).into());
        assert!(own.judge(&target).is_err(), "{target}");
        assert!(open.deny(mapped.into()).judge(&target).is_err(), "{target}");
    }

    let policy = TargetPolicy::default();
    match policy.judge(&target) {
        Ok(Permit::Address(addr)) => {
            assert_eq!(addr.port(), target.port());
            assert_eq!(addr.ip(), addr.ip().to_canonical());
            assert_eq!(policy.judge_addr(addr), Ok(addr));
            assert!(!addr.ip().is_loopback() && !addr.ip().is_multicast());
        }
        Ok(_) => panic!("no suffix is allowed"),
        Err(refusal) => assert_eq!(refusal.target(), Some(&target)),
    }
});

/// What no policy may permit, by an independent and shorter list.
fn is_never(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            ip.is_unspecified()
                || ip.is_link_local()
                || ip.is_multicast()
                || ip.is_broadcast()
                || ip.is_documentation()
                || ip.octets()[0] == 0
                || ip.octets()[0] >= 240
                || ip.octets() == [100, 100, 100, 200]
        }
        IpAddr::V6(ip) => {
            ip.is_unspecified()
                || ip.is_multicast()
                || ip.is_unicast_link_local()
                || ip.segments()[..2] == [0xfd00, 0xec2]
                || ip.segments()[0] == 0x2002
                || ip.segments()[..2] == [0x2001, 0]
                || ip.segments()[..6] == [0x64, 0xff9b, 0, 0, 0, 0]
                || (ip.segments()[..6] == [0; 6] && !ip.is_loopback())
        }
    }
}
