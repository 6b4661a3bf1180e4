//! The decision for one service gives the verdict and the entry of the full parse, whatever else the request carries.

#![no_main]

use devroute_core::{
    BaselineReason, Contract, Decision, DecisionErrorKind, Permit, Selector, ServiceName,
    TargetPolicy, carrier, via,
};
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;

// Lines: the contract, `x-devroute-matched`, and `Via`.
fuzz_target!(|lines: &[u8]| {
    let mut headers = HeaderMap::new();
    let mut lines = lines.split(|byte| *byte == b'\n');
    let names = ["x-devroute", "x-devroute-matched", "via"];
    for (name, line) in names.into_iter().zip(&mut lines) {
        let Ok(value) = HeaderValue::from_bytes(line) else {
            return;
        };
        headers.append(name, value);
    }
    let full = Contract::parse(headers["x-devroute"].as_bytes());
    let policy = TargetPolicy::default();
    let services = full.iter().flatten().map(|(name, _)| name);
    let other = ServiceName::new("nobody").expect("a name");
    for service in services.chain([other]).take(4) {
        let entry = full
            .as_ref()
            .ok()
            .and_then(|contract| contract.get(service.as_str()));
        let decision = Selector::new(service.clone(), policy.clone()).decide(&headers);
        match (decision, &full) {
            (Err(error), Err(reason)) => assert_eq!(error.contract_error(), Some(reason)),
            (Err(error), Ok(_)) => match error.kind() {
                DecisionErrorKind::Loop => assert!(via::hops(&headers) >= via::MAX_HOPS),
                DecisionErrorKind::Refused => assert_eq!(error.target(), entry.as_ref()),
                kind => panic!("{kind:?}"),
            },
            (Ok(Decision::Reroute(reroute)), Ok(contract)) => {
                assert_eq!(Some(&reroute.target), entry.as_ref());
                assert_eq!(&reroute.contract, contract);
                assert!(matches!(reroute.permit, Permit::Address(_)));
            }
            (
                Ok(Decision::Baseline {
                    reason: BaselineReason::NoEntry,
                    ..
                }),
                Ok(_),
            ) => {
                assert_eq!(entry, None);
            }
            (Ok(Decision::Baseline { .. }), Ok(_)) => {
                assert!(headers.contains_key(carrier::MATCHED));
            }
            (decision, full) => panic!("{decision:?} but {full:?}"),
        }
    }
    // A router agrees where the request names a service of the contract.
    if let Ok(Decision::Reroute(reroute)) = Selector::router(policy).decide(&headers) {
        assert_eq!(
            reroute.service.as_str().as_bytes(),
            headers["x-devroute-matched"].as_bytes().trim_ascii()
        );
    }
});
