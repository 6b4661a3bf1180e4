//! What the benches share: the contracts they measure with.

use std::fmt::Write as _;

/// A contract of `entries` services `service-0`, `service-1` and so on, each at a private address.
#[must_use]
pub fn contract_of(entries: usize) -> String {
    let mut text = String::from("{");
    for n in 0..entries {
        let comma = if n == 0 { "" } else { "," };
        // Writing to a string cannot fail.
        let _ = write!(text, r#"{comma}"service-{n}":"10.8.0.{n}:8001""#);
    }
    text.push('}');
    text
}
