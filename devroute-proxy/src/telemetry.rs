//! Logging: a line a person reads on a terminal, JSON everywhere else, always to standard error.
//!
//! Nothing from the wire reaches a line unescaped: what is logged of a contract are names and
//! targets, whose alphabets hold no control characters, and errors that escape their excerpts.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{LogConfig, LogFormat};

/// Starts logging for the whole process.
///
/// Does nothing where a subscriber is set already, as in a test that runs several modes.
pub fn init(config: &LogConfig) {
    let terminal = io::stderr().is_terminal();
    let json = match config.format {
        LogFormat::Json => true,
        LogFormat::Human => false,
        LogFormat::Auto => !terminal,
    };
    // Without the module that wrote a line: in JSON it would be a second `target` beside the target.
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_target(false);
    let registry = tracing_subscriber::registry().with(config.filter.clone());
    let _ = if json {
        let layer = layer.json().flatten_event(true).with_current_span(false);
        registry.with(layer).try_init()
    } else {
        // The variable that people set to have no colours anywhere (no-color.org).
        let colours = terminal && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
        registry.with(layer.with_ansi(colours).compact()).try_init()
    };
}
