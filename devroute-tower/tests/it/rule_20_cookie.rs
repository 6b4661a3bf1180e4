//! Rules 9 and 20: the cookie is a carrier where the layer is told so, and goes no further.

use axum::body::Body;
use devroute_tower::{DevRouteLayer, Mode};
use http::Request;

use crate::support::{Answer, client, contract, echo, layer, policy, send, serve};

/// GETs with these fields.
async fn get(addr: std::net::SocketAddr, fields: &[(&str, &str)]) -> Answer {
    let mut request = Request::get(format!("http://{addr}/"));
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    send(&client(), request.body(Body::empty()).unwrap()).await
}

fn cookie(text: &str) -> String {
    let value = devroute_core::carrier::cookie::encode(&text.parse().unwrap());
    format!("session=1; devroute={value}; theme=\"dark\"")
}

#[tokio::test]
async fn rule_20_a_cookie_reroutes_and_goes_on_as_the_field() {
    let laptop = serve(echo("laptop")).await;
    let addr = serve(echo("baseline").layer(layer().cookie(true))).await;
    let text = contract("foo", laptop);
    let answer = get(addr, &[("cookie", &cookie(&text))]).await;
    assert!(answer.body.starts_with("laptop"), "{answer:?}");
    assert_eq!(answer.field("x-devroute-routed"), format!("foo={laptop}"));
    assert_eq!(answer.field("echo-cookie"), "session=1; theme=\"dark\"");
    assert_eq!(answer.field("echo-x-devroute"), text);

    let text = contract("bar", laptop);
    let answer = get(addr, &[("cookie", &cookie(&text))]).await;
    assert!(answer.body.starts_with("baseline"), "{answer:?}");
    assert_eq!(answer.field("echo-x-devroute"), text);
    assert_eq!(answer.field("echo-cookie"), "session=1; theme=\"dark\"");
}

#[tokio::test]
async fn rule_20_a_layer_that_is_not_told_leaves_the_cookie_alone() {
    let laptop = serve(echo("laptop")).await;
    let sent = cookie(&contract("foo", laptop));
    for layer in [layer(), layer().cookie(true).mode(Mode::Off)] {
        let addr = serve(echo("baseline").layer(layer)).await;
        let answer = get(addr, &[("cookie", &sent)]).await;
        assert!(answer.body.starts_with("baseline"), "{answer:?}");
        assert_eq!(answer.field("echo-cookie"), sent);
        assert_eq!(answer.field("echo-x-devroute"), "");
    }
}

#[tokio::test]
async fn rule_09_the_field_and_the_member_count_before_the_cookie() {
    let (laptop, other) = (serve(echo("laptop")).await, serve(echo("other")).await);
    let addr = serve(echo("baseline").layer(layer().cookie(true))).await;
    let (first, second) = (contract("foo", laptop), cookie(&contract("foo", other)));
    let member = format!(
        "devroute={}",
        devroute_core::carrier::baggage::encode(&first.parse().unwrap())
    );
    for (name, value) in [("x-devroute", &first), ("baggage", &member)] {
        for cookie in [&*second, "devroute=malformed"] {
            let answer = get(addr, &[(name, value), ("cookie", cookie)]).await;
            assert!(answer.body.starts_with("laptop"), "{answer:?}");
            assert!(!answer.field("echo-cookie").contains("devroute"));
        }
    }
}

#[tokio::test]
async fn rule_09_a_malformed_cookie_is_a_malformed_contract() {
    let addr = serve(echo("baseline").layer(layer().cookie(true))).await;
    for malformed in ["devroute=yes", "a=1; devroute=%7B%7D; devroute=%7B%7D"] {
        let answer = get(addr, &[("cookie", malformed)]).await;
        assert_eq!(answer.status, 400, "{answer:?}");
        assert_eq!(answer.problem()["cause"], "malformed");
        assert!(answer.body.contains("cookie"), "{answer:?}");
    }
}

#[tokio::test]
async fn a_layer_that_only_carries_makes_the_cookie_the_field() {
    let laptop = serve(echo("laptop")).await;
    let layer = DevRouteLayer::new("foo").policy(policy());
    let addr = serve(echo("baseline").layer(layer.cookie(true).mode(Mode::Carry))).await;
    let text = contract("foo", laptop);
    let answer = get(addr, &[("cookie", &cookie(&text))]).await;
    assert!(answer.body.starts_with("baseline"), "{answer:?}");
    assert_eq!(answer.field("echo-x-devroute"), text);
    let answer = get(addr, &[("cookie", "devroute=yes; a=1")]).await;
    assert_eq!((answer.status, answer.field("echo-cookie")), (200, "a=1"));
}
