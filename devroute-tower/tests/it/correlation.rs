//! A contract comes back by the one id that a service passes on.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use devroute_tower::correlation::{Correlations, IdKind, Loss, RememberLayer, RestoreLayer};
use devroute_tower::{DevRouteClientLayer, DevRouteLayer, core::TargetPolicy};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use tower::{Layer as _, ServiceBuilder, ServiceExt as _, service_fn};

type Body = Full<bytes::Bytes>;

const CONTRACT: &str = r#"{"bar":"10.0.0.1:1"}"#;
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// What a request that the service makes is like when it leaves the sidecar.
async fn leaves(correlations: &Correlations, request: Request<Body>) -> HeaderMap {
    let sent = service_fn(|request: Request<Body>| {
        let headers = request.into_parts().0.headers;
        std::future::ready(Ok::<_, Infallible>(Response::new(headers)))
    });
    let outbound = ServiceBuilder::new()
        .layer(RestoreLayer::new(correlations.clone()).service("foo".parse().unwrap()))
        .layer(DevRouteClientLayer::new())
        .service(sent);
    outbound.oneshot(request).await.unwrap().into_body()
}

fn to_bar(fields: &[(&str, &str)]) -> Request<Body> {
    let request = Request::get("http://bar/");
    let request = fields.iter().fold(request, |request, (name, value)| {
        request.header(*name, *value)
    });
    request.body(Body::default()).unwrap()
}

/// Lets a service that passes on `passes` alone handle a request with `fields`; what leaves while it does.
async fn handled(
    correlations: &Correlations,
    contract: &str,
    fields: &[(&str, &str)],
    passes: &'static [&'static str],
) -> HeaderMap {
    let left = Arc::new(Mutex::new(None));
    let service = {
        let (correlations, left) = (correlations.clone(), Arc::clone(&left));
        service_fn(move |request: Request<Body>| {
            let (correlations, left) = (correlations.clone(), Arc::clone(&left));
            async move {
                let passed: Vec<_> = request
                    .headers()
                    .iter()
                    .filter(|(name, _)| passes.contains(&name.as_str()))
                    .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
                    .collect();
                // Another connection, another task: no scope leads from one to the other.
                let request = to_bar(&passed);
                let leaving = async move { leaves(&correlations, request).await };
                let headers = tokio::spawn(leaving).await.unwrap();
                *left.lock().unwrap() = Some(headers);
                Ok::<_, Infallible>(Response::new(Body::default()))
            }
        })
    };
    let inbound = DevRouteLayer::new("foo")
        .policy(TargetPolicy::default())
        .write_carriers(true)
        .layer(RememberLayer::new(correlations.clone()).layer(service));
    let mut request = to_bar(fields);
    let value = contract.parse().unwrap();
    request.headers_mut().insert("x-devroute", value);
    inbound.oneshot(request).await.unwrap();
    let left = left.lock().unwrap().take();
    left.unwrap()
}

#[tokio::test]
async fn any_one_id_is_enough() {
    let traceparent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    let b3 = format!("{TRACE}-00f067aa0ba902b7-1");
    for (kind, name, value) in [
        (IdKind::Traceparent, "traceparent", &*traceparent),
        (IdKind::B3, "b3", &*b3),
        (IdKind::B3TraceId, "x-b3-traceid", TRACE),
        (IdKind::B3TraceId, "x-b3-traceid", "a3ce929d0e0e4736"),
        (
            IdKind::UberTraceId,
            "uber-trace-id",
            "a3ce929d0e0e4736:1:0:1",
        ),
        (IdKind::CloudTraceContext, "x-cloud-trace-context", TRACE),
        (
            IdKind::DatadogTraceId,
            "x-datadog-trace-id",
            "1311768467463790320",
        ),
        (IdKind::RequestId, "x-request-id", "a-b-c"),
    ] {
        let correlations = Correlations::new();
        let passes: &[&str] = match name {
            "traceparent" => &["traceparent"],
            "b3" => &["b3"],
            "x-b3-traceid" => &["x-b3-traceid"],
            "uber-trace-id" => &["uber-trace-id"],
            "x-cloud-trace-context" => &["x-cloud-trace-context"],
            "x-datadog-trace-id" => &["x-datadog-trace-id"],
            _ => &["x-request-id"],
        };
        let left = handled(&correlations, CONTRACT, &[(name, value)], passes).await;
        assert_eq!(left["x-devroute"], CONTRACT, "{name}");
        assert!(left["baggage"].to_str().unwrap().starts_with("devroute="));
        assert_eq!(left[name], value);
        assert_eq!(correlations.stats().restored(kind), 1, "{name}");
    }
}

#[tokio::test]
async fn a_trace_that_begins_here_is_enough() {
    let correlations = Correlations::new();
    let left = handled(&correlations, CONTRACT, &[], &["traceparent"]).await;
    assert_eq!(left["x-devroute"], CONTRACT);
    let stats = correlations.stats();
    assert_eq!((stats.traceparents_added, stats.in_flight), (1, 0));
}

#[tokio::test]
async fn a_contract_of_the_request_itself_takes_precedence() {
    let correlations = Correlations::new();
    let ids = [("x-request-id", "1")];
    handled(&correlations, CONTRACT, &ids, &["x-request-id"]).await;
    let own = r#"{"baz":"10.0.0.2:2"}"#;
    let request = to_bar(&[("x-request-id", "1"), ("x-devroute", own)]);
    assert_eq!(leaves(&correlations, request).await["x-devroute"], own);
    assert_eq!(correlations.stats().restored(IdKind::RequestId), 1);
}

#[tokio::test]
async fn rule_11_nothing_is_restored_for_a_host_outside() {
    let correlations = Correlations::new();
    let ids = [("x-request-id", "1")];
    handled(&correlations, CONTRACT, &ids, &["x-request-id"]).await;
    let request = Request::get("http://example.com/").header("x-request-id", "1");
    let left = leaves(&correlations, request.body(Body::default()).unwrap()).await;
    assert_eq!(left.keys().collect::<Vec<_>>(), ["x-request-id"]);
    assert_eq!(correlations.stats().restored(IdKind::RequestId), 1);
}

#[tokio::test]
async fn what_is_lost_is_named_while_a_contract_is_in_flight() {
    let correlations = Correlations::new();
    let lost = |loss| correlations.stats().lost(loss);
    leaves(&correlations, to_bar(&[])).await;
    assert_eq!(lost(Loss::NoId), 0, "nothing was to be passed on");

    let ids = [("x-request-id", "1")];
    let left = handled(&correlations, CONTRACT, &ids, &[]).await;
    assert!(!left.contains_key("x-devroute"));
    assert_eq!((lost(Loss::NoId), lost(Loss::UnknownId)), (1, 0));

    handled(&correlations, CONTRACT, &[("b3", "0"), ids[0]], &["b3"]).await;
    assert_eq!((lost(Loss::NoId), lost(Loss::UnknownId)), (2, 0));

    let other = r#"{"bar":"10.0.0.2:2"}"#;
    handled(&correlations, other, &ids, &["x-request-id"]).await;
    assert_eq!(lost(Loss::AmbiguousId), 1);
    leaves(&correlations, to_bar(&[])).await;
    assert_eq!(lost(Loss::NoId), 2);
}

#[tokio::test(start_paused = true)]
async fn a_request_is_in_flight_to_the_end_of_its_answer() {
    let correlations = Correlations::new().grace(Duration::ZERO);
    let service = service_fn(async |_: Request<Body>| {
        Ok::<_, Infallible>(Response::new(Body::from("answer")))
    });
    let inbound =
        DevRouteLayer::new("foo").layer(RememberLayer::new(correlations.clone()).layer(service));
    let request = to_bar(&[("x-devroute", CONTRACT), ("x-request-id", "1")]);
    let answer = inbound.oneshot(request).await.unwrap();
    let asked = || leaves(&correlations, to_bar(&[("x-request-id", "1")]));
    assert_eq!(asked().await["x-devroute"], CONTRACT);
    answer.into_body().collect().await.unwrap();
    assert!(!asked().await.contains_key("x-devroute"));
    correlations.sweep();
    assert_eq!(correlations.stats().entries, 0);
}

#[tokio::test]
async fn what_a_target_answers_is_not_remembered() {
    let correlations = Correlations::new();
    let service = service_fn(async |_: Request<Body>| {
        Ok::<_, Infallible>(Response::new(Body::from("baseline")))
    });
    let target = service_fn(async |_: Request<devroute_tower::transport::Body>| {
        Ok::<_, Infallible>(Response::new(Body::from("target")))
    });
    let inbound = DevRouteLayer::new("foo")
        .transport(target)
        .layer(RememberLayer::new(correlations.clone()).layer(service));
    let contract = r#"{"foo":"10.0.0.1:1"}"#;
    let request = to_bar(&[("x-devroute", contract), ("x-request-id", "1")]);
    let answer = inbound.oneshot(request).await.unwrap();
    assert_eq!(correlations.stats().entries, 0);
    assert_eq!(
        answer.into_body().collect().await.unwrap().to_bytes(),
        "target"
    );
}
