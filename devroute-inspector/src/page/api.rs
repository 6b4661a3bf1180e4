//! What the page asks for.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::body::Again;
use crate::exchange::{Exchange, version};
use crate::search::Search;
use crate::store::Store;
use crate::{mask, present};

#[derive(Debug, Deserialize)]
pub(super) struct Reveal {
    #[serde(default)]
    reveal: bool,
}

/// All of one exchange.
pub(super) async fn exchange(
    State(store): State<Arc<Store>>,
    Path(id): Path<u64>,
    Query(Reveal { reveal }): Query<Reveal>,
) -> Response {
    match store.copy(id) {
        Some(exchange) => Json(whole(&exchange, reveal)).into_response(),
        None => gone(),
    }
}

fn whole(exchange: &Exchange, reveal: bool) -> Value {
    let head = &exchange.head;
    let answer = exchange.answer.as_ref();
    json!({
        "summary": exchange.summary(),
        "why_not_replayed": exchange.why_not_replayed(),
        "request": {
            "fields": mask::fields(&head.headers, reveal),
            "body": present::body(&exchange.request, Some(&head.headers), reveal),
        },
        "response": answer.map(|answer| json!({
            "version": version(answer.version),
            "fields": mask::fields(&answer.headers, reveal),
            "body": present::body(&exchange.response, Some(&answer.headers), reveal),
        })),
    })
}

#[derive(Debug, Deserialize)]
pub(super) struct Query_ {
    q: String,
}

/// The numbers of those that a text is in. There may be much to look through, so that is not done where
/// requests pass.
pub(super) async fn search(
    State(store): State<Arc<Store>>,
    Query(Query_ { q }): Query<Query_>,
) -> Json<Value> {
    let found = tokio::task::spawn_blocking(move || {
        let search = Search::new(&q);
        let mut ids = store.ids();
        ids.retain(|&id| {
            store
                .copy(id)
                .is_some_and(|exchange| search.is_in(&exchange))
        });
        ids
    });
    Json(json!({ "ids": found.await.unwrap_or_default() }))
}

#[derive(Debug, Deserialize)]
pub(super) struct Partial {
    #[serde(default)]
    partial: bool,
}

/// Sends a request again.
pub(super) async fn replay(
    State(store): State<Arc<Store>>,
    Path(id): Path<u64>,
    Query(Partial { partial }): Query<Partial>,
) -> Response {
    let kept = store.look(id, |exchange| {
        let why_not = exchange.why_not_replayed();
        let why_not = why_not.map(|why| format!("This request cannot be sent again: {why}."));
        let request = &exchange.request;
        let lacks = request.is_truncated() && !partial;
        let why_not = why_not.or_else(|| {
            lacks.then(|| {
                format!(
                    "Of the body of {} bytes only the first {} were kept.",
                    request.total,
                    request.kept.len()
                )
            })
        });
        if let Some(why_not) = why_not {
            return Err(why_not);
        }
        let data = Bytes::copy_from_slice(&request.kept);
        let body = Again {
            data: Some(data).filter(|data| !data.is_empty()),
            trailers: request.trailers.clone(),
        };
        Ok((exchange.head.clone(), body, Arc::clone(&exchange.replay)))
    });
    match kept {
        None => gone(),
        Some(Err(why_not)) => {
            (StatusCode::CONFLICT, Json(json!({ "detail": why_not }))).into_response()
        }
        Some(Ok((head, body, replay))) => {
            let sending = replay.again(head, body, id, &store);
            // At a breakpoint it takes as long as it takes, or until nobody is interested any more.
            tokio::spawn(async move {
                tokio::select! {
                    () = sending.future => {}
                    () = store.is_forgotten() => {}
                }
            });
            (StatusCode::ACCEPTED, Json(json!({ "id": sending.id }))).into_response()
        }
    }
}

/// Forgets everything.
pub(super) async fn clear(State(store): State<Arc<Store>>) -> StatusCode {
    store.clear();
    StatusCode::NO_CONTENT
}

fn gone() -> Response {
    let detail = "This request is not kept any more.";
    (StatusCode::NOT_FOUND, Json(json!({ "detail": detail }))).into_response()
}
