//! What the page shows of what has passed.

use std::convert::Infallible;
use std::future::pending;
use std::sync::{Arc, Mutex};

use devroute_inspector::{Caller, InspectBody, Limits};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::json;
use tower::{Layer as _, Service as _, ServiceExt as _, service_fn};

use crate::support::{Desk, Frames, answering};

/// A request through the layer, whose answer is `body`, and is read.
async fn pass(desk: &Desk, request: Request<Frames>, body: Frames) {
    let body = Arc::new(Mutex::new(Some(body)));
    let service = desk.inspector.layer("foo").layer(service_fn(
        move |request: Request<InspectBody<Frames>>| {
            let body = body.lock().unwrap().take().unwrap_or_default();
            answering(request, body)
        },
    ));
    let response = service.oneshot(request).await.unwrap();
    let _ = response.into_body().collect().await;
}

#[tokio::test]
async fn an_exchange_is_shown_with_its_fields_bodies_and_trailers() {
    let desk = Desk::open().await;
    let request = Request::post("http://foo.qa/cart?x=1")
        .extension(Caller::new("bar"))
        .header("content-type", "application/json")
        .header("authorization", "Bearer hunter2")
        .body(Frames::of(&["{\"item\"", ":7}"]))
        .unwrap();
    let answer = Frames::of(&["hello"]).trailer("grpc-status", "5");
    pass(&desk, request, answer).await;

    let exchange = desk.exchange(1).await;
    let summary = &exchange["summary"];
    for (member, expected) in [
        ("service", json!("foo")),
        ("caller", json!("bar")),
        ("method", json!("POST")),
        ("path", json!("/cart?x=1")),
        ("status", json!(200)),
        ("state", json!("complete")),
        ("grpc_status", json!("5")),
        ("request_bytes", json!(10)),
        ("response_bytes", json!(5)),
        ("replay_of", json!(null)),
        ("replayable", json!(true)),
    ] {
        assert_eq!(summary[member], expected, "{member}");
    }
    assert!(summary["head_ms"].as_f64().unwrap() <= summary["end_ms"].as_f64().unwrap());
    let body = &exchange["request"]["body"];
    assert_eq!(
        (&body["kind"], &body["text"]),
        (&json!("json"), &json!("{\n  \"item\": 7\n}"))
    );
    let trailers = &exchange["response"]["body"]["trailers"];
    assert_eq!(trailers[0]["name"], "grpc-status");

    // Masked on this side already: the page has to ask.
    assert!(!exchange.to_string().contains("hunter2"));
    let (_, revealed) = desk.ask("GET", "/api/exchanges/1?reveal=true").await;
    assert!(revealed.to_string().contains("Bearer hunter2"));
}

#[tokio::test]
async fn a_search_looks_into_everything_but_secrets() {
    let desk = Desk::open().await;
    for (path, cookie, says) in [("/one", "session=hunter2", "needle"), ("/two", "", "hay")] {
        let request = Request::get(path)
            .extension(Caller::new(if path == "/one" { "bar" } else { "baz" }))
            .header("cookie", cookie)
            .header("x-team", "Checkout")
            .body(Frames::default())
            .unwrap();
        pass(&desk, request, Frames::of(&[says])).await;
    }
    desk.exchange(2).await;
    assert_eq!(desk.search("NEEDLE").await, [1], "in a body, of any case");
    assert_eq!(desk.search("/two").await, [2]);
    assert_eq!(desk.search("bar").await, [1], "by who asked");
    assert_eq!(desk.search("checkout").await, [1, 2], "in a field");
    assert_eq!(desk.search("hunter2").await, [0; 0]);
    assert_eq!(
        desk.search("cookie").await,
        [1, 2],
        "that there is one is no secret"
    );
}

#[tokio::test]
async fn what_is_too_long_is_kept_in_part_and_passes_whole() {
    let desk = Desk::open_with(Limits {
        body: 4,
        ..Limits::default()
    })
    .await;
    let request = Request::new(Frames::of(&["abc", "def"]));
    pass(&desk, request, Frames::of(&["12345678"])).await;
    let exchange = desk.exchange(1).await;
    let body = &exchange["request"]["body"];
    assert_eq!(
        (&body["text"], &body["total"], &body["truncated"]),
        (&json!("abcd"), &json!(6), &json!(true))
    );
    assert_eq!(exchange["response"]["body"]["kept"], 4);
    assert_eq!(exchange["summary"]["request_truncated"], true);
}

#[tokio::test]
async fn every_end_has_its_name() {
    let desk = Desk::open().await;
    let foo = desk.inspector.layer("foo");

    // Whoever asks goes away before there is an answer, ...
    let mut waiting = foo.layer(service_fn(async |_: Request<InspectBody<Frames>>| {
        pending::<Result<Response<Frames>, Infallible>>().await
    }));
    drop(
        waiting
            .ready()
            .await
            .unwrap()
            .call(Request::new(Frames::default())),
    );
    assert_eq!(desk.exchange(1).await["summary"]["state"], "abandoned");
    // ... or within it, ...
    let half = foo.layer(service_fn(async |request| {
        answering::<InspectBody<Frames>>(request, Frames::of(&["a", "b"])).await
    }));
    let response = half.oneshot(Request::new(Frames::default())).await.unwrap();
    let mut body = response.into_body();
    body.frame().await.unwrap().unwrap();
    drop(body);
    assert_eq!(desk.exchange(2).await["summary"]["state"], "dropped");
    // ... the application breaks off, ...
    pass(
        &desk,
        Request::new(Frames::default()),
        Frames::of(&["a"]).fails("reset"),
    )
    .await;
    let cut = desk.exchange(3).await;
    assert_eq!(cut["summary"]["state"], "cut");
    assert_eq!(cut["response"]["body"]["progress"]["reason"], "reset");
    // ... or does not answer.
    let failing = foo.layer(service_fn(
        async |_: Request<InspectBody<Frames>>| -> Result<Response<Frames>, &'static str> {
            Err("nothing listens on port 8001")
        },
    ));
    let _ = failing.oneshot(Request::new(Frames::default())).await;
    let failed = desk.exchange(4).await;
    assert_eq!(failed["summary"]["state"], "failed");
    assert_eq!(failed["summary"]["error"], "nothing listens on port 8001");
    assert_eq!(failed["response"], json!(null));
}

#[tokio::test]
async fn a_reader_that_counts_bytes_and_asks_for_no_end_is_no_loss() {
    let desk = Desk::open().await;
    let service = desk
        .inspector
        .layer("foo")
        .layer(service_fn(async |request| {
            answering::<InspectBody<Frames>>(request, Frames::of(&["ab", "c"]).length(3)).await
        }));
    let response = service
        .oneshot(Request::new(Frames::default()))
        .await
        .unwrap();
    let mut body = response.into_body();
    for _ in 0..2 {
        body.frame().await.unwrap().unwrap();
    }
    drop(body);
    assert_eq!(desk.exchange(1).await["summary"]["state"], "complete");
}

#[tokio::test]
async fn the_page_is_told_what_comes_and_what_goes() {
    let desk = Desk::open_with(Limits {
        entries: 1,
        ..Limits::default()
    })
    .await;
    let mut events = desk.events().await;
    let _all = events.frame().await.unwrap();
    for path in ["/one", "/two"] {
        let request = Request::get(path).body(Frames::default()).unwrap();
        pass(&desk, request, Frames::default()).await;
    }
    let mut told = String::new();
    while !(told.contains("event: gone\ndata: 1\n") && told.contains("\"path\":\"/two\"")) {
        let frame = tokio::time::timeout(crate::support::PATIENCE, events.frame());
        let frame = frame.await.expect("it is told").unwrap().unwrap();
        told.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
    }
    assert!(told.contains("event: one\ndata: {"), "{told}");
    let (status, _) = desk.ask("GET", "/api/exchanges/1").await;
    assert_eq!(status, StatusCode::NOT_FOUND);

    assert_eq!(
        desk.ask("POST", "/api/clear").await.0,
        StatusCode::NO_CONTENT
    );
    assert_eq!(desk.search("").await, [0; 0]);
}
