//! The one place that writes to standard output and standard error by hand.
//!
//! Everything else logs through `tracing`. A closed pipe (`devroute explain … | head -1`) is not a
//! failure of the program, so write errors end the output and nothing else.

use std::fmt;
use std::io::{self, Write as _};

/// Writes `text` and a line break to standard output.
pub fn line(text: impl fmt::Display) {
    // Flushed a line at a time: a reader that pipes the demo sees each step when it happens.
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// Writes `text` and a line break to standard error.
pub fn error(text: impl fmt::Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Writes `value` as indented JSON to standard output.
pub fn json(value: &serde_json::Value) {
    line(format_args!("{value:#}"));
}
