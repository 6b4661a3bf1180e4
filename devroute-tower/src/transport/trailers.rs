//! Trailers that a connection of HTTP/1.1 does not take (RFC 9110, section 6.5).

use std::{fmt, sync::Arc};

use http::{
    HeaderMap, HeaderName,
    header::{
        AUTHORIZATION, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE,
        CONTENT_TYPE, HOST, MAX_FORWARDS, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING,
    },
};

/// The trailers that may follow a message of HTTP/1.1 with a body of unknown length: those that its
/// field `Trailer` announces (RFC 9110, section 6.6.2), and that may be trailers at all (section 6.5.1).
///
/// ```
/// use devroute_tower::transport::AnnouncedTrailers;
/// use http::HeaderMap;
///
/// let mut head = HeaderMap::new();
/// head.insert("trailer", "x-checksum".parse()?);
/// let announced = AnnouncedTrailers::by(&head);
///
/// let mut trailers = HeaderMap::new();
/// trailers.insert("x-checksum", "6".parse()?);
/// assert!(announced.take(&trailers));
/// trailers.insert("x-other", "1".parse()?);
/// assert!(!announced.take(&trailers));
/// assert!(!AnnouncedTrailers::none().take(&trailers));
/// # Ok::<(), http::header::InvalidHeaderValue>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct AnnouncedTrailers(Box<[HeaderName]>);

impl AnnouncedTrailers {
    /// Those that the head of a message announces.
    #[must_use]
    pub fn by(headers: &HeaderMap) -> Self {
        let names = headers
            .get_all(TRAILER)
            .iter()
            .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
            .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
            .filter(|name| !NEVER.contains(name));
        Self(names.collect())
    }

    /// None, as with a message whose length is known.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Whether all of `trailers` are among them; otherwise some are dropped.
    #[must_use]
    pub fn take(&self, trailers: &HeaderMap) -> bool {
        trailers.keys().all(|name| self.0.contains(name))
    }
}

/// What decides where a message ends, or what it means, and so comes before its body.
const NEVER: [HeaderName; 12] = [
    AUTHORIZATION,
    CACHE_CONTROL,
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_RANGE,
    CONTENT_TYPE,
    HOST,
    MAX_FORWARDS,
    SET_COOKIE,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
];

/// Is told of each request whose trailers the target does not get, or not all of them.
///
/// Closures are; see [`HttpTransport::on_trailers_dropped`](super::HttpTransport::on_trailers_dropped).
pub trait OnTrailersDropped {
    /// Trailers are dropped: the request goes out over HTTP/1.1, and has not announced them.
    fn on_trailers_dropped(&self);
}

impl<F: Fn()> OnTrailersDropped for F {
    fn on_trailers_dropped(&self) {
        self();
    }
}

/// A hook in the settings of a transport.
#[derive(Clone)]
pub(super) struct Hook(Arc<dyn OnTrailersDropped + Send + Sync>);

impl Hook {
    pub(super) fn new(hook: impl OnTrailersDropped + Send + Sync + 'static) -> Self {
        Self(Arc::new(hook))
    }
}

impl fmt::Debug for Hook {
    // A closure, mostly.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hook")
    }
}

/// Looks at the trailers of a body that goes out over HTTP/1.1.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) announced: AnnouncedTrailers,
    pub(super) hook: Hook,
}

impl Watch {
    pub(super) fn see(&self, trailers: &HeaderMap) {
        if !self.announced.take(trailers) {
            tracing::debug!("trailers of a request were dropped: it has not announced them");
            self.hook.0.on_trailers_dropped();
        }
    }
}
