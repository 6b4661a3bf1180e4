//! The layer around the service that forwards to a local application.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::body::{Bodies, InspectBodies, InspectBody, SameBodies, Tap};
use crate::exchange::{End, RequestHead};
use crate::replay::{Replay, Replayer};
use crate::store::{Side, Store};

/// Puts an [`Inspect`] around a service; made by [`Inspector::layer`](crate::Inspector::layer).
///
/// The service inside takes requests with an [`InspectBody`], or with the bodies that come, where it is
/// said [how they are made](Self::bodies).
#[derive(Clone, Debug)]
pub struct InspectorLayer<W = InspectBodies> {
    store: Arc<Store>,
    service: Arc<str>,
    bodies: W,
}

impl InspectorLayer {
    pub(crate) fn new(store: Arc<Store>, service: Arc<str>) -> Self {
        Self {
            store,
            service,
            bodies: InspectBodies,
        }
    }

    /// For a service that takes the very type of body that comes: `make` puts one that is looked at into
    /// that type. Where nobody looks it is not called.
    #[must_use]
    pub fn bodies<F>(self, make: F) -> InspectorLayer<SameBodies<F>> {
        InspectorLayer {
            store: self.store,
            service: self.service,
            bodies: SameBodies(make),
        }
    }
}

impl<S, W: Clone> Layer<S> for InspectorLayer<W> {
    type Service = Inspect<S, W>;

    fn layer(&self, inner: S) -> Inspect<S, W> {
        Inspect {
            inner,
            settings: self.clone(),
        }
    }
}

/// Records what passes while a page is open, and otherwise nothing.
///
/// The service inside is cloned for each request that is recorded, and kept with it, so that it can be
/// given the request again.
#[derive(Clone, Debug)]
pub struct Inspect<S, W = InspectBodies> {
    inner: S,
    settings: InspectorLayer<W>,
}

impl<S, W, ReqBody, ResBody> Service<Request<ReqBody>> for Inspect<S, W>
where
    W: Bodies<ReqBody>,
    S: Service<Request<W::Body>, Response = Response<ResBody>>,
    S: Clone + Send + 'static,
    S::Error: std::fmt::Display,
    S::Future: Send,
    ReqBody: Body<Data = Bytes> + Send + 'static,
    ReqBody::Error: std::fmt::Display,
    ResBody: Body<Data = Bytes> + Send + 'static,
    ResBody::Error: std::fmt::Display,
{
    type Response = Response<InspectBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let InspectorLayer {
            store,
            service,
            bodies,
        } = &self.settings;
        if !store.is_watched() {
            return ResponseFuture {
                inner: self.inner.call(request.map(|body| bodies.passing(body))),
                recording: None,
            };
        }
        let (parts, body) = request.into_parts();
        let replay =
            Replayer::<S, W, ReqBody>::new(self.inner.clone(), bodies.clone(), Arc::clone(service));
        let recorder = Recorder::new(store, service);
        let recording = recorder.begin(RequestHead::of(&parts), Arc::new(replay), None);
        let body = bodies.seen(InspectBody::tapped(body, recording.request()));
        ResponseFuture {
            inner: self.inner.call(Request::from_parts(parts, body)),
            recording: Some(recording),
        }
    }
}

pin_project! {
    /// The future of [`Inspect`].
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        recording: Option<Recording>,
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body<Data = Bytes>,
    E: std::fmt::Display,
{
    type Output = Result<Response<InspectBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answered = ready!(this.inner.poll(cx));
        Poll::Ready(match (answered, this.recording.take()) {
            (Ok(response), None) => Ok(response.map(InspectBody::passing)),
            (Ok(response), Some(recording)) => Ok(recording.answered(response)),
            (Err(error), recording) => {
                if let Some(recording) = recording {
                    recording.failed(&error);
                }
                Err(error)
            }
        })
    }
}

/// What begins recordings of a service.
#[derive(Debug)]
pub(crate) struct Recorder<'a> {
    store: &'a Arc<Store>,
    service: &'a Arc<str>,
}

impl<'a> Recorder<'a> {
    pub(crate) fn new(store: &'a Arc<Store>, service: &'a Arc<str>) -> Self {
        Self { store, service }
    }

    pub(crate) fn begin(
        &self,
        head: RequestHead,
        replay: Arc<dyn Replay>,
        of: Option<u64>,
    ) -> Recording {
        let service = Arc::clone(self.service);
        Recording {
            id: self.store.begin(service, head, replay, of),
            store: Some(Arc::clone(self.store)),
        }
    }
}

/// A request that waits for its answer. Dropped before, it was given up.
#[derive(Debug)]
pub(crate) struct Recording {
    id: u64,
    store: Option<Arc<Store>>,
}

impl Recording {
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// What keeps the request's body.
    pub(crate) fn request(&self) -> Tap {
        let store = self.store.clone().unwrap_or_default();
        Tap::new(store, self.id, Side::Request)
    }

    pub(crate) fn answered<B>(mut self, response: Response<B>) -> Response<InspectBody<B>>
    where
        B: Body<Data = Bytes>,
    {
        let Some(store) = self.store.take() else {
            return response.map(InspectBody::passing);
        };
        let (parts, body) = response.into_parts();
        store.answered(self.id, &parts);
        if parts.status == StatusCode::SWITCHING_PROTOCOLS {
            store.ended(self.id, End::Upgraded);
        }
        let tap = Tap::new(store, self.id, Side::Response);
        Response::from_parts(parts, InspectBody::tapped(body, tap))
    }

    pub(crate) fn failed(mut self, error: &impl std::fmt::Display) {
        if let Some(store) = self.store.take() {
            store.ended(self.id, End::Failed(error.to_string()));
        }
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        if let Some(store) = self.store.take() {
            store.ended(self.id, End::Abandoned);
        }
    }
}
