//! Rules 3 and 5: every spelling of an address, from a file that other implementations read too.

use std::net::{IpAddr, SocketAddr};

use devroute_core::{
    Contract, Decision, DecisionErrorKind, NetworkRule, Permit, RefusalReason, Selector,
    ServiceName, Target, TargetPolicy,
};
use http::HeaderMap;
use serde::Deserialize;

use crate::model;
use crate::vectors::is_counted;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vector {
    what: String,
    target: String,
    #[serde(default)]
    malformed: bool,
    refused: Option<String>,
    #[serde(default)]
    always: bool,
    dialled: Option<SocketAddr>,
}

fn vectors() -> Vec<Vector> {
    #[derive(Deserialize)]
    struct Vectors {
        vectors: Vec<Vector>,
    }

    let file: Vectors = serde_json::from_str(include_str!("../vectors/target.json")).unwrap();
    is_counted("target.json", file.vectors.len());
    file.vectors
}

/// The contract of `foo` with this value, whatever is in it.
fn contract(target: &str) -> String {
    serde_json::to_string(
        &[("foo", target)]
            .into_iter()
            .collect::<std::collections::BTreeMap<_, _>>(),
    )
    .unwrap()
}

#[test]
fn rule_03_a_target_has_one_reading_or_none() {
    for vector in vectors() {
        let parsed = vector.target.parse::<Target>();
        let what = format!("{}: {:?}: {parsed:?}", vector.what, vector.target);
        assert_eq!(parsed.is_err(), vector.malformed, "{what}");
        let text = contract(&vector.target);
        let read = Contract::parse(text.as_bytes());
        assert_eq!(
            read.ok().and_then(|contract| contract.get("foo")),
            parsed.ok(),
            "{what}"
        );
        assert_eq!(
            model::read(text.as_bytes()).is_none(),
            vector.malformed,
            "{what}"
        );
        // Spelled with nothing but escapes, it is the same.
        let escaped: String = vector
            .target
            .encode_utf16()
            .map(|unit| format!("\\u{unit:04x}"))
            .collect();
        let escaped = format!(r#"{{"foo":"{escaped}"}}"#);
        assert_eq!(
            Contract::parse(escaped.as_bytes()).is_err(),
            vector.malformed,
            "{what}"
        );
    }
}

#[test]
fn rule_05_a_target_is_judged_by_the_address_it_is_however_it_is_spelled() {
    for vector in vectors().into_iter().filter(|vector| !vector.malformed) {
        let target: Target = vector.target.parse().unwrap();
        let what = format!("{}: {:?}", vector.what, vector.target);
        match (TargetPolicy::default().judge(&target), vector.refused) {
            (Ok(Permit::Address(addr)), None) => assert_eq!(Some(addr), vector.dialled, "{what}"),
            (Err(refusal), Some(reason)) => assert_eq!(refusal.reason().as_str(), reason, "{what}"),
            (judged, expected) => panic!("{what}: {judged:?}, not {expected:?}"),
        }
    }
}

/// What can be switched on is switched on, and the very address is named.
#[test]
fn rule_05_nothing_opens_what_is_refused_always() {
    let open = [
        "0.0.0.0/0",
        "::/0",
        "127.0.0.0/8",
        "::1",
        "100.64.0.0/10",
        "198.18.0.0/15",
    ]
    .into_iter()
    .fold(TargetPolicy::default(), |policy, network| {
        policy.allow(network.parse().unwrap())
    })
    .allow_loopback(true)
    .allow_cgnat(true);
    let mut always = 0;
    for vector in vectors().into_iter().filter(|vector| !vector.malformed) {
        let target: Target = vector.target.parse().unwrap();
        let Some(addr) = target.socket_addr() else {
            continue;
        };
        let named = NetworkRule::from(addr.ip());
        let with_port = format!("[{}]:{}", addr.ip().to_canonical(), addr.port())
            .parse()
            .unwrap();
        let open = open.clone().allow(named).allow(with_port);
        let judged = open
            .judge(&target)
            .map_err(|refusal| refusal.reason().as_str());
        let what = format!("{}: {:?}", vector.what, vector.target);
        if vector.always {
            always += 1;
            assert_eq!(judged, Err(vector.refused.as_deref().unwrap()), "{what}");
        } else {
            assert!(judged.is_ok(), "{what}: {judged:?}");
        }
    }
    assert!(always > 100);
}

#[test]
fn rule_04_a_request_gets_the_verdict_of_its_target() {
    let selector = Selector::new(ServiceName::new("foo").unwrap(), TargetPolicy::default());
    for vector in vectors() {
        let Ok(value) = contract(&vector.target).parse() else {
            continue;
        };
        let mut headers = HeaderMap::new();
        headers.insert("x-devroute", value);
        let what = format!("{}: {:?}", vector.what, vector.target);
        match selector.decide(&headers) {
            Ok(Decision::Reroute(reroute)) => {
                assert_eq!(
                    reroute.permit,
                    Permit::Address(vector.dialled.unwrap()),
                    "{what}"
                );
            }
            Err(error) if error.kind() == DecisionErrorKind::Malformed => {
                assert!(vector.malformed, "{what}");
            }
            Err(error) => {
                let reason = error.refusal().unwrap().reason().as_str();
                assert_eq!(Some(reason), vector.refused.as_deref(), "{what}");
            }
            Ok(other) => panic!("{what}: {other:?}"),
        }
    }
}

/// A deployment that lists the network of its cluster closes it in each spelling.
#[test]
fn rule_05_a_denied_network_is_denied_in_every_spelling() {
    let policy = TargetPolicy::default()
        .deny("10.0.0.0/8".parse().unwrap())
        .deny("fd00::/16".parse().unwrap())
        .allow("10.0.0.0/8:80".parse().unwrap());
    for vector in vectors() {
        let Some(dialled) = vector.dialled else {
            continue;
        };
        let denied = match dialled.ip() {
            IpAddr::V4(ip) => ip.octets()[0] == 10,
            IpAddr::V6(ip) => ip.segments()[0] == 0xfd00,
        };
        let judged = policy.judge(&vector.target.parse().unwrap());
        let reason = judged.err().map(|refusal| refusal.reason());
        assert_eq!(
            reason,
            denied.then_some(RefusalReason::Denied),
            "{:?}",
            vector.target
        );
    }
}

/// The listeners of the process, on one address and on all of them.
#[test]
fn rule_05_an_own_listener_is_refused_in_every_spelling() {
    let spellings = |port: u16| {
        [
            "127.0.0.1",
            "127.1.2.3",
            "[::1]",
            "[0:0:0:0:0:0:0:1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[::FFFF:127.9.9.9]",
            "10.0.0.7",
            "[::ffff:10.0.0.7]",
            "[::ffff:a00:7]",
            "[0:0:0:0:0:ffff:10.0.0.7]",
            "[fd00::7]",
            "[FD00:0:0:0:0:0:0:7]",
            "[fd00::0.0.0.7]",
        ]
        .into_iter()
        .flat_map(move |host| {
            ["", "http://", "h2c://", "https://"]
                .into_iter()
                .map(move |scheme| format!("{scheme}{host}:{port}"))
        })
    };
    for everywhere in ["0.0.0.0:15099", "[::]:15099", "[::ffff:0.0.0.0]:15099"] {
        let policy = TargetPolicy::default()
            .allow_loopback(true)
            .allow("10.0.0.7:15099".parse().unwrap())
            .own_listener(everywhere.parse().unwrap())
            .own_address("10.0.0.7".parse().unwrap())
            .own_address("fd00::7".parse().unwrap());
        for text in spellings(15099) {
            let refusal = policy.judge(&text.parse().unwrap()).unwrap_err();
            assert_eq!(
                refusal.reason(),
                RefusalReason::OwnListener,
                "{everywhere}: {text}"
            );
        }
        for text in spellings(15098) {
            assert!(
                policy.judge(&text.parse().unwrap()).is_ok(),
                "{everywhere}: {text}"
            );
        }
    }
    let policy = TargetPolicy::default()
        .allow_loopback(true)
        .own_listener("[::ffff:10.0.0.7]:80".parse().unwrap())
        .own_listener("[::]:81".parse().unwrap());
    for (text, own) in [
        ("10.0.0.7:80", true),
        ("[::ffff:10.0.0.7]:80", true),
        // What one listener is on, another one that is on all addresses is on as well.
        ("10.0.0.7:81", true),
        ("10.0.0.8:80", false),
        ("127.0.0.1:80", false),
        ("127.0.0.1:81", true),
    ] {
        let judged = policy.judge(&text.parse().unwrap());
        let is_own = judged.is_err_and(|refusal| refusal.reason() == RefusalReason::OwnListener);
        assert_eq!(is_own, own, "{text}");
    }
}
