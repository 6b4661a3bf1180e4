//! Invariant 2 under load: thousands of requests at once, and none sees another's contract.
//!
//! Services `a` and `b`, each with both layers, ask `stock`, which answers with the contract that
//! reached it; `a` asks `b` as well. Nothing but the head of a request goes from one to the next: every
//! request is served on a task of its own, as by a server, so that no scope is inherited.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use axum::body::{Body, Bytes};
use devroute_core::carrier;
use devroute_tower::{
    DevRouteClientLayer, DevRouteLayer,
    context::{self, JoinSetExt as _},
};
use futures_util::{
    future::{Either, join_all, select},
    stream,
};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Empty};
use tokio::task::{JoinSet, yield_now};
use tower::{Layer as _, Service, ServiceExt as _, service_fn};

use crate::outbound_support::{assert_carries, assert_carries_nothing, contract, serve, text};

const REQUESTS: u16 = 2000;
/// How many frames the body of `a` has; each makes a call.
const FRAMES: u16 = 3;

/// What a service says that got no contract.
const NONE: &str = "none";

/// The contract that request `number` carries; every fourth has none, among those that have.
fn expected(number: u16) -> String {
    if number % 4 == 0 {
        NONE.to_owned()
    } else {
        text(number)
    }
}

/// Request `number`, with its contract in the field or in the baggage alone.
fn incoming(number: u16) -> Request<Body> {
    let mut request = Request::get(format!("http://a/{number}"));
    let headers = request.headers_mut().unwrap();
    if number % 4 != 0 {
        carrier::write(headers, &contract(number));
        if number % 3 == 0 {
            carrier::header::remove(headers);
        }
    }
    request.body(Body::empty()).unwrap()
}

/// Serves a request as a server on another machine would: of the caller nothing but the head is left.
async fn over_the_wire<S>(service: S, request: Request<Body>) -> Response<Body>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
        + Send
        + 'static,
{
    let mut received = Request::get(request.uri()).body(Body::empty()).unwrap();
    *received.headers_mut() = request.headers().clone();
    let answer = tokio::spawn(service.oneshot(received)).await;
    answer.unwrap().unwrap_or_else(|never| match never {})
}

/// Reads a body on a task of its own, as a server's connection does.
async fn read(body: Body) -> String {
    let body = tokio::spawn(body.collect()).await.unwrap().unwrap();
    String::from_utf8(body.to_bytes().into()).unwrap()
}

/// Makes a call through the client layer, to `stock`.
async fn ask_stock() -> String {
    let stock = service_fn(|request: Request<Body>| async move {
        yield_now().await;
        Ok::<_, Infallible>(Response::new(Body::from(carried(request.headers()))))
    });
    ask("http://stock/", stock).await
}

async fn ask<S>(uri: &str, service: S) -> String
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + 'static,
{
    let wire = service_fn(move |request| {
        let answer = over_the_wire(service.clone(), request);
        async { Ok::<_, Infallible>(answer.await) }
    });
    let client = DevRouteClientLayer::new().layer(wire);
    let request = Request::get(uri).body(Body::empty()).unwrap();
    let response = client.oneshot(request).await;
    let body = response.unwrap_or_else(|never| match never {}).into_body();
    String::from_utf8(body.collect().await.unwrap().to_bytes().into()).unwrap()
}

/// The contract of a request, which both carriers have to agree about.
fn carried(headers: &HeaderMap) -> String {
    let member = carrier::baggage::read(headers).unwrap();
    match headers.get(carrier::CONTRACT) {
        None => {
            assert_eq!(member, None, "{headers:?}");
            NONE.to_owned()
        }
        Some(field) => {
            let field = field.to_str().unwrap().to_owned();
            assert_eq!(member.unwrap(), field.parse().unwrap());
            field
        }
    }
}

/// One request at `a`, as its handler sees it.
#[derive(Clone)]
struct Handler {
    number: u16,
    calls: Arc<AtomicUsize>,
}

impl Handler {
    async fn check(self) {
        for _ in 0..self.number % 3 {
            yield_now().await;
        }
        assert_eq!(ask_stock().await, expected(self.number));
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    async fn check_forever(self) {
        loop {
            self.clone().check().await;
        }
    }

    /// Everything that a handler may do between its request and the ones it makes.
    async fn handle(self) -> Body {
        let check = || self.clone().check();

        check().await;
        join_all((0..3).map(|_| check())).await;

        // The loser of a race is dropped half-way, be it a check or not.
        match select(Box::pin(check()), Box::pin(yield_now())).await {
            Either::Left(_) => {}
            Either::Right((_, abandoned)) => drop(abandoned),
        }
        tokio::select! {
            () = check() => {}
            () = std::future::pending() => {}
        }
        let cut = tokio::time::timeout(Duration::ZERO, self.clone().check_forever()).await;
        assert!(cut.is_err());
        check().await;

        context::spawn(check()).await.unwrap();
        assert_eq!(tokio::spawn(ask_stock()).await.unwrap(), NONE);
        let aborted = context::spawn(self.clone().check_forever());
        yield_now().await;
        aborted.abort();
        assert!(aborted.await.unwrap_err().is_cancelled());

        let mut set = JoinSet::new();
        set.spawn_in_current_contract(check());
        set.spawn_in_current_contract(check());
        set.join_all().await;

        // A scope inside the scope, and out again.
        let other = u16::MAX - self.number;
        let inner = context::scope(contract(other), ask_stock()).await;
        assert_eq!(inner, text(other));
        check().await;

        // The next service has a scope of its own, in which it asks in turn.
        assert_eq!(ask("http://b/", b()).await, expected(self.number));
        self.late()
    }

    /// A stream that makes its calls when the handler is long gone.
    fn late(self) -> Body {
        let frames = stream::unfold(0, move |made| {
            let calls = self.calls.clone();
            async move {
                if made == FRAMES {
                    return None;
                }
                yield_now().await;
                let frame = ask_stock().await;
                calls.fetch_add(1, Ordering::Relaxed);
                Some((Ok::<_, Infallible>(Bytes::from(frame)), made + 1))
            }
        });
        Body::from_stream(frames)
    }
}

/// The service that is called from outside.
fn a(
    calls: &Arc<AtomicUsize>,
) -> impl Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
+ Clone
+ Send
+ 'static {
    let calls = calls.clone();
    let handler = service_fn(move |request: Request<Body>| {
        let number = request.uri().path().trim_start_matches('/');
        let handler = Handler {
            number: number.parse().unwrap(),
            calls: calls.clone(),
        };
        async { Ok::<_, Infallible>(Response::new(handler.handle().await)) }
    });
    DevRouteLayer::new("a")
        .layer(handler)
        .map_response(|response| response.map(Body::new))
}

/// The service behind `a`.
fn b() -> impl Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
+ Clone
+ Send
+ 'static {
    let handler = service_fn(|_: Request<Body>| async {
        Ok::<_, Infallible>(Response::new(Body::from(ask_stock().await)))
    });
    DevRouteLayer::new("b")
        .layer(handler)
        .map_response(|response| response.map(Body::new))
}

/// Polls a future `polls` times at most, and drops it then.
async fn give_up_after<F: Future>(polls: u16, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        future.as_mut().poll(cx).map(Some)
    })
    .await
}

async fn stress() {
    let calls = Arc::new(AtomicUsize::new(0));
    let complete = Arc::new(AtomicUsize::new(0));
    let abandoned = Arc::new(AtomicUsize::new(0));
    let requests = (0..REQUESTS).map(|number| {
        let (complete, abandoned) = (complete.clone(), abandoned.clone());
        let service = a(&calls);
        tokio::spawn(async move {
            if number % 10 == 7 {
                // A client that goes away in the middle, at one place or another.
                let answer = give_up_after(number % 50, service.oneshot(incoming(number)));
                abandoned.fetch_add(answer.await.is_none().into(), Ordering::Relaxed);
                return;
            }
            let response = over_the_wire(service, incoming(number)).await;
            let mut body = response.into_body();
            if number % 10 == 3 {
                // A client that has read enough.
                let frame = body.frame().await.unwrap().unwrap();
                assert_eq!(frame.into_data().unwrap(), expected(number));
                return;
            }
            assert_eq!(read(body).await, expected(number).repeat(FRAMES.into()));
            complete.fetch_add(1, Ordering::Relaxed);
        })
    });
    for request in join_all(requests).await {
        request.unwrap();
    }
    assert_eq!(
        complete.load(Ordering::Relaxed),
        usize::from(REQUESTS) / 10 * 8
    );
    // Seven polls are too few for any of them.
    assert!(abandoned.load(Ordering::Relaxed) >= usize::from(REQUESTS) / 50);
    // What is complete has made all its calls.
    assert!(calls.load(Ordering::Relaxed) >= usize::from(REQUESTS) / 10 * 8 * 14);

    // Nothing is left behind on any thread.
    let idle = (0..100).map(|_| tokio::spawn(async { context::current() }));
    for left in join_all(idle).await {
        assert_eq!(left.unwrap(), None);
    }
}

#[tokio::test]
async fn contracts_never_mix_on_one_thread() {
    stress().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn contracts_never_mix_on_several_threads() {
    stress().await;
}

/// All futures in one task: what separates them is only whose poll it is.
#[tokio::test]
async fn contracts_never_mix_inside_one_task() {
    let requests = (0..REQUESTS).map(|number| async move {
        let work = async {
            for _ in 0..number % 7 {
                yield_now().await;
            }
            ask_stock().await
        };
        let seen = if number % 4 == 0 {
            work.await
        } else {
            context::scope(contract(number), work).await
        };
        assert_eq!(seen, expected(number));
        assert_eq!(context::current(), None);
    });
    join_all(requests).await;
}

/// One pooled client, many connections reused in any order: what the server got is what each
/// request's own contract says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contracts_never_mix_on_pooled_connections() {
    use hyper_util::{client::legacy::Client, rt::TokioExecutor};

    let (server, received) = serve().await;
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let client = DevRouteClientLayer::new().layer(client);
    let requests = (0..400u16).map(|number| {
        let client = client.clone();
        let call = async move {
            let request = Request::get(format!("http://{server}/{number}"))
                .body(Empty::new())
                .unwrap();
            let response = client.oneshot(request).await.unwrap();
            response.into_body().collect().await.unwrap();
        };
        if number % 4 == 0 {
            tokio::spawn(call)
        } else {
            tokio::spawn(context::scope(contract(number), call))
        }
    });
    for request in join_all(requests).await {
        request.unwrap();
    }

    let received = received.take();
    assert_eq!(received.len(), 400);
    for parts in received {
        let number: u16 = parts.uri.path().trim_start_matches('/').parse().unwrap();
        if number % 4 == 0 {
            assert_carries_nothing(&parts.headers);
        } else {
            assert_carries(&parts.headers, number);
        }
    }
}
