//! The admin listener tells what happened.

use devroute_tower::OnFailure;
use http::StatusCode;

use crate::support::{Client, Server, closed, router, sidecar, until};

#[tokio::test(flavor = "multi_thread")]
async fn every_decision_is_counted_once() {
    let (baseline, laptop) = (Server::says("baseline").await, Server::says("laptop").await);
    let sidecar = sidecar(baseline.address, |_| {}).await;
    let ours = format!(r#"{{"foo":"{}"}}"#, laptop.address);
    let dead = format!(r#"{{"foo":"{}"}}"#, closed().await);
    sidecar.get("/").send().await;
    sidecar
        .get("/")
        .contract(r#"{"bar":"10.0.0.1:1"}"#)
        .send()
        .await;
    sidecar
        .get("/")
        .contract(&ours)
        .header("x-devroute-matched", "foo")
        .send()
        .await;
    sidecar.get("/").contract(&ours).send().await;
    sidecar
        .get("/")
        .contract(r#"{"foo":"169.254.169.254:80"}"#)
        .send()
        .await;
    sidecar.get("/").contract("nonsense").send().await;
    sidecar.get("/").contract(&dead).send().await;

    for (decision, count) in [
        ("none", 1.0),
        ("baseline", 1.0),
        ("already_rerouted", 1.0),
        ("rerouted", 1.0),
        ("fallback", 0.0),
        ("refused", 2.0),
        ("failed", 1.0),
    ] {
        let requests = format!(r#"devroute_requests_total{{decision="{decision}"}}"#);
        assert_eq!(sidecar.sample(&requests).await, count, "{decision}");
        let label = format!(r#"{{decision="{decision}"}}"#);
        let times = format!("devroute_response_start_seconds_count{label}");
        assert_eq!(sidecar.sample(&times).await, count, "{decision}");
    }
    for cause in ["connection_refused", "metadata", "malformed"] {
        let sample = format!(r#"devroute_reroute_failures_total{{cause="{cause}"}}"#);
        assert_eq!(sidecar.sample(&sample).await, 1.0, "{cause}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fallback_counts_as_one_with_its_cause() {
    let baseline = Server::says("baseline").await;
    let sidecar = sidecar(baseline.address, |config| {
        config.on_failure = OnFailure::Fallback
    })
    .await;
    let dead = format!(r#"{{"foo":"{}"}}"#, closed().await);
    sidecar.get("/").contract(&dead).send().await;
    assert_eq!(
        sidecar
            .sample(r#"devroute_requests_total{decision="fallback"}"#)
            .await,
        1.0
    );
    let sample = r#"devroute_reroute_failures_total{cause="connection_refused"}"#;
    assert_eq!(sidecar.sample(sample).await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_a_request_carries_becomes_a_label() {
    let baseline = Server::says("baseline").await;
    let sidecar = sidecar(baseline.address, |_| {}).await;
    let contract = r#"{"foo":"69.1.2.3:9001","needle":"10.0.0.1:1","$id":"needle"}"#;
    sidecar.get("/needle").contract(contract).send().await;
    let scrape = sidecar.admin("/metrics").send().await;
    assert!(
        scrape
            .header("content-type")
            .starts_with("application/openmetrics-text")
    );
    assert!(
        !scrape.text.contains("needle") && !scrape.text.contains("69.1"),
        "{}",
        scrape.text
    );
    assert!(scrape.text.ends_with("# EOF\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_10_a_member_that_does_not_fit_is_counted() {
    let (baseline, laptop) = (Server::says("baseline").await, Server::says("laptop").await);
    let sidecar = sidecar(baseline.address, |_| {}).await;
    let sample = "devroute_baggage_members_not_written_total";
    let entries: Vec<String> = (0..60)
        .map(|index| format!(r#""{index}{}":"10.0.0.1:1""#, "x".repeat(60)))
        .collect();
    let long = entries.join(",");
    sidecar
        .get("/")
        .contract(r#"{"bar":"10.0.0.1:1"}"#)
        .send()
        .await;
    assert_eq!(sidecar.sample(sample).await, 0.0);
    sidecar
        .get("/")
        .contract(&format!("{{{long}}}"))
        .send()
        .await;
    assert_eq!(sidecar.sample(sample).await, 1.0);
    let ours = format!(r#"{{"foo":"{}",{long}}}"#, laptop.address);
    sidecar.get("/").contract(&ours).send().await;
    assert_eq!(laptop.seen().len(), 1);
    assert_eq!(sidecar.sample(sample).await, 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn open_connections_are_those_that_are_open() {
    let baseline = Server::holding("baseline").await;
    let sidecar = sidecar(baseline.address, |_| {}).await;
    let request = tokio::spawn(sidecar.get("/").send());
    baseline.arrived().await;
    let sample = r#"devroute_open_connections{listener="proxy"}"#;
    assert_eq!(sidecar.sample(sample).await, 1.0);
    baseline.release();
    request.await.unwrap();
    // The client has closed; the proxy notices in its own time.
    until("it is closed", async || sidecar.sample(sample).await == 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reroutes_are_recorded_with_run_target_outcome_and_trace() {
    let (baseline, laptop) = (Server::says("baseline").await, Server::says("laptop").await);
    let sidecar = sidecar(baseline.address, |_| {}).await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let traced =
        |client: Client| client.header("traceparent", &format!("00-{trace}-00f067aa0ba902b7-01"));
    let contract = format!(r#"{{"foo":"{}","$id":"run-7"}}"#, laptop.address);
    traced(sidecar.get("/").contract(&contract)).send().await;
    let dead = closed().await;
    let contract = format!(r#"{{"foo":"{dead}","$id":"run-8"}}"#);
    sidecar.get("/").contract(&contract).send().await;
    sidecar
        .get("/")
        .contract(r#"{"bar":"10.0.0.1:1","$id":"run-7"}"#)
        .send()
        .await;

    sidecar
        .get("/")
        .contract(r#"{"foo":"69.1.2.3:1","$id":"run-9"}"#)
        .send()
        .await;

    let all = sidecar.admin("/reroutes").send().await.json();
    assert_eq!(all["reroutes"].as_array().unwrap().len(), 3, "{all}");
    let one = sidecar.admin("/reroutes?id=run-7").send().await.json();
    let [record] = one["reroutes"].as_array().unwrap().as_slice() else {
        panic!("{one}")
    };
    assert_eq!(record["service"], "foo");
    assert_eq!(record["target"], laptop.address.to_string());
    assert_eq!(record["outcome"], "rerouted");
    assert_eq!(record["status"], 200);
    assert_eq!(record["trace_id"], trace);
    assert!(record["ms"].as_f64().unwrap() > 0.0);
    let other = sidecar.admin("/reroutes?id=run-8").send().await.json();
    let record = &other["reroutes"][0];
    assert_eq!(
        (&record["outcome"], &record["cause"]),
        (&"failed".into(), &"connection_refused".into())
    );
    assert_eq!(record["status"], 502);
    let refused = sidecar.admin("/reroutes?id=run-9").send().await.json();
    assert_eq!(refused["reroutes"][0]["cause"], "public", "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_reroutes_and_loads_nothing() {
    let router = router(|_| {}).await;
    let contract = format!(r#"{{"foo":"{}"}}"#, closed().await);
    router
        .get("/")
        .contract(&contract)
        .header("x-devroute-matched", "foo")
        .send()
        .await;
    let page = router.admin("/").send().await;
    assert!(
        page.text.contains("failed: connection_refused"),
        "{}",
        page.text
    );
    assert!(
        page.header("content-security-policy")
            .contains("default-src 'none'")
    );
    for loaded in ["<script", "<img", "<link", "src=", "url("] {
        assert!(!page.text.contains(loaded), "{loaded}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_is_none_is_404() {
    let router = router(|_| {}).await;
    assert_eq!(
        router.admin("/nothing").send().await.status,
        StatusCode::NOT_FOUND
    );
    assert_eq!(router.admin("/_healthz").send().await.text, "OK");
}
