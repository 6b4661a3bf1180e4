//! What a policy makes of a target, in words for the command line.

use devroute_tower::core::{Host, Permit, Refusal, RefusalReason, Target, TargetPolicy};

/// What a policy makes of a target.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// It may be dialled.
    Allowed,
    /// Its name may be resolved; each address is judged then.
    Resolved,
    /// It is refused.
    Refused(Refusal),
}

impl Verdict {
    pub(crate) fn of(target: &Target, policy: &TargetPolicy) -> Self {
        match policy.judge(target) {
            Ok(Permit::Address(_)) => Self::Allowed,
            Ok(_) => Self::Resolved,
            Err(refusal) => Self::Refused(refusal),
        }
    }

    pub(crate) fn is_allowed(&self) -> bool {
        !matches!(self, Self::Refused(_))
    }
}

/// The flag that opens the policy for a refused target, where there is one.
pub(crate) fn switch(refusal: &Refusal, target: &Target) -> Option<String> {
    let network = || match target.host() {
        Host::Ip(ip) => Some(format!("--allow {ip}")),
        Host::Name(_) => None,
    };
    match refusal.reason() {
        RefusalReason::Loopback => Some("--allow loopback".to_owned()),
        RefusalReason::Cgnat => Some("--allow tailscale".to_owned()),
        RefusalReason::Public | RefusalReason::Benchmarking => network(),
        RefusalReason::KubernetesApi | RefusalReason::KubernetesPort => {
            match target.socket_addr() {
                Some(address) if address.is_ipv6() => {
                    Some(format!("--allow [{}]:{}", address.ip(), address.port()))
                }
                Some(address) => Some(format!("--allow {address}")),
                None => None,
            }
        }
        RefusalReason::HostName => match target.host() {
            Host::Name(name) => {
                let domain = name.as_str().split_once('.').map(|(_, domain)| domain)?;
                Some(format!("--allow-suffix .{domain}"))
            }
            Host::Ip(_) => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    /// What the flag says must really open the policy, or the advice is worth nothing.
    #[test]
    fn the_flag_it_names_opens_the_policy() {
        for text in [
            "127.0.0.1:80",
            "100.64.1.2:80",
            "69.145.32.56:80",
            "[2a00::1]:80",
            "a.ts.net:1",
        ] {
            let target: Target = text.parse().unwrap();
            let Verdict::Refused(refusal) = Verdict::of(&target, &TargetPolicy::default()) else {
                panic!("{text} is allowed by default");
            };
            let switch = switch(&refusal, &target).unwrap();
            let policy = config::policy_of_flags(&switch.split(' ').collect::<Vec<_>>());
            assert!(
                Verdict::of(&target, &policy).is_allowed(),
                "{text}: {switch}"
            );
        }
    }

    #[test]
    fn nothing_opens_what_nothing_opens() {
        let target: Target = "169.254.169.254:80".parse().unwrap();
        let Verdict::Refused(refusal) = Verdict::of(&target, &TargetPolicy::default()) else {
            panic!("a metadata service is refused");
        };
        assert_eq!(switch(&refusal, &target), None);
    }
}
