//! A small shop on loopback, and an inspector in front of it.
//!
//! ```console
//! $ cargo run -p devroute-inspector --example inspected
//! shop      http://127.0.0.1:41011
//! inspector http://127.0.0.1:41012/#…
//! $ curl -d '{"item":7}' http://127.0.0.1:41011/cart
//! ```
//!
//! A real deployment has a connection to the cluster where this one has a listener.
#![allow(clippy::print_stdout, reason = "an example prints what it is about")]

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Json, Request};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Router, serve};
use devroute_inspector::{Inspector, Page};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tower::{Service as _, ServiceBuilder};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let inspector = Inspector::new();
    let shop = ServiceBuilder::new()
        .layer(inspector.layer("shop").bodies(Body::new))
        .service(shop());
    let service = tower::service_fn(move |request: Request| {
        let mut shop = shop.clone();
        async move { Ok::<_, Infallible>(shop.call(request).await.into_response()) }
    });

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let page = Page::bind(&inspector, std::net::SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    println!("shop      http://{}", listener.local_addr()?);
    println!("inspector {}", page.url());
    tokio::spawn(page.serve());
    serve(listener, tower::make::Shared::new(service)).await
}

fn shop() -> Router {
    Router::new()
        .route("/cart", post(cart))
        .route("/slow", get(slow))
        .route("/picture", get(picture))
        .route("/grpc", post(grpc))
        .route(
            "/broken",
            any(|| async { (StatusCode::INTERNAL_SERVER_ERROR, "no stock\n") }),
        )
        .route("/{*path}", any(missing))
}

/// Counts, so that a replay is told from what it repeats.
async fn cart(headers: HeaderMap, Json(order): Json<Value>) -> Response {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let agent = headers.get(header::USER_AGENT);
    let agent = agent.and_then(|agent| agent.to_str().ok());
    let order = json!({ "number": number, "order": order, "agent": agent, "paid": false });
    let cookie = HeaderValue::from_static("session=very-secret; HttpOnly");
    ([(header::SET_COOKIE, cookie)], Json(order)).into_response()
}

/// Says what it got, as a page would.
async fn missing(body: String) -> (StatusCode, Html<String>) {
    (
        StatusCode::NOT_FOUND,
        Html(format!("<p>Nothing here for {body}</p>")),
    )
}

async fn slow() -> &'static str {
    tokio::time::sleep(Duration::from_millis(300)).await;
    "finally\n"
}

async fn picture() -> Response {
    let bytes = [b"\x89PNG\r\n\x1a\n".as_slice(), &[7; 200]].concat();
    ([(header::CONTENT_TYPE, "image/png")], bytes).into_response()
}

/// Two messages, as gRPC frames them.
async fn grpc() -> Response {
    let bytes = b"\0\0\0\0\x07\x0a\x05hello\0\0\0\0\x02\x08\x01".as_slice();
    ([(header::CONTENT_TYPE, "application/grpc")], bytes).into_response()
}
