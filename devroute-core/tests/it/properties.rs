//! The rules over inputs that nobody thought of.

use devroute_core::carrier::{self, Written, baggage};
use devroute_core::{
    Contract, Decision, DecisionErrorKind, NetworkRule, Selector, ServiceName, Target, TargetPolicy,
};
use http::{HeaderMap, HeaderValue};
use percent_encoding_model::encode_all;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use crate::{headers, model};

/// Text near a contract: mostly its tokens, so that many inputs are well-formed or nearly so.
fn near_contract() -> impl Strategy<Value = String> {
    let token = prop_oneof![
        Just("{".to_owned()),
        Just("}".to_owned()),
        Just("\"".to_owned()),
        Just(":".to_owned()),
        Just(",".to_owned()),
        Just(" ".to_owned()),
        Just("\\".to_owned()),
        Just("\\u0061".to_owned()),
        Just(r#""foo":"10.0.0.1:80""#.to_owned()),
        Just(r#""bar":"[fd00::1]:80","#.to_owned()),
        Just(r#""a\u0062c":"h2c://laptop:1""#.to_owned()),
        Just(r#""$id":"x""#.to_owned()),
        "[a-z0-9.$]{1,4}",
        "\\PC",
        any::<char>().prop_map(String::from),
    ];
    let soup = vec(token, 0..12).prop_map(|tokens| tokens.concat());
    let member = (r#"[a-c$]{1,2}|a\\u0062"#, target_text())
        .prop_map(|(name, target)| format!(r#""{name}":"{target}""#));
    let nearly = (vec(member, 0..5), "[ \t]{0,2}").prop_map(|(members, blanks)| {
        format!(
            "{blanks}{{{blanks}{}{blanks}}}",
            members.join(&format!("{blanks},"))
        )
    });
    prop_oneof![soup, nearly]
}

/// Text near a target.
fn target_text() -> impl Strategy<Value = String> {
    let scheme =
        prop_oneof![4 => Just(""), 1 => Just("http://"), 1 => Just("h2c://"), 1 => Just("ftp://")];
    let host = prop_oneof![
        any::<std::net::Ipv4Addr>().prop_map(|ip| ip.to_string()),
        any::<std::net::Ipv6Addr>().prop_map(|ip| format!("[{ip}]")),
        "[a-z0-9_-]{1,5}(\\.[a-z0-9]{1,3}){0,2}",
        "[0-9]{1,3}(\\.[0-9]{1,3}){2,4}",
        "0x[0-9a-f]{1,8}",
    ];
    let port = prop_oneof![8 => "[1-9][0-9]{0,4}", 1 => "0[0-9]{0,3}", 1 => Just(String::new())];
    (scheme, host, port).prop_map(|(scheme, host, port)| format!("{scheme}{host}:{port}"))
}

/// Contracts of any shape, spelled in any way that JSON allows.
fn contract() -> impl Strategy<Value = Contract> {
    let target = prop_oneof![
        any::<std::net::SocketAddr>()
            .prop_filter("a port", |addr| addr.port() > 0)
            .prop_map(|addr| Target::from(addr).to_string()),
        Just("https://laptop.ts.net:8001".to_owned()),
    ];
    let services = btree_map("[A-Za-z0-9._-]{1,12}", target, 0..8);
    let reserved = btree_map("\\$[A-Za-z0-9._-]{3,12}", any::<String>(), 0..3);
    (services, reserved, any::<bool>()).prop_map(|(mut members, reserved, pretty)| {
        members.extend(reserved);
        let text = if pretty {
            serde_json::to_string_pretty(&members)
        } else {
            serde_json::to_string(&members)
        };
        Contract::parse(text.unwrap().as_bytes()).unwrap()
    })
}

/// Lines of baggage that are none of ours.
fn foreign_lines() -> impl Strategy<Value = Vec<String>> {
    let member = "[a-z]{1,6} ?= ?[!-+./-:<-~-]{0,8}(;[a-z=]{1,4})?"
        .prop_filter("not ours", |member| !member.starts_with("devroute"));
    vec(
        vec(member, 1..4).prop_map(|members| members.join(",")),
        0..3,
    )
}

fn foreign_members(headers: &HeaderMap) -> Vec<String> {
    let lines = headers
        .get_all("baggage")
        .iter()
        .map(|line| line.to_str().unwrap());
    lines
        .flat_map(|line| line.split(','))
        .filter(|member| !member.starts_with("devroute="))
        .map(|member| member.trim().to_owned())
        .collect()
}

mod percent_encoding_model {
    /// A plain encoder: every byte, whether it needs it or not.
    pub(super) fn encode_all(text: &str) -> String {
        text.bytes().map(|byte| format!("%{byte:02x}")).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Rule 1: the verdict and the members are those of an independent reading.
    #[test]
    fn rule_01_the_parser_agrees_with_the_model(text in near_contract()) {
        let parsed = Contract::parse(text.as_bytes());
        let modelled = model::read(text.as_bytes());
        prop_assert_eq!(parsed.is_ok(), modelled.is_some(), "{:?}", parsed);
        if let (Ok(contract), Some(members)) = (parsed, modelled) {
            let services = members.iter().filter(|(name, _)| !name.starts_with('$')).count();
            prop_assert_eq!(contract.len(), services);
            for (name, value) in members {
                if !name.starts_with('$') {
                    prop_assert_eq!(contract.get(&name), Some(value.parse().unwrap()));
                }
            }
        }
    }

    #[test]
    fn rule_01_any_bytes_have_a_verdict_and_a_printable_reason(bytes in any::<Vec<u8>>()) {
        if let Err(error) = Contract::parse(&bytes) {
            let message = error.to_string();
            prop_assert!(message.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            prop_assert!(error.offset().is_none_or(|offset| offset <= bytes.len()));
        }
    }

    #[test]
    fn rule_01_printing_is_the_inverse_of_reading(contract in contract()) {
        let text = contract.to_string();
        let again: Contract = text.parse().unwrap();
        prop_assert_eq!(again.to_string(), text);
        prop_assert_eq!(again, contract);
    }

    #[test]
    fn rule_03_targets_agree_with_the_model_and_print_back(text in target_text()) {
        let object = format!(r#"{{"a":"{text}"}}"#);
        let parsed = text.parse::<Target>();
        prop_assert_eq!(parsed.is_ok(), model::read(object.as_bytes()).is_some());
        if let Ok(target) = parsed {
            prop_assert_eq!(target.to_string().parse::<Target>().unwrap(), target);
        }
    }

    /// Rule 4: deciding gives the verdict and the entry of the full parse, whoever asks.
    #[test]
    fn rule_04_deciding_agrees_with_the_full_parse(text in near_contract(), asker in "[a-c]|ab|foo") {
        if let Ok(value) = HeaderValue::from_str(&text) {
            let mut headers = HeaderMap::new();
            headers.insert(carrier::CONTRACT, value);
            let service = ServiceName::new(&asker).unwrap();
            let decision = Selector::new(service, TargetPolicy::default()).decide(&headers);
            let full = Contract::parse(text.as_bytes());
            match (decision, full) {
                (Err(error), Err(reason)) => {
                    prop_assert_eq!(error.kind(), DecisionErrorKind::Malformed);
                    prop_assert_eq!(error.contract_error(), Some(&reason));
                }
                (Err(error), Ok(contract)) => {
                    prop_assert_eq!(error.kind(), DecisionErrorKind::Refused);
                    prop_assert_eq!(error.target().cloned(), contract.get(&asker));
                }
                (Ok(Decision::Reroute(reroute)), Ok(contract)) => {
                    prop_assert_eq!(Some(reroute.target), contract.get(&asker));
                }
                (Ok(Decision::Baseline { contract: decided, .. }), Ok(contract)) => {
                    prop_assert_eq!(contract.get(&asker), None);
                    prop_assert_eq!(decided, contract);
                }
                (decision, full) => prop_assert!(false, "{:?} but {:?}", decision, full),
            }
        }
    }

    #[test]
    fn rule_05_a_permit_is_for_an_address_that_no_list_denies(
        addr in any::<std::net::SocketAddr>(),
        deny in any::<std::net::Ipv4Addr>(),
    ) {
        let policy = TargetPolicy::default().deny(NetworkRule::from(std::net::IpAddr::from(deny)));
        if let Ok(judged) = policy.judge_addr(addr) {
            prop_assert!(judged.ip() != std::net::IpAddr::from(deny));
            prop_assert_eq!(judged.ip(), judged.ip().to_canonical());
            prop_assert_eq!(policy.judge_addr(judged), Ok(judged));
        }
    }

    /// Rule 3: of the ways that some reader takes for an IPv4 address, one is an address.
    #[test]
    fn rule_03_an_ipv4_address_has_one_spelling(ip in any::<std::net::Ipv4Addr>(), place in 0_usize..4) {
        let [a, b, c, d] = ip.octets();
        let number = u32::from(ip);
        let with = |part: String| {
            let mut parts = [a, b, c, d].map(|octet| octet.to_string());
            parts[place] = part;
            parts.join(".")
        };
        let octet = [a, b, c, d][place];
        let plain = format!("{ip}:80").parse::<Target>();
        prop_assert!(plain.is_ok());
        for spelling in [
            format!("{number}"),
            format!("{number:#x}"),
            format!("0{number:o}"),
            format!("{a}.{}", number & 0xff_ffff),
            format!("{a}.{b}.{}", number & 0xffff),
            format!("{a}.{b}.{c}"),
            with(format!("0{octet}")),
            with(format!("{octet:#x}")),
            with(format!("0{octet:o}")),
            with(format!("{}", u32::from(octet) + 256)),
            with(format!("+{octet}")),
            format!("{ip}."),
            format!("[{ip}]"),
        ] {
            let target = format!("{spelling}:80");
            // It is no name either.
            prop_assert!(target.parse::<Target>().is_err(), "{}", target);
        }
    }

    /// Rule 5: an IPv6 address that maps an IPv4 address is that one; one that hides it is nothing.
    #[test]
    fn rule_05_an_ipv4_address_does_not_hide_in_ipv6(ip in any::<std::net::Ipv4Addr>(), open in any::<bool>()) {
        let policy = if open {
            TargetPolicy::default()
                .allow("0.0.0.0/0".parse().unwrap())
                .allow("::/0".parse().unwrap())
                .allow_loopback(true)
                .allow_cgnat(true)
        } else {
            TargetPolicy::default()
        };
        let judge = |ip: std::net::IpAddr| {
            policy.judge_addr((ip, 80).into()).map_err(|refusal| refusal.reason())
        };
        prop_assert_eq!(judge(ip.to_ipv6_mapped().into()), judge(ip.into()));
        let [a, b] = [(u32::from(ip) >> 16) as u16, u32::from(ip) as u16];
        for hidden in [
            [0, 0, 0, 0, 0, 0, a, b],
            [0, 0, 0, 0, 0xffff, 0, a, b],
            [0x64, 0xff9b, 0, 0, 0, 0, a, b],
            [0x64, 0xff9b, 1, 0, 0, 0, a, b],
            [0x2002, a, b, 0, 0, 0, 0, 1],
            [0x2001, 0, a, b, 0, 0, 0, 0],
            [0x2001, 0, 0, 0, 0, 0, !a, !b],
        ] {
            let hidden = std::net::Ipv6Addr::from(hidden);
            // `::` and `::1` are what they are.
            if hidden.segments()[..7] != [0; 7] {
                prop_assert!(judge(hidden.into()).is_err(), "{}", hidden);
            }
        }
    }

    /// Rule 5: what this process listens on, and what is denied, is no target whatever else is allowed.
    #[test]
    fn rule_05_own_listeners_and_denied_networks_are_closed(addr in any::<std::net::SocketAddr>()) {
        let open = TargetPolicy::default()
            .allow("0.0.0.0/0:1-65535".parse().unwrap())
            .allow("[::/0]:1-65535".parse().unwrap())
            .allow_loopback(true)
            .allow_cgnat(true);
        prop_assert!(open.clone().own_listener(addr).judge_addr(addr).is_err());
        prop_assert!(open.clone().deny(NetworkRule::from(addr.ip())).judge_addr(addr).is_err());
        let everywhere = (std::net::Ipv6Addr::UNSPECIFIED, addr.port()).into();
        let own = open.own_listener(everywhere).own_address(addr.ip());
        prop_assert!(own.judge_addr(addr).is_err());
    }

    /// Rule 9: up to eight layers of encoding come off again.
    #[test]
    fn rule_09_encoding_several_times_changes_nothing(contract in contract(), layers in 0_usize..7) {
        let value = baggage::encode(&contract);
        prop_assert_eq!(&baggage::decode(value.as_bytes()).unwrap(), &contract);
        let value = (0..layers).fold(value, |value, _| value.replace('%', "%25"));
        prop_assert_eq!(&baggage::decode(value.as_bytes()).unwrap(), &contract);
        let all = encode_all(contract.to_string().as_str());
        prop_assert_eq!(&baggage::decode(all.as_bytes()).unwrap(), &contract);
    }

    /// Rule 10: what we write holds nothing that SDKs are known to lose.
    #[test]
    fn rule_10_a_written_value_is_unreserved_and_decodes_without_percent(contract in contract()) {
        let value = baggage::encode(&contract);
        let unreserved = |c: char| c.is_ascii_alphanumeric() || "-._~%".contains(c);
        prop_assert!(value.chars().all(unreserved), "{}", value);
        prop_assert!(!value.contains("%25") && !value.contains("%20") && !value.contains("%2B"));
    }

    #[test]
    fn rule_10_writing_is_idempotent_keeps_others_and_reads_back(
        contract in contract(),
        lines in foreign_lines(),
        stale in proptest::option::of("devroute=[a-z%0-9]{0,9}"),
    ) {
        let fields = lines.iter().map(String::as_str).chain(stale.as_deref());
        let mut headers = headers(fields.map(|line| ("baggage", line)));
        let mut before = foreign_members(&headers);
        before.retain(|member| !member.is_empty());

        let written = carrier::write(&mut headers, &contract);
        let first = headers.clone();
        prop_assert_eq!(carrier::write(&mut headers, &contract), written);
        prop_assert_eq!(&headers, &first);

        prop_assert_eq!(foreign_members(&headers), before.clone());
        prop_assert_eq!(carrier::read(&headers).unwrap(), Some(contract.clone()));
        if written == Written::Both {
            prop_assert_eq!(headers.get_all("baggage").iter().count(), 1);
            prop_assert_eq!(baggage::read(&headers).unwrap(), Some(contract));
        }
        carrier::remove(&mut headers);
        prop_assert!(!carrier::is_present(&headers));
        prop_assert_eq!(foreign_members(&headers), before);
    }
}
