//! The services of the demo: as small as a service gets that passes a contract on.
//!
//! Each says who it is and, in front of it, what the next one said. `A`, `B` and the laptop's `B`
//! embed the two layers, so that the contract of a request goes on with the requests it causes; `C`
//! causes none and has nothing.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use devroute_tower::transport::{Body, HttpTransport};
use devroute_tower::{DevRouteClient, DevRouteClientLayer, DevRouteLayer, Mode};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use tokio::net::TcpListener;
use tower::ServiceExt as _;
use tower_layer::Layer as _;

use crate::metrics::Metrics;
use crate::server::{self, Connections};
use crate::shutdown::Signal;

/// A service of the demo.
#[derive(Clone, Debug)]
pub(super) struct Service {
    /// Its name in contracts.
    pub(super) name: &'static str,
    /// What it says of itself: `B (laptop)`.
    pub(super) says: &'static str,
    /// Who it calls, if anybody.
    pub(super) next: Option<SocketAddr>,
}

impl Service {
    /// Serves `listener` until `signal`.
    pub(super) async fn serve(self, listener: TcpListener, signal: Signal) {
        let router = self.router();
        let metrics = Metrics::new("demo", 1);
        let connections = Connections::new(&server::Options::default());
        server::accept(listener, signal.begun(), &metrics, |stream, _client| {
            let open = metrics.worker(0).connections().opened();
            connections.spawn(stream, router.clone(), open.into());
        })
        .await;
    }

    fn router(self) -> Router {
        let Some(next) = self.next else {
            return Router::new().fallback(async move || self.says);
        };
        let client = DevRouteClientLayer::new().layer(HttpTransport::new());
        Router::new()
            .fallback(get(answer))
            .with_state(Chain {
                says: self.says,
                next,
                client,
            })
            // The laptop is asked already, and behind a sidecar the sidecar decides: only carry.
            .layer(DevRouteLayer::new(self.name).mode(Mode::Carry))
    }
}

#[derive(Clone, Debug)]
struct Chain {
    says: &'static str,
    next: SocketAddr,
    client: DevRouteClient<HttpTransport>,
}

async fn answer(State(chain): State<Chain>) -> Response {
    let Chain { says, next, client } = chain;
    let gateway = |error: String| (StatusCode::BAD_GATEWAY, format!("{says}: {error}\n"));
    let request = match Request::get(format!("http://{next}/")).body(Body::empty()) {
        Ok(request) => request,
        Err(error) => return gateway(error.to_string()).into_response(),
    };
    let response = match client.oneshot(request).await {
        Ok(response) => response,
        Err(error) => return gateway(error.to_string()).into_response(),
    };
    let (parts, body) = response.into_parts();
    if !parts.status.is_success() {
        // The reason is what the reader wants to see, so it goes back as it came.
        let content_type = parts.headers.get(http::header::CONTENT_TYPE).cloned();
        let headers = content_type.map(|value| [(http::header::CONTENT_TYPE, value)]);
        return (parts.status, headers, axum::body::Body::new(body)).into_response();
    }
    match Limited::new(body, 4096).collect().await {
        Ok(rest) => {
            let rest = String::from_utf8_lossy(&rest.to_bytes()).into_owned();
            format!("{says} -> {rest}").into_response()
        }
        Err(error) => gateway(error.to_string()).into_response(),
    }
}
