//! Section "Decision": rules 4 and 6 to 8.

use std::error::Error as _;

use devroute_core::{
    BaselineReason, Decision, DecisionError, DecisionErrorKind, Permit, RefusalReason, Selector,
    ServiceName, TargetPolicy, decide,
};

use crate::headers;

const FOO: (&str, &str) = ("x-devroute", r#"{"foo":"192.168.1.12:8001"}"#);
const BAGGAGE: (&str, &str) = (
    "baggage",
    "devroute=%7B%22foo%22%3A%22192.168.1.12%3A8001%22%7D",
);

fn service(name: &str) -> Selector {
    Selector::new(ServiceName::new(name).unwrap(), TargetPolicy::default())
}

fn router() -> Selector {
    Selector::router(TargetPolicy::default())
}

fn ask(selector: &Selector, lines: &[(&str, &str)]) -> Result<Decision, DecisionError> {
    selector.decide(&headers(lines.iter().copied()))
}

fn kind(selector: &Selector, lines: &[(&str, &str)]) -> DecisionErrorKind {
    ask(selector, lines).unwrap_err().kind()
}

fn baseline(selector: &Selector, lines: &[(&str, &str)]) -> BaselineReason {
    match ask(selector, lines).unwrap() {
        Decision::Baseline { reason, .. } => reason,
        other => panic!("{other:?}"),
    }
}

fn is_rerouted(selector: &Selector, lines: &[(&str, &str)]) -> bool {
    matches!(ask(selector, lines), Ok(Decision::Reroute(_)))
}

#[test]
fn rule_06_without_a_contract_or_an_entry_the_baseline_answers() {
    assert!(matches!(
        ask(&service("foo"), &[]),
        Ok(Decision::NoContract)
    ));
    let foreign = ("baggage", "foo=192.168.1.12:8001");
    assert!(matches!(
        ask(&service("foo"), &[foreign]),
        Ok(Decision::NoContract)
    ));
    assert_eq!(baseline(&service("bar"), &[FOO]), BaselineReason::NoEntry);
    assert_eq!(baseline(&service("Foo"), &[FOO]), BaselineReason::NoEntry);
    assert_eq!(
        baseline(&service("foo"), &[("x-devroute", "{}")]),
        BaselineReason::NoEntry
    );
}

#[test]
fn rule_06_a_value_or_a_reserved_name_is_no_entry() {
    let value = (
        "x-devroute",
        r#"{"bar":"foo:8001","$foo":"192.168.1.12:8001"}"#,
    );
    assert_eq!(baseline(&service("foo"), &[value]), BaselineReason::NoEntry);
}

#[test]
fn rule_06_an_entry_reroutes_to_its_target_from_either_carrier() {
    for carrier in [FOO, BAGGAGE] {
        let Ok(Decision::Reroute(reroute)) = ask(&service("foo"), &[carrier]) else {
            panic!("not rerouted by {carrier:?}");
        };
        assert_eq!(reroute.service, "foo");
        assert_eq!(reroute.target.to_string(), "192.168.1.12:8001");
        assert_eq!(
            reroute.permit,
            Permit::Address("192.168.1.12:8001".parse().unwrap())
        );
        assert_eq!(reroute.contract.len(), 1);
    }
}

#[test]
fn rule_04_malformed_is_malformed_at_every_service() {
    for value in [
        "[]",
        "{\"bar\":\"10.0.0.1\"}",
        "{\"foo\":\"10.0.0.1:80\",\"bar\":[1]}",
    ] {
        for name in ["foo", "bar", "baz"] {
            let error = ask(&service(name), &[("x-devroute", value)]).unwrap_err();
            assert_eq!(
                error.kind(),
                DecisionErrorKind::Malformed,
                "{value} at {name}"
            );
            assert!(error.contract_error().is_some());
            assert!(error.source().is_some());
        }
        // Also when it would not be asked for anything.
        let matched = ("x-devroute-matched", "foo");
        let lines = [("x-devroute", value), matched];
        assert_eq!(kind(&service("foo"), &lines), DecisionErrorKind::Malformed);
        assert_eq!(kind(&router(), &lines), DecisionErrorKind::Malformed);
    }
}

#[test]
fn rule_04_a_target_is_judged_only_at_the_service_it_is_for() {
    let public = ("x-devroute", r#"{"foo":"69.145.32.56:9001"}"#);
    assert_eq!(
        baseline(&service("bar"), &[public]),
        BaselineReason::NoEntry
    );
    let error = ask(&service("foo"), &[public]).unwrap_err();
    assert_eq!(error.kind(), DecisionErrorKind::Refused);
    assert_eq!(error.refusal().unwrap().reason(), RefusalReason::Public);
    assert_eq!(error.service().unwrap(), &"foo");
    assert_eq!(error.target().unwrap().to_string(), "69.145.32.56:9001");
    assert!(
        error
            .source()
            .unwrap()
            .to_string()
            .contains("69.145.32.56:9001")
    );
}

#[test]
fn rule_07_a_request_rerouted_to_this_service_is_answered_by_the_baseline() {
    let foo = service("foo");
    let matched = |name| [FOO, ("x-devroute-matched", name)];
    assert_eq!(
        baseline(&foo, &matched("foo")),
        BaselineReason::AlreadyRerouted
    );
    assert!(is_rerouted(&foo, &matched("bar")));
    assert!(is_rerouted(&foo, &matched("Foo")));
    assert!(is_rerouted(&foo, &matched("foo,bar")));
    let twice = [
        FOO,
        ("x-devroute-matched", "bar"),
        ("x-devroute-matched", "foo"),
    ];
    assert_eq!(baseline(&foo, &twice), BaselineReason::AlreadyRerouted);
    // Before the entry is looked for, and before the policy is asked.
    let public = ("x-devroute", r#"{"foo":"69.145.32.56:9001"}"#);
    let lines = [public, ("x-devroute-matched", "foo")];
    assert_eq!(baseline(&foo, &lines), BaselineReason::AlreadyRerouted);
    let lines = [("x-devroute", "{}"), ("x-devroute-matched", "foo")];
    assert_eq!(baseline(&foo, &lines), BaselineReason::AlreadyRerouted);
}

#[test]
fn rule_07_a_router_serves_the_service_that_the_request_names() {
    let matched = ("x-devroute-matched", "foo");
    let Ok(Decision::Reroute(reroute)) = ask(&router(), &[FOO, matched]) else {
        panic!("not routed");
    };
    assert_eq!(reroute.service, "foo");
    assert!(is_rerouted(&router(), &[BAGGAGE, matched]));

    assert_eq!(kind(&router(), &[]), DecisionErrorKind::MissingContract);
    assert_eq!(
        kind(&router(), &[matched]),
        DecisionErrorKind::MissingContract
    );
    assert_eq!(kind(&router(), &[FOO]), DecisionErrorKind::MissingService);
    let bar = ("x-devroute-matched", "bar");
    let error = ask(&router(), &[FOO, bar]).unwrap_err();
    assert_eq!(error.kind(), DecisionErrorKind::NoEntry);
    assert_eq!(error.service().unwrap(), &"bar");
    for bad in ["", "foo bar", "$id", "foo,foo", "f\u{f6}"] {
        let lines = [FOO, ("x-devroute-matched", bad)];
        assert_eq!(
            kind(&router(), &lines),
            DecisionErrorKind::MissingService,
            "{bad}"
        );
    }
    assert_eq!(
        kind(&router(), &[FOO, matched, matched]),
        DecisionErrorKind::MissingService
    );
    let public = ("x-devroute", r#"{"foo":"69.145.32.56:9001"}"#);
    assert_eq!(
        kind(&router(), &[public, matched]),
        DecisionErrorKind::Refused
    );
}

#[test]
fn rule_07_a_router_never_takes_a_reserved_member_for_a_service() {
    let lines = [
        ("x-devroute", r#"{"$id":"a"}"#),
        ("x-devroute-matched", "$id"),
    ];
    assert_eq!(kind(&router(), &lines), DecisionErrorKind::MissingService);
}

#[test]
fn rule_08_sixteen_reroutes_are_a_loop() {
    let via = |hops: usize| vec!["1.1 devroute"; hops].join(", ");
    let (fifteen, sixteen) = (via(15), via(16));
    assert!(is_rerouted(&service("foo"), &[FOO, ("via", &fifteen)]));
    for selector in [service("foo"), router()] {
        let lines = [FOO, ("via", &*sixteen), ("x-devroute-matched", "foo")];
        let lines = if selector.service().is_some() {
            &lines[..2]
        } else {
            &lines[..]
        };
        let error = ask(&selector, lines).unwrap_err();
        assert_eq!(error.kind(), DecisionErrorKind::Loop);
        assert_eq!(error.service().unwrap(), &"foo");
        assert_eq!(error.target().unwrap().to_string(), "192.168.1.12:8001");
    }
    // Over several lines, whoever else stands between.
    let lines = [
        FOO,
        ("via", &*fifteen),
        ("via", "1.1 envoy, 2 devroute (a comment)"),
    ];
    assert_eq!(kind(&service("foo"), &lines), DecisionErrorKind::Loop);
}

#[test]
fn rule_08_only_what_would_be_rerouted_can_be_a_loop() {
    let via = ("via", &*vec!["1.1 devroute"; 16].join(","));
    assert_eq!(
        baseline(&service("bar"), &[FOO, via]),
        BaselineReason::NoEntry
    );
    let lines = [FOO, via, ("x-devroute-matched", "foo")];
    assert_eq!(
        baseline(&service("foo"), &lines),
        BaselineReason::AlreadyRerouted
    );
    // And a loop is a loop before the policy is asked.
    let public = ("x-devroute", r#"{"foo":"69.145.32.56:9001"}"#);
    assert_eq!(
        kind(&service("foo"), &[public, via]),
        DecisionErrorKind::Loop
    );
}

#[test]
fn rule_08_words_in_comments_and_other_names_do_not_count() {
    let others = [
        "1.1 gateway (1.1 devroute, devroute)",
        "1.1 devroute2",
        "devroute x",
    ];
    let others = others
        .iter()
        .cycle()
        .take(60)
        .copied()
        .collect::<Vec<_>>()
        .join(",");
    assert!(is_rerouted(&service("foo"), &[FOO, ("via", &others)]));
}

#[test]
fn the_function_and_the_selector_decide_alike() {
    let foo = ServiceName::new("foo").unwrap();
    let headers = headers([FOO]);
    let decision = decide(&headers, &foo, &TargetPolicy::default());
    assert!(matches!(decision, Ok(Decision::Reroute(_))));
    let selector = service("foo");
    assert_eq!(selector.service(), Some(&foo));
    assert_eq!(router().service(), None);
    assert!(
        selector
            .policy()
            .judge_addr("10.0.0.1:1".parse().unwrap())
            .is_ok()
    );
}

#[test]
fn decisions_and_errors_cross_threads() {
    fn crosses<T: Send + Sync + 'static>() {}
    crosses::<Selector>();
    crosses::<Decision>();
    crosses::<DecisionError>();
    crosses::<TargetPolicy>();
}

#[test]
fn a_selector_says_for_whom_and_by_what_it_decides() {
    let policy = TargetPolicy::default().allow_loopback(true);
    let selector = Selector::new(ServiceName::new("foo").unwrap(), policy);
    assert_eq!(selector.service().unwrap().as_str(), "foo");
    let loopback = "127.0.0.1:8001".parse().unwrap();
    assert!(selector.policy().judge(&loopback).is_ok());
    assert!(service("foo").policy().judge(&loopback).is_err());
    assert!(router().service().is_none());
}

#[test]
fn labels_are_what_dashboards_and_logs_know() {
    for (reason, label) in [
        (BaselineReason::NoEntry, "no_entry"),
        (BaselineReason::AlreadyRerouted, "already_rerouted"),
    ] {
        assert_eq!((reason.as_str(), &*reason.to_string()), (label, label));
    }
    for (kind, label) in [
        (DecisionErrorKind::Malformed, "malformed"),
        (DecisionErrorKind::Signature, "signature"),
        (DecisionErrorKind::Refused, "refused"),
        (DecisionErrorKind::Loop, "loop"),
        (DecisionErrorKind::MissingContract, "missing_contract"),
        (DecisionErrorKind::MissingService, "missing_service"),
        (DecisionErrorKind::NoEntry, "no_entry"),
    ] {
        assert_eq!((kind.as_str(), &*kind.to_string()), (label, label));
    }
}

#[test]
fn an_error_says_what_is_wrong_and_for_whom() {
    let foo = ("x-devroute", r#"{"foo":"69.145.32.56:9001"}"#);
    let hops = "1.1 devroute,".repeat(16);
    for (selector, lines, message) in [
        (
            service("foo"),
            &[("x-devroute", "[]")][..],
            "the contract cannot be read",
        ),
        (service("foo"), &[foo], "the target for foo is not allowed"),
        (
            service("foo"),
            &[foo, ("via", &hops)],
            "the request has been rerouted 16 times: a loop",
        ),
        (router(), &[], "the request has no contract"),
        (
            router(),
            &[foo],
            "the request does not name one service in x-devroute-matched",
        ),
        (
            router(),
            &[foo, ("x-devroute-matched", "bar")],
            "the contract has no entry for bar",
        ),
    ] {
        let error = ask(&selector, lines).unwrap_err();
        assert_eq!(error.to_string(), message);
    }
}
