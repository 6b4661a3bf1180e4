//! The inbound layer records what it decided, on the span that it is called in.

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use axum::body::Body;
use devroute_tower::{DevRouteLayer, Mode, OnFailure};
use http::Request;
use tower::{ServiceBuilder, ServiceExt as _};
use tower_http::trace::TraceLayer;
use tracing::{
    Span, Subscriber,
    field::{Empty, Field, Visit},
    instrument::WithSubscriber as _,
    span,
};
use tracing_subscriber::{
    Registry,
    layer::{Context, Layer, SubscriberExt as _},
};

use crate::support::{Then, contract, echo, layer, nobody, raw_target, serve};

/// What was recorded on any span after it was made, in order.
#[derive(Clone, Default)]
struct Recorded(Arc<Mutex<Vec<(&'static str, String)>>>);

impl Visit for Recorded {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let value = format!("{value:?}").trim_matches('"').to_owned();
        self.0.lock().unwrap().push((field.name(), value));
    }
}

impl<S: Subscriber> Layer<S> for Recorded {
    fn on_record(&self, _: &span::Id, values: &span::Record<'_>, _: Context<'_, S>) {
        values.record(&mut self.clone());
    }
}

/// One request with `contract`, behind a `TraceLayer` whose spans `make` makes.
async fn record<F>(layer: DevRouteLayer, contract: &str, make: F) -> Vec<(&'static str, String)>
where
    F: Fn() -> Span + Clone,
{
    let service = ServiceBuilder::new()
        .layer(TraceLayer::new_for_http().make_span_with(move |_: &Request<_>| make()))
        .layer(layer)
        .service(echo("baseline"));
    let mut request = Request::get("/");
    if !contract.is_empty() {
        request = request.header("x-devroute", contract);
    }
    let request = request.body(Body::empty()).unwrap();

    let recorded = Recorded::default();
    let subscriber = Registry::default().with(recorded.clone());
    service
        .oneshot(request)
        .with_subscriber(subscriber)
        .await
        .unwrap();
    let recorded = recorded.0.lock().unwrap();
    recorded.clone()
}

fn declared() -> Span {
    tracing::info_span!(
        "request",
        "devroute.decision" = Empty,
        "devroute.target" = Empty,
        "devroute.run_id" = Empty,
        "devroute.outcome" = Empty,
        "devroute.cause" = Empty,
    )
}

async fn assert_records(layer: DevRouteLayer, contract: &str, expected: &[(&str, &str)]) {
    let recorded = record(layer, contract, declared).await;
    let recorded: Vec<_> = recorded
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let expected: Vec<_> = expected
        .iter()
        .map(|(name, value)| (format!("devroute.{name}"), *value))
        .collect();
    let expected: Vec<_> = expected
        .iter()
        .map(|(name, value)| (name.as_str(), *value))
        .collect();
    assert_eq!(recorded, expected, "{contract}");
}

#[tokio::test]
async fn without_a_contract_nothing_is_recorded() {
    assert_records(layer(), "", &[]).await;
    let off = layer().mode(Mode::Off);
    assert_records(off, r#"{"foo":"10.0.0.1:1"}"#, &[]).await;
}

#[tokio::test]
async fn the_baseline_answers_a_contract_for_others() {
    let expected = [
        ("decision", "baseline"),
        ("run_id", "run-7"),
        ("outcome", "baseline"),
    ];
    let others = r#"{"bar":"10.0.0.1:1","$id":"run-7"}"#;
    assert_records(layer(), others, &expected).await;
    let own = r#"{"foo":"10.0.0.1:1","$id":"run-7"}"#;
    assert_records(layer().mode(Mode::Carry), own, &expected).await;
}

#[tokio::test]
async fn a_reroute_names_target_and_run() {
    let laptop = serve(echo("laptop")).await;
    let expected = [
        ("decision", "reroute"),
        ("target", &*laptop.to_string()),
        ("run_id", "run-7"),
        ("outcome", "rerouted"),
    ];
    let sent = format!(r#"{{"foo":"{laptop}","$id":"run-7"}}"#);
    assert_records(layer(), &sent, &expected).await;
}

#[tokio::test]
async fn a_reroute_that_fails_says_why() {
    let down = nobody().await;
    for (on_failure, outcome) in [
        (OnFailure::Fail, "failed"),
        (OnFailure::Fallback, "fallback"),
    ] {
        let expected = [
            ("decision", "reroute"),
            ("target", &*down.to_string()),
            ("outcome", outcome),
            ("cause", "connection_refused"),
        ];
        let layer = layer().on_failure(on_failure);
        assert_records(layer, &contract("foo", down), &expected).await;
    }

    let closes = raw_target(b"", Then::Close).await;
    let expected = [
        ("decision", "reroute"),
        ("target", &*closes.to_string()),
        ("outcome", "failed"),
        ("cause", "connection_closed"),
    ];
    assert_records(layer(), &contract("foo", closes), &expected).await;
}

#[tokio::test]
async fn a_refusal_says_why() {
    let expected = [
        ("decision", "refused"),
        ("target", "1.1.1.1:1"),
        ("run_id", "run-7"),
        ("outcome", "refused"),
        ("cause", "public"),
    ];
    let public = r#"{"foo":"1.1.1.1:1","$id":"run-7"}"#;
    assert_records(layer(), public, &expected).await;

    let expected = [
        ("decision", "refused"),
        ("outcome", "refused"),
        ("cause", "malformed"),
    ];
    assert_records(layer(), "{", &expected).await;
}

#[tokio::test]
async fn only_declared_fields_are_recorded() {
    let one = || tracing::info_span!("request", "devroute.decision" = Empty);
    let sent = r#"{"bar":"10.0.0.1:1","$id":"run-7"}"#;
    let recorded = record(layer(), sent, one).await;
    assert_eq!(recorded, [("devroute.decision", "baseline".to_owned())]);
    assert!(record(layer(), sent, Span::none).await.is_empty());
    let none = || tracing::info_span!("request");
    assert!(record(layer(), sent, none).await.is_empty());
}
