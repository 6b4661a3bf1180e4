//! The contract is in scope wherever the inner service works for the request (invariant 2).

use std::{
    convert::Infallible,
    future::{Ready, ready},
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use devroute_tower::context;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tower::{Layer as _, Service, ServiceExt as _, service_fn};

use crate::support::layer;

const OTHERS: &str = r#"{"bar":"10.0.0.1:1"}"#;

fn in_scope() -> String {
    context::current().map_or_else(|| "none".to_owned(), |contract| contract.to_string())
}

fn request(contract: &str) -> Request<String> {
    let request = Request::get("/");
    let request = if contract.is_empty() {
        request
    } else {
        request.header("x-devroute", contract)
    };
    request.body(String::new()).unwrap()
}

/// Makes its call before the future is polled.
#[derive(Clone)]
struct Eager;

impl Service<Request<String>> for Eager {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = Ready<Result<Response<String>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<String>) -> Self::Future {
        ready(Ok(Response::new(in_scope())))
    }
}

/// Each frame says what was in scope when it was made.
struct Lazy(u8);

impl Body for Lazy {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0 += 1;
        match self.0 {
            1 => Poll::Ready(Some(Ok(Frame::data(in_scope().into())))),
            2 => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            3 => Poll::Ready(Some(Ok(Frame::data(in_scope().into())))),
            _ => Poll::Ready(None),
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(40)
    }
}

async fn text<B: Body<Data = Bytes>>(body: B) -> String
where
    B::Error: std::fmt::Debug,
{
    String::from_utf8(body.collect().await.unwrap().to_bytes().into()).unwrap()
}

#[tokio::test]
async fn in_the_call_itself() {
    for (sent, expected) in [(OTHERS, OTHERS), ("", "none")] {
        let response = layer().layer(Eager).oneshot(request(sent)).await.unwrap();
        assert_eq!(text(response.into_body()).await, expected);
    }
    assert_eq!(in_scope(), "none");
}

#[tokio::test]
async fn in_every_poll_of_the_future() {
    let handler = service_fn(|_: Request<String>| async {
        let first = in_scope();
        tokio::task::yield_now().await;
        Ok::<_, Infallible>(Response::new(format!("{first}{}", in_scope())))
    });
    let response = layer()
        .layer(handler)
        .oneshot(request(OTHERS))
        .await
        .unwrap();
    assert_eq!(
        text(response.into_body()).await,
        format!("{OTHERS}{OTHERS}")
    );
}

#[tokio::test]
async fn in_every_poll_of_the_body_on_whatever_task() {
    let handler =
        service_fn(|_: Request<String>| ready(Ok::<_, Infallible>(Response::new(Lazy(0)))));
    for (sent, expected) in [
        (OTHERS, format!("{OTHERS}{OTHERS}")),
        ("", "nonenone".into()),
    ] {
        let response = layer().layer(handler).oneshot(request(sent)).await.unwrap();
        let body = response.into_body();
        assert_eq!(
            body.size_hint().exact(),
            Some(40),
            "the hint passes through"
        );
        assert_eq!(tokio::spawn(text(body)).await.unwrap(), expected);
    }
}
