//! What the inbound layer adds to a request, from the call to the end of the answer.
//!
//! Run with `cargo bench -p devroute-benches --bench layer`. Compare with `layer/bare` of the same run:
//! `layer/none` is what everybody pays who does not use devroute, at most 25 ns more.
//!
//! | id | the request |
//! |---|---|
//! | `layer/bare` | without the layer |
//! | `layer/off` | without a contract, the layer is off |
//! | `layer/none` | without a contract |
//! | `layer/baggage` | without a contract, but with somebody else's `baggage` |
//! | `layer/other` | with a contract for another service |
//! | `layer/ours` | with a contract for this service; the transport answers at once |
#![expect(clippy::unwrap_used, reason = "the inputs are constants of this file")]

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::hint::black_box;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, Criterion};
use devroute_benches::contract_of;
use devroute_tower::{DevRouteLayer, Mode, transport};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{Empty, Full};
use tower::{Layer as _, Service, service_fn};

type Body = Empty<Bytes>;

/// So few that the requests stay in the cache: a server has just read the one that it serves.
const BATCH: BatchSize = BatchSize::NumIterations(32);

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    layer(&mut criterion);
    criterion.final_summary();
}

fn layer(c: &mut Criterion) {
    let mut group = c.benchmark_group("layer");
    let none = headers(&[]);
    let baggage = headers(&[("baggage", "user=alice,tenant=blue;ttl=1,run=7".to_owned())]);
    let contract = headers(&[("x-devroute", contract_of(3))]);
    let layered = |service| {
        let transport = service_fn(|_: Request<transport::Body>| answer());
        DevRouteLayer::new(service)
            .transport(transport)
            .layer(service_fn(baseline))
    };

    run(&mut group, "bare", service_fn(baseline), &none);
    let off = DevRouteLayer::new("service-0").mode(Mode::Off);
    run(&mut group, "off", off.layer(service_fn(baseline)), &none);
    run(&mut group, "none", layered("service-0"), &none);
    run(&mut group, "baggage", layered("service-0"), &baggage);
    run(&mut group, "other", layered("somebody-else"), &contract);
    run(&mut group, "ours", layered("service-0"), &contract);
    group.finish();
}

fn baseline(_: Request<Body>) -> Ready<Result<Response<Full<Bytes>>, Infallible>> {
    answer()
}

fn answer() -> Ready<Result<Response<Full<Bytes>>, Infallible>> {
    ready(Ok(Response::new(Full::from("hello"))))
}

fn run<S, B>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    id: &str,
    mut service: S,
    headers: &HeaderMap,
) where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible>,
{
    let request = || {
        let mut request = Request::new(Body::new());
        request.headers_mut().clone_from(headers);
        request
    };
    group.bench_function(id, |b| {
        b.iter_batched(request, |request| serve(&mut service, request), BATCH);
    });
}

/// Does for one request what a server does.
///
/// Never inlined, and the answer is looked at: else the compiler would see that the bare service's is
/// not needed, and not even make it.
#[inline(never)]
fn serve<S, B>(service: &mut S, request: Request<Body>)
where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible>,
{
    let mut cx = Context::from_waker(Waker::noop());
    assert!(service.poll_ready(&mut cx).is_ready());
    let Poll::Ready(Ok(answer)) = pin!(service.call(request)).poll(&mut cx) else {
        unreachable!("nothing here waits");
    };
    black_box(&answer);
}

/// The fields of a request as browsers and services send it, and `more`.
fn headers(more: &[(&'static str, String)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("host", "service-0.default.svc"),
        ("user-agent", "bench/1"),
        ("accept", "*/*"),
        ("accept-encoding", "gzip"),
        ("content-type", "application/json"),
        (
            "traceparent",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    for (name, value) in more {
        headers.insert(*name, HeaderValue::from_str(value).unwrap());
    }
    headers
}
