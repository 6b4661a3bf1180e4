//! A request that is sent again.

use std::sync::{Arc, Mutex};

use devroute_inspector::{Caller, InspectBody, Limits};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::json;
use tower::{Layer as _, ServiceExt as _, service_fn};

use crate::support::{Desk, Frames};

/// What the application has got, in words, and with its trailers.
type Got = Arc<Mutex<Vec<(String, HeaderMap, Option<HeaderMap>)>>>;

/// Sends a request through the layer to an application that counts.
async fn pass(desk: &Desk, got: &Got, request: Request<Frames>) {
    let got = Arc::clone(got);
    let service = desk.inspector.layer("foo").layer(service_fn(
        move |request: Request<InspectBody<Frames>>| {
            let got = Arc::clone(&got);
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await?;
                let trailers = body.trailers().cloned();
                let text = String::from_utf8(body.to_bytes().to_vec()).unwrap();
                let line = format!("{} {} {text}", parts.method, parts.uri);
                let mut got = got.lock().unwrap();
                got.push((line, parts.headers, trailers));
                let says = if got.len() == 1 { "first" } else { "again" };
                Ok::<_, &'static str>(Response::new(Frames::of(&[says])))
            }
        },
    ));
    if let Ok(response) = service.oneshot(request).await {
        let _ = response.into_body().collect().await;
    }
}

#[tokio::test]
async fn the_application_gets_the_same_once_more() {
    let (desk, got) = (Desk::open().await, Got::default());
    let request = Request::post("/cart?x=%20")
        .extension(Caller::new("bar"))
        .header("authorization", "Bearer hunter2")
        .header("x-twice", "a")
        .header("x-twice", "b")
        .header("content-length", "3")
        .body(Frames::of(&["ab", "c"]).length(3).trailer("x-sum", "7"))
        .unwrap();
    pass(&desk, &got, request).await;
    desk.exchange(1).await;
    let (status, answer) = desk.ask("POST", "/api/exchanges/1/replay").await;
    assert_eq!((status, &answer["id"]), (StatusCode::ACCEPTED, &json!(2)));
    let exchange = desk.exchange(2).await;
    assert_eq!(exchange["summary"]["replay_of"], 1);
    assert!(exchange["summary"]["caller"].is_null(), "it was not they");
    assert_eq!(exchange["response"]["body"]["text"], "again");

    let got = got.lock().unwrap().clone();
    assert_eq!(got.len(), 2);
    assert_eq!(got[0].0, "POST /cart?x=%20 abc");
    assert_eq!(
        got[0], got[1],
        "line, body, fields and trailers, masked ones as well"
    );
}

#[tokio::test]
async fn a_replay_can_be_replayed() {
    let (desk, got) = (Desk::open().await, Got::default());
    pass(&desk, &got, Request::new(Frames::of(&["x"]))).await;
    desk.exchange(1).await;
    desk.ask("POST", "/api/exchanges/1/replay").await;
    desk.exchange(2).await;
    let (status, _) = desk.ask("POST", "/api/exchanges/2/replay").await;
    assert_eq!(status, StatusCode::ACCEPTED);
    assert_eq!(desk.exchange(3).await["summary"]["replay_of"], 2);
    assert_eq!(got.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn a_body_that_was_kept_in_part_is_sent_only_where_that_is_wanted() {
    let desk = Desk::open_with(Limits {
        body: 4,
        ..Limits::default()
    })
    .await;
    let got = Got::default();
    let request = Request::post("/").header("content-length", "6");
    pass(&desk, &got, request.body(Frames::of(&["abcdef"])).unwrap()).await;
    desk.exchange(1).await;
    let (status, problem) = desk.ask("POST", "/api/exchanges/1/replay").await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert_eq!(
        problem["detail"],
        "Of the body of 6 bytes only the first 4 were kept."
    );
    let (status, _) = desk
        .ask("POST", "/api/exchanges/1/replay?partial=true")
        .await;
    assert_eq!(status, StatusCode::ACCEPTED);
    desk.exchange(2).await;
    let got = got.lock().unwrap().clone();
    assert_eq!(got[1].0, "POST / abcd");
    assert_eq!(got[1].1["content-length"], "4");
}

#[tokio::test]
async fn what_asks_for_another_protocol_is_not_sent_again() {
    let (desk, got) = (Desk::open().await, Got::default());
    let request = Request::get("/socket").header("upgrade", "websocket");
    pass(&desk, &got, request.body(Frames::default()).unwrap()).await;
    let exchange = desk.exchange(1).await;
    assert_eq!(exchange["summary"]["replayable"], false);
    let (status, problem) = desk.ask("POST", "/api/exchanges/1/replay").await;
    assert_eq!(status, StatusCode::CONFLICT);
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("another protocol"), "{detail}");
    assert_eq!(got.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_replay_that_fails_says_why() {
    let (desk, got) = (Desk::open().await, Got::default());
    pass(
        &desk,
        &got,
        Request::new(Frames::of(&["x"]).fails("client reset")),
    )
    .await;
    let first = desk.exchange(1).await;
    assert_eq!(first["summary"]["state"], "failed");
    assert_eq!(first["summary"]["error"], "client reset");
    // What came of its body is a whole one this time.
    desk.ask("POST", "/api/exchanges/1/replay").await;
    assert_eq!(desk.exchange(2).await["summary"]["state"], "complete");
    assert_eq!(got.lock().unwrap()[0].0, "GET / x");
}
