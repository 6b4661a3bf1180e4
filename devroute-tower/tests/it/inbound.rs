//! Who answers, and what the answer says about it (rules 6, 7, 8, 10 and 14).

use axum::{Extension, Router, body::Body, extract::Request, routing::get as route};
use devroute_core::Contract;
use devroute_tower::{
    DevRouteLayer, Mode, OnFailure, Outcome, OutcomeKind, context,
    transport::{HttpTransport, Upstream},
};
use http::Request as HttpRequest;
use tower::{Layer as _, ServiceExt as _};

use crate::support::{
    client, contract, echo, get, layer, nobody, policy, send, serve, serve_hyper,
};

#[tokio::test]
async fn rule_06_without_a_contract_the_baseline_answers_and_nothing_is_added() {
    let addr = serve(echo("baseline").layer(layer())).await;
    let answer = get(addr, "").await;
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (200, "baseline GET /path?q=1 ")
    );
    assert!(!answer.headers.contains_key("x-devroute-routed"));
    for field in [
        "via",
        "x-forwarded-for",
        "x-devroute",
        "x-devroute-matched",
        "baggage",
    ] {
        assert!(
            !answer.headers.contains_key(format!("echo-{field}")),
            "{field}"
        );
    }
}

#[tokio::test]
async fn rule_06_an_entry_for_somebody_else_is_not_ours() {
    let laptop = serve(echo("laptop")).await;
    let addr = serve(echo("baseline").layer(layer())).await;
    let sent = contract("bar", laptop);
    let answer = get(addr, &sent).await;
    assert!(answer.body.starts_with("baseline"), "{answer:?}");
    assert!(!answer.headers.contains_key("x-devroute-routed"));
    // The embedded layer leaves the local request as it came (rule 10).
    assert_eq!(answer.field("echo-x-devroute"), sent);
    assert_eq!(answer.field("echo-baggage"), "");
}

#[tokio::test]
async fn rule_06_our_entry_is_answered_by_the_target() {
    let laptop = serve(echo("laptop")).await;
    let addr = serve(echo("baseline").layer(layer())).await;
    let request = HttpRequest::post(format!("http://{addr}/a%2Fb?c=%20d"))
        .header("x-devroute", contract("foo", laptop))
        .body(Body::from("hello"))
        .unwrap();
    let answer = send(&client(), request).await;
    assert_eq!(answer.body, "laptop POST /a%2Fb?c=%20d hello");
    assert_eq!(answer.field("x-devroute-routed"), format!("foo={laptop}"));
    assert_eq!(answer.field("echo-x-devroute-matched"), "foo");
    assert_eq!(answer.field("echo-host"), addr.to_string());
}

#[tokio::test]
async fn rule_09_a_baggage_member_reroutes_as_well() {
    let laptop = serve(echo("laptop")).await;
    let addr = serve(echo("baseline").layer(layer())).await;
    let encoded = contract("foo", laptop)
        .bytes()
        .map(|byte| format!("%{byte:02X}"))
        .collect::<String>();
    let request = HttpRequest::get(format!("http://{addr}/"))
        .header("baggage", format!("a=1,devroute={encoded};p=1, b=2"))
        .body(Body::empty())
        .unwrap();
    let answer = send(&client(), request).await;
    assert!(answer.body.starts_with("laptop"), "{answer:?}");
    // Both carriers go on, and the other members stay (rule 10).
    assert_eq!(answer.field("echo-x-devroute"), contract("foo", laptop));
    assert!(
        answer.field("echo-baggage").starts_with("a=1,"),
        "{answer:?}"
    );
}

#[tokio::test]
async fn rule_07_what_has_been_rerouted_here_is_not_rerouted_again() {
    // The laptop runs the very same layer, and the contract still names its own address.
    let laptop = serve(echo("laptop").layer(layer())).await;
    let addr = serve(echo("baseline").layer(layer())).await;
    let answer = get(addr, &contract("foo", laptop)).await;
    assert!(answer.body.starts_with("laptop"), "{answer:?}");
    assert_eq!(answer.field("x-devroute-routed"), format!("foo={laptop}"));
    assert!(
        !answer.headers.contains_key("echo-x-devroute-matched"),
        "it stops at the laptop"
    );

    // Asked directly, the one that answers says so.
    let request = HttpRequest::get(format!("http://{laptop}/"))
        .header("x-devroute", contract("foo", "10.0.0.1:1"))
        .header("x-devroute-matched", "foo")
        .body(Body::empty())
        .unwrap();
    let answer = send(&client(), request).await;
    assert_eq!(
        answer.field("x-devroute-routed"),
        "foo=baseline; reason=already_rerouted"
    );
}

#[tokio::test]
async fn rule_07_the_mark_of_another_service_goes_no_further() {
    let addr = serve(echo("baseline").layer(layer())).await;
    for sent in ["", r#"{"bar":"10.0.0.1:1"}"#] {
        let mut request =
            HttpRequest::get(format!("http://{addr}/")).header("x-devroute-matched", "bar");
        if !sent.is_empty() {
            request = request.header("x-devroute", sent);
        }
        let answer = send(&client(), request.body(Body::empty()).unwrap()).await;
        assert!(
            !answer.headers.contains_key("echo-x-devroute-matched"),
            "{answer:?}"
        );
    }
}

#[tokio::test]
async fn rule_14_what_was_rerouted_already_is_told_with_its_target() {
    for (service, named) in [("foo", true), ("bar", false)] {
        let sent = contract(service, "192.168.1.12:8001");
        let request = HttpRequest::get("/")
            .header("x-devroute", sent)
            .header("x-devroute-matched", "foo")
            .body(Body::empty())
            .unwrap();
        let service = layer().layer(echo("baseline"));
        let answer = service.oneshot(request).await.unwrap();
        let outcome = answer.extensions().get::<Outcome>().unwrap();
        assert_eq!(outcome.kind(), OutcomeKind::AlreadyRerouted);
        let told = (outcome.service(), outcome.target());
        let told = (
            told.0.map(ToString::to_string),
            told.1.map(ToString::to_string),
        );
        let ours = |text: &str| named.then(|| text.to_owned());
        assert_eq!(told, (ours("foo"), ours("192.168.1.12:8001")));
    }
}

#[tokio::test]
async fn rule_08_sixteen_reroutes_are_a_loop() {
    let laptop = serve(echo("laptop")).await;
    let addr = serve(echo("baseline").layer(layer())).await;
    let request = |hops: usize| {
        let mut request = HttpRequest::get(format!("http://{addr}/"))
            .header("x-devroute", contract("foo", laptop));
        for _ in 0..hops {
            request = request.header("via", "1.1 devroute");
        }
        request.body(Body::empty()).unwrap()
    };
    assert_eq!(send(&client(), request(15)).await.status, 200);
    let answer = send(&client(), request(16)).await;
    assert_eq!(answer.status, 508);
    assert_eq!(answer.problem()["cause"], "loop");
    assert_eq!(answer.field("x-devroute-routed"), "foo=none; reason=loop");
}

#[tokio::test]
async fn rule_08_crossed_entries_end() {
    // foo leads to bar's front and bar to foo's, whatever is asked first.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let foo = listener.local_addr().unwrap();
    let bar_layer = DevRouteLayer::new("bar").policy(policy());
    let bar = serve(echo("bar").layer(bar_layer)).await;
    listener.set_nonblocking(true).unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let app = echo("foo").layer(layer());
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });

    let sent = format!(r#"{{"foo":"{bar}","bar":"{foo}"}}"#);
    let answer = get(foo, &sent).await;
    assert_eq!(answer.status, 508, "{answer:?}");
}

#[tokio::test]
async fn rule_10_a_proxy_writes_both_carriers() {
    let service = serve(echo("service")).await;
    let upstream = Upstream::new(HttpTransport::new(), service);
    let addr = serve_hyper(layer().write_carriers(true).layer(upstream)).await;
    let sent = contract("bar", "10.0.0.1:80");
    let answer = get(addr, &sent).await;
    assert_eq!(answer.field("echo-x-devroute"), sent);
    assert_eq!(
        answer.field("echo-baggage"),
        "devroute=%7B%22bar%22%3A%2210.0.0.1%3A80%22%7D"
    );
}

#[tokio::test]
async fn off_is_the_bare_service_and_carry_never_reroutes() {
    let laptop = serve(echo("laptop")).await;
    let in_scope = || async {
        context::current().map_or_else(|| "none".to_owned(), |contract| contract.to_string())
    };
    for (mode, expected) in [
        (Mode::Off, "none".to_owned()),
        (Mode::Carry, contract("foo", laptop)),
    ] {
        let app = Router::new()
            .route("/path", route(in_scope))
            .layer(layer().mode(mode));
        let addr = serve(app).await;
        let answer = get(addr, &contract("foo", laptop)).await;
        assert_eq!(answer.body, expected, "{mode:?}");
        assert!(!answer.headers.contains_key("x-devroute-routed"));
        // Neither refuses what it does not obey.
        assert_eq!(get(addr, "{malformed").await.body, "none", "{mode:?}");
    }
}

#[tokio::test]
async fn a_handler_finds_the_contract_in_the_extensions() {
    async fn handler(contract: Option<Extension<Contract>>, _: Request) -> String {
        contract.map_or_else(|| "none".to_owned(), |contract| contract.to_string())
    }
    let addr = serve(Router::new().route("/path", route(handler)).layer(layer())).await;
    let sent = r#"{ "bar" : "10.0.0.1:1" }"#;
    assert_eq!(get(addr, sent).await.body, sent);
    assert_eq!(get(addr, "").await.body, "none");
}

#[tokio::test]
async fn rule_19_via_hands_the_request_to_a_router_which_judges() {
    let laptop = serve(echo("laptop")).await;
    let never = Upstream::new(HttpTransport::new(), crate::support::nobody().await);
    let router = serve_hyper(
        DevRouteLayer::router()
            .policy(policy())
            .layer(never.clone()),
    )
    .await;
    let strict_router = serve_hyper(DevRouteLayer::router().layer(never)).await;

    // The layer itself allows no loopback: with a router nobody asks it.
    let addr = serve(echo("baseline").layer(DevRouteLayer::new("foo").via(router))).await;
    let answer = get(addr, &contract("foo", laptop)).await;
    assert!(answer.body.starts_with("laptop"), "{answer:?}");
    assert_eq!(answer.field("x-devroute-routed"), format!("foo={laptop}"));
    assert_eq!(answer.field("echo-x-devroute-matched"), "foo");
    let via: Vec<_> = answer.headers.get_all("echo-via").iter().collect();
    assert_eq!(via, ["1.1 devroute", "1.1 devroute"]);

    let addr = serve(echo("baseline").layer(DevRouteLayer::new("foo").via(strict_router))).await;
    let answer = get(addr, &contract("foo", laptop)).await;
    assert_eq!(answer.status, 403, "{answer:?}");
    assert_eq!(
        answer.field("x-devroute-routed"),
        "foo=none; reason=loopback"
    );
}

#[tokio::test]
async fn rule_19_what_is_no_router_is_not_said_to_be_the_target() {
    let laptop = serve(echo("laptop")).await;
    let somebody = serve(echo("somebody")).await;
    let addr = serve(echo("baseline").layer(DevRouteLayer::new("foo").via(somebody))).await;
    let answer = get(addr, &contract("foo", laptop)).await;
    assert!(answer.body.starts_with("somebody"), "{answer:?}");
    assert_eq!(
        answer.field("x-devroute-routed"),
        "foo=none; reason=router_unreachable"
    );
}

#[tokio::test]
async fn rule_19_what_a_router_says_is_what_became_of_it() {
    let laptop = serve(echo("laptop")).await;
    let never = Upstream::new(HttpTransport::new(), crate::support::nobody().await);
    let router = DevRouteLayer::router().policy(policy());
    let router = serve_hyper(router.layer(never.clone())).await;
    let strict_router = serve_hyper(DevRouteLayer::router().layer(never)).await;
    let somebody = serve(echo("somebody")).await;
    for (router, kind, cause) in [
        (router, OutcomeKind::Rerouted, None),
        (strict_router, OutcomeKind::Failed, Some("router")),
        (somebody, OutcomeKind::Failed, Some("router_unreachable")),
    ] {
        let request = HttpRequest::get("/")
            .header("host", "foo")
            .header("x-devroute", contract("foo", laptop))
            .body(Body::empty())
            .unwrap();
        let layer = DevRouteLayer::new("foo").via(router);
        let answer = layer
            .layer(echo("baseline"))
            .oneshot(request)
            .await
            .unwrap();
        let outcome = answer.extensions().get::<Outcome>().unwrap();
        assert_eq!((outcome.kind(), outcome.cause()), (kind, cause));
    }
}

#[tokio::test]
async fn rule_12_where_the_router_is_is_said_unless_addresses_are_not() {
    let laptop = nobody().await;
    let router = nobody().await;
    for (reveals, through) in [
        (true, format!("through the router at {router}")),
        (false, "through a router".to_owned()),
    ] {
        let layer = DevRouteLayer::new("foo")
            .via(router)
            .reveal_addresses(reveals);
        let answer = get(
            serve(echo("baseline").layer(layer)).await,
            &contract("foo", laptop),
        )
        .await;
        assert_eq!(answer.status, 502, "{answer:?}");
        assert!(
            answer.problem()["detail"]
                .as_str()
                .unwrap()
                .contains(&through),
            "{answer:?}"
        );
        assert_eq!(answer.body.contains(&router.to_string()), reveals);
    }
}

/// Where a process runs in Kubernetes is known by a variable, so this runs itself in one.
#[tokio::test]
async fn rule_05_a_layer_without_a_policy_knows_that_it_is_in_kubernetes() {
    const HOST: &str = "KUBERNETES_SERVICE_HOST";
    let Ok(api_server) = std::env::var(HOST) else {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .arg("inbound::rule_05_a_layer_without_a_policy_knows_that_it_is_in_kubernetes")
            .env(HOST, "10.96.0.1")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        assert!(
            String::from_utf8_lossy(&output.stdout).contains("1 passed"),
            "{output:?}"
        );
        return;
    };
    let addr = serve(echo("baseline").layer(DevRouteLayer::new("foo"))).await;
    for (target, reason) in [
        (format!("{api_server}:443"), "kubernetes_api"),
        ("10.1.2.3:10250".to_owned(), "kubernetes_port"),
    ] {
        let answer = get(addr, &contract("foo", target)).await;
        assert_eq!(answer.status, 403, "{answer:?}");
        let mark = format!("foo=none; reason={reason}");
        assert_eq!(answer.field("x-devroute-routed"), mark);
    }
}

#[tokio::test]
#[should_panic(expected = "service name")]
async fn a_name_that_is_none_panics_when_the_layer_is_made() {
    let _ = DevRouteLayer::new("not a name");
}

#[tokio::test]
async fn rule_03_a_name_is_resolved_and_each_address_judged() {
    let localhost = tokio::net::lookup_host(("localhost", 0))
        .await
        .unwrap()
        .next()
        .unwrap();
    let listener = tokio::net::TcpListener::bind(localhost).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let app = echo("laptop");
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    let sent = contract("foo", format!("localhost:{port}"));
    let suffix = "localhost".parse::<devroute_core::HostSuffix>().unwrap();

    let refused = |answer: crate::support::Answer| {
        assert_eq!(answer.status, 403, "{answer:?}");
        answer.problem()["cause"].as_str().unwrap().to_owned()
    };
    // A name needs its suffix to be allowed, and then each of its addresses.
    let addr = serve(echo("baseline").layer(layer())).await;
    assert_eq!(refused(get(addr, &sent).await), "host_name");
    let strict = devroute_core::TargetPolicy::default().allow_suffix(suffix.clone());
    let addr = serve(echo("baseline").layer(layer().policy(strict))).await;
    assert_eq!(refused(get(addr, &sent).await), "loopback");

    let addr = serve(echo("baseline").layer(layer().policy(policy().allow_suffix(suffix)))).await;
    let answer = get(addr, &sent).await;
    assert!(answer.body.starts_with("laptop"), "{answer:?}");
    assert_eq!(
        answer.field("x-devroute-routed"),
        format!("foo=localhost:{port}")
    );
}

#[tokio::test]
async fn from_env_is_off_where_nothing_is_set_and_opens_no_connection() {
    assert!(
        std::env::var_os("DEVROUTE").is_none(),
        "this test is about the variable not being set"
    );
    let laptop = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let sent = contract("foo", laptop.local_addr().unwrap());
    let off = DevRouteLayer::from_env("foo").policy(policy());
    let addr = serve(echo("baseline").layer(off)).await;
    let answer = get(addr, &sent).await;
    assert!(answer.body.starts_with("baseline"), "{answer:?}");
    assert_eq!(answer.field("echo-x-devroute"), sent, "nothing is changed");
    assert!(futures_util::FutureExt::now_or_never(laptop.accept()).is_none());
}

/// What is logged while `work` runs on this thread.
async fn logged(work: impl Future<Output = ()>) -> String {
    #[derive(Clone, Default)]
    struct Log(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);
    impl std::io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let guard = tracing::subscriber::set_default(subscriber);
    work.await;
    drop(guard);
    let text = log.0.lock().unwrap().clone();
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn off_logs_one_line_about_the_contracts_it_sees() {
    let baseline = tower::service_fn(|_: HttpRequest<String>| {
        std::future::ready(Ok::<_, std::convert::Infallible>(http::Response::new(
            String::new(),
        )))
    });
    let service = layer().mode(Mode::Off).layer(baseline);
    let ask = |field: &'static str| {
        let request = HttpRequest::get("/").header(field, r#"{"foo":"10.0.0.1:1"}"#);
        service
            .clone()
            .oneshot(request.body(String::new()).unwrap())
    };
    let log = logged(async {
        ask("x-other").await.unwrap();
    });
    assert_eq!(log.await, "");
    let log = logged(async {
        for _ in 0..100 {
            ask("x-devroute").await.unwrap();
        }
    });
    let log = log.await;
    // Once a minute; a minute may end while the loop runs.
    assert!((1..=2).contains(&log.lines().count()), "{log}");
    assert!(log.contains("DEVROUTE is off here"), "{log}");
}

#[tokio::test]
async fn carry_logs_one_line_about_what_is_no_contract() {
    let service = layer().mode(Mode::Carry).layer(echo("baseline"));
    let ask = |contract: &'static str| {
        let request = HttpRequest::get("/").header("x-devroute", contract);
        service
            .clone()
            .oneshot(request.body(Body::empty()).unwrap())
    };
    let log = logged(async {
        ask("{}").await.unwrap();
    });
    assert_eq!(log.await, "");
    let log = logged(async {
        for _ in 0..100 {
            ask("{").await.unwrap();
        }
    });
    let log = log.await;
    // Once a minute; a minute may end while the loop runs.
    assert!((1..=2).contains(&log.lines().count()), "{log}");
    assert!(log.contains("malformed contract at byte 1"), "{log}");
}

#[tokio::test]
async fn who_asks_is_told_of_callers_that_do_not_wait_for_a_target() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = silent.local_addr().unwrap();
    let told = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let layer = layer().on_failure(OnFailure::Fallback).on_abandoned({
        let told = std::sync::Arc::clone(&told);
        move |outcome: Outcome| told.lock().unwrap().push(outcome)
    });
    let arrived = std::sync::Arc::new(tokio::sync::Notify::new());
    let baseline = tower::service_fn({
        let arrived = std::sync::Arc::clone(&arrived);
        move |request: HttpRequest<String>| {
            let arrived = std::sync::Arc::clone(&arrived);
            async move {
                if request.uri().path() == "/never" {
                    arrived.notify_one();
                    std::future::pending::<()>().await;
                }
                Ok::<_, std::convert::Infallible>(http::Response::new(String::new()))
            }
        }
    });
    let service = layer.layer(baseline);
    let ask = |path: &str, contract: String| {
        let request = HttpRequest::get(path).header("x-devroute", contract);
        service
            .clone()
            .oneshot(request.body(String::new()).unwrap())
    };
    let down = contract("foo", nobody().await);
    // Answered, or not ours: nothing is told.
    ask("/", down.clone()).await.unwrap();
    ask("/", "{".into()).await.unwrap();
    let other = contract("bar", target);
    assert!(futures_util::FutureExt::now_or_never(ask("/never", other)).is_none());
    arrived.notified().await;
    assert_eq!(told.lock().unwrap().len(), 0);

    // The target has the request, and the caller goes.
    let mut waiting = Box::pin(ask("/", contract("foo", target)));
    tokio::select! {
        _ = &mut waiting => panic!("nobody answers"),
        accepted = silent.accept() => drop(accepted.unwrap()),
    }
    drop(waiting);
    // The baseline has it instead.
    let mut waiting = Box::pin(ask("/never", down));
    tokio::select! {
        _ = &mut waiting => panic!("nobody answers"),
        () = arrived.notified() => {}
    }
    drop(waiting);
    let told = std::mem::take(&mut *told.lock().unwrap());
    assert_eq!(told.len(), 2);
    for outcome in told {
        assert_eq!(outcome.kind(), OutcomeKind::Abandoned);
        assert_eq!(outcome.cause(), Some("client_gone"));
        assert_eq!(outcome.service().unwrap().as_str(), "foo");
        assert!(outcome.contract().is_some());
    }
}
