//! A service that uses OpenTelemetry already keeps one baggage, with the contract inside it, and its
//! spans say what was decided.
//!
//! `checkout` is called with a baggage, adds a member of its own, and asks `stock`, which shows the
//! baggage that reaches it.
//!
//! ```console
//! $ cargo run --example opentelemetry-service  # in the cluster
//! $ curl -H 'baggage: user=alice' http://127.0.0.1:3000/
//! $ curl -H 'baggage: user=alice' -H 'x-devroute: {"somebody":"10.0.0.7:80"}' http://127.0.0.1:3000/
//! ```
//!
//! What matters is the order of the client's layers: the one of devroute comes last, next to the
//! client, because the injector of OpenTelemetry replaces the whole `baggage` field. The spans go to
//! stderr here, where an exporter would be.

#![allow(clippy::print_stdout, reason = "says where it listens")]

use std::{env, error::Error, net::SocketAddr};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, StatusCode},
    routing::get,
};
use devroute_tower::{
    DevRouteClientLayer, DevRouteLayer,
    core::{TargetPolicy, carrier},
};
use http_body_util::BodyExt as _;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use opentelemetry::{
    baggage::{BaggageExt as _, KeyValueMetadata},
    global,
    propagation::TextMapCompositePropagator,
    trace::TracerProvider as _,
};
use opentelemetry_http::{HeaderExtractor, HeaderInjector};
use opentelemetry_sdk::{
    propagation::{BaggagePropagator, TraceContextPropagator},
    trace::SdkTracerProvider,
};
use tokio::net::TcpListener;
use tower::{
    BoxError, ServiceBuilder, ServiceExt as _,
    util::{BoxCloneSyncService, MapRequestLayer},
};
use tower_http::trace::TraceLayer;
use tracing::{Instrument as _, Span, field::Empty};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::{
    filter::LevelFilter, fmt::format::FmtSpan, layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

#[derive(Clone)]
struct Checkout {
    addr: SocketAddr,
    stock: SocketAddr,
    client: BoxCloneSyncService<Request, axum::http::Response<hyper::body::Incoming>, BoxError>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let port = env::args().nth(1).map_or(Ok(3000), |port| port.parse())?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let addr = listener.local_addr()?;
    set_up_telemetry();

    // Outbound. `inject` writes the baggage of the span, and then the contract is put into it.
    let client = ServiceBuilder::new()
        .layer(MapRequestLayer::new(inject))
        .layer(DevRouteClientLayer::new())
        .service(Client::builder(TokioExecutor::new()).build_http::<Body>())
        .map_err(BoxError::from);
    let checkout = Checkout {
        addr,
        stock: serve_stock().await?,
        client: BoxCloneSyncService::new(client),
    };

    // Inbound. The span is made outside, so it is there when the layer has something to record.
    // Loopback is allowed because the laptop is this machine here; leave it out elsewhere.
    let layer = DevRouteLayer::new("checkout").policy(TargetPolicy::default().allow_loopback(true));
    let app = Router::new()
        .route("/", get(answer))
        .with_state(checkout)
        .layer(layer)
        .layer(TraceLayer::new_for_http().make_span_with(request_span));

    println!("listening on {addr}");
    axum::serve(listener, app).await?;
    Ok(())
}

/// As in any service with OpenTelemetry, but for the exporter.
fn set_up_telemetry() {
    global::set_text_map_propagator(TextMapCompositePropagator::new(vec![
        Box::new(TraceContextPropagator::new()),
        Box::new(BaggagePropagator::new()),
    ]));
    let tracer = SdkTracerProvider::builder().build().tracer("checkout");
    tracing_subscriber::registry()
        .with(LevelFilter::INFO)
        .with(tracing_opentelemetry::layer().with_tracer(tracer))
        .with(
            tracing_subscriber::fmt::layer()
                .with_span_events(FmtSpan::CLOSE)
                .with_writer(std::io::stderr),
        )
        .init();
}

/// The request's span, a child of the caller's. The inbound layer fills in what is empty.
fn request_span(request: &Request) -> Span {
    let span = tracing::info_span!(
        "request",
        method = %request.method(),
        "devroute.decision" = Empty,
        "devroute.target" = Empty,
        "devroute.run_id" = Empty,
    );
    let parent = global::get_text_map_propagator(|propagator| {
        propagator.extract(&HeaderExtractor(request.headers()))
    });
    if let Err(error) = span.set_parent(parent) {
        tracing::debug!(%error, "the span has no parent");
    }
    span
}

fn inject(mut request: Request) -> Request {
    let context = Span::current().context();
    global::get_text_map_propagator(|propagator| {
        propagator.inject_context(&context, &mut HeaderInjector(request.headers_mut()));
    });
    request
}

async fn answer(State(checkout): State<Checkout>) -> Result<String, (StatusCode, String)> {
    // The application puts something of its own into the baggage.
    let context = Span::current().context();
    let known = context.baggage().iter().map(|(key, (value, metadata))| {
        KeyValueMetadata::new(key.clone(), value.clone(), metadata.clone())
    });
    let order = KeyValueMetadata::new("order", "7", "");
    let baggage: Vec<_> = known.chain([order]).collect();
    let call = tracing::info_span!("ask stock");
    let set = call.set_parent(context.with_baggage(baggage));

    let said = match set {
        Ok(()) => ask_stock(&checkout).instrument(call).await,
        Err(error) => Err(error.into()),
    };
    let said = said.map_err(|error| (StatusCode::BAD_GATEWAY, error.to_string()))?;
    Ok(format!("checkout at {}; {said}", checkout.addr))
}

async fn ask_stock(checkout: &Checkout) -> Result<String, BoxError> {
    let request = Request::get(format!("http://{}/", checkout.stock)).body(Body::empty())?;
    let answer = checkout.client.clone().oneshot(request).await?;
    let body = answer.into_body().collect().await?.to_bytes();
    Ok(String::from_utf8(body.into())?)
}

/// A service further on, which only shows the baggage that reaches it.
async fn serve_stock() -> Result<SocketAddr, Box<dyn Error>> {
    let app = Router::new().route("/", get(stock));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(addr)
}

async fn stock(headers: HeaderMap) -> String {
    let lines = headers.get_all("baggage").iter();
    let lines: Vec<_> = lines
        .map(|line| String::from_utf8_lossy(line.as_bytes()))
        .collect();
    // OpenTelemetry keeps no order among the members.
    let mut members: Vec<_> = lines.iter().flat_map(|line| line.split(',')).collect();
    members.sort_unstable();
    let contract = match carrier::baggage::read(&headers) {
        Ok(Some(contract)) => contract.to_string(),
        Ok(None) => "no contract".to_owned(),
        Err(error) => error.to_string(),
    };
    format!(
        "stock got {} line of {}: {contract}\n",
        lines.len(),
        members.join(" ")
    )
}
