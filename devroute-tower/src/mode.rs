//! Whether the layers do anything at all.

use std::{
    fmt,
    str::FromStr,
    sync::atomic::{AtomicU64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

/// What a layer does about contracts; `from_env` of [`DevRouteLayer`](crate::DevRouteLayer::from_env)
/// and [`DevRouteClientLayer`](crate::DevRouteClientLayer::from_env) reads it from `DEVROUTE`.
///
/// ```
/// use devroute_tower::Mode;
///
/// assert_eq!("carry".parse(), Ok(Mode::Carry));
/// assert_eq!(Mode::default(), Mode::Off);
/// assert!("yes".parse::<Mode>().is_err());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Mode {
    /// Nothing: the service behaves as if the layer were not there. An image that reaches
    /// production opens no connection because of a header.
    #[default]
    Off,
    /// The contract is carried on to outgoing requests, but never obeyed.
    Carry,
    /// The contract is carried on, and requests are rerouted.
    On,
}

/// The text is none of `off`, `carry` and `on`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseModeError(());

impl fmt::Display for ParseModeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected off, carry or on")
    }
}

impl std::error::Error for ParseModeError {}

impl FromStr for Mode {
    type Err = ParseModeError;

    fn from_str(text: &str) -> Result<Self, ParseModeError> {
        match text {
            "off" => Ok(Self::Off),
            "carry" => Ok(Self::Carry),
            "on" => Ok(Self::On),
            _ => Err(ParseModeError(())),
        }
    }
}

impl Mode {
    /// What `DEVROUTE` says. A value that is none of the modes is off, and an error in the log: a
    /// typing mistake must not switch on what can open connections.
    pub(crate) fn from_env() -> Self {
        let Some(value) = std::env::var_os("DEVROUTE") else {
            return Self::Off;
        };
        value
            .to_str()
            .unwrap_or_default()
            .trim()
            .parse()
            .unwrap_or_else(|error: ParseModeError| {
                tracing::error!(%error, ?value, "DEVROUTE is not understood; devroute stays off");
                Self::Off
            })
    }
}

/// Lets one log line through a minute, so that callers cannot flood the log.
#[derive(Debug, Default)]
pub(crate) struct OncePerMinute(AtomicU64);

impl OncePerMinute {
    pub(crate) fn is_due(&self) -> bool {
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        // The first minute of the epoch is long over, so zero means never.
        let now = since_epoch.as_secs() / 60;
        let last = self.0.load(Ordering::Relaxed);
        last != now
            && self
                .0
                .compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }
}
