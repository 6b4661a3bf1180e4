//! The router is a drop-in for the reference implementation (DESIGN's "same 400/403/502").

use http::StatusCode;
use serde_json::Value;

use crate::support::{Server, closed, router};

#[tokio::test(flavor = "multi_thread")]
async fn its_own_port_answers_health_probes() {
    let router = router(|_| {}).await;
    let answer = router.get("/_healthz").send().await;
    assert_eq!((answer.status, &*answer.text), (StatusCode::OK, "OK"));
}

/// The table of the reference: what is sent, and what comes back.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_reference_refuses_is_refused_with_the_same_status() {
    let router = router(|_| {}).await;
    let foo = r#"{"foo":"10.0.0.1:1"}"#;
    let bad_target = r#"{"foo":"192.168.10.20_9001"}"#;
    let public = r#"{"foo":"69.145.32.56:9001"}"#;
    let not_strings = r#"{"foo": [1,2,3]}"#;
    for (matched, contract, status, cause) in [
        (Some("foo"), None, 400, "missing_contract"),
        (None, None, 400, ""),
        (None, Some(foo), 400, "missing_service"),
        (Some("foo"), Some(not_strings), 400, "malformed"),
        (Some("bar"), Some(not_strings), 400, "malformed"),
        (Some("bar"), Some(foo), 400, "no_entry"),
        (Some("foo"), Some(bad_target), 400, "malformed"),
        (Some("foo"), Some(public), 403, "public"),
    ] {
        let mut request = router.get("/");
        if let Some(matched) = matched {
            request = request.header("x-devroute-matched", matched);
        }
        if let Some(contract) = contract {
            request = request.contract(contract);
        }
        let answer = request.send().await;
        let case = format!("{matched:?} {contract:?}: {}", answer.text);
        assert_eq!(answer.status.as_u16(), status, "{case}");
        assert_eq!(
            answer.header("content-type"),
            "application/problem+json",
            "{case}"
        );
        let problem: Value = answer.json();
        assert_eq!(problem["status"], status, "{case}");
        assert!(cause.is_empty() || problem["cause"] == cause, "{case}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_contract_of_several_entries_is_forwarded_to_the_one_that_is_asked_for() {
    let (foo, bar) = (
        Server::says("foo's laptop").await,
        Server::says("bar's laptop").await,
    );
    let router = router(|_| {}).await;
    let contract = format!(
        r#"{{"foo":"{}","bar":"{}","$id":"r"}}"#,
        foo.address, bar.address
    );
    let request = router.get("/path?query=1").contract(&contract);
    let answer = request.header("x-devroute-matched", "bar").send().await;
    assert_eq!(
        (answer.status, &*answer.text),
        (StatusCode::OK, "bar's laptop")
    );
    assert_eq!(
        answer.header("x-devroute-routed"),
        format!("bar={}", bar.address)
    );
    assert!(foo.seen().is_empty());

    let seen = bar.only();
    assert_eq!(seen.line, "GET /path?query=1");
    assert_eq!(seen.headers["host"], "foo.example");
    assert_eq!(seen.headers["x-devroute"], contract);
    assert_eq!(seen.headers["x-devroute-matched"], "bar");
    assert_eq!(seen.headers["x-forwarded-for"], "127.0.0.1");
    assert!(
        seen.headers["baggage"]
            .to_str()
            .unwrap()
            .starts_with("devroute=%7B")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_dial_is_502_and_says_why() {
    let nobody = closed().await;
    let router = router(|_| {}).await;
    let contract = format!(r#"{{"foo":"{nobody}"}}"#);
    let request = router
        .get("/")
        .contract(&contract)
        .header("x-devroute-matched", "foo");
    let answer = request.send().await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    let problem = answer.json();
    assert_eq!(problem["service"], "foo");
    assert_eq!(problem["target"], nobody.to_string());
    assert_eq!(problem["cause"], "connection_refused");
    assert!(
        answer
            .header("proxy-status")
            .contains("error=connection_refused")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rerouted_probe_belongs_to_the_target() {
    let laptop = Server::says("laptop").await;
    let router = router(|_| {}).await;
    let contract = format!(r#"{{"foo":"{}"}}"#, laptop.address);
    let request = router.get("/_healthz").contract(&contract);
    let answer = request.header("x-devroute-matched", "foo").send().await;
    assert_eq!(answer.text, "laptop");
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_05_neither_of_its_own_listeners_is_a_target() {
    let router = router(|_| {}).await;
    for own in [router.address, router.admin] {
        let contract = format!(r#"{{"foo":"{own}"}}"#);
        let request = router
            .get("/")
            .contract(&contract)
            .header("x-devroute-matched", "foo");
        let answer = request.send().await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{}", answer.text);
        assert_eq!(answer.json()["cause"], "own_listener");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_is_spoken_on_the_same_port() {
    let laptop = Server::says("laptop").await;
    let router = router(|_| {}).await;
    let contract = format!(r#"{{"foo":"h2c://{}"}}"#, laptop.address);
    let request = router
        .get("/")
        .contract(&contract)
        .header("x-devroute-matched", "foo");
    assert_eq!(request.h2().send().await.text, "laptop");
    assert_eq!(laptop.only().version, http::Version::HTTP_2);
}
