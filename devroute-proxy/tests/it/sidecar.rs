//! A sidecar answers from the baseline, from the target, or with the reason.

use devroute_proxy::config::{Location, Strip};
use devroute_tower::core::TargetPolicy;
use devroute_tower::core::carrier::cookie;
use devroute_tower::{ForwardedFields, OnFailure};
use http::StatusCode;

use crate::support::{Client, Devroute, Server, closed, router, sidecar};

#[tokio::test(flavor = "multi_thread")]
async fn rule_06_without_a_contract_the_baseline_answers() {
    let baseline = Server::says("baseline").await;
    let sidecar = sidecar(baseline.address, |_| {}).await;
    let answer = sidecar.get("/a?b=c").header("x-custom", "1").send().await;
    assert_eq!((answer.status, &*answer.text), (StatusCode::OK, "baseline"));
    assert!(!answer.headers.contains_key("x-devroute-routed"));

    // Rule 16: nothing is added on the way.
    let seen = baseline.only();
    assert_eq!(seen.line, "GET /a?b=c");
    let mut names: Vec<_> = seen.headers.keys().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["host", "x-custom"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_07_a_contract_for_this_service_is_answered_by_its_target() {
    let (baseline, laptop) = (Server::says("baseline").await, Server::says("laptop").await);
    let sidecar = sidecar(baseline.address, |_| {}).await;
    let contract = format!(r#"{{"foo":"{}"}}"#, laptop.address);
    let answer = sidecar
        .get("/")
        .contract(&contract)
        .post("a body")
        .send()
        .await;
    assert_eq!((answer.status, &*answer.text), (StatusCode::OK, "laptop"));
    assert_eq!(
        answer.header("x-devroute-routed"),
        format!("foo={}", laptop.address)
    );
    assert!(baseline.seen().is_empty());
    let seen = laptop.only();
    assert_eq!(seen.headers["x-devroute-matched"], "foo");
    assert_eq!(seen.headers["x-forwarded-for"], "127.0.0.1");
    assert_eq!(seen.body, "a body");
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_07_a_request_that_was_rerouted_here_is_answered_here() {
    let baseline = Server::says("baseline").await;
    let sidecar = sidecar(baseline.address, |_| {}).await;
    let contract = format!(r#"{{"foo":"{}"}}"#, closed().await);
    let request = sidecar
        .get("/")
        .contract(&contract)
        .header("x-devroute-matched", "foo");
    let answer = request.send().await;
    assert_eq!(answer.text, "baseline");
    assert_eq!(
        answer.header("x-devroute-routed"),
        "foo=baseline; reason=already_rerouted"
    );
    assert!(!baseline.only().headers.contains_key("x-devroute-matched"));
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_10_both_carriers_are_written_on_what_goes_to_the_baseline() {
    let baseline = Server::says("baseline").await;
    let sidecar = sidecar(baseline.address, |_| {}).await;
    let contract = r#"{"bar":"10.0.0.1:1"}"#;
    let member = "devroute=%7B%22bar%22%3A%2210.0.0.1%3A1%22%7D";
    sidecar.get("/").contract(contract).send().await;
    sidecar.get("/").header("baggage", member).send().await;
    for seen in baseline.seen() {
        assert_eq!(seen.headers["x-devroute"], contract);
        assert_eq!(seen.headers["baggage"], member);
    }
    assert_eq!(baseline.seen().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_12_a_killed_laptop_is_502_with_service_address_and_cause() {
    let baseline = Server::says("baseline").await;
    let laptop = Server::says("laptop").await;
    let sidecar = sidecar(baseline.address, |_| {}).await;
    let contract = format!(r#"{{"foo":"{}"}}"#, laptop.address);
    assert_eq!(
        sidecar.get("/").contract(&contract).send().await.text,
        "laptop"
    );

    let gone = closed().await;
    let contract = contract.replace(&laptop.address.to_string(), &gone.to_string());
    let answer = sidecar.get("/").contract(&contract).send().await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    let problem = answer.json();
    assert_eq!(problem["service"], "foo");
    assert_eq!(problem["target"], gone.to_string());
    assert_eq!(problem["cause"], "connection_refused");
    assert!(baseline.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_13_under_fallback_the_baseline_answers_with_the_whole_request() {
    let baseline = Server::says("baseline").await;
    let sidecar = sidecar(baseline.address, |config| {
        config.on_failure = OnFailure::Fallback
    })
    .await;
    let contract = format!(r#"{{"foo":"{}"}}"#, closed().await);
    let answer = sidecar
        .get("/")
        .contract(&contract)
        .post("a body")
        .send()
        .await;
    assert_eq!((answer.status, &*answer.text), (StatusCode::OK, "baseline"));
    assert_eq!(
        answer.header("x-devroute-routed"),
        "foo=baseline; reason=connection_refused"
    );
    assert_eq!(baseline.only().body, "a body");
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_16_who_asked_is_told_as_it_is_configured() {
    let service = Server::says("service").await;
    let ours = format!(r#"{{"foo":"{}"}}"#, service.address);
    let x_forwarded = ["x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"];
    for (forwarded, names) in [
        (ForwardedFields::None, vec![]),
        (ForwardedFields::Forwarded, vec!["forwarded"]),
        (ForwardedFields::XForwarded, x_forwarded.to_vec()),
        (
            ForwardedFields::Both,
            [&["forwarded"][..], &x_forwarded].concat(),
        ),
    ] {
        for on_all in [false, true] {
            let sidecar = sidecar(service.address, |config| {
                config.reroute.forwarded = forwarded;
                config.forwarded_to_baseline = on_all;
            })
            .await;
            sidecar.get("/").send().await;
            sidecar.get("/").contract(&ours).send().await;
            let seen = service.seen();
            for (seen, is_told) in seen.iter().rev().zip([true, on_all]) {
                let mut told: Vec<_> = seen.headers.keys().map(http::HeaderName::as_str).collect();
                told.retain(|name| name.contains("forwarded") || *name == "via");
                told.sort_unstable();
                let expected = [&names[..], &["via"]].concat();
                let mut expected = if is_told { expected } else { vec![] };
                expected.sort_unstable();
                assert_eq!(told, expected, "{forwarded:?} {on_all}");
                if let Some(forwarded) = seen.headers.get("forwarded") {
                    assert_eq!(forwarded, "for=127.0.0.1;host=foo.example;proto=http");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_16_who_asked_is_told_by_flag_and_by_variable() {
    let baseline = Server::says("baseline").await;
    let line = "sidecar --listen 127.0.0.1:0 --admin off --service foo --upstream";
    let line = format!("{line} http://{}", baseline.address);
    let by_flag = Devroute::new(&format!("{line} --forwarded both --forwarded-on all"));
    let by_variable = Devroute::new(&line)
        .env("DEVROUTE_FORWARDED", "both")
        .env("DEVROUTE_FORWARDED_ON", "all");
    for devroute in [by_flag, by_variable] {
        let sidecar = devroute.serve();
        Client::get(sidecar.address, "/").send().await;
        let headers = baseline.seen().pop().unwrap().headers;
        assert_eq!(headers["x-forwarded-for"], "127.0.0.1");
        assert_eq!(
            headers["forwarded"],
            "for=127.0.0.1;host=foo.example;proto=http"
        );
        assert_eq!(headers["via"], "1.1 devroute");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_19_via_a_router_the_router_dials_and_judges() {
    let (baseline, laptop) = (Server::says("baseline").await, Server::says("laptop").await);
    let router = router(|_| {}).await;
    let sidecar = sidecar(baseline.address, |config| {
        config.via = Some(Location::Address(router.address));
        // Its own policy, which refuses loopback, is not asked.
        config.reroute.policy = TargetPolicy::default();
    })
    .await;
    let contract = format!(r#"{{"foo":"{}","$id":"run-7"}}"#, laptop.address);
    let answer = sidecar.get("/").contract(&contract).send().await;
    assert_eq!((answer.status, &*answer.text), (StatusCode::OK, "laptop"));
    assert_eq!(laptop.only().headers["x-devroute-matched"], "foo");
    for proxy in [&sidecar, &router] {
        assert_eq!(proxy.records.latest(Some("run-7")).len(), 1);
    }

    let answer = sidecar
        .get("/")
        .contract(r#"{"foo":"69.145.32.56:9001"}"#)
        .send()
        .await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN, "{}", answer.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_may_be_a_name_and_one_without_an_address_holds_up_nobody() {
    let (baseline, laptop) = (Server::says("baseline").await, Server::says("laptop").await);
    let router = router(|_| {}).await;
    let via = |name: &str, on_failure| {
        let at = Location::Name(name.to_owned(), router.address.port());
        sidecar(baseline.address, move |config| {
            config.via = Some(at);
            config.on_failure = on_failure;
        })
    };
    let contract = format!(r#"{{"foo":"{}"}}"#, laptop.address);

    let known = via("localhost", OnFailure::Fail).await;
    let answer = known.get("/").contract(&contract).send().await;
    assert_eq!((answer.status, &*answer.text), (StatusCode::OK, "laptop"));

    let unknown = via("nowhere.invalid", OnFailure::Fail).await;
    assert_eq!(unknown.get("/").send().await.text, "baseline");
    let answer = unknown.get("/").contract(&contract).send().await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert_eq!(
        answer.header("x-devroute-routed"),
        "foo=none; reason=dns_failed"
    );
    let said = "through a router, whose own name has no address yet";
    assert!(answer.text.contains(said), "{}", answer.text);

    let falls_back = via("nowhere.invalid", OnFailure::Fallback).await;
    let answer = falls_back.get("/").contract(&contract).send().await;
    assert_eq!(answer.text, "baseline");
    assert_eq!(
        answer.header("x-devroute-routed"),
        "foo=baseline; reason=dns_failed"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_20_strip_removes_contracts_that_come_from_outside() {
    let baseline = Server::says("baseline").await;
    let sidecar = sidecar(baseline.address, |config| {
        config.reroute.entry.strip = Strip::Everything
    })
    .await;
    let contract = format!(r#"{{"foo":"{}"}}"#, closed().await);
    let request = sidecar
        .get("/")
        .contract(&contract)
        .header("x-devroute-matched", "foo");
    let request = request.header("baggage", "other=1,devroute=%7B%7D");
    assert_eq!(request.send().await.text, "baseline");
    let seen = baseline.only();
    assert!(!seen.headers.contains_key("x-devroute"));
    assert!(!seen.headers.contains_key("x-devroute-matched"));
    assert_eq!(seen.headers["baggage"], "other=1");
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_20_a_listed_network_may_send_contracts_whatever_is_forwarded_for() {
    let (baseline, laptop) = (Server::says("baseline").await, Server::says("laptop").await);
    let contract = format!(r#"{{"foo":"{}"}}"#, laptop.address);
    for (trusted, who) in [("127.0.0.0/8", "laptop"), ("10.0.0.0/8", "baseline")] {
        let sidecar = sidecar(baseline.address, |config| {
            config.reroute.entry.strip = Strip::Everything;
            config.reroute.entry.trust = [trusted.parse().unwrap()].into();
        })
        .await;
        // The connection is from loopback, whatever a field says.
        for field in ["x-forwarded-for", "forwarded", "x-real-ip"] {
            let request = sidecar.get("/").contract(&contract);
            let answer = request.header(field, "10.0.0.7").send().await;
            assert_eq!(answer.text, who, "{trusted} {field}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_20_a_cookie_is_a_carrier_where_that_is_switched_on() {
    let (baseline, laptop) = (Server::says("baseline").await, Server::says("laptop").await);
    let contract = format!(r#"{{"foo":"{}"}}"#, laptop.address);
    let value = cookie::encode(&contract.parse().unwrap());
    let sent = format!("session=1; devroute={value}");
    for (is_on, strip, who, left) in [
        (true, Strip::Nothing, "laptop", "session=1"),
        (true, Strip::Everything, "baseline", "session=1"),
        (false, Strip::Nothing, "baseline", &*sent),
        // Whoever is behind might read it.
        (false, Strip::Everything, "baseline", "session=1"),
    ] {
        let sidecar = sidecar(baseline.address, |config| {
            config.reroute.entry.cookie = is_on;
            config.reroute.entry.strip = strip;
        })
        .await;
        let answer = sidecar.get("/").header("cookie", &sent).send().await;
        assert_eq!(answer.text, who, "{is_on} {strip:?}");
        let server = if who == "laptop" { &laptop } else { &baseline };
        let seen = server.seen();
        let seen = &seen.last().unwrap().headers;
        assert_eq!(seen["cookie"], left, "{is_on} {strip:?}");
        if who == "laptop" {
            assert_eq!(seen["x-devroute"], contract);
            assert_eq!(seen["baggage"], format!("devroute={value}"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_can_keep_addresses_to_themselves() {
    let baseline = Server::says("baseline").await;
    let sidecar = sidecar(baseline.address, |config| {
        config.reroute.reveal_addresses = false
    })
    .await;
    let nobody = closed().await.to_string();
    let contract = format!(r#"{{"foo":"{nobody}"}}"#);
    let answer = sidecar.get("/").contract(&contract).send().await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert!(!answer.text.contains(&nobody), "{}", answer.text);
    assert!(
        !format!("{:?}", answer.headers).contains(&nobody),
        "{:?}",
        answer.headers
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_of_h2c_gets_http2() {
    let baseline = Server::says("baseline").await;
    let sidecar = sidecar(baseline.address, |config| config.upstream.h2c = true).await;
    assert_eq!(sidecar.get("/").send().await.text, "baseline");
    assert_eq!(baseline.only().version, http::Version::HTTP_2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_baseline_that_is_not_there_is_502_and_counted() {
    let sidecar = sidecar(closed().await, |_| {}).await;
    assert_eq!(
        sidecar.get("/").send().await.status,
        StatusCode::BAD_GATEWAY
    );
    let sample = r#"devroute_upstream_failures_total{cause="connection_refused"}"#;
    assert_eq!(sidecar.sample(sample).await, 1.0);
}
