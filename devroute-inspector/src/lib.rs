//! A page on this machine that shows the requests a local application gets, and sends them again.
//!
//! [`Inspector::layer`] goes around the service that forwards to the application; [`Page`] shows what
//! passes it.
//!
//! - Bodies stream: what is kept of them is copied as it passes, up to a limit. Trailers, upgrades,
//!   sizes and ends are those of the application. Errors are not touched.
//! - Nothing is recorded, wrapped or allocated while no page is open: the layer asks one atomic, and
//!   calls the service.
//! - What is kept is bounded, by number and by bytes ([`Limits`]). The oldest goes. When no page has been
//!   open for a while, all of it goes.
//! - *Replay* gives a recorded request to the same service once more, so that a bug runs again in the
//!   debugger without whoever sent it.
//! - Who asked is what whoever serves puts beside a request ([`Caller`]).
//! - The page is on loopback only, asks nobody else for anything, and tells nothing to who does not have
//!   the token in its address. Credentials are masked until somebody asks for them.
//!
//! ```
//! use std::convert::Infallible;
//! use devroute_inspector::{Inspector, Page};
//! use http::{Request, Response};
//! use tower::{Layer as _, service_fn};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! let application = service_fn(|_: Request<_>| async {
//!     Ok::<_, Infallible>(Response::new("hello".to_owned()))
//! });
//! let inspector = Inspector::new();
//! let service = inspector.layer("foo").layer(application);
//! # let _ = tower::ServiceExt::oneshot(service, Request::new(String::new())).await;
//!
//! let page = Page::bind(&inspector, "127.0.0.1:0".parse()?).await?;
//! assert!(page.url().starts_with("http://127.0.0.1:"));
//! assert!(!inspector.is_watched(), "nobody has opened it");
//! # let _ = page.serve();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![cfg_attr(docsrs, feature(doc_cfg))]

mod body;
mod exchange;
mod hex;
mod json;
mod layer;
mod mask;
mod page;
mod present;
mod replay;
mod search;
mod store;

use std::sync::Arc;
use std::time::Duration;

pub use self::body::{Bodies, InspectBodies, InspectBody, SameBodies};
pub use self::exchange::Caller;
pub use self::layer::{Inspect, InspectorLayer, ResponseFuture};
pub use self::page::Page;
use self::store::Store;

/// Keeps what layers record, for a page. Clones are the same inspector.
#[derive(Clone, Debug, Default)]
pub struct Inspector {
    store: Arc<Store>,
}

/// How much an [`Inspector`] keeps.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Requests; 500 by default.
    pub entries: usize,
    /// Bytes of one body; 256 KiB by default.
    pub body: usize,
    /// Bytes of all that is kept; 32 MiB by default.
    pub bytes: usize,
    /// How long it is kept after the last page was closed; 5 minutes by default.
    pub unwatched: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 500,
            body: 256 * 1024,
            bytes: 32 * 1024 * 1024,
            unwatched: Duration::from_secs(5 * 60),
        }
    }
}

impl Inspector {
    /// An inspector that keeps as much as [`Limits::default`] says.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An inspector that keeps as much as `limits` say.
    #[must_use]
    pub fn with_limits(limits: Limits) -> Self {
        Self {
            store: Arc::new(Store::new(limits)),
        }
    }

    /// Records what a service gets that answers for `service`.
    #[must_use]
    pub fn layer(&self, service: &str) -> InspectorLayer {
        InspectorLayer::new(Arc::clone(&self.store), service.into())
    }

    /// Whether a page is open, so that something is recorded.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        self.store.is_watched()
    }
}
