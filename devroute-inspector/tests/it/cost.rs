//! What it costs while no page is open: nothing.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll, Waker};

use devroute_inspector::{InspectBody, Limits};
use http::{Request, Response};
use http_body::Body as _;
use tower::{Layer as _, Service, ServiceExt as _};

use crate::support::{Desk, Frames};

/// Answers with the body that came.
#[derive(Clone, Debug)]
struct Echo;

impl Service<Request<InspectBody<Frames>>> for Echo {
    type Response = Response<InspectBody<Frames>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<InspectBody<Frames>>) -> Self::Future {
        ready(Ok(Response::new(request.into_body())))
    }
}

/// The allocations of one request, from the call to the last frame.
fn allocations(
    service: impl Service<
        Request<Frames>,
        Response = Response<InspectBody<InspectBody<Frames>>>,
        Error = Infallible,
    >,
) -> u64 {
    let mut request = Request::new(Frames::of(&["a", "b"]));
    let value = http::HeaderValue::from_static("Bearer secret");
    request.headers_mut().insert("authorization", value);
    let mut answer = Box::pin(service.oneshot(request));
    let mut cx = Context::from_waker(Waker::noop());
    let mut frames = 0;
    let counted = allocation_counter::measure(|| {
        let Poll::Ready(Ok(response)) = answer.as_mut().poll(&mut cx) else {
            panic!("it is ready")
        };
        let mut body = std::pin::pin!(response.into_body());
        while let Poll::Ready(Some(Ok(_))) = body.as_mut().poll_frame(&mut cx) {
            frames += 1;
        }
    });
    assert_eq!(frames, 2);
    counted.count_total
}

/// A service that takes what comes is given what comes.
#[tokio::test]
async fn a_body_that_nobody_looks_at_is_not_even_wrapped() {
    let desk = Desk::closed(Limits::default()).await;
    let layer = desk
        .inspector
        .layer("foo")
        .bodies(|_: InspectBody<Frames>| -> Frames { unreachable!("nobody looks") });
    let service = layer.layer(tower::service_fn(async |request: Request<Frames>| {
        Ok::<_, Infallible>(Response::new(request.into_body()))
    }));
    let response = service
        .oneshot(Request::new(Frames::of(&["a"])))
        .await
        .unwrap();
    let body = http_body_util::BodyExt::collect(response.into_body())
        .await
        .unwrap();
    assert_eq!(body.to_bytes(), "a");
}

#[tokio::test]
async fn nothing_is_allocated_while_no_page_is_open() {
    let desk = Desk::closed(Limits::default()).await;
    let service = desk.inspector.layer("foo").layer(Echo);
    assert_eq!(allocations(service.clone()), 0);

    // The same, once a page is: this is what the count would have shown.
    let mut events = desk.events().await;
    let _ = http_body_util::BodyExt::frame(&mut events).await.unwrap();
    assert!(allocations(service.clone()) > 0);
    assert_eq!(
        desk.search("").await,
        [1],
        "and nothing was kept of the first"
    );

    drop(events);
    while desk.inspector.is_watched() {
        tokio::task::yield_now().await;
    }
    assert_eq!(allocations(service), 0, "and when it is closed again");
}
