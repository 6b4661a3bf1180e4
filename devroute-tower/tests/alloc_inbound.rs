//! Invariant 1, inbound: a request without a contract costs no allocation of ours, and one whose
//! contract is for somebody else only what it takes to remember it.
//!
//! A binary of its own, since the counting allocator is the whole process's.

#![allow(
    clippy::unwrap_used,
    reason = "in tests, helpers included, a panic is the message; clippy.toml covers only #[test]"
)]

use std::{
    convert::Infallible,
    future::{Ready, ready},
    pin::{Pin, pin},
    task::{Context, Poll},
};

use bytes::Bytes;
use devroute_tower::{DevRouteLayer, Mode, Outcome};
use http::{Extensions, HeaderValue, Request, Response};
use http_body_util::Full;
use tokio_test::{assert_ready, task};
use tower::{Layer as _, Service};

/// The bare service; it allocates a little, so that equal counts mean something.
#[derive(Clone)]
struct Bare;

impl Service<Request<String>> for Bare {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<String>) -> Self::Future {
        ready(Ok(Response::new(Full::from(request.uri().to_string()))))
    }
}

/// Allocations from the call to the end of the answer's body, and the answer's extensions.
fn measure<S, B>(mut service: S, fields: &[(&'static str, HeaderValue)]) -> (u64, Extensions)
where
    S: Service<Request<String>, Response = Response<B>, Error = Infallible>,
    B: http_body::Body + Unpin,
{
    let mut request = Request::get("/cart").body(String::new()).unwrap();
    for (name, value) in fields {
        request.headers_mut().append(*name, value.clone());
    }
    // The test's own waker allocates.
    let mut poll = task::spawn(());
    let mut extensions = Extensions::new();
    let counted = allocation_counter::measure(|| {
        poll.enter(|cx, _| {
            let future = pin!(service.call(request));
            let answer = assert_ready!(future.poll(cx));
            let (parts, mut body) = answer.unwrap_or_else(|never| match never {}).into_parts();
            while assert_ready!(Pin::new(&mut body).poll_frame(cx)).is_some() {}
            extensions = parts.extensions;
        });
    });
    (counted.count_total, extensions)
}

fn bare(fields: &[(&'static str, HeaderValue)]) -> u64 {
    let (count, _) = measure(Bare, fields);
    assert_ne!(count, 0, "the count counts");
    count
}

fn layered(mode: Mode, fields: &[(&'static str, HeaderValue)]) -> (u64, Extensions) {
    let service = DevRouteLayer::new("foo").mode(mode).layer(Bare);
    // The first use of a thread-local may allocate; that is not per request.
    measure(service.clone(), fields);
    measure(service, fields)
}

/// A value as a server makes it: a slice of the buffer that the head was read into, and so shared.
fn received(text: &str) -> HeaderValue {
    let buffer = Bytes::from(text.to_owned());
    let _shared = buffer.clone();
    HeaderValue::from_maybe_shared(buffer).unwrap()
}

const ALL: [Mode; 3] = [Mode::Off, Mode::Carry, Mode::On];

#[test]
fn without_a_contract_nothing_is_allocated() {
    let fields = [("accept", received("*/*")), ("x-request-id", received("1"))];
    for fields in [&fields[..0], &fields] {
        for mode in ALL {
            assert_eq!(layered(mode, fields).0, bare(fields), "{mode:?} {fields:?}");
        }
    }
}

#[test]
fn rule_09_a_foreign_baggage_costs_nothing() {
    let fields = [
        ("baggage", received("user=alice;ttl=1,run=7")),
        (
            "baggage",
            received("devroutes=3,x-devroute=%7B%7D,broken;;,=,"),
        ),
    ];
    for mode in ALL {
        assert_eq!(layered(mode, &fields).0, bare(&fields), "{mode:?}");
    }
}

#[test]
fn rule_20_other_cookies_cost_nothing_where_ours_is_looked_for() {
    let fields = [("cookie", received("session=1; devrouter=2; theme=dark"))];
    for mode in ALL {
        let service = DevRouteLayer::new("foo").mode(mode).cookie(true);
        let service = service.layer(Bare);
        measure(service.clone(), &fields);
        assert_eq!(measure(service, &fields).0, bare(&fields), "{mode:?}");
    }
}

#[test]
fn off_a_contract_costs_nothing() {
    for target in ["10.0.0.1:80", "1.1.1.1:80", "malformed"] {
        let fields = [("x-devroute", received(&format!(r#"{{"foo":"{target}"}}"#)))];
        assert_eq!(layered(Mode::Off, &fields).0, bare(&fields), "{target}");
    }
}

/// The contract goes into the request's extensions and the outcome into the answer's. Each is one
/// insertion: what that allocates is up to `http`, and less where the server has put something there
/// already. Parsing, deciding, and the scope around future and body allocate nothing.
#[test]
fn rule_06_a_contract_for_somebody_else_costs_what_remembering_it_does() {
    let entries = (0..20).map(|n| format!(r#""service-{n}":"10.0.0.{n}:80""#));
    let entries: Vec<_> = entries.collect();
    for text in [
        r#"{"bar":"10.0.0.1:80","$id":"run-7"}"#.to_owned(),
        format!("{{{}}}", entries.join(",")),
    ] {
        let fields = [("x-devroute", received(&text))];
        for mode in [Mode::Carry, Mode::On] {
            let (count, extensions) = layered(mode, &fields);
            let outcome = extensions.get::<Outcome>().unwrap();
            let contract = outcome.contract().unwrap();
            let remembering = insertion(contract.clone()) + insertion(outcome.clone());
            assert_eq!(count, bare(&fields) + remembering, "{mode:?} {text}");
        }
    }
}

fn insertion<T: Clone + Send + Sync + 'static>(value: T) -> u64 {
    let counted = allocation_counter::measure(|| {
        Extensions::new().insert(value);
    });
    counted.count_total
}
