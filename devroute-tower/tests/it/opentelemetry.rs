//! A service that uses OpenTelemetry already keeps one baggage, ours inside it.
//!
//! The real crates, put together as their documentation says: the context is extracted where the
//! request's span is made, and injected into what the service sends.

use std::{
    convert::Infallible,
    future::ready,
    sync::{Arc, Mutex},
};

use devroute_core::{Contract, carrier};
use devroute_tower::{DevRouteClientLayer, DevRouteLayer, context::ContractExt as _};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use opentelemetry::{
    Context,
    baggage::{BaggageExt as _, KeyValueMetadata},
    propagation::{TextMapCompositePropagator, TextMapPropagator},
    trace::TracerProvider as _,
};
use opentelemetry_http::{HeaderExtractor, HeaderInjector};
use opentelemetry_sdk::{
    error::OTelSdkResult,
    propagation::{BaggagePropagator, TraceContextPropagator},
    trace::{SdkTracerProvider, SpanData, SpanExporter},
};
use tower::{ServiceBuilder, ServiceExt as _, service_fn, util::MapRequestLayer};
use tower_http::trace::TraceLayer;
use tracing::{Instrument as _, Span, field::Empty, info_span, instrument::WithSubscriber as _};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::{Registry, layer::SubscriberExt as _};

use crate::outbound_support::{contract, text};

/// Where the client layer is, seen from the injector of OpenTelemetry.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Order {
    /// Next to the client, as it should be: it runs last.
    Inside,
    Outside,
}

const BOTH: [Order; 2] = [Order::Inside, Order::Outside];

fn propagator() -> impl TextMapPropagator {
    TextMapCompositePropagator::new(vec![
        Box::new(TraceContextPropagator::new()),
        Box::new(BaggagePropagator::new()),
    ])
}

fn extract<B>(request: &Request<B>) -> Context {
    propagator().extract(&HeaderExtractor(request.headers()))
}

fn inject<B>(mut request: Request<B>) -> Request<B> {
    let context = Span::current().context();
    propagator().inject_context(&context, &mut HeaderInjector(request.headers_mut()));
    request
}

/// The span of a request, with the parent that came in.
fn request_span<B>(request: &Request<B>) -> Span {
    let span = info_span!(
        "request",
        "devroute.decision" = Empty,
        "devroute.run_id" = Empty
    );
    span.set_parent(extract(request)).unwrap();
    span
}

/// Serves one request by making another one, to `to`, with one more member in the baggage; returns
/// what goes over the wire.
async fn call(order: Order, to: &str) -> HeaderMap {
    let context = Span::current().context();
    let order_id = KeyValueMetadata::new("order", "7", "");
    let others = context.baggage().iter().map(|(key, (value, metadata))| {
        KeyValueMetadata::new(key.clone(), value.clone(), metadata.clone())
    });
    let baggage: Vec<_> = others.chain([order_id]).collect();
    let span = info_span!("call");
    span.set_parent(context.with_baggage(baggage)).unwrap();

    let wire = service_fn(|request: Request<()>| {
        ready(Ok::<_, Infallible>(Response::new(
            request.headers().clone(),
        )))
    });
    let request = Request::get(to).body(()).unwrap();
    let response = async {
        match order {
            Order::Inside => {
                let client = ServiceBuilder::new()
                    .layer(MapRequestLayer::new(inject))
                    .layer(DevRouteClientLayer::new())
                    .service(wire);
                client.oneshot(request).await
            }
            Order::Outside => {
                let client = ServiceBuilder::new()
                    .layer(DevRouteClientLayer::new())
                    .layer(MapRequestLayer::new(inject))
                    .service(wire);
                client.oneshot(request).await
            }
        }
    };
    response.instrument(span).await.unwrap().into_body()
}

#[derive(Clone, Debug, Default)]
struct Exported(Arc<Mutex<Vec<SpanData>>>);

impl SpanExporter for Exported {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.lock().unwrap().extend(batch);
        Ok(())
    }
}

/// Runs `f` as a service does that exports its spans.
async fn traced<F: Future>(f: F) -> (F::Output, Vec<SpanData>) {
    let exported = Exported::default();
    let provider = SdkTracerProvider::builder()
        .with_simple_exporter(exported.clone())
        .build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("checkout"));
    let output = f.with_subscriber(Registry::default().with(layer)).await;
    provider.force_flush().unwrap();
    let spans = std::mem::take(&mut *exported.0.lock().unwrap());
    (output, spans)
}

/// A request with `fields` to a service that makes one to `to`; returns what that one carries.
async fn hop(order: Order, fields: &[(&str, &str)], to: &'static str) -> HeaderMap {
    let service = ServiceBuilder::new()
        .layer(TraceLayer::new_for_http().make_span_with(request_span::<String>))
        .layer(DevRouteLayer::new("checkout"))
        .service_fn(move |_: Request<String>| answer(order, to));
    let (response, _) = traced(service.oneshot(incoming(fields))).await;
    response.unwrap().headers().clone()
}

/// The handler: what its own request carries is what it answers.
async fn answer(order: Order, to: &str) -> Result<Response<String>, Infallible> {
    let mut response = Response::new(String::new());
    *response.headers_mut() = call(order, to).await;
    Ok(response)
}

fn incoming(fields: &[(&str, &str)]) -> Request<String> {
    let mut request = Request::get("http://checkout/")
        .body(String::new())
        .unwrap();
    for (name, value) in fields {
        let name: HeaderName = name.parse().unwrap();
        request.headers_mut().append(name, value.parse().unwrap());
    }
    request
}

/// The value of our member for contract `number`, as devroute writes it.
fn member(number: u16) -> String {
    format!("devroute={}", carrier::baggage::encode(&contract(number)))
}

/// What is in the one `baggage` line: the contract of our one member, and all others, sorted.
fn baggage(headers: &HeaderMap) -> (Option<Contract>, Vec<String>) {
    let lines: Vec<_> = headers.get_all(carrier::BAGGAGE).iter().collect();
    assert_eq!(lines.len(), 1, "{headers:?}");
    let line = lines[0].to_str().unwrap();
    let (ours, others): (Vec<_>, Vec<_>) = line
        .split(',')
        .partition(|member| member.starts_with("devroute="));
    assert!(ours.len() <= 1, "{line}");
    let mut others: Vec<_> = others.into_iter().map(str::to_owned).collect();
    others.sort();
    (carrier::baggage::read(headers).unwrap(), others)
}

/// Asserts one line of baggage, with the members of the application and contract `number` once.
#[track_caller]
fn assert_one_baggage(headers: &HeaderMap, number: u16) {
    assert_eq!(headers[carrier::CONTRACT], text(number));
    let (ours, others) = baggage(headers);
    assert_eq!(ours, Some(contract(number)), "{headers:?}");
    assert_eq!(others, ["order=7", "team=a%20b;ttl=1", "user=alice"]);
    // The trace goes on as well.
    assert!(
        headers["traceparent"]
            .as_bytes()
            .starts_with(TRACE.as_bytes())
    );
}

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-";
const PARENT: (&str, &str) = (
    "traceparent",
    "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
);
const OTHERS: &str = "user=alice,team=a%20b;ttl=1";
const INSIDE: &str = "http://stock/";

#[tokio::test]
async fn rule_10_one_baggage_with_ours_inside_however_the_contract_came() {
    let with_ours = format!("user=alice,{},team=a%20b;ttl=1", member(1));
    let with_another = format!("{OTHERS},{}", member(2));
    let malformed = format!("{OTHERS},devroute=%7B");
    let encoded_twice = format!("{OTHERS},{}", member(1).replace('%', "%25"));
    let field = text(1);
    let field = ("x-devroute", field.as_str());
    for fields in [
        &[PARENT, field, ("baggage", OTHERS)][..],
        &[PARENT, ("baggage", &with_ours)],
        &[PARENT, ("baggage", &encoded_twice)],
        &[PARENT, field, ("baggage", &with_ours)],
        // The field wins (rule 9), and what the SDK copies does not bring the other one back.
        &[PARENT, field, ("baggage", &with_another)],
        &[PARENT, field, ("baggage", &malformed)],
    ] {
        let headers = hop(Order::Inside, fields, INSIDE).await;
        assert_one_baggage(&headers, 1);
    }
}

#[tokio::test]
async fn outside_of_the_injector_ours_stays_where_the_sdk_has_it() {
    let with_ours = format!("user=alice,{},team=a%20b;ttl=1", member(1));
    let field = text(1);
    for fields in [
        &[PARENT, ("baggage", &*with_ours)][..],
        &[PARENT, ("x-devroute", &field), ("baggage", &with_ours)],
    ] {
        let headers = hop(Order::Outside, fields, INSIDE).await;
        assert_one_baggage(&headers, 1);
    }
}

/// Documented: what runs below the layer it cannot see. The injector replaces the whole field, by what
/// the SDK read from the request that came in.
#[tokio::test]
async fn outside_of_the_injector_the_sdk_has_the_last_word() {
    let field = text(1);
    let fields = [PARENT, ("x-devroute", field.as_str()), ("baggage", OTHERS)];
    let headers = hop(Order::Outside, &fields, INSIDE).await;
    assert_eq!(headers[carrier::CONTRACT], text(1));
    assert_eq!(baggage(&headers).0, None);

    let with_ours = format!("{OTHERS},{}", member(1));
    let fields = [PARENT, ("baggage", with_ours.as_str())];
    let headers = hop(Order::Outside, &fields, "http://example.com/").await;
    assert!(!headers.contains_key(carrier::CONTRACT));
    assert_eq!(baggage(&headers).0, Some(contract(1)));
}

/// The way out where the order of a client's layers is not ours to choose: the SDK reads what the
/// inbound layer has written.
#[tokio::test]
async fn where_the_sdk_reads_what_the_inbound_layer_writes_the_order_does_not_matter() {
    let with_another = format!("{OTHERS},{}", member(2));
    let field = text(1);
    let field = ("x-devroute", field.as_str());
    for order in BOTH {
        for baggage in [OTHERS, &with_another] {
            let service = ServiceBuilder::new()
                .layer(DevRouteLayer::new("checkout").write_carriers(true))
                .layer(TraceLayer::new_for_http().make_span_with(request_span::<String>))
                .service_fn(move |_: Request<String>| answer(order, INSIDE));
            let request = incoming(&[PARENT, field, ("baggage", baggage)]);
            let (response, _) = traced(service.oneshot(request)).await;
            assert_one_baggage(response.unwrap().headers(), 1);
        }
    }
}

#[tokio::test]
async fn without_a_contract_the_baggage_is_the_applications() {
    for order in BOTH {
        let headers = hop(order, &[PARENT, ("baggage", OTHERS)], INSIDE).await;
        let (ours, others) = baggage(&headers);
        assert_eq!(ours, None);
        assert_eq!(others, ["order=7", "team=a%20b;ttl=1", "user=alice"]);
        assert!(!headers.contains_key(carrier::CONTRACT));
    }
}

/// The SDK copies the member to whatever is called: taking it off again is the guard's work.
#[tokio::test]
async fn rule_11_to_an_external_host_the_sdk_takes_nothing_of_ours() {
    let with_ours = format!("user=alice,{},team=a%20b;ttl=1", member(1));
    let fields = [PARENT, ("baggage", with_ours.as_str())];
    let headers = hop(Order::Inside, &fields, "http://example.com/").await;
    let (ours, others) = baggage(&headers);
    assert_eq!(ours, None);
    assert_eq!(others, ["order=7", "team=a%20b;ttl=1", "user=alice"]);
    assert!(!headers.contains_key(carrier::CONTRACT));
}

#[tokio::test]
async fn a_scope_that_the_application_opens_is_what_goes_out() {
    let with_ours = format!("{OTHERS},{}", member(1));
    let service = ServiceBuilder::new()
        .layer(TraceLayer::new_for_http().make_span_with(request_span::<String>))
        .layer(DevRouteLayer::new("checkout"))
        .service_fn(|_: Request<String>| answer(Order::Inside, INSIDE).in_contract(contract(2)));
    let request = incoming(&[PARENT, ("baggage", &with_ours)]);
    let (response, _) = traced(service.oneshot(request)).await;
    assert_one_baggage(response.unwrap().headers(), 2);
}

/// Any contract comes through three services of which none has a layer of ours.
#[test]
fn rule_09_contracts_survive_the_sdk() {
    for sent in [
        r#"{"foo":"10.0.0.1:80"}"#,
        r#"{ "foo" : "https://laptop.tail1234.ts.net:8001" , "b_a-r.1":"[fd00::1]:9000" }"#,
        r#"{"foo":"h2c://10.0.0.1:80","$id":"run-7","$note":"a b+c%20d,e;f=g\"h\\i\u00e9ü\n"}"#,
        "{}",
    ] {
        let sent: Contract = sent.parse().unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(carrier::BAGGAGE, HeaderValue::from_static(OTHERS));
        assert_eq!(carrier::write(&mut headers, &sent), carrier::Written::Both);
        headers.remove(carrier::CONTRACT);
        for _ in 0..3 {
            let context = propagator().extract(&HeaderExtractor(&headers));
            headers.clear();
            propagator().inject_context(&context, &mut HeaderInjector(&mut headers));
        }
        assert_eq!(carrier::read(&headers).unwrap(), Some(sent), "{headers:?}");
        assert_eq!(baggage(&headers).1.len(), 2);
    }
}

/// What docs/propagation.md says of the SDK, so that a new release of it is noticed.
#[test]
fn what_the_sdk_makes_of_a_baggage() {
    let passed = |lines: &[&str]| {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(carrier::BAGGAGE, line.parse().unwrap());
        }
        let context = propagator().extract(&HeaderExtractor(&headers));
        headers.clear();
        propagator().inject_context(&context, &mut HeaderInjector(&mut headers));
        headers.remove(carrier::BAGGAGE)
    };
    let (long, too_long) = ("x".repeat(5000), "x".repeat(8200));
    let long = format!("a={long}");
    for (lines, expected) in [
        (&["a=1;p=q"][..], Some("a=1;p=q")),
        (&["a=x%20b"], Some("a=x%20b")),
        (&["a=1", "b=2"], Some("a=1")),
        (
            &[r#"devroute={"foo":"10.0.0.1:80"}"#],
            Some("devroute={%22foo%22:%2210.0.0.1:80%22}"),
        ),
        (
            &[r#"devroute={"foo":"10.0.0.1:80","b":"h:1"}"#],
            Some("devroute={%22foo%22:%2210.0.0.1:80%22"),
        ),
        (&[&long], Some(&*long)),
        (&[&format!("a={too_long}")], None),
    ] {
        let found = passed(lines);
        let found = found.as_ref().map(|line| line.to_str().unwrap());
        assert_eq!(found, expected, "{lines:?}");
    }
}

#[tokio::test]
async fn the_exported_span_has_the_decision() {
    let service = ServiceBuilder::new()
        .layer(TraceLayer::new_for_http().make_span_with(request_span::<String>))
        .layer(DevRouteLayer::new("checkout"))
        .service_fn(|_: Request<String>| answer(Order::Inside, INSIDE));
    let contract = r#"{"foo":"10.0.0.1:80","$id":"run-7"}"#;
    let request = incoming(&[PARENT, ("x-devroute", contract)]);
    // The span ends with the answer's body.
    let (_, spans) = traced(async { drop(service.oneshot(request).await) }).await;
    let span = spans.iter().find(|span| span.name == "request").unwrap();
    for (name, expected) in [
        ("devroute.decision", "baseline"),
        ("devroute.run_id", "run-7"),
    ] {
        let attribute = span.attributes.iter().find(|it| it.key.as_str() == name);
        assert_eq!(attribute.unwrap().value.as_str(), expected);
    }
}

/// The middleware of reqwest-tracing in a few lines: it knows older releases of OpenTelemetry only.
#[cfg(feature = "reqwest-middleware")]
mod middleware {
    use async_trait::async_trait;
    use devroute_tower::{context, reqwest::DevRouteMiddleware};
    use reqwest::{Request, Response};
    use reqwest_middleware::{ClientBuilder, Middleware, Next, Result};

    use super::*;
    use crate::outbound_support::serve;

    struct Inject(Context);

    #[async_trait]
    impl Middleware for Inject {
        async fn handle(
            &self,
            mut request: Request,
            extensions: &mut http::Extensions,
            next: Next<'_>,
        ) -> Result<Response> {
            propagator().inject_context(&self.0, &mut HeaderInjector(request.headers_mut()));
            next.run(request, extensions).await
        }
    }

    #[tokio::test]
    async fn rule_10_the_middleware_that_is_added_last_has_the_last_word() {
        let (server, received) = serve().await;
        let line = format!("{OTHERS},order=7,{}", member(2));
        let context = extract(&incoming(&[PARENT, ("baggage", &line)]));
        let plain = reqwest::Client::builder().no_proxy().build().unwrap();
        let client = ClientBuilder::new(plain)
            .with(Inject(context))
            .with(DevRouteMiddleware::new())
            .build();
        let request = client.get(format!("http://{server}/")).send();
        context::scope(contract(1), request).await.unwrap();
        assert_one_baggage(&received.one().headers, 1);
    }
}
