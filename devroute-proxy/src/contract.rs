//! `devroute contract foo=8001`: makes a contract, and prints it the ways it is needed.
//!
//! A bare port means this machine: its address is taken from its interfaces, the others are listed,
//! and `--address` overrides it. Nothing is sent anywhere to find out, unless `--router` names a router
//! to ask: then it is the address that this one sees, where that is reachable. With `--sign` it carries
//! the signature of the key that the developer has.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::SystemTime;

use devroute_tower::core::carrier::{self, Written, baggage, cookie};
use devroute_tower::core::{Contract, ServiceName, Target, TargetPolicy};
use http::HeaderMap;
use serde_json::json;

use crate::cli::ContractArgs;
use crate::config::{ConfigError, Settings, parse_ip, parse_lifetime};
use crate::machine::{self, Address};
use crate::print;
use crate::reach::question::{Answers, Question};
use crate::records::format_time;
use crate::sign::{self, Signed};
use crate::verdict::{self, Verdict};

/// Prints the contract that `args` describe; `policy` is what the warnings are about. Whether all of it
/// can be reached by the router that `settings` name, and true where they name none.
///
/// # Errors
///
/// When an entry, the id or the address is wrong, when no address of this machine is found, or when the
/// contract cannot be signed.
pub fn run(
    args: &ContractArgs,
    policy: &TargetPolicy,
    settings: &Settings,
) -> Result<bool, ConfigError> {
    let question = Question::parse(settings)?;
    let mut made = make(args, machine::addresses).map_err(ConfigError::new)?;
    let answers = question.map(|question| {
        let address = made.address.as_ref().map(|address| address.ip);
        question.ask(&made.contract, address)
    });
    let seen = answers.as_ref().and_then(Answers::address);
    if let (Some(seen), None) = (seen, &args.address) {
        if made.address.as_ref().is_some_and(|it| it.ip != seen) {
            made = make(args, || preferring(seen)).map_err(ConfigError::new)?;
        }
    }
    let is_reachable = answers.as_ref().is_none_or(Answers::are_good);
    let warnings = warnings(&made.contract, policy);
    if args.json {
        print::json(&json!({
            "header": { "name": carrier::CONTRACT.as_str(), "value": made.contract.to_string() },
            "curl": curl(&made.contract),
            "cookie": script(&made),
            "baggage": { "value": made.member, "bytes": made.member.len(), "fits": made.fits },
            "signed_by": made.signature.as_ref().map(|signature| signature.key.name()),
            "key": made.signature.as_ref().map(|signature| signature.key.fingerprint()),
            "expires": made.signature.as_ref().map(|signature| format_time(signature.expires)),
            "address": made.address.as_ref().map(|address| address.ip.to_string()),
            "alternatives": made.alternatives.iter().map(|other| json!({
                "address": other.ip.to_string(),
                "interface": other.interface,
            })).collect::<Vec<_>>(),
            "warnings": warnings,
            "reach": answers.as_ref().map(Answers::json),
        }));
        return Ok(is_reachable);
    }
    print::line(human(&made, args.cookie));
    if let Some(answers) = &answers {
        print::line(answers.human());
    }
    for warning in warnings {
        print::error(format_args!("warning: {warning}"));
    }
    Ok(is_reachable)
}

/// The addresses of this machine, with the one before all others that a router sees it at.
fn preferring(seen: IpAddr) -> io::Result<Vec<Address>> {
    let mut addresses = machine::addresses()?;
    let place = addresses.iter().position(|address| address.ip == seen);
    let first = match place {
        Some(place) => addresses.remove(place),
        None => Address {
            ip: seen,
            interface: "as the router sees it".to_owned(),
        },
    };
    addresses.insert(0, first);
    Ok(addresses)
}

/// A contract, and what is to be said about it.
#[derive(Debug)]
struct Made {
    contract: Contract,
    /// The whole baggage member.
    member: String,
    /// Whether a proxy can write that member (rule 10).
    fits: bool,
    /// The address that stands for this machine, where one was looked for.
    address: Option<Address>,
    /// Its other addresses.
    alternatives: Vec<Address>,
    /// Who has signed it, if anybody.
    signature: Option<Signed>,
}

fn make(
    args: &ContractArgs,
    addresses: impl FnOnce() -> io::Result<Vec<Address>>,
) -> Result<Made, String> {
    let needs_address = args.entries.iter().any(|entry| {
        entry
            .split_once('=')
            .is_some_and(|(_, target)| port_of(target).is_some())
    });
    let (mut address, mut alternatives) = (None, Vec::new());
    if let Some(given) = &args.address {
        let ip = parse_ip(given).map_err(|message| format!("--address: {message}"))?;
        address = Some(Address {
            ip,
            interface: "--address".to_owned(),
        });
    } else if needs_address {
        alternatives =
            addresses().map_err(|error| format!("cannot find this machine's address: {error}"))?;
        if alternatives.is_empty() {
            return Err(
                "this machine has no address that others could reach; give one with \
                        --address IP"
                    .to_owned(),
            );
        }
        address = Some(alternatives.remove(0));
    }

    let mut seen = BTreeSet::new();
    let mut builder = Contract::builder();
    for entry in &args.entries {
        let wrong = |message: String| format!("{entry:?}: {message}");
        let (service, target) = entry
            .split_once('=')
            .ok_or_else(|| wrong("is not SERVICE=PORT or SERVICE=ADDRESS:PORT".to_owned()))?;
        let service = ServiceName::new(service).map_err(|error| wrong(error.to_string()))?;
        let target =
            parse_target(target, address.as_ref().map(|address| address.ip)).map_err(wrong)?;
        if !seen.insert(service.clone()) {
            return Err(wrong(format!("{service} has a target already")));
        }
        builder = builder.entry(service, target);
    }
    if let Some(id) = &args.id {
        builder = builder.id(id.clone());
    }
    let mut contract = builder.build().map_err(|error| error.to_string())?;
    let mut signature = None;
    if let Some(file) = &args.sign {
        let lifetime = args.expires.as_deref().map(parse_lifetime).transpose();
        let lifetime = lifetime.map_err(|message| format!("--expires: {message}"))?;
        let file = Some(Path::new(file)).filter(|file| !file.as_os_str().is_empty());
        let signed = sign::sign(&contract, file, lifetime.unwrap_or(sign::LIFETIME))?;
        contract = signed.contract.clone();
        signature = Some(signed);
    }

    let member = format!("{}={}", carrier::MEMBER, baggage::encode(&contract));
    let fits = baggage::write(&mut HeaderMap::new(), &contract) == Written::Both;
    Ok(Made {
        contract,
        member,
        fits,
        address,
        alternatives,
        signature,
    })
}

fn parse_target(text: &str, address: Option<IpAddr>) -> Result<Target, String> {
    if let Some(port) = port_of(text) {
        let port = port.parse().ok().filter(|&port: &u16| port > 0);
        let port = port.ok_or_else(|| "the port is not from 1 to 65535".to_owned())?;
        let ip = address.ok_or_else(|| "this machine's address is not known".to_owned())?;
        return Ok(Target::from(SocketAddr::new(ip, port)));
    }
    text.parse().map_err(|error| format!("{error}"))
}

/// The digits of a target that is a port of this machine: `8001` or `:8001`.
fn port_of(target: &str) -> Option<&str> {
    let digits = target.strip_prefix(':').unwrap_or(target);
    (!digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())).then_some(digits)
}

fn curl(contract: &Contract) -> String {
    // Single quotes suffice: no name, target, id or signature can hold one.
    format!("curl -H '{}: {contract}'", carrier::CONTRACT.as_str())
}

/// What a page or a browser's console says to set the cookie. It ends with the contract, or with the
/// browser; and it goes with no request that another site's page makes.
fn script(made: &Made) -> String {
    let (name, value) = (cookie::NAME, cookie::encode(&made.contract));
    let mut text = format!("document.cookie = '{name}={value}; path=/; SameSite=Strict");
    if let Some(Signed { expires, .. }) = &made.signature {
        let left = expires
            .duration_since(SystemTime::now())
            .unwrap_or_default();
        let _ = write!(text, "; max-age={}", left.as_secs());
    }
    text.push('\'');
    text
}

fn human(made: &Made, with_cookie: bool) -> String {
    let Made {
        contract,
        member,
        fits,
        address,
        alternatives,
        signature,
    } = made;
    let mut text = format!("{}: {contract}\n\n", carrier::CONTRACT.as_str());
    let _ = writeln!(text, "curl     {} URL", curl(contract));
    let _ = writeln!(text, "baggage  {member}");
    if with_cookie {
        let _ = writeln!(text, "cookie   {}", script(made));
    }
    let _ = write!(
        text,
        "size     {} bytes, as baggage {}",
        contract.as_str().len(),
        member.len()
    );
    if !fits {
        text.push_str(" (too large: only services behind devroute will pass it on)");
    }
    if let Some(Signed { key, expires, .. }) = signature {
        let (name, fingerprint) = (key.name(), key.fingerprint());
        let _ = write!(text, "\nsigned   by {name}");
        if name != fingerprint {
            let _ = write!(text, " ({fingerprint})");
        }
        let _ = write!(text, ", good until {}", format_time(*expires));
    }
    if let Some(address) = address {
        let _ = write!(text, "\naddress  {} ({})", address.ip, address.interface);
        for (index, other) in alternatives.iter().enumerate() {
            let before = if index == 0 {
                "; --address picks another: "
            } else {
                ", "
            };
            let _ = write!(text, "{before}{} ({})", other.ip, other.interface);
        }
    }
    text
}

fn warnings(contract: &Contract, policy: &TargetPolicy) -> Vec<String> {
    contract
        .iter()
        .filter_map(|(service, target)| match Verdict::of(&target, policy) {
            Verdict::Refused(refusal) => {
                let mut warning = format!("{service}: {refusal}");
                if let Some(switch) = verdict::switch(&refusal, &target) {
                    let _ = write!(warning, " (in the cluster: {switch})");
                }
                Some(warning)
            }
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Mode};

    fn made(line: &[&str]) -> Result<Made, String> {
        let line = ["devroute", "contract"].iter().chain(line);
        let Mode::Contract(args) = Cli::parse_from(line).mode else {
            panic!("asked for it")
        };
        make(&args, || {
            let address = |ip: &str, interface: &str| Address {
                ip: ip.parse().unwrap(),
                interface: interface.to_owned(),
            };
            Ok(vec![
                address("192.168.1.12", "eth0"),
                address("172.17.0.1", "docker0"),
            ])
        })
    }

    #[test]
    fn a_port_is_on_this_machine() {
        let made = made(&["foo=8001", "bar=10.0.0.7:9000", "--id", "run-7"]).unwrap();
        let expected = r#"{"foo":"192.168.1.12:8001","bar":"10.0.0.7:9000","$id":"run-7"}"#;
        assert_eq!(made.contract, expected.parse().unwrap());
        assert_eq!(made.alternatives.len(), 1);
        let text = human(&made, false);
        assert!(!text.contains("cookie"), "{text}");
        assert!(text.starts_with("x-devroute: {"), "{text}");
        assert!(text.contains("\nbaggage  devroute=%7B%22"), "{text}");
        assert!(
            text.contains("192.168.1.12 (eth0); --address picks another: 172.17.0.1"),
            "{text}"
        );
    }

    #[test]
    fn a_cookie_is_set_by_a_line_for_the_browser() {
        let made = made(&["foo=8001"]).unwrap();
        let text = human(&made, true);
        let line = "\ncookie   document.cookie = 'devroute=%7B%22foo%22%3A%22192.168.1.12%3A8001%22%7D; \
                    path=/; SameSite=Strict'\n";
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn the_address_can_be_told() {
        let made = made(&["foo=:8001", "--address", "fd00::7"]).unwrap();
        assert_eq!(
            made.contract.get("foo").unwrap().to_string(),
            "[fd00::7]:8001"
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, expected) in [
            (["foo", "bar=1"], "\"foo\": is not SERVICE=PORT"),
            (["foo=1", "b r=1"], "\"b r=1\""),
            (["foo=70000", "bar=1"], "the port is not from 1 to 65535"),
            (
                ["foo=192.168.10.20_9001", "bar=1"],
                "\"foo=192.168.10.20_9001\"",
            ),
            (["foo=1", "foo=2"], "foo has a target already"),
        ] {
            let error = made(&line).unwrap_err();
            assert!(error.contains(expected), "{line:?}: {error}");
        }
    }

    #[test]
    fn a_target_that_is_refused_by_default_says_what_opens_it() {
        let made = made(&["foo=127.0.0.1:8001", "bar=10.0.0.1:1"]).unwrap();
        let warnings = warnings(&made.contract, &TargetPolicy::default());
        assert_eq!(warnings.len(), 1);
        assert!(
            warnings[0].starts_with("foo: 127.0.0.1:8001 is refused"),
            "{warnings:?}"
        );
        assert!(
            warnings[0].ends_with("(in the cluster: --allow loopback)"),
            "{warnings:?}"
        );
    }
}
