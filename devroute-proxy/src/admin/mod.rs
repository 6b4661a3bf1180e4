//! The admin listener: health, readiness, metrics, and the record of reroutes.
//!
//! | path | answer |
//! |---|---|
//! | `/` | a page that lists these, and the last reroutes |
//! | `/_healthz` | `OK` as long as the process lives |
//! | `/_readyz` | `OK`, or 503 once the process drains |
//! | `/metrics` | OpenMetrics text |
//! | `/reroutes` | the last reroutes as JSON, newest first; `?id=RUN` only those of one test run |
//!
//! It only reads: nothing can be changed here. It is on a listener of its own, on loopback unless
//! told otherwise, because records name people's machines.

mod index;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use tokio::net::TcpListener;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::timeout::TimeoutLayer;

use crate::metrics::{self, Metrics};
use crate::records::Records;
use crate::server::{self, Connections};
use crate::shutdown::Signal;

/// What the admin listener shows.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Admin {
    /// What runs here, in words: `sidecar of foo`.
    pub title: String,
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// The record of reroutes.
    pub records: Arc<Records>,
    /// Whether the process is ready: until it is told to stop.
    pub signal: Signal,
}

impl Admin {
    /// Serves `listener` until `stop`.
    ///
    /// That is a later moment than [`Admin::signal`]: during the drain the readiness must be seen.
    pub async fn serve(self, listener: TcpListener, stop: Signal) {
        let metrics = Arc::clone(&self.metrics);
        let router = self.router();
        let mut options = server::Options::default();
        // Whoever asks is a program that comes again, or a person.
        options.drain.grace = Duration::ZERO;
        let connections = Connections::new(&options);
        server::accept(listener, stop.begun(), &metrics, |stream, _client| {
            let open = metrics.admin_connections().opened();
            connections.spawn(stream, router.clone(), open.into());
        })
        .await;
        connections.drain(Duration::from_secs(1)).await;
    }

    fn router(self) -> Router {
        Router::new()
            .route("/", get(index::page))
            .route("/_healthz", get(|| async { "OK" }))
            .route("/_readyz", get(readiness))
            .route("/metrics", get(scrape))
            .route("/reroutes", get(reroutes))
            .layer(TimeoutLayer::with_status_code(
                StatusCode::GATEWAY_TIMEOUT,
                Duration::from_secs(10),
            ))
            .layer(CatchPanicLayer::new())
            .with_state(Arc::new(self))
    }
}

async fn readiness(State(admin): State<Arc<Admin>>) -> (StatusCode, &'static str) {
    if admin.signal.is_shutting_down() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining")
    } else {
        (StatusCode::OK, "OK")
    }
}

async fn scrape(State(admin): State<Arc<Admin>>) -> Response {
    (
        [(header::CONTENT_TYPE, metrics::CONTENT_TYPE)],
        admin.metrics.render(),
    )
        .into_response()
}

#[derive(Debug, Deserialize)]
struct Filter {
    id: Option<String>,
}

async fn reroutes(State(admin): State<Arc<Admin>>, Query(filter): Query<Filter>) -> Response {
    let reroutes = admin.records.latest(filter.id.as_deref());
    let body = Json(serde_json::json!({ "reroutes": reroutes }));
    ([(header::CACHE_CONTROL, "no-store")], body).into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::*;
    use crate::records::Record;
    use crate::shutdown;

    async fn get(admin: &Admin, path: &str) -> (StatusCode, String) {
        let request = http::Request::get(path).body(Body::empty()).unwrap();
        let response = admin.clone().router().oneshot(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    fn admin() -> (shutdown::Trigger, Admin) {
        let (trigger, signal) = shutdown::channel();
        let admin = Admin {
            title: "sidecar of foo".to_owned(),
            metrics: Metrics::new("sidecar", 1),
            records: Arc::default(),
            signal,
        };
        (trigger, admin)
    }

    #[tokio::test]
    async fn readiness_goes_when_the_drain_begins_and_health_stays() {
        let (trigger, admin) = admin();
        assert_eq!(
            get(&admin, "/_readyz").await,
            (StatusCode::OK, "OK".to_owned())
        );
        trigger.shut_down();
        assert_eq!(
            get(&admin, "/_readyz").await.0,
            StatusCode::SERVICE_UNAVAILABLE
        );
        assert_eq!(
            get(&admin, "/_healthz").await,
            (StatusCode::OK, "OK".to_owned())
        );
    }

    #[tokio::test]
    async fn records_are_found_by_the_run_they_belong_to() {
        let (_trigger, admin) = admin();
        for id in ["one", "two", "two"] {
            let mut record = Record::now("rerouted");
            record.id = Some(id.to_owned());
            admin.records.push(record);
        }
        for (path, count) in [
            ("/reroutes", 3),
            ("/reroutes?id=two", 2),
            ("/reroutes?id=x", 0),
        ] {
            let (_, body) = get(&admin, path).await;
            let json: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert_eq!(json["reroutes"].as_array().unwrap().len(), count, "{path}");
        }
    }

    #[tokio::test]
    async fn the_page_escapes_what_it_shows() {
        let (_trigger, admin) = admin();
        let mut record = Record::now("failed");
        record.service = Some("<script>".to_owned());
        admin.records.push(record);
        let (_, body) = get(&admin, "/").await;
        assert!(body.contains("sidecar of foo"));
        assert!(body.contains("&lt;script&gt;") && !body.contains("<script>"));
    }
}
