//! Rule 13: the baseline answers instead, with the same head, body and upgrade, if not a byte went out.

use axum::{Router, body::Body, routing::get as route};
use devroute_tower::{OnFailure, context};
use http::Request;

use crate::support::{
    Then, client, contract, echo, get, layer, nobody, policy, raw_target, send, serve,
};

#[tokio::test]
async fn the_baseline_gets_the_same_head_and_body() {
    let down = nobody().await;
    let addr = serve(echo("baseline").layer(layer().on_failure(OnFailure::Fallback))).await;
    let request = Request::post(format!("http://{addr}/a?b"))
        .header("x-devroute", contract("foo", down))
        .header("x-mine", "1")
        .header("x-mine", "2")
        .body(Body::from("the whole body"))
        .unwrap();
    let answer = send(&client(), request).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.body, "baseline POST /a?b the whole body");
    assert_eq!(
        answer.field("x-devroute-routed"),
        "foo=baseline; reason=connection_refused"
    );
    let mine: Vec<_> = answer.headers.get_all("echo-x-mine").iter().collect();
    assert_eq!(mine, ["1", "2"]);
    for added in ["via", "x-forwarded-host", "x-devroute-matched"] {
        assert!(
            !answer.headers.contains_key(format!("echo-{added}")),
            "{added}"
        );
    }
}

#[tokio::test]
async fn the_baseline_has_the_contract_in_scope() {
    let handler = || async { context::current().unwrap().to_string() };
    let app = Router::new().route("/path", route(handler));
    let addr = serve(app.layer(layer().on_failure(OnFailure::Fallback))).await;
    let sent = contract("foo", nobody().await);
    assert_eq!(get(addr, &sent).await.body, sent);
}

#[tokio::test]
async fn what_may_have_been_seen_is_not_sent_twice() {
    let target = raw_target(b"", Then::Close).await;
    let addr = serve(echo("baseline").layer(layer().on_failure(OnFailure::Fallback))).await;
    let answer = get(addr, &contract("foo", target)).await;
    assert_eq!(
        answer.status, 502,
        "the target has had the request: {answer:?}"
    );
}

#[tokio::test]
async fn a_refused_target_is_refused_all_the_same() {
    let addr = serve(echo("baseline").layer(layer().on_failure(OnFailure::Fallback))).await;
    assert_eq!(
        get(addr, &contract("foo", "69.145.32.56:9001"))
            .await
            .status,
        403
    );
    assert_eq!(get(addr, "{").await.status, 400);
}

#[tokio::test]
async fn a_name_without_an_address_falls_back_where_that_is_wanted_only() {
    let policy = policy().allow_suffix(".invalid".parse().unwrap());
    let layer = layer().policy(policy);
    let sent = contract("foo", "nowhere.invalid:80");
    for (on_failure, status, mark) in [
        (OnFailure::Fallback, 200, "foo=baseline; reason=dns_failed"),
        (OnFailure::Fail, 502, "foo=none; reason=dns_failed"),
    ] {
        let layer = layer.clone().on_failure(on_failure);
        let answer = get(serve(echo("baseline").layer(layer)).await, &sent).await;
        assert_eq!(answer.status, status, "{answer:?}");
        assert_eq!(answer.field("x-devroute-routed"), mark);
    }
}

#[tokio::test]
async fn a_target_that_is_up_still_answers() {
    let laptop = serve(echo("laptop")).await;
    let addr = serve(echo("baseline").layer(layer().on_failure(OnFailure::Fallback))).await;
    let request = Request::post(format!("http://{addr}/"))
        .header("x-devroute", contract("foo", laptop))
        .body(Body::from("body"))
        .unwrap();
    assert_eq!(send(&client(), request).await.body, "laptop POST / body");
}
