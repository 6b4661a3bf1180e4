//! The configuration file: flat TOML, one key a setting.
//!
//! ```toml
//! listen = "0.0.0.0:8080"
//! allow = ["cgnat", "10.20.0.0/16:8000-8999"]
//! workers = 4
//! ```
//!
//! Refused: keys that are no setting, tables, dates, floats, and an array where one value belongs.
//! Only the shape is checked here, with the line it is on; what a value means is parsed where the
//! flags are.

use std::ops::Range;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::ConfigError;
use super::settings::{Known, Source, Value};

/// Reads `text`, the content of the file at `path`, as values of `known` settings.
///
/// # Errors
///
/// When it is not TOML, or holds something a file may not hold; the error names the line.
pub(crate) fn parse(
    path: &Path,
    text: &str,
    known: &[Known],
) -> Result<Vec<(String, Vec<Value>)>, ConfigError> {
    let file = File {
        path: path.display().to_string(),
        text,
    };
    let table = DeTable::parse(text).map_err(|error| {
        let line = file.line(&error.span().unwrap_or_default());
        ConfigError::new(format!("{}: {}, line {line}", file.path, error.message()))
    })?;

    let mut settings = Vec::new();
    for (key, value) in table.get_ref() {
        let name = key.get_ref().as_ref();
        let source = file.source(name, &key.span());
        let Some(setting) = known.iter().find(|setting| setting.name == name) else {
            return Err(source.error(unknown(name, known)));
        };
        let values = match value.get_ref() {
            DeValue::Array(array) if setting.repeatable => array
                .iter()
                .map(|element| {
                    let source = file.source(name, &element.span());
                    scalar(element.get_ref(), source)
                })
                .collect::<Result<_, _>>()?,
            DeValue::Array(_) => return Err(source.error("takes one value, not an array")),
            value if setting.repeatable => vec![scalar(value, source)?],
            value => vec![scalar(value, source)?],
        };
        settings.push((name.to_owned(), values));
    }
    Ok(settings)
}

struct File<'a> {
    path: String,
    text: &'a str,
}

impl File<'_> {
    fn source(&self, setting: &str, span: &Range<usize>) -> Source {
        Source::File {
            path: self.path.clone(),
            setting: setting.to_owned(),
            line: self.line(span),
        }
    }

    /// The line that `span` begins on, counted from 1.
    fn line(&self, span: &Range<usize>) -> usize {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        before.bytes().filter(|&byte| byte == b'\n').count() + 1
    }
}

/// The text of a value, as a flag would have given it.
fn scalar(value: &DeValue<'_>, source: Source) -> Result<Value, ConfigError> {
    let text = match value {
        DeValue::String(text) => text.clone().into_owned(),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_err(|error| source.error(error))?
            .to_string(),
        DeValue::Boolean(boolean) => boolean.to_string(),
        other => {
            return Err(source.error(format_args!("must be a string, not a {}", other.type_str())));
        }
    };
    Ok(Value { text, source })
}

fn unknown(name: &str, known: &[Known]) -> String {
    let likely = known
        .iter()
        .map(|setting| (distance(name, &setting.name), &setting.name))
        .filter(|(distance, _)| *distance <= 3)
        .min();
    match likely {
        Some((_, likely)) => format!("is not a setting (did you mean `{likely}`?)"),
        None => {
            let names: Vec<&str> = known.iter().map(|setting| &*setting.name).collect();
            format!("is not a setting; settings are {}", names.join(", "))
        }
    }
}

/// How many letters have to be inserted, removed or replaced (Levenshtein), `-` and `_` being one.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, letter) in left.chars().enumerate() {
        let mut diagonal = index;
        let mut previous = index + 1;
        let mut next = vec![previous];
        for (other, &above) in right.iter().zip(row.iter().skip(1)) {
            let same = letter == *other || (letter == '_' && *other == '-');
            let cost = if same {
                diagonal
            } else {
                diagonal.min(above).min(previous) + 1
            };
            diagonal = above;
            previous = cost;
            next.push(cost);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Vec<Known> {
        [
            ("allow", true),
            ("connect-timeout", false),
            ("listen", false),
            ("workers", false),
        ]
        .map(|(name, repeatable)| Known {
            name: name.to_owned(),
            repeatable,
        })
        .into()
    }

    fn texts(file: &str) -> Vec<(String, Vec<String>)> {
        let parsed = parse(Path::new("devroute.toml"), file, &known()).unwrap();
        parsed
            .into_iter()
            .map(|(name, values)| (name, values.into_iter().map(|value| value.text).collect()))
            .collect()
    }

    fn error(file: &str) -> String {
        parse(Path::new("devroute.toml"), file, &known())
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn values_become_the_text_a_flag_would_have_had() {
        let file = "listen = '127.0.0.1:1'\nworkers = 1_0\nallow = ['cgnat', '10.0.0.0/8']";
        assert_eq!(
            texts(file),
            [
                (
                    "allow".to_owned(),
                    vec!["cgnat".to_owned(), "10.0.0.0/8".to_owned()]
                ),
                ("listen".to_owned(), vec!["127.0.0.1:1".to_owned()]),
                ("workers".to_owned(), vec!["10".to_owned()]),
            ]
        );
        assert_eq!(texts("allow = 'cgnat'")[0].1, ["cgnat"]);
    }

    #[test]
    fn an_error_names_the_line() {
        assert_eq!(
            error("# a comment\n\nlisten = ['127.0.0.1:1']"),
            "devroute.toml: listen: takes one value, not an array, line 3"
        );
        assert_eq!(
            error("allow = [\n  'cgnat',\n  1.5,\n]"),
            "devroute.toml: allow: must be a string, not a float, line 3"
        );
        let error = error("listen = '127.0.0.1:1'\nworkers = = 3");
        assert!(
            error.ends_with(", line 2") && error.starts_with("devroute.toml: "),
            "{error}"
        );
    }

    #[test]
    fn an_unknown_key_suggests_the_known_one() {
        assert_eq!(
            error("conect_timeout = '1s'"),
            "devroute.toml: conect_timeout: is not a setting (did you mean `connect-timeout`?), line 1"
        );
        assert!(error("[tables]\nlisten = 'x'").contains("settings are allow, connect-timeout"));
    }
}
