//! Invariant 1, outbound: without a contract the layer allocates nothing.
//!
//! A binary of its own, since the counting allocator is the whole process's.

#![allow(
    clippy::unwrap_used,
    reason = "in tests, helpers included, a panic is the message; clippy.toml covers only #[test]"
)]

use std::{convert::Infallible, future::Ready};

use devroute_tower::{DevRouteClientLayer, context};
use http::{HeaderMap, Request, Response};
use tower::{Layer as _, Service};

#[derive(Clone)]
struct Bare;

impl Service<Request<()>> for Bare {
    type Response = Response<HeaderMap>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<()>) -> Self::Future {
        let (parts, ()) = request.into_parts();
        std::future::ready(Ok(Response::new(parts.headers)))
    }
}

fn allocations(uri: &str, fields: &[(&'static str, &'static str)], in_contract: bool) -> u64 {
    let mut service = DevRouteClientLayer::new().layer(Bare);
    let mut call = || {
        let mut request = Request::get(uri).body(()).unwrap();
        request.headers_mut().reserve(16);
        for (name, value) in fields {
            request.headers_mut().append(*name, value.parse().unwrap());
        }
        let mut response = None;
        let counted = allocation_counter::measure(|| {
            response = Some(service.call(request));
        });
        drop(response);
        counted.count_total
    };
    if in_contract {
        let contract = r#"{"foo":"10.0.0.1:80"}"#.parse().unwrap();
        return context::sync_scope(contract, call);
    }
    // The first use of a thread-local may allocate; that is not per request.
    call();
    call()
}

#[test]
fn without_a_contract_nothing_is_allocated() {
    let cases: [&[(&str, &str)]; 3] = [
        &[],
        &[("accept", "*/*"), ("x-request-id", "1")],
        &[("baggage", "a=1,b=2;p=q"), ("baggage", "devroutes=3")],
    ];
    for fields in cases {
        for uri in ["http://checkout/", "http://example.com/", "/"] {
            assert_eq!(allocations(uri, fields, false), 0, "{uri} {fields:?}");
        }
    }
}

/// Shows that the count counts.
#[test]
fn with_a_contract_something_is_allocated() {
    assert_ne!(allocations("http://checkout/", &[], true), 0);
}
