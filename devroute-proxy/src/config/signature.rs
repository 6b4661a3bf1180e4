//! The settings of signatures: whose contracts are obeyed.

use std::path::Path;

use clap::Args;

use super::{ConfigError, Settings, value};
use crate::authorized::AuthorizedFile;

/// Whose contracts are obeyed.
#[derive(Args, Debug)]
#[command(next_help_heading = "Signatures")]
#[non_exhaustive]
#[allow(
    missing_docs,
    reason = "a field is a setting; its help text is its documentation"
)]
pub struct SignatureArgs {
    /// Refuse contracts that are not signed with a key in this file (authorized_keys of OpenSSH, keys
    /// of the type ssh-ed25519); it is read again when it changes
    #[arg(long, env = "DEVROUTE_AUTHORIZED_KEYS", value_name = "FILE")]
    pub authorized_keys: Option<String>,
    /// Refuse signed contracts that are good for longer than this from now on, up to 30d
    /// [default: 24h]
    #[arg(long, env = "DEVROUTE_MAX_EXPIRES", value_name = "TIME")]
    pub max_expires: Option<String>,
}

/// The keys that are configured, if any are.
///
/// # Errors
///
/// When the file cannot be read, or a time is wrong or set without a file.
pub fn signatures(settings: &Settings) -> Result<Option<AuthorizedFile>, ConfigError> {
    let file = settings.one("authorized-keys", |path| {
        AuthorizedFile::load(Path::new(path)).map_err(|error| error.to_string())
    })?;
    let longest = settings.one("max-expires", |text| match &file {
        Some(_) => value::lifetime(text),
        None => Err("is for signed contracts: give their keys with --authorized-keys".to_owned()),
    })?;
    Ok(match (file, longest) {
        (Some(file), Some(longest)) => Some(file.max_lifetime(longest)),
        (file, _) => file,
    })
}
