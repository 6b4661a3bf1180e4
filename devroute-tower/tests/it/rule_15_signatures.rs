//! Rule 15: where signatures are asked for, nothing else is obeyed: by the layer, a router, or the caller.

use std::time::{Duration, SystemTime};

use axum::body::Body;
use devroute_core::{
    Contract,
    signature::{AuthorizedKeys, PrivateKeyFile, SigningKey, Verifier},
};
use devroute_tower::{
    DevRouteClientLayer, DevRouteLayer, Mode, Outcome, OutcomeKind, transport::HttpTransport,
};
use http::Request;
use tower::{Layer as _, ServiceExt as _};

use crate::support::{client, contract, echo, get, h2_client, layer, policy, send, serve};

fn verifier() -> Verifier {
    Verifier::new(AuthorizedKeys::parse(include_bytes!(
        "../../../devroute-core/tests/vectors/alice.pub"
    )))
}

/// Signed by alice, and good for so many seconds from now on.
fn signed(text: &str, seconds: i64) -> String {
    let pem = include_bytes!("../../../devroute-core/tests/vectors/alice");
    let PrivateKeyFile::Plain(key) = SigningKey::from_openssh(pem).unwrap() else {
        panic!("it is not encrypted")
    };
    let by = Duration::from_secs(seconds.unsigned_abs());
    let expires = if seconds < 0 {
        SystemTime::now() - by
    } else {
        SystemTime::now() + by
    };
    let contract: Contract = text.parse().unwrap();
    key.sign_contract(&contract, expires).unwrap().to_string()
}

#[tokio::test]
async fn what_is_not_well_signed_is_403_whoever_it_is_for_and_nothing_is_dialled() {
    let laptop = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = laptop.local_addr().unwrap();
    let addr = serve(echo("baseline").layer(layer().verifier(verifier()))).await;
    let ours = contract("foo", target);
    let changed = signed(&ours, 60).replace("$exp\":\"", "$exp\":\"9");
    for (text, cause) in [
        (ours.clone(), "signature_missing"),
        (
            signed(&ours, 60).replace("127.", "126."),
            "signature_invalid",
        ),
        (signed(&ours, -60), "expired"),
        (signed(&ours, 7 * 24 * 3600), "expires_too_late"),
        (changed, "expires_too_late"),
        (
            signed(&ours, 60).replace("\"$key\":\"", "\"$key\":\"x"),
            "unknown_key",
        ),
    ] {
        let answer = get(addr, &text).await;
        assert_eq!(answer.status, 403, "{text}");
        let problem = answer.problem();
        assert_eq!(problem["cause"], cause, "{text}");
        assert_eq!(problem["service"], "foo");
        assert!(
            problem["help"].as_str().unwrap().contains("ign"),
            "{problem}"
        );
        assert_eq!(
            answer.field("x-devroute-routed"),
            format!("foo=none; reason={cause}")
        );
        assert!(
            answer
                .field("proxy-status")
                .starts_with("devroute; error=http_request_denied"),
        );
    }
    // One for others says nothing about this service, and goes no further all the same.
    let answer = get(addr, &contract("bar", target)).await;
    assert_eq!(answer.status, 403);
    assert_eq!(answer.field("x-devroute-routed"), "");
    assert!(futures_util::FutureExt::now_or_never(laptop.accept()).is_none());
}

#[tokio::test]
async fn a_grpc_call_gets_the_same_as_permission_denied() {
    let addr = serve(echo("baseline").layer(layer().verifier(verifier()))).await;
    let request = Request::post(format!("http://{addr}/greeter/hello"))
        .header("content-type", "application/grpc+proto")
        .header("x-devroute", contract("foo", "10.0.0.1:80"))
        .body(Body::empty())
        .unwrap();
    let answer = send(&h2_client(), request).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.field("grpc-status"), "7");
    assert!(
        answer.field("grpc-message").contains("not signed"),
        "{answer:?}"
    );
}

#[tokio::test]
async fn a_signed_contract_is_obeyed_from_either_carrier_and_arrives_as_it_was_signed() {
    let target = serve(echo("laptop")).await;
    let addr = serve(echo("baseline").layer(layer().verifier(verifier()))).await;
    let text = signed(&contract("foo", target), 60);
    let answer = get(addr, &text).await;
    assert!(answer.body.starts_with("laptop"), "{answer:?}");
    assert_eq!(answer.field("echo-x-devroute"), text);

    let member = devroute_core::carrier::baggage::encode(&text.parse().unwrap());
    let request = Request::get(format!("http://{addr}/"))
        .header("baggage", format!("a=b,devroute={member}"))
        .body(Body::empty())
        .unwrap();
    let answer = send(&client(), request).await;
    assert!(answer.body.starts_with("laptop"), "{answer:?}");

    // Signed, it is judged like any other.
    let answer = get(addr, &signed(&contract("foo", "169.254.169.254:80"), 60)).await;
    assert_eq!(answer.problem()["cause"], "metadata");
    // One that names nothing needs no signature, and no contract needs one either.
    assert!(get(addr, "{}").await.body.starts_with("baseline"));
    let plain = Request::get(format!("http://{addr}/"))
        .body(Body::empty())
        .unwrap();
    assert_eq!(send(&client(), plain).await.status, 200);
}

#[tokio::test]
async fn a_key_that_is_taken_away_is_refused_at_the_next_request() {
    let target = serve(echo("laptop")).await;
    let verifier = verifier();
    // Set before and after what makes another selector of the layer.
    let layer = DevRouteLayer::new("foo")
        .verifier(verifier.clone())
        .policy(policy());
    let addr = serve(echo("baseline").layer(layer)).await;
    let text = signed(&contract("foo", target), 60);
    assert_eq!(get(addr, &text).await.status, 200);
    verifier.replace_keys(AuthorizedKeys::default());
    let answer = get(addr, &text).await;
    assert_eq!(answer.status, 403);
    assert_eq!(answer.problem()["cause"], "unknown_key");
}

#[tokio::test]
async fn a_router_asks_for_a_signature_too() {
    let target = serve(echo("laptop")).await;
    let router = DevRouteLayer::router()
        .policy(policy())
        .verifier(verifier());
    let addr = serve(echo("nobody").layer(router)).await;
    let ask = |text: String| {
        let request = Request::get(format!("http://{addr}/"))
            .header("x-devroute", text)
            .header("x-devroute-matched", "foo");
        async { send(&client(), request.body(Body::empty()).unwrap()).await }
    };
    let unsigned = contract("foo", target);
    let answer = ask(unsigned.clone()).await;
    assert_eq!(answer.problem()["cause"], "signature_missing");
    let answer = ask(signed(&unsigned, 60)).await;
    assert!(answer.body.starts_with("laptop"), "{answer:?}");
}

#[tokio::test]
async fn the_caller_asks_for_a_signature_too() {
    let target = serve(echo("laptop")).await;
    let layer = DevRouteClientLayer::new()
        .reroute(HttpTransport::new())
        .policy(policy())
        .verifier(verifier());
    let inner = tower::service_fn(|_: Request<Body>| async {
        Ok::<_, std::convert::Infallible>(http::Response::new(Body::from("inner")))
    });
    let ask = |text: &str| {
        let request = Request::get("http://foo/").header("x-devroute", text);
        let answer = layer
            .layer(inner)
            .oneshot(request.body(Body::empty()).unwrap());
        async { answer.await.unwrap() }
    };
    let unsigned = contract("foo", target);
    let answer = ask(&unsigned).await;
    assert_eq!(answer.status(), 403);
    let outcome = answer.extensions().get::<Outcome>().unwrap();
    assert_eq!(outcome.cause(), Some("signature_missing"));
    assert_eq!(outcome.signed_by(), None);

    let answer = ask(&signed(&unsigned, 60)).await;
    assert_eq!(answer.status(), 200);
    let outcome = answer.extensions().get::<Outcome>().unwrap();
    assert_eq!(outcome.kind(), OutcomeKind::Rerouted);
    assert_eq!(outcome.signed_by(), Some("alice@laptop"));
}

#[tokio::test]
async fn where_contracts_are_only_carried_nothing_is_verified() {
    for mode in [Mode::Carry, Mode::Off] {
        let layer = layer().verifier(verifier()).mode(mode);
        let addr = serve(echo("baseline").layer(layer)).await;
        let answer = get(addr, &contract("foo", "10.0.0.1:80")).await;
        assert!(answer.body.starts_with("baseline"), "{answer:?}");
    }
}
