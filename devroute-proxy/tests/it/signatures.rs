//! Rule 15: with authorized keys, nothing is obeyed that is not signed.

use std::fs;
use std::time::{Duration, Instant, SystemTime};

use devroute_proxy::authorized::AuthorizedFile;
use devroute_proxy::config::{OutboundConfig, Strip};
use devroute_tower::core::Contract;
use devroute_tower::core::carrier::baggage;
use devroute_tower::core::signature::{PrivateKeyFile, SigningKey, Verifier};
use http::StatusCode;
use serde_json::Value;

use crate::support::desk::{ALICE, ALICE_PUB, Desk};
use crate::support::{ANY, Devroute, PATIENCE, Proxy, Server, closed, router, sidecar};

fn contract(service: &str, target: impl std::fmt::Display) -> String {
    format!(r#"{{"{service}":"{target}","$id":"run-7"}}"#)
}

/// Signed by alice for the next minute.
fn signed(text: &str) -> String {
    let PrivateKeyFile::Plain(key) = SigningKey::from_openssh(ALICE).unwrap() else {
        panic!("it is not encrypted")
    };
    let contract: Contract = text.parse().unwrap();
    let expires = SystemTime::now() + Duration::from_secs(60);
    key.sign_contract(&contract, expires).unwrap().to_string()
}

async fn signed_sidecar(baseline: &Server, desk: &Desk) -> Proxy {
    let keys = AuthorizedFile::load(&desk.write("keys", ALICE_PUB)).unwrap();
    sidecar(baseline.address, |config| {
        config.reroute.signatures = Some(keys);
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_15_a_sidecar_with_keys_obeys_signed_contracts_only() {
    let desk = Desk::new("obeys");
    let (baseline, laptop) = (Server::says("baseline").await, Server::says("laptop").await);
    let sidecar = signed_sidecar(&baseline, &desk).await;
    let unsigned = contract("foo", laptop.address);

    let answer = sidecar.get("/").contract(&unsigned).send().await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    let problem: Value = serde_json::from_str(&answer.text).unwrap();
    assert_eq!(problem["cause"], "signature_missing");
    let text = signed(&unsigned);
    let changed = text.replace("run-7", "run-8");
    let answer = sidecar.get("/").contract(&changed).send().await;
    assert!(
        answer.text.contains("\"signature_invalid\""),
        "{}",
        answer.text
    );
    for _twice in 0..2 {
        let answer = sidecar.get("/").contract(&text).send().await;
        assert_eq!((answer.status, &*answer.text), (StatusCode::OK, "laptop"));
    }

    let records = sidecar.records.latest(Some("run-7"));
    let of = |index: usize| (records[index].signed_by.as_deref(), records[index].outcome);
    assert_eq!(of(0), (Some("alice@laptop"), "rerouted"));
    assert_eq!(of(2), (None, "refused"));
    for (sample, count) in [
        ("devroute_authorized_keys ", 1.0),
        (
            "devroute_reroute_failures_total{cause=\"signature_missing\"}",
            1.0,
        ),
        (
            "devroute_reroute_failures_total{cause=\"signature_invalid\"}",
            1.0,
        ),
        ("devroute_requests_total{decision=\"rerouted\"}", 2.0),
    ] {
        assert!(
            (sidecar.sample(sample).await - count).abs() < 0.1,
            "{sample}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_15_a_key_that_leaves_the_file_is_refused_without_a_restart() {
    let desk = Desk::new("leaves");
    let keys = AuthorizedFile::load(&desk.write("keys", ALICE_PUB)).unwrap();
    let verifier = keys.verifier().clone();
    let (baseline, laptop) = (Server::says("baseline").await, Server::says("laptop").await);
    let sidecar = sidecar(baseline.address, |config| {
        config.reroute.signatures = Some(keys);
    })
    .await;
    let text = signed(&contract("foo", laptop.address));
    let answers = async |status: StatusCode| {
        let answer = sidecar.get("/").contract(&text).send().await;
        assert_eq!(answer.status, status, "{}", answer.text);
    };
    answers(StatusCode::OK).await;

    let began = Instant::now();
    desk.write("keys", "# nobody\n");
    has_keys(&verifier, 0).await;
    answers(StatusCode::FORBIDDEN).await;
    // Half a second, and what a loaded machine needs to see it.
    assert!(began.elapsed() < Duration::from_secs(5));

    desk.write("keys", ALICE_PUB);
    has_keys(&verifier, 1).await;
    answers(StatusCode::OK).await;
    fs::remove_file(desk.path("keys")).unwrap();
    has_keys(&verifier, 0).await;
    answers(StatusCode::FORBIDDEN).await;
    desk.write("keys", ALICE_PUB);
    has_keys(&verifier, 1).await;
    answers(StatusCode::OK).await;
}

/// Waits until so many keys are authorized.
async fn has_keys(verifier: &Verifier, keys: usize) {
    let began = Instant::now();
    while verifier.keys() != keys {
        assert!(began.elapsed() < PATIENCE, "never {keys} keys");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_15_a_router_and_an_outbound_listener_ask_for_signatures_too() {
    let desk = Desk::new("modes");
    let keys = AuthorizedFile::load(&desk.write("keys", ALICE_PUB)).unwrap();
    let (baseline, laptop) = (Server::says("baseline").await, Server::says("laptop").await);
    let router = router(|config| config.reroute.signatures = Some(keys.clone())).await;
    let sidecar = sidecar(baseline.address, |config| {
        config.reroute.signatures = Some(keys);
        let mut outbound = OutboundConfig::new(ANY);
        outbound.reroute = true;
        config.outbound = Some(outbound);
    })
    .await;
    let unsigned = contract("bar", laptop.address);
    for (text, status) in [
        (unsigned.clone(), StatusCode::FORBIDDEN),
        (signed(&unsigned), StatusCode::OK),
    ] {
        let asked = router.get("/").header("x-devroute-matched", "bar");
        let answer = asked.contract(&text).send().await;
        assert_eq!(answer.status, status, "{}", answer.text);
        let answer = sidecar.out("http://bar/").contract(&text).send().await;
        assert_eq!(answer.status, status, "{}", answer.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_20_what_is_signed_may_come_from_outside() {
    let desk = Desk::new("strip");
    let keys = AuthorizedFile::load(&desk.write("keys", ALICE_PUB)).unwrap();
    let (baseline, laptop) = (Server::says("baseline").await, Server::says("laptop").await);
    let sidecar = sidecar(baseline.address, |config| {
        config.reroute.signatures = Some(keys);
        config.reroute.entry.strip = Strip::Unsigned;
    })
    .await;
    let unsigned = contract("foo", laptop.address);
    let text = signed(&unsigned);
    for (text, who) in [
        (unsigned.clone(), "baseline"),
        ("{".to_owned(), "baseline"),
        (text.replace("run-7", "run-8"), "baseline"),
        (text.clone(), "laptop"),
    ] {
        let answer = sidecar.get("/").contract(&text).send().await;
        assert_eq!(
            (answer.status, &*answer.text),
            (StatusCode::OK, who),
            "{text}"
        );
    }
    // The member is read where there is no field, and beside one it is not what was verified.
    let member = |text: &str| format!("devroute={}", baggage::encode(&text.parse().unwrap()));
    let asked = sidecar.get("/").header("baggage", &member(&text));
    assert_eq!(asked.send().await.text, "laptop");
    let asked = sidecar.get("/").header("baggage", &member(&unsigned));
    assert_eq!(
        asked.header("x-devroute-matched", "foo").send().await.text,
        "baseline"
    );
    let other = signed(&contract("bar", closed().await));
    let asked = sidecar
        .get("/")
        .contract(&other)
        .header("baggage", &member(&unsigned));
    assert_eq!(asked.send().await.text, "baseline");
    let seen = baseline.seen();
    let (stripped, carried) = (&seen[seen.len() - 2], &seen[seen.len() - 1]);
    assert!(!stripped.headers.contains_key("baggage"), "{stripped:?}");
    assert!(
        !stripped.headers.contains_key("x-devroute-matched"),
        "{stripped:?}"
    );
    assert_eq!(carried.headers["baggage"], *member(&other));
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_20_a_cookie_from_outside_is_signed_or_goes() {
    let desk = Desk::new("cookie");
    let keys = AuthorizedFile::load(&desk.write("keys", ALICE_PUB)).unwrap();
    let (baseline, laptop) = (Server::says("baseline").await, Server::says("laptop").await);
    let unsigned = contract("foo", laptop.address);
    let cookie = |text: &str| format!("devroute={}", baggage::encode(&text.parse().unwrap()));
    let (signed, unsigned) = (signed(&unsigned), cookie(&unsigned));
    for (reads_cookie, who) in [(true, "laptop"), (false, "baseline")] {
        let sidecar = sidecar(baseline.address, |config| {
            config.reroute.signatures = Some(keys.clone());
            config.reroute.entry.strip = Strip::Unsigned;
            config.reroute.entry.cookie = reads_cookie;
        })
        .await;
        for (sent, who) in [
            (&*cookie(&signed), who),
            (&*unsigned, "baseline"),
            ("devroute=malformed", "baseline"),
        ] {
            let answer = sidecar.get("/").header("cookie", sent).send().await;
            assert_eq!(answer.text, who, "{reads_cookie} {sent}");
        }
        // Beside a field that counts, it is not what was verified.
        let other = self::signed(&contract("bar", laptop.address));
        let asked = sidecar.get("/").contract(&other);
        assert_eq!(
            asked.header("cookie", &unsigned).send().await.text,
            "baseline"
        );
    }
    assert_eq!(baseline.seen().len(), 7);
    for seen in baseline.seen() {
        assert!(!seen.headers.contains_key("cookie"), "{seen:?}");
    }
}

#[test]
fn a_file_of_keys_that_is_not_there_and_settings_without_one_are_status_64() {
    for (line, expected) in [
        (
            "router --authorized-keys nowhere",
            "--authorized-keys: nowhere: ",
        ),
        ("router --strip=unsigned", "--strip: `unsigned` needs keys"),
        (
            "router --max-expires 1h",
            "--max-expires: is for signed contracts",
        ),
        (
            "explain {} --authorized-keys nowhere",
            "--authorized-keys: nowhere: ",
        ),
    ] {
        let output = Devroute::new(line).run();
        assert_eq!(output.status, Some(64), "{line}: {output:?}");
        assert!(output.err.contains(expected), "{line}: {output:?}");
    }
    let desk = Desk::new("settings");
    let keys = desk.write("keys", ALICE_PUB);
    for wrong in ["0s", "31d", "d", "-1d", "1w"] {
        let line = [
            "router",
            "--max-expires",
            wrong,
            "--authorized-keys",
            keys.to_str().unwrap(),
        ];
        let output = Devroute::with(&line).run();
        assert_eq!(output.status, Some(64), "{wrong}: {output:?}");
    }
}
