//! A service that panics under the layer takes nothing of its request with it: not into the message, nor into the scope
//! of what the thread does next.

use std::{
    convert::Infallible,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use devroute_tower::{DevRouteClientLayer, context};
use http::{Request, Response};
use http_body::{Body, Frame};
use tower::{Layer as _, Service, service_fn};

use crate::support::layer;

const CONTRACT: &str = r#"{"bar":"10.0.0.1:1","$later":"sEcReT"}"#;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Call,
    Future,
    Body,
}

/// Panics where it is told to, with the contract in scope.
#[derive(Clone, Copy, Debug)]
struct Panicking(Place);

fn provoked(place: Place) -> ! {
    assert!(context::current().is_some(), "a contract is in scope");
    panic!("{place:?} has failed");
}

impl Service<Request<String>> for Panicking {
    type Response = Response<Self>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Self>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<String>) -> Self::Future {
        let place = self.0;
        if place == Place::Call {
            provoked(place);
        }
        Box::pin(async move {
            if place == Place::Future {
                provoked(place);
            }
            Ok(Response::new(Self(place)))
        })
    }
}

impl Body for Panicking {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        provoked(self.0)
    }
}

fn request() -> Request<String> {
    Request::post("/?sEcReT")
        .header("x-devroute", CONTRACT)
        .header("authorization", "sEcReT")
        .header("cookie", "sEcReT")
        .header("baggage", "user=sEcReT")
        .body("sEcReT".to_owned())
        .unwrap()
}

#[test]
fn a_panic_ends_the_scope_and_says_what_it_has_said() {
    // As whoever prints it sees it: with where it was.
    let messages = Arc::<Mutex<Vec<String>>>::default();
    let (seen, before) = (Arc::clone(&messages), std::panic::take_hook());
    let this = std::thread::current().id();
    std::panic::set_hook(Box::new(move |panic| {
        if std::thread::current().id() == this {
            seen.lock().unwrap().push(panic.to_string());
        } else {
            before(panic);
        }
    }));

    let mut cx = Context::from_waker(Waker::noop());
    for place in [Place::Call, Place::Future, Place::Body] {
        let mut service = layer().layer(Panicking(place));
        let mut shown = format!("{service:?}");
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let mut answer = pin!(service.call(request()));
            shown += &format!("{answer:?}");
            let Poll::Ready(Ok(answer)) = answer.as_mut().poll(&mut cx) else {
                panic!("it is ready at once");
            };
            shown += &format!("{answer:?}");
            let _ = pin!(answer.into_body()).poll_frame(&mut cx);
        }));
        assert!(panicked.is_err());
        assert_eq!(context::current(), None, "{place:?}");
        let message = messages.lock().unwrap().pop().unwrap();
        assert!(
            message.ends_with(&format!("{place:?} has failed")),
            "{message}"
        );
        assert!(!message.contains("sEcReT"), "{message}");
        assert!(!shown.contains("sEcReT"), "{shown}");

        // The next one on this thread has no contract, and gets none.
        let outbound = service_fn(async |request: Request<String>| {
            Ok::<_, Infallible>(Response::new(format!("{:?}", request.headers())))
        });
        let mut client = DevRouteClientLayer::new().layer(outbound);
        let next = Request::get("http://bar/").body(String::new()).unwrap();
        let Poll::Ready(Ok(next)) = pin!(client.call(next)).poll(&mut cx) else {
            panic!("it is ready at once");
        };
        assert_eq!(next.into_body(), "{}");
    }
    let _ = std::panic::take_hook();
}
