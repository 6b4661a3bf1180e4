//! What a contract costs a request: the decision from header fields, and the carriers.
//!
//! Run with `cargo bench -p devroute-benches --bench contract`. Times differ between machines: compare
//! `decide/hit/3` and `decide/miss/3` with `serde_json/hashmap/3` of the same run, which is what a service pays
//! that reads the field by itself; the target is half of it at most.
//!
//! On a machine that does other things at the same time, run the two alone and compare the lower bounds:
//! `cargo bench -p devroute-benches --bench contract -- '^(decide/(hit|miss)|serde_json/hashmap)/3$'`. Where even
//! those differ from run to run, count instructions: a release build (the profile of this workspace) of a program
//! that makes one of the calls below some thousand times in a function of its own, under
//! `valgrind --tool=callgrind --toggle-collect='*that_function*'`. Counts do not see what moving a struct costs
//! that has just been written, so look at both.
#![expect(clippy::unwrap_used, reason = "the inputs are constants of this file")]

use std::collections::HashMap;
use std::hint::black_box;
use std::time::{Duration, SystemTime};

use criterion::Criterion;
use devroute_benches::contract_of;
use devroute_core::signature::{AuthorizedKeys, PrivateKeyFile, SigningKey, Verifier};
use devroute_core::{Contract, Selector, ServiceName, TargetPolicy, carrier};
use http::{HeaderMap, HeaderValue};

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    decide(&mut criterion);
    hostile(&mut criterion);
    carriers(&mut criterion);
    signatures(&mut criterion);
    serde_json(&mut criterion);
    criterion.final_summary();
}

const SIZES: [usize; 4] = [1, 3, 20, 64];

fn decide(c: &mut Criterion) {
    let mut group = c.benchmark_group("decide");
    for entries in SIZES {
        let headers = request(Some(&contract_of(entries)));
        let hit = selector(&format!("service-{}", entries / 2));
        group.bench_function(format!("hit/{entries}"), |b| {
            b.iter(|| hit.decide(&headers))
        });
        let miss = selector("somebody-else");
        group.bench_function(format!("miss/{entries}"), |b| {
            b.iter(|| miss.decide(&headers))
        });
    }
    let selector = selector("service-0");
    let mut absent = request(None);
    group.bench_function("absent", |b| b.iter(|| selector.decide(&absent)));
    absent.insert(
        "baggage",
        HeaderValue::from_static("user=alice,tenant=blue;ttl=1,run=7"),
    );
    group.bench_function("absent/foreign_baggage", |b| {
        b.iter(|| selector.decide(&absent))
    });
    group.finish();
}

/// Inputs that somebody would send to make the decision expensive.
fn hostile(c: &mut Criterion) {
    let mut group = c.benchmark_group("hostile");
    let selector = selector("service-0");
    let long = "a".repeat(100);
    let same_length: String = (10..74)
        .map(|n| format!(r#","{long}{n}":"10.0.0.1:1""#))
        .collect();
    let escaped: String = (10..74)
        .map(|n| format!(r#","\u0061\u0062\u0063{n}":"\u0031\u0030.0.0.1:1""#))
        .collect();
    for (name, value) in [
        ("too_long", "{".repeat(9 * 1024)),
        ("nested", "[".repeat(8 * 1024)),
        ("blanks", " ".repeat(8 * 1024)),
        ("same_length", format!("{{{}}}", same_length.split_at(1).1)),
        ("escaped", format!("{{{}}}", escaped.split_at(1).1)),
        ("open_string", format!(r#"{{"{}"#, "a".repeat(8000))),
    ] {
        let headers = request(Some(&value));
        group.bench_function(name, |b| b.iter(|| selector.decide(&headers)));
    }
    let mut headers = request(None);
    let layers = (0..8).fold("{x".to_owned(), |text, _| text.replace(['{', '%'], "%25"));
    headers.insert(
        "baggage",
        HeaderValue::try_from(format!("devroute={layers}")).unwrap(),
    );
    group.bench_function("baggage_layers", |b| b.iter(|| selector.decide(&headers)));
    headers.insert(
        "baggage",
        HeaderValue::try_from(",".repeat(8 * 1024)).unwrap(),
    );
    group.bench_function("baggage_commas", |b| b.iter(|| selector.decide(&headers)));
    group.finish();
}

fn carriers(c: &mut Criterion) {
    let mut group = c.benchmark_group("carrier");
    for entries in SIZES {
        let contract: Contract = contract_of(entries).parse().unwrap();
        group.bench_function(format!("write/{entries}"), |b| {
            b.iter(|| carrier::write(&mut HeaderMap::new(), black_box(&contract)));
        });
        let mut written = HeaderMap::new();
        carrier::write(&mut written, &contract);
        group.bench_function(format!("write_again/{entries}"), |b| {
            b.iter(|| carrier::write(&mut written, black_box(&contract)));
        });
        written.remove(carrier::CONTRACT);
        group.bench_function(format!("read_baggage/{entries}"), |b| {
            b.iter(|| carrier::read(black_box(&written)));
        });
    }
    group.finish();
}

/// What a signed contract costs: the first request that has it, and every other one. What it costs more than the
/// same without a signature is `remembered` less `unsigned`: its text is longer, and it is looked up.
fn signatures(c: &mut Criterion) {
    let pem = include_bytes!("../devroute-core/tests/vectors/alice");
    let Ok(PrivateKeyFile::Plain(key)) = SigningKey::from_openssh(pem) else {
        return;
    };
    let public = include_bytes!("../devroute-core/tests/vectors/alice.pub");
    let keys = AuthorizedKeys::parse(public);
    let now = SystemTime::now();

    let mut group = c.benchmark_group("signature");
    for entries in SIZES.into_iter().take(3) {
        let contract: Contract = contract_of(entries).parse().unwrap();
        let expires = now + Duration::from_secs(3600);
        let signed = key.sign_contract(&contract, expires).unwrap();
        let headers = request(Some(signed.as_str()));
        let plain = selector("service-0");
        let unsigned = request(Some(contract.as_str()));
        group.bench_function(format!("unsigned/{entries}"), |b| {
            b.iter(|| plain.decide(&unsigned))
        });
        group.bench_function(format!("not_asked_for/{entries}"), |b| {
            b.iter(|| plain.decide(&headers))
        });
        let verifying = plain.verifier(Verifier::new(keys.clone()));
        group.bench_function(format!("remembered/{entries}"), |b| {
            b.iter(|| verifying.decide(&headers))
        });
        let verifier = Verifier::new(keys.clone());
        group.bench_function(format!("first/{entries}"), |b| {
            b.iter(|| {
                verifier.replace_keys(keys.clone());
                verifier.verify(black_box(&signed), now)
            })
        });
        let wrong = signed.as_str().replacen("10.", "11.", 1).parse().unwrap();
        group.bench_function(format!("wrong_again/{entries}"), |b| {
            b.iter(|| verifier.verify(black_box(&wrong), now))
        });
    }
    group.finish();
}

/// The yardstick: the map that a straightforward reader builds.
fn serde_json(c: &mut Criterion) {
    let mut group = c.benchmark_group("serde_json");
    for entries in SIZES {
        let text = contract_of(entries);
        group.bench_function(format!("hashmap/{entries}"), |b| {
            b.iter(|| {
                serde_json::from_slice::<HashMap<String, String>>(black_box(text.as_bytes()))
            });
        });
    }
    group.finish();
}

fn selector(service: &str) -> Selector {
    Selector::new(ServiceName::new(service).unwrap(), TargetPolicy::default())
}

/// A request as browsers and services send it, with or without a contract.
fn request(contract: Option<&str>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("host", "service-0.default.svc"),
        ("user-agent", "bench/1"),
        ("accept", "*/*"),
        ("accept-encoding", "gzip"),
        ("content-type", "application/json"),
        (
            "traceparent",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Some(contract) = contract {
        headers.insert(carrier::CONTRACT, HeaderValue::from_str(contract).unwrap());
    }
    headers
}
