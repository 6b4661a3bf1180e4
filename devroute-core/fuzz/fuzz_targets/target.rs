//! A target prints as what it was read from, and is never permitted where the policy refuses its address.

#![no_main]

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
