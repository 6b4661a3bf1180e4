//! A server on loopback that remembers what it received, and contracts to tell apart.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{Router, extract::Request, response::Response};
use devroute_core::{Contract, carrier};
use http::{HeaderMap, StatusCode, header::LOCATION, request::Parts};
use hyper_util::client::legacy::connect::{HttpConnector, dns::Name};
use tokio::net::TcpListener;
use tower::service_fn;

/// A contract that no other number makes.
pub(crate) fn contract(number: u16) -> Contract {
    text(number).parse().unwrap()
}

/// The text of [`contract`].
pub(crate) fn text(number: u16) -> String {
    format!(r#"{{"foo":"10.0.{}.{}:8001"}}"#, number / 256, number % 256)
}

/// What `headers` say, from each carrier alone.
pub(crate) fn carried(headers: &HeaderMap) -> (Option<String>, Option<Contract>) {
    let field = headers
        .get(carrier::CONTRACT)
        .map(|value| value.to_str().unwrap().to_owned());
    let mut rest = headers.clone();
    rest.remove(carrier::CONTRACT);
    (field, carrier::read(&rest).unwrap())
}

/// Asserts that both carriers hold contract `number`.
pub(crate) fn assert_carries(headers: &HeaderMap, number: u16) {
    assert_eq!(
        carried(headers),
        (Some(text(number)), Some(contract(number))),
        "{headers:?}"
    );
}

/// Asserts that nothing of ours is on a request.
pub(crate) fn assert_carries_nothing(headers: &HeaderMap) {
    assert_eq!(carried(headers), (None, None), "{headers:?}");
    assert!(!headers.contains_key(carrier::MATCHED));
    for line in headers.get_all(carrier::BAGGAGE) {
        assert!(!line.to_str().unwrap().contains("devroute"), "{line:?}");
    }
}

/// What a server received, in order.
#[derive(Clone, Default)]
pub(crate) struct Received(Arc<Mutex<Vec<Parts>>>);

impl Received {
    pub(crate) fn add(&self, parts: Parts) {
        self.0.lock().unwrap().push(parts);
    }

    pub(crate) fn take(&self) -> Vec<Parts> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    /// The one request that came.
    pub(crate) fn one(&self) -> Parts {
        let mut all = self.take();
        assert_eq!(all.len(), 1, "{all:?}");
        all.pop().unwrap()
    }
}

/// Serves on a free port of loopback: 200, or for `/to?URL` a redirect to `URL`.
pub(crate) async fn serve() -> (SocketAddr, Received) {
    let received = Received::default();
    let log = received.clone();
    let app = Router::new().fallback(move |request: Request| {
        let (parts, _) = request.into_parts();
        let mut response = Response::new(axum::body::Body::empty());
        if let ("/to", Some(place)) = (parts.uri.path(), parts.uri.query()) {
            *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
            response
                .headers_mut()
                .insert(LOCATION, place.parse().unwrap());
        }
        log.add(parts);
        std::future::ready(response)
    });
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    (address, received)
}

/// Every name leads to loopback, so that a name is internal or not, and the server is ours.
pub(crate) fn connector() -> HttpConnector<
    impl tower::Service<
        Name,
        Response = std::array::IntoIter<SocketAddr, 1>,
        Error = Infallible,
        Future: Send,
    > + Clone
    + Send,
> {
    HttpConnector::new_with_resolver(service_fn(|_| async {
        Ok::<_, Infallible>([SocketAddr::from(([127, 0, 0, 1], 0))].into_iter())
    }))
}
