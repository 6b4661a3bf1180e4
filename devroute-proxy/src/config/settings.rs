//! Settings as text, each with the place it came from.
//!
//! Flags, environment and file are merged here, in that order of precedence, before anything is
//! parsed: the first place that gives a setting gives all of it (a list in a flag does not add to
//! the list in the file). What a value means is asked for afterwards, with [`Settings::one`] and
//! [`Settings::many`], so that a wrong value can name its source.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Command};

use super::{ConfigError, file};

/// Where a value was given.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Source {
    /// A flag of the command line, by its long name.
    Flag(String),
    /// An environment variable.
    Variable(String),
    /// The configuration file.
    File {
        path: String,
        setting: String,
        line: usize,
    },
    /// Nowhere, and it has no default.
    Missing(String),
}

impl Source {
    /// The error that says `message` about this place.
    pub(crate) fn error(&self, message: impl fmt::Display) -> ConfigError {
        ConfigError::new(match self {
            Self::Flag(name) => format!("--{name}: {message}"),
            Self::Variable(name) => format!("{name}: {message}"),
            Self::File {
                path,
                setting,
                line,
            } => {
                format!("{path}: {setting}: {message}, line {line}")
            }
            Self::Missing(name) => format!("--{name}: {message}"),
        })
    }
}

/// One value, not parsed yet.
#[derive(Clone, Debug)]
pub(crate) struct Value {
    pub(crate) text: String,
    pub(crate) source: Source,
}

/// Everything that was given, by setting.
#[derive(Debug, Default)]
pub struct Settings {
    given: BTreeMap<String, Vec<Value>>,
}

impl Settings {
    /// Merges what the command line and the environment gave (`matches` of the whole `program`) with
    /// the file they name.
    ///
    /// A key of the file is known when any mode of `program` has it, so that one file can serve
    /// router, sidecars and `explain` alike.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or is not TOML, or when it has a key that is no setting.
    pub fn gather(program: &Command, matches: &ArgMatches) -> Result<Self, ConfigError> {
        let mut settings = Self::default();
        let mode = matches.subcommand().and_then(|(name, matches)| {
            let command = program.find_subcommand(name)?;
            Some((command, matches))
        });
        let Some((command, matches)) = mode else {
            return Ok(settings);
        };
        for argument in command.get_arguments() {
            let (Some(name), Some(variable)) = (argument.get_long(), argument.get_env()) else {
                continue;
            };
            let source = match matches.value_source(argument.get_id().as_str()) {
                Some(ValueSource::CommandLine) => Source::Flag(name.to_owned()),
                Some(ValueSource::EnvVariable) => {
                    Source::Variable(variable.to_string_lossy().into_owned())
                }
                _ => continue,
            };
            let Ok(Some(texts)) = matches.try_get_many::<String>(argument.get_id().as_str()) else {
                continue;
            };
            let from_environment = matches!(source, Source::Variable(_));
            let values: Vec<Value> = texts
                // Manifests leave variables empty to say "not set".
                .filter(|text| !(from_environment && text.is_empty()))
                .map(|text| Value {
                    text: text.clone(),
                    source: source.clone(),
                })
                .collect();
            if !values.is_empty() {
                settings.given.insert(name.to_owned(), values);
            }
        }

        if let Some(Value { text, source }) = settings.last("config") {
            let path = Path::new(text);
            let text = std::fs::read_to_string(path)
                .map_err(|error| source.error(format_args!("{}: {error}", path.display())))?;
            for (name, values) in file::parse(path, &text, &known(program))? {
                settings.given.entry(name).or_insert(values);
            }
        }
        Ok(settings)
    }

    /// The value of a setting that is given at most once.
    ///
    /// # Errors
    ///
    /// When `parse` refuses it; the error names the source.
    pub(crate) fn one<T>(
        &self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, ConfigError> {
        self.last(name)
            .map(|value| parse(&value.text).map_err(|message| value.source.error(message)))
            .transpose()
    }

    /// The value of a setting that must be given.
    ///
    /// # Errors
    ///
    /// When it is not given, or when `parse` refuses it.
    pub(crate) fn required<T>(
        &self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<T, ConfigError> {
        self.require(&[name])?;
        self.one(name, parse)?
            .ok_or_else(|| ConfigError::new(format!("--{name}: is required")))
    }

    /// Checks that each of these settings is given, so that all that are missing are named at once.
    ///
    /// # Errors
    ///
    /// When one is not.
    pub(crate) fn require(&self, names: &[&str]) -> Result<(), ConfigError> {
        let missing: Vec<&str> = names
            .iter()
            .copied()
            .filter(|name| self.last(name).is_none())
            .collect();
        match missing.as_slice() {
            [] => Ok(()),
            [name] => {
                let variable = format!("DEVROUTE_{}", name.to_uppercase().replace('-', "_"));
                Err(Source::Missing((*name).to_owned()).error(format_args!(
                    "is required (or {variable}, or `{name}` in the configuration file)"
                )))
            }
            [..] => Err(ConfigError::new(format!(
                "--{} are required (or DEVROUTE_* variables, or a configuration file); \
                 --help says what they are",
                missing.join(", --")
            ))),
        }
    }

    /// All values of a setting that can be repeated.
    ///
    /// # Errors
    ///
    /// When `parse` refuses one of them; the error names that one's source.
    pub(crate) fn many<T>(
        &self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Vec<T>, ConfigError> {
        self.given
            .get(name)
            .into_iter()
            .flatten()
            .map(|value| parse(&value.text).map_err(|message| value.source.error(message)))
            .collect()
    }

    fn last(&self, name: &str) -> Option<&Value> {
        self.given.get(name)?.last()
    }
}

/// A setting that a file may hold.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) name: String,
    pub(crate) repeatable: bool,
}

/// The settings of all modes, except the one that names the file.
fn known(program: &Command) -> Vec<Known> {
    let mut known: Vec<Known> = program
        .get_subcommands()
        .flat_map(Command::get_arguments)
        .filter(|argument| argument.get_env().is_some())
        .filter_map(|argument| {
            let name = argument.get_long()?.to_owned();
            let repeatable = matches!(argument.get_action(), ArgAction::Append);
            Some(Known { name, repeatable })
        })
        .filter(|setting| setting.name != "config")
        .collect();
    known.sort_by(|left, right| left.name.cmp(&right.name));
    known.dedup_by(|left, right| left.name == right.name);
    known
}
