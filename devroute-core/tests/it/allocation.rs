//! What may allocate: nothing without a contract, and nothing to decide with one.

use allocation_counter::measure;
use devroute_core::{Decision, Selector, ServiceName, TargetPolicy, carrier};
use http::{HeaderMap, HeaderValue};

use crate::headers;

/// Allocations of one decision, after one that may make the value's bytes shared.
fn allocations(selector: &Selector, headers: &HeaderMap, expected: fn(&Decision) -> bool) -> u64 {
    assert!(expected(&selector.decide(headers).unwrap()));
    measure(|| drop(selector.decide(headers))).count_total
}

fn foo() -> Selector {
    Selector::new(ServiceName::new("foo").unwrap(), TargetPolicy::default())
}

fn contract(text: &str) -> HeaderMap {
    let mut headers = headers([("via", "1.1 devroute"), ("x-devroute-matched", "other")]);
    headers.insert(carrier::CONTRACT, HeaderValue::from_str(text).unwrap());
    headers
}

#[test]
fn the_counter_counts() {
    assert!(measure(|| drop(vec![1])).count_total > 0);
}

#[test]
fn no_contract_allocates_nothing() {
    for headers in [
        headers([("host", "foo"), ("accept", "*/*")]),
        headers([
            ("baggage", "user=alice;p=1, tenant=blue"),
            ("baggage", "devrouter=1"),
        ]),
    ] {
        assert_eq!(
            allocations(&foo(), &headers, |d| matches!(d, Decision::NoContract)),
            0
        );
        assert_eq!(
            measure(|| assert!(!carrier::is_present(&headers))).count_total,
            0
        );
        assert_eq!(
            measure(|| assert!(matches!(carrier::read(&headers), Ok(None)))).count_total,
            0
        );
    }
}

#[test]
fn somebody_elses_entry_allocates_nothing() {
    let largest: String = (0..64)
        .map(|n| format!(r#","s{n}":"h2c://host-{n}:80""#))
        .collect();
    for text in [
        "{}".to_owned(),
        r#"{"bar":"10.0.0.1:80","baz":"laptop.ts.net:80","$id":"run-7"}"#.to_owned(),
        format!("{{{}}}", largest.split_at(1).1),
    ] {
        let is_baseline = |d: &Decision| matches!(d, Decision::Baseline { .. });
        assert_eq!(
            allocations(&foo(), &contract(&text), is_baseline),
            0,
            "{text}"
        );
    }
}

#[test]
fn our_entry_allocates_nothing() {
    for text in [
        r#"{"foo":"10.0.0.1:80"}"#,
        r#"{"bar":"10.0.0.1:80","foo":"https://[fd00::1]:80","$id":"x"}"#,
    ] {
        let is_reroute = |d: &Decision| matches!(d, Decision::Reroute(_));
        assert_eq!(
            allocations(&foo(), &contract(text), is_reroute),
            0,
            "{text}"
        );
    }
}

#[test]
fn remembering_a_contract_and_writing_it_where_it_is_allocates_nothing_for_the_field() {
    let headers = contract(r#"{"foo":"10.0.0.1:80"}"#);
    let contract = carrier::read(&headers).unwrap().unwrap();
    let mut same = headers.clone();
    let count = measure(|| carrier::header::write(&mut same, &contract.clone())).count_total;
    assert_eq!(count, 0);
}
