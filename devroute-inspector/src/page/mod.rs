//! The page: who may ask, what is asked, and what is told as it happens.
//!
//! | request | answer |
//! |---|---|
//! | `GET /`, `/page.js`, `/page.css`, `/icon.svg` | the page itself, in which nothing is secret |
//! | `GET /api/events` | what is kept, and then what changes, as server-sent events |
//! | `GET /api/exchanges/N?reveal=true` | all of one exchange |
//! | `GET /api/search?q=TEXT` | the numbers of those that the text is in |
//! | `POST /api/exchanges/N/replay?partial=true` | sends it again |
//! | `POST /api/clear` | forgets everything |

mod api;
mod events;
mod guard;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::middleware;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use tokio::net::TcpListener;

use self::guard::Guard;
use crate::Inspector;
use crate::store::Store;

/// The page of an [`Inspector`], on a port of this machine's loopback.
#[derive(Debug)]
pub struct Page {
    listener: TcpListener,
    address: SocketAddr,
    guard: Guard,
    store: Arc<Store>,
}

impl Page {
    /// Opens the port of a page; port 0 takes a free one.
    ///
    /// # Errors
    ///
    /// When the address is not one of loopback, or cannot be listened on, or the system has no random
    /// numbers for the token.
    pub async fn bind(inspector: &Inspector, address: SocketAddr) -> io::Result<Self> {
        if !address.ip().is_loopback() {
            let why =
                format!("{address} is not on loopback, and the page is for this machine only");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Self {
            guard: Guard::new(address)?,
            store: Arc::clone(&inspector.store),
            listener,
            address,
        })
    }

    /// Where to open it. Whoever has this sees everything, so it is for the person at this machine.
    ///
    /// The token is behind the `#`, which a browser keeps to itself: it is in no request line, log or
    /// referrer.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/#{}", self.address, self.guard.token())
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the future is dropped.
    ///
    /// # Errors
    ///
    /// When the listener fails for good.
    pub async fn serve(self) -> io::Result<()> {
        let Self {
            listener,
            guard,
            store,
            ..
        } = self;
        axum::serve(listener, routes(store, Arc::new(guard))).await
    }
}

fn routes(store: Arc<Store>, guard: Arc<Guard>) -> Router {
    let api = Router::new()
        .route("/events", get(events::events))
        .route("/exchanges/{id}", get(api::exchange))
        .route("/exchanges/{id}/replay", post(api::replay))
        .route("/search", get(api::search))
        .route("/clear", post(api::clear))
        .layer(middleware::from_fn_with_state(
            Arc::clone(&guard),
            guard::authorize,
        ))
        .with_state(store);
    let asset = |kind: &'static str, text: &'static str| {
        get(async move || ([(CONTENT_TYPE, kind)], text).into_response())
    };
    Router::new()
        .route(
            "/",
            asset(
                "text/html; charset=utf-8",
                include_str!("../../assets/page.html"),
            ),
        )
        .route(
            "/page.js",
            asset(
                "text/javascript; charset=utf-8",
                include_str!("../../assets/page.js"),
            ),
        )
        .route(
            "/page.css",
            asset(
                "text/css; charset=utf-8",
                include_str!("../../assets/page.css"),
            ),
        )
        .route(
            "/icon.svg",
            asset("image/svg+xml", include_str!("../../assets/icon.svg")),
        )
        .nest("/api", api)
        .layer(middleware::from_fn_with_state(guard, guard::protect))
}
