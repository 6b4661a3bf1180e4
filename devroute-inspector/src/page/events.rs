//! What is told as it happens: server-sent events.
//!
//! ```text
//! event: all     data: [summary, …]     at the beginning, and where a page has been too slow
//! event: one     data: summary
//! event: gone    data: number           this one, and all before it
//! ```

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use bytes::Bytes;
use http_body::Frame;
use serde_json::Value;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;

use crate::exchange::Exchange;
use crate::store::{Change, Store, Watch};

/// A line that says nothing, so that a page which has gone is noticed.
const PACE: Duration = Duration::from_secs(15);

/// Opens a page: from now on requests are recorded.
pub(super) async fn events(State(store): State<Arc<Store>>) -> Response {
    let watch = store.watch();
    let (sender, receiver) = mpsc::channel(16);
    tokio::spawn(tell(store, watch, sender));
    let mut response = Response::new(Body::new(Events(receiver)));
    let kind = HeaderValue::from_static("text/event-stream");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

async fn tell(store: Arc<Store>, mut watch: Watch, sender: mpsc::Sender<Bytes>) {
    let all = || event("all", &store.summaries().into());
    let mut next = Some(all());
    loop {
        if let Some(event) = next.take() {
            if sender.send(event).await.is_err() {
                return;
            }
        }
        let changed = tokio::select! {
            changed = watch.changes.recv() => changed,
            () = sender.closed() => return,
            () = tokio::time::sleep(PACE) => {
                next = Some(Bytes::from_static(b":\n\n"));
                continue;
            }
        };
        next = match changed {
            Ok(change) => told(&store, change),
            Err(RecvError::Lagged(_)) => {
                // What waits in the queue is in what comes now, too.
                watch.changes = watch.changes.resubscribe();
                Some(all())
            }
            Err(RecvError::Closed) => return,
        };
    }
}

fn told(store: &Store, change: Change) -> Option<Bytes> {
    match change {
        Change::Of(id) => Some(event("one", &store.look(id, Exchange::summary)?)),
        Change::Gone(id) => Some(event("gone", &id.into())),
    }
}

/// JSON has no line breaks but escaped ones, so it is one line.
fn event(name: &str, data: &Value) -> Bytes {
    Bytes::from(format!("event: {name}\ndata: {data}\n\n"))
}

#[derive(Debug)]
struct Events(mpsc::Receiver<Bytes>);

impl http_body::Body for Events {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let told = self.0.poll_recv(cx);
        told.map(|told| told.map(|told| Ok(Frame::data(told))))
    }
}
