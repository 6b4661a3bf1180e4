//! The settings of an entry (rule 20): which contracts may come in, and by which carriers.

use std::sync::Arc;

use clap::Args;
use devroute_tower::core::NetworkRule;

use super::{ConfigError, Settings, value};

/// What comes in from outside.
#[derive(Args, Debug)]
#[command(next_help_heading = "At the entry")]
#[non_exhaustive]
#[allow(
    missing_docs,
    reason = "a field is a setting; its help text is its documentation"
)]
pub struct EntryArgs {
    /// Remove contracts from everything that comes in (at the edge of the organisation), or all but
    /// those that are signed with one of --authorized-keys [default: false]
    #[arg(
        long,
        env = "DEVROUTE_STRIP",
        value_name = "true|unsigned|false",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub strip: Option<String>,
    /// Let contracts in that come from this network, whatever --strip removes: the address of the
    /// connection counts, X-Forwarded-For is not believed (takes commas or repeats)
    #[arg(
        long,
        env = "DEVROUTE_TRUST",
        value_name = "CIDR",
        value_delimiter = ','
    )]
    pub trust: Vec<String>,
    /// Also read contracts from the cookie `devroute`, for browsers, whose WebSocket and EventSource
    /// can set no field [default: false]
    #[arg(
        long,
        env = "DEVROUTE_COOKIE",
        value_name = "true|false",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub cookie: Option<String>,
}

/// Which contracts may come in, and by which carriers.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct EntryConfig {
    /// Which ones are removed.
    pub strip: Strip,
    /// The networks that they are not removed from.
    pub trust: Arc<[NetworkRule]>,
    /// Whether the cookie is a carrier.
    pub cookie: bool,
}

impl EntryConfig {
    /// What the settings say; only who knows keys can tell what is signed.
    pub(super) fn parse(settings: &Settings, has_keys: bool) -> Result<Self, ConfigError> {
        let strip = settings.one("strip", |text| match text {
            "false" => Ok(Strip::Nothing),
            "true" => Ok(Strip::Everything),
            "unsigned" if has_keys => Ok(Strip::Unsigned),
            "unsigned" => Err("`unsigned` needs keys: give them with --authorized-keys".to_owned()),
            _ => Err(format!(
                "{text:?} is neither `true`, `false` nor `unsigned`"
            )),
        })?;
        let strip = strip.unwrap_or_default();
        let trust = settings.many("trust", |text| match value::network(text)? {
            rule if rule.names_port() => {
                Err("a client's port says nothing: give the network alone".to_owned())
            }
            _ if strip == Strip::Nothing => {
                Err("is for what --strip removes: give that too".to_owned())
            }
            rule => Ok(rule),
        })?;
        Ok(Self {
            strip,
            trust: trust.into(),
            cookie: settings.one("cookie", value::boolean)?.unwrap_or(false),
        })
    }
}

/// Which contracts are removed from what comes in (rule 20).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum Strip {
    /// None.
    #[default]
    Nothing,
    /// All of them.
    Everything,
    /// Those that are not well signed.
    Unsigned,
}

impl Strip {
    /// The value that the setting has for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "false",
            Self::Everything => "true",
            Self::Unsigned => "unsigned",
        }
    }
}
