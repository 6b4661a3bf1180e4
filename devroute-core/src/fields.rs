//! Looking at a few header fields without hashing their names.
//!
//! A [`HeaderMap`] hashes a name byte by byte for each look-up, found or not. A request has some ten fields, and a
//! proxy asks for twice as many that are not there: going through the names takes less than half of that, and what
//! is there is looked up then. Neither way is slow for the hundred fields that a server lets in.
//!
//! ```
//! use devroute_core::fields;
//! use http::header::{ACCEPT, HOST};
//!
//! let mut headers = http::HeaderMap::new();
//! headers.append(ACCEPT, "text/html".parse()?);
//! headers.append(ACCEPT, "text/plain".parse()?);
//! assert!(!fields::has(&headers, &HOST));
//! assert_eq!(fields::first(&headers, &ACCEPT).unwrap(), "text/html");
//! assert_eq!(fields::lines(&headers, &ACCEPT).count(), 2);
//! # Ok::<(), http::header::InvalidHeaderValue>(())
//! ```

use http::{HeaderMap, HeaderName, HeaderValue};

/// Whether there is a field of this name.
#[must_use]
#[inline]
pub fn has(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers.keys().any(|key| key == name)
}

/// The first line of this name.
#[must_use]
#[inline]
pub fn first<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h HeaderValue> {
    if has(headers, name) {
        headers.get(name)
    } else {
        None
    }
}

/// All lines of this name, in their order.
#[inline]
pub fn lines<'h>(
    headers: &'h HeaderMap,
    name: &HeaderName,
) -> impl DoubleEndedIterator<Item = &'h HeaderValue> + use<'h> {
    let lines = has(headers, name).then(|| headers.get_all(name));
    lines.into_iter().flatten()
}
