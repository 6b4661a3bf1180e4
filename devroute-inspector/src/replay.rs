//! Sends a recorded request again, to the service that got it.

use std::fmt::Debug;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{Request, Response, header};
use http_body::Body;
use tower_service::Service;

use crate::body::{Again, Bodies, InspectBody};
use crate::exchange::RequestHead;
use crate::layer::Recorder;
use crate::store::Store;

/// What sends a recorded request again.
pub(crate) trait Replay: Debug + Send + Sync {
    /// Sends `head` and `body`, which were recorded as `of`, and records what comes of it. The number is
    /// that of the new exchange, whose answer is read to its end by the future.
    fn again(&self, head: RequestHead, body: Again, of: u64, store: &Arc<Store>) -> Sending;
}

/// A replay that has begun.
pub(crate) struct Sending {
    pub(crate) id: u64,
    pub(crate) future: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// By a clone of the service that got it.
pub(crate) struct Replayer<S, W, B> {
    /// Behind a lock only so that threads can share it.
    service: Mutex<(S, W)>,
    name: Arc<str>,
    body: PhantomData<fn(B)>,
}

impl<S, W, B> Replayer<S, W, B> {
    pub(crate) fn new(service: S, bodies: W, name: Arc<str>) -> Self {
        Self {
            service: Mutex::new((service, bodies)),
            name,
            body: PhantomData,
        }
    }
}

impl<S, W, B> Debug for Replayer<S, W, B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replayer").finish_non_exhaustive()
    }
}

impl<S, W, B, R> Replay for Replayer<S, W, B>
where
    W: Bodies<B>,
    S: Service<Request<W::Body>, Response = Response<R>> + Clone + Send + 'static,
    S::Error: std::fmt::Display,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    R: Body<Data = Bytes> + Send,
    R::Error: std::fmt::Display,
{
    fn again(&self, head: RequestHead, body: Again, of: u64, store: &Arc<Store>) -> Sending {
        let service = self.service.lock();
        let (mut service, bodies) = service.unwrap_or_else(PoisonError::into_inner).clone();
        let recorder = Recorder::new(store, &self.name);
        let replay = Arc::new(Self::new(
            service.clone(),
            bodies.clone(),
            Arc::clone(&self.name),
        ));
        let recording = recorder.begin(head.clone(), replay, Some(of));
        let id = recording.id();

        let mut request = Request::new(());
        *request.method_mut() = head.method;
        *request.uri_mut() = head.uri;
        *request.version_mut() = head.version;
        *request.headers_mut() = head.headers;
        *request.extensions_mut() = head.extensions;
        let length = body.data.as_ref().map_or(0, Bytes::len);
        if request.headers().contains_key(header::CONTENT_LENGTH) {
            // Where not all of the body was kept, it is shorter now.
            request
                .headers_mut()
                .insert(header::CONTENT_LENGTH, length.into());
        }
        let request = request.map(|()| bodies.seen(InspectBody::again(body, recording.request())));
        let future = Box::pin(async move {
            if let Err(error) = poll_fn(|cx| service.poll_ready(cx)).await {
                return recording.failed(&error);
            }
            let response = match service.call(request).await {
                Ok(response) => recording.answered(response),
                Err(error) => return recording.failed(&error),
            };
            let mut body = pin!(response.into_body());
            // Nobody reads it but who records it.
            while poll_fn(|cx| body.as_mut().poll_frame(cx).map(goes_on)).await {}
        });
        Sending { id, future }
    }
}

/// Whether more may come after this.
fn goes_on<T, E>(frame: Option<Result<T, E>>) -> bool {
    matches!(frame, Some(Ok(_)))
}

/// For tests of what never sends anything.
#[cfg(test)]
#[derive(Debug)]
pub(crate) struct Never;

#[cfg(test)]
impl Replay for Never {
    fn again(&self, _: RequestHead, _: Again, of: u64, _: &Arc<Store>) -> Sending {
        Sending {
            id: of,
            future: Box::pin(std::future::ready(())),
        }
    }
}
