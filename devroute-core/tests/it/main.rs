//! Every rule of `docs/contract.md` that this crate keeps: one module per section, names say the rule.
// For clippy: the helpers here are tests as much as the functions that use them.
#![cfg(test)]

mod allocation;
mod carriers;
mod cookie;
mod decision;
mod form;
mod hops;
mod model;
mod policy;
mod properties;
mod reserved;
#[cfg(feature = "signature")]
mod signature;
#[cfg(feature = "signature")]
mod ssh_keygen;
mod targets;
mod vectors;

use http::{HeaderMap, HeaderName, HeaderValue};

/// Header fields out of lines.
fn headers<'a>(lines: impl IntoIterator<Item = (&'a str, &'a str)>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    headers
}
